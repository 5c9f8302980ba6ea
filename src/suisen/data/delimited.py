"""Delimited text → text columns, with the file's own line number of each record and the malformed records named.

A record with another number of fields than the header must not be padded or cut in silence, so records are measured
before they are parsed: vectorised over bytes (RFC 4180: a quote toggles, a newline between quotes belongs to the
field).  Files with quotes in other places (``5" pipe``) take a slower path through the standard library's parser.
"""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.data.clean import Fault
from suisen.errors import InputError

BYTES_PER_CHUNK = 1 << 24
"""Bytes measured at a time: bounds the memory of the masks."""
NEWLINE, RETURN, QUOTE = b'\n\r"'
STAND_IN = b"\x1f"
"""Takes the place of a delimiter of several bytes (``::``): the unit separator, which text does not hold."""
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Text:
    """A parsed file: n records of text."""

    frame: pl.DataFrame
    """String columns; null where empty."""
    lines: pl.Series
    """(n,) Int64: the line each record begins at; the header is line 1."""
    malformed: tuple[Fault, ...] = ()


@dataclass(frozen=True)
class _Records:
    starts: Longs
    ends: Longs
    fields: Longs
    lines: Longs
    irregular: bool = False
    unclosed: bool = False

    def take(self, which: npt.NDArray[np.bool_]) -> "_Records":
        return _Records(self.starts[which], self.ends[which], self.fields[which], self.lines[which])


@dataclass
class _Sums:
    """What one chunk hands to the next."""

    delimiters: int = 0
    newlines: int = 0
    quotes: int = 0
    irregular: bool = False
    parts: list[tuple[Longs, Longs, Longs]] = field(default_factory=list)


def read_delimited(name: str, data: bytes, delimiter: str, quoting: bool = True) -> Text:
    """Records of UTF-8 text without a byte-order mark.

    Raises InputError for an empty file, a header alone, a column named twice, a quote that is never closed, and
    bytes that are not UTF-8.
    """
    mark = delimiter.encode()
    if len(mark) > 1:
        data, mark, quoting = data.replace(mark, STAND_IN), STAND_IN, False
    records = _measure(data, mark[0], quoting)
    if records.starts.size == 1 and b"\r" in data.strip():
        raise InputError(f"{name}: lines end in a carriage return alone; write the file with newlines")
    if records.irregular:
        return _slow(name, data, mark)
    if records.unclosed:
        raise InputError(_unclosed(name, int(records.lines[-1])))
    all_records = records.starts.size
    records = records.take(~_blank(data, records))
    if records.lines.size == 0:
        raise InputError(f"{name} is empty; give a header and at least one row")
    first = _decoded(name, data[records.starts[0] : records.ends[0]]).rstrip("\r")
    row = next(csv.reader([first], delimiter=mark.decode())) if quoting else first.split(mark.decode())
    columns = _header(name, row)
    right = records.fields == len(columns)
    good, bad = records.take(right), records.take(~right)
    frame = _parse(name, _joined(data, good, all_records), mark, quoting, columns)
    if frame.height != good.lines.size - 1:
        raise InputError(f"{name}: {good.lines.size - 1} records were found and {frame.height} read; is it text?")
    return Text(frame, pl.Series("line", good.lines[1:]), _wrong_width(bad.lines, bad.fields, len(columns)))


def _measure(data: bytes, delimiter: int, quoting: bool) -> _Records:
    """Start, end, number of fields and first line of each record."""
    buffer, sums = np.frombuffer(data, dtype=np.uint8), _Sums()
    for base in range(0, buffer.size, BYTES_PER_CHUNK):
        _measure_chunk(buffer, base, delimiter, quoting, sums)
    ends, fields, next_lines = (np.concatenate([p[i] for p in sums.parts] or [np.zeros(0, int)]) for i in range(3))
    if buffer.size and (ends.size == 0 or ends[-1] != buffer.size - 1):  # the last record has no newline
        ends, fields = np.append(ends, buffer.size), np.append(fields, sums.delimiters + 1)
        next_lines = np.append(next_lines, 0)
    starts, lines = np.append(0, ends[:-1] + 1)[: ends.size], np.append(1, next_lines[:-1])[: ends.size]
    return _Records(starts, ends, fields, lines, sums.irregular, sums.quotes % 2 == 1)


def _measure_chunk(buffer: npt.NDArray[np.uint8], base: int, delimiter: int, quoting: bool, sums: _Sums) -> None:
    chunk = buffer[base : base + BYTES_PER_CHUNK]
    wanted = (chunk == NEWLINE) | (chunk == delimiter)
    if quoting:
        wanted |= chunk == QUOTE
    hits = np.flatnonzero(wanted)
    found = chunk[hits]
    newline = found == NEWLINE
    outside = np.ones(hits.size, dtype=bool)  # of quotes
    if quoting:
        quote = found == QUOTE
        depth = sums.quotes + np.cumsum(quote)
        outside = depth % 2 == 0
        sums.irregular |= _irregular(buffer, base + hits[quote], outside[quote], delimiter)
        sums.quotes += int(quote.sum())
    ends = newline & outside
    delimiters = np.cumsum((found == delimiter) & outside)
    last = np.append(-sums.delimiters, delimiters[ends])
    next_lines = sums.newlines + np.cumsum(newline)[ends] + 1
    sums.parts.append((base + hits[ends], np.diff(last) + 1, next_lines))
    sums.newlines += int(newline.sum())
    sums.delimiters = int((delimiters[-1] if hits.size else 0) - last[-1])


