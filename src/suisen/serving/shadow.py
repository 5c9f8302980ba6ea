"""A shadow: a share of the live requests is answered by another version too, off the answer path, and compared.

Requests go to a thread of their own.  What it cannot keep up with is dropped and counted; no answer waits for it.
"""

import queue
import random
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from suisen.serving.answering import Job, Look, Rank, Recommend, Result
from suisen.serving.messages import Answer, Item
from suisen.serving.slots import Bound, Slot

WAITING = 256
"""Most requests that wait for the thread."""
FIRST = 10
"""Places of a list that are compared."""


class Report(msgspec.Struct, kw_only=True):
    """How a version's answers compare with the live ones so far.  Shares are of ``lists``."""

    share: float = 0.0
    """Of the live requests that are answered again."""
    requests: int = 0
    lists: int = 0
    identical: int = 0
    """Lists whose first ten items are those of the live list, in its order."""
    shared: int = 0
    places: int = 0
    """Items of the live first tens, and those of them that the other version's first ten hold: ``shared``."""
    errors: int = 0
    """Requests that the other version refused, or failed at, and the live one did not."""
    live_s: float = 0.0
    shadow_s: float = 0.0
    """Seconds of computation, the live ones' part of the calls that they were in."""
    dropped: int = 0
    """Requests that the thread could not keep up with."""

    def plus(self, other: "Report") -> "Report":
        """Both together: the reports of two workers."""
        names = [name for name in self.__struct_fields__ if name != "share"]
        return Report(share=self.share, **{name: getattr(self, name) + getattr(other, name) for name in names})


class Shadow:
    """The thread, and what it found.  Off: one look at an attribute per call of the model.  On: 2 µs a request of the
    share, beside the thread's own work.
    """

    def __init__(self, slot: Slot, share: float) -> None:
        """``share``: of the requests, from 0 to 1."""
        self.slot, self.report = slot, Report(share=share)
        self._waiting: queue.Queue[tuple[Job, Result, float] | None] = queue.Queue(WAITING)
        self._over = False
        self._thread = threading.Thread(target=self._run, name="suisen-shadow", daemon=True)
        self._thread.start()

    def offer(self, given: Sequence[Bound], results: Sequence[Result | Exception], seconds: float) -> None:
        """Takes some of a call's requests, by chance; ``seconds``: what the call took."""
        rows = sum(map(len, given)) or 1
        for one, result in zip(given, results, strict=True):
            if one.slot is self.slot or isinstance(result, Exception) or isinstance(one.job, Look):
                continue
            if random.random() >= self.report.share:
                continue
            try:
                self._waiting.put_nowait((one.job, result, seconds * len(one) / rows))
            except queue.Full:
                self.report.dropped += 1

    def stop(self) -> None:
        """Ends the thread, once it has compared what it is at."""
        self._over = True
        with suppress(queue.Full):  # it looks at ``_over`` before it takes the next one
            self._waiting.put_nowait(None)

    def _run(self) -> None:
        while (taken := self._waiting.get()) is not None and not self._over:
            self._compare(*taken)

    def _compare(self, job: Job, live: Result, seconds: float) -> None:
        report, began = self.report, time.perf_counter()
        try:
            (other,) = self.slot.answering.work([job])
        except Exception as error:
            other = error
        report.shadow_s += time.perf_counter() - began
        report.live_s += seconds
        report.requests += 1
        if isinstance(other, Exception):
            report.errors += 1
            return
        for mine, its in zip(_lists(job, live), _lists(job, other), strict=True):
            report.lists += 1
            report.identical += mine == its
            report.places += len(mine)
            report.shared += len(set(mine) & set(its))


def _lists(job: Job, result: Result) -> list[list[str]]:
    """The first items of each list, by raw ids."""
    if isinstance(job, Recommend | Rank):
        lists: list[Sequence[Item]] = [one.items for one in result if isinstance(one, Answer)]
    else:
        lists = [[one for one in result if isinstance(one, Item)]]
    return [[str(item.item_id) for item in items[:FIRST]] for items in lists]
