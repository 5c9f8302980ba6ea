"""What all workers of a server are to serve, and what each of them does: small files in a folder that they share.

``desired.json`` says what is wanted; whoever is asked for a change writes it, and every worker reads it and acts (the
state, not the order to change it: a worker that was away finds all it needs).  ``<number>.status.json`` says what a
worker has done.  Files are replaced as a whole; changes are made one after the other, under a lock.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from suisen.serving.shadow import Report

if sys.platform != "win32":
    import fcntl

S = TypeVar("S", bound=msgspec.Struct)
START = ""
"""The place of what the server was started with."""
Role = Literal["serving", "candidate", "former"]


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted.  Bundles are named by their places: the private copies."""

    serial: int = 0
    """Counts the changes."""
    serving: str = START
    candidate: str | None = None
    """Loaded beside; it answers once it is switched to."""
    former: str | None = None
    """What answered before, kept so that one can go back at once."""
    former_until: float = 0.0
    """When it is let go, in seconds since 1970."""
    shadow: float = 0.0
    """Share of the live requests that the candidate answers too."""
    lists: int = 0
    """Counts the changes of the list of blocked items that were asked for."""

    @property
    def places(self) -> dict[str, Role]:
        """What is to be loaded, by place."""
        roles: dict[Role, str | None] = {"former": self.former, "candidate": self.candidate, "serving": self.serving}
        return {place: role for role, place in roles.items() if place is not None}


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A place as a worker has it."""

    place: str
    state: Literal["loading", "ready", "failed"]
    version: str = ""
    since: float = 0.0
    """When it was loaded, in seconds since 1970."""
    error: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker has done."""

    number: int
    pid: int
    serial: int
    """The change that it acted on last."""
    serving: str
    slots: tuple[Loaded, ...] = ()
    shadow: Report | None = None
    lists: int = 0
    """The change of the list of blocked items that is in force."""
    blocked: int = 0

    def of(self, place: str) -> Loaded | None:
        """What it has of a place."""
        return next((slot for slot in self.slots if slot.place == place), None)


class Board:
    """The files.  Any process may read and change."""

    def __init__(self, folder: Path, number: int = 0, workers: int = 1) -> None:
        """``folder``: private to the server; ``number``: of this process among ``workers``."""
        self.folder, self.number, self.workers = folder, number, workers
        self._path = folder / "desired.json"
        self._stamp: tuple[int, int] | None = None
        self._desired = Desired()

    def desired(self) -> Desired:
        """What is wanted now; 3 µs where it is what it was."""
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return self._desired
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._stamp:
            self._desired = msgspec.json.decode(self._path.read_bytes(), type=Desired)
            self._stamp = stamp
        return self._desired

    def change(self, change: Callable[[Desired], Desired]) -> tuple[Desired, Desired]:
        """What was wanted and what is from now on; what ``change`` raises leaves it as it was."""
        with self.alone("desired.lock"):
            self._stamp = None
            before = self.desired()
            after = msgspec.structs.replace(change(before), serial=before.serial + 1)
            _write(self._path, after)
            return before, after

    def tell(self, status: Status) -> None:
        """What this process has done."""
        _write(self._status(self.number), status)

    def statuses(self) -> list[Status]:
        """What each worker has done, as far as they have said."""
        found = (_read(self._status(number), Status) for number in range(self.workers))
        return [status for status in found if status is not None]

    @contextmanager
    def alone(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Nobody else holds the lock of this name meanwhile; False, where one does and nothing is to be waited for.

        The lock of a process that died is free.
        """
        if sys.platform == "win32":  # one process
            yield True
            return
        file = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = True
        except BlockingIOError:
            held = False
        try:
            yield held
        finally:
            os.close(file)

    def _status(self, number: int) -> Path:
        return self.folder / f"{number}.status.json"


def _write(path: Path, message: msgspec.Struct) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(msgspec.json.encode(message))
    part.replace(path)


def _read(path: Path, kind: type[S]) -> S | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
