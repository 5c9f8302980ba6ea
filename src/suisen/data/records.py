"""Where the records of delimited text begin and end, and how many fields each has: vectorised over bytes.

RFC 4180: a quote toggles between outside and inside, and a newline between quotes belongs to the field.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BYTES_PER_CHUNK = 1 << 24
"""Bytes measured at a time: bounds the memory of the masks."""
NEWLINE, RETURN = b"\n\r"
Longs = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Records:
    """n records of a file; all arrays are (n,)."""

    starts: Longs
    """First byte."""
    ends: Longs
    """The byte behind the last one: the newline's."""
    fields: Longs
    """How many fields."""
    lines: Longs
    """The line each begins at, from 1."""
    several: Flags
    """Whether it goes on over several lines, inside quotes."""
    irregular: bool = False
    """Whether some quote opens behind text or closes in front of text."""
    unclosed: bool = False
    """Whether the last quote is never closed."""

    def take(self, which: Flags) -> "Records":
        """Some of the records."""
        kept = (self.starts[which], self.ends[which], self.fields[which], self.lines[which], self.several[which])
        return Records(*kept, self.irregular, self.unclosed)

    @property
    def right(self) -> bool:
        """Whether every quote stands where RFC 4180 has it and every record has the first one's number of fields."""
        return not (self.irregular or self.unclosed or bool((self.fields != self.fields[:1]).any()))


@dataclass
class _Sums:
    """What one chunk hands to the next."""

    delimiters: int = 0
    newlines: int = 0
    quotes: int = 0
    irregular: bool = False
    parts: list[tuple[Longs, Longs, Longs]] = field(default_factory=list)


def measure(data: bytes, delimiter: int, quote: int | None) -> Records:
    """The records that are not blank, by the bytes that delimit and quote; without a quote every line is a record."""
    buffer, sums = np.frombuffer(data, dtype=np.uint8), _Sums()
    for base in range(0, buffer.size, BYTES_PER_CHUNK):
        _measure_chunk(buffer, base, delimiter, quote, sums)
    ends, fields, next_lines = (np.concatenate([p[i] for p in sums.parts] or [np.zeros(0, int)]) for i in range(3))
    if buffer.size and (ends.size == 0 or ends[-1] != buffer.size - 1):  # the last record has no newline
        ends, fields = np.append(ends, buffer.size), np.append(fields, sums.delimiters + 1)
        next_lines = np.append(next_lines, sums.newlines + 2)
    starts, lines = np.append(0, ends[:-1] + 1)[: ends.size], np.append(1, next_lines[:-1])[: ends.size]
    several = next_lines - lines > 1
    found = Records(starts, ends, fields, lines, several, sums.irregular, sums.quotes % 2 == 1)
    return found.take(~_blank(buffer, found))


def _measure_chunk(buffer: npt.NDArray[np.uint8], base: int, delimiter: int, quote: int | None, sums: _Sums) -> None:
    chunk = buffer[base : base + BYTES_PER_CHUNK]
    wanted = (chunk == NEWLINE) | (chunk == delimiter)
    if quote is not None:
        wanted |= chunk == quote
    hits = np.flatnonzero(wanted)
    found = chunk[hits]
    newline = found == NEWLINE
    outside = np.ones(hits.size, dtype=bool)  # of quotes
    if quote is not None:
        quotes = found == quote
        depth = sums.quotes + np.cumsum(quotes)
        outside = depth % 2 == 0
        edges = np.array([NEWLINE, RETURN, quote, delimiter], dtype=np.uint8)
        sums.irregular |= _irregular(buffer, base + hits[quotes], outside[quotes], edges)
        sums.quotes += int(quotes.sum())
    ends = newline & outside
    delimiters = np.cumsum((found == delimiter) & outside)
    last = np.append(-sums.delimiters, delimiters[ends])
    next_lines = sums.newlines + np.cumsum(newline)[ends] + 1
    sums.parts.append((base + hits[ends], np.diff(last) + 1, next_lines))
    sums.newlines += int(newline.sum())
    sums.delimiters = int((delimiters[-1] if hits.size else 0) - last[-1])


def _irregular(buffer: npt.NDArray[np.uint8], at: Longs, closing: Flags, edges: npt.NDArray[np.uint8]) -> bool:
    """Whether a quote opens behind text or closes in front of text."""
    opened, closed = at[~closing], at[closing]
    before = buffer[opened[opened > 0] - 1]
    after = buffer[closed[closed < buffer.size - 1] + 1]
    return not (np.isin(before, edges).all() and np.isin(after, edges).all())


def _blank(buffer: npt.NDArray[np.uint8], records: Records) -> Flags:
    length = records.ends - records.starts
    only_return = (length == 1) & (buffer[np.minimum(records.starts, buffer.size - 1)] == RETURN)
    blank: Flags = (length == 0) | only_return
    return blank


def joined(data: bytes, kept: Records) -> bytes:
    """The file's bytes of these records alone, each with its newline."""
    if int((kept.ends - kept.starts + 1).sum()) >= len(data):
        return data
    edges = np.zeros(len(data) + 2, dtype=np.int8)
    edges[kept.starts] += 1
    edges[kept.ends + 1] -= 1
    inside = np.cumsum(edges, dtype=np.int8)[: len(data)] > 0
    return np.frombuffer(data, dtype=np.uint8)[inside].tobytes()
