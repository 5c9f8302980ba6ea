"""What the server keeps: events that clients send and, where asked for, the lists it answered with."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import partial

import msgspec

from suisen.serving.event_log import Impression, Log, LoggedEvent
from suisen.serving.lane import Lane
from suisen.serving.messages import Answer, Event
from suisen.serving.problems import Refusal
from suisen.serving.telemetry import Telemetry

logger = logging.getLogger("suisen.serving")
Rows = list[msgspec.Struct]
WAITING = 20_000
"""Most rows that wait to be written."""
START = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD = timedelta(days=1)
"""Clocks may be this far ahead; a log with events of the future could not be split by time."""


class Journal:
    """Two logs, each behind a lane of its own: a slow disk stops neither the event loop nor the answers."""

    def __init__(self, events: Log | None, impressions: Log | None, telemetry: Telemetry) -> None:
        self._events, self._impressions, self._telemetry = events, impressions, telemetry
        self._lanes: dict[str, Lane[Rows, int]] = {}
        for name, log in (("events", events), ("impressions", impressions)):
            if log is not None:
                lane = self._lanes[name] = Lane(name, partial(_write, log), rows=WAITING, together=WAITING)
                telemetry.watch(name, partial(getattr, lane, "waiting"))

    def start(self) -> None:
        """Starts the lanes."""
        for lane in self._lanes.values():
            lane.start()

    async def stop(self) -> None:
        """Writes what waits and closes the files."""
        for lane in self._lanes.values():
            await lane.stop()
        for log in (self._events, self._impressions):
            if log is not None:
                log.close()

    async def take(self, events: Sequence[Event]) -> int:
        """Keeps all events, or refuses them all; returns when they are with the operating system."""
        if "events" not in self._lanes:
            raise Refusal("log_unavailable", "this server keeps no event log; start it with log_dir")
        now = datetime.now(UTC)
        rows: Rows = [_logged(place, event, now) for place, event in enumerate(events)]
        written = await self._lanes["events"].submit(rows)
        self._telemetry.events.inc(written)
        return written

    def shown(self, request_id: str, version: str, answers: Sequence[Answer]) -> None:
        """Keeps lists without making anybody wait; those that cannot be kept are counted."""
        if "impressions" not in self._lanes:
            return
        now = datetime.now(UTC)
        rows: Rows = [_impression(request_id, version, answer, now) for answer in answers]
        try:
            done = self._lanes["impressions"].submit(rows)
        except Refusal:
            self._telemetry.impressions_lost.inc(len(rows))
            return
        done.add_done_callback(partial(self._count, len(rows)))

    def _count(self, rows: int, done: asyncio.Future[int]) -> None:
        lost = done.cancelled() or done.exception() is not None
        (self._telemetry.impressions_lost if lost else self._telemetry.impressions).inc(rows)


def _write(log: Log, jobs: list[Rows]) -> list[int | Exception]:
    """In a lane's thread: what waited together is one write."""
    try:
        log.append([row for rows in jobs for row in rows])
    except OSError as error:
        logger.error("the log cannot be written: %s", error)
        reason = error.strerror or str(error)
        return [Refusal("log_unavailable", f"the log cannot be written ({reason}); nothing was kept")] * len(jobs)
    return [len(rows) for rows in jobs]


def _logged(place: int, event: Event, now: datetime) -> LoggedEvent:
    """The line of an event.  Refuses one of nobody, and a time that no log may hold."""
    if event.user_id is None and event.session_id is None:
        raise Refusal("invalid_value", f"events[{place}] names neither user_id nor session_id; give one of them")
    time = now if event.time is None else event.time
    if not START <= time <= now + AHEAD:
        raise Refusal(
            "invalid_value",
            f"events[{place}].time = {time.isoformat()} must be from 1970 to now; leave it out for the time of arrival",
        )
    return LoggedEvent(
        user_id=_text(event.user_id),
        session_id=_text(event.session_id),
        item_id=str(event.item_id),
        event=event.event,
        time=time.astimezone(UTC),
        request_id=event.request_id,
        position=event.position,
    )


def _impression(request_id: str, version: str, answer: Answer, now: datetime) -> Impression:
    return Impression(
        request_id=request_id,
        time=now,
        version=version,
        user_id=_text(answer.user_id),
        answered_by=answer.answered_by,
        item_id=[str(item.item_id) for item in answer.items],
        position=[item.rank for item in answer.items],
        score=[item.score for item in answer.items],
    )


def _text(value: str | int | None) -> str | None:
    return None if value is None else str(value)
