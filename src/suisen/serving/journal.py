"""What the server keeps: events that clients send and, where ``impressions`` is set, the lists it answered with."""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from suisen.serving.answering import Answering
from suisen.serving.event_log import FileLog, Impression, LoggedEvent, as_text
from suisen.serving.lane import Lane
from suisen.serving.messages import EPOCH, MICROSECOND, Answer, Query
from suisen.serving.problems import Refusal
from suisen.serving.repeats import Repeats, Sent
from suisen.serving.segments import Position
from suisen.serving.telemetry import Telemetry

logger = logging.getLogger("suisen.serving")
Shown = tuple[str, int, Answering, Query, Answer]
"""Request id, time in microseconds, who answered whom, and what: an impression is made of it outside the event loop."""
MAX_ROWS = 20_000
"""Most rows that are held until they are written; they may all go into one write."""
SHOWN_S = 0.02
"""Seconds that lists are held before they are handed over together."""


class Taken(NamedTuple):
    """What became of the events of a request."""

    new: list[LoggedEvent]
    """Those that are no repeats."""
    end: Position
    """Of the log, behind all of them."""


NOWHERE = Position(0, 0)


class Journal:
    """A lane per log: a slow disk stops neither the event loop nor the answers."""

    def __init__(self, logs: Mapping[str, FileLog], telemetry: Telemetry, repeats: Callable[[Path], Repeats]) -> None:
        """``logs``: by what they keep, ``events`` or ``impressions``; what has no log is not kept.  ``repeats``: from
        the path of the events' log, what knows which were sent again.
        """
        self._logs, self._telemetry = logs, telemetry
        self._lanes: dict[str, Lane[Any, Any]] = {}
        for name, log in logs.items():
            work = _write_lists if name == "impressions" else partial(_write_events, repeats(log.path))
            lane = Lane(name, partial(self._work, log, work), max_rows=MAX_ROWS, rows_per_batch=MAX_ROWS)
            self._lanes[name] = lane
            telemetry.watch(lane)
            log.on_begin = partial(self._begun, name)
        self.shipped: Callable[[Position], Awaitable[object]] | None = None
        """Returns once the log up to a place is where 202 says that it is, where that is not the file itself."""
        self.check: Callable[[str], object] = lambda log: None
        """Refuses what a log may not take now."""
        self._shown: list[Shown] = []
        self._tended: dict[str, asyncio.Future[Any]] = {}
        self.new_ids = map(f"~{secrets.token_hex(8)}-{{:x}}".format, count(1))
        """Ids of events that bring none: no client may give one that begins so, and no other process makes them."""

    def start(self) -> None:
        """Starts the lanes; what a log remembers is read before its first event is taken."""
        for lane in self._lanes.values():
            lane.start()
        self.tend()

    async def stop(self) -> None:
        """Writes what waits and closes the files."""
        self._hand_over()
        for name, lane in self._lanes.items():
            await lane.stop()
            self._logs[name].close()

    def tend(self) -> None:
        """Opens files anew that were renamed or deleted, and rotates those that are too old, soon; called now and then,
        and at a SIGHUP.  It is the lanes that look: a disk that hangs must not stop the event loop.
        """
        for name, lane in self._lanes.items():
            if name not in self._tended or self._tended[name].done():
                with suppress(Refusal):  # so much waits that the file is looked at anyway
                    self._tended[name] = lane.submit(Sent((), ()) if name == "events" else ())
                    self._tended[name].add_done_callback(lambda done: done.cancelled() or done.exception())

    async def take(self, sent: Sent) -> Taken:
        """Keeps all events that are no repeats, or refuses them all; returns once they are with the operating system,
        or on the disk where the log is durable.
        """
        if "events" not in self._lanes:
            raise Refusal("log_unavailable", "this server keeps no event log; start it with log_dir")
        self.check("events")
        taken: Taken = await self._lanes["events"].submit(sent)
        self._telemetry.events.inc(len(taken.new))
        self._telemetry.repeated.inc(len(sent) - len(taken.new))
        return taken

    async def settled(self, taken: Taken) -> None:
        """Returns once 202 may be said."""
        if self.shipped is not None:
            await self.shipped(taken.end)

    def shown(self, request_id: str, answering: Answering, queries: Sequence[Query], answers: Sequence[Answer]) -> None:
        """Keeps lists; the request does not wait for the disk.  Lists that cannot be kept are counted."""
        if "impressions" not in self._lanes:
            return
        if not self._shown:
            asyncio.get_running_loop().call_later(SHOWN_S, self._hand_over)
        now = time.time_ns() // 1000
        pairs = zip(queries, answers, strict=True)
        self._shown.extend([(request_id, now, answering, query, answer) for query, answer in pairs])

    def _hand_over(self) -> None:
        """Gives the lists that were shown to the lane: one job for many, for a job costs more than a list."""
        rows, self._shown = self._shown, []
        if not rows:
            return
        try:
            self.check("impressions")
            done = self._lanes["impressions"].submit(rows)
        except Refusal:
            self._telemetry.impressions_lost.inc(len(rows))
            return
        done.add_done_callback(partial(self._count, len(rows)))

    def _work(self, log: FileLog, work: Callable[[FileLog, list[Any]], list[Any]], jobs: list[Any]) -> list[Any]:
        """In a lane's thread: a log that cannot be written refuses all jobs, and is tried again with the next."""
        begun = time.perf_counter()
        try:
            done = work(log, jobs)
        except OSError as error:
            reason = error.strerror or str(error)
            self._telemetry.log_failures.labels(log.path.stem).inc()
            if log.trouble != reason:
                logger.error("the log cannot be written: %s", error)
            log.trouble = reason
            return [Refusal("log_unavailable", f"the log cannot be written ({reason}); nothing was kept")] * len(jobs)
        if any(jobs):
            self._telemetry.stages.labels("log").observe(time.perf_counter() - begun)
        if log.trouble:
            logger.info("%s is written again", log.path)
            log.trouble = ""
        return done

    def _begun(self, name: str, why: str) -> None:
        self._telemetry.log_reopened.labels(name, why).inc()

    def _count(self, rows: int, done: asyncio.Future[int]) -> None:
        lost = done.cancelled() or done.exception() is not None
        (self._telemetry.impressions_lost if lost else self._telemetry.impressions).inc(rows)


