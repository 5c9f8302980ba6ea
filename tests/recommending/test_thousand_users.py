"""A thousand users per model: what a loaded bundle answers them, precisely and by its plan, beside the Recommender."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from suisen.data.dataset import Dataset
from suisen.data.synthetic import World
from suisen.models import RANKERS, RETRIEVERS
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.two_stage import RankerLists
from suisen.recommending.answering import answer
from suisen.recommending.kernels import paths_here
from suisen.recommending.planning import FITTED, IDENTICAL, JUDGED
from suisen.recommending.queries import RawQueries, RecommendOptions

USERS = 1_000
CLOSE = 0.975
"""Least share of identical lists: a plan that agrees in 99 % of the queries that judged it agrees in fewer than 97.5 %
of others only once in a hundred thousand."""
SMALL = {
    "gru4rec": {"dim": 8, "epochs": 1}, "sasrec": {"dim": 8, "epochs": 1, "blocks": 1, "heads": 1, "length": 10},
    "bert4rec": {"dim": 8, "epochs": 1, "blocks": 1, "heads": 1, "length": 10}, "popularity": {}, "ease": {},
    "item-knn": {}, "two-tower": {"dim": 16, "hidden": (16,), "epochs": 1}, "ials": {"dim": 16, "epochs": 2},
    "neumf": {"gmf_dim": 8, "mlp_dim": 8, "hidden": (16, 8), "epochs": 1},
    "mlp": {"dim": 8, "hidden": (16, 8), "epochs": 1}, "lambdamart": {"trees": 5, "epochs": 1},
    **{name: {"dim": 8, "hidden": (32, 16), "epochs": 1} for name in ("deepfm", "wide-deep", "dnn", "dcn-v2")},
}  # fmt: skip


@cache
def data() -> Dataset:
    made = World(users=JUDGED + FITTED + 50, items=250, groups=8, sessions=3, events=4, seed=11).generate()
    return Dataset.of(made.log)


def settings(name: str) -> dict:
    return SMALL.get(name, {"dim": 8, "epochs": 1})


@pytest.fixture(scope="module", params=[*RETRIEVERS, *RANKERS])
def both(request, tmp_path_factory):
    """The Recommender as it was trained, and its bundle as a server loads it."""
    name = request.param
    first = RETRIEVERS[name](**settings(name)) if name in RETRIEVERS else RETRIEVERS["ials"](**settings("ials"))
    second = RANKERS[name](**settings(name)) if name in RANKERS else None
    rec = Recommender(first, second, candidates=100, seed=2, lists=RankerLists(most_questions=1_000)).fit(data())
    return rec, Recommender.load(rec.save(tmp_path_factory.mktemp("bundle") / "b"))


def asked(rec: Recommender) -> RawQueries:
    known = rec.store.trained_users.nonzero().squeeze(1)
    order = torch.randperm(len(known), generator=torch.Generator().manual_seed(5))
    return RawQueries(rec.store.users.raw(known[order[:USERS]].numpy()).to_list())


def test_the_precise_way_is_equal_to_the_bit(both):
    rec, loaded = both
    queries = asked(rec)
    assert len(queries) == USERS
    ours = rec.answer(queries, RecommendOptions(k=10))
    theirs = answer(loaded.system, queries, RecommendOptions(k=10, precise=True))
    assert torch.equal(ours.items, theirs.items)
    assert torch.equal(ours.scores, theirs.scores)
    assert bool((ours.items > 0).all())


@pytest.mark.skipif(paths_here() == ("plain",), reason="this machine compiles no kernel")
def test_the_plan_gives_the_same_lists_or_is_switched_off(both):
    rec, loaded = both
    plan = loaded.engine.plan
    if plan is None:
        assert loaded.engine.on_torch
        return
    assert plan.agreement.queries == JUDGED
    assert plan.agreement.identical >= IDENTICAL
    queries = asked(rec)
    precise = rec.answer(queries, RecommendOptions(k=10)).items
    fast = answer(loaded.system, queries, RecommendOptions(k=10)).items
    assert float((fast == precise).all(1).double().mean()) >= CLOSE


def test_few_models_answer_without_a_plan(both):
    """Those whose first stage has no vectors and behind which no ranker stands."""
    rec, loaded = both
    without = paths_here() == ("plain",) or rec.name in ("ease", "item-knn")
    assert (loaded.engine.plan is None) == without
