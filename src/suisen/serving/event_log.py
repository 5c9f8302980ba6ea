"""The event log of the server: JSON lines that ``suisen.data`` reads, so that models can learn from what was served.

    events.jsonl       one event per line (``LoggedEvent``)
    impressions.jsonl  one list per line (``Impression``): the items shown, to whom, their positions and scores

``Dataset.from_path("events.jsonl", user="user_id", item="item_id", time="time")`` reads the first; guests are found
with ``session="session_id"``.  Ids are written as text, whatever their type: a log in which 7 and "x7" stand in one
field could not be read back.
"""

import errno
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

import msgspec

from suisen.errors import InputError
from suisen.serving.segments import Position, Rotation, next_name, prune

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("suisen.serving")
Identity = tuple[int, int]
"""Device and inode: what a file is, whatever it is called."""
TAIL = 1 << 16
"""Bytes per read in the search for the end of the last whole line."""


class LoggedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``events.jsonl``.  Ids of users and items that the bundle knows are spelled as it spells them."""

    event_id: str | None = None
    """The client's, ``KEY#PLACE/EVENTS`` under an idempotency key, else the server's own, which begins with ``~``; None
    in lines that were written before there were any."""
    user_id: str | None
    session_id: str | None
    item_id: str
    event: str
    time: datetime
    request_id: str | None
    position: int | None
    value: float | None = None
    """What it was worth: a rating, seconds watched, the revenue."""
    price: float | None = None
    """Of one piece."""
    quantity: int | None = None
    """Pieces."""


class Impression(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``impressions.jsonl``: a list as it was answered.  ``position`` counts from 1."""

    request_id: str
    time: datetime
    version: str
    user_id: str | None
    session_id: str | None = None
    answered_by: str
    item_id: list[str]
    position: list[int]
    score: list[float]
    arm: str | None = None
    """Of an experiment, where one runs."""
    propensity: list[float] | None = None
    """Probability with which each item was shown in its place, where it was drawn."""


def as_text(value: str | int | None) -> str | None:
    """An id as the log holds it."""
    return None if value is None else str(value)


