"""A plan's lists are the engine's: every retriever before every kind of ranker, whatever is excluded or asked for."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.batch import Contexts
from suisen.data.ragged import Ragged
from suisen.models import RETRIEVERS
from suisen.models.contract import Retriever
from suisen.pipeline.recommender import Recommender
from suisen.recommending import planning
from suisen.recommending.engine import Engine, Filters, recommendable
from suisen.recommending.kernels import PRECISE, paths_here
from suisen.recommending.plan import Plan
from suisen.recommending.store import Store
from suisen.recommending.system import System
from suisen.retrieval import HNSW
from tests.fitted import MODELS, small_split
from tests.models.test_contract import small

pytestmark = pytest.mark.skipif(paths_here() == ("plain",), reason="this machine compiles no kernel")

RANKERS = ("fm", "deepfm", "dnn", "wide-deep", "dcn-v2", "stacked")
ON_TORCH = {"wide-deep", "dcn-v2", "stacked"}
"""Rankers that are more than their form (Wide & Deep has crosses of both sides in these tests), or have none."""
ALONE_ON_TORCH = "its first stage has no vectors"
CANDIDATES = 30


@cache
def retriever(name: str):
    rec = Recommender(small(name, **({"epochs": 2} if hasattr(small(name), "epochs") else {})), seed=1)
    return rec.fit(small_split().train)


@cache
def ranker(name: str):
    model = small("dcn-v2", structure="stacked", epochs=1) if name == "stacked" else small(name, epochs=2)
    return Recommender(MODELS["ease"], model, candidates=CANDIDATES, seed=1).fit(small_split().train)


@cache
def system(first: str, second: str = "", candidates: int = CANDIDATES) -> System:
    """Stages that were trained apart, one behind the other."""
    found, store = retriever(first), Store.of(small_split().train)
    allowed = recommendable(found.retriever, store.trained_items)
    if not second:
        engine = Engine(found.engine.retriever, None, allowed, candidates, found.engine.index)
        return System(found.retriever, None, store, engine)
    behind = ranker(second)
    engine = Engine(found.engine.retriever, behind.engine.ranker, allowed, candidates, found.engine.index)
    return System(found.retriever, behind.ranker, store, engine)


@cache
def plan_of(first: str, second: str = "", candidates: int = CANDIDATES) -> Plan | str:
    return planning.make(system(first, second, candidates))


def eight() -> Contexts:
    """Users who are known, users of whom nothing is, and histories of every length."""
    return Store.of(small_split().train).contexts(torch.tensor([1, 2, 3, 40, 0, 0, 61, 62]), 10**16)


def alike(plan: Plan, contexts: Contexts, k: int, filters: Filters) -> None:
    """In float32 the plan's lists are the engine's but for the rounding of sums."""
    fast = plan.lists(plan.prepare(contexts), k, filters.exclude, filters.among)
    precise = plan.engine.lists(contexts, k, filters)
    assert fast[0].shape == precise[0].shape
    assert fast[0].dtype == torch.int64
    assert torch.equal(fast[0] > 0, precise[0] > 0)
    there = precise[0] > 0
    scale = torch.where(there, precise[1].abs(), 0.0).amax().clamp(min=1)
    torch.testing.assert_close(fast[1][there] / scale, precise[1][there] / scale, atol=1e-4, rtol=0)
    assert (fast[1][~there] == -torch.inf).all()
    gaps = torch.nn.functional.pad((precise[1][:, :-1] - precise[1][:, 1:]).nan_to_num(1.0) / scale, (1, 1), value=1.0)
    sure = there & (gaps[:, :-1] > 2e-4) & (gaps[:, 1:] > 2e-4)
    sure[:, -1] = False  # what comes behind the last is not seen
    assert torch.equal(fast[0][sure], precise[0][sure])


def cases() -> list[tuple[str, str]]:
    return [(first, second) for first in RETRIEVERS for second in ("", *RANKERS)]


@pytest.mark.parametrize(("first", "second"), cases())
def test_every_pair_of_stages(first, second):
    engine, plan = system(first, second).engine, plan_of(first, second)
    vectors = isinstance(engine.retriever, Retriever)
    if isinstance(plan, str):
        assert not vectors
        assert second in {"", "stacked"}
        assert plan.startswith(ALONE_ON_TORCH)
        return
    described = plan.describe()
    assert described["candidates"] == ("compiled" if vectors else "torch")
    assert described["ranker"] == (None if not second else "torch" if second in ON_TORCH else "compiled")
    assert bool(described["best"]) == (second in {"wide-deep", "dcn-v2"})
    assert all(speed.rescore for speed, _ in planning.ladder(plan)) or vectors  # torch's scores are true already
    assert plan.quick == (vectors and second != "stacked")
    assert described["agreement"]["identical"] >= planning.IDENTICAL
    chosen = plan.speed, plan.long_speed
    plan.speed = plan.long_speed = PRECISE
    contexts = eight()
    rows = len(contexts)
    seen = contexts.history
    for k in (1, 10, 70, 300):
        alike(plan, contexts, k, Filters(seen))
    alike(plan, contexts, 10, Filters(Ragged.empty(rows)))
    alike(plan, contexts, 10, Filters(seen, torch.tensor([2, 3, 5, 8, 13, 80, 81])))
    plan.speed, plan.long_speed = chosen


@settings(max_examples=40, deadline=None)
@given(
    pair=st.sampled_from([("ials", ""), ("mf", "deepfm"), ("two-tower", "fm"), ("ease", "dnn"), ("sasrec", "dcn-v2")]),
    k=st.integers(1, 100),
    excluded=st.lists(st.lists(st.integers(1, 81), max_size=81), min_size=0, max_size=6),
    among=st.none() | st.sets(st.integers(1, 81), max_size=81),
    speed=st.sampled_from(planning.LADDER),
)
def test_whatever_is_asked_for_the_list_is_full_and_in_order(pair, k, excluded, among, speed):
    plan = plan_of(*pair)
    before = plan.speed, plan.long_speed
    plan.speed = plan.long_speed = speed
    contexts = eight().take(torch.arange(len(excluded)))
    exclude = Ragged.of(excluded)
    only = None if among is None else torch.tensor(sorted(among), dtype=torch.int64)
    ids, scores = plan.lists(plan.prepare(contexts), k, exclude, only)
    plan.speed, plan.long_speed = before
    assert ids.shape == scores.shape == (len(excluded), k)
    allowed = set(plan.engine.allowed.nonzero().squeeze(1).tolist())
    for row, gone, score in zip(ids.tolist(), excluded, scores, strict=True):
        left = (allowed if among is None else allowed & among) - set(gone)
        found = [item for item in row if item]
        assert len(found) == len(set(found)) == min(k, len(left))
        assert set(found) <= left
        assert not any(row[len(found) :])
        assert (score[: len(found)].diff() <= 0).all()
        assert score[: len(found)].isfinite().all()


def test_what_a_model_may_not_recommend_stays_out():
    plan = plan_of("mf", "deepfm")
    barred = ~plan.engine.allowed
    assert barred[1:].any()  # items of the table without events
    ids, _ = plan.lists(plan.prepare(eight()), 300, Ragged.empty(8))
    assert not barred[ids[ids > 0]].any()


def test_a_long_list_is_made_of_more_candidates():
    plan = plan_of("ials", "deepfm")
    ids, _ = plan.lists(plan.prepare(eight()), CANDIDATES + 20, Ragged.empty(8))
    assert (ids > 0).all()


@pytest.mark.parametrize("pair", [("ials", "dcn-v2"), ("ease", "wide-deep")])
def test_the_ranker_itself_orders_what_its_form_finds_best(pair):
    """Every item's score is that of the whole list: neither its retrieval score nor its rank is lost by the cut."""
    chosen = plan_of(*pair, 60)
    plan, k = Plan(chosen.engine, chosen.table, chosen.ranks, chosen.form), 4
    plan.best = 15
    contexts = eight()
    ids, scores = plan.lists(plan.prepare(contexts), k, contexts.history)
    whole, whole_scores = plan.engine.lists(contexts, 60, Filters(contexts.history))
    for row in range(len(contexts)):
        of = dict(zip(whole[row].tolist(), whole_scores[row].tolist(), strict=True))
        assert scores[row].tolist() == pytest.approx([of[item] for item in ids[row].tolist()], abs=1e-4)
        assert (scores[row].diff() <= 0).all()
    assert float((ids[:, 0] == whole[:, 0]).double().mean()) >= 0.75
    combined, orders = plan.engine.combined, []
    plan.engine.combined = lambda state, items, features: orders.append(items.shape) or combined(state, items, features)
    plan.lists(plan.prepare(contexts), k, contexts.history)
    plan.lists(plan.prepare(contexts), 20, contexts.history)
    plan.engine.combined = combined
    assert orders == [(8, 15), (8, 40)]


