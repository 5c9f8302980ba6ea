"""What servers tell each other about visitors: keys and values of a store.

    suisen:events:NAME             a stamp, then a line of JSON per event: [time, "item", event id or 0]
    suisen:row:SUISEN:BUNDLE:NAME  the row of a visitor, as one version of Suisen computed it from one bundle

NAME is ``u:`` and a user's id or ``s:`` and a session's.  Events are facts: they hold ids as they were logged, and
every bundle reads them.  A row is worth something for one bundle and the events that it was computed from, so that both
stand in it; a checksum over key and value keeps out what is damaged, or was written under another name.
"""

import math
import secrets
import struct
from collections.abc import Iterable
from hashlib import blake2b
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
from msgspec import Meta

from suisen.recommending.states import Kept
from suisen.version import __version__

VALUE_BYTES = 128 << 10
"""Largest value that is written or read: 4,096 events of 31 bytes."""
STAMP = 16
"""Letters of a stamp."""
_Line = tuple[
    Annotated[int, Meta(ge=0, le=2**62)], str, Annotated[str, Meta(min_length=1)] | Annotated[int, Meta(ge=0)]
]
_lines = msgspec.json.Decoder(_Line)
_HEAD = struct.Struct("<16s16sdd??")  # checksum, digest of the events, expiry, seconds it took, able, known


class Told(NamedTuple):
    """A visitor's events as a store holds them."""

    stamp: bytes
    """Another one after each change."""
    times: list[int]
    items: list[str]
    damaged: int
    """Lines that are no events."""


def user_name(text: str) -> str:
    """How keys name a user."""
    return f"u:{text}"


def session_name(text: str) -> str:
    """How keys name a session."""
    return f"s:{text}"


def events_key(name: str) -> bytes:
    """Where a visitor's events are."""
    return f"suisen:events:{name}".encode("utf-8", "surrogatepass")


def row_key(version: str, name: str) -> bytes:
    """Where the row of a visitor is that one bundle gave."""
    return f"suisen:row:{__version__}:{version}:{name}".encode("utf-8", "surrogatepass")


def new_stamp() -> bytes:
    """What no other write has."""
    return secrets.token_hex(STAMP // 2).encode()


def line(time: int, item: str, event_id: str | None) -> bytes:
    """An event; ids that the server made itself say nothing about repeats and are left out."""
    named = event_id is not None and not event_id.startswith("~") and '"' not in event_id and "\\" not in event_id
    return msgspec.json.encode((time, item, event_id if named else 0))


def told(value: bytes) -> Told:
    """The events of a value, in the order of arrival; what is damaged is passed over and counted."""
    stamp, newline, rest = value.partition(b"\n")
    if len(stamp) != STAMP or not newline:
        stamp, rest = b"", value
    try:
        rows, damaged = _lines.decode_lines(rest), 0
    except (msgspec.MsgspecError, UnicodeDecodeError):
        rows, damaged = _readable(rest.splitlines())
    return Told(stamp, [row[0] for row in rows], [row[1] for row in rows], damaged)


def _readable(lines: Iterable[bytes]) -> tuple[list[_Line], int]:
    rows: list[_Line] = []
    damaged = 0
    for each in lines:
        try:
            rows.append(_lines.decode(each))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            damaged += 1
    return rows, damaged


def packed(key: bytes, row: Kept, expires: float, seconds: float) -> bytes:
    """The value of a row; ``expires``: seconds since 1970; ``seconds``: that computing it took."""
    floats = row.query.astype("<f4").tobytes() + (b"" if row.row is None else row.row.astype("<f4").tobytes())
    body = floats + np.frombuffer(row.seen, dtype=np.int32).astype("<i4").tobytes()
    head = _HEAD.pack(bytes(16), _digest(row.events), expires, seconds, row.able, row.known)[16:]
    return _checksum(key, head + body) + head + body


class Unpacked(NamedTuple):
    """A row as a store held it."""

    row: Kept
    expires: float
    seconds: float


def unpacked(key: bytes, value: bytes, events: bytes | None, widths: tuple[int, int], items: int) -> Unpacked | None:
    """The row of a value; None where it was computed from other events.

    ``widths``: floats of a query vector and of a context row, ``items``: of the catalogue, row 0 with them.  Raises
    ValueError for a value that is no such row.
    """
    if len(value) < _HEAD.size or _checksum(key, value[16:]) != value[:16]:
        raise ValueError("the checksum is another one")
    _, digest, expires, seconds, able, known = _HEAD.unpack_from(value)
    if digest != _digest(events):
        return None
    floats, start = sum(widths), _HEAD.size
    end = start + 4 * floats
    if len(value) < end or (len(value) - end) % 4:
        raise ValueError(f"{len(value)} bytes are not {floats} floats and whole items")
    numbers = np.frombuffer(value[start:end], dtype="<f4").astype(np.float32)
    seen = np.frombuffer(value[end:], dtype="<i4").astype(np.int32)
    rising = not seen.size or (seen[0] > 0 and seen[-1] < items and bool((np.diff(seen) > 0).all()))
    if not rising or not np.isfinite(numbers).all() or not math.isfinite(expires) or not math.isfinite(seconds):
        raise ValueError("numbers that no row holds")
    row = numbers[widths[0] :] if widths[1] else None
    return Unpacked(Kept(numbers[: widths[0]], row, able, known, seen.tobytes(), events), expires, seconds)


def early(expires: float, seconds: float, now: float, drawn: float) -> bool:
    """Whether to compute a row anew although it is still there, more often the nearer its end and the dearer it is, so
    that not everybody computes it when it is gone: XFetch with β = 1, ``drawn`` from (0, 1].

    A. Vattani, F. Chierichetti, K. Lowenstein: Optimal probabilistic cache stampede prevention, PVLDB 8(8), 2015.
    """
    return now - seconds * math.log(drawn) >= expires


def _digest(events: bytes | None) -> bytes:
    return blake2b(events or b"", digest_size=16).digest()


def _checksum(key: bytes, rest: bytes) -> bytes:
    return blake2b(rest, digest_size=16, key=blake2b(key).digest()).digest()
