"""What a store of users must do, whatever program it is, and the values that go to and fro."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

TOO_LARGE = 1
"""The answer about a value that is too large, or of another type."""
LAG_S = 0.002
"""A timer that is later than this says that the event loop was busy."""
UNCHANGED = 0
"""The answer about events whose stamp is the one that was named."""


class StoreError(Exception):
    """The store did not do what it was asked; the message names no password."""


class Sent(NamedTuple):
    """Events of one visitor that a store is to keep."""

    key: bytes
    lines: tuple[bytes, ...]
    """In the order of arrival."""


class Asked(NamedTuple):
    """A value that a store is asked for."""

    key: bytes
    stamp: bytes = b""
    """Of the events that are known already."""


class Found(NamedTuple):
    """What a round trip brought."""

    new: list[bytes] | None
    """Per ``Sent`` a letter per line: 1, or 0 where the store had the event; None where it takes no writes."""
    values: list[bytes | int | None]
    """Per ``Asked`` its value, ``UNCHANGED``, ``TOO_LARGE``, or None where there is none."""


class UserStore(Protocol):
    """Keeps values for several servers.  All methods may raise StoreError."""

    async def exchange(self, sent: Sequence[Sent], asked: Sequence[Asked], rows: Mapping[bytes, bytes]) -> Found:
        """Appends, then reads, then writes, in one round trip."""
        ...

    async def ping(self) -> None:
        """Connects where that is needed, and waits for an answer."""
        ...

    async def drop(self) -> None:
        """Closes all connections: what comes late on them answers nobody."""
        ...


async def within(work: "asyncio.Task[Found] | asyncio.Task[None]", seconds: float) -> bool:
    """Waits for a task; False where it was not done in time, and is cancelled.

    Time in which the event loop itself was busy does not count, up to ten times as many seconds in all: an answer that
    lies in the socket is not late.
    """
    clock = time.monotonic  # uvloop's own stands still within a turn
    began = clock()
    until = began + seconds
    while not work.done():
        await asyncio.wait({work}, timeout=max(0.0, until - clock()))
        late = clock() - until
        if work.done() or late < 0:
            continue
        if late < LAG_S or clock() - began > 10 * seconds:
            work.cancel()
            await asyncio.wait({work})
            return False
        until = clock() + min(late, seconds)
    return True
