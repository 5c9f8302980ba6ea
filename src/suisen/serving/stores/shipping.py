"""The logs of a server on their way to Kafka: a shipper each, and what the server asks of them."""

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from suisen.data.kafka import LISTS, Topic
from suisen.serving.problems import Refusal
from suisen.serving.segments import Position
from suisen.serving.settings import Settings
from suisen.serving.stores.shipper import Shipper
from suisen.serving.telemetry import Telemetry

POLL_S = 0.002
"""Seconds between two looks at whether the broker has an event."""

FLUSHED = 0.8
"""Share of ``grace_s`` in which what is written is shipped at the end: the rest is for saying what was not."""


class Shipping:
    """Ships events to a topic, and lists to a second one."""

    def __init__(self, url: str, logs: Mapping[str, Path], settings: Settings, telemetry: Telemetry) -> None:
        """``logs``: files by what they hold, ``events`` or ``impressions``.  Raises InputError and MissingExtra."""
        topic = Topic.of("log", url)
        names = {"events": topic.name, "impressions": topic.name + LISTS}
        self._shippers = {log: Shipper(topic, names[log], path, telemetry) for log, path in logs.items()}
        self._most, self._patience_s = settings.spool_bytes, settings.deadline_s
        self._grace_s = settings.drain_s + FLUSHED * settings.grace_s
        telemetry.follow(telemetry.spool_bytes, lambda: sum(one.spool for one in self._shippers.values()))
        telemetry.follow(telemetry.broker_lag, lambda: max(one.lag for one in self._shippers.values()))

    def start(self) -> None:
        """Starts the threads."""
        for one in self._shippers.values():
            one.start()

    async def stop(self, since: float) -> None:
        """Ships what is written, as long as a server that began to drain at ``since`` may take."""
        by = max(since + self._grace_s, time.monotonic() + 1)
        await asyncio.gather(*(asyncio.to_thread(one.stop, by) for one in self._shippers.values()))

    def full(self, log: str) -> bool:
        """Whether so much waits for the broker that no more may be taken.  0.2 µs."""
        return self._shippers[log].spool > self._most

    def check(self, log: str) -> None:
        """Refuses (503) where it is full."""
        if self.full(log):
            raise Refusal("log_unavailable", f"more than {self._most} bytes wait for the broker; nothing was kept")

    async def shipped(self, end: Position) -> None:
        """Returns once the broker has acknowledged the events up to there; refuses (503) where that takes too long."""
        events, by = self._shippers["events"], time.monotonic() + self._patience_s
        head = events.head(end)
        events.awake.set()
        while head and not events.has(head, end.offset):
            if time.monotonic() > by:
                why = f"the broker did not take the events within {self._patience_s:g} s"
                raise Refusal("log_unavailable", f"{why}; they are in the log and follow; send them again by event_id")
            await asyncio.sleep(POLL_S)
