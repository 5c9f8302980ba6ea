"""What every model promises, run over all of them: a new model is found in the registry, and tested as it is."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from suisen.data.batch import Candidates
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.models import MODELS, RANKERS, RETRIEVERS, SECOND_STAGES, contract, model_of, name_of
from suisen.models.contract import Ability, CatalogueScorer, Net, Ranker, Retriever, network_of
from suisen.recommending.engine import recommendable
from suisen.recommending.scorers import NetScorer
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.models.toys import (
    EVEN_NEW,
    EVEN_TWIN,
    ODD_NEW,
    N,
    all_scores,
    asked,
    bound,
    checkerboard,
    dense_item,
    dense_user,
    everything,
    shelves,
    without_history,
)

USUAL = {"dim": 8, "hidden": (16, 8), "batch_size": 64, "learning_rate": 0.02, "epochs": 25}
"""Of every model that has hyper-parameters of these names: small, and enough for the small data."""
SMALL: dict[str, dict[str, Any]] = {
    "ease": {"l2": 1.0},
    "ials": {"epochs": 10},
    "item-knn": {"neighbours": 20, "shrinkage": 1.0},
    "neumf": {"gmf_dim": 8, "mlp_dim": 8},
    "two-tower": {"hidden": (16,), "learning_rate": 0.01},
    "sasrec": {"dim": 16, "length": N, "batch_size": 8, "learning_rate": 0.01},
    "gru4rec": {"dim": 16, "length": N, "batch_size": 8, "learning_rate": 0.01},
    "bert4rec": {
        "dim": 16, "length": N, "batch_size": 8, "learning_rate": 0.005, "epochs": 60, "mask": 0.5, "last": 0.6,
    },
    "fm": {"dim": 4, "epochs": 15},
    "deepfm": {"dim": 4, "epochs": 15},
    "din": {"dim": 4, "attention": 6, "epochs": 15},
    "wide-deep": {"crosses": (("user", "item"), ("history", "item")), "dim": 4, "epochs": 15},
    "dnn": {"hidden": (32, 16)},
    "ffm": {"dim": 4, "epochs": 15},
    "dcn-v2": {"dim": 4, "epochs": 15},
    "lambdamart": {"min_leaf": 1, "l2": 0.01, "columns": 1.0, "negatives": 20, "learning_rate": 0.2, "epochs": 10},
}  # fmt: skip
"""Where a model's are others."""
IMPERSONAL = {"popularity"}
"""Kinds that recommend the same to everybody: nobody's own answer is asked of them."""
RIGHT = 0.9
"""Share of users whose only right item must come first."""


@dataclass(frozen=True)
class Case:
    name: str
    model: Any
    net: Any

    @property
    def abilities(self):
        return self.model.abilities


def small(name: str, **hyper: Any) -> Any:
    """The model of that name, small."""
    usual = {field.name: USUAL[field.name] for field in fields(MODELS[name]) if field.name in USUAL}
    return model_of(name, **{**usual, **SMALL.get(name, {}), **hyper})


def fitted(name: str, data=None, seed: int = 0, **hyper) -> Any:
    model = small(name, **hyper)
    return fit(model, data or checkerboard(), options=RunOptions(seed=seed))[0]


@pytest.fixture(scope="module", params=list(MODELS))
def case(request) -> Case:
    return Case(request.param, small(request.param), fitted(request.param))


@pytest.fixture
def data():
    return checkerboard()


def scorer(case: Case, data) -> NetScorer:
    return NetScorer(case.net, recommendable(case.model, data.trained_items))


def share_right(case: Case, data, contexts) -> float:
    """Share of users whose best unseen item of those in train is their own: raw user u, the u-th to appear, lacks u."""
    ids, _ = NetScorer(case.net, data.trained_items).rank(contexts, 1, contexts.history)
    return float((ids[:, 0] == dense_item(data, range(N))).float().mean())


def weights(net: Net) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# -- what is declared ------------------------------------------------------------------------------------------------


def test_the_tables_name_what_there_is():
    assert set(SMALL) <= set(MODELS) == set(RETRIEVERS) | set(RANKERS)


