"""The stage with a store in memory that can be slow, away or strange."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from dataclasses import replace

import pytest

from suisen.recommending.queries import RecommendOptions
from suisen.serving.answering import Answering, Degraded, Recommend, Similar
from suisen.serving.messages import Query
from suisen.serving.problems import Refusal
from suisen.serving.stores import stage as room
from suisen.serving.stores.bridge import Bridge
from suisen.serving.stores.stage import SharedUsers
from suisen.serving.stores.users import UNCHANGED, Found, StoreError, within
from suisen.serving.stores.wire import events_key, line, new_stamp, packed, row_key, unpacked
from suisen.serving.telemetry import Telemetry
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.events import logged

FAST = RecommendOptions(3, precise=False, unknown="popular")


class Memory:
    """A store in this process.  ``trips`` are the round trips; ``wait_s`` and ``error`` trouble them."""

    def __init__(self):
        self.values, self.trips, self.wait_s, self.error, self.writes = {}, [], 0.0, None, True

    async def exchange(self, sent, asked, rows):
        self.trips.append((list(sent), list(asked), dict(rows)))
        await self._trouble()
        new = []
        for one in sent:
            _, *old = self.values.get(one.key, b"x").split(b"\n")
            fresh = [each for each in dict.fromkeys(one.lines) if each not in old]
            new.append(b"".join(b"1" if each in fresh else b"0" for each in one.lines))
            if self.writes:
                body = [each for each in [*old, *fresh] if each]
                self.values[one.key] = b"\n".join([new_stamp(), *body]) + b"\n"
        found = [self.values.get(one.key) for one in asked]
        same = [one.stamp and value and value.startswith(one.stamp) for one, value in zip(asked, found, strict=True)]
        self.values.update(rows)
        values = [UNCHANGED if yes else value for yes, value in zip(same, found, strict=True)]
        return Found(new if self.writes else None, values)

    async def ping(self):
        await self._trouble()

    async def drop(self):
        pass

    async def _trouble(self):
        if self.error:
            raise self.error
        if self.wait_s:
            await asyncio.sleep(self.wait_s)


@pytest.fixture
def answering():
    return Answering(replace(with_plan(fitted("two-tower").system), version="M-1"))


def staged(story, **options):
    """Runs a story with a stage, its store and what computes."""

    async def run():
        store, telemetry = Memory(), Telemetry()
        users = SharedUsers(store, telemetry, **{"timeout_s": 1.0, "ttl_s": 60.0, **options})
        await users.start()
        try:
            return await story(users, store, telemetry)
        finally:
            await users.stop()

    return asyncio.run(run())


def job(*names, options=FAST):
    return Recommend([Query(user_id=name) for name in names], options)


async def answered(users, answering, *jobs):
    """The results of jobs that come in one turn."""
    waiting = []
    for one in jobs:
        future = asyncio.get_running_loop().create_future()
        users.before(answering, one, future.set_result, lambda done, one=one: done(answering.work([one])[0]))
        waiting.append(future)
    return await asyncio.gather(*waiting)


def value(telemetry, name, **labels):
    return telemetry.registry.get_sample_value(name, {"store": "users", **labels}) or 0


def test_what_one_turn_brings_is_one_round_trip_and_asks_for_each_visitor_once(answering):
    async def story(users, store, _):
        await answered(users, answering, job("u0001", "u0002"), job("u0001"), job("u0003"))
        assert len(store.trips) == 1 or store.trips[1][1] == []  # rows go along later
        keys = [one.key for one in store.trips[0][1]]
        assert len(keys) == len(set(keys)) == 6  # events and a row of each

    staged(story)


def test_queries_of_one_visitor_are_computed_once(answering, monkeypatch):
    sizes, prepare = [], answering.visitors.plan.prepare
    monkeypatch.setattr(
        answering.visitors.plan, "prepare", lambda contexts: sizes.append(len(contexts)) or prepare(contexts)
    )
    (found,) = answering.work([job("u0005", "u0005", "u0006", "u0005")])
    assert sizes == [2]
    assert [item.item_id for item in found[0].items] == [item.item_id for item in found[3].items]
    assert found[1].items == found[0].items != found[2].items


def test_nobody_and_given_histories_wait_for_no_store(answering):
    async def story(users, store, _):
        store.error = StoreError("away")
        done = []
        for one in (Similar("i001", 2), Recommend([Query(history=["i001"]), Query()], FAST)):
            users.before(answering, one, done.append, lambda done, one=one: done(answering.work([one])[0]))
        assert len(done) == 2
        assert not any(isinstance(one, Degraded) for one in done)
        assert store.trips == []

    staged(story)


def test_a_version_that_was_left_is_not_kept():
    async def story(users, *_):
        other = Answering(with_plan(fitted("ease").system))
        await answered(users, other, job("u0001"))
        gone = weakref.ref(other)
        del other
        await asyncio.sleep(0.01)
        gc.collect()
        assert gone() is None

    staged(story)


@pytest.mark.parametrize(
    ("left_s", "events", "outcome"), [(30.0, None, "hit"), (-0.001, None, "early"), (30.0, b"x", "stale")]
)
def test_a_row_is_read_unless_it_is_near_its_end_or_of_other_events(left_s, events, outcome, answering):
    answering.work([job("u0001")])
    made = answering.visitors.kept("u0001")
    key = row_key("M-1", "u:u0001")
    other = Answering(replace(with_plan(fitted("two-tower").system), version="M-1"))

    async def story(users, store, telemetry):
        store.values[key] = packed(key, made._replace(events=events), time.time() + left_s, 1e-6)
        await answered(users, other, job("u0001"))
        assert value(telemetry, "suisen_store_keys_total", outcome=outcome) == 1
        assert other.visitors.misses == (outcome != "hit")
        await asyncio.sleep(0.05)
        written = unpacked(key, store.values[key], made.events, other.visitors.widths, 1 << 20)
        assert written.expires > time.time() + 20
        assert (written.row.query == made.query).all()

    staged(story)


def test_a_version_without_a_name_shares_events_and_no_rows():
    plain = Answering(with_plan(fitted("two-tower").system))

    async def story(users, store, _):
        await answered(users, plain, job("u0001"))
        await asyncio.sleep(0.02)
        assert [one.key for one in store.trips[0][1]] == [events_key("u:u0001")]
        assert store.values == {}

    staged(story)


def test_a_refusal_of_the_computation_reaches_the_request(answering):
    def full(done):
        raise Refusal("overloaded", "too much")

    async def story(users, *_):
        future = asyncio.get_running_loop().create_future()
        users.before(answering, job("u0001"), future.set_result, full)
        assert isinstance(await future, Refusal)

    staged(story)


def test_a_slow_store_degrades_answers_within_the_time_out_and_is_then_left_alone(answering):
    async def story(users, store, telemetry):
        store.wait_s = 30.0
        for _ in range(3):
            began = time.monotonic()
            (result,) = await answered(users, answering, job("u0001"))
            assert isinstance(result, Degraded)
            assert time.monotonic() - began < 1.0
        trips = len(store.trips)
        assert value(telemetry, "suisen_breaker_open") == 1
        results = await answered(users, answering, *[job("u0001")] * 50)
        assert all(isinstance(result, Degraded) for result in results)
        assert len(store.trips) == trips
        assert value(telemetry, "suisen_store_requests_total", outcome="timeout") == 3
        assert value(telemetry, "suisen_store_requests_total", outcome="refused") == 50
        assert telemetry.registry.get_sample_value("suisen_degraded_total", {"what": "users"}) == 53
        store.wait_s = 0.0
        until = time.monotonic() + 10
        while isinstance((await answered(users, answering, job("u0001")))[0], Degraded):
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        assert value(telemetry, "suisen_breaker_open") == 0

    staged(story, timeout_s=0.02)


def test_events_wait_for_the_store_up_to_a_bound_and_are_sent_before_it_counts_as_back(answering, monkeypatch):
    monkeypatch.setattr(room, "UNSENT", 30)

    async def story(users, store, telemetry):
        store.error = StoreError("away")
        for number in range(40):
            events = [logged(f"i{number:03}", "guest")]
            new, reached = await users.share(events, [number])
            assert (new, reached) == ([True], False)
        assert value(telemetry, "suisen_store_requests_total", outcome="dropped") == 10
        store.error = None
        until = time.monotonic() + 10
        while isinstance((await answered(users, answering, job("guest")))[0], Degraded):
            assert time.monotonic() < until
            await asyncio.sleep(0.01)
        lines = store.values[events_key("u:guest")].splitlines()[1:]
        assert lines == [line(number, f"i{number:03}", None) for number in range(10, 40)]

    staged(story)


def test_a_store_that_takes_no_writes_is_read_and_gets_them_later(answering, monkeypatch):
    monkeypatch.setattr(room, "AGAIN_S", 0.02)

    async def story(users, store, telemetry):
        store.writes = False
        assert await users.share([logged("i001", "guest")], [5]) == ([True], False)
        (result,) = await answered(users, answering, job("guest"))
        assert not isinstance(result, Degraded)
        assert value(telemetry, "suisen_breaker_open") == 0
        store.writes = True
        await asyncio.sleep(0.2)
        assert store.values[events_key("u:guest")].endswith(line(5, "i001", None) + b"\n")

    staged(story)


def test_a_fault_of_ours_leaves_no_request_without_an_answer(answering, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(Bridge, "took_events", broken)

    async def story(users, *_):
        (result,) = await asyncio.wait_for(answered(users, answering, job("u0001")), 5)
        assert isinstance(result, Degraded)

    staged(story)


def test_too_many_who_wait_go_on_without(answering, monkeypatch):
    monkeypatch.setattr(room, "MAX_WANTS", 10)

    async def story(users, store, _):
        store.wait_s = 0.05
        results = await answered(users, answering, *[job("u0001", "u0002")] * 20)
        assert sum(isinstance(result, Degraded) for result in results) == 14

    staged(story)


def test_an_answer_that_lies_in_the_socket_is_not_late_though_the_loop_was_busy():
    async def story():
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        async def work():
            return await future

        task = loop.create_task(work())
        loop.call_later(0.005, lambda: time.sleep(0.1))  # a turn of computations
        loop.call_later(0.05, lambda: loop.call_soon(loop.call_soon, future.set_result, None))
        assert await within(task, 0.02)
        never = loop.create_task(asyncio.sleep(30))
        began = time.monotonic()
        assert not await within(never, 0.02)
        assert time.monotonic() - began < 5
        assert never.cancelled()

    asyncio.run(story())
