"""What has happened since the bundle was made."""

from __future__ import annotations

import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data import ids
from suisen.errors import InputError
from suisen.models import MODELS
from suisen.recommending.answering import answer
from suisen.recommending.queries import RawQueries, RecommendOptions, dense_queries
from suisen.recommending.store import Store
from suisen.recommending.users import ENTRY, EVENT, MOST, RecentEvents
from tests.fitted import LONELY, NEW_ITEM, fitted
from tests.helpers import make_data

LIMIT = 1 << 20
DAY = 86_400_000_000
USERS = ["u0001", "u0002", "ghost", 7]
ITEMS = ["i001", "i002", "i003", "i004", "no such item"]
EVENTS = st.tuples(st.sampled_from([*USERS, None]), st.sampled_from(ITEMS), st.integers(0, 4))


def store_of(name="ease") -> Store:
    return fitted(name).store


def last_time(store) -> int:
    return int(store.history_times.max())


def held(recent, user):
    """(items, times) of one user's events alone."""
    store = recent._store
    contexts = recent.followed(store.contexts(torch.tensor([0]), 0), [None])
    assert contexts.history.values.numel() == 0  # nobody has no events
    dense = torch.from_numpy(store.users.dense([user]))
    stored = int(store.histories.take(dense).values.numel())
    contexts = recent.followed(store.contexts(dense, 0), [user])
    return contexts.history.values[stored:].tolist(), contexts.history_time[stored:].tolist()


def test_no_model_reads_more_than_is_kept():
    readers = {}
    for name, model in MODELS.items():
        for field in ("length", "history", "recent"):
            if hasattr(model, field):
                with pytest.raises(InputError, match=field):
                    model(**{field: MOST + 1})
                readers[name] = field
    assert {"sasrec", "bert4rec", "gru4rec", "two-tower", "fm"} <= readers.keys()


# -- order ----------------------------------------------------------------------------------------------------------


def test_events_follow_the_stored_history_in_order_of_time():
    store = store_of()
    recent, after = RecentEvents(store, LIMIT), last_time(store)
    users = ["u0001", "ghost", "u0001", "u0001", "u0001"]
    unknown = recent.add(
        users, ["i001", "i002", "i003", "no such item", NEW_ITEM], [after + t for t in (9, 5, 4, 6, 9)]
    )
    assert unknown == 1
    assert len(recent) == 2
    found = dense_queries(store, RawQueries(["u0002", "u0001", None, "ghost"]), None, recent)
    stored = store.histories.take(torch.from_numpy(store.users.dense(["u0002", "u0001"]))).tolist()
    new = store.items.dense(["i003", "i001", NEW_ITEM]).tolist()  # equal times: as they came
    assert found.contexts.history.tolist() == [stored[0], stored[1] + new, [], store.items.dense(["i002"]).tolist()]
    assert found.contexts.history_time[len(stored[0] + stored[1]) :].tolist() == [after + t for t in (4, 9, 9, 5)]
    assert torch.equal(found.seen.values, found.contexts.history.values)
    assert found.known.tolist() == [True, True, False, False]


def test_what_comes_late_stands_where_its_time_belongs():
    store = store_of()
    dense = torch.from_numpy(store.users.dense(["u0003"]))
    before = store.contexts(dense, 0)
    middle = int(before.history_time[2])
    recent = RecentEvents(store, LIMIT)
    recent.add(["u0003", "u0003"], ["i001", "i002"], [middle, last_time(store) + 1])
    after = recent.followed(before, ["u0003"])
    place = int((before.history_time <= middle).sum())
    first, last = store.items.dense(["i001", "i002"]).tolist()
    stored = before.history.values.tolist()
    assert after.history.values.tolist() == [*stored[:place], first, *stored[place:], last]
    assert bool((after.history_time.diff() >= 0).all())


def test_the_time_of_a_query_hides_what_came_after_it():
    store = store_of()
    recent, after = RecentEvents(store, LIMIT), last_time(store)
    recent.add(["u0001", "u0001"], ["i001", "i002"], [after + 10, after + 20])
    (early,) = dense_queries(store, RawQueries(["u0001"]), after + 20, recent).contexts.history.tolist()
    assert early[-1] == store.items.dense_one("i001")
    assert len(early) == int(store.histories.lengths[store.users.dense_one("u0001")]) + 1


