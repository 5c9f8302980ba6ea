"""Blocked items: no list holds one, and no list is shorter for it while enough is left."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.recommending import planning
from suisen.recommending.answering import answer, answer_planned, planned, rank, similar
from suisen.recommending.kernels import Quantised, candidates, partitioned
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.states import VisitorRows
from suisen.recommending.users import RecentEvents
from tests.fitted import fitted
from tests.recommending.planning import with_plan

NAMES = ["mf", "ease", "popularity", "fm", "ease + fm", "two-tower + deepfm"]
USERS = ["u0001", "u0007", "ghost", None]


@cache
def plan_of(name):
    """The compiled plan; one on the engine itself where the model has none."""
    made = planning.make(fitted(name).system, 0.5)
    return None if isinstance(made, str) else made


def system_of(name, plan):
    system = fitted(name).system
    return (with_plan(system, plan_of(name)) if plan else system).apart()


def ways(system):
    """Every way to a list, as a function of options."""
    queries = RawQueries(USERS)
    yield lambda options: answer(system, queries, replace(options, precise=True))
    yield lambda options: answer(system, queries, options)
    if system.engine.plan is not None:
        rows = VisitorRows(system, RecentEvents(system.store, 1 << 20), 1 << 20)
        yield (
            lambda options: (
                answer_planned(system, rows, queries, [options] * len(queries))
                if planned(system, options)
                else answer(system, queries, options)
            )
        )


def lists(found):
    return [[item for item in row if item] for row in found.items.tolist()]


@pytest.mark.parametrize("plan", [False, True], ids=["torch", "plan"])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_blocked_items_are_as_if_each_query_excluded_them(name, plan, data):
    system, free = system_of(name, plan), system_of(name, plan)
    n = len(system.store.items)
    blocked = data.draw(st.sets(st.integers(1, n - 1)) | st.just(set(range(1, n - 3))))
    system.block(torch.tensor(sorted(blocked), dtype=torch.int64))
    raw = system.store.items.raw_ids.to_list()
    names = tuple(raw[item - 1] for item in sorted(blocked))
    options = RecommendOptions(
        data.draw(st.sampled_from([1, 10, n])),
        unknown="popular",
        exclude_seen=data.draw(st.booleans()),
        diversity=data.draw(st.sampled_from([0.0, 0.0, 0.3])),
        among=data.draw(st.none() | st.just(tuple(raw[::2]))),
    )
    for blocking, excluding in zip(ways(system), ways(free)):
        mine, its = blocking(options), excluding(replace(options, exclude=names))
        assert not {item for row in lists(mine) for item in row} & blocked
        assert lists(mine) == lists(its)
        torch.testing.assert_close(mine.scores, its.scores, rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_items_that_are_opened_again_are_as_before(name):
    system = system_of(name, plan=True)
    options = RecommendOptions(20, unknown="popular")
    before = [lists(way(options)) for way in ways(system)]
    system.block(torch.tensor(sorted({item for row in before[0] for item in row})))
    assert not {tuple(row) for row in before[0]} & {tuple(row) for way in ways(system) for row in lists(way(options))}
    system.block(torch.zeros(0, dtype=torch.int64))
    assert [lists(way(options)) for way in ways(system)] == before


@pytest.mark.parametrize("name", ["mf", "ease"])
def test_similar_items_of_a_blocked_item_are_found_and_hold_no_blocked_one(name):
    system = system_of(name, plan=False)
    item = torch.tensor([5])
    nearest = similar(system, item, 10)[0][0]
    system.block(torch.tensor([5, *nearest[:4].tolist()]))
    found = similar(system, item, 10)[0][0]
    assert len(found) == 10
    assert found[:6].tolist() == nearest[4:].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_given_items_that_are_blocked_are_left_out(name):
    system = system_of(name, plan=False)
    raw = system.store.items.raw_ids.to_list()[:8]
    queries = RawQueries(["u0001", "ghost"])
    options = RecommendOptions(unknown="popular")
    whole = rank(system, queries, [raw, raw], options)
    system.block(torch.tensor([2, 3, 9]))
    without = rank(system, queries, [raw, raw], options)
    for before, after in zip(lists(whole), lists(without)):
        assert after == [item for item in before if item not in {2, 3}]


def test_what_one_system_blocks_another_of_the_same_parts_does_not():
    system = fitted("mf").system
    with_plan(system)
    other = system.apart()
    options = RecommendOptions(10, unknown="popular")
    before = lists(answer(system, RawQueries(USERS), options))
    other.block(torch.arange(1, 30))
    assert lists(answer(system, RawQueries(USERS), options)) == before


def test_a_large_share_of_a_table_in_cells_may_be_blocked():
    """Cells of which a query reads few: where too little is left in those, it reads all."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn((5000, 16), generator=generator).numpy()
    queries = torch.randn((7, 16), generator=generator).numpy()
    table = partitioned(vectors, queries, 50, 0.9)
    mask = torch.zeros(5000, dtype=torch.bool)
    mask[torch.randperm(5000, generator=generator)[:60]] = True
    found, _ = candidates(table, queries, 50, allowed=table.open_to(mask.numpy()))
    truth, _ = candidates(Quantised.of(vectors), queries, 50, allowed=mask.numpy())
    assert (found >= 0).all()
    assert (found == truth).all()
