"""Kafka: where a log is kept, written ``kafka://host:9092,host2:9092/topic``, and how it is read.

Two topics: events in ``topic``, the lists that were answered in ``topic-impressions``.  This file alone imports
confluent-kafka.  ``?name=value`` behind the topic gives librdkafka's own settings (``security.protocol=SASL_SSL``,
``sasl.username=…``), with ``$NAME`` for what the environment holds, so that no password stands on a command line.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from suisen.errors import InputError, need_extra

LISTS = "-impressions"
"""Behind the name of the events' topic: the topic of the lists."""
PATIENCE_S = 20.0
"""Seconds that a broker may take to answer."""
BATCH, PAUSE_S = 10_000, 0.1
"""Most messages that are taken at a time, and most seconds that they are waited for."""
NAME = re.compile(r"[A-Za-z0-9._-]+")
Offsets = dict[str, dict[str, int]]
"""Topic → partition (as text, for JSON) → the next message to be read."""


@dataclass(frozen=True)
class Topic:
    """Brokers and the topic of the events."""

    servers: str
    name: str
    options: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Settings of librdkafka, which may hold secrets."""

    @classmethod
    def of(cls, setting: str, url: str) -> Topic:
        """From a URL.  Raises InputError naming the setting."""
        parts = urlsplit(url)
        name = parts.path.strip("/")
        form = "give kafka://host:9092/topic, several hosts with commas between"
        if "@" in parts.netloc:  # and no word of what stands before it
            raise InputError(f"{setting} holds a user or password; give them as ?sasl.username=…&sasl.password=$NAME")
        if parts.scheme != "kafka" or not all(map(str.strip, parts.netloc.split(","))):
            raise InputError(f"{setting} = {parts.scheme}://{parts.netloc}{parts.path} names no broker; {form}")
        if not NAME.fullmatch(name) or len(name) + len(LISTS) > 249 or name in (".", ".."):
            raise InputError(f"{setting}: {name!r} is no topic; write it with letters, digits, '.', '_', '-'")
        given = {key: os.path.expandvars(value) for key, value in parse_qsl(parts.query, keep_blank_values=True)}
        return cls(parts.netloc, name, given)

    @property
    def lists(self) -> str:
        """The topic of the lists that were answered."""
        return self.name + LISTS

    def __str__(self) -> str:
        return f"kafka://{self.servers}/{self.name}"

    def client(self, kind: str, **settings: object) -> Any:
        """A ``Producer`` or ``Consumer`` of confluent-kafka.  Raises InputError where a setting is none of its own."""
        library = kafka_library()
        quiet = {
            "log_level": 0,
            "error_cb": lambda error: None,
        }  # a broker that is away would be told of ten times a second
        chosen = {"bootstrap.servers": self.servers, **quiet, **settings, **self.options}
        try:
            return getattr(library, kind)(chosen)
        except (library.KafkaException, ValueError, TypeError) as error:
            raise InputError(f"{self}: {kind} refused ({error}); mend what stands behind the '?'") from None


def kafka_library() -> Any:
    """The module confluent_kafka.  Raises MissingExtra."""
    need_extra("kafka", "confluent_kafka")
    import confluent_kafka

    return confluent_kafka


class Reading:
    """Reads both topics from where an earlier reading ended to where they end when this one begins."""

    def __init__(self, topic: Topic, group: str | None = None) -> None:
        """``group``: whose offsets are kept by the broker.  Raises InputError where the broker does not answer."""
        self._topic, self._group, self._library = topic, group, kafka_library()
        self.offsets: Offsets = {}
        """After what was read."""
        self.notes: list[str] = []
        more: dict[str, object] = {
            "group.id": group or "suisen", "enable.auto.commit": False, "enable.partition.eof": True,
            "auto.offset.reset": "earliest", "fetch.wait.max.ms": 100,
        }  # fmt: skip
        self._consumer = topic.client("Consumer", **more)
        try:
            known = self._consumer.list_topics(timeout=PATIENCE_S).topics
        except self._library.KafkaException as error:
            self._consumer.close()
            raise InputError(f"{topic} does not answer ({error.args[0].str()}); start it, or name others") from None
        self._places = [
            self._library.TopicPartition(name, number)
            for name in (topic.name, topic.lists)
            if name in known
            for number in sorted(known[name].partitions)
        ]
        if topic.name not in known:
            self._consumer.close()
            raise InputError(f"{topic}: the broker has no topic {topic.name!r}; serve with --log {topic} first")
        if topic.lists not in known:
            self.notes.append(f"{topic}: no topic {topic.lists!r}: no event is joined to a list")

    def messages(self, since: Offsets) -> Iterator[tuple[str, bytes]]:
        """(place, data) of every message from ``since`` on, else from the group's offsets, else from the first.

        A partition is read until the broker says that it ends there, and of one that is always written to no message
        that is younger than this reading.  The offset of the end is not asked for: not every broker tells it exactly.
        """
        began, heard = 1_000 * time.time(), time.monotonic()
        for at in self._places:
            self._start(at, since)
        self._consumer.assign(self._places)
        left = {(at.topic, at.partition) for at in self._places}
        while left:
            batch = self._consumer.consume(BATCH, timeout=PAUSE_S)
            heard = time.monotonic() if batch else heard
            if time.monotonic() > heard + PATIENCE_S:
                raise InputError(f"{self._topic} does not answer any more; nothing was written, begin again")
            for message in batch:
                key = message.topic(), message.partition()
                if message.error() is not None:
                    self._check(message.error())
                    left.discard(key)
                elif message.timestamp()[1] > began:
                    left.discard(key)
                elif key in left:
                    yield self._read(key, message)

    def _read(self, key: tuple[str, int], message: Any) -> tuple[str, bytes]:
        of_topic, number = self.offsets[key[0]], str(key[1])
        if message.offset() < of_topic[number]:
            self.notes.append(f"{key[0]}[{number}]: begins anew: it has no message {of_topic[number]} any more")
        of_topic[number] = message.offset() + 1
        return f"{key[0]}[{number}] {message.offset()}", message.value() or b""

    def commit(self) -> None:
        """Tells the broker what was read, once what was read is kept."""
        if self._group is not None:
            places = [
                self._library.TopicPartition(name, int(number), offset)
                for name, of_topic in self.offsets.items()
                for number, offset in of_topic.items()
            ]
            self._consumer.commit(offsets=places, asynchronous=False)

    def close(self) -> None:
        """Leaves the broker."""
        self._consumer.close()

    def _start(self, at: Any, since: Offsets) -> None:
        """Where a partition is read from; what the broker deleted before it was read is said."""
        first, _ = self._consumer.get_watermark_offsets(at, timeout=PATIENCE_S)
        wanted = since.get(at.topic, {}).get(str(at.partition))
        if wanted is None and self._group is not None:
            stored = self._consumer.committed([at], timeout=PATIENCE_S)[0].offset
            wanted = stored if stored >= 0 else None
        if wanted is not None and wanted < first:
            gone = f"{first - wanted:,} messages from {wanted} on were deleted before they were read"
            self.notes.append(f"{at.topic}[{at.partition}]: {gone}")
        at.offset = max(first, wanted or 0)
        self.offsets.setdefault(at.topic, {})[str(at.partition)] = at.offset

    def _check(self, error: Any) -> None:
        """Raises InputError for what is more than the end of a partition."""
        if error.code() != self._library.KafkaError._PARTITION_EOF:
            raise InputError(f"{self._topic} cannot be read ({error.str()}); nothing was written, begin again")