def test_sessions_are_guests_and_no_users():
    """An event counts for its user, or for its session where it names none; ids of both kinds never mix."""
    store = store_of()
    recent, after = RecentEvents(store, LIMIT), last_time(store) + 1
    sessions = ["u0001", "u0001", "s", 7, None, "ghost", "stranger"]
    users = [None, "u0002", None, None, None, "ghost", None]
    unknown = recent.add(users, ["i001", "i002", "i003", "i004", "i005", "i001", "i001"], [after] * 7, sessions)
    assert (unknown, len(recent)) == (0, 6)  # the fifth event is nobody's
    assert held(recent, "u0001") == held(recent, "stranger") == ([], [])
    i = {raw: store.items.dense_one(raw) for raw in ("i001", "i002", "i003", "i004")}
    queries = RawQueries(sessions=["u0001", "s", "7", None, "u0002"])
    known = dense_queries(store, queries, None, recent).contexts.history.tolist()
    assert known == [[i["i001"]], [i["i003"]], [i["i004"]], [], []]
    assert dense_queries(store, queries, None).contexts.history.tolist() == [[], [], [], [], []]


def test_a_user_keeps_what_the_session_did_before_they_were_known():
    store = store_of()
    recent, after = RecentEvents(store, LIMIT), last_time(store) + 1
    recent.add(
        [None, "u0001", None, "u0001"],
        ["i001", "i002", "i003", "i004"],
        [after + time for time in (1, 2, 3, 4)],
        ["s", "s", "s", None],
    )
    queries = RawQueries(["u0001", "ghost", "u0001", None], sessions=["s", "s", "other", "s"])
    found = dense_queries(store, queries, None, recent)
    stored = store.histories.take(torch.from_numpy(store.users.dense(["u0001"]))).values.tolist()
    a, b, c, d = store.items.dense(["i001", "i002", "i003", "i004"]).tolist()
    assert found.contexts.history.tolist() == [[*stored, a, b, c, d], [a, c], [*stored, b, d], [a, c]]
    assert found.known.tolist() == [True, False, True, False]
    assert bool((found.contexts.history_time[: len(stored) + 4].diff() >= 0).all())


def test_without_times_events_stand_behind_in_their_order():
    store = Store.of(make_data(user=["a", "a"], item=[1, 2]))
    recent = RecentEvents(store, LIMIT)
    recent.add(["a", "a"], [2, "1"], [DAY, 5])
    contexts = recent.followed(store.contexts(torch.tensor([1]), 0), ["a"])
    assert contexts.history.tolist() == [[1, 2, 1, 2]]
    assert contexts.history_time.tolist() == [0, 0, 0, 0]


def test_without_times_a_session_and_its_user_stand_in_the_order_of_their_events():
    store = Store.of(make_data(user=["a", "a"], item=[1, 2]))
    recent = RecentEvents(store, LIMIT)
    recent.add(["a", None, "a", None], [1, 2, 2, 1], [10, 20, 30, 20], [None, "s", None, "s"])
    contexts = recent.followed(store.contexts(torch.tensor([1]), 0), ["a"], ["s"])
    assert contexts.history.tolist() == [[1, 2, 1, 2, 1, 2]]


def test_a_given_history_takes_the_place_of_events():
    store = store_of()
    recent = RecentEvents(store, LIMIT)
    recent.add(["u0001", "u0002"], ["i001", "i001"], [last_time(store) + 1] * 2)
    queries = RawQueries(["u0001", "u0002"], history=[["i005"], None])
    first, second = dense_queries(store, queries, None, recent).contexts.history.tolist()
    assert first == [store.items.dense_one("i005")]
    assert second[-1] == store.items.dense_one("i001")


