"""Tables of users and items, and the feature columns of events: their own files, ids, values and kinds.

* A table's file is read by its own suffix and header; of the events' file only ``encoding`` (where the table
  is not UTF-8) and ``null_values`` hold for it too.  ``user_table`` and ``item_table`` say what is different.
* The key is the column named like the events' user (or item), else the first.  A table of whose ids none is among the
  events' is refused.
* A feature column holds text, numbers, booleans, times, or lists of these.  Nested values (structs, lists of lists,
  bytes, Python objects) are refused, or read as text where the column's kind is declared as text or categorical.
* Text with the separator inside is one value or several: ``suisen.data.encode.infer_kind`` says which.
"""

import gzip
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import polars as pl

from suisen.data.clean import DECIMAL, BadRows, Sieve, as_ids, same_ids, typed
from suisen.data.encode import infer_kind
from suisen.data.formats import raw_of_path
from suisen.data.log import Kind
from suisen.data.raw import FileOptions, Raw, raw_of_frame
from suisen.errors import InputError, unknown

SHARED = ("encoding", "null_values")
"""Options of the events' file that hold for a table's file too."""


def existing(raw: Raw, role: str, name: str) -> str:
    """The name, where it is one of the table's columns.  Raises InputError with the nearest one."""
    columns = raw.frame.columns
    if name in columns:
        return name
    if raw.text and str(name).isdigit() and 0 < int(name) <= len(columns):
        return columns[int(name) - 1]
    near = get_close_matches(name, columns, n=1)
    mend = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"{role} = {name!r} is no column of {raw.name}; {mend}columns: {', '.join(columns)}{headless(raw)}"
    )


def headless(raw: Raw) -> str:
    """The mend where a text file may have no header: surely where the name of a column is a number."""
    if not raw.text:
        return ""
    is_number = any(re.fullmatch(DECIMAL, name) for name in raw.frame.columns)
    start = "line 1 looks like data:" if is_number else "is line 1 data?"
    return f"; {start} name the columns of a file without a header with columns="


def refuse_nulls(raw: Raw, name: str, sieve: Sieve) -> None:
    """Marks as bad the rows in which a text of ``null_values`` stands in a column that must be filled."""
    if name in raw.written:
        stood = raw.frame[name].is_null() & raw.written[name].is_not_null()
        sieve.refuse(name, "stands for a missing value (null_values=)", stood, raw.written[name])


def unreserved(raw: Raw, name: str, taken: Collection[str]) -> None:
    """Raises InputError for a name that the log keeps for itself."""
    if name in taken:
        raise InputError(f"{raw.name}: feature column {name!r} bears a name that the log keeps for itself; rename it")


# -- feature columns ---------------------------------------------------------------------------------------------------


@dataclass
class Columns:
    """Feature columns of one table, as they are collected."""

    raw: Raw
    declared: Mapping[str, Kind]
    """Kinds that the caller declares."""
    separator: str
    kinds: dict[str, Kind] = field(default_factory=dict)
    """Kinds that the file declares, or that were settled here."""
    notes: list[str] = field(default_factory=list)

    def read(self, name: str, title: bool = False) -> pl.Series:
        """The column's values.  Raises InputError for nested values that nobody wants as text."""
        raw, values = self.raw, self.raw.frame[name]
        kind: Kind | None = "text" if title else self.declared.get(name) or raw.kinds.get(name)
        if kind is not None:
            self.kinds[name] = kind
        wanted_as_text = kind in ("text", "categorical")
        if _nested(values.dtype):
            if not wanted_as_text:
                raise self._refusal(name, values)
            return _as_text(values)
        if values.dtype in (pl.List, pl.Array) and wanted_as_text:
            return values.cast(pl.List(pl.String)).list.join(" " if kind == "text" else self.separator)
        if title:
            return values.cast(pl.String)
        values = typed(values) if raw.text else values
        if kind is None and values.dtype == pl.String:
            self._settle(name, values)
        return values

    def _settle(self, name: str, values: pl.Series) -> None:
        """The kind of a text column in which some values hold the separator, and a note that says so."""
        held = int(values.str.contains(self.separator, literal=True).sum())
        if not held:
            return
        kind = self.kinds[name] = infer_kind(values, self.separator)
        share = f"{self.raw.name}: {held:,} of {values.len() - values.null_count():,} values of {name!r} hold"
        mend = f"kinds={{{name!r}: 'multi'}} (--kind {name}=multi) splits them"
        said = "and are split there (multi-valued)" if kind == "multi" else f"and stay whole ({kind}); {mend}"
        self.notes.append(f"{share} {self.separator!r} {said}")

    def _refusal(self, name: str, values: pl.Series) -> InputError:
        mend = f"kinds={{{name!r}: 'text'}} (--kind {name}=text) reads it as text, or take it out"
        if values.dtype == pl.Object:
            return several_types(self.raw, name, mend)
        held = f"{self.raw.name}: column {name!r} holds {values.dtype!s:.60}"
        return InputError(f"{held}, and features are single values or flat lists; {mend}")


def several_types(raw: Raw, name: str, mend: str = "make it text") -> InputError:
    """The error for a column of Python objects."""
    kinds = sorted({type(value).__name__ for value in raw.frame[name].head(1000).to_list() if value is not None})
    return InputError(f"{raw.name}: a column holds values of several types: {name!r} ({', '.join(kinds)}); {mend}")


def _nested(dtype: pl.DataType) -> bool:
    inner: Any = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    return inner.is_nested() or inner in (pl.Binary, pl.Object)


