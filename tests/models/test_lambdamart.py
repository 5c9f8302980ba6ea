"""LambdaMART: its columns by hand, its trees against a walk through LightGBM's own dump, and what files may hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import suisen as su
from suisen.data.batch import Batch, Candidates, Field, Schema
from suisen.data.dataset import Lists
from suisen.data.views import Rows
from suisen.errors import InputError, MissingExtra
from suisen.models import LambdaMART, lambdamart
from suisen.models.contract import ItemTable
from suisen.models.lambdamart import COUNT, MOST_CODES, Side, _Examples, _list_loss
from suisen.models.losses import softmax_lists
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.fitted import small_split
from tests.models.test_fm import SCHEMA, features, rich_question
from tests.models.toys import asked, checkerboard

PAIR = ("a", "b")
SMALL = {"min_leaf": 2, "trees": 3, "epochs": 2, "leaves": 5}


def lists_of(data, rows: int = 60, width: int = 6, seed: int = 0) -> Lists:
    """Lists whose taken item is where the first pair feature is largest; some candidates weigh nothing."""
    rng = torch.Generator().manual_seed(seed)
    items = torch.stack([torch.randperm(data.schema.n_items - 1, generator=rng)[:width] + 1 for _ in range(rows)])
    pair = torch.randn(rows, width, 2, generator=rng)
    best = pair[..., 0].argmax(1, keepdim=True)
    items, pair = (
        torch.cat([part.gather(1, at), part.scatter(1, at, part[:, :1].clone())[:, 1:]], 1)
        for part, at in ((items, best), (pair, best.unsqueeze(2).expand(-1, -1, 2)))
    )
    labels, weights = torch.zeros(rows, width), torch.ones(rows, width)
    labels[:, 0], weights[:, 4] = 1.0, 0.0
    return Lists(data.contexts(torch.arange(rows), 5), Candidates(items, pair), labels, weights)


def learnt(data=None, **hyper):
    """A network that learnt on lists, and what it learnt on."""
    data = data or checkerboard()
    lists = lists_of(data)
    schema = replace(data.schema, pair=PAIR)
    model = LambdaMART(**{**SMALL, **hyper})
    net, curves = fit(model, replace(data, lists=lists), options=RunOptions(), schema=schema)
    return net, lists, curves


# -- columns -----------------------------------------------------------------------------------------------------------


def test_columns_of_a_side_by_hand():
    fields = SCHEMA["user"]
    made = features(fields, 7, 1)
    side = Side("user", fields)
    found = side.columns(made)
    assert side.names == ["user.u", "user.n", *["user.m"] * 5]
    assert side.categorical == 1
    bag = made.multi[0]
    for row in range(7):
        span = slice(int(bag.offsets[row]), int(bag.offsets[row + 1]))
        mass = np.zeros(6)
        for code, weight in zip(bag.values[span].tolist(), bag.weights[span].tolist()):
            mass[code] += weight * (code > 0)
        wanted = [float(made.categorical[row, 0]), float(made.numeric[row, 0]), *(mass[1:] / max(mass.sum(), 1e-12))]
        assert found[row].tolist() == pytest.approx(wanted, abs=1e-6)


def test_large_bags_are_left_out():
    fields = (Field("m", "multi", MOST_CODES + 1), Field("k", "multi", 3), Field("x", "numeric"))
    made = features((Field("c", "categorical", 3), *fields), 4, 2)
    made = replace(made, categorical=made.categorical[:, :0])
    side = Side("item", fields)
    assert side.names == ["item.x", "item.k", "item.k"]
    assert side.columns(made).shape == (4, 3)
    assert Side("item", ()).columns(replace(made, numeric=made.numeric[:, :0], multi=())).shape == (4, 0)


def test_every_column_stands_where_its_name_says():
    schema = Schema(9, 12, **SCHEMA, item=SCHEMA["user"], pair=PAIR)
    net = LambdaMART().build(schema)
    trained = torch.ones(12, dtype=torch.bool)
    trained[[0, 5]] = False
    table = ItemTable(features(schema.item, 12, 7), trained)
    net.bind(table)
    net.counts.copy_(torch.arange(12.0))
    contexts, items, extra = rich_question(True)
    items[0, 0] = 5
    rows = net._rows(net.context_state(contexts), net.item_state(items.flatten()).view(*items.shape, -1), extra)
    assert rows.shape == (*items.shape, len(net.names))
    assert rows.dtype == torch.float32
    column = lambda name: rows[..., net.names.index(name)]  # noqa: E731
    assert torch.equal(column("user")[:, 0].long(), contexts.user)
    assert torch.equal(column("item").long(), torch.where(items == 5, 0, items))
    torch.testing.assert_close(column(COUNT), items.float().log1p())
    assert torch.equal(column("item.u").long(), table.features.categorical[items, 0])
    torch.testing.assert_close(column("item.n"), table.features.numeric[items, 0])
    assert torch.equal(column("user.u")[:, 0].long(), contexts.user_features.categorical[:, 0])
    assert torch.equal(column("context.c")[:, 0].long(), contexts.context_features.categorical[:, 0])
    torch.testing.assert_close(column("context.x")[:, 0], contexts.context_features.numeric[:, 0])
    torch.testing.assert_close(column("b"), extra[..., 1].float())
    codes = {"user", "item", "user.u", "item.u", "context.c"}
    assert {net.names[at] for at in net.codes} == codes
    assert len(net.codes) == len(codes)


def test_a_count_says_nothing_of_the_label():
    """The same of an item wherever it stands; less the event that is asked about, it would tell what was taken."""
    data = checkerboard()
    net = LambdaMART().build(data.schema)
    net.bind(ItemTable(data.item_features, data.trained_items))
    net.prepare(data)
    made = _Examples()
    for batch in Rows(negatives=3).open(data).batches(torch.Generator().manual_seed(0)):
        made.add(net, batch)
    rows = np.concatenate(made.rows)
    items = torch.from_numpy(rows[:, net.names.index("item")]).long()
    counted = torch.from_numpy(rows[:, net.names.index(COUNT)]).expm1().round()
    assert torch.equal(counted, data.item_counts[items].float())
    assert torch.cat(made.sizes).sum() == len(rows)


def test_what_weighs_nothing_is_not_learnt_from_and_lists_weigh_what_was_taken_does():
    data = checkerboard()
    lists = lists_of(data, rows=3)
    lists.weights[:, 0] = torch.tensor([2.0, 0.0, 5.0])
    net = LambdaMART().build(replace(data.schema, pair=PAIR))
    net.bind(ItemTable(data.item_features, data.trained_items))
    made = _Examples()
    made.add(net, Batch(lists.contexts, lists.candidates, lists.labels, lists.weights))
    assert torch.cat(made.sizes).tolist() == [5, 0, 5]
    assert torch.cat(made.weights).tolist() == [2.0] * 5 + [5.0] * 5
    assert torch.cat(made.labels).tolist() == [1, 0, 0, 0, 0] * 2
    nothing = _Examples()
    nothing.add(net, Batch(lists.contexts, lists.candidates, lists.labels, torch.zeros_like(lists.weights)))
    with pytest.raises(InputError, match="no list of train holds a taken item that weighs something"):
        nothing.booster(LambdaMART(), net.codes, 0)


# -- trees -------------------------------------------------------------------------------------------------------------


def walk(node: dict, row: np.ndarray) -> float:
    """The value of the leaf that a row falls into, by LightGBM's dump."""
    while "leaf_value" not in node:
        value = float(row[node["split_feature"]])
        if node["decision_type"] == "==":
            left = str(int(value)) in node["threshold"].split("||")
        else:
            left = value <= node["threshold"]
        node = node["left_child" if left else "right_child"]
    return node["leaf_value"]


