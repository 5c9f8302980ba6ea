"""The files of a log: the one that is written to, and those it was before it was rotated.

    events.jsonl                            the newest lines
    events-20261201T001122Z-000002.jsonl    what was events.jsonl until then; the number tells the order

A file keeps its inode when it is renamed, so that a place in a log is an inode and an offset (``Position``), whoever
renames it, this server or logrotate.
"""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec


class Position(NamedTuple):
    """A place in a log."""

    inode: int
    """Of the file, whatever it is called now."""
    offset: int


@dataclass(frozen=True)
class Rotation:
    """When a file of a log is full, and how many full ones are kept."""

    max_bytes: int | None = None
    max_age_s: float | None = None
    """A file holds lines of one period of this length, counted from 1970: 86,400 are days in UTC."""
    keep: int | None = None
    """Rotated files; None: all."""

    def due(self, size: int, written: float, now: float, more: int = 0) -> str:
        """Why a file of ``size`` bytes, the last of them ``written`` then, takes no ``more``; "" where it does."""
        if not size:
            return ""
        if self.max_bytes is not None and size + more > self.max_bytes:
            return "size"
        if self.max_age_s is not None and written // self.max_age_s != now // self.max_age_s:
            return "age"
        return ""


def segments(path: Path) -> list[Path]:
    """All files of a log that are there, the oldest first: rotated ones, those that logrotate renamed
    (``events.jsonl.1``, ``events.jsonl-20261201``; by the time of their last line; not once compressed), and ``path``.
    """
    others = [each for each in _beside(path, rf"{re.escape(path.name)}[-.]\d[\d.-]*") if each.is_file()]
    found = [*rotated(path), *sorted(others, key=lambda each: each.stat().st_mtime_ns)]
    return [*found, path] if path.exists() else found


def rotated(path: Path) -> list[Path]:
    """The files that a log was before, by their numbers."""
    stamped = rf"{re.escape(path.stem)}-\d{{8}}T\d{{6}}Z-\d{{6,}}{re.escape(path.suffix)}"
    return sorted(_beside(path, stamped), key=_number)


def next_name(path: Path) -> Path:
    """What the file at ``path`` is called from now on."""
    before = rotated(path)
    number = _number(before[-1]) + 1 if before else 1
    return path.with_name(f"{path.stem}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{number:06}{path.suffix}")


def keep_from(path: Path, inode: int | None) -> None:
    """Keeps the file of this inode and all newer ones, whatever ``Rotation.keep`` says, until called again; None: none.
    It holds for all processes and outlives them.
    """
    pin = _pin(path)
    if inode is None:
        pin.unlink(missing_ok=True)
        return
    aside = pin.with_name(f"{pin.name}.{os.getpid()}")
    aside.write_bytes(msgspec.json.encode(inode))
    aside.replace(pin)


def prune(path: Path, keep: int | None) -> list[Path]:
    """Deletes the oldest rotated files but ``keep``, and none that ``keep_from`` holds; returns what it deleted."""
    if keep is None:
        return []
    gone: list[Path] = []
    before = rotated(path)
    held = None
    try:
        held = msgspec.json.decode(_pin(path).read_bytes(), type=int)
    except FileNotFoundError:
        pass
    except msgspec.DecodeError:  # whoever wrote it knows what is needed, and nobody else does
        return gone
    for each in before[: max(0, len(before) - keep)]:
        if each.stat().st_ino == held:
            break
        each.unlink(missing_ok=True)
        gone.append(each)
    return gone


def _pin(path: Path) -> Path:
    return path.with_name(f".{path.name}.keep")


def _beside(path: Path, pattern: str) -> list[Path]:
    return [each for each in path.parent.iterdir() if re.fullmatch(pattern, each.name)] if path.parent.is_dir() else []


def _number(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])