class FileLog:
    """Appends JSON lines to a file: one write per batch, so that batches of several processes never mix.

    A batch is with the operating system when ``append`` returns: it outlives the process, not a power cut; where the
    log is ``durable`` it is on the disk (fdatasync), and outlives that too.  A line that a crash left half written is
    moved to ``<file>.torn`` when the log is opened, or before the next line is written.

    The file may be renamed, deleted or emptied by anybody at any time: before each batch the path is compared with the
    file (2 µs), and a new one is made where they differ.
    """

    def __init__(self, path: Path, rotation: Rotation | None = None, *, durable: bool = False) -> None:
        """Raises InputError where the file cannot be written."""
        self.path, self.rotation = path, rotation or Rotation()
        self.guard: Callable[[], AbstractContextManager[object]] = nullcontext
        """Held while the log is written to; one that the processes of a server share keeps them in one order."""
        self.on_append: Callable[[int, int, int], None] = lambda inode, start, end: None
        """Told which bytes of which file a batch became, under the guard; before each batch where the file ends."""
        self.on_begin: Callable[[str], None] = lambda why: None
        """Told that a file was begun in the place of another, and why: size, age, moved."""
        self.trouble = ""
        """What was said last of why the log cannot be written; "" while it can."""
        self._durable, self._closed = durable, False
        self._file = -1
        self._identity: Identity | None = None
        self._size = 0
        self._encoder = msgspec.json.Encoder()
        try:
            self.size()
        except OSError as error:
            raise InputError(f"log = {str(path)!r} cannot be written ({error.strerror}); give another folder") from None

    def size(self) -> int:
        """Bytes of whole lines in the file, once half of one is moved aside."""
        with self.alone():
            return self._size

    def append(self, batch: Sequence[msgspec.Struct]) -> Position:
        """One write; returns its end.  A write cut short (a full disk) is taken back and raised as OSError."""
        with self.alone():
            return self.write(batch)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else writes meanwhile, and the file is the one at the path.  Raises OSError where none can be."""
        with self.guard():
            self._take()
            try:
                self._size = self._mend()
                self.on_append(self._inode(), self._size, self._size)
                yield
            finally:
                if self._file >= 0:
                    unlock(self._file)

    def write(self, batch: Sequence[msgspec.Struct]) -> Position:
        """``append`` for those who hold ``alone``; a batch of nothing rotates a file that is too old."""
        lines = self._encoder.encode_lines(batch)
        self._rotate_if_due(len(lines))
        if lines:
            start = self._size
            try:
                written = os.write(self._file, lines)
                if written < len(lines):
                    why = f"only {written} of {len(lines)} bytes were written"
                    raise OSError(errno.ENOSPC, why, str(self.path))
                if self._durable:
                    os.fdatasync(self._file)
            except OSError:
                os.ftruncate(self._file, start)
                raise
            self._size = start + written
            self.on_append(self._inode(), start, self._size)
        return Position(self._inode(), self._size)

    def wants_care(self) -> bool:
        """Whether the file is not at its path any more, or too old: ``alone`` would mend that."""
        try:
            found = os.stat(self.path)
        except OSError:
            return True
        moved = (found.st_dev, found.st_ino) != self._identity
        return moved or bool(self.rotation.due(found.st_size, found.st_mtime, time.time()))

    def close(self) -> None:
        """Closes the file; further appends raise OSError."""
        self._closed = True
        self._leave()

    def _inode(self) -> int:
        return self._identity[1] if self._identity else 0

    def _take(self) -> None:
        """Opens the file at the path, unless it is open, and locks it."""
        if self._closed:
            raise OSError(f"{self.path} is closed")
        while True:
            if self._file < 0:
                self._open()
            lock(self._file)
            try:
                there = _identity(self.path)
            except OSError:
                self._leave()
                raise
            if there == self._identity:
                return
            self._leave()
            if there is None:
                self._open()
                logger.warning("%s was moved or deleted; a new file was begun", self.path)
                self.on_begin("moved")

    def _open(self) -> None:
        folder = self.path.parent
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        self._identity = _identity(self._file)
        if self._durable:
            for one in [folder, folder.parent] if new else [folder]:
                _sync_folder(one)

    def _leave(self) -> None:
        """Closes the file, and with it its lock."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _rotate_if_due(self, more: int = 0) -> None:
        """Renames a full file, begins another and deletes the oldest.  A file that cannot be renamed is written on."""
        written = os.fstat(self._file).st_mtime
        why = self.rotation.due(self._size, written, time.time(), more)
        if not why:
            return
        try:
            aside = self.path.rename(next_name(self.path))
        except OSError as error:
            logger.error("%s cannot be rotated: %s", self.path, error)
            return
        self._leave()
        self._take()
        self._size = self._mend()
        logger.info("%s is full (%s) and was renamed to %s", self.path, why, aside.name)
        self.on_begin(why)
        try:
            for each in prune(self.path, self.rotation.keep):
                logger.info("%s was deleted: %d rotated files are kept", each, self.rotation.keep)
        except OSError as error:
            logger.error("a rotated file cannot be deleted: %s", error)

    def _mend(self) -> int:
        """Moves a torn last line aside; returns the size of the file."""
        size = os.fstat(self._file).st_size
        if size == 0 or os.pread(self._file, 1, size - 1) == b"\n":
            return size
        whole = _whole_bytes(self._file, size)
        aside = self.path.with_name(f"{self.path.name}.torn")
        with aside.open("ab") as file:
            file.write(os.pread(self._file, size - whole, whole) + b"\n")
        os.ftruncate(self._file, whole)
        logger.warning("%s: a half-written last line (%d bytes) was moved to %s", self.path, size - whole, aside.name)
        return whole


def _identity(file: int | Path) -> Identity | None:
    """Device and inode of a file; None where there is none at a path."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def lock(file: int) -> None:
    """Waits until no other process holds the file."""
    if sys.platform != "win32":  # there one process per log
        fcntl.flock(file, fcntl.LOCK_EX)


def unlock(file: int) -> None:
    """Lets the next one have it."""
    if sys.platform != "win32":
        fcntl.flock(file, fcntl.LOCK_UN)


def _sync_folder(folder: Path) -> None:
    """A file's name is on the disk once its folder is."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _whole_bytes(file: int, size: int) -> int:
    """Length of the file up to the end of its last whole line."""
    end = size
    while end > 0:
        start = max(0, end - TAIL)
        found = os.pread(file, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
