"""A lane: one worker thread behind a bounded queue.  Work leaves the event loop free and never piles up.

The thread takes all jobs that wait as one batch; it never waits to make a batch larger.  Beyond the bound a job is
refused at once: a queue that grows answers everybody too late instead of some in time.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from suisen.serving.problems import Refusal

J = TypeVar("J", bound=Sized)
R = TypeVar("R")
Work = Callable[[list[J]], "Sequence[R | Exception]"]
"""Called in the worker thread with the jobs of a batch: one result or one error for each."""


@dataclass(frozen=True)
class _Ticket(Generic[J, R]):
    job: J
    answer: asyncio.Future[R]


class Lane(Generic[J, R]):
    """Runs jobs one batch after the other.  A job's length is the number of its rows."""

    def __init__(self, name: str, work: Work[J, R], *, max_rows: int = 1024, rows_per_batch: int = 256) -> None:
        """``max_rows``: most rows that wait or are worked on; ``rows_per_batch``: where a batch is closed."""
        self.name, self.max_rows, self.rows_per_batch = name, max_rows, rows_per_batch
        self.held = 0
        """Rows waiting or being worked on."""
        self._work = work
        self._open = False
        self._tickets: queue.SimpleQueue[_Ticket[J, R] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=f"suisen-{name}", daemon=True)

    @property
    def waiting(self) -> int:
        """Jobs that no worker has taken yet."""
        return self._tickets.qsize()

    def start(self) -> None:
        """Starts the thread; results are delivered to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._thread.start()

    async def stop(self) -> None:
        """Finishes what was taken in, then ends the thread."""
        if self._open:
            self._open = False
            self._tickets.put(None)
            await asyncio.to_thread(self._thread.join)

    def submit(self, job: J, deadline_s: float | None = None) -> asyncio.Future[R]:
        """Takes a job in.  Refuses it (503) where too many rows are held already; a job alone is always taken.

        Where the result is not there in time its future holds a refusal; the job is then skipped if still waiting.
        """
        if not self._open or (self.held and self.held + len(job) > self.max_rows):
            raise overloaded(self.held, self.name)
        self.held += len(job)
        answer: asyncio.Future[R] = self._loop.create_future()
        if deadline_s is not None:
            timer = self._loop.call_later(deadline_s, _expire, answer, deadline_s)
            answer.add_done_callback(lambda _: timer.cancel())
        self._tickets.put(_Ticket(job, answer))
        return answer

    def _run(self) -> None:
        """The worker thread."""
        more = True
        while more:
            batch, more = self._take()
            live = [ticket for ticket in batch if not ticket.answer.done()]
            results: Sequence[R | Exception] = []
            if live:
                try:
                    results = self._work([ticket.job for ticket in live])
                except Exception as error:
                    results = [error] * len(live)
            self._loop.call_soon_threadsafe(self._deliver, live, results, sum(len(ticket.job) for ticket in batch))

    def _take(self) -> tuple[list[_Ticket[J, R]], bool]:
        """The jobs that wait, up to ``rows_per_batch`` rows; False at the end of the lane."""
        first = self._tickets.get()
        batch: list[_Ticket[J, R]] = []
        rows = 0
        while first is not None:
            batch.append(first)
            rows += len(first.job)
            if rows >= self.rows_per_batch or self._tickets.empty():
                return batch, True
            first = self._tickets.get()
        return batch, False

    def _deliver(self, tickets: list[_Ticket[J, R]], results: Sequence[R | Exception], rows: int) -> None:
        """In the event loop."""
        self.held -= rows
        for ticket, result in zip(tickets, results, strict=True):
            if ticket.answer.done():
                continue
            if isinstance(result, Exception):
                ticket.answer.set_exception(result)
            else:
                ticket.answer.set_result(result)


def overloaded(held: int, name: str) -> Refusal:
    """The refusal of what would make a queue too long."""
    return Refusal("overloaded", f"{held} queries are waiting for {name}; try again in a second")


def late(deadline_s: float) -> Refusal:
    """The refusal of what would be answered too late."""
    return Refusal("deadline_exceeded", f"no answer within {deadline_s:g} s; ask for less, or later")


def _expire(answer: asyncio.Future[Any], deadline_s: float) -> None:
    if not answer.done():
        answer.set_exception(late(deadline_s))
