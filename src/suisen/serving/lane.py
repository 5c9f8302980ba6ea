"""A lane: one worker thread behind a bounded queue.  Work leaves the event loop free and never piles up.

The thread takes all jobs that wait as one batch, as many as take ``batch_s``; it never waits to make a batch larger.
What would wait too long is refused at once (``serving.pace``): a queue that grows answers everybody too late instead of
some in time.  A batch whose answers nobody waits for any more ends at the work's next checkpoint.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Sequence, Sized
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from suisen.checkpoint import Interrupted, interruptible
from suisen.serving.pace import Pace, gone, late
from suisen.serving.problems import Refusal

J = TypeVar("J", bound=Sized)
R = TypeVar("R")
Work = Callable[[list[J]], "Sequence[R | Exception]"]
"""Called in the worker thread with the jobs of a batch: one result or one error for each."""
STOP_S = 30.0
"""Most seconds that ``stop`` waits where nothing else is said."""
TURN_S = 0.0005
"""Seconds that a thread keeps the interpreter while others want it.  Python's own are ten times as many: each is a wait
of the event loop, and a lane that waits for the loop in turn computes a tenth less (``make bench-overload``).
"""
logger = logging.getLogger("suisen.serving")


class Asker(Protocol):
    """Who waits for an answer."""

    gone: bool
    """Nobody does any more."""


class Waiting:
    """An asker that stays."""

    gone = False


HERE = Waiting()


class _Ticket(NamedTuple, Generic[J, R]):
    job: J
    units: float
    answer: asyncio.Future[R]
    asker: Asker
    came: float
    until: float
    """Times by ``time.monotonic``."""

    @property
    def wanted(self) -> bool:
        return not (self.answer.done() or self.asker.gone)


class Lane(Generic[J, R]):
    """Runs jobs one batch after the other.  A job's length is the number of its rows."""

    def __init__(
        self,
        name: str,
        work: Work[J, R],
        *,
        max_rows: int = 1024,
        rows_per_batch: int = 256,
        pace: Pace | None = None,
        batch_s: float = math.inf,
        on_wait: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        """``max_rows``: most rows that wait or are worked on; ``rows_per_batch`` and ``batch_s``, the seconds that
        it is expected to take: where a batch is closed.  ``on_wait`` hears how long each job waited.
        """
        self.name, self.rows_per_batch, self.batch_s = name, rows_per_batch, batch_s
        self.pace = Pace(name, max_rows) if pace is None else pace
        self._work, self._on_wait = work, on_wait
        self._open = self._given_up = False
        self._tickets: queue.SimpleQueue[_Ticket[J, R] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"suisen-{name}", daemon=True)

    @property
    def held(self) -> int:
        """Rows waiting or being worked on."""
        return self.pace.rows

    @property
    def waiting(self) -> int:
        """Jobs that no worker has taken yet."""
        return self._tickets.qsize()

    def start(self) -> None:
        """Starts the thread; results are delivered to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._open = True
        sys.setswitchinterval(TURN_S)
        self._thread.start()

    async def stop(self, within_s: float = STOP_S) -> None:
        """Finishes what was taken in, then ends the thread; one that has not ended in time is left to itself."""
        if self._open:
            self._open = False
            self._tickets.put(None)
            try:
                await asyncio.wait_for(self._ended.wait(), within_s)
            except TimeoutError:
                self._given_up = True
                logger.error("%s did not end within %.3g s and is given up", self.name, within_s)

    def submit(
        self, job: J, deadline_s: float | None = None, units: float = 0.0, asker: Asker = HERE
    ) -> asyncio.Future[R]:
        """Takes a job of a price in.  Refuses it (503) where what is held would take too long; a job alone is always
        taken.

        Where the result is not there in time its future holds a refusal; the job is then skipped if still waiting.
        """
        if not self._open:
            raise self.pace.refusal()
        self.pace.take(len(job), units)
        answer: asyncio.Future[R] = self._loop.create_future()
        now = time.monotonic()
        if deadline_s is not None:
            timer = self._loop.call_later(deadline_s, _expire, answer, deadline_s)
            answer.add_done_callback(lambda _: timer.cancel())
        until = math.inf if deadline_s is None else now + deadline_s
        self._tickets.put(_Ticket(job, units, answer, asker, now, until))
        return answer

    def _run(self) -> None:
        """The worker thread."""
        more = True
        while more and not self._given_up:
            batch, more = self._take()
            if batch:
                self._tell(self._deliver, batch, self._worked(batch))
        self._tell(self._ended.set)

    def _worked(self, batch: list[_Ticket[J, R]]) -> Sequence[R | Exception]:
        """The results of a batch; refusals where it was broken off."""

        def check() -> None:
            if self._given_up or not any(ticket.wanted for ticket in batch):
                raise Interrupted

        try:
            with interruptible(check):
                began = time.perf_counter()
                results = self._work([ticket.job for ticket in batch])
                self.pace.took(sum(ticket.units for ticket in batch), time.perf_counter() - began)
                return results
        except Exception as error:
            return [error] * len(batch)
        except Interrupted:
            self.pace.took(sum(ticket.units for ticket in batch), time.perf_counter() - began)
            return [Refusal("not_ready", "the server is closing") if self._given_up else gone()] * len(batch)

    def _take(self) -> tuple[list[_Ticket[J, R]], bool]:
        """The jobs that wait, up to the bounds of a batch; False at the end of the lane."""
        first = self._tickets.get()
        batch: list[_Ticket[J, R]] = []
        rows, seconds = 0, 0.0
        while first is not None:
            now, lasts = time.monotonic(), first.units * self.pace.unit_s
            if first.wanted and first.until - now > min(
                self.pace.call_s + seconds + lasts, (first.until - first.came) / 2
            ):
                batch.append(first)
                self._on_wait(now - first.came)
                rows += len(first.job)
                seconds += lasts
            else:  # it could not be answered in time
                self._tell(self._deliver, [first], [late(first.until - first.came)])
            if rows >= self.rows_per_batch or self.pace.call_s + seconds >= self.batch_s or self._tickets.empty():
                return batch, True
            first = self._tickets.get()
        return batch, False

    def _tell(self, call: Callable[..., object], *given: Any) -> None:
        """Calls something in the event loop, if there still is one."""
        try:
            self._loop.call_soon_threadsafe(call, *given)
        except RuntimeError:
            self._given_up = True

    def _deliver(self, tickets: list[_Ticket[J, R]], results: Sequence[R | Exception]) -> None:
        """In the event loop."""
        for ticket, result in zip(tickets, results, strict=True):
            self.pace.gave(len(ticket.job), ticket.units)
            if ticket.answer.done():
                continue
            if isinstance(result, Exception):
                ticket.answer.set_exception(result)
            else:
                ticket.answer.set_result(result)


def _expire(answer: asyncio.Future[Any], deadline_s: float) -> None:
    if not answer.done():
        answer.set_exception(late(deadline_s))
