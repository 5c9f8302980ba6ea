"""Rows of those who ask: answers stay those of ``answer``, whatever is kept, dropped, sent meanwhile or spelled."""

from __future__ import annotations

import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data import ids
from suisen.errors import InputError, UnsupportedQuery
from suisen.models import SASRec
from suisen.pipeline.recommender import Recommender
from suisen.recommending import planning, states
from suisen.recommending.answering import answer, answer_planned, planned
from suisen.recommending.kernels import PRECISE
from suisen.recommending.queries import RawQueries, RecommendOptions, answerable, dense_queries
from suisen.recommending.rules.declared import Rules
from suisen.recommending.states import ENTRY, NOBODY, STRANGER, VisitorRows
from suisen.recommending.users import RecentEvents
from tests.fitted import EVERY, LONELY, NEW_USER, fitted
from tests.helpers import make_data
from tests.recommending.planning import with_plan

LIMIT = 1 << 20
PLANNED = ["popularity", "ease", "ials", "mf", "sasrec", "two-tower + deepfm", "ease + fm"]
USERS = ["u0001", "u0002", "u0003", NEW_USER, LONELY, "ghost", "another ghost", None]
MANY = [f"u{one:04}" for one in range(1, 15)] + ["a", "b"]
SESSIONS = ["s 1", "s 2", "u0001", None]


@cache
def compiled(name):
    """The plan of compiled kernels, in float32, so that its lists are the precise ones but for ties."""
    plan = planning.make(fitted(name).system)
    if not isinstance(plan, str):
        plan.speed = plan.long_speed = PRECISE
    return plan


def room(name, limit=LIMIT, ids="text", plan=None):
    """(system with a plan, its rows, the events that they look at)."""
    system = with_plan(fitted(name, ids).system, plan)
    recent = RecentEvents(system.store, LIMIT)
    return system, VisitorRows(system, recent, limit), recent


def after(store, time=1):
    return int(store.history_times.max()) + time


def options_of(k, **others):
    return RecommendOptions(k, precise=False, **others)


def right(rows, queries):
    """Whether rows are those that the queries have when nothing is kept."""
    dense = dense_queries(rows._store, queries, None, rows.recent)
    able = answerable(dense, rows._abilities)
    got = rows.of(queries)
    assert got.able.tolist() == able.tolist()
    seen = [np.frombuffer(row, np.int32).tolist() for row in got.seen]
    assert seen == [sorted(set(row)) for row in dense.contexts.history.tolist()]
    for at in able.nonzero().flatten().tolist():
        want = rows.plan.prepare(dense.contexts.take(torch.tensor([at])))
        np.testing.assert_allclose(got.states.queries[at], want.queries[0], rtol=1e-5, atol=1e-5)
        if want.rows is not None:
            np.testing.assert_allclose(got.states.rows[at], want.rows[0], rtol=1e-5, atol=1e-5)
    assert not got.states.queries[~got.able].any()


# -- what is kept ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLANNED)
def test_a_row_is_computed_once_and_then_kept(name):
    system, rows, _ = room(name)
    prepared = system.engine.plan.prepared
    queries = RawQueries(["u0001", "ghost", "u0002", None])
    first = rows.of(queries)
    made = len(prepared)
    again = rows.of(RawQueries([None, "u0002", "ghost", "u0001"]))
    assert len(prepared) == made
    assert (rows.hits, rows.misses, len(rows)) == (4, 4, 4)
    order = [3, 2, 1, 0]
    assert np.array_equal(again.states.queries, first.states.queries[order])
    assert first.states.rows is None or np.array_equal(again.states.rows, first.states.rows[order])
    assert again.able.tolist() == first.able[order].tolist()
    assert again.seen == [first.seen[at] for at in order]
    right(rows, queries)


