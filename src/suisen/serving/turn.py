"""Batching without waiting: the quick jobs of one turn of the event loop are one call of the work.

What a turn reads from all sockets is taken up at its end, at most ``rows_per_call`` rows a call and one call a turn, so
that sockets are read between calls; nothing waits for a batch to fill.  Jobs that are not quick, or alone larger than a
call, go to a lane's thread, so the work may run in both at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple

from suisen.serving.lane import J, Lane, R, Work, late, overloaded


class _Ticket(NamedTuple, Generic[J, R]):
    job: J
    done: Callable[[R | Exception], None]
    until: float
    """Time by ``time.monotonic`` after which it is not computed any more."""


class Turn(Generic[J, R]):
    """Takes jobs in, in the event loop.  A job's length is the number of its rows."""

    def __init__(
        self,
        work: Work[J, R],
        quick: Callable[[J], bool],
        lane: Lane[J, R],
        *,
        max_rows: int = 1024,
        rows_per_call: int = 60,
        deadline_s: float = 1.0,
    ) -> None:
        """``quick``: whether a job may be computed in the event loop; ``max_rows``: most rows that wait or are worked
        on, the lane's with them.
        """
        self._work, self._quick, self._lane = work, quick, lane
        self._max_rows, self._rows_per_call, self._deadline_s = max_rows, rows_per_call, deadline_s
        self._waiting: deque[_Ticket[J, R]] = deque()
        self._rows = 0
        self._due = False

    def submit(self, job: J, done: Callable[[R | Exception], None]) -> None:
        """Takes a job in; ``done`` takes its result or its error.

        Refuses it (503) where too many rows are held already; a job alone is always taken.
        """
        rows, held = len(job), self._rows + self._lane.held
        if held and held + rows > self._max_rows:
            raise overloaded(held, self._lane.name)
        if rows > self._rows_per_call or not self._quick(job):
            answer = self._lane.submit(job, self._deadline_s)
            answer.add_done_callback(lambda made: done(made.exception() or made.result()))  # type: ignore[arg-type]
            return
        self._waiting.append(_Ticket(job, done, time.monotonic() + self._deadline_s))
        self._rows += rows
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._call)

    def _call(self) -> None:
        """Computes what waits, up to one call; the rest in the next turn."""
        batch, expired = self._taken()
        self._due = bool(self._waiting)
        if self._due:
            asyncio.get_running_loop().call_soon(self._call)
        results: Sequence[R | Exception] = []
        if batch:
            try:
                results = self._work([ticket.job for ticket in batch])
            except Exception as error:
                results = [error] * len(batch)
        for ticket, result in zip(batch, results, strict=True):
            ticket.done(result)
        for ticket in expired:
            ticket.done(late(self._deadline_s))

    def _taken(self) -> tuple[list[_Ticket[J, R]], list[_Ticket[J, R]]]:
        """(the jobs of this call, those whose time has passed), in their order."""
        batch: list[_Ticket[J, R]] = []
        expired: list[_Ticket[J, R]] = []
        rows, now = 0, time.monotonic()
        while self._waiting and rows + len(self._waiting[0].job) <= self._rows_per_call:
            ticket = self._waiting.popleft()
            self._rows -= len(ticket.job)
            if ticket.until < now:
                expired.append(ticket)
            else:
                batch.append(ticket)
                rows += len(ticket.job)
        return batch, expired
