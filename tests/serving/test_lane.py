from __future__ import annotations

import asyncio
import threading
import time

import pytest

from suisen.checkpoint import checkpoint
from suisen.serving.lane import Lane
from suisen.serving.pace import Pace
from suisen.serving.problems import Refusal


def lane(work, **options):
    return Lane("test", work, **options)


def doubled(jobs):
    return [job * 2 for job in jobs]


class Gate:
    """Work that waits for a sign and remembers which jobs it was given together."""

    def __init__(self) -> None:
        self.go, self.begun, self.batches = threading.Event(), threading.Event(), []

    def __call__(self, jobs):
        self.batches.append(list(jobs))
        self.begun.set()
        self.go.wait(60)
        return doubled(jobs)


async def begun(gate):
    await asyncio.to_thread(gate.begun.wait, 60)


def test_each_job_gets_its_own_result():
    async def scene():
        one = lane(doubled)
        one.start()
        found = await asyncio.gather(*(one.submit(str(n), 60) for n in range(100)))
        await one.stop()
        return found, one.held

    assert asyncio.run(scene()) == ([str(n) * 2 for n in range(100)], 0)


def test_what_waits_together_is_worked_on_together():
    async def scene():
        gate = Gate()
        one = lane(gate, rows_per_batch=3)
        one.start()
        jobs = [asyncio.ensure_future(one.submit("a", 60))]
        await begun(gate)
        jobs += [asyncio.ensure_future(one.submit(job, 60)) for job in ("b", "c", "dd", "e")]
        await asyncio.sleep(0)
        assert (one.waiting, one.held) == (4, 6)
        gate.go.set()
        await asyncio.gather(*jobs)
        await one.stop()
        return gate.batches

    assert asyncio.run(scene()) == [["a"], ["b", "c", "dd"], ["e"]]


def test_beyond_the_bound_jobs_are_refused_and_nothing_else_is():
    async def scene():
        gate = Gate()
        one = lane(gate, max_rows=3)
        one.start()
        kept = [one.submit("a")]
        await begun(gate)
        kept.append(one.submit("bb"))
        with pytest.raises(Refusal, match="3 queries are waiting for test; try again in a second") as refusal:
            one.submit("c")
        assert (refusal.value.status, dict(refusal.value.headers)[b"retry-after"]) == (503, b"1")
        gate.go.set()
        found = await asyncio.gather(*kept)
        await one.stop()
        return found

    assert asyncio.run(scene()) == ["aa", "bbbb"]


def test_a_job_above_the_bound_is_taken_when_nothing_else_is_held():
    async def scene():
        one = lane(doubled, max_rows=2)
        one.start()
        found = await one.submit("long", 60)
        await one.stop()
        return found

    assert asyncio.run(scene()) == "longlong"


def test_late_jobs_are_refused_and_skipped():
    async def scene():
        gate = Gate()
        one = lane(gate)
        one.start()
        first = one.submit("first")
        await begun(gate)
        with pytest.raises(Refusal, match=r"no answer within 0\.01 s") as refusal:
            await one.submit("late", 0.01)
        assert refusal.value.code == "deadline_exceeded"
        assert one.held == len("first") + len("late")  # counted until the worker has passed it over
        gate.go.set()
        await first
        await one.stop()
        return gate.batches, one.held

    assert asyncio.run(scene()) == ([["first"]], 0)


def test_an_error_of_one_job_is_that_jobs_alone():
    def work(jobs):
        return [ValueError(job) if job == "bad" else job for job in jobs]

    async def scene():
        one = lane(work)
        one.start()
        found = await asyncio.gather(one.submit("bad", 60), one.submit("good", 60), return_exceptions=True)
        await one.stop()
        return found

    bad, good = asyncio.run(scene())
    assert isinstance(bad, ValueError)
    assert good == "good"


def test_work_that_breaks_does_not_end_the_lane():
    def work(jobs):
        if "break" in jobs:
            raise ZeroDivisionError
        return jobs

    async def scene():
        one = lane(work)
        one.start()
        with pytest.raises(ZeroDivisionError):
            await one.submit("break", 60)
        found = await one.submit("on", 60)
        await one.stop()
        return found

    assert asyncio.run(scene()) == "on"


