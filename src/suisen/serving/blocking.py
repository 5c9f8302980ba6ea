"""Items that no list may hold now: those of a file that others write, and those that the admin listener was told.

Both are files that every worker looks at, so that a change is in force everywhere within a second and after a restart.
A file that is being written, broken or gone leaves what was in force: an item is never shown again by accident.
"""

import csv
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from suisen.errors import InputError
from suisen.files import replacing

logger = logging.getLogger("suisen.serving")
MOST = 100_000
"""Most items of a list; a larger part of the catalogue is a matter of the bundle."""
STATES = ("blocked", "unavailable", "available")
"""What ``status`` may say in a CSV file."""
Stamp = tuple[int, int, int]


class Lists(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """Raw ids, as text: items that must not be shown, and items that cannot be had at the moment."""

    blocked: list[str | int] = msgspec.field(default_factory=list)
    unavailable: list[str | int] = msgspec.field(default_factory=list)

    @property
    def items(self) -> set[str]:
        """Both together."""
        return {str(item) for item in (*self.blocked, *self.unavailable)}


class Blocklist:
    """The two files, as they were when they were last whole.  A look costs two ``stat`` (5 µs)."""

    def __init__(self, file: Path | None, own: Path) -> None:
        """``file``: what others write; ``own``: what the admin listener writes.  Raises InputError where ``file``
        cannot be read.
        """
        self.file, self.own = file, own
        self.told = Lists()
        """What the admin listener was told."""
        self.error = ""
        """Why the file is not in force as it stands."""
        self._in_file: set[str] = set()
        self._stamps: dict[Path, Stamp | None] = {}
        self._seen: Stamp | None = None
        if file is not None:
            self._seen = self._stamps[file] = _stamp(file)
            self._in_file = read(file)

    @property
    def items(self) -> frozenset[str]:
        """All that are blocked."""
        return frozenset(self._in_file | self.told.items)

    def look(self) -> bool:
        """Reads what changed; whether anything did.  The file is read once it stood still between two looks."""
        stamp, changed = _stamp(self.own), False
        if stamp is not None and stamp != self._stamps.get(self.own):
            self._stamps[self.own] = stamp
            self.told, changed = msgspec.json.decode(self.own.read_bytes(), type=Lists), True
        if self.file is None:
            return changed
        stamp, before = _stamp(self.file), self._seen
        self._seen = stamp
        if stamp == self._stamps[self.file] or stamp != before:
            return changed
        self._stamps[self.file] = stamp
        try:
            self._in_file, self.error = read(self.file), ""
        except InputError as error:
            self.error = str(error)
            logger.error("the list of blocked items stays as it was: %s", error)
            return changed
        return True

    def tell(self, lists: Lists) -> None:
        """Puts a list in the place of the one that the admin listener was told before, whole or not at all."""
        with replacing(self.own) as part:
            part.write_bytes(msgspec.json.encode(lists))


def read(path: Path) -> set[str]:
    """The items of a file, as ``read_lists`` reads it."""
    return read_lists(path).items


def read_lists(path: Path) -> Lists:
    """The lists of a file: one raw id a line (what follows # and empty lines are passed over), a JSON list, a JSON
    object of ``blocked`` and ``unavailable``, or CSV with a column ``item_id`` and, if need be, ``status``.

    Raises InputError naming the file and what is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = _lists(text)
    except OSError as error:
        raise InputError(f"blocklist = {str(path)!r} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, msgspec.MsgspecError, ValueError) as error:
        raise InputError(f"blocklist = {str(path)!r} cannot be read ({error}); give ids, JSON or CSV") from None
    if (count := len(found.items)) > MOST:
        raise InputError(f"blocklist = {str(path)!r} holds {count:,} items; at most {MOST:,} are taken")
    return found


def _lists(text: str) -> Lists:
    start = text.lstrip()[:1]
    if start == "{":
        return msgspec.json.decode(text, type=Lists)
    if start == "[":
        return Lists(msgspec.json.decode(text, type=list[str | int]))
    lines = text.splitlines()
    if lines and "item_id" in [name.strip() for name in lines[0].split(",")]:
        return _of_rows(csv.DictReader(lines, skipinitialspace=True))
    return Lists([item for line in lines if (item := line.partition("#")[0].strip())])


def _of_rows(rows: Iterable[dict[str, str]]) -> Lists:
    found: dict[str, list[str | int]] = {state: [] for state in STATES}
    for row in rows:
        status = row.get("status")
        if status is not None and status not in STATES:
            raise ValueError(f"status = {status!r} must be one of {', '.join(STATES)}")
        found[status or "blocked"].append(row["item_id"])
    return Lists(found["blocked"], found["unavailable"])


def _stamp(path: Path) -> Stamp | None:
    """What changes when a file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