@pytest.mark.parametrize("name", PLANNED)
def test_an_event_makes_the_row_anew(name):
    system, rows, recent = room(name)
    queries = RawQueries(["u0001", "ghost", None, None], sessions=[None, None, "s", "t"])
    right(rows, queries)
    for step, (user, session) in enumerate([("u0001", None), ("ghost", None), (None, "s"), (None, "s")]):
        misses = rows.misses
        recent.add([user], [f"i00{step + 1}"], [after(system.store, step)], [session])
        right(rows, queries)
        assert rows.misses == misses + 1
        right(rows, queries)
        assert rows.misses == misses + 1


@pytest.mark.parametrize("who", ["u0001", "ghost", "session"])
def test_no_row_outlives_an_event_that_came_while_it_was_computed(who):
    system, rows, recent = room("two-tower + deepfm")
    user, session = (None, "s") if who == "session" else (who, None)
    queries = RawQueries([user], sessions=[session])
    recent.add([user], ["i001"], [after(system.store)], [session])

    def meanwhile():
        system.engine.plan.on_prepare = lambda: None
        recent.add([user], ["i002"], [after(system.store, 2)], [session])

    system.engine.plan.on_prepare = meanwhile
    rows.of(queries)
    assert np.int32(system.store.items.dense_one("i002")).tobytes() in rows.of(queries).seen[0]
    right(rows, queries)


def test_what_a_session_does_meanwhile_is_in_no_users_row(monkeypatch):
    system, rows, recent = room("ease")
    compute = rows._compute

    def late(*parts):
        recent.add([None], ["i002"], [after(system.store)], ["s"])
        compute(*parts)

    monkeypatch.setattr(rows, "_compute", late)
    rows.of(RawQueries(["u0001", None], sessions=["s", "s"]))
    monkeypatch.undo()
    right(rows, RawQueries(["u0001", None]))
    right(rows, RawQueries(["u0001", None], sessions=["s", "s"]))


def test_users_and_sessions_of_one_name_have_rows_of_their_own():
    system, rows, recent = room("ease")
    recent.add([None, None], ["i001", "i002"], [after(system.store)] * 2, ["u0001", "ghost"])
    right(rows, RawQueries(["u0001", "ghost", None, None], sessions=[None, None, "u0001", "ghost"]))
    right(rows, RawQueries(["u0001", "ghost", None, None], sessions=["ghost", "u0001", "u0001", "ghost"]))


def test_what_brings_its_own_is_not_kept():
    system, rows, _ = room("two-tower + deepfm")
    users = ["u0001"] * 4
    own = RawQueries(
        users,
        history=[None, ["i001"], None, []],
        user_features=[{"segment": "1"}, None, None, None],
        context=[None, None, {"device": "phone"}, None],
    )
    right(rows, own)
    assert (len(rows), rows.hits) == (0, 0)
    right(rows, RawQueries(users))
    assert len(rows) == 1
    right(rows, own)
    assert system.engine.plan.prepared


def test_networks_that_read_the_time_keep_nothing(monkeypatch):
    system, rows, _ = room("two-tower + deepfm")
    monkeypatch.setattr(type(system.engine.ranker), "reads_time", True)
    rows = VisitorRows(system, rows.recent, LIMIT)
    right(rows, RawQueries(["u0001", "ghost"]))
    right(rows, RawQueries(["u0001", "ghost"]))
    assert (len(rows), rows.nbytes, rows.hits) == (0, 0, 0)


@pytest.mark.parametrize("name", EVERY)
def test_networks_say_whether_they_read_the_time(name):
    engine = fitted(name).engine
    contexts = fitted(name).store.contexts(torch.arange(1, 6), 1)
    later = type(contexts)(
        **{**vars(contexts), "time": contexts.time + 10**12, "history_time": contexts.history_time * 0}
    )
    with torch.no_grad():
        for net in (engine.retriever, engine.ranker):
            if net is not None and not net.reads_time:
                assert torch.equal(net.prepare_contexts(contexts), net.prepare_contexts(later))


