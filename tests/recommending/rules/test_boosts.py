"""Boosts against their definition: decay with age, added scores, shifted ranks."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import suisen as su
from suisen.errors import InputError
from suisen.recommending.rules.bound import BoundRules
from suisen.recommending.rules.declared import Rules
from suisen.recommending.rules.ruling import Ruling
from suisen.recommending.store import Store

START = datetime(2024, 1, 1)
ITEMS = pl.DataFrame({
    "item": [f"i{n}" for n in range(8)],
    "released": [START + timedelta(days=n) if n != 6 else None for n in range(8)],
    "own": [n % 2 == 0 for n in range(8)],
})  # fmt: skip


@pytest.fixture(scope="module")
def store():
    """Item n was taken first on day 10 + n, item 5 by a guest alone, item 7 by nobody."""
    rows = [(f"u{n}", f"i{item}", START + timedelta(days=10 + item + n)) for item in range(5) for n in range(3)]
    rows += [("u0", "i6", START + timedelta(days=16)), (None, "i5", START + timedelta(days=11))]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").with_columns(session=pl.lit("s"))
    data = su.Dataset.from_frame(frame, user="user", item="item", time="time", session="session", item_features=ITEMS)
    return Store.of(data)


def micros(when):
    return int((when - datetime(1970, 1, 1)).total_seconds() * 1_000_000)


def boosted(store, at=START + timedelta(days=20), **boost):
    rules = BoundRules(Rules.of({"boost": [{"name": "b", **boost}]}), store)
    return rules.boosts[0].of(np.arange(1, 9)[None], np.array([micros(at)]))[0]


def by_name(store, weights):
    return {f"i{n}": float(weights[int(store.items.dense([f"i{n}"])[0]) - 1]) for n in range(8)}


def test_weights_halve_with_each_half_life_since_the_column_says(store):
    found = by_name(store, boosted(store, add=1.0, half_life="5d", since="released"))
    for n in range(8):
        assert found[f"i{n}"] == pytest.approx(0.0 if n == 6 else 2 ** (-(20 - n) / 5), rel=1e-5)
    future = by_name(store, boosted(store, START, add=1.0, half_life="5d", since="released"))
    assert future["i7"] == 1.0  # not out yet: as new as can be


def test_weights_are_counted_from_the_first_event(store):
    found = by_name(store, boosted(store, add=1.0, half_life="2d"))
    for n in range(5):
        assert found[f"i{n}"] == pytest.approx(2 ** (-(10 - n) / 2), rel=1e-5)
    assert found["i6"] == pytest.approx(2**-2, rel=1e-5)
    assert found["i7"] == 1.0
    assert found["i5"] == 0.0


def test_an_expression_says_which_items_are_boosted(store):
    found = by_name(store, boosted(store, add=1.0, expression="own == true"))
    assert found == {f"i{n}": float(n % 2 == 0) for n in range(8)}


def slow(items, scores, k, boosts, weights):
    """One list: boosted scores in descending order, then shifted ranks in ascending order, both stable."""
    rows = []
    for item, score in zip(items, scores):
        if item:
            added = sum(np.float32(b["add"]) * weights[n][item] for n, b in enumerate(boosts) if "add" in b)
            rows.append((item, np.float32(score) + np.float32(added)))
    rows.sort(key=lambda row: -row[1])
    shifted = [
        (rank - sum(b["ranks"] * float(weights[n][item]) for n, b in enumerate(boosts) if "ranks" in b), item, score)
        for rank, (item, score) in enumerate(rows)
    ]
    shifted.sort(key=lambda row: row[0])
    return [(item, score) for _, item, score in shifted][:k]


@given(st.integers(0, 10**6), st.integers(1, 8), st.lists(st.sampled_from(["add", "ranks"]), min_size=1, max_size=3))
def test_lists_are_those_of_a_loop(store, seed, k, kinds):
    rng = np.random.default_rng(seed)
    boosts = []
    for n, kind in enumerate(kinds):
        amount = round(float(rng.choice([0.25, 0.5, 1.0, 3.0])), 2)
        extra = [{"half_life": "3d", "since": "released"}, {"half_life": "6d"}, {"expression": "own == true"}, {}]
        boosts.append({"name": f"b{n}", kind: amount, **extra[int(rng.integers(4))]})
    rules = BoundRules(Rules.of({"boost": boosts}), store)
    at = micros(START + timedelta(days=int(rng.integers(0, 40))))
    n = int(rng.integers(0, 9))
    ids = torch.zeros((1, 8), dtype=torch.int64)
    ids[0, :n] = torch.from_numpy(rng.permutation(8)[:n] + 1)
    scores = torch.full((1, 8), -torch.inf)
    scores[0, :n] = torch.from_numpy(-np.sort(-rng.integers(0, 5, n) / 2).astype(np.float32))
    weights = [dict(zip(range(1, 9), boost.of(np.arange(1, 9)[None], np.array([at]))[0])) for boost in rules.boosts]
    ruling = Ruling.of(rules, [], 1, k, 8, np.array([at]), object())
    ruling.open = None
    marks = ruling.marks.items
    found, values = ruling._boosted(torch.tensor([0]), ids, scores, marks)
    expected = slow(ids[0].tolist(), scores[0].tolist(), k, boosts, weights)
    there = [(int(i), float(s)) for i, s in zip(found[0], values[0]) if i][:k]
    assert [item for item, _ in there] == [item for item, _ in expected]
    assert [score for _, score in there] == pytest.approx([float(score) for _, score in expected], rel=1e-5)
    moved = [at for at, (item, _) in enumerate(there) if ids[0].tolist().index(item) > at]
    for number, boost in enumerate(boosts):
        assert marks[0, number] == sum(weights[number][there[at][0]] > 0 for at in moved), boost


@pytest.mark.parametrize(
    ("boost", "message"),
    [
        ({}, "give add or ranks, one of them"),
        ({"add": 1.0, "ranks": 2}, "give add or ranks, one of them"),
        ({"add": math.inf}, "add = inf"),
        ({"ranks": 0}, "ranks = 0 should be greater than 0"),
        ({"add": 1.0, "since": "released"}, "since needs half_life"),
        ({"add": 1.0, "half_life": "soon"}, "half_life = 'soon' is no duration"),
        ({"add": 1.0, "half_life": "0d"}, "half_life = '0d' must be above 0"),
        ({"add": 1.0, "expression": "own ="}, "rule 'b': 'own ='"),
        ({"add": 1.0, "half": "7d"}, "parameter = 'half' is unknown; did you mean 'half_life'"),
    ],
)
def test_boosts_that_say_nothing_are_refused(boost, message):
    with pytest.raises(InputError, match=message):
        Rules.of({"boost": [{"name": "b", **boost}]})


def test_ages_need_times():
    data = su.Dataset.from_frame({"user": ["a", "b"], "item": [1, 2]}, user="user", item="item")
    with pytest.raises(InputError, match="the events have no times, so no item has an age; name a column"):
        BoundRules(Rules.of({"boost": [{"name": "b", "add": 1.0, "half_life": "7d"}]}), Store.of(data))
