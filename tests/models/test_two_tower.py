"""Two-Tower: its losses as slow loops, the correction against the full softmax, unknown ids, its view."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from suisen.data.batch import Batch, Candidates, Contexts, Features
from suisen.data.views import Hard, Pairs
from suisen.errors import InputError
from suisen.models import TwoTower
from suisen.models.contract import ItemTable
from suisen.models.two_tower import faded
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.helpers import make_data
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
)


def net_of(data=None, **hyper):
    torch.manual_seed(0)
    data = data or checkerboard()
    net = bound(TwoTower(**{"dim": 4, "hidden": (6,), **hyper}).build(data.schema), data)
    net.prepare(data)
    return net


TAKEN = [3, 5, 3, 8, 9, 5, 1]
"""Items of a batch; 3 and 5 come twice."""
DRAWN = [5, 2, 2, 11, 8]
"""Negatives for all of it."""
HARD = [[2, 4], [1, 1], [3, 7], [6, 5], [4, 2], [1, 2], [9, 1]]
"""Negatives of each row's own; in rows 2 and 6 one is the row's item itself."""


def batch_of(rows: int = 7, users: list[int] | None = None, **more) -> Batch:
    data = checkerboard()
    contexts = asked(data, torch.arange(1, rows + 1) if users is None else torch.tensor(users))
    return Batch(contexts, Candidates(torch.tensor(TAKEN[:rows])[:, None]), **more)


def skewed(net) -> None:
    """Unequal shares of the items, so that leaving them out is seen."""
    net.share.copy_(torch.linspace(0.1, 3, len(net.share)).softmax(0))


# -- losses ----------------------------------------------------------------------------------------------------------


def slow_loss(net, batch: Batch) -> float:
    """The softmax losses, negative by negative."""
    model, taken = net.model, batch.taken.tolist()
    drawn = [] if batch.negatives is None else batch.negatives.tolist()
    in_batch, uniform = model.loss != "uniform", 1 / int(net.items.trained.sum())
    with torch.no_grad():
        queries, vectors = net.query_vectors(batch.contexts), net.item_vectors()
    losses = []
    for row, own in enumerate(taken):
        positive = float(queries[row] @ vectors[own]) / model.temperature
        mass = math.exp(positive)
        others = [item for at, item in enumerate(taken) if at != row] if in_batch else []
        for item in others + drawn:
            if item != own:
                expected = (len(taken) - 1) * float(net.share[item]) * in_batch + len(drawn) * uniform
                weight = 1 if model.log_q == "none" else 1 / expected
                mass += weight * math.exp(float(queries[row] @ vectors[item]) / model.temperature)
        hard = [] if batch.hard is None else batch.hard[row].tolist()
        mass += sum(math.exp(float(queries[row] @ vectors[item]) / model.temperature) for item in hard if item != own)
        losses.append(math.log(mass) - positive)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("loss", ["in-batch", "uniform", "mixed"])
@pytest.mark.parametrize("log_q", ["none", "exact"])
@pytest.mark.parametrize(("temperature", "cosine"), [(0.1, True), (1.0, False)])
@pytest.mark.parametrize("history", [0, 5])
@pytest.mark.parametrize("hard", [None, torch.tensor(HARD)])
def test_loss_is_the_slow_loop(loss, log_q, temperature, cosine, history, hard):
    net = net_of(loss=loss, log_q=log_q, temperature=temperature, cosine=cosine, history=history).eval()
    skewed(net)
    drawn = {} if loss == "in-batch" else {"negatives": torch.tensor(DRAWN)}
    batch = batch_of(users=[1, 2, 1, 4, 4, 4, 7], hard=hard, **drawn)  # a user of several examples is one query
    with torch.no_grad():
        assert float(net(batch)) == pytest.approx(slow_loss(net, batch), rel=1e-4)


@pytest.mark.parametrize("history", [0, 5])
@pytest.mark.parametrize("hard", [None, HARD])
def test_triplet_loss_is_the_slow_loop(history, hard):
    net = net_of(loss="triplet", margin=0.4, history=history).eval()
    batch = batch_of(users=[1, 2, 1, 4, 4, 4, 7], hard=hard and torch.tensor(hard))
    with torch.no_grad():
        queries, vectors = net.query_vectors(batch.contexts), net.item_vectors()
        losses = []
        for row, own in enumerate(batch.taken.tolist()):
            scores = {item: float(queries[row] @ vectors[item]) for item in TAKEN}
            below = [score for item, score in scores.items() if score < scores[own]]
            wrong = max(below) if below else min(score for item, score in scores.items() if item != own)
            hinges = [max(0.0, 0.4 - scores[own] + wrong)]
            for item in hard[row] if hard else ():
                hinges.append(max(0.0, 0.4 - scores[own] + float(queries[row] @ vectors[item])) * (item != own))
            losses.append(sum(hinges) / len(hinges))
        assert float(net(batch)) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_different_users_and_items_alone_pass_through_the_towers():
    for history, wanted in ((0, [4, 5]), (5, [7, 5])):
        net, seen = net_of(history=history).eval(), []
        for tower in (net.user_tower, net.item_tower):
            tower.register_forward_hook(lambda module, given, out, seen=seen: seen.append(len(given[0])))
        net(batch_of(users=[1, 2, 1, 4, 4, 4, 7]))
        assert seen == wanted


def test_users_are_told_apart_by_what_the_request_brings():
    events = {"user": ["a", "a", "b", "b"], "item": [1, 2, 1, 3], "time": [1, 2, 3, 4]}
    data = make_data(**events, shelf=["x", "y", "x", "y"])
    assert data.schema.context
    assert not net_of(data, history=0).by_user
    assert net_of(make_data(**events), history=0).by_user


# -- the correction --------------------------------------------------------------------------------------------------


def biased_world():
    """Three users who take nine items with very unequal, and each with his own, frequency."""
    counts = torch.tensor(
        [[900, 90, 40, 5, 3, 1, 1, 0, 0], [600, 9, 80, 3, 3, 6, 1, 1, 0], [300, 90, 1, 8, 9, 1, 3, 1, 1]]
    )
    pairs = [(u, i) for u, row in enumerate(counts.tolist()) for i, n in enumerate(row) for _ in range(n)]
    return make_data(user=[u for u, _ in pairs], item=[i for _, i in pairs])


def gradients(net, loss) -> torch.Tensor:
    grads = torch.autograd.grad(loss, [net.item.item.weight, net.context.user.weight])
    return torch.cat([grad[1:].flatten() for grad in grads])


@pytest.mark.parametrize("loss", ["in-batch", "uniform", "mixed"])
@pytest.mark.parametrize("log_q", ["exact", "streaming", "none"])
def test_log_q_brings_the_gradient_of_the_whole_softmax(loss, log_q):
    """Over many batches the corrected loss's mean gradient is that of the softmax over the catalogue, up to the error
    of the mean; without the correction it is another by many times that error.
    """
    data, size, steps = biased_world(), 1024 if log_q == "streaming" else 8192, 100
    how = {"dim": 3, "history": 0, "dropout": 0.0, "hide_ids": 0.0, "temperature": 0.5, "negatives": size}
    net = net_of(data, **how, loss=loss, log_q=log_q).train()
    users, items, rng = data.user, data.events.item, torch.Generator().manual_seed(0)

    def batch() -> Batch:
        rows = torch.randint(len(items), (size,), generator=rng)
        drawn = {} if loss == "in-batch" else {"negatives": torch.randint(1, 10, (size,), generator=rng)}
        return Batch(Contexts.of_users(users[rows], data.schema), Candidates(items[rows, None]), **drawn)

    if log_q == "streaming":
        net.frequency.rate = 1e-4  # first let it know the stream
        for one in (batch() for _ in range(1000)):
            pool = {"in-batch": one.taken, "uniform": one.negatives}.get(loss)
            net.frequency(torch.unique(torch.cat([one.taken, one.negatives]) if pool is None else pool))
    found = torch.stack([gradients(net, net(batch())) for _ in range(steps)])
    scores = net.query_vectors(Contexts.of_users(users, data.schema)) @ net.item_vectors()[1:].T
    whole = gradients(net, F.cross_entropy(scores / 0.5, items - 1))
    error = found.std(0) / steps**0.5
    off = ((found.mean(0) - whole) / error.clamp(min=1e-7)).abs()
    assert off.max() < 4.5 if log_q != "none" else off.max() > 20


def test_a_switch_that_was_saved_can_be_read():
    assert (TwoTower(log_q=True).log_q, TwoTower(log_q=False).log_q) == ("exact", "none")
    with pytest.raises(InputError, match="log_q = 'maybe' should be 'none', 'exact' or 'streaming'"):
        TwoTower(log_q="maybe")


# -- parameters ------------------------------------------------------------------------------------------------------


def test_temperature_can_be_learnt():
    data = checkerboard()
    model = TwoTower(dim=8, hidden=(8,), learn_temperature=True, temperature=0.5, epochs=3, learning_rate=0.01)
    net = fit(model, data, options=RunOptions())[0]
    tau = float(net.temperature.detach())
    assert 0.01 < tau < 0.45
    with torch.no_grad():
        net.log_temperature.fill_(-20.0)
    assert float(net.temperature.detach()) == pytest.approx(0.01)
    contexts = asked(data)
    assert all_scores(net, contexts).abs().max() <= 1.0001  # serving does without it


def test_towers_can_have_different_widths():
    net = net_of(hidden=(6, 5), item_hidden=(7,))
    widths = [[layer.out_features for layer in tower.layers if hasattr(layer, "out_features")]
              for tower in (net.user_tower, net.item_tower)]  # fmt: skip
    assert widths == [[6, 5, 4], [7, 4]]


def test_half_life_weighs_the_newest_most():
    contexts = asked(checkerboard()).take(torch.arange(2)).recent(3)
    old = faded(contexts, 1.0)
    assert old.history.weights.tolist() == [0.25, 0.5, 1.0] * 2
    net, plain = net_of(history=3, half_life=1e9).eval(), net_of(history=3).eval()
    long, brief = asked(checkerboard()), net_of(history=3, half_life=1e-3).eval()
    with torch.no_grad():
        torch.testing.assert_close(net.query_vectors(long), plain.query_vectors(long))
        torch.testing.assert_close(brief.query_vectors(long), plain.query_vectors(long.recent(1)))


def test_view_yields_what_the_loss_asks_for():
    assert TwoTower().view == Pairs(2048, 0, history=50, guests=True, labels=False)
    assert TwoTower(loss="triplet").view == TwoTower().view
    for loss in ("uniform", "mixed"):
        assert TwoTower(loss=loss, negatives=7).view == replace(TwoTower().view, negatives=7, shared=True)
    assert TwoTower(hard=3, hard_pool=9).view == Hard(TwoTower().view, 3, 9)


@pytest.mark.parametrize(
    "how",
    [
        {"loss": "uniform", "negatives": 16},
        {"loss": "mixed", "negatives": 16, "log_q": "streaming"},
        {"loss": "triplet"},
        {"hard": 2, "hard_pool": 5},
        {"history": 0, "hard": 1, "loss": "mixed", "negatives": 8},
    ],
    ids=str,
)
def test_every_loss_finds_the_only_right_answer(how):
    data = checkerboard()
    model = TwoTower(**{"dim": 8, "hidden": (16,), "batch_size": 64, "learning_rate": 0.01, "epochs": 25, **how})
    net = fit(model, data, options=RunOptions())[0]
    contexts = asked(data)
    scores = all_scores(net, contexts)
    scores[:, ~data.trained_items] = -torch.inf
    scores[contexts.history.rows(), contexts.history.values] = -torch.inf
    right = scores.argmax(1) == dense_item(data, range(N))
    assert right.float().mean() >= 0.9


# -- vectors and unknown ids -----------------------------------------------------------------------------------------


def test_cosine_vectors_have_length_one():
    data = checkerboard()
    for cosine in (True, False):
        net = net_of(cosine=cosine).eval()
        with torch.no_grad():
            lengths = torch.cat([net.query_vectors(asked(data)), net.item_vectors()[1:]]).norm(dim=1)
        assert torch.allclose(lengths, torch.ones(len(lengths)), atol=1e-5) == cosine


def test_scores_of_one_row_do_not_depend_on_the_others_in_the_batch():
    net = net_of(dropout=0.0, hide_ids=0.0).train()
    batch = batch_of()
    short = batch_of(3)
    torch.testing.assert_close(net.query_vectors(batch.contexts)[:3], net.query_vectors(short.contexts))


def test_ids_and_user_features_are_hidden_in_training_alone():
    data = checkerboard()
    net = net_of(hide_ids=0.999, dropout=0.0)
    ids = torch.arange(len(net.items))
    rows = len(asked(data))
    nobody, nothing = torch.zeros(rows, dtype=torch.int64), Features.missing(data.schema.user, rows)
    unknown = replace(asked(data), user=nobody, user_features=nothing)
    with torch.no_grad():
        torch.manual_seed(0)
        hidden_items, hidden_users = net.train().vectors_of(ids), net.query_vectors(asked(data))
        net.eval()
        torch.testing.assert_close(hidden_users, net.query_vectors(unknown))
        assert not torch.allclose(hidden_users, net.query_vectors(asked(data)))
        assert not torch.allclose(hidden_items, net.item_vectors())
        twins = hidden_items[dense_item(data, [0, 2, 4, EVEN_TWIN])]
        torch.testing.assert_close(twins, twins[:1].expand_as(twins))  # without ids only the features are left


def test_untrained_items_are_read_by_their_features():
    data = checkerboard()
    net = net_of().eval()
    twin, other = dense_item(data, [EVEN_TWIN, EVEN_NEW])
    with torch.no_grad():
        before = net.item_vectors()
        assert torch.equal(before[twin], before[other])
        net.item.item.weight[twin] += 1  # a row that no event ever trained
        assert torch.equal(net.item_vectors(), before)
        net.items.trained = net.items.trained.clone()  # the data are shared by all tests
        net.items.trained[twin] = True
        assert not torch.equal(net.item_vectors()[twin], before[twin])
    net.bind(ItemTable(Features(data.item_features.categorical.clone(), data.item_features.numeric + 1,
                                data.item_features.multi), data.trained_items))  # fmt: skip
    with torch.no_grad():
        assert not torch.allclose(net.item_vectors()[1:], before[1:])


def test_cold_users_and_items_are_known_by_their_features_alone():
    """Nobody's history, no id: the side of a new user and the colour of a new item are all there is."""
    data = checkerboard()
    model = TwoTower(dim=8, hidden=(16,), history=0, batch_size=64, learning_rate=0.01, epochs=25)
    net = fit(model, data, options=RunOptions())[0]
    new = asked(data, dense_user(data, [N, N - 1]))  # an even user without events, an odd one with its id taken away
    new = replace(new, user=torch.zeros(2, dtype=torch.int64))
    scores = all_scores(net, new)
    even, odd = scores[:, dense_item(data, [EVEN_NEW])[0]], scores[:, dense_item(data, [ODD_NEW])[0]]
    assert even[0] > odd[0] + 0.5
    assert odd[1] > even[1] + 0.5
