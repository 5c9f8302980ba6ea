"""Caps, pins and refilling against a loop over one list at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.recommending.rules.filling import Capped, fill


def slow(ids, scores, k, caps, pinned):  # noqa: C901 - the definition, in one piece
    """One list: items and scores, passed over by each cap, which caps gave way.

    ``caps``: (most, first, item → values); ``pinned``: place → item.
    """
    stands = dict(pinned)
    candidates = [item for item in ids if item and item not in pinned.values()]
    taken, passed, relaxed = [], [set() for _ in caps], [False] * len(caps)

    def bars(cap, item, place):
        most, first, values = cap
        if place >= first:
            return False
        counted = [other for at, other in stands.items() if at < first]
        return any(sum(value in values[other] for other in counted) >= most for value in values[item])

    def look(number, place):
        """What a cap passes over at a place, of those before the furthest that was taken."""
        furthest = max((ids.index(item) for item in taken), default=-1)
        for item in candidates:
            if item not in taken and ids.index(item) < furthest and bars(caps[number], item, place):
                passed[number].add(item)

    for place in range(k):
        for number, (_, first, _) in enumerate(caps):
            if first == place:
                look(number, place - 1)
        free = [item for item in candidates if item not in taken]
        if place in stands or not free:
            continue
        best = next((item for item in free if not any(bars(cap, item, place) for cap in caps)), None)
        if best is None:
            best = free[0]
            for number, cap in enumerate(caps):
                relaxed[number] |= bars(cap, best, place)
        taken.append(best)
        stands[place] = best
    for number, (_, first, _) in enumerate(caps):
        if first >= k:
            look(number, k - 1)
    items = [stands[place] for place in sorted(stands)]
    own = [scores[ids.index(item)] if item in ids else None for item in items]
    borrowed = [
        next((one for one in own[at:] if one is not None), next((one for one in own[at::-1] if one is not None), 0.0))
        for at in range(len(own))
    ]
    return items, borrowed, [len(each) for each in passed], relaxed


@st.composite
def cases(draw):
    lists, n, k = draw(st.integers(1, 3)), draw(st.integers(0, 9)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    real = rng.integers(0, n + 1, lists)
    ids = np.array(
        [np.where(np.arange(n) < real[row], rng.permutation(n) + 1, 0) for row in range(lists)], dtype=np.int64
    )
    scores = np.where(ids > 0, -np.sort(-rng.integers(0, 5, ids.shape), axis=1), -np.inf).astype(np.float32)
    wide, values = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    tables = [rng.integers(-1, values, (n + 4, wide)) for _ in range(draw(st.integers(0, 2)))]
    caps = [(draw(st.integers(1, 3)), draw(st.integers(1, k)), table) for table in tables]
    pinned = np.zeros((lists, k), dtype=np.int64)
    for item in draw(st.lists(st.integers(1, n + 3), max_size=3, unique=True)):
        free = np.flatnonzero(~pinned.any(0))
        if free.size:
            place = draw(st.sampled_from(free.tolist()))
            pinned[:, place] = np.where(rng.random(lists) < 0.7, item, 0)
    return ids, scores, k, caps, pinned


@given(cases())
@settings(max_examples=300)
def test_lists_are_those_of_a_loop(case):
    ids, scores, k, caps, pinned = case
    capped = [
        Capped(most, first, table[ids].astype(np.int32), table[pinned].astype(np.int32) * (pinned > 0)[..., None]
               - (pinned == 0)[..., None].astype(np.int32))
        for most, first, table in caps
    ]  # fmt: skip
    for one in capped:
        one.codes[ids == 0] = -1
    filled = fill(ids, scores, k, capped, pinned)
    for row in range(len(ids)):
        tables = [
            (most, first, {item: set(table[item].tolist()) - {-1} for item in range(len(table))})
            for most, first, table in caps
        ]
        pins = {place: int(item) for place, item in enumerate(pinned[row]) if item}
        items, values, passed, relaxed = slow(ids[row].tolist(), scores[row].tolist(), k, tables, pins)
        there = filled.items[row] > 0
        assert filled.items[row][there].tolist() == items
        assert there.tolist() == [True] * len(items) + [False] * (k - len(items))
        assert filled.scores[row][there].tolist() == values
        assert (filled.scores[row][~there] == -np.inf).all()
        assert filled.passed[row].tolist() == passed
        assert filled.relaxed[row].tolist() == relaxed


def caps_of(most, first, *values):
    codes = np.array([[[value] for value in values]], dtype=np.int32)
    return Capped(most, first, codes, np.full((1, first, 1), -1, dtype=np.int32))


def test_a_cap_is_refilled_from_the_reserve_and_ties_keep_their_order():
    ids = np.array([[5, 6, 7, 8, 9]])
    scores = np.array([[1.0, 1.0, 1.0, 1.0, 1.0]], dtype=np.float32)
    filled = fill(ids, scores, 3, [caps_of(1, 3, 0, 0, 0, 1, 2)], np.zeros((1, 3), dtype=np.int64))
    assert filled.items.tolist() == [[5, 8, 9]]
    assert filled.passed.tolist() == [[2]]
    assert not filled.relaxed.any()


def test_a_cap_that_leaves_too_few_gives_way_and_it_is_said():
    ids = np.array([[5, 6, 7]])
    scores = np.array([[3.0, 2.0, 1.0]], dtype=np.float32)
    filled = fill(ids, scores, 3, [caps_of(1, 3, 0, 0, 1)], np.zeros((1, 3), dtype=np.int64))
    assert filled.items.tolist() == [[5, 7, 6]]
    assert filled.relaxed.tolist() == [[True]]
