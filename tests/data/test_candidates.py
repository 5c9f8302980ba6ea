from dataclasses import replace

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data import candidates
from suisen.data.candidates import allow_seen, candidates_of, given_negatives, with_negatives
from suisen.data.ids import IdMap
from suisen.data.splits import LeaveLast
from suisen.errors import InputError
from tests.helpers import make_data, raw_items


def world(users=6, items=12, events=5, seed=0):
    """Every user took ``events`` different items; item 99 is in the catalogue alone."""
    generator = torch.Generator().manual_seed(seed)
    took = torch.stack([torch.randperm(items, generator=generator)[:events] for _ in range(users)])
    return make_data(
        user=[f"u{u}" for u in range(users) for _ in range(events)],
        item=took.flatten().tolist(),
        time=list(range(users * events)),
        items={"item": [*range(items), 99], "kind": ["x"] * (items + 1)},
    )


@given(seed=st.integers(0, 5), test=st.integers(1, 2), n=st.integers(0, 4))
def test_negatives_are_trained_distinct_and_neither_seen_nor_true(seed, test, n):
    split = world(seed=seed).split(LeaveLast(test=test, valid=0))
    queries = with_negatives(split.test, split.train, n=n, seed=seed)
    width = split.test.truth.lengths.max()
    assert queries.candidates.shape == (len(queries), width + n)
    assert torch.equal(queries.candidates[:, :width], split.test.truth.padded())
    for row, truth, seen in zip(queries.candidates[:, width:].tolist(), queries.truth.tolist(), queries.seen.tolist()):
        assert len(set(row)) == n
        assert not set(row) & {0, *truth, *seen}
        assert split.train.trained_items[torch.tensor(row, dtype=torch.int64)].all()


def test_every_allowed_item_is_drawn_alike():
    split = world(users=1, items=6, events=6).split(LeaveLast(test=1, valid=0))
    train = split.train
    query = replace(split.test, seen=split.test.seen.last(1)).take(torch.zeros(4_000, dtype=torch.int64))
    allowed = set(range(1, train.schema.n_items)) - {int(query.seen.values[0]), int(query.truth.values[0])}
    allowed = [i for i in sorted(allowed) if train.trained_items[i]]
    drawn = with_negatives(query, train, n=2, seed=1).candidates[:, 1:]
    counts = torch.bincount(drawn.flatten(), minlength=train.schema.n_items)[allowed]
    expected = 2 * 4_000 / len(allowed)
    assert counts.sum() == 8_000
    assert ((counts - expected).abs() < 5 * expected**0.5).all()
    pairs = {tuple(sorted(row)) for row in drawn.tolist()}
    assert len(pairs) == len(allowed) * (len(allowed) - 1) // 2


def test_all_that_is_left_can_be_drawn_and_no_more():
    split = world().split(LeaveLast(test=1, valid=0))
    free = [
        int(split.train.trained_items.sum()) - len({*truth, *seen} - {0})
        for truth, seen in zip(split.test.truth.tolist(), split.test.seen.tolist())
    ]
    assert with_negatives(split.test, split.train, n=min(free)).candidates.shape[1] == 1 + min(free)
    with pytest.raises(InputError, match=f"n = 50 negatives are asked for and a query has only {min(free)} left"):
        with_negatives(split.test, split.train, n=50)


def test_a_seed_draws_once_whatever_the_chunk(monkeypatch):
    split = world(users=9).split(LeaveLast(test=1, valid=0))
    one = with_negatives(split.test, split.train, n=3, seed=4)
    two = with_negatives(split.test, split.train, n=3, seed=4)
    assert torch.equal(one.candidates, two.candidates)
    assert not torch.equal(one.candidates, with_negatives(split.test, split.train, n=3, seed=5).candidates)
    assert one.protocol == "leave last out: test 1, valid 0; 3 sampled negatives, seed 4"
    monkeypatch.setattr(candidates, "NEGATIVES_PER_CHUNK", 6)
    small = with_negatives(split.test, split.train, n=3, seed=4).candidates
    assert all(len(set(row)) == 4 for row in small.tolist())


def test_no_query_no_candidates():
    split = world().split(LeaveLast(test=1, valid=0))
    none = split.test.take(torch.zeros(0, dtype=torch.int64))
    assert with_negatives(none, split.train, n=3).candidates.shape == (0, 3)


def published():
    data = make_data(user=["a", "a", "b", "b", "c"], item=[1, 2, 2, 1, 3], time=[1, 2, 3, 4, 5])
    return data.split(LeaveLast(test=1, valid=0))


def test_given_negatives_stand_behind_the_truth():
    split = published()
    frame = pl.DataFrame({"user": ["b", "zzz", "a"], "negatives": [[3, 1, 77], [1], [3, 1]]})
    queries = given_negatives(split.test, frame, split.train)
    rows = {
        user: raw_items(split.train, row)
        for user, row in zip(split.train.users.raw(queries.contexts.user.numpy()), queries.candidates.tolist())
    }
    assert rows == {"a": [2, 3, 1, None], "b": [1, 3, None, None]}  # b's truth stood among its own negatives
    assert queries.protocol == "leave last out: test 1, valid 0; 3 given negatives, 1 unknown to train"


def test_a_query_without_given_negatives_is_refused():
    split = published()
    frame = pl.DataFrame({"user": ["a"], "negatives": [[3]]})
    with pytest.raises(InputError, match=r"1 queries have no row of negatives \(the first is query 1\)"):
        given_negatives(split.test, frame, split.train)


def test_candidates_of_raw_lists():
    ids = IdMap.of("item", pl.Series(["x", "y"]))
    assert candidates_of([["y", "nope"], [], ["x"]], ids).tolist() == [[2, 0], [0, 0], [1, 0]]
    assert candidates_of(pl.Series([["x"], None]), ids).tolist() == [[1], [0]]


def test_seen_items_can_be_allowed():
    queries = allow_seen(published().test)
    assert queries.seen.tolist() == [[], []]
    assert queries.protocol == "leave last out: test 1, valid 0"