def _as_text(values: pl.Series) -> pl.Series:
    """Nested values as JSON, bytes as the text they spell."""
    return pl.Series(values.name, [None if v is None else _spelled(v) for v in values.to_list()], dtype=pl.String)


def _spelled(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return json.dumps(value, ensure_ascii=False, default=str)


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Users or items, one row each."""

    name: str
    """What messages call it."""
    key: str
    """The column of the ids, as the source names it."""
    frame: pl.DataFrame
    """Column ``user`` or ``item`` first."""
    kinds: Mapping[str, Kind]
    notes: tuple[str, ...]


def file_options(option: str, given: Mapping[str, Any], events: FileOptions, path: Any = None) -> FileOptions:
    """How a table's own file (``path``) is read, from ``given``, whose keys are the fields of ``FileOptions``.

    ``option`` is the name of ``given``.  Raises InputError for other keys.
    """
    shared = {name: getattr(events, name) for name in SHARED}
    if events.encoding != "utf-8" and isinstance(path, str | Path) and _is_utf8(Path(path)):
        shared["encoding"] = "utf-8"
    known = [each.name for each in fields(FileOptions)]
    values = {}
    for name, value in given.items():
        if name not in known:
            raise unknown(option, name, known)
        values[name] = _option(name, value) if isinstance(value, str) else value
    return FileOptions(**{**shared, **values})


def _is_utf8(path: Path) -> bool:
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            file.read().decode()
    except (OSError, EOFError, UnicodeDecodeError):
        return False
    return True


def _option(name: str, text: str) -> Any:
    if name in ("columns", "null_values"):
        return tuple(part.strip() for part in text.split(","))
    return text.replace("\\t", "\t") if name == "delimiter" else text


def read_table(
    owner: str,
    given: Any,
    key: str,
    file: FileOptions,
    columns: tuple[Mapping[str, Kind], str],
    bad_rows: BadRows,
    titles: str | None = None,
) -> Table:
    """The table of users or items (``owner``) in a frame or a file.

    ``key``: the name of the events' column; ``columns``: declared kinds and separator; ``titles``: the column that
    people are shown.  Raises InputError for bad rows, and for columns that cannot be read.
    """
    name = f"{owner}_features"
    raw = _raw_of_path(owner, given, file) if isinstance(given, str | Path) else raw_of_frame(name, given)
    if raw.frame.width == 0:
        raise InputError(f"{raw.name} has no columns; give the {owner}'s id and its features")
    key = key if key in raw.frame.columns else raw.frame.columns[0]
    if raw.text and re.fullmatch(DECIMAL, key):
        mend = f'name the columns of a file without a header with {owner}_table={{"columns": …}}'
        raise InputError(f"{raw.name}: line 1 looks like data ({', '.join(raw.frame.columns)}); {mend}")
    notes = list(raw.notes)
    ids = ids_of(raw, key, notes)
    sieve = Sieve(raw.name, raw.places, raw.unit, raw.malformed)
    refuse_nulls(raw, key, sieve)
    sieve.refuse(key, "is missing", ids.is_null())
    sieve.refuse(key, "is there twice", ids.is_not_null() & ~ids.is_first_distinct(), ids)
    notes.extend(sieve.settle(bad_rows))
    names = [name for name in raw.frame.columns if name != key]
    for name in names:
        unreserved(raw, name, (owner,))
    if titles is not None:
        names.sort(key=lambda name: name != existing(raw, "titles", titles))
    read = Columns(raw, *columns)
    frame = pl.DataFrame([ids.alias(owner), *(read.read(name, name == titles) for name in names)])
    return Table(raw.name, key, frame.filter(~sieve.bad), read.kinds, (*notes, *read.notes))


def _raw_of_path(owner: str, path: str | Path, file: FileOptions) -> Raw:
    try:
        return raw_of_path(path, file)
    except InputError as error:
        if "pass " not in str(error):
            raise
        raise InputError(f"{error}; for the {owner} table in {owner}_table=") from None


def ids_of(raw: Raw, column: str, notes: list[str]) -> pl.Series:
    """The ids of a column; notes on what was changed are added to ``notes``."""
    if raw.frame[column].dtype == pl.Object:
        raise several_types(raw, column)
    return as_ids(f"{raw.name}: {column}", raw.frame[column], raw.text, raw.place, notes)


def met(owner: str, events: pl.Series, table: Table, notes: list[str]) -> tuple[pl.Series, pl.DataFrame]:
    """The events' ids (n,) and the table, with ids of one type.

    Raises InputError where the events have ids and the table has none of them.
    """
    ids, keys = same_ids(events, table.frame[owner])
    here, there = ids.drop_nulls().unique(maintain_order=True), keys
    idle = int((~there.is_in(here.implode())).sum())
    if here.len() and idle == there.len() and idle:
        ours, theirs = (" and ".join(map(repr, two.head(2).to_list())) for two in (here, there))
        split = f", or give its delimiter in {owner}_table=" if table.frame.width == 1 else ""
        raise InputError(
            f"{table.name}: none of its {idle:,} ids is a known {owner}: its column {table.key!r} holds {theirs}, the "
            f"events hold {ours}; write the ids alike, or give the column of the ids the name it has in the events"
            f"{split}"
        )
    if idle:
        notes.append(f"{owner} table: {idle:,} of {keys.len():,} rows have no events and are kept")
    lost = here.len() - (keys.len() - idle)
    if lost:
        notes.append(f"{owner} table: {lost:,} of {here.len():,} {owner}s of the events have no row in it")
    return ids, table.frame.with_columns(keys)