def test_ids_are_the_same_whatever_their_type():
    recent = RecentEvents(store_of(), LIMIT)
    recent.add([7, "7", "u0001"], ["i001", "i002", "i001"], [1, 2, 3])
    assert len(recent) == 2
    assert held(recent, 7) == held(recent, "7")
    assert len(held(recent, "7")[0]) == 2
    numbers = fitted("ease", "whole").store
    recent = RecentEvents(numbers, LIMIT)
    assert recent.add(["1", 1, 123456], [5, "5", "x"], [1, 2, 3]) == 1
    assert len(recent) == 1


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(EVENTS, max_size=6), max_size=6), st.integers(1, 5))
def test_rows_are_the_newest_different_events_in_order(batches, most):
    store = store_of()
    recent, after = RecentEvents(store, LIMIT, most), last_time(store) + 1
    slow: dict = {}
    for batch in batches:
        unknown = recent.add([e[0] for e in batch], [e[1] for e in batch], [after + e[2] for e in batch])
        assert unknown == sum(item == "no such item" for _, item, _ in batch)
        for user in {user for user, _, _ in batch} - {None}:
            its = [(store.items.dense_one(i), after + t) for who, i, t in batch if who == user and i != "no such item"]
            distinct = dict.fromkeys(slow.get(user, []) + its)
            slow[user] = sorted(distinct, key=lambda event: event[1])[-most:]
    for user in USERS:
        assert list(zip(*held(recent, user))) == slow.get(user, [])
    assert len(recent) == sum(map(bool, slow.values()))


# -- memory ---------------------------------------------------------------------------------------------------------


def size(key, events):
    return ENTRY + sys.getsizeof(key) + sys.getsizeof(bytes(16 * events))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4), st.booleans()), max_size=40), st.integers(0, 2000))
def test_bytes_never_pass_the_limit_and_the_least_recent_go_first(steps, limit):
    recent = RecentEvents(store_of(), limit, most=6)
    used: dict = {}
    for time, (who, events, asked) in enumerate(steps):
        user = f"guest {who}"
        if asked:
            held(recent, user)
            if user in used:
                used[user] = used.pop(user)
            continue
        recent.add([user] * events, ITEMS[:events], [100 * time] * events)
        used[user] = min(6, used.pop(user, 0) + events)
        while sum(size(*row) for row in used.items()) > limit:
            del used[next(iter(used))]
        assert recent.nbytes == sum(size(*row) for row in used.items()) <= limit
        assert len(recent) == len(used)
    for user, events in used.items():
        assert len(held(recent, user)[0]) == events


def test_who_is_asked_for_stays():
    recent = RecentEvents(store_of(), 3 * size("guest 1", 1))
    for who in (1, 2, 3):
        recent.add([f"guest {who}"], ["i001"], [who])
    assert held(recent, "guest 1")[1] == [1]
    recent.add(["guest 4"], ["i001"], [4])
    assert [held(recent, f"guest {who}")[1] for who in (1, 2, 3, 4)] == [[1], [], [3], [4]]


def test_the_bytes_that_are_counted_are_there(monkeypatch):
    monkeypatch.setattr(ids, "KEPT", 0)  # what the id maps remember is theirs
    store = store_of()
    _ = store.users.table, store.items.table
    tracemalloc.start()
    try:
        recent = RecentEvents(store, LIMIT)
        for part in range(200):  # several times what fits
            users = [f"{part:03} {one:02}" if one % 2 else one + 100 * part for one in range(50)]
            recent.add([user for user in users for _ in range(3)], ["i001", "i002", "i003"] * 50, [part] * 150)
            users = None
            assert tracemalloc.get_traced_memory()[0] <= recent.nbytes + 50_000
            tracemalloc.reset_peak()
    finally:
        tracemalloc.stop()
    assert LIMIT - 1000 < recent.nbytes <= LIMIT
    assert 2000 < len(recent) < 4000


def test_a_user_who_fits_nowhere_is_not_held():
    recent = RecentEvents(store_of(), 300)
    recent.add(["u0001"], ["i001"], [1])
    assert (len(recent), recent.nbytes) == (0, 0)


# -- threads --------------------------------------------------------------------------------------------------------