def _irregular(buffer: npt.NDArray[np.uint8], at: Longs, closing: npt.NDArray[np.bool_], delimiter: int) -> bool:
    """Whether a quote opens behind text or closes in front of text."""
    edges = np.array([NEWLINE, RETURN, QUOTE, delimiter], dtype=np.uint8)
    opened, closed = at[~closing], at[closing]
    before = buffer[opened[opened > 0] - 1]
    after = buffer[closed[closed < buffer.size - 1] + 1]
    return not (np.isin(before, edges).all() and np.isin(after, edges).all())


def _blank(data: bytes, records: _Records) -> npt.NDArray[np.bool_]:
    length = records.ends - records.starts
    buffer = np.frombuffer(data, dtype=np.uint8)
    only_return = (length == 1) & (buffer[np.minimum(records.starts, buffer.size - 1)] == RETURN)
    blank: npt.NDArray[np.bool_] = (length == 0) | only_return
    return blank


def _joined(data: bytes, kept: _Records, all_records: int) -> bytes:
    """The file's bytes without the records that are not kept (each with its newline)."""
    if kept.starts.size == all_records:
        return data
    edges = np.zeros(len(data) + 2, dtype=np.int8)
    edges[kept.starts] += 1
    edges[kept.ends + 1] -= 1
    inside = np.cumsum(edges, dtype=np.int8)[: len(data)] > 0
    return np.frombuffer(data, dtype=np.uint8)[inside].tobytes()


def _header(name: str, row: list[str]) -> list[str]:
    columns = [column.strip() for column in row]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise InputError(f"{name}: the header names {twice[0]!r} twice; give each column a name of its own")
    return columns


def _parse(name: str, data: bytes, mark: bytes, quoting: bool, columns: list[str]) -> pl.DataFrame:
    options: dict[str, Any] = {"quote_char": '"' if quoting else None, "separator": mark.decode()}
    try:
        frame = pl.read_csv(data, infer_schema=False, **options)
    except pl.exceptions.PolarsError as error:
        _decoded(name, data)
        raise InputError(f"{name} cannot be read as text with {mark.decode()!r} between fields: {error}") from None
    return _emptied(frame.rename(dict(zip(frame.columns, columns, strict=True))))


def _emptied(frame: pl.DataFrame) -> pl.DataFrame:
    """Null in place of empty text."""
    return frame.with_columns(pl.when(pl.all() != "").then(pl.all()))


def _decoded(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f'{name}: line {line} is not UTF-8; pass encoding="shift-jis" or write it anew') from None


def _unclosed(name: str, line: int) -> str:
    return f"{name}: a quote in the record at line {line} is never closed; close it or double it"


def _wrong_width(lines: Longs, fields: Longs, width: int) -> tuple[Fault, ...]:
    out = []
    for which, what in ((fields > width, "too many"), (fields < width, "too few")):
        if which.any():
            first = f"the record has {fields[which][0]} fields and the header {width}"
            out.append(Fault(f"{what} fields", first, pl.Series(lines[which], dtype=pl.Int64)))
    return tuple(out)


def _slow(name: str, data: bytes, mark: bytes) -> Text:
    """Through ``csv``, record by record: for files whose quotes do not follow RFC 4180."""
    rows, broken = [], []
    for line, row in _parsed_records(name, _decoded(name, data), mark.decode()):
        if row is None:
            broken.append(line)
        elif row:
            rows.append((line, row))
    if broken and (not rows or broken[0] < rows[0][0]):
        raise InputError(f"{name}: in the header, line {broken[0]}, a quoted name is followed by text; mend its quotes")
    columns = _header(name, rows[0][1])
    good = [(line, row) for line, row in rows[1:] if len(row) == len(columns)]
    bad = [(line, len(row)) for line, row in rows[1:] if len(row) != len(columns)]
    frame = pl.DataFrame([row for _, row in good], schema=dict.fromkeys(columns, pl.String), orient="row")
    lines, widths = (np.array([pair[i] for pair in bad], dtype=np.int64) for i in range(2))
    faults = _wrong_width(lines, widths, len(columns))
    if broken:
        faults += (Fault("misplaced quotes", "a quoted field is followed by text", pl.Series(broken)),)
    return Text(_emptied(frame), pl.Series("line", [line for line, _ in good], dtype=pl.Int64), faults)


def _parsed_records(name: str, text: str, mark: str) -> Iterator[tuple[int, list[str] | None]]:
    """(first line, fields) of each record; None where it is broken."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error):
                raise InputError(_unclosed(name, line)) from None
            yield line, None
        else:
            yield line, row
