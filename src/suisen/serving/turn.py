"""Batching without waiting: the quick jobs of one turn of the event loop are one call of the work.

What a turn reads from all sockets is taken up at its end, at most ``rows_per_call`` rows and ``units_per_call`` of
price a call and one call a turn, so that sockets are read between calls; nothing waits for a batch to fill.  Other jobs
go to a lane's thread, large ones to a lane of their own, so the work may run in several threads at once.

Where reading takes long, as when many requests are read to be refused, a turn has several calls: else the more is
refused, the less would be answered.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple

from suisen.serving.lane import HERE, Asker, J, Lane, R, Work
from suisen.serving.pace import Pace, gone, late

COMPUTING = 2.0
"""In a turn no call begins once computing has taken so many times as long as reading did before."""


class _Ticket(NamedTuple, Generic[J, R]):
    job: J
    units: float
    done: Callable[[R | Exception], None]
    asker: Asker
    until: float
    """Time by ``time.monotonic`` after which it is not computed any more."""


class Turn(Generic[J, R]):
    """Takes jobs in, in the event loop.  A job's length is the number of its rows."""

    def __init__(
        self,
        work: Work[J, R],
        lane_of: Callable[[J, float], Lane[J, R] | None],
        pace: Pace,
        *,
        rows_per_call: int = 60,
        units_per_call: float = math.inf,
        deadline_s: float = 1.0,
        on_wait: Callable[[float], object] = lambda seconds: None,
    ) -> None:
        """``lane_of``: the lane of a job by its price; None: it is computed in the event loop.  ``on_wait`` hears how
        long the first job of each call waited.
        """
        self._work, self._lane_of, self.pace = work, lane_of, pace
        self._rows_per_call, self._units_per_call = rows_per_call, units_per_call
        self._deadline_s, self._on_wait = deadline_s, on_wait
        self._waiting: deque[_Ticket[J, R]] = deque()
        self._due = False
        self._running: tuple[float, float, float] | None = None
        """(price of the last turn's calls, when they began, when they ended), where something waited behind them."""

    def submit(self, job: J, done: Callable[[R | Exception], None], units: float = 0.0, asker: Asker = HERE) -> None:
        """Takes a job of a price in; ``done`` takes its result or its error.

        Refuses it (503) where what is held would take too long; a job alone is always taken.
        """
        lane = self._lane_of(job, units)
        if lane is not None:
            answer = lane.submit(job, self._deadline_s, units, asker)
            answer.add_done_callback(lambda made: done(made.exception() or made.result()))  # type: ignore[arg-type]
            return
        self.pace.take(len(job), units)
        self._waiting.append(_Ticket(job, units, done, asker, time.monotonic() + self._deadline_s))
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self._call)

    def _call(self) -> None:
        """Computes what waits, as a rule up to one call; the rest in the next turn.

        A turn while more waits, reading and writing with it, is what its calls take: so the estimate is learnt.
        """
        began, reading = time.monotonic(), 0.0
        if self._running is not None:
            units, before, ended = self._running
            reading = began - ended
            self.pace.took(units, began - before)
        self._on_wait(began - self._waiting[0].until + self._deadline_s)
        units = self._compute(began)
        while self._waiting and (now := time.monotonic()) - began < COMPUTING * reading:
            units += self._compute(now)
        self._due = bool(self._waiting)
        self._running = (units, began, time.monotonic()) if self._due else None
        if self._due:
            asyncio.get_running_loop().call_soon(self._call)

    def _compute(self, now: float) -> float:
        """One call; returns its price."""
        batch, dropped, units = self._taken(now)
        results: Sequence[R | Exception] = []
        if batch:
            try:
                results = self._work([ticket.job for ticket in batch])
            except Exception as error:
                results = [error] * len(batch)
        for ticket, result in zip(batch, results, strict=True):
            ticket.done(result)
        for ticket in dropped:
            ticket.done(gone() if ticket.asker.gone else late(self._deadline_s))
        return units

    def _taken(self, now: float) -> tuple[list[_Ticket[J, R]], list[_Ticket[J, R]], float]:
        """(the jobs of this call, those whose time has passed or whose client is gone, the price of the former), in
        their order.
        """
        batch: list[_Ticket[J, R]] = []
        dropped: list[_Ticket[J, R]] = []
        rows, units = 0, 0.0
        while self._waiting:
            ticket = self._waiting[0]
            size = len(ticket.job)
            if rows and (rows + size > self._rows_per_call or units + ticket.units > self._units_per_call):
                break
            self._waiting.popleft()
            self.pace.gave(size, ticket.units)
            if ticket.until < now or ticket.asker.gone:
                dropped.append(ticket)
            else:
                batch.append(ticket)
                rows += size
                units += ticket.units
        return batch, dropped, units