def test_a_bundle_of_guests_alone_has_rows():
    data = make_data(user=[None] * 6, session=["a", "a", "b", "b", "c", "c"], item=[1, 2, 2, 3, 3, 1])
    system = with_plan(Recommender(SASRec(dim=8, epochs=1, blocks=1, heads=1)).fit(data).system)
    rows = VisitorRows(system, RecentEvents(system.store, LIMIT), LIMIT)
    rows.warm(600.0)
    assert len(rows) == 0
    right(rows, RawQueries(["x", None, None], sessions=[None, "a", None], history=[None, None, [1, 2]]))
    rows.recent.add([None], [2], [5], ["a"])
    right(rows, RawQueries(["x", None, None], sessions=[None, "a", None]))
    assert [key for key in rows._slots if key != NOBODY] == ["x", b"a"]


def test_a_system_without_a_plan_has_no_rows():
    system = fitted("ease").system
    with pytest.raises(TypeError, match="no plan"):
        VisitorRows(system, RecentEvents(system.store, LIMIT), LIMIT)


# -- ids ------------------------------------------------------------------------------------------------------------


def test_ids_are_the_same_whatever_their_type():
    _, rows, recent = room("ease", ids="whole")
    spelled = [1, "1", "01", "+1", " 1", "x1", 999_999, "999999", "-7", -7, "-07", "", "१", "9" * 30]
    for _ in range(3):
        right(rows, RawQueries(spelled))
    assert rows.hits == 2 * len(spelled)
    recent.add(["1", 999_999, "-7", "-07"], [1, 2, 3, 4], [after(rows._store)] * 4)
    for _ in range(2):
        right(rows, RawQueries(spelled))
    _, rows, recent = room("ease")
    for _ in range(2):
        right(rows, RawQueries([7, "7", "u0001"]))
    recent.add([7], ["i001"], [after(rows._store)])
    right(rows, RawQueries([7, "7", "u0001"]))


# -- before the first query -----------------------------------------------------------------------------------------


def by_last_event(store):
    """Users of train with events, who acted last first."""
    known = [user for user in store.trained_users.nonzero().squeeze(1).tolist() if store.histories.lengths[user]]
    ends = store.histories.offsets[1:]
    known.sort(key=lambda user: -int(store.history_times[ends[user] - 1]))
    return store.users.raw(np.array(known)).to_list()


@pytest.mark.parametrize("name", ["two-tower + deepfm", "mf"])
def test_rows_are_warm_before_anybody_asks(name):
    system, rows, _ = room(name, 10 * LIMIT)
    rows.warm(0.0)
    assert len(rows) == 0
    rows.warm(600.0)
    users = by_last_event(system.store)
    assert (len(rows), rows.misses) == (len(users), 0)
    right(rows, RawQueries(users[:20]))
    assert (rows.hits, rows.misses) == (20, 0)


