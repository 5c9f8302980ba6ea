"""Frames and files → ``Raw``: one table as it stands in its source, with the place of each row."""

import gzip
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from suisen.data.clean import Fault
from suisen.data.delimited import read_delimited
from suisen.data.log import Kind
from suisen.errors import InputError, missing_extra, unknown

Encoding = Literal["utf-8", "shift-jis", "latin-1"]
Format = Literal["csv", "tsv", "jsonl", "parquet", "arrow", "recbole"]
CODECS = {"utf-8": "utf-8", "shift-jis": "cp932", "latin-1": "latin-1"}
"""cp932 is Shift-JIS as it is met: with the vendor's characters."""
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".inter": "recbole", ".user": "recbole",
    ".item": "recbole",
}  # fmt: skip
OTHER_DELIMITERS = "\t;|"
ATOMIC_KINDS: Mapping[str, Kind] = {"token": "categorical", "token_seq": "multi", "float": "numeric"}
"""RecBole's types of a column, as ours."""


@dataclass(frozen=True)
class Raw:
    """A table as it stands in its source, before its columns are given a role."""

    name: str
    """What messages call it."""
    frame: pl.DataFrame
    places: pl.Series
    """(n,) Int64: the line (text; the header is line 1) or the row (first = 1) of each row in its source."""
    unit: Literal["line", "row"] = "row"
    text: bool = False
    """Whether all values are text whose types are still to be inferred."""
    malformed: tuple[Fault, ...] = ()
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Kinds of feature columns that the file itself declares."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class FileOptions:
    """How a file is read; see ``suisen.data.read.ReadOptions``."""

    delimiter: str | None = None
    encoding: Encoding = "utf-8"
    format: Format | None = None


# -- frames -----------------------------------------------------------------------------------------------------------


def raw_of_frame(name: str, table: Any) -> Raw:
    """From a Polars, pandas or Arrow table, a mapping of columns, or anything of the Arrow C stream interface."""
    frame = _polars(name, table)
    return Raw(name, frame, pl.int_range(1, frame.height + 1, dtype=pl.Int64, eager=True))


def _polars(name: str, table: Any) -> pl.DataFrame:
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    room = type(table).__module__.partition(".")[0]
    if room == "pandas":
        return _from_pandas(name, table)
    if room == "pyarrow" or isinstance(table, Mapping) or hasattr(table, "__arrow_c_stream__"):
        return pl.DataFrame(table)
    raise InputError(f"{name}: {type(table).__name__} is no table; give a Polars, pandas or Arrow table, or a path")


def _from_pandas(name: str, table: Any) -> pl.DataFrame:
    try:
        return pl.from_pandas(table)
    except ImportError:
        raise missing_extra("pyarrow", "pandas") from None
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:  # columns of Python objects of several types
        raise InputError(f"{name}: a column holds values of several types ({error}); make it text") from None


# -- files ------------------------------------------------------------------------------------------------------------


def raw_of_path(path: str | Path, options: FileOptions | None = None) -> Raw:
    """From a file, in the format of its suffix (``.gz`` behind it allowed) or in the one given.

    Raises InputError where there is no file, for an unknown format or encoding, and for damaged files.
    """
    place, options = Path(path), options or FileOptions()
    if not place.is_file():
        raise InputError(f"{place} is {'a folder' if place.is_dir() else 'no file'}; give the path of an event file")
    chosen = options.format or _format_of(place)
    if chosen not in FORMATS:
        raise unknown("format", chosen, FORMATS)
    data = _bytes(place)
    if not data:
        raise InputError(f"{place.name} is empty; give a header and at least one row")
    if chosen in ("parquet", "arrow"):
        return _columnar(place.name, data, chosen)
    text = as_utf8(place.name, data, options.encoding)
    if chosen == "jsonl":
        return _json_lines(place.name, text)
    if chosen == "recbole":
        return _atomic(place.name, text, options)
    return _delimited(place.name, text, "\t" if chosen == "tsv" else ",", options)


def _format_of(path: Path) -> Format:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise InputError(f"{path.name}: no format is known by {suffix or 'no suffix'!r} ({known}); pass format=")
    return SUFFIXES[suffix.lower()]


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name} is no whole gzip file ({error}); fetch or write it again") from None


def as_utf8(name: str, data: bytes, encoding: Encoding) -> bytes:
    """The text as UTF-8 without a byte-order mark; UTF-8 itself is checked where it is parsed."""
    if encoding not in CODECS:
        raise unknown("encoding", encoding, CODECS)
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{name} is UTF-16; write it as UTF-8")
    if encoding == "utf-8":
        return data.removeprefix(b"\xef\xbb\xbf")
    try:
        return data.decode(CODECS[encoding]).encode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(f'{name}: line {line} is not {encoding}; pass encoding="utf-8" or write it anew') from None


def _columnar(name: str, data: bytes, chosen: Format) -> Raw:
    try:
        frame = pl.read_parquet(data) if chosen == "parquet" else _arrow(data)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{name} is no whole {chosen} file ({error}); write it again") from None
    return raw_of_frame(name, frame)


