"""The log on its way to Kafka: a thread that follows the files of the log and hands every line to the broker.

The log is written first, as without a broker, and is the spool: what the broker does not take waits in it, over
restarts too.  One process of a server ships a log, whoever holds its lock; when that one dies the next takes over.  How
far the broker has acknowledged stands in ``.events.jsonl.shipped``, written after the acknowledgement: after a crash
some lines are sent twice and none is left out.  ``event_id`` makes a line that comes twice harmless.

A line costs 6 µs of processor beside the request that wrote it.
"""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import msgspec

from suisen.data.kafka import Topic, kafka_library
from suisen.data.progress import Progress, head_of
from suisen.errors import InputError
from suisen.serving.event_log import lock, unlock
from suisen.serving.segments import Position, keep_from, segments
from suisen.serving.telemetry import Telemetry

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("suisen.serving")
PIECE, LONGEST = 1 << 18, 1 << 26
"""Bytes that are sent before the next are read; most bytes of one line."""
PAUSE_S, LOOK_S, QUIET_S = 0.02, 0.25, 5.0
"""Seconds between two looks at the file; between two at the whole spool; after which a silent broker is told of."""
RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
"""Seconds before lines that the broker refused are sent again; doubled each time, up to the second."""
SAMPLES = 4_096
SETTINGS: Mapping[str, object] = {
    "acks": "all", "enable.idempotence": True, "compression.type": "lz4", "linger.ms": 1, "message.timeout.ms": 0
}  # fmt: skip
"""No message is given up: the spool holds it anyway."""


def _state(file: int) -> tuple[int, int, int]:
    """A file as it is now: its inode alone may be that of a file which is gone; size, time of the last write."""
    found = os.fstat(file)
    return found.st_ino, found.st_size, found.st_mtime_ns


class _Who(msgspec.Struct):
    """What orders lines: those of one user, or of one guest, come in one partition."""

    user_id: str | None = None
    session_id: str | None = None


_who = msgspec.json.Decoder(_Who)


