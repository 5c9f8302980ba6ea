"""``Raw``: one table as it stands in its source, with the place of each row; and how a file is read."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl

from suisen.arguments import is_table, shown
from suisen.data.clean import Fault
from suisen.data.encodings import encoding_named
from suisen.data.log import Kind
from suisen.errors import InputError, missing_extra, unknown

Format = Literal[
    "csv", "tsv", "text", "jsonl", "json", "parquet", "arrow", "recbole",
    "sequences", "sessions", "pairs", "otto", "mind", "libfm", "libffm", "criteo",
]  # fmt: skip
Quote = Literal["auto", "none", '"', "'", "backslash"]
NULLS = ("NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "NULL", "Null", "null", "None", r"\N", "-")
"""What programs write into text files where a value is missing: R, spreadsheets, pandas, databases, JSON, Python."""
NUMBERED = ("#",)
"""In place of the names of columns: the columns are known by their positions, 1, 2, …"""

MISFITS = (TypeError, ValueError, pl.exceptions.PolarsError)
"""What the libraries raise for values of several types, and for columns of several lengths."""


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
    roles: Mapping[str, str | None] = field(default_factory=dict)
    """Role → column where the layout itself says it, for roles that the caller leaves open; None: there is none."""
    context: tuple[str, ...] = ()
    """Columns that are context features where the caller names none."""
    ordered: bool = False
    """Whether the rows of each user are in the order in which they happened."""
    written: Mapping[str, pl.Series] = field(default_factory=dict)
    """Column → its values as they were written, where some of them stand for a missing value (``null_values``)."""

    def place(self, row: int) -> str:
        """Where a row (first = 0) stands in the source, in words."""
        return f"{self.unit} {self.places[row]}"


@dataclass(frozen=True)
class FileOptions:
    """How a file is read; see ``suisen.data.read.ReadOptions``.

    Raises InputError for a value outside a closed list and for columns named twice.
    """

    delimiter: str | None = None
    encoding: str = "utf-8"
    format: Format | None = None
    quote: Quote = "auto"
    columns: Sequence[str] = ()
    null_values: Sequence[str] = NULLS

    def __post_init__(self) -> None:
        if self.quote not in get_args(Quote):
            raise unknown("quote", self.quote, get_args(Quote))
        for name in ("columns", "null_values"):
            if isinstance(getattr(self, name), str):
                raise InputError(f"{name} = {getattr(self, name)!r} is one text; give a list of texts")
        encoding_named(self.encoding)


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
    if room == "pandas" and is_table(table):
        return _from_pandas(name, table.rename(columns=str))  # header=None numbers the columns
    if isinstance(table, Mapping):
        return _built(name, pl.DataFrame, table)
    if is_table(table) or (hasattr(table, "__arrow_c_stream__") and not hasattr(table, "name")):
        return pl.DataFrame(table)
    if isinstance(table, list) and table and all(isinstance(row, Mapping) for row in table):
        return _built(name, pl.DataFrame, {key: [row.get(key) for row in table] for row in table for key in row})
    mend = "a path is read by from_path" if isinstance(table, str | Path) else "give a Polars, pandas or Arrow table"
    raise InputError(f"{name} = {shown(table)} is no table; {mend}")


def _from_pandas(name: str, table: Any) -> pl.DataFrame:
    try:
        return _built(name, pl.from_pandas, table)
    except ImportError:
        raise missing_extra("pyarrow", "pandas") from None


def _built(name: str, build: Callable[[Any], pl.DataFrame], table: Any) -> pl.DataFrame:
    """The table; a column of several types holds Python objects, which are refused where they are used."""
    with suppress(*MISFITS):
        return build(table)
    try:
        return pl.DataFrame([_series(column, values) for column, values in table.items()])
    except MISFITS as error:
        raise InputError(f"{name} is no table ({str(error).splitlines()[0]}); give columns of one length") from None


def _series(name: str, values: Any) -> pl.Series:
    try:
        return pl.Series(name, values)
    except MISFITS:
        return pl.Series(name, list(values), dtype=pl.Object)