def test_an_approximate_index_stays_what_it_is():
    rec = Recommender(MODELS["ials"], ranker("deepfm").ranker, candidates=CANDIDATES, index=HNSW(m=8), seed=1)
    plan = planning.make(rec.fit(small_split().train).system)
    assert isinstance(plan, Plan)
    assert plan.describe()["candidates"] == "torch"
    assert plan.describe()["ranker"] == "compiled"
    contexts = eight()
    plan.speed = plan.long_speed = PRECISE
    alike(plan, contexts, 10, Filters(contexts.history))


def test_a_ranker_alone_runs_on_torch():
    rec = Recommender(ranker=small("fm", epochs=1), seed=1).fit(small_split().train)
    assert planning.make(rec.system) == "a ranker alone scores every item"


def test_states_are_float32_arrays_of_one_row_each():
    plan = plan_of("two-tower", "deepfm")
    states = plan.prepare(eight())
    assert states.queries.dtype == states.rows.dtype == "float32"
    assert states.queries.shape == (8, plan.table.vectors.shape[1])
    assert states.rows.shape == (8, plan.ranks.rows.shape[1])
    alone = plan_of("ials").prepare(eight())
    assert alone.rows is None


@pytest.mark.parametrize("pair", [("mf", "deepfm"), ("ials", ""), ("ease", "fm"), ("sasrec", "dcn-v2")])
def test_one_query_is_answered_as_among_others(pair):
    plan = plan_of(*pair)
    contexts = eight()
    _, scores = plan.lists(plan.prepare(contexts), 10, contexts.history)
    for row in range(len(contexts)):
        one = contexts.take(torch.tensor([row]))
        _, its = plan.lists(plan.prepare(one), 10, one.history)
        torch.testing.assert_close(its[0], scores[row], atol=1e-4, rtol=1e-4)