class Shipper:
    """Ships one log to one topic, in a thread of its own."""

    def __init__(self, topic: Topic, name: str, path: Path, telemetry: Telemetry) -> None:
        """``name``: of the topic.  Raises InputError for settings that librdkafka does not know, and MissingExtra."""
        self.name, self.path = name, path
        self.spool = 0
        """Bytes that the broker has not."""
        self.awake = Event()
        """Set where somebody waits for the broker: the next look comes at once."""
        self._topic, self._library = topic, kafka_library()
        self._delivered, self._failed = telemetry.delivered.labels(name), telemetry.undelivered.labels(name)
        self._checkpoint, self._lock_path = (path.with_name(f".{path.name}.{end}") for end in ("shipped", "shipping"))
        self._producer: Any = topic.client("Producer", **SETTINGS)
        self._lock = -1
        self._saved, self._read, self._looked, self._heard = (0, 0), 0.0, 0.0, 0.0
        self._silent = False
        self._held = self._oldest = 0
        """Inodes: of the oldest file that is kept, and of the oldest that is not shipped."""
        self._whole: dict[tuple[int, int, int], str] = {}
        """How rotated files begin that are shipped to their ends."""
        self._sent, self._written = 0, deque[tuple[float, int]]()
        self._progress = self._load()
        self._measure()
        self._hold()  # before the log is written to, and rotated
        self._closing, self._by, self._targets = Event(), float("inf"), list[tuple[str, int]]()
        self._thread = Thread(target=self._run, name=f"suisen-ship-{name}", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, by: float) -> None:
        """Ships what is written so far, until a moment of the monotonic clock, and says what is left."""
        self._targets, self._by = [(head, size) for _, head, size in self._files()], by
        self._closing.set()
        self._thread.join(max(0.0, by - time.monotonic()) + 1)
        if not self._reached_all():
            logger.warning(
                "%d bytes of %s are not with the broker yet; the next start ships them", self.spool, self.path
            )

    @property
    def lag(self) -> float:
        """Age of the oldest line that the broker has not, in seconds, as long as this process knows of it."""
        return time.monotonic() - self._written[0][0] if self._written else 0.0

    def has(self, head: str, offset: int) -> bool:
        """Whether the broker has the file that begins so, up to there."""
        if self._lock < 0:
            self._refresh()
        return self._progress.reached(head, offset)

    def head(self, end: Position) -> str:
        """How the file of a place begins; "" where it is gone."""
        return next((head for inode, head, _ in self._files() if inode == end.inode), "")

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing.is_set() or not (self._reached_all() or time.monotonic() > self._by):
            moved = False
            try:
                moved = self._leads() and self._ship()
                self._look()
            except Exception as error:  # the thread has to live: what it could not do it tries again
                logger.error("the log is not shipped: %s", error, exc_info=not isinstance(error, OSError))
                time.sleep(RETRY_S)
            if not moved:
                self.awake.wait(PAUSE_S)
                self.awake.clear()
        self._producer.purge()
        self._producer.poll(0)
        if self._lock >= 0:
            os.close(self._lock)

    def _leads(self) -> bool:
        """Whether this process ships; it does from now on where nobody else does."""
        if self._lock >= 0:
            return True
        lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if sys.platform != "win32":
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            self._refresh()
            return False
        self._progress, self._lock = self._load(), lock
        return True

    def _ship(self) -> bool:
        """Ships the next lines; whether there were any."""
        for path in segments(self.path):
            with path.open("rb") as opened:
                file = opened.fileno()
                if _state(file) in self._whole:
                    continue
                start = self._progress.offset(file)
                lines = _lines(file, start) if start < os.fstat(file).st_size else []
                if lines:
                    done = self._deliver(lines)
                    self._sent += sum(map(len, lines[:done]))
                    if done:
                        self._progress.advance(file, start + sum(map(len, lines[:done])))
                        self._save()
                    return True
        return False

    def _deliver(self, lines: list[bytes]) -> int:
        """Hands lines to the broker until it has them all, or the server ends; returns how many, from the first, it
        has.
        """
        waiting, pause = dict(enumerate(lines)), RETRY_S
        self._heard = time.monotonic()
        while waiting and time.monotonic() < self._by:
            refused = self._send(waiting)
            if refused:
                logger.error("%s refused %d lines (%s); they are sent again", self._topic, len(waiting), refused)
                time.sleep(min(pause, max(0.0, self._by - time.monotonic())))
                pause = min(2 * pause, LONGEST_RETRY_S)
        return min(waiting, default=len(lines))

    def _send(self, waiting: dict[int, bytes]) -> str:
        """Sends lines once; those that the broker has, or never will, leave ``waiting``.  Returns why others stay.

        A report without an offset says that the broker took the lines for ones that it had before.  A broker that was
        killed in between may have had their numbers and not them: they are sent again under new numbers.
        """
        reasons: list[Any] = []
        doubtful = False
        out, sent = set(waiting), dict(waiting)

        def told(number: int, error: Any, message: Any) -> None:
            nonlocal doubtful
            out.discard(number)
            self._heard = time.monotonic()
            if error is None:
                doubtful = doubtful or message.offset() is None
                del waiting[number]
            elif error.code() == self._library.KafkaError.MSG_SIZE_TOO_LARGE:
                self._set_aside(sent.pop(number))
                del waiting[number]
            else:
                reasons.append(error)

        for number, line in list(sent.items()):  # fewer than librdkafka holds: nothing else waits
            try:
                given = {"key": _key(line), "on_delivery": partial(told, number)}
                self._producer.produce(self.name, line.rstrip(b"\n"), **given)
            except self._library.KafkaException as error:
                told(number, error.args[0], None)
        while out and time.monotonic() < self._by:
            self._producer.poll(0.05)
            self._look()
        if doubtful:
            waiting.update(sent)
        if doubtful or any(error.fatal() for error in reasons):
            self._producer = self._topic.client("Producer", **SETTINGS)
        self._delivered.inc(len(sent) - len(waiting))
        self._failed.inc(len(sent) if doubtful else len(reasons))
        return str(reasons[0].str()) if reasons else "it is not sure that it has them" if doubtful else ""

    def _set_aside(self, line: bytes) -> None:
        """Keeps a line that is too large for the broker in a file of its own."""
        aside = self.path.with_name(f"{self.path.name}.unsent")
        with aside.open("ab") as file:
            file.write(line)
        self._failed.inc()
        logger.error("a line of %d bytes is too large for %s; it is kept in %s", len(line), self._topic, aside)

    # -- what is known ----------------------------------------------------------------------------------------------

    def _files(self) -> Iterator[tuple[int, str, int]]:
        """(inode, first line's digest, bytes) of each file of the log, the oldest first."""
        for path in segments(self.path):
            with suppress(FileNotFoundError), path.open("rb") as opened:
                inode, size, _ = _state(opened.fileno())
                yield inode, head_of(opened.fileno()), size

    def _look(self) -> None:
        """Measures the spool now and then, keeps its files from being deleted, and tells of a broker that is silent."""
        now = time.monotonic()
        if now > self._looked + LOOK_S:
            self._looked = now
            heads = self._measure()
            if self._lock >= 0:
                self._progress.keep(heads)
                self._sample(now)
                self._hold()
            self._tell(now)

    def _measure(self) -> list[str]:
        """Bytes that the broker has not, and the oldest file with any; returns how the files of the log begin."""
        left, oldest, heads = 0, 0, {}
        for path in segments(self.path):
            with suppress(FileNotFoundError), path.open("rb") as opened:
                file = opened.fileno()
                state = _state(file)
                heads[state] = self._whole.get(state) or head_of(file)
                if state in self._whole:
                    continue
                rest = state[1] - self._progress.offset(file)
                left += rest
                if rest or path == self.path:
                    oldest = oldest or state[0]
                else:
                    self._whole[state] = heads[state]
        self.spool, self._oldest = left, oldest
        self._whole = {state: head for state, head in self._whole.items() if state in heads}
        return list(heads.values())

    def _hold(self) -> None:
        """Keeps what is not shipped from being deleted: files older than need be, never fewer."""
        if self._oldest and self._oldest != self._held:
            with suppress(OSError):  # a full disk: the former one is held on
                keep_from(self.path, self._oldest)
                self._held = self._oldest

    def _save(self) -> None:
        try:
            self._progress.save(self._checkpoint)
        except OSError as error:  # a full disk: shipping goes on, and a crash sends more lines twice
            logger.error("how far the log is shipped cannot be written: %s", error)
            time.sleep(RETRY_S)

    def _sample(self, now: float) -> None:
        """Remembers when how much was written, so that the age of what is not shipped is known."""
        written = self._sent + self.spool
        while self._written and self._written[0][1] <= self._sent:
            self._written.popleft()
        if self.spool and len(self._written) < SAMPLES and (not self._written or written > self._written[-1][1]):
            self._written.append((now, written))

    def _tell(self, now: float) -> None:
        silent = self._lock >= 0 and self.spool > 0 and now > self._heard + QUIET_S
        if silent and not self._silent:
            logger.warning("%s takes nothing; what it has not waits in %s", self._topic, self.path)
        elif self._silent and not silent:
            logger.info("%s takes lines again", self._topic)
        self._silent = silent

    def _reached_all(self) -> bool:
        return all(self.has(head, size) for head, size in self._targets if size)

    def _load(self) -> Progress:
        try:
            return Progress.load(self._checkpoint)
        except InputError as error:  # a power cut: everything is sent again, and ids tell what came twice
            logger.warning("%s; the whole log is shipped again", error)
            return Progress()

    def _refresh(self) -> None:
        """Reads what the process that ships has reached, where that is new."""
        with suppress(FileNotFoundError):
            found, now = self._checkpoint.stat(), time.monotonic()
            saved = found.st_ino, found.st_mtime_ns
            if saved != self._saved or now > self._read + LOOK_S:  # two saves of one tick of the clock may look alike
                self._progress, self._saved, self._read = self._load(), saved, now


def _lines(file: int, start: int) -> list[bytes]:
    """Whole lines from a place on, while nobody writes: a batch that is taken back was never there."""
    lock(file)
    data = os.pread(file, PIECE, start)
    if b"\n" not in data and len(data) == PIECE:
        data = os.pread(file, LONGEST, start)
        data = data[: data.find(b"\n") + 1]
    unlock(file)
    return data[: data.rfind(b"\n") + 1].splitlines(keepends=True)


def _key(line: bytes) -> bytes | None:
    """The user's or the guest's id."""
    try:
        who = _who.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):  # no line of ours: any partition will do
        return None
    name = who.user_id or who.session_id
    return None if name is None else name.encode()