def test_names_lead_back(case):
    assert name_of(case.model) == case.name
    kind = CatalogueScorer if case.name in RETRIEVERS else Ranker
    assert isinstance(case.net, kind)


def test_abilities_are_known_words(case):
    assert case.abilities <= set(get_args(Ability))


def test_reads_what_it_declares_and_nothing_else(case, data):
    contexts = asked(data)
    turned = torch.arange(len(contexts)).roll(1)  # what belongs to a user of the other parity
    others = contexts.take(turned)
    changes = {
        "history": replace(contexts, history=others.history, history_time=others.history_time),
        "features": replace(contexts, user_features=others.user_features),
        "time": replace(contexts, time=contexts.time + 10**12, history_time=contexts.history_time + 10**10),
    }
    before = all_scores(case.net, contexts)
    for part, changed in changes.items():  # times are no ability: no model reads them when it answers
        moved = not torch.equal(before, all_scores(case.net, changed))
        assert moved == (part in case.abilities), part


# -- what is recommended ---------------------------------------------------------------------------------------------


def test_known_answers(case, data):
    contexts = asked(data)
    if case.name in IMPERSONAL:
        ids, _ = scorer(case, data).rank(contexts, 1, contexts.history)
        counts = data.item_counts.expand(len(contexts), -1).clone()
        counts[contexts.history.rows(), contexts.history.values] = -1
        assert torch.equal(counts.gather(1, ids)[:, 0], counts.amax(1))
        return
    assert share_right(case, data, contexts) >= RIGHT


def test_learns_a_small_set_by_heart(case):
    """Each event's own question, once seen: what was taken stands above all that the user never took."""
    if case.name in IMPERSONAL:
        pytest.skip("recommends the same to everybody")
    data = shelves()
    wanted = {"epochs": 100, "batch_size": 6, "dropout": 0.0, "hide_ids": 0.0}
    net = fitted(case.name, data, **{name: value for name, value in wanted.items() if hasattr(case.model, name)})
    rows = (data.positives_before > data.histories.offsets[data.events.visitor]).nonzero().squeeze(1)
    scores = all_scores(net, data.contexts(rows, history=10))
    taken = scores.gather(1, data.events.item[rows, None])
    own = data.histories.take(data.user[rows])
    scores[own.rows(), own.values] = -torch.inf
    scores[:, 0] = -torch.inf
    assert (taken[:, 0] > scores.amax(1)).all()


def test_batch_is_one_by_one(case, data):
    contexts = asked(data)
    together = all_scores(case.net, contexts)
    for row in (0, 7, len(contexts) - 1):
        alone = all_scores(case.net, contexts.take(torch.tensor([row])))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_order_of_the_batch_does_not_matter(case, data):
    contexts = asked(data)
    turned = torch.arange(len(contexts)).flip(0)
    torch.testing.assert_close(
        all_scores(case.net, contexts.take(turned)), all_scores(case.net, contexts)[turned], rtol=1e-4, atol=1e-5
    )


