"""JSON files → ``Raw``: lines, arrays, tables of columns; and what is nested in them.

* ``jsonl``: an object per line.  Lines that are Python's own literals (``{'asin': '7'}``, the Amazon metadata of 2014)
  are read too, and said.
* ``json``: an array of objects; an object with one list of objects; an object of columns; or lines after all.
* A nested object is read as columns of its own, ``details.brand``, as long as it holds values, lists of values or such
  objects; a list of lists is one list.  Other nested values stay as they are.
"""

import ast
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from suisen.data.clean import Fault
from suisen.data.encodings import as_utf8
from suisen.data.raw import FileOptions, Raw, raw_of_frame
from suisen.errors import InputError

MOST_FIELDS = 200
"""A nested object of more fields is one whose names are data."""


def json_lines(name: str, data: bytes, options: FileOptions) -> Raw:
    """A row per line.  Raises InputError where a field changes its type from line to line."""
    data = as_utf8(name, data, options.encoding)
    lines = _lines(data)
    if lines.size == 0:
        raise InputError(f"{name} is empty; give at least one JSON object")
    try:
        frame = pl.read_ndjson(data, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        frame = None
    if frame is not None and frame.height == lines.size:
        return flat(replace(raw_of_frame(name, frame), places=pl.Series("line", lines), unit="line"))
    return flat(_line_by_line(name, data))


def json_file(name: str, data: bytes, options: FileOptions) -> Raw:
    """The rows of a document.  Raises InputError where it holds no table."""
    text = as_utf8(name, data, options.encoding)
    try:
        whole = json.loads(text, parse_constant=_no_json)
    except ValueError as error:
        if text.lstrip()[:1] == b"{":
            raw = json_lines(name, data, options)
            return replace(raw, notes=(f"{name}: read as JSON lines, an object per line", *raw.notes))
        raise InputError(f"{name} is no JSON ({error}); write it again, or pass format=") from None
    rows, note = _rows_of(name, whole)
    good = [row for row in rows if isinstance(row, dict)]
    bad = [i for i, row in enumerate(rows, start=1) if not isinstance(row, dict)]
    raw = _with_fault(name, good, [i for i, row in enumerate(rows, start=1) if isinstance(row, dict)], bad, "row")
    return flat(replace(raw, notes=note))


def _rows_of(name: str, whole: Any) -> tuple[list[Any], tuple[str, ...]]:
    """The rows of a document, and where in it they were found."""
    if isinstance(whole, list):
        return whole, ()
    lists = {key: each for key, each in whole.items() if isinstance(each, list)} if isinstance(whole, dict) else {}
    of_objects = [key for key, each in lists.items() if each and isinstance(each[0], dict)]
    if len(of_objects) == 1:
        return lists[of_objects[0]], (f"{name}: the rows are those of {of_objects[0]!r}",)
    if lists and len(lists) == len(whole) and len({len(each) for each in lists.values()}) == 1 and not of_objects:
        rows = [dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)]
        return rows, (f"{name}: an object of columns",)
    if isinstance(whole, dict) and not lists:
        return [whole], ()
    raise InputError(f"{name} holds no one table; give an array of objects, or an object per line")


# -- line by line ------------------------------------------------------------------------------------------------------


