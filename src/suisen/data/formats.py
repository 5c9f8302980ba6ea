"""Files → ``Raw``: a reader per format."""

import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from suisen.data.clean import DECIMAL
from suisen.data.delimited import first_row, read_delimited
from suisen.data.encodings import as_utf8
from suisen.data.json_files import json_file, json_lines
from suisen.data.layouts.clicks import criteo, libffm, libfm
from suisen.data.layouts.folders import parquet_folder
from suisen.data.layouts.nested import mind, otto
from suisen.data.layouts.sequences import pairs, sequences, sessions
from suisen.data.log import Kind
from suisen.data.raw import NUMBERED, FileOptions, Format, Raw, raw_of_frame
from suisen.errors import InputError, unknown

Reader = Callable[[str, bytes, FileOptions], Raw]
"""(name of the file, its bytes without ``.gz``, how it is read) → its table."""
SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet",
    ".pq": "parquet", ".libfm": "libfm", ".libsvm": "libfm", ".libffm": "libffm", ".ffm": "libffm",
    ".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".inter": "recbole", ".user": "recbole",
    ".item": "recbole", ".txt": "text", ".dat": "text", ".data": "text", ".tab": "tsv",
}  # fmt: skip
DELIMITERS = ("::", "\t", "|", ";", ",", " ")
"""What separates fields, the surest first."""
GUESSED_BY = 100
"""Lines by which a delimiter is guessed."""
ATOMIC_KINDS: Mapping[str, Kind] = {"token": "categorical", "token_seq": "multi", "float": "numeric"}
"""RecBole's types of a column, as ours."""


def raw_of_path(path: str | Path, options: FileOptions | None = None) -> Raw:
    """From a file, in the format of its suffix (``.gz`` behind it allowed) or in the one given.

    Raises InputError where there is no file, for an unknown format or encoding, and for damaged files.
    """
    place, options = Path(path), options or FileOptions()
    if place.is_dir():
        return parquet_folder(place)
    if not place.is_file():
        raise InputError(f"{place} is no file; give the path of an event file, or of a folder of Parquet files")
    chosen = options.format or _format_of(place)
    if chosen not in READERS:
        raise unknown("format", chosen, READERS)
    data = unpacked(place)
    if not data:
        raise InputError(f"{place.name} is empty; give a header and at least one row")
    return READERS[chosen](place.name, data, options)


def _format_of(path: Path) -> Format:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise InputError(f"{path.name}: no format is known by {suffix or 'no suffix'!r} ({known}); pass format=")
    return SUFFIXES[suffix.lower()]


def unpacked(path: Path) -> bytes:
    """A file's bytes, those inside where it is packed.  Raises InputError for what is no whole gzip file."""
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path.name} is no whole gzip file ({error}); fetch or write it again") from None


def _parquet(name: str, data: bytes, options: FileOptions) -> Raw:
    return _columnar(name, data, "parquet", pl.read_parquet)


def _arrow(name: str, data: bytes, options: FileOptions) -> Raw:
    """An Arrow file, or a stream of the same."""
    return _columnar(name, data, "arrow", pl.read_ipc if data.startswith(b"ARROW1") else pl.read_ipc_stream)


def _columnar(name: str, data: bytes, chosen: Format, read: Callable[[bytes], pl.DataFrame]) -> Raw:
    try:
        frame = read(data)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InputError(f"{name} is no whole {chosen} file ({error}); write it again") from None
    return raw_of_frame(name, frame)


def _delimited(usual: str | None, name: str, data: bytes, options: FileOptions) -> Raw:
    """``usual``: the delimiter of the format; None where it has none."""
    data = as_utf8(name, data, options.encoding)
    delimiter, notes = options.delimiter, []
    if delimiter is None:
        delimiter = _delimiter(name, data, usual)
        if delimiter != usual:
            why = "as its lines show" if usual is None else f"the header has no {usual!r}"
            notes.append(f"{name}: fields are separated by {delimiter!r} ({why})")
    if not delimiter or delimiter in '"\r\n':
        raise InputError(f"delimiter = {delimiter!r} cannot stand between fields; give a character such as ',' or ';'")
    columns = _numbers(first_row(data, delimiter)) if options.columns == NUMBERED else options.columns
    if options.columns == NUMBERED:
        said = f"as data, the columns are called 1 to {len(columns)}" if columns else "as the header"
        notes.append(f"{name}: line 1 is read {said}")
    text = read_delimited(name, data, delimiter, options.quote, columns)
    raw = Raw(name, text.frame, text.lines, "line", True, text.malformed, notes=(*notes, *text.notes))
    return _with_nulls(raw, options)