def _impressions(rows: Sequence[Shown]) -> Iterator[Impression]:
    """The lines of lists, in their order; the users of one version are looked up together."""
    for answering, given in groupby(rows, itemgetter(2)):
        its = list(given)
        users = answering.system.store.users.texts([query.user_id for _, _, _, query, _ in its])
        for (request_id, at, _, query, answer), user in zip(its, users, strict=True):
            yield _impression(request_id, at, answering.version, query, user, answer)


def _impression(request_id: str, time: int, version: str, query: Query, user: str | None, answer: Answer) -> Impression:
    items = answer.items
    return Impression(
        request_id=request_id,
        time=EPOCH + time * MICROSECOND,
        version=version,
        user_id=user,
        session_id=as_text(query.session_id),
        answered_by=answer.answered_by,
        item_id=[str(item.item_id) for item in items],
        position=[item.rank for item in items],
        score=[item.score for item in items],
    )


def _write_events(repeats: Repeats, log: FileLog, jobs: list[Sent]) -> list[Taken | Exception]:
    """In a lane's thread: the events of all jobs are one write."""
    repeats.read_back()
    if not any(jobs) and not log.wants_care():
        return [Taken([], NOWHERE)] * len(jobs)
    with log.alone():
        found = repeats.sort_out(jobs)
        end = log.write([event for new in found if isinstance(new, list) for event in new])
        repeats.wrote()
    return [Taken(new, end) if isinstance(new, list) else new for new in found]


def _write_lists(log: FileLog, jobs: list[list[Shown]]) -> list[int]:
    """In a lane's thread: the lists of all jobs are one write."""
    if any(jobs) or log.wants_care():
        log.append(list(_impressions([row for rows in jobs for row in rows])))
    return [len(rows) for rows in jobs]
