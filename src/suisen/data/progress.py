"""How far files that grow were read, known again after a rename, a rotation or a copy.

A file is known by its first line, and a place in it by the bytes just before it: neither a name nor the number that a
file system gives a file outlives rotation, a backup and another host.  A file that was emptied and written anew is
another file.
"""

import json
import os
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from suisen.errors import InputError
from suisen.files import write_text

FIRST_LINE = 1 << 12, 1 << 20
"""Bytes in which the end of the first line is looked for: most lines are short."""
BEFORE = 256
"""Bytes before a place by which it is known."""
Mark = tuple[int, str]
"""Bytes that were read, digest of the last of them."""


class Progress:
    """Bytes that were read of each file; files are given by their open file numbers."""

    def __init__(self, marks: dict[str, list[Mark]] | None = None) -> None:
        """``marks``: what ``marks`` of an earlier one was."""
        self.marks: dict[str, list[Mark]] = {}
        """By the digest of the first line; several where files begin alike.  As JSON has it."""
        for head, found in (marks or {}).items():
            self.marks[head] = [(int(offset), str(tail)) for offset, tail in found]

    @classmethod
    def load(cls, path: Path) -> "Progress":
        """As ``save`` left it; nothing was read where there is no file.  Raises InputError for another file."""
        try:
            return cls(dict(json.loads(path.read_text(encoding="utf-8")).items()))
        except FileNotFoundError:
            return cls()
        except (ValueError, TypeError, AttributeError):
            raise InputError(f"{path} does not say how far was read; remove it to read everything again") from None

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        write_text(path, json.dumps(self.marks))

    def offset(self, file: int) -> int:
        """Bytes of the file that were read; 0 for one that is new."""
        mark = self._mark(file, head_of(file))
        return 0 if mark is None else mark[0]

    def advance(self, file: int, offset: int) -> None:
        """The file was read up to ``offset``, the end of a line."""
        head = head_of(file)
        former, marks = self._mark(file, head), self.marks.setdefault(head, [])
        if former is not None:
            marks.remove(former)
        marks.append((offset, _tail(file, offset)))

    def reached(self, head: str, offset: int) -> bool:
        """Whether the file that begins so was read up to there."""
        return any(offset <= read for read, _ in self.marks.get(head, ()))

    def keep(self, heads: Iterable[str]) -> None:
        """Forgets all other files."""
        kept = set(heads)
        self.marks = {head: marks for head, marks in self.marks.items() if head in kept}

    def _mark(self, file: int, head: str) -> Mark | None:
        """The furthest place that is one of this file."""
        fits = (mark for mark in self.marks.get(head, ()) if _tail(file, mark[0]) == mark[1])
        return max(fits, default=None)


def head_of(file: int) -> str:
    """Names a file by its first line; "" while it has none."""
    for most in FIRST_LINE:
        line, newline, _ = os.pread(file, most, 0).partition(b"\n")
        if newline:
            return _digest(line)
    return _digest(line) if len(line) == FIRST_LINE[-1] else ""


def _tail(file: int, offset: int) -> str:
    """Names a place by the bytes before it."""
    start = max(0, offset - BEFORE)
    return _digest(os.pread(file, offset - start, start))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=16).hexdigest()