def test_a_score_is_the_sum_of_the_leaves_that_a_pair_falls_into():
    net, lists, _ = learnt()
    pair = lists.candidates.pair
    rows = net._rows(
        net.context_state(lists.contexts), net.item_state(lists.candidates.items.flatten()).view(60, 6, -1), pair
    )
    trees = net.booster.dump_model()["tree_info"][: int(net.rounds)]
    assert len(trees) == int(net.rounds) == 6
    scores = net.score(lists.contexts, lists.candidates)
    for b, c in ((0, 0), (3, 2), (17, 5), (59, 1)):
        wanted = sum(walk(tree["tree_structure"], rows[b, c].numpy()) for tree in trees)
        assert float(scores[b, c]) == pytest.approx(wanted, rel=1e-5, abs=1e-6)
    assert float(scores.std()) > 0


def test_it_learns_what_decides_and_reads_the_pair():
    net, _, curves = learnt(trees=20, epochs=4, columns=1.0, learning_rate=0.2)
    losses = [row.loss for row in curves[0].rows]
    assert losses == sorted(losses, reverse=True)
    fresh = lists_of(checkerboard(), seed=9)
    scores = net.score(fresh.contexts, fresh.candidates)
    assert float((scores.argmax(1) == 0).float().mean()) > 0.8  # by chance 1/6
    bare = net.score(fresh.contexts, Candidates(fresh.candidates.items))
    zeros = net.score(fresh.contexts, Candidates(fresh.candidates.items, torch.zeros_like(fresh.candidates.pair)))
    assert torch.equal(bare, zeros)
    assert not torch.equal(bare, scores)


