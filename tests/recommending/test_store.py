"""What recommending needs of the data."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from suisen.data.ids import IdMap
from suisen.recommending.store import Store, _feed, saying
from tests.fitted import small_split
from tests.helpers import make_data


def store_of(users, items):
    """A store of which only the ids matter."""
    data = make_data(user=["a", "b"], item=[1, 2])
    maps = {"users": IdMap("user", pl.Series("raw", users)), "items": IdMap("item", pl.Series("raw", items))}
    return replace(Store.of(data), **maps)


def test_the_fingerprint_tells_id_maps_apart():
    one = store_of(["a", "bc"], [1, 2]).fingerprint()
    assert one == store_of(["a", "bc"], [1, 2]).fingerprint()
    others = [(["ab", "c"], [1, 2]), (["bc", "a"], [1, 2]), (["a", "bc"], [2, 1]), (["a", "bc"], ["1", "2"]),
              (["a", "bc", "d"], [1, 2]), (["a", "bç"], [1, 2]), ([1, 2], ["a", "bc"])]  # fmt: skip
    prints = {store_of(*ids).fingerprint() for ids in others}
    assert one not in prints
    assert len(prints) == len(others)


def test_the_fingerprint_is_the_same_everywhere():
    """Fixed: bundles of other versions of every library are compared by it."""
    from hashlib import blake2b

    digest = blake2b(digest_size=16)
    digest.update(b"text" + np.array([1, 3], dtype="<i8").tobytes() + "aé".encode() + b"z")
    digest.update(b"int64" + np.array([7, -1], dtype="<i8").tobytes())
    assert store_of(["a", "éz"], [7, -1]).fingerprint() == f"3-3-{digest.hexdigest()}"


def test_long_maps_are_fed_in_parts(monkeypatch):
    from hashlib import blake2b

    ids = pl.Series([f"user {i} ü" for i in range(1000)])
    digests = []
    for at_once in (7, 10**6):
        monkeypatch.setattr("suisen.recommending.store.IDS_PER_CHUNK", at_once)
        digest = blake2b()
        _feed(digest, ids)
        digests.append(digest.hexdigest())
    assert digests[0] == digests[1]


def test_guests_stay_behind_and_histories_are_whole():
    data = make_data(
        user=["a", None, "b", "a", None], item=[1, 2, 3, 2, 1], session=[1, 2, 3, 1, 2], time=[1, 2, 3, 4, 5]
    )
    store = Store.of(data)
    assert store.histories.tolist() == [[], [1, 2], [3]]
    assert store.history_times.tolist() == [1, 4, 3]
    assert store.trained_users.tolist() == [False, True, True]
    assert store.item_counts.tolist() == [0, 2, 2, 1]
    assert store.popular.tolist() == [1, 2, 3]
    contexts = store.contexts(torch.tensor([2, 0, 1]), 99)
    assert contexts.history.tolist() == [[3], [], [1, 2]]
    assert contexts.history_time.tolist() == [3, 1, 4]
    assert contexts.time.tolist() == [99, 99, 99]


def test_statistics_and_counts_come_from_train_alone():
    split = small_split()
    store = Store.of(split.train)
    assert int(store.item_counts.sum()) == len(split.train.events)
    assert store.histories.values.numel() == len(split.train.events)
    events = split.train.log.events
    counts = dict(events.group_by("item").len().iter_rows())
    raw = store.items.raw_ids.to_list()
    assert store.item_counts[1:].tolist() == [counts.get(item, 0) for item in raw]
    assert store.popular.tolist() == sorted(
        (i for i in range(1, len(raw) + 1) if raw[i - 1] in counts), key=lambda i: (-counts[raw[i - 1]], i)
    )


def test_without_time_nothing_has_one():
    store = Store.of(make_data(user=[1, 1], item=[3, 4]))
    assert store.contexts(torch.tensor([1]), time.time_ns() // 1000).time.tolist() == [0]


@pytest.mark.parametrize(("age", "says"), [(None, False), (float("nan"), False), (41.5, True)])
def test_a_number_says_something_where_there_is_one(age, says):
    store = Store.of(small_split().train)
    encoder = store.encoders["user"]
    frame = pl.DataFrame({"age": pl.Series([age], dtype=pl.Float64)})
    assert saying(encoder, encoder.encode(frame), frame).tolist() == [says]


def test_a_ready_store_makes_nothing_at_its_first_use(monkeypatch):
    store = Store.of(small_split().train).ready()
    monkeypatch.setattr("suisen.data.ids.HashTable", None)
    monkeypatch.setattr("suisen.recommending.store.saying", None)
    monkeypatch.setattr(Store, "by_popularity", None)
    user = torch.from_numpy(store.users.dense([store.users.raw_ids[0]]))
    assert user.tolist() == [1]
    assert store.featured_users[user].shape == (1,)
    assert store.titles(store.popular[:2]) == [store.title_list[int(i)] for i in store.popular[:2]]


@pytest.mark.parametrize("text", ["i", "I0", "1", "日本", "i007", "«", "item 1", "no such", "(", ".*"])
@pytest.mark.parametrize("n", [1, 7, 100])
def test_items_are_found_as_a_slow_search_finds_them(text, n):
    store = Store.of(small_split().train)
    groups = {3: [], 2: [], 1: []}
    for item in range(1, len(store.title_list)):
        title = store.title_list[item].lower()
        how = 3 if store.items.raw_ids[item - 1] == text else 2 if title.startswith(text.lower()) else 1
        if how == 3 or text.lower() in title:
            groups[how].append(item)
    expected = [item for how in groups for item in sorted(groups[how], key=lambda one: (-store.item_counts[one], one))]
    assert store.search(text, n).tolist() == expected[:n]
