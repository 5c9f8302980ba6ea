"""A client of the admin listener: versions are loaded, compared and switched, items blocked, while the server answers.

    from suisen.client import AdminClient

    with AdminClient("http://localhost:8001", api_key="…") as admin:
        admin.load("/models/today")
        admin.shadow(0.1)
        ...
        admin.switch()

A change is sent once, unless the server was not reached or says that it did nothing: rolled back twice is not rolled
back.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from suisen.client.calls import Call, T
from suisen.client.clients import Caller


class WorkerSlot(Struct, frozen=True):
    """A version in one worker."""

    worker: int
    state: str
    """``loading``, ``ready`` or ``failed``."""
    error: str


class VersionSlot(Struct, frozen=True):
    """A version that is loaded."""

    role: str
    """``serving``, ``candidate`` or ``former``."""
    version: str
    workers: list[WorkerSlot]


class Comparison(Struct, frozen=True):
    """How the candidate's answers compare with the live ones."""

    share: float
    requests: int
    lists: int
    identical: int
    """Lists whose first ten items are those of the live list, in its order."""
    shared: int
    places: int
    """Items of the live first tens, and those of them that the candidate's hold: ``shared``."""
    errors: int
    live_s: float
    shadow_s: float
    dropped: int


class Versions(Struct, frozen=True):
    """What is loaded, in all workers."""

    request_id: str
    slots: list[VersionSlot]
    pending: list[int]
    """Workers that have not done yet what was asked for."""
    shadow: Comparison | None

    def version(self, role: str) -> str | None:
        """The version of a role: ``serving``, ``candidate`` or ``former``; None where there is none."""
        return next((slot.version for slot in self.slots if slot.role == role), None)


class ServerStatus(Struct, frozen=True):
    """The server and its workers."""

    request_id: str
    state: str
    version: str
    workers: list[dict[str, Any]]


class Blocklist(Struct, frozen=True):
    """What no list may hold."""

    request_id: str
    blocked: list[str]
    unavailable: list[str]
    in_force: int
    """Items, those of the watched file with them."""
    unknown: list[str]
    file_error: str
    kept: bool
    pending: list[int]


class AdminClient(Caller):
    """Asks the admin listener.  Verbs raise Refused and Unreachable.  ``wait_s``: most seconds that the server waits
    until all its workers have done it; the client waits ``deadline_s`` longer.
    """

    def slots(self) -> Versions:
        """The versions that are loaded, and how the candidate compares."""
        return self._made(Call("GET", "/admin/slots", Versions))

    def status(self) -> ServerStatus:
        """The server's state and what each worker serves."""
        return self._made(Call("GET", "/admin/status", ServerStatus))

    def load(self, bundle: str, *, switch: bool = False, wait_s: float = 120.0) -> Versions:
        """Loads a bundle, a path on the server's machine, beside what answers; ``switch``: also lets it answer."""
        return self._do("load", Versions, {"bundle": bundle, "switch": switch, "wait_s": wait_s})

    def shadow(self, share: float, *, wait_s: float = 10.0) -> Versions:
        """Lets the candidate answer a share of the live requests too, to be compared; 0 ends it."""
        return self._do("shadow", Versions, {"share": share, "wait_s": wait_s})

    def switch(self, *, wait_s: float = 10.0) -> Versions:
        """Lets the candidate answer."""
        return self._do("switch", Versions, {"wait_s": wait_s})

    def rollback(self, *, wait_s: float = 10.0) -> Versions:
        """Lets the former version answer again."""
        return self._do("rollback", Versions, {"wait_s": wait_s})

    def unload(self, role: Literal["candidate", "former"], *, wait_s: float = 10.0) -> Versions:
        """Lets go of a version that does not answer."""
        return self._do("unload", Versions, {"role": role, "wait_s": wait_s})

    def blocklist(self) -> Blocklist:
        """The items that no list may hold."""
        return self._made(Call("GET", "/admin/blocklist", Blocklist))

    def change_blocklist(
        self,
        *,
        block: Sequence[str | int] = (),
        unblock: Sequence[str | int] = (),
        unavailable: Sequence[str | int] = (),
        available: Sequence[str | int] = (),
        wait_s: float = 10.0,
    ) -> Blocklist:
        """Blocks items and lets others be shown again; the rest stays as it is."""
        message = {"block": block, "unblock": unblock, "unavailable": unavailable, "available": available}
        return self._do("blocklist", Blocklist, {**message, "wait_s": wait_s})

    def replace_blocklist(
        self, *, blocked: Sequence[str | int], unavailable: Sequence[str | int], wait_s: float = 10.0
    ) -> Blocklist:
        """Puts these items in the place of all that were told before."""
        message = {"blocked": blocked, "unavailable": unavailable, "wait_s": wait_s}
        return self._do("blocklist", Blocklist, message, method="PUT")

    def _do(self, verb: str, answer: type[T], message: dict[str, Any], *, method: str = "POST") -> T:
        """Sends a message; the server may take its ``wait_s``, and twice that where it loads and switches."""
        call = Call(method, f"/admin/{verb}", answer, msgspec.json.encode(message), again=False)
        return self._made(call, self.deadline_s + float(message["wait_s"]) * (2 if message.get("switch") else 1))
