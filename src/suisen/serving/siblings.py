"""What the other workers of a server did: their events, read from the log that all of them append to.

An event that one worker took has to count for a request to any other as soon as it was answered with 202.  The log is
the channel: an appended batch moves the *end of the log*, one integer in a mapped file, before its request is answered;
each worker compares that integer with how far it has read before it computes anything (0.2 µs), and reads what is new.
So no sibling has to be reached, waited for or given up, none can miss an event, all read the same order, and a worker
that starts again reads from where the log stood when the server started.

The end counts bytes since the server began, whatever files they are in: the mapped file also says which file, by its
inode, begins at which of them.  A file that was renamed, by rotation or by anybody, is found in its folder; one that
was emptied in place begins anew.  Up to the end, a file never changes while it is there.
"""

import logging
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import msgspec

from suisen.serving.event_log import LoggedEvent, lock, unlock

logger = logging.getLogger("suisen.serving")
PIECE = 1 << 20
"""Bytes that are read at a time."""
FILES = 4096
"""Files of the log that are remembered, the newest: with ten per second a worker may fall seven minutes behind."""
LOOKS = 5
"""Most looks for a file that may be renamed in that very moment."""
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


class _Begin(NamedTuple):
    """Where a file of the log begins."""

    inode: int
    at: int
    """Bytes of the log before the first of its own that counts."""
    offset: int
    """Of that one in the file."""


class Ends:
    """The end of the log and the beginnings of its files, in memory that the workers share.

    Cells of 8 bytes: the end, the number of files so far, then ``_Begin`` of file n at place n modulo ``FILES``.
    """

    def __init__(self, group: Group) -> None:
        self._since = group.since
        size = 8 * (2 + 3 * FILES)
        with (group.folder / "log-end").open("a+b") as file:
            file.truncate(size)
            self.cells = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        self._guard = os.open(group.folder / "log-guard", os.O_RDWR | os.O_CREAT, 0o600)

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Held by the one worker that writes to the log."""
        lock(self._guard)
        try:
            yield
        finally:
            unlock(self._guard)

    @property
    def end(self) -> int:
        """Bytes of the log, those of before the server's start included; 0 until there is a new one."""
        return self.cells[0]

    @property
    def files(self) -> int:
        """Files so far."""
        return self.cells[1]

    def begin(self, number: int) -> _Begin:
        """Where a file begins."""
        place = 2 + 3 * (number % FILES)
        return _Begin(*self.cells[place : place + 3])

    def place(self, inode: int, start: int) -> int:
        """Which byte of the log a byte of a file is that was, or will be, written behind its end.  Under the guard."""
        if not self.files and start >= self._since:
            self._add(_Begin(inode, 0, 0))
        if self.files:
            last = self.begin(self.files - 1)
            at = last.at + start - last.offset
            if last.inode == inode and at >= self.end:
                return at
        at = self.end or self._since  # another file, or somebody emptied it
        self._add(_Begin(inode, at, start))
        return at

    def move(self, end: int) -> None:
        """Moves the end.  Under the guard."""
        self.cells[0] = end

    def _add(self, one: _Begin) -> None:
        number = self.files
        place = 2 + 3 * (number % FILES)
        self.cells[place], self.cells[place + 1], self.cells[place + 2] = one
        self.cells[1] = number + 1  # last: a reader never sees half of one


class Reader:
    """Reads the log from a place on, file after file."""

    def __init__(self, ends: Ends, path: Path, at: int) -> None:
        """``path``: of the log, which exists; ``at``: bytes of the log that are not wanted."""
        self.at = at
        self._ends, self._path = ends, path
        self._number = 0
        """Of the file that was read last."""
        self._file = os.open(path, os.O_RDONLY)

    def skip(self) -> None:
        """Goes to the end of the log."""
        self.at = max(self.at, self._ends.end)

    def lines(self, end: int | None = None) -> Iterator[bytes]:
        """Whole lines from where it is up to an end, that of the log by default, in pieces; then it is there.  What is
        gone is passed over, and told.
        """
        end = self._ends.end if end is None else end
        while self.at < end:
            begin, until = self._next(end)
            self.at = max(self.at, begin.at)
            if self._opened(begin):
                start = begin.offset + self.at - begin.at
                yield from pieces(self._file, start, start + until - self.at)
            else:
                logger.warning("%s: %d bytes were gone before they were read", self._path, until - self.at)
            self.at = max(self.at, until)

    def _next(self, end: int) -> tuple[_Begin, int]:
        """The beginning of the file that the next byte is in, and where to stop in it."""
        files = self._ends.files
        number = max(self._number, files - FILES)
        while number + 1 < files and self._ends.begin(number + 1).at <= self.at:
            number += 1
        self._number = number
        until = self._ends.begin(number + 1).at if number + 1 < files else end
        return self._ends.begin(number), min(until, end)

    def _opened(self, begin: _Begin) -> bool:
        """Opens a file by its inode.  False where it is gone, or was emptied and begun anew."""
        later = range(self._number + 1, self._ends.files)
        if any(self._ends.begin(number).inode == begin.inode for number in later):
            return False
        for _ in range(LOOKS):
            if os.fstat(self._file).st_ino == begin.inode:
                return True
            with suppress(OSError, StopIteration), os.scandir(self._path.parent) as found:
                file = os.open(next(each.path for each in found if each.inode() == begin.inode), os.O_RDONLY)
                os.close(self._file)
                self._file = file
        return False


class Siblings:
    """Events that other workers appended to the log.  Any thread may catch up."""

    def __init__(self, group: Group, path: Path) -> None:
        """``path``: of the event log, which exists."""
        self.ends = Ends(group)
        self._end = self.ends.cells
        self._reader = Reader(self.ends, path, group.since)
        self._read = group.since
        self._own: deque[tuple[int, int]] = deque()
        self._lock = Lock()
        self.reader = Reader(self.ends, path, max(self._read, self.ends.end))
        """Another one, from where the log ends now, for whoever writes and wants to know what others wrote."""

    def wrote(self, inode: int, start: int, end: int) -> None:
        """The bytes from ``start`` to ``end`` of a file were appended by this worker; called under the guard."""
        at = self.ends.place(inode, start)
        if end > start:
            self._own.append((at, at + end - start))  # before others hear of it: catching up passes over what is ours
        self.ends.move(at + end - start)

    def catch_up(self, took: Callable[[Sequence[LoggedEvent]], object]) -> None:
        """Tells ``took`` all events that others appended since the last time, and returns when it has taken them."""
        if self._end[0] in (self._read, 0):
            return
        with self._lock:
            end = self._end[0]
            for lines in self._others(end):
                took(decoded(lines))
            self._read = end  # last: who finds it there may compute

    def _others(self, end: int) -> Iterator[bytes]:
        """Lines of others up to an end."""
        while self._own and self._own[0][0] < end:
            mine, after = self._own.popleft()
            yield from self._reader.lines(mine)
            self._reader.at = after
        yield from self._reader.lines(end)


def pieces(file: int, start: int, end: int) -> Iterator[bytes]:
    """Whole lines of a part of a file."""
    rest = b""
    while start < end:
        data = os.pread(file, min(PIECE, end - start), start)
        if not data:  # emptied meanwhile
            return
        start += len(data)
        whole, newline, rest = (rest + data).rpartition(b"\n")
        if whole:
            yield whole + newline


def decoded(lines: bytes) -> list[LoggedEvent]:
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
