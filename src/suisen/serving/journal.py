"""What the server keeps: events that clients send and, where ``impressions`` is set, the lists it answered with."""

import asyncio
import logging
import secrets
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count

from suisen.serving.answering import Answering
from suisen.serving.event_log import FileLog, Impression, LoggedEvent, as_text
from suisen.serving.lane import Lane
from suisen.serving.messages import EPOCH, MICROSECOND, Answer, Query
from suisen.serving.problems import Refusal
from suisen.serving.telemetry import Telemetry

logger = logging.getLogger("suisen.serving")
Shown = tuple[str, int, Answering, Query, Answer]
"""Request id, time in microseconds, who answered whom, and what: an impression is made of it outside the event loop."""
Rows = Sequence[LoggedEvent | Shown]
MAX_ROWS = 20_000
"""Most rows that are held until they are written; they may all go into one write."""
SHOWN_S = 0.02
"""Seconds that lists are held before they are handed over together."""


class Journal:
    """A lane per log: a slow disk stops neither the event loop nor the answers."""

    def __init__(self, logs: Mapping[str, FileLog], telemetry: Telemetry) -> None:
        """``logs``: by what they keep, ``events`` or ``impressions``; what has no log is not kept."""
        self._logs, self._telemetry = logs, telemetry
        self._lanes: dict[str, Lane[Rows, int]] = {
            name: Lane(name, partial(_write, log), max_rows=MAX_ROWS, rows_per_batch=MAX_ROWS)
            for name, log in logs.items()
        }
        self._shown: list[Shown] = []
        self.new_ids = map(f"~{secrets.token_hex(8)}-{{:x}}".format, count(1))
        """Ids of events that bring none: no client may give one that begins so, and no other process makes them."""
        for lane in self._lanes.values():
            telemetry.watch(lane)

    def start(self) -> None:
        """Starts the lanes."""
        for lane in self._lanes.values():
            lane.start()

    async def stop(self) -> None:
        """Writes what waits and closes the files."""
        self._hand_over()
        for name, lane in self._lanes.items():
            await lane.stop()
            self._logs[name].close()

    async def take(self, events: Sequence[LoggedEvent]) -> int:
        """Keeps all events, or refuses them all; returns their number when they are with the operating system."""
        if "events" not in self._lanes:
            raise Refusal("log_unavailable", "this server keeps no event log; start it with log_dir")
        written = await self._lanes["events"].submit(list(events))
        self._telemetry.events.inc(written)
        return written

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
            done = self._lanes["impressions"].submit(rows)
        except Refusal:
            self._telemetry.impressions_lost.inc(len(rows))
            return
        done.add_done_callback(partial(self._count, len(rows)))

    def _count(self, rows: int, done: asyncio.Future[int]) -> None:
        lost = done.cancelled() or done.exception() is not None
        (self._telemetry.impressions_lost if lost else self._telemetry.impressions).inc(rows)


def _impression(request_id: str, time: int, answering: Answering, query: Query, answer: Answer) -> Impression:
    items = answer.items
    (user,) = answering.system.store.users.texts([query.user_id])
    return Impression(
        request_id=request_id,
        time=EPOCH + time * MICROSECOND,
        version=answering.version,
        user_id=user,
        session_id=as_text(query.session_id),
        answered_by=answer.answered_by,
        item_id=[str(item.item_id) for item in items],
        position=[item.rank for item in items],
        score=[item.score for item in items],
    )


def _write(log: FileLog, jobs: list[Rows]) -> list[int | Exception]:
    """In a lane's thread: the rows of all jobs are one write."""
    try:
        log.append([_impression(*row) if isinstance(row, tuple) else row for rows in jobs for row in rows])
    except OSError as error:
        logger.error("the log cannot be written: %s", error)
        reason = error.strerror or str(error)
        return [Refusal("log_unavailable", f"the log cannot be written ({reason}); nothing was kept")] * len(jobs)
    return [len(rows) for rows in jobs]