def _arrow(data: bytes) -> pl.DataFrame:
    """An Arrow file, or a stream of the same."""
    return pl.read_ipc(data) if data.startswith(b"ARROW1") else pl.read_ipc_stream(data)


def _delimited(name: str, data: bytes, usual: str, options: FileOptions) -> Raw:
    delimiter = options.delimiter
    notes: tuple[str, ...] = ()
    if delimiter is None:
        delimiter, notes = _delimiter(name, data, usual)
    if not delimiter or delimiter in '"\r\n':
        raise InputError(f"delimiter = {delimiter!r} cannot stand between fields; give a character such as ',' or ';'")
    text = read_delimited(name, data, delimiter)
    return Raw(name, text.frame, text.lines, "line", True, text.malformed, notes=notes)


def _delimiter(name: str, data: bytes, usual: str) -> tuple[str, tuple[str, ...]]:
    """The usual one, unless the header has none of it and one other sign that separates."""
    header = data[: data.find(b"\n") % (len(data) + 1)].decode(errors="replace")
    others = [sign for sign in OTHER_DELIMITERS if sign in header]
    if usual in header or len(others) != 1:
        return usual, ()
    return others[0], (f"{name}: fields are separated by {others[0]!r} (the header has no {usual!r})",)


# -- RecBole's atomic files -------------------------------------------------------------------------------------------


def _atomic(name: str, data: bytes, options: FileOptions) -> Raw:
    """``name:type`` headers, tabs between the fields, no quotes; sequences are split at spaces."""
    text = read_delimited(name, data, options.delimiter or "\t", quoting=False)
    frame, kinds, notes = text.frame, {}, []
    for header in frame.columns:
        column, _, kind = header.rpartition(":")
        if not column or kind not in (*ATOMIC_KINDS, "float_seq"):
            raise InputError(f"{name}: {header!r} is no header of an atomic file; write it as name:token or name:float")
        if kind == "float_seq":
            notes.append(f"{name}: column {column!r} (float_seq) is not used: no model reads sequences of numbers")
            frame = frame.drop(header)
            continue
        frame = frame.rename({header: column})
        if kind == "token_seq":
            frame = frame.with_columns(pl.col(column).str.split(" ").list.eval(pl.element().filter(pl.element() != "")))
        kinds[column] = ATOMIC_KINDS[kind]
    return Raw(name, frame, text.lines, "line", True, text.malformed, kinds, tuple(notes))


def beside(path: str | Path, suffix: str) -> Path | None:
    """The ``.user`` or ``.item`` file beside an ``.inter`` file, where there is one."""
    place = Path(path)
    packed = place.suffix == ".gz"
    stem = place.with_suffix("") if packed else place
    if stem.suffix != ".inter":
        return None
    found = [stem.with_suffix(suffix), Path(f"{stem.with_suffix(suffix)}.gz")]
    return next((other for other in found if other.is_file()), None)


# -- JSON lines -------------------------------------------------------------------------------------------------------


def _json_lines(name: str, data: bytes) -> Raw:
    lines = _lines(data)
    if lines.size == 0:
        raise InputError(f"{name} is empty; give at least one JSON object")
    try:
        frame = pl.read_ndjson(data, infer_schema_length=None)
    except pl.exceptions.PolarsError:
        frame = None
    if frame is not None and frame.height == lines.size:
        return replace(raw_of_frame(name, frame), places=pl.Series("line", lines), unit="line")
    return _checked_json_lines(name, data)


def _lines(data: bytes) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Numbers (first = 1) of the lines that are not blank."""
    signs = np.frombuffer(data, dtype=np.uint8)
    ends = np.append(np.flatnonzero(signs == 10), signs.size)
    filled = np.append(0, np.cumsum(signs > 32))  # more than white space
    starts = np.append(0, ends[:-1] + 1)
    return np.flatnonzero(filled[ends] > filled[np.minimum(starts, ends)]) + 1


def _checked_json_lines(name: str, data: bytes) -> Raw:
    """Line by line, for a file with lines that are no JSON objects."""
    good, bad, rows = [], [], []
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        if _is_object(line):
            good.append(number)
            rows.append(line)
        else:
            bad.append(number)
    fault = Fault("lines that are no JSON object", "the line is no JSON object", pl.Series(bad, dtype=pl.Int64))
    try:
        frame = pl.read_ndjson(b"\n".join(rows), infer_schema_length=None) if rows else pl.DataFrame()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{name}: a field changes its type from line to line ({error}); keep one type") from None
    places = pl.Series("line", good, dtype=pl.Int64)
    return Raw(name, frame, places, "line", malformed=(fault,) if bad else ())


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line, parse_constant=_no_json), dict)
    except ValueError:  # bytes that are not UTF-8 among them
        return False


def _no_json(word: str) -> None:
    raise ValueError(f"{word} is no JSON")