def test_those_who_acted_last_are_warmed_first(monkeypatch):
    monkeypatch.setattr(states, "WARMED", 4)
    system, rows, recent = room("mf")
    rows.of(RawQueries(["u0001"]))
    few = VisitorRows(system, recent, 11 * (rows.nbytes + 60))
    few.warm(600.0)
    assert 4 < len(few) < 20
    assert few.nbytes <= 11 * (rows.nbytes + 60)
    assert set(few._slots) <= set(by_last_event(system.store)[: 4 * (len(few) // 4 + 1)])
    _, none, _ = room("mf", 0)
    none.warm(600.0)
    assert len(none) == 0


# -- memory ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.tuples(st.lists(st.sampled_from(MANY), min_size=1, max_size=5), st.booleans()), max_size=20),
    st.integers(0, 6000),
)
def test_bytes_never_pass_the_limit_and_the_least_recent_go_first(steps, limit):
    system, rows, recent = room("sasrec", limit)
    used: dict = {}
    for step, (users, act) in enumerate(steps):
        if act:
            recent.add(users[:1], ["i001"], [after(system.store, step)])
        right(rows, RawQueries(users))
        held = [(key, slot) for key, slot in rows._slots.items()]
        total = 0
        for key, slot in held:
            total += ENTRY + sys.getsizeof(key)
            if slot != STRANGER:
                events = rows._events[slot]
                total += rows.bytes_of_a_row + sys.getsizeof(rows._seen[slot])
                total += sys.getsizeof(events) if events is not None else 0
        assert rows.nbytes == total <= limit
        assert len({slot for _, slot in held if slot}) == sum(slot != STRANGER for _, slot in held)
        for user in users:
            used.pop(user, None)
            used[user] = None
        kept = [key for key, _ in held]
        assert set(kept) <= set(used)
        order = [user for user in used if user in kept]
        assert set(order) == set(kept)
    if limit >= 6000 - 1 and steps:
        assert len(rows)


def test_who_is_asked_for_stays():
    system, rows, _ = room("mf")
    size = ENTRY + sys.getsizeof("u0001") + rows.bytes_of_a_row + sys.getsizeof(rows.of(RawQueries(["u0001"])).seen[0])
    rows = VisitorRows(system, rows.recent, 3 * size + 200)
    for user in ("u0001", "u0002", "u0003", "u0001", "u0004"):
        rows.of(RawQueries([user]))
    assert "u0001" in rows._slots
    assert "u0002" not in rows._slots


def test_the_bytes_that_are_counted_are_there(monkeypatch):
    monkeypatch.setattr(ids, "KEPT", 0)  # what the id maps remember is theirs
    system, rows, recent = room("two-tower + deepfm")
    rows.of(RawQueries(["u0001"]))
    tracemalloc.start()
    try:
        rows = VisitorRows(system, recent, LIMIT)
        floats = rows._queries.nbytes + rows._rows.nbytes + rows._able.nbytes
        assert floats <= LIMIT
        for part in range(60):
            rows.of(RawQueries([f"{part:03} somebody {one}" for one in range(50)]))
            unwritten = floats - len(rows) * rows.bytes_of_a_row
            assert tracemalloc.get_traced_memory()[0] - unwritten <= rows.nbytes + 100_000
    finally:
        tracemalloc.stop()
    assert LIMIT - 5000 < rows.nbytes <= LIMIT


def test_without_memory_everything_is_computed_each_time():
    _, rows, _ = room("ease", 0)
    for _ in range(2):
        right(rows, RawQueries(["u0001", "ghost", None]))
    assert (len(rows), rows.nbytes, rows.hits) == (0, 0, 0)


# -- threads --------------------------------------------------------------------------------------------------------


def test_threads_meet_whole_rows_only():
    """What was acknowledged before a query is in its row, with many asking, few rows kept, and events between."""
    system, rows, recent = room("mf", 6000)
    store, users = system.store, [f"u{one:04}" for one in range(1, 25)]

    def live(user):
        taken = set()
        for step in range(12):
            row = rows.of(RawQueries([user, "u0030", user]))
            for seen in (row.seen[0], row.seen[2]):
                assert taken <= set(np.frombuffer(seen, np.int32).tolist())
            dense = dense_queries(store, RawQueries([user]), None)
            want = system.engine.plan.prepare(dense.contexts).queries[0]
            assert np.allclose(row.states.queries[0], want, atol=1e-5)
            item = f"i{(step * 7 + int(user[1:])) % 78 + 1:03}"
            recent.add([user], [item], [after(store, step)])
            taken.add(store.items.dense_one(item))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(live, user) for user in users]:
            done.result()
    assert rows.hits + rows.misses == 3 * 12 * 24


# -- answers --------------------------------------------------------------------------------------------------------


ITEMS = [f"i{one:03}" for one in range(1, 60)] + ["no such item"]
QUERY = st.fixed_dictionaries(
    {
        "user": st.sampled_from(USERS),
        "session": st.sampled_from(SESSIONS),
        "history": st.none() | st.lists(st.sampled_from(ITEMS), max_size=5),
        "features": st.none() | st.sampled_from([{"segment": "1"}, {"age": None, "segment": "no such"}]),
        "context": st.none() | st.sampled_from([{"device": "phone"}, {}]),
        "exclude": st.just(()) | st.lists(st.sampled_from(ITEMS), max_size=30).map(tuple),
        "exclude_seen": st.booleans(),
        "unknown": st.sampled_from(["popular", "skip"]),
    }
)


@pytest.mark.parametrize("name", [*PLANNED, "compiled mf", "compiled two-tower + deepfm", "compiled ease + fm"])
@settings(deadline=None, max_examples=15)
@given(data=st.data())
def test_answers_by_the_plan_are_those_of_answer(name, data):
    plan = compiled(name.removeprefix("compiled ")) if name.startswith("compiled") else None
    if plan == planning.NO_PATH:
        pytest.skip(plan)
    system, rows, recent = room(name.removeprefix("compiled "), plan=plan)
    events = data.draw(st.lists(st.tuples(st.sampled_from(USERS), st.sampled_from(SESSIONS), st.sampled_from(ITEMS))))
    recent.add(
        [e[0] for e in events], [e[2] for e in events], [after(system.store)] * len(events), [e[1] for e in events]
    )
    k = data.draw(st.sampled_from([1, 3, 10, 79, 200, 1000]))
    among = data.draw(st.none() | st.lists(st.sampled_from(ITEMS), max_size=40).map(tuple))
    for _ in range(2):
        asked = data.draw(st.lists(QUERY, min_size=1, max_size=6))
        options = [
            options_of(k, among=among, **{name: one[name] for name in ("exclude", "exclude_seen", "unknown")})
            for one in asked
        ]
        parts = {"history": "history", "user_features": "features", "context": "context", "sessions": "session"}
        queries = RawQueries(
            [one["user"] for one in asked], **{part: [one[key] for one in asked] for part, key in parts.items()}
        )
        got = answer_planned(system, rows, queries, options)
        for at, one in enumerate(options):
            want = answer(system, queries.take([at]), one, recent)
            assert got.by[at] == want.by[0]
            close = torch.isclose(got.scores[at], want.scores[0], rtol=1e-4, atol=1e-4)
            assert bool((close | (got.scores[at] == want.scores[0])).all())
            same = got.items[at] == want.items[0]
            tied = torch.isclose(want.scores[0][:, None], want.scores[0][None], rtol=1e-4, atol=1e-4).sum(1) > 1
            last = (
                want.scores[0] <= want.scores[0][want.items[0] > 0].min() + 1e-4
                if bool((want.items[0] > 0).any())
                else same
            )
            assert bool((same | tied | last).all())
            shown = got.items[at][got.items[at] > 0].tolist()
            assert len(shown) == len(set(shown)) == int((want.items[0] > 0).sum())


def test_a_query_that_cannot_be_answered_is_an_error_where_that_is_wished():
    system, rows, _ = room("mf")
    strict, lenient = options_of(5), options_of(5, unknown="skip")
    with pytest.raises(UnsupportedQuery, match="'ghost'"):
        answer_planned(system, rows, RawQueries(["ghost", "u0001"]), [strict, lenient])
    assert answer_planned(system, rows, RawQueries(["ghost", "u0001"]), [lenient, strict]).by == ["nobody", "model"]
    with pytest.raises(InputError, match="no such feature"):
        answer_planned(system, rows, RawQueries(["u0001"], user_features=[{"no such feature": 1}]), [strict])


def test_what_a_plan_takes():
    system = room("mf")[0]
    assert planned(system, options_of(1000, exclude=("a",), among=("b",), exclude_seen=False, unknown="skip"))
    assert not planned(system, options_of(1001))
    assert not planned(system, options_of(10, diversity=0.1))
    assert not planned(system, options_of(10, at=0))
    assert not planned(system, RecommendOptions(10))
    assert not planned(fitted("mf").system, options_of(10))
    capped = Rules.of({"cap": [{"name": "c", "column": "category", "most": 1}]})
    assert planned(replace(system, rules=capped), options_of(10))
    assert not planned(replace(system, rules=capped), replace(options_of(10), rules=capped))


def test_nobodys_key_is_no_sessions():
    _, rows, recent = room("ease")
    recent.add([None], ["i001"], [after(rows._store)], [""])  # the library allows what HTTP refuses
    for _ in range(2):
        right(rows, RawQueries([None, None], sessions=["", None]))
    assert NOBODY in rows._slots
