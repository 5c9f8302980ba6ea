from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.serving.lane import Lane
from suisen.serving.pace import Pace
from suisen.serving.problems import Refusal
from suisen.serving.turn import Turn


class Work:
    """Doubles its jobs and remembers which it was given together, and in which thread."""

    def __init__(self) -> None:
        self.calls, self.threads = [], []

    def __call__(self, jobs):
        self.calls.append(list(jobs))
        self.threads.append(threading.current_thread())
        return [ValueError(job) if job.startswith("bad") else job * 2 for job in jobs]


def turned(scene, work=None, quick=lambda job: not job.startswith("slow"), max_rows=1024, **options):
    """Runs a scene of a started turn; returns its work."""
    work = work or Work()

    async def run():
        lane = Lane("a thread", work, max_rows=max_rows)
        lane.start()
        pace = Pace("test", max_rows, options.get("deadline_s", math.inf))
        await scene(Turn(work, lambda job, units: None if quick(job) else lane, pace, **options))
        await lane.stop()

    asyncio.run(run())
    return work


async def settled(done, count):
    async with asyncio.timeout(60):
        while len(done) < count:
            await asyncio.sleep(0.001)


def test_what_one_turn_of_the_loop_brings_is_one_call_in_the_loop():
    done = []

    async def scene(turn):
        for job in "abc":
            turn.submit(job, done.append)
        assert done == []
        await asyncio.sleep(0)
        assert done == ["aa", "bb", "cc"]
        turn.submit("d", done.append)
        await asyncio.sleep(0)

    work = turned(scene)
    assert work.calls == [["a", "b", "c"], ["d"]]
    assert set(work.threads) == {threading.main_thread()}
    assert done[3:] == ["dd"]


def test_a_call_has_its_bound_and_sockets_are_read_between_two():
    done = []

    async def scene(turn):
        loop = asyncio.get_running_loop()
        for job in ("a", "bb", "c", "ddd", "e"):
            turn.submit(job, done.append)
        loop.call_soon(done.append, "another")
        await asyncio.sleep(0)
        assert done == ["aa", "bbbb", "another"]
        await settled(done, 6)

    assert turned(scene, rows_per_call=3).calls == [["a", "bb"], ["c"], ["ddd"], ["e"]]


def test_what_is_not_quick_goes_to_its_lane():
    done = []

    async def scene(turn):
        for job in ("slow", "a", "slow" * 2):
            turn.submit(job, done.append)
        await settled(done, 3)

    work = turned(scene, rows_per_call=5)
    assert sorted(done) == sorted(["slowslow", "aa", "slow" * 4])
    mine = [call for call, thread in zip(work.calls, work.threads) if thread is threading.main_thread()]
    assert mine == [["a"]]


def test_beyond_the_bound_jobs_are_refused_whatever_the_lanes_hold():
    go, begun, done = threading.Event(), threading.Event(), []

    def work(jobs):
        if jobs == ["slow"]:
            begun.set()
            go.wait(60)
        return jobs

    async def scene(turn):
        turn.submit("slow", done.append)
        await asyncio.to_thread(begun.wait, 60)
        turn.submit("abcd", done.append)
        with pytest.raises(Refusal, match="4 queries are waiting for test; try again in a second") as refusal:
            turn.submit("efg", done.append)
        assert (refusal.value.code, dict(refusal.value.headers)[b"retry-after"]) == ("overloaded", b"1")
        await asyncio.sleep(0)
        assert done == ["abcd"]
        turn.submit("b", done.append)
        go.set()
        await settled(done, 3)
        turn.submit("a job alone", done.append)
        await settled(done, 4)

    turned(scene, work, max_rows=6)