def _delimiter(name: str, data: bytes, usual: str | None) -> str:
    """The usual one, unless the header has none of it and one other sign that separates.  Where none is usual, the one
    that every line has, and has as often; the first where several are.
    """
    lines = data[: 1 << 16].decode(errors="ignore").split("\n")[:GUESSED_BY]
    lines = [line for line in (lines[:-1] or lines) if line.strip()] or [""]
    if usual is not None:
        others = [sign for sign in DELIMITERS[:-1] if sign in lines[0] and sign != usual]
        return others[0] if usual not in lines[0] and len(others) == 1 else usual
    often = {sign: {line.count(sign) for line in lines} for sign in DELIMITERS}
    found = [sign for sign, counts in often.items() if 0 not in counts]
    if not found:
        raise InputError(f"{name}: no sign separates fields in all of its first lines; pass delimiter=")
    return min(found, key=lambda sign: len(often[sign]))


def _numbers(row: list[str]) -> tuple[str, ...]:
    """1, 2, … as names of the columns where the first row is data: a number in it, or digits in most of its fields."""
    numbers = tuple(map(str, range(1, len(row) + 1)))
    digits = [cell for cell in row if any(map(str.isdigit, cell))]
    is_data = any(re.fullmatch(DECIMAL, cell) for cell in row) or 2 * len(digits) > len(row)
    return numbers if is_data and tuple(row) != numbers else ()


def _with_nulls(raw: Raw, options: FileOptions) -> Raw:
    """Null in place of the texts that stand for a missing value, with a note on what was met where."""
    tokens = list(options.null_values)
    met, written, frame = [], {}, raw.frame
    for column in frame.iter_columns():
        which = column.is_in(tokens)
        if which.any():
            found = column.filter(which).value_counts(sort=True).rows()
            met += [f"{count:,} {token!r} in {column.name}" for token, count in found]
            written[column.name] = column
            frame = frame.with_columns(column.set(which, None))
    if not met:
        return raw
    said = ", ".join(met[:8]) + (f" and {len(met) - 8} more" if len(met) > 8 else "")
    note = f"{raw.name}: read as missing: {said}; null_values= says which texts are"
    return replace(raw, frame=frame, notes=(*raw.notes, note), written=written)


# -- RecBole's atomic files -------------------------------------------------------------------------------------------


def _atomic(name: str, data: bytes, options: FileOptions) -> Raw:
    """``name:type`` headers, tabs between the fields, no quotes; sequences are split at spaces."""
    data = as_utf8(name, data, options.encoding)
    text = read_delimited(name, data, options.delimiter or "\t", "none")
    raw = _with_nulls(Raw(name, text.frame, text.lines, "line", True, text.malformed, notes=text.notes), options)
    frame, kinds, notes = raw.frame, {}, list(raw.notes)
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
    return replace(raw, frame=frame, kinds=kinds, notes=tuple(notes))


def beside(path: str | Path, suffix: str) -> Path | None:
    """The ``.user`` or ``.item`` file beside an ``.inter`` file, where there is one."""
    place = Path(path)
    packed = place.suffix == ".gz"
    stem = place.with_suffix("") if packed else place
    if stem.suffix != ".inter":
        return None
    found = [stem.with_suffix(suffix), Path(f"{stem.with_suffix(suffix)}.gz")]
    return next((other for other in found if other.is_file()), None)


# -- the table ---------------------------------------------------------------------------------------------------------

READERS: Mapping[Format, Reader] = {
    "csv": partial(_delimited, ","), "tsv": partial(_delimited, "\t"), "text": partial(_delimited, None),
    "jsonl": json_lines, "json": json_file, "parquet": _parquet,
    "arrow": _arrow, "recbole": _atomic, "sequences": sequences, "sessions": sessions, "pairs": pairs,
    "otto": otto, "mind": mind, "libfm": libfm, "libffm": libffm, "criteo": criteo,
}  # fmt: skip
"""Format → what reads it.  A new format has its file, its name in ``suisen.data.raw.Format``, and its line here."""