def test_its_loss_is_the_softmax_over_what_it_learns_on():
    net, lists, curves = learnt()
    made = _Examples()
    made.add(net, Batch(lists.contexts, lists.candidates, lists.labels, lists.weights))
    scores = torch.from_numpy(net.booster.predict(np.concatenate(made.rows), raw_score=True)).view(60, 5)
    labels = torch.zeros(60, 5)
    labels[:, 0] = 1.0
    assert curves[0].rows[-1].loss == pytest.approx(float(softmax_lists(scores, labels)), rel=1e-5)


def test_list_loss_by_hand():
    class Held:
        get_label = staticmethod(lambda: np.array([1, 0, 0, 1, 1, 0], dtype=np.float32))
        get_weight = staticmethod(lambda: np.array([2, 2, 2, 1, 1, 1], dtype=np.float32))
        get_group = staticmethod(lambda: np.array([3, 3]))

    scores = np.array([0.5, -1.0, 2.0, 300.0, 0.0, 1.0])
    padded = torch.from_numpy(scores).view(2, 3)
    weights = torch.tensor([[2.0] * 3, [1.0] * 3])
    wanted = softmax_lists(padded, torch.tensor([[1.0, 0, 0], [1, 1, 0]]), weights)
    assert _list_loss(scores, Held())[1] == pytest.approx(float(wanted), rel=1e-5)


def test_shares_of_fields_sum_to_the_score():
    net, lists, _ = learnt(epochs=4)
    for row in (0, 7):
        context = lists.contexts.take(torch.tensor([row]))
        item, pair = lists.candidates.items[row, :1], lists.candidates.pair[row : row + 1, :1]
        parts = net.shares_of_fields(context, item, pair)
        score = net.score(context, Candidates(item[None], pair))
        assert sum(value for _, _, value in parts) == pytest.approx(float(score), rel=1e-4, abs=1e-5)
        assert max(parts[:-1], key=lambda part: abs(part[2]))[0] == "a"
        assert parts[-1][0] == "bias"
    blank = LambdaMART().build(replace(checkerboard().schema, pair=PAIR))
    blank.bind(net.items)
    assert not any(value for _, _, value in blank.shares_of_fields(context, item, pair))


# -- epochs ------------------------------------------------------------------------------------------------------------