def test_saved_and_loaded_scores_bit_for_bit(case, data, tmp_path):
    save_file({name: value.contiguous() for name, value in case.net.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = bound(case.model.build(data.schema), data)
    loaded.load_state_dict(load_file(tmp_path / "w.safetensors"))
    contexts = asked(data)
    assert torch.equal(all_scores(loaded.eval(), contexts), all_scores(case.net, contexts))


def test_same_seed_same_weights(case):
    assert same(weights(fitted(case.name)), weights(case.net))


def test_fitting_leaves_nothing_behind(case):
    model = case.model
    fit(model, shelves(), options=RunOptions())
    state = torch.get_rng_state()
    again, _ = fit(model, checkerboard(), options=RunOptions())
    assert same(weights(again), weights(case.net))
    assert torch.equal(torch.get_rng_state(), state)  # nor are the caller's random numbers touched


def test_other_seed_other_weights_unless_closed_form(case):
    closed_form = not case.model.phases(case.net)
    short = {} if closed_form else {"epochs": 1}
    assert same(weights(fitted(case.name, seed=1, **short)), weights(fitted(case.name, **short))) == closed_form


def test_evaluation_is_deterministic(case, data):
    assert not case.net.training
    contexts = asked(data)
    assert torch.equal(all_scores(case.net, contexts), all_scores(case.net, contexts))


# -- hard questions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unknown user", "no history", "history only", "nothing at all", "no events"])
def test_any_context_gets_finite_scores(case, data, kind):
    contexts = asked(data).take(torch.arange(4))
    nobody = torch.zeros(4, dtype=torch.int64)
    strange = {
        "unknown user": replace(contexts, user=nobody, user_features=data.user_features.take(nobody)),
        "no history": without_history(contexts),
        "history only": replace(contexts, user=nobody, user_features=data.user_features.take(nobody)),
        "nothing at all": without_history(asked(data, nobody)),
        "no events": asked(data, dense_user(data, [N] * 4)),
    }[kind]
    with torch.no_grad():
        scores = case.net.score(strange, everything(4, data.schema.n_items))
    assert scores.shape == (4, data.schema.n_items)
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    ids, _ = scorer(case, data).rank(strange, 3, strange.history)
    assert (ids > 0).all()


def test_some_with_history_some_without(case, data):
    contexts = asked(data).take(torch.arange(4))
    first = contexts.history.take(torch.tensor([0])).values
    mixed = replace(contexts, history=Ragged(first, torch.tensor([0, 0, len(first), len(first), len(first)])))
    mixed = replace(mixed, history_time=torch.zeros(len(first), dtype=torch.int64))
    together = all_scores(case.net, mixed)
    for row in range(4):
        alone = all_scores(case.net, mixed.take(torch.tensor([row])))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_no_candidates_no_contexts(case, data):
    contexts = asked(data).take(torch.arange(3))
    none = Candidates(torch.zeros((3, 0), dtype=torch.int64))
    empty = contexts.take(torch.zeros(0, dtype=torch.int64))
    with torch.no_grad():
        assert case.net.score(contexts, none).shape == (3, 0)
        assert case.net.score(empty, Candidates(torch.zeros((0, 5), dtype=torch.int64))).shape == (0, 5)
    assert all_scores(case.net, empty).shape == (0, data.schema.n_items)


def test_new_user_with_a_history_is_understood(case):
    if "history" not in case.abilities:
        pytest.skip("reads no history")
    data = checkerboard(tables=False)  # so that nothing but the history can tell
    stranger = replace(case, net=fitted(case.name, data))
    contexts = asked(data)
    assert share_right(stranger, data, replace(contexts, user=torch.zeros_like(contexts.user))) >= RIGHT


@pytest.mark.parametrize("who", ["item", "user"])
def test_without_an_item_or_a_user(case, data, who):
    gone = dense_item(data, [4])[0] if who == "item" else dense_user(data, [4])[0]
    part = data.keep(data.events.item != gone if who == "item" else data.user != gone)
    short = {"epochs": 2} if hasattr(case.model, "epochs") else {}
    net = fitted(case.name, part, **short)
    contexts = asked(data)
    rest = NetScorer(net, recommendable(case.model, part.trained_items))
    ids, scores = rest.rank(contexts, data.schema.n_items, Ragged.empty(len(contexts)))
    assert all_scores(net, contexts).isfinite().all()
    assert (ids > 0).any(1).all()
    if who == "item":
        assert (ids == gone).any() == ("new items" in case.abilities)
    assert (scores[ids > 0].isfinite()).all()


def test_new_items(case, data):
    twins, other = dense_item(data, [EVEN_TWIN, EVEN_NEW]), dense_item(data, [ODD_NEW])
    contexts = asked(data)
    if "new items" not in case.abilities:
        assert not recommendable(case.model, data.trained_items)[torch.cat([twins, other])].any()
        return
    scores = all_scores(case.net, contexts)
    assert scores[:, twins].isfinite().all()
    # equal features, equal scores, but for the rounding of a product's other columns
    torch.testing.assert_close(scores[:, twins[0]], scores[:, twins[1]], rtol=1e-5, atol=1e-5)
    even = (contexts.user - 1) % 2 == 0  # raw users appear in order
    likes_even = scores[:, twins[0]] > scores[:, other[0]]
    assert (likes_even == even).float().mean() >= RIGHT


def test_row_zero_never_wins(case, data):
    contexts = asked(data)
    ids, _ = scorer(case, data).rank(contexts, data.schema.n_items, contexts.history)
    allowed = recommendable(case.model, data.trained_items).sum() - contexts.history.lengths
    assert torch.equal((ids > 0).sum(1), allowed)  # what is left, each once; then nothing
    assert all(len(set(row[row > 0].tolist())) == (row > 0).sum() for row in ids)


def test_row_zero_of_id_tables_stays_zero(case):
    for module in case.net.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx == 0:
            assert not module.weight[0].any()


# -- the two contracts -----------------------------------------------------------------------------------------------


def test_score_is_the_column_of_all_scores(case, data):
    contexts = asked(data)
    items = torch.randint(1, data.schema.n_items, (len(contexts), 5), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        some = case.net.score(contexts, Candidates(items))
    torch.testing.assert_close(some, all_scores(case.net, contexts).gather(1, items), rtol=1e-4, atol=1e-5)


def test_retrievers_score_by_inner_products(case, data):
    if not isinstance(case.net, Retriever):
        pytest.skip("no retriever")
    contexts = asked(data)
    with torch.no_grad():
        queries, vectors = case.net.query_vectors(contexts), case.net.item_vectors()
        assert vectors.shape == (data.schema.n_items, queries.shape[1])
        assert queries.dtype == vectors.dtype == torch.float32
        products = case.net.score(contexts, everything(len(contexts), data.schema.n_items))
    torch.testing.assert_close(products, queries @ vectors.T, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_prepared_scores_are_the_scores(case, data):
    net, contexts, n = case.net, asked(data), data.schema.n_items
    state, items = net.prepare_contexts(contexts), net.prepare_items()
    ids = torch.randint(1, n, (len(contexts), 5), generator=torch.Generator().manual_seed(0))
    whole = all_scores(net, contexts)
    torch.testing.assert_close(net.score_prepared(state, items, ids), whole.gather(1, ids), rtol=1e-4, atol=1e-5)
    for lo, hi in ((0, n), (3, 9), (n - 1, n)):
        tile = net.score_tile(state, items, lo, hi)
        torch.testing.assert_close(tile, whole[:, lo:hi], rtol=1e-4, atol=1e-5)
        tile.fill_(0)  # the caller's own: what was prepared is not touched
    torch.testing.assert_close(net.score_tile(state, items, 0, n), whole, rtol=1e-4, atol=1e-5)
    assert net.bytes_per_score(items) >= 4


def test_states_of_a_catalogue_are_made_in_chunks(case, data, monkeypatch):
    if not isinstance(case.net, Ranker):
        pytest.skip("no ranker")
    with torch.no_grad():
        whole = case.net.prepare_items()
        monkeypatch.setattr(contract, "ITEMS_PER_CHUNK", 5)
        torch.testing.assert_close(case.net.prepare_items(), whole, rtol=1e-5, atol=1e-6)


def test_what_scores_nothing_says_so(data):
    net = bound(Net(), data)
    nobody = torch.zeros((1, 1))
    for wrong in (
        lambda: net.prepare_contexts(asked(data)),
        lambda: net.score_prepared(nobody, None, nobody.long()),
        lambda: net.score_tile(nobody, None, 0, 1),
        net.similarity_vectors,
        lambda: Retriever().score_tile(nobody, None, 0, 1),
    ):
        with pytest.raises(TypeError):
            wrong()


def test_the_network_is_known_without_building_it():
    assert network_of(MODELS["fm"]).__name__ == "FMNet"
    for name, cls in MODELS.items():
        assert issubclass(network_of(cls), CatalogueScorer if name in RETRIEVERS else Ranker)

    class Silent:
        def build(self, schema) -> int:
            return 0

    with pytest.raises(TypeError, match=r"Silent\.build must say which network it returns, like -> SilentNet"):
        network_of(Silent)


def test_a_second_stage_is_a_ranker_or_a_retriever_whose_order_is_personal():
    assert list(SECOND_STAGES)[: len(RANKERS)] == list(RANKERS)
    assert set(MODELS) - set(SECOND_STAGES) == {"ease", "item-knn", "popularity"}


def test_rankers_compose_their_states(case, data):
    if not isinstance(case.net, Ranker):
        pytest.skip("no ranker")
    net, contexts = case.net, asked(data).take(torch.arange(5))
    items = torch.tensor([[1, 2, 2, 9]]).repeat(5, 1)
    with torch.no_grad():
        context, shared = net.context_state(contexts), net.item_state(items[0])
        unique = net.score(contexts, Candidates(items))
        direct = net.combine(context, net.item_state(items.flatten()).view(5, 4, -1), None)
        one = net.combine(context, shared[None], None)  # the same list for all: states (1, C, s)
    torch.testing.assert_close(unique, direct, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one, direct, rtol=1e-4, atol=1e-5)
    assert torch.equal(unique[:, 1], unique[:, 2])


def test_rankers_read_pair_features(case, data):
    if not isinstance(case.net, Ranker):
        pytest.skip("no ranker")
    torch.manual_seed(0)
    net = bound(case.model.build(replace(data.schema, pair=("a", "b"))), data).eval()
    if not list(net.parameters()):
        pytest.skip("reads nothing before it has learnt")
    contexts, items = asked(data).take(torch.arange(3)), torch.tensor([[1, 1, 1]] * 3)
    pair = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).expand(3, 3, 2)
    with torch.no_grad():
        scores = net.score(contexts, Candidates(items, pair))
    assert len({round(value, 7) for value in scores[0].tolist()}) == 3
    assert scores.isfinite().all()


# -- hyper-parameters ------------------------------------------------------------------------------------------------


def bounds_of(name: str) -> list[tuple[str, dict[str, Any]]]:
    schema = TypeAdapter(MODELS[name]).json_schema()
    return list(schema.get("properties", {}).items())


@pytest.mark.parametrize("name", list(MODELS))
def test_each_hyper_parameter_is_described_and_bounded(name):
    for field, facts in bounds_of(name):
        assert facts.get("description", "").endswith("."), field
        assert "default" in facts, field
        if facts.get("type") in ("integer", "number"):
            assert {"minimum", "exclusiveMinimum"} & facts.keys(), field


@pytest.mark.parametrize("name", list(MODELS))
def test_what_is_out_of_bounds_is_refused_by_name(name):
    kind = MODELS[name]
    for field, facts in bounds_of(name):
        wrong: list[Any] = ["nonsense"]
        if "minimum" in facts:
            wrong.append(facts["minimum"] - 1)
        if "exclusiveMinimum" in facts:
            wrong.append(facts["exclusiveMinimum"])
        if "maximum" in facts:
            wrong.append(facts["maximum"] + 1)
        if "exclusiveMaximum" in facts:
            wrong.append(facts["exclusiveMaximum"])
        for value in wrong:
            with pytest.raises(InputError, match=rf"^{kind.__name__}: {field} = {value!r} "):
                kind(**{field: value})


@pytest.mark.parametrize("name", list(MODELS))
def test_unknown_names_are_refused(name):
    known = [field for field, _ in bounds_of(name)]
    mend = "did you mean" if known else "known: none"
    with pytest.raises(InputError, match=f"is unknown; {mend}"):
        MODELS[name](**{(known or ["dim"])[0] + "x": 1})
    with pytest.raises(InputError, match=r"by name, like"):
        MODELS[name](3)


@pytest.mark.parametrize("name", list(MODELS))
def test_hyper_parameters_are_frozen_values(name):
    model = small(name)
    assert model == small(name)
    assert hash(model) == hash(small(name))
    for field in fields(model):
        with pytest.raises(AttributeError):
            setattr(model, field.name, getattr(model, field.name))
    assert inspect.getdoc(type(model))


def test_unknown_model():
    with pytest.raises(InputError, match=r"model = 'sasrecc' is unknown; did you mean 'sasrec'"):
        model_of("sasrecc")
    with pytest.raises(InputError, match="model = 'int' is unknown"):
        name_of(3)