def test_stopping_finishes_what_was_taken_in():
    async def scene():
        gate = Gate()
        one = lane(gate, rows_per_batch=1)
        one.start()
        jobs = [one.submit(name) for name in "abc"]
        await begun(gate)
        gate.go.set()
        await one.stop()
        with pytest.raises(Refusal, match="waiting for test"):
            one.submit("d")
        await one.stop()  # a second time does nothing
        return await asyncio.gather(*jobs)

    assert asyncio.run(scene()) == ["aa", "bb", "cc"]


# -- what nobody waits for --------------------------------------------------------------------------------------------


class Tiles:
    """Work of so many tiles, each with a checkpoint before it."""

    def __init__(self, tiles=10_000) -> None:
        self.done, self.tiles, self.begun = 0, tiles, threading.Event()

    def __call__(self, jobs):
        for _ in range(self.tiles if "long" in jobs else 0):
            checkpoint()
            self.done += 1
            self.begun.set()
            time.sleep(0.005)
        return jobs


async def following(one):
    """The seconds until the lane takes up another job."""
    began = time.monotonic()
    await one.submit("next", 60)
    return time.monotonic() - began


def test_a_job_is_broken_off_when_its_deadline_passes():
    async def scene():
        work = Tiles()
        one = lane(work)
        one.start()
        with pytest.raises(Refusal, match=r"no answer within 0\.1 s"):
            await one.submit("long", 0.1)
        took = await following(one)
        await one.stop()
        return took, work.done, one.held

    took, done, held = asyncio.run(scene())
    assert took < 2
    assert 0 < done < 1_000
    assert held == 0


def test_a_job_is_broken_off_when_its_client_leaves():
    class Client:
        gone = False

    async def scene():
        work, client = Tiles(), Client()
        one = lane(work)
        one.start()
        answer = one.submit("long", 60, asker=client)
        await asyncio.to_thread(work.begun.wait, 60)
        client.gone = True
        took = await following(one)
        await one.stop()
        return took, answer.exception().code

    took, code = asyncio.run(scene())
    assert (took < 2, code) == (True, "malformed_request")


def test_a_batch_goes_on_while_somebody_waits():
    async def scene():
        work = Tiles(40)
        one = lane(work)
        gate = one.submit
        one.start()
        late, kept = gate("long", 0.05), gate("kept", 60)
        found = await asyncio.gather(late, kept, return_exceptions=True)
        await one.stop()
        return found

    late, kept = asyncio.run(scene())
    assert (late.code, kept) == ("deadline_exceeded", "kept")


@pytest.mark.parametrize("checks", [True, False])
def test_stopping_waits_no_longer_than_it_may(checks):
    go = threading.Event()

    def endless(jobs):
        for _ in range(6_000 if checks else 1):
            checkpoint()
            go.wait(0.01 if checks else 60)
        return jobs

    async def scene():
        one = lane(endless)
        one.start()
        one.submit("long")
        began = time.monotonic()
        await one.stop(0.1)
        took = time.monotonic() - began
        if checks:
            await asyncio.to_thread(one._thread.join, 10)
        return took, one._thread.is_alive()

    took, alive = asyncio.run(scene())
    go.set()
    assert took < 2
    assert alive is not checks


def test_what_cannot_be_answered_in_time_is_refused_before_it_is_computed():
    """The second waits for 0.3 of its 0.4 seconds and takes 0.2."""

    async def scene():
        batches = []

        def work(jobs):
            batches.append(jobs)
            time.sleep(0.3)
            return jobs

        pace = Pace("test", 1024, 0.4, 1.0)
        pace.unit_s = 1.0
        one = Lane("test", work, pace=pace, rows_per_batch=1)
        one.start()
        first, second = one.submit("a", 0.4, 0.1), one.submit("b", 0.4, 0.2)
        found = await asyncio.gather(first, second, return_exceptions=True)
        await one.stop()
        return batches, found

    batches, (first, second) = asyncio.run(scene())
    assert (batches, first, second.code) == ([["a"]], "a", "deadline_exceeded")


def test_a_batch_is_closed_where_it_would_take_too_long():
    async def scene():
        gate = Gate()
        pace = Pace("test", 1024)
        pace.unit_s = 1.0
        one = Lane("test", gate, pace=pace, batch_s=0.1)
        one.start()
        jobs = [one.submit("a")]
        await begun(gate)
        pace.took = lambda units, seconds: None
        jobs += [one.submit(job, units=0.06) for job in "bcde"]
        gate.go.set()
        await asyncio.gather(*jobs)
        await one.stop()
        return gate.batches

    assert asyncio.run(scene()) == [["a"], ["b", "c"], ["d", "e"]]