def test_the_best_epoch_is_kept_and_what_is_saved_holds_no_tree_more():
    reached = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.2, 0.2, 0.2])
    data = checkerboard()
    train = replace(data, lists=lists_of(data))
    schema = replace(data.schema, pair=PAIR)
    model = LambdaMART(**{**SMALL, "epochs": 8})
    net, curves = fit(model, train, lambda net: next(reached), RunOptions(patience=3), schema)
    assert curves[0].best_epoch == 2
    assert int(net.rounds) == 6
    again, _ = fit(replace(model, epochs=2), train, options=RunOptions(), schema=schema)
    lists = train.lists
    assert torch.equal(net.score(lists.contexts, lists.candidates), again.score(lists.contexts, lists.candidates))
    loaded = model.build(schema)
    loaded.bind(net.items)
    loaded.load_state_dict(net.state_dict(), assign=True)
    assert loaded.booster.num_trees() == 6
    assert torch.equal(loaded.score(lists.contexts, lists.candidates), net.score(lists.contexts, lists.candidates))


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(tmp_path):
    data = checkerboard()
    train = replace(data, lists=lists_of(data))
    schema = replace(data.schema, pair=PAIR)
    options = RunOptions(checkpoint=tmp_path, checkpoint_seconds=0.0)

    class Stop(Exception):
        pass

    def stops(net):
        if int(net.rounds) == 9:
            raise Stop
        return float(net.rounds)

    model = LambdaMART(**{**SMALL, "epochs": 5})
    with pytest.raises(Stop):
        fit(model, train, stops, options, schema)
    resumed, curves = fit(model, train, lambda net: float(net.rounds), replace(options, resume=True), schema)
    whole, _ = fit(model, train, lambda net: float(net.rounds), RunOptions(), schema)
    assert len(curves[0].rows) == 5
    assert torch.equal(resumed.get_extra_state(), whole.get_extra_state())


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_bundle_answers_as_what_was_saved(tmp_path):
    model = LambdaMART(min_leaf=5, trees=5, epochs=2)
    rec = su.Recommender(su.EASE(l2=20.0), ranker=model, candidates=30, seed=1).fit(small_split().train)
    loaded = su.load(rec.save(tmp_path / "bundle"))
    assert loaded.recommend(users=["u0003", "u0010"], k=10).equals(rec.recommend(users=["u0003", "u0010"], k=10))
    assert loaded.engine.ranker.booster.num_trees() == 10
    explained = rec.explain(user="u0003", item=rec.recommend(users=["u0003"], k=1)["item_id"][0])
    assert explained.height > 0


def test_trees_that_do_not_fit_are_refused():
    net, _, _ = learnt()
    other, _ = fit(LambdaMART(**SMALL), checkerboard(), options=RunOptions())  # without features of the pair
    for state, said in (
        (torch.frombuffer(bytearray(b"tree\nno tree"), dtype=torch.uint8), "LightGBM cannot read the trees"),
        (net.get_extra_state()[:40], "LightGBM cannot read the trees"),
        (other.get_extra_state(), f"the trees read {len(net.names) - 2} columns, the model has {len(net.names)}"),
    ):
        with pytest.raises(ValueError, match=said):
            net.set_extra_state(state)


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr("suisen.errors.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"lightgbm is not installed; run: pip install 'suisen\[gbdt\]'"):
        LambdaMART().build(checkerboard().schema)


def test_it_does_not_say_what_is_alike():
    assert not lambdamart.LambdaMARTNet.compares_items
    rec = su.Recommender(ranker=LambdaMART(min_leaf=5, trees=2, epochs=1)).fit(small_split().train)
    with pytest.raises(su.SuisenError, match="lambdamart cannot tell which items are alike"):
        rec.similar_items(["i003"], k=3)


def test_clicks_are_learnt_one_by_one():
    """Labelled rows: binary cross-entropy, no lists."""
    data = checkerboard()
    labels = (data.events.item % 3 == 0).float()
    clicks = replace(data, events=replace(data.events, label=labels))
    net, curves = fit(LambdaMART(min_leaf=2, trees=10, epochs=3), clicks, options=RunOptions())
    assert not net.lists
    losses = [row.loss for row in curves[0].rows]
    assert losses == sorted(losses, reverse=True)
    contexts = asked(data).take(torch.arange(3))
    items = torch.arange(1, 13).expand(3, -1)
    scores = net.score(contexts, Candidates(items))
    assert float(scores[:, items[0] % 3 == 0].min()) > float(scores[:, items[0] % 3 != 0].max())
