"""What the other workers of a server did: their events, read from the log that all of them append to.

An event that one worker took has to count for a request to any other as soon as it was answered with 202.  The log is
the channel: an appended batch moves the *end of the log*, one integer in a mapped file, before its request is answered;
each worker compares that integer with how far it has read before it computes anything (0.2 µs), and reads what is new.
So no sibling has to be reached, waited for or given up, none can miss an event, all read the same order, and a worker
that starts again reads from where the log stood when the server started.

Up to that end the log never changes: batches are appended one after the other, each under the lock of the file.
"""

import logging
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import msgspec

from suisen.serving.event_log import LoggedEvent

logger = logging.getLogger("suisen.serving")
PIECE = 1 << 20
"""Bytes that are read at a time."""
_line = msgspec.json.Decoder(LoggedEvent)


@dataclass(frozen=True)
class Group:
    """The workers of one server, and which of them this process is."""

    folder: Path
    """Private, and gone with the server: what the workers share."""
    number: int
    """Of this process, from 0."""
    workers: int
    since: int
    """Bytes of the event log when the server started."""

    def counts(self, number: int) -> Path:
        """The file that a worker counts in."""
        return self.folder / f"{number}.counts"

    @property
    def restarts(self) -> Path:
        """The file that the supervisor counts in."""
        return self.folder / "restarts.counts"


class Siblings:
    """Events that other workers appended to the log.  Any thread may catch up."""

    def __init__(self, group: Group, path: Path) -> None:
        """``path``: of the event log, which exists."""
        with (group.folder / "log-end").open("a+b") as file:
            file.truncate(8)
            self._end = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")
        self._file = os.open(path, os.O_RDONLY)
        self._read = group.since
        self._own: deque[tuple[int, int]] = deque()
        self._lock = Lock()

    def wrote(self, start: int, end: int) -> None:
        """The bytes from ``start`` to ``end`` were appended by this worker; called while nobody else may append."""
        if self._own and start < self._own[-1][1]:  # somebody emptied the log
            self._own.clear()
        self._own.append((start, end))  # before others hear of it: catching up passes over what is ours
        self._end[0] = end

    def catch_up(self, took: Callable[[Sequence[LoggedEvent]], object]) -> None:
        """Tells ``took`` all events that others appended since the last time, and returns when it has taken them."""
        if self._end[0] in (self._read, 0):
            return
        with self._lock:
            end = self._end[0]
            start = self._read if self._read <= end else 0
            for events in self._events(start, end):
                took(events)
            self._read = end  # last: who finds it there may compute

    def _events(self, start: int, end: int) -> Iterator[list[LoggedEvent]]:
        """Events of others in a part of the log."""
        while self._own and self._own[0][0] < end:
            mine, after = self._own.popleft()
            yield from self._pieces(start, mine)
            start = after
        yield from self._pieces(start, end)

    def _pieces(self, start: int, end: int) -> Iterator[list[LoggedEvent]]:
        rest = b""
        while start < end:
            data = os.pread(self._file, min(PIECE, end - start), start)
            if not data:  # emptied meanwhile
                return
            start += len(data)
            whole, newline, rest = (rest + data).rpartition(b"\n")
            if whole:
                yield _decoded(whole + newline)


def _decoded(lines: bytes) -> list[LoggedEvent]:
    """The events of whole lines; a line that is none, written by something else, is passed over and told of."""
    try:
        return _line.decode_lines(lines)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        events = []
    for line in lines.splitlines():
        try:
            events.append(_line.decode(line))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            logger.warning("a line of the event log is no event (%s) and was passed over", error)
    return events
