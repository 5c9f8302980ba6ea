"""Delimited text → text columns, with the file's own line number of each record and the malformed records named.

A record with another number of fields than the header must not be padded or cut in silence, so records are measured
before they are parsed (``suisen.data.records``).  What a quote means is given, or found by ``quote="auto"``:

* RFC 4180 holds where every quote stands at the edge of a field, is closed, and every record has the header's width.
  Lines within quotes that look like rows themselves speak against it: more than half of them have the header's width,
  and a column's cells are of the same shape in them as elsewhere (``u17``, ``u4``).
* Else a backslash escapes quotes where all such quotes lie within others that stand as RFC 4180 has them.
* Else quotes are part of the text where every line then has the header's width, and no field doubles quotes as RFC
  4180 does.
* Else it is a mixture, and each line with a quote is judged by itself (``suisen.data.quoting``).

What was found is a note wherever it is not plain RFC 4180.

Spaces: where a name of the header has spaces around it, they are taken from the names and from all values, except
within quotes.  Otherwise nothing is taken from either.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from suisen.data.clean import Fault
from suisen.data.encodings import decoded
from suisen.data.quoting import Dialect, by_lines, enclosed, rows_inside, split
from suisen.data.raw import Quote
from suisen.data.records import Longs, Records, joined, measure
from suisen.errors import InputError

STAND_IN = b"\x1f"
"""Takes the place of a delimiter of several bytes (``::``): the unit separator, which text does not hold."""

ESCAPED = re.compile(rb'\\[\\"]')


@dataclass(frozen=True)
class Text:
    """A parsed file: n records of text."""

    frame: pl.DataFrame
    """String columns; null where empty."""
    lines: pl.Series
    """(n,) Int64: the line each record begins at; the first line is 1."""
    malformed: tuple[Fault, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _File:
    """What is read: UTF-8 text whose delimiter is one byte."""

    name: str
    data: bytes
    mark: bytes
    columns: tuple[str, ...] = ()
    """Names for a file without a header."""

    def measured(self, quote: str | None, data: bytes | None = None) -> Records:
        return measure(data or self.data, self.mark[0], None if quote is None else ord(quote))


def read_delimited(name: str, data: bytes, delimiter: str, quote: Quote = "auto", columns: Sequence[str] = ()) -> Text:
    """Records of UTF-8 text without a byte-order mark; the first one is the header unless ``columns`` names them.

    Raises InputError for an empty file, a header alone, a column named twice, a quote that is never closed where
    ``quote`` says that quotes enclose fields, a first row of another width than ``columns``, and bytes that are not
    UTF-8.
    """
    mark = delimiter.encode()
    if len(mark) > 1:
        if STAND_IN in data:
            raise InputError(f"{name} holds the control character 0x1f; write it with a delimiter of one character")
        data, mark = data.replace(mark, STAND_IN), STAND_IN
    file, notes = _without_padding(_File(name, data, mark, tuple(columns)))
    text = _auto(file) if quote == "auto" else _given(file, quote)
    spaced = text.frame.select(pl.all().str.starts_with(" ").all() & pl.all().is_not_null().any()).row(0)
    kept = ", ".join(column for column, every in zip(text.frame.columns, spaced, strict=True) if every)
    note = f"{name}: every value of {kept} begins with a space, which is kept, as the header has none"
    return replace(text, notes=(*notes, *text.notes, *([note] if kept else [])))


def first_row(data: bytes, mark: str) -> list[str]:
    """The fields of the first line that is not blank."""
    line = data.lstrip(b"\r\n").split(b"\n", 1)[0].decode(errors="replace").removesuffix("\r")
    return split(line, mark)


def _given(file: _File, quote: Quote) -> Text:
    """As the caller says."""
    if quote == "none":
        return _fast(file, file.measured(None), None)
    if quote == "backslash":
        return _by_lines(file, Dialect(file.mark.decode(), escape="\\"))
    records = file.measured(quote)
    if records.irregular or records.unclosed:
        return _by_lines(file, Dialect(file.mark.decode(), quote))
    return _fast(file, records, quote)


def _auto(file: _File) -> Text:
    """As the file's quotes show; see the head of this module."""
    if b'"' not in file.data:
        return _fast(file, file.measured(None), None)
    records, mark = file.measured('"'), file.mark.decode()
    over = records.lines[records.several]
    if records.right and not (over.size and rows_inside(file.data, mark, records)):
        several = f", {over.size:,} over several lines (first at line {over[0]})" if over.size else ""
        return _fast(file, records, '"', f"quotes enclose fields{several}")
    if _escaped(file):
        note = f'{file.name}: a backslash escapes quotes (quote="backslash"); pass quote="none" if quotes are text'
        return replace(_given(file, "backslash"), notes=(note,))
    lines = file.measured(None)
    doubled = rb'(?m)(^|%b)"([^"\n]|"")*""([^"\n]|"")*"(?=%b|\r?$)' % ((re.escape(file.mark),) * 2)
    if lines.right and not (b'""' in file.data and re.search(doubled, file.data)):
        line = file.data.count(b"\n", 0, file.data.index(b'"')) + 1
        said = f"quotes are part of the text (first at line {line}); pass quote= if they enclose fields"
        text = _fast(file, lines, None, said)
        if not enclosed(text.frame):
            return text
    return _by_lines(file, Dialect(mark, guess=True))


def _escaped(file: _File) -> bool:
    """Whether every quote behind a backslash lies within quotes, and the others stand as RFC 4180 has them."""
    masked = ESCAPED.sub(b"xx", file.data)
    records = file.measured('"', masked)
    quotes = np.flatnonzero(np.frombuffer(masked, dtype=np.uint8) == ord('"'))
    escaped = [found.start() for found in ESCAPED.finditer(file.data) if found[0] == b'\\"']
    within = bool((np.searchsorted(quotes, escaped) % 2 == 1).all())
    return bool(escaped) and within and records.right and not records.several.any()