def _lines(data: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers (first = 1) of the lines that are not blank."""
    signs = np.frombuffer(data, dtype=np.uint8)
    ends = np.append(np.flatnonzero(signs == 10), signs.size)
    filled = np.append(0, np.cumsum(signs > 32))  # more than white space
    starts = np.append(0, ends[:-1] + 1)
    return np.flatnonzero(filled[ends] > filled[np.minimum(starts, ends)]) + 1


def _line_by_line(name: str, data: bytes) -> Raw:
    """For a file with lines that are no JSON objects, or whose fields differ from line to line."""
    lines = [(number, line) for number, line in enumerate(data.split(b"\n"), start=1) if line.strip()]
    parse = _json_object
    notes: tuple[str, ...] = ()
    if _json_object(lines[0][1]) is None and _python_object(lines[0][1]) is not None:
        parse = _python_object
        notes = (f"{name}: its lines are Python's literals, not JSON",)
    found = [(number, parse(line)) for number, line in lines]
    rows = [row for _, row in found if row is not None]
    good, bad = ([number for number, row in found if (row is None) == lost] for lost in (False, True))
    return replace(_with_fault(name, rows, good, bad, "line"), notes=notes)


def _with_fault(name: str, rows: list[dict[str, Any]], good: list[int], bad: list[int], unit: Any) -> Raw:
    """The table of the rows, which stand at ``good``; those at ``bad`` are no objects."""
    what = f"the {unit} is no JSON object"
    fault = Fault(f"{unit}s that are no JSON object", what, pl.Series(bad, dtype=pl.Int64))
    places = pl.Series(unit, good, dtype=pl.Int64)
    return Raw(name, _frame_of(name, rows), places, unit, malformed=(fault,) if bad else ())


def _frame_of(name: str, rows: Sequence[dict[str, Any]]) -> pl.DataFrame:
    """A column per key; nested values of several shapes as text of JSON."""
    columns = []
    for key in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(key) for row in rows]
        try:
            column = pl.Series(key, values, strict=True)
        except (TypeError, OverflowError, pl.exceptions.PolarsError):
            column = _mixed(name, key, values)
        columns.append(column if column.dtype != pl.Object else _mixed(name, key, values))
    return pl.DataFrame(columns)


def _mixed(name: str, key: str, values: list[Any]) -> pl.Series:
    """A column that Polars refuses: numbers of both kinds, or nested values.  Raises InputError for other mixtures."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        if max((abs(value) for value in values if isinstance(value, int)), default=0) >= 2**53:
            return pl.Series(key, [None if value is None else str(value) for value in values])
        return pl.Series(key, [None if value is None else float(value) for value in values])
    if kinds & {dict, list} and not kinds & {int, float, bool}:
        texts = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
        return pl.Series(key, texts)
    said = " and ".join(sorted(kind.__name__ for kind in kinds))
    raise InputError(f"{name}: field {key!r} changes its type from line to line ({said}); keep one type")


def _json_object(line: bytes) -> dict[str, Any] | None:
    return _object(lambda text: json.loads(text, parse_constant=_no_json), line)


def _python_object(line: bytes) -> dict[str, Any] | None:
    return _object(lambda text: ast.literal_eval(text.decode().strip()), line)


def _object(parse: Callable[[bytes], Any], line: bytes) -> dict[str, Any] | None:
    try:
        found = parse(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):  # bytes that are not UTF-8 among them
        return None
    return found if isinstance(found, dict) else None


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


# -- what is nested ----------------------------------------------------------------------------------------------------


def flat(raw: Raw) -> Raw:
    """Nested objects as columns of their own, lists of lists as lists, where that is plain; a note says which."""
    frame, opened = raw.frame, []
    while True:
        name = next((name for name, kind in frame.schema.items() if _opens(name, kind, frame.columns)), None)
        if name is None:
            break
        fields = frame[name].struct.fields
        parts = [frame[name].struct.field(each).alias(f"{name}.{each}") for each in fields]
        place = frame.columns.index(name)
        frame = pl.DataFrame([*frame.get_columns()[:place], *parts, *frame.get_columns()[place + 1 :]])
        opened.append(name)
    joined = [
        name for name, kind in frame.schema.items() if isinstance(kind, pl.List) and isinstance(kind.inner, pl.List)
    ]
    frame = frame.with_columns(pl.col(joined).list.eval(pl.element().explode()).list.drop_nulls()) if joined else frame
    notes: tuple[str, ...] = (f"{raw.name}: nested objects are read as columns: {', '.join(opened)}",) if opened else ()
    notes += (f"{raw.name}: lists of lists are read as one list: {', '.join(joined)}",) if joined else ()
    return replace(raw, frame=frame, notes=(*raw.notes, *notes)) if notes else raw


def _opens(name: str, kind: pl.DataType, taken: list[str]) -> bool:
    """Whether a column is an object that is plain enough to be columns."""
    if not isinstance(kind, pl.Struct) or not 0 < len(kind.fields) <= MOST_FIELDS:
        return False
    return not any(f"{name}.{each.name}" in taken for each in kind.fields)