def test_writers_and_readers_meet_whole_rows_only():
    store = store_of()
    recent, after = RecentEvents(store, LIMIT), last_time(store) + 1

    def write(part):
        for at in range(60):
            recent.add(["u0001", "ghost"] * 2, ["i001", "i001", "i002", "i002"], [after + 100 * at + part] * 4)

    def read(_):
        for _ in range(120):
            for user in ("u0001", "ghost"):
                items, times = held(recent, user)
                assert len(items) % 2 == 0  # both events of a batch or none
                assert times == sorted(times)
                assert len(set(zip(items, times))) == len(items)

    with ThreadPoolExecutor(6) as pool:
        done = [pool.submit(write, part) for part in range(3)] + [pool.submit(read, part) for part in range(3)]
        for one in done:
            one.result()
    assert [len(held(recent, user)[0]) for user in ("u0001", "ghost")] == [360, 360]


# -- answers --------------------------------------------------------------------------------------------------------


def test_an_answer_is_that_of_the_whole_history(rec):
    """For every model: events count as if the query had brought what is stored and what is new."""
    store, system = rec.store, rec.system
    recent, after = RecentEvents(store, LIMIT), last_time(store) + 1
    stored = store.items.raw(store.histories.take(torch.tensor([store.users.dense_one("u0005")])).values.numpy())
    new = rec.recommend(["u0005"], k=3)["item_id"].to_list()
    recent.add(["u0005"] * 3 + [LONELY] * 3, new * 2, [after, after + 1, after + 2] * 2)
    for exclude_seen in (True, False):
        options = RecommendOptions(20, exclude_seen=exclude_seen, unknown="popular")
        for user, whole in (("u0005", [*stored, *new]), (LONELY, new)):
            got = answer(system, RawQueries([user]), options, recent)
            want = rec.answer(RawQueries([user], history=[whole]), options)
            assert torch.equal(got.items, want.items)
            assert torch.equal(got.scores, want.scores)
            assert got.by == want.by
            shown = set(store.items.raw(got.items[got.items > 0].numpy()).to_list())
            assert not (exclude_seen and shown & set(whole))


# -- what other servers heard of ---------------------------------------------------------------------------------------

TOLD = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=8)
"""(time, dense item), 0: an item that the bundle does not know."""


def rows(events):
    """Events as an array."""
    return np.array(events, dtype=EVENT)


@given(TOLD, TOLD)
def test_what_two_servers_heard_is_one_history_in_one_order(here, there):
    store = store_of()
    recent, other = RecentEvents(store, LIMIT), RecentEvents(store, LIMIT)
    recent.merge("guest", rows(here))
    mine = recent.of("guest")
    own = recent.merge("guest", rows(there))
    told = list(dict.fromkeys(event for event in there if event[1]))
    known = [event for event in dict.fromkeys(here) if event[1]]
    assert sorted(own.tolist()) == sorted(set(known) - set(told))
    other.merge("guest", rows([*there, *own.tolist()]))
    assert recent.of("guest") == other.of("guest")
    events = np.frombuffer(recent.of("guest") or b"", dtype=EVENT).tolist()
    assert events == sorted([*told, *own.tolist()], key=lambda event: event[0])
    assert (recent.of("guest") is mine) == (recent.of("guest") == mine)  # rows hold as long as it is the same object
    assert recent.nbytes == other.nbytes


@pytest.mark.parametrize("way", ["add", "merge"])
def test_an_event_that_the_bundle_holds_does_not_count_again(way):
    store = store_of()
    dense = int(store.users.dense(["u0007"])[0])
    places = slice(*store.histories.offsets[dense : dense + 2].tolist())
    items, times = store.histories.values[places].tolist(), store.history_times[places].tolist()
    assert len(items) > 1
    recent = RecentEvents(store, LIMIT)
    new = [(times[0] + 1, items[0]), (times[0], max(items) % 60 + 1), (times[-1] + 1, items[-1])]
    events = [*zip(times, items, strict=True), *new]
    if way == "add":
        raw = store.items.raw(np.array([item for _, item in events])).to_list()
        recent.add(["u0007"] * len(events), raw, [time for time, _ in events])
        recent.add(["guest"] * len(events), raw, [time for time, _ in events])
    else:
        assert not len(recent.merge(dense, rows(events)))
        recent.merge("guest", rows(events))
    counted = np.frombuffer(recent.of(dense), dtype=EVENT).tolist()
    assert sorted(counted) == sorted(set(new) - set(zip(times, items, strict=True)))
    assert len(recent.of("guest")) // EVENT.itemsize == len(set(events))
