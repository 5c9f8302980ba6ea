"""Weights of events, over all models: they change what is learnt, or the ability is not claimed and the run says so."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import suisen as su
from suisen.data.batch import Batch
from suisen.data.dataset import Dataset
from suisen.models import EASE, IALS, MF, MODELS, ItemKNN, Popularity
from suisen.models.closed_form import binary_matrix, root_matrix
from suisen.models.contract import hyper_parameters, unused_weights
from suisen.models.losses import full_softmax
from suisen.models.sampled import bpr_max, calibrated_bce, sampled_softmax
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.helpers import make_data
from tests.models.test_contract import small
from tests.models.toys import all_scores, asked, checkerboard


def weighted(data: Dataset, weight: torch.Tensor) -> Dataset:
    return replace(data, events=replace(data.events, weight=weight.float()))


@cache
def uneven() -> Dataset:
    data = checkerboard()
    rng = torch.Generator().manual_seed(0)
    return weighted(data, torch.rand(len(data.events), generator=rng) ** 3 * 50 + 0.1)


def scores_of(model, data: Dataset) -> torch.Tensor:
    return all_scores(fit(model, data, options=RunOptions())[0], asked(checkerboard()))


def short(name: str):
    return small(name, **({"epochs": 2} if hasattr(small(name), "epochs") else {}))


@pytest.mark.parametrize("name", MODELS)
def test_weights_change_the_scores_or_are_not_claimed(name):
    model = short(name)
    changed = not torch.allclose(scores_of(model, checkerboard()), scores_of(model, uneven()), rtol=1e-3)
    assert changed == ("weights" in model.abilities)


@pytest.mark.parametrize("name", MODELS)
def test_equal_weights_are_no_weights(name):
    data, model = checkerboard(), short(name)
    equal = scores_of(model, weighted(data, torch.full((len(data.events),), 4.0)))
    plain = scores_of(model, data) * (4 if name == "popularity" else 1)  # counts four times as large, in the same order
    torch.testing.assert_close(equal, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", [IALS(dim=8), EASE(l2=1.0), ItemKNN(shrinkage=0.5), Popularity()])
def test_settings_keep_their_meaning_whatever_the_unit_of_weights(model):
    data = uneven()
    ten = scores_of(model, weighted(data, 10 * data.events.weight))
    plain = scores_of(model, data) * (10 if isinstance(model, Popularity) else 1)
    torch.testing.assert_close(ten, plain, rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.floats(0.01, 100)), min_size=1, max_size=20))
def test_a_pair_weighs_what_its_heaviest_event_does(rows):
    users, items, weights = zip(*rows)
    data = make_data(user=list(users), item=list(items), weight=list(weights))
    heaviest: dict[tuple[int, int], float] = {}
    for visitor, item, weight in zip(
        *(part.tolist() for part in (data.events.visitor, data.events.item, data.events.weight))
    ):
        heaviest[visitor, item] = max(weight, heaviest.get((visitor, item), 0.0))
    mean = np.mean(list(heaviest.values()))
    wanted = np.zeros(binary_matrix(data).shape)
    for place, weight in heaviest.items():
        wanted[place] = np.sqrt(weight / mean)
    np.testing.assert_allclose(root_matrix(data).toarray(), wanted, rtol=1e-5)


def test_popularity_sums_weights_of_positives():
    data = make_data(user=[*"aabb"], item=[1, 2, 1, 2], weight=[1, 50, 1, 3], label=[1, 1, 1, 0])
    assert fit(Popularity(), data)[0].counts[:, 0].tolist() == [0, 2, 50]


def test_what_weighs_more_is_recommended_first():
    """Everybody views 1 and buys 2: with buy=50 the buys come first, with equal weights both are alike."""
    user = [f"u{i}" for i in range(12) for _ in range(2)]
    columns = {"user": user, "item": ["view", "buy"] * 12}
    plain, heavy = (make_data(**columns, weight=[1.0, buy] * 12) for buy in (1.0, 50.0))
    for model in (Popularity(), IALS(dim=4), EASE(l2=5.0)):
        scores = {}
        for said, data in (("plain", plain), ("heavy", heavy)):
            rec = su.Recommender(model).fit(data)
            frame = rec.recommend(users=["u1"], k=2, exclude_seen=False)
            scores[said] = dict(zip(frame["item_id"], frame["score"]))
        assert scores["plain"]["view"] == pytest.approx(scores["plain"]["buy"], rel=1e-3)
        assert scores["heavy"]["buy"] > scores["heavy"]["view"]


# -- by hand ---------------------------------------------------------------------------------------------------------


def test_ease_and_item_knn_by_hand():
    data = uneven()
    x = root_matrix(data).toarray().astype(np.float64)
    gram = x.T @ x
    kept = np.flatnonzero(gram.diagonal())
    inverse = np.linalg.inv(gram[np.ix_(kept, kept)] + 2.0 * np.eye(len(kept)))
    wanted = np.zeros_like(gram)
    wanted[np.ix_(kept, kept)] = -inverse / inverse.diagonal()
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(fit(EASE(l2=2.0), data)[0].weight.numpy(), wanted, atol=1e-5)
    net, _ = fit(ItemKNN(neighbours=1000, shrinkage=3.0), data)
    counts = gram.diagonal()
    similar = gram / (np.sqrt(np.outer(counts, counts)) + 3.0)
    ids = torch.from_numpy(kept)
    found = net.similarities(ids, ids.expand(len(ids), -1)).numpy()
    np.fill_diagonal(found, 0)
    np.fill_diagonal(similar, 0)
    np.testing.assert_allclose(found, similar[np.ix_(kept, kept)], rtol=1e-4)


@pytest.mark.parametrize("dim", [3, 40])  # primal and dual systems
def test_half_a_sweep_of_ials_by_hand(dim):
    data = uneven()
    model = IALS(dim=dim, l2=0.1, unobserved=0.3)
    torch.manual_seed(0)
    net = model.build(data.schema)
    net.prepare(data)
    start = net.item.weight.double().numpy().copy()
    net(Batch(asked(data).take(torch.zeros(0, dtype=torch.int64))))
    w = root_matrix(data).toarray().astype(np.float64) ** 2
    items = int((w.sum(0) > 0).sum())
    for row in np.flatnonzero(w.sum(1))[:5]:
        system = 0.3 * start.T @ start + (start.T * w[row]) @ start
        system += 0.1 * (w[row].sum() + 0.3 * items) * np.eye(dim)
        wanted = np.linalg.solve(system, start.T @ w[row])
        np.testing.assert_allclose(net.user.weight[row].numpy(), wanted, rtol=1e-3, atol=1e-5)


@given(seed=st.integers(0, 1000), n=st.integers(1, 9))
def test_a_weight_of_two_is_the_example_twice(seed, n):
    rng = torch.Generator().manual_seed(seed)
    hidden, table = torch.randn(n, 4, generator=rng), torch.randn(7, 4, generator=rng)
    targets = torch.randint(1, 7, (n,), generator=rng)
    times = torch.randint(1, 4, (n,), generator=rng)
    twice = torch.repeat_interleave(torch.arange(n), times)
    positive, negative = torch.randn(n, 1, generator=rng), torch.randn(n, 3, generator=rng)
    hits = torch.rand(n, 3, generator=rng) < 0.3
    losses = {
        "full": lambda at, w: full_softmax(hidden[at], table, targets[at], chunk=2, weights=w),
        "sampled": lambda at, w: sampled_softmax(positive[at], negative[at], torch.zeros(3), hits[at], w),
        "bce": lambda at, w: calibrated_bce(positive[at], negative[at], hits[at], 0.7, w),
        "bpr-max": lambda at, w: bpr_max(positive[at], negative[at], hits[at], 0.5, w),
    }
    for name, loss in losses.items():
        once = loss(torch.arange(n), times.float())
        torch.testing.assert_close(once, loss(twice, None), rtol=1e-4, atol=1e-5, msg=name)


def test_gradients_of_the_full_softmax_are_weighted_too():
    torch.manual_seed(0)
    hidden, table = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.randn(6, 3, dtype=torch.float64)
    weights = torch.tensor([1.0, 5, 0.5, 2, 3], dtype=torch.float64)
    targets = torch.tensor([1, 2, 3, 4, 5])
    assert torch.autograd.gradcheck(lambda h: full_softmax(h, table, targets, 2, None, weights), hidden)


# -- what is said ----------------------------------------------------------------------------------------------------


@hyper_parameters
class Deaf(MF):
    """A model that claims nothing."""

    abilities: ClassVar[frozenset[str]] = frozenset()


def test_a_model_that_does_not_use_weights_is_named():
    data = uneven()
    note = "weights are not used by Deaf: every event counts as one"
    assert unused_weights((Deaf(), None), data) == (note,)
    assert unused_weights((MF(), Deaf()), data) == (note,)
    assert unused_weights((MF(), EASE()), data) == ()
    assert unused_weights((Deaf(),), checkerboard()) == ()  # there are none
    assert unused_weights((Deaf(),), weighted(data, torch.ones(len(data.events)))) == ()  # they say nothing


def test_the_recommender_keeps_the_note(monkeypatch):
    monkeypatch.setattr(MF, "abilities", frozenset())
    rec = su.Recommender(MF(dim=2, epochs=1)).fit(uneven())
    assert "weights are not used by MF: every event counts as one" in rec.system.notes
    assert not su.Recommender(MF(dim=2, epochs=1)).fit(checkerboard()).system.notes


def test_lists_of_a_first_stage_weigh_what_their_event_does():
    from suisen.pipeline.two_stage import RankerLists, make_lists

    data = uneven()
    rec = su.Recommender(EASE(l2=1.0), candidates=20).fit(data)
    asked_for = data.positive & (torch.arange(len(data.events)) % 5 == 0)
    lists, _ = make_lists(rec.engine, data, asked_for, RankerLists(candidates=24, history=5), torch.Generator())
    allowed = set(data.events.weight[asked_for].tolist())
    assert set(lists.weights[:, 0].tolist()) <= allowed
    assert lists.weights[:, 1:].max() <= 1