# -- spaces ------------------------------------------------------------------------------------------------------------


def _without_padding(file: _File) -> tuple[_File, tuple[str, ...]]:
    """The file without the spaces around fields, where its header has some."""
    header = first_row(file.data, file.mark.decode())
    if file.mark == b" " or file.columns or all(cell == cell.strip(" ") for cell in header):
        return file, ()
    mark = re.escape(file.mark)
    quoted = rb'(?<![^%b\n ])("(?:[^"\n]|"")*")' % mark
    data, count = re.subn(rb"%b|(?<![^%b\n]) +| +(?=[%b\r\n]|$)" % (quoted, mark, mark), rb"\1", file.data)
    count -= len(re.findall(quoted, file.data))
    return replace(file, data=data), (f"{file.name}: spaces around {count:,} names and values are left out",)


# -- parsing -----------------------------------------------------------------------------------------------------------


def _fast(file: _File, records: Records, quote: str | None, said: str = "") -> Text:
    """Through Polars: for quotes that stand as RFC 4180 has them, or are text."""
    name = file.name
    if records.starts.size == 1 and b"\r" in file.data.strip():
        raise InputError(f"{name}: lines end in a carriage return alone; write the file with newlines")
    if records.starts.size == 0:
        raise InputError(f"{name} is empty; give a header and at least one row")
    first = decoded(name, file.data[records.starts[0] : records.ends[0]]).removesuffix("\r")
    mark = file.mark.decode()
    columns = _named(file, split(first, mark, quote) if quote else first.split(mark), int(records.lines[0]))
    right = records.fields == len(columns)
    good, bad = records.take(right), records.take(~right)
    frame = _parse(file, joined(file.data, good), quote, columns)
    lines = good.lines if file.columns else good.lines[1:]
    if frame.height != lines.size:
        raise InputError(f"{name}: {lines.size} records were found and {frame.height} read; is it text?")
    malformed = _wrong_width(bad.lines, bad.fields, len(columns))
    return Text(frame, pl.Series("line", lines), malformed, (f"{name}: {said}",) if said else ())


def _named(file: _File, row: list[str], line: int) -> list[str]:
    """The columns' names, from the header or as given."""
    name, columns = file.name, list(file.columns) or row
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        what = "columns =" if file.columns else "the header"
        mend = "give each column a name of its own; a file without a header needs columns="
        raise InputError(f"{name}: {what} names {twice[0]!r} twice; {mend}")
    if len(columns) != len(row):
        given = f"columns = {', '.join(columns)}: {len(columns)} names"
        raise InputError(f"{given}, and line {line} of {name} has {len(row)} fields")
    if [cell.strip().lower() for cell in row] == [column.lower() for column in file.columns]:
        raise InputError(f"{name}: line {line} is a header with the names of columns=; leave columns= out")
    return columns


def _parse(file: _File, data: bytes, quote: str | None, columns: list[str]) -> pl.DataFrame:
    mark = file.mark.decode()
    try:
        frame = pl.read_csv(data, infer_schema=False, quote_char=quote, separator=mark, has_header=not file.columns)
    except pl.exceptions.PolarsError as error:
        decoded(file.name, data)
        raise InputError(f"{file.name} cannot be read as text with {mark!r} between fields: {error}") from None
    return _emptied(frame.rename(dict(zip(frame.columns, columns, strict=True))))


def _emptied(frame: pl.DataFrame) -> pl.DataFrame:
    """Null in place of empty text."""
    return frame.with_columns(pl.when(pl.all() != "").then(pl.all()))


def _by_lines(file: _File, dialect: Dialect) -> Text:
    """Row by row: for quotes that do not stand as RFC 4180 has them."""
    (line, header, _), *rows = by_lines(decoded(file.name, file.data), dialect, len(file.columns))
    if header is None:
        raise InputError(f"{file.name}: in the header, line {line}, a quoted name is followed by text; mend its quotes")
    columns = _named(file, header, line)
    rows = [(line, header, False), *rows] if file.columns else rows
    lines = np.array([line for line, _, _ in rows], dtype=np.int64)
    widths = np.array([0 if row is None else len(row) for _, row, _ in rows], dtype=np.int64)
    kept = [row for _, row, _ in rows if row is not None and len(row) == len(columns)]
    frame = pl.DataFrame(kept, schema=dict.fromkeys(columns, pl.String), orient="row")
    faults = _wrong_width(lines[widths > 0], widths[widths > 0], len(columns))
    if (broken := lines[widths == 0]).size:
        faults += (Fault("misplaced quotes", "a quoted field is followed by text or never closed", pl.Series(broken)),)
    stray, said = [line for line, _, is_text in rows if is_text], f"{file.name}: quotes enclose fields"
    if stray:
        where = f"{len(stray):,} line{'s' * (len(stray) > 1)} (first at line {stray[0]})"
        said += f", and are part of the text in {where}; quote= says what they are"
    return Text(_emptied(frame), pl.Series("line", lines[widths == len(columns)]), faults, (said,))


def _wrong_width(lines: Longs, fields: Longs, width: int) -> tuple[Fault, ...]:
    out = []
    for which, what in ((fields > width, "too many"), (fields < width, "too few")):
        if which.any():
            first = f"the record has {fields[which][0]} fields and the header {width}"
            out.append(Fault(f"{what} fields", first, pl.Series(lines[which], dtype=pl.Int64)))
    return tuple(out)