def test_what_would_wait_too_long_is_refused_and_the_bound_follows_the_measured_time():
    """A unit takes a millisecond here, a thousand times what is assumed before any call."""
    done = []

    def work(jobs):
        time.sleep(0.001 * len(jobs))
        return jobs

    async def scene(turn):
        for _ in range(400):
            turn.submit("a", done.append, 1.0)
        await settled(done, 400)
        assert 0.0005 < turn.pace.lasts(100.0) / 100 < 0.01
        taken, refused = 0, ""
        while taken < 1_000 and not refused:
            try:
                turn.submit("a", done.append, 1.0)
                taken += 1
            except Refusal as refusal:
                refused = str(refusal)
        assert "queries are waiting for about" in refused
        assert 10 < taken < 400
        await settled(done, 400 + taken)

    turned(scene, work, deadline_s=0.2, rows_per_call=2)


def test_a_turn_has_several_calls_where_reading_took_long():
    """As when many requests are read to be refused: computing gets at least its share."""
    done, order = [], []

    class Slow(Work):
        def __call__(self, jobs):
            order.append(jobs[0])
            time.sleep(0.01)
            return super().__call__(jobs)

    def read():
        order.append("reading")
        time.sleep(0.1)

    async def scene(turn):
        loop = asyncio.get_running_loop()
        for job in "abcde":
            turn.submit(job, done.append)
        loop.call_soon(read)
        await settled(done, 5)

    turned(scene, Slow(), rows_per_call=1)
    assert order == ["a", "reading", "b", "c", "d", "e"]


def test_a_call_is_bounded_by_its_price():
    done = []

    async def scene(turn):
        for job, units in (("a", 3.0), ("b", 4.0), ("c", 9.0), ("d", 1.0)):
            turn.submit(job, done.append, units)
        await settled(done, 4)

    assert turned(scene, units_per_call=8.0).calls == [["a", "b"], ["c"], ["d"]]


def test_nothing_is_computed_for_a_client_that_left():
    done = []

    class Client:
        gone = False

    async def scene(turn):
        client = Client()
        turn.submit("a", done.append, 0.0, client)
        turn.submit("b", done.append)
        client.gone = True
        await settled(done, 2)

    assert turned(scene).calls == [["b"]]
    assert (done[0], done[1].code) == ("bb", "malformed_request")


def test_a_job_whose_time_has_passed_is_refused_and_not_computed():
    done = []

    async def scene(turn):
        turn.submit("late", done.append)
        turn._waiting[0] = turn._waiting[0]._replace(until=0.0)
        turn.submit("a", done.append)
        await settled(done, 2)

    assert turned(scene, deadline_s=0.5).calls == [["a"]]
    assert done[0] == "aa"
    assert done[1].code == "deadline_exceeded"
    assert str(done[1]) == "no answer within 0.5 s; ask for less, or later"


def test_errors_are_a_jobs_own_or_all_jobs():
    def broken(jobs):
        raise ZeroDivisionError

    async def scene(turn):
        for job in ("bad", "good"):
            turn.submit(job, done.append)
        await settled(done, 2)

    done = []
    turned(scene)
    assert [type(done[0]), done[1]] == [ValueError, "goodgood"]
    done = []
    turned(scene, broken)
    assert [type(each) for each in done] == [ZeroDivisionError] * 2


def test_errors_of_the_lane_arrive_as_those_of_the_loop():
    done = []

    async def scene(turn):
        turn.submit("bad", done.append)
        await settled(done, 1)

    turned(scene, quick=lambda job: False)
    assert isinstance(done[0], ValueError)


@given(st.lists(st.text("abs", min_size=1, max_size=7), max_size=30), st.integers(1, 8))
def test_every_job_is_answered_once_whatever_comes_together(jobs, rows_per_call):
    done = []

    async def scene(turn):
        for place, job in enumerate(jobs):
            turn.submit(job, lambda result, place=place: done.append((place, result)))
            if job[0] == "b":
                await asyncio.sleep(0)
        await settled(done, len(jobs))

    work = turned(scene, quick=lambda job: job[0] != "s", rows_per_call=rows_per_call)
    assert sorted(done) == [(place, job * 2) for place, job in enumerate(jobs)]
    mine = [call for call, thread in zip(work.calls, work.threads) if thread is threading.main_thread()]
    assert all(sum(map(len, call)) <= rows_per_call or len(call) == 1 for call in mine)
    assert [job for call in mine for job in call] == [job for job in jobs if job[0] != "s"]
