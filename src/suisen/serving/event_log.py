"""The event log of the server: JSON lines that ``suisen.data`` reads, so that models can learn from what was served.

    events.jsonl       one event per line (``LoggedEvent``)
    impressions.jsonl  one list per line (``Impression``): the items shown, to whom, their positions and scores

``Dataset.from_path("events.jsonl", user="user_id", item="item_id", time="time")`` reads the first; guests are found
with ``session="session_id"``.  Ids are written as text, whatever their type: a log in which 7 and "x7" stand in one
field could not be read back.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import msgspec

from suisen.errors import InputError

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("suisen.serving")
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

    A batch is with the operating system when ``append`` returns: it outlives the process, not a power cut.  A line that
    a crash left half written is moved to ``<file>.torn`` when the log is opened, or before the next line is written.
    """

    def __init__(self, path: Path) -> None:
        """Raises InputError where the file cannot be written."""
        self.path = path
        self.on_append: Callable[[int, int], None] = lambda start, end: None
        """Told which bytes a batch became, while no other process may append."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"log = {str(path)!r} cannot be written ({error.strerror}); give another folder") from None
        self._encoder = msgspec.json.Encoder()
        self.size()

    def size(self) -> int:
        """Bytes of whole lines, once half of one is moved aside."""
        with self._alone():
            return self._mend()

    def append(self, batch: Sequence[msgspec.Struct]) -> None:
        """One write.  A write cut short (a full disk) is taken back and raised as OSError."""
        if self._file < 0:
            raise OSError(f"{self.path} is closed")
        lines = self._encoder.encode_lines(batch)
        with self._alone():
            start = self._mend()  # a sibling that was killed may have left half of a line
            try:
                written = os.write(self._file, lines)
                if written < len(lines):
                    raise OSError(f"{self.path}: only {written} of {len(lines)} bytes were written")
            except OSError:
                os.ftruncate(self._file, start)
                raise
            self.on_append(start, start + written)

    def close(self) -> None:
        """Closes the file; further appends raise OSError."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else writes meanwhile."""
        if sys.platform == "win32":  # one process per log
            yield
            return
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

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
