"""Feature tables → arrays: which kind each column is, its vocabulary or its mean, fitted on train alone."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self, get_args

import numpy as np
import polars as pl
import torch

from suisen.data.batch import Features, Field, FieldKind
from suisen.data.log import Kind
from suisen.data.ragged import Ragged, offsets_of
from suisen.errors import InputError, unknown

KINDS: tuple[Kind, ...] = get_args(Kind)
SEPARATOR = "|"
"""Between the categories of one row, where a multi-valued column is text."""
MAX_CODES = 32
"""Integers of at most this many different values are codes, not quantities."""
FEW_HOLD, MOST_HOLD = 0.1, 0.5
"""Shares of a text column's values with the separator inside: below the first they are single values with a stray sign;
from the second on most are several values."""
LARGEST = float(np.finfo(np.float32).max)
"""The largest number that models compute with."""


def infer_kind(column: pl.Series, separator: str = SEPARATOR) -> Kind:
    """The kind of a column that nobody declared, by its type and values.

    Lists are multi-valued.  So is text where at least half of the values hold the separator, unless the pieces between
    are titles with a space before the separator ("A headline | The paper"); or where at least a tenth hold it, and the
    pieces occur twice or more on average (genres, of which many items have a single one).  Text, or a piece of it, is a
    title where more than half of all differ, and more than ``MAX_CODES``; other text is categorical, as are booleans
    and integers of at most ``MAX_CODES`` values.  Other numbers and dates are numeric.
    """
    dtype, values = column.dtype, column.drop_nulls()
    if dtype in (pl.List, pl.Array):
        return "multi"
    if dtype == pl.String:
        values = values.filter(values != "")
        if _several(values, separator):
            return "multi"
        return "text" if _differ(values) else "categorical"
    if dtype.is_integer() and values.n_unique() <= MAX_CODES:
        return "categorical"
    return "numeric" if dtype.is_numeric() or dtype.is_temporal() else "categorical"


def _several(values: pl.Series, separator: str) -> bool:
    """Whether text is several categories with the separator between them."""
    held = values.filter(values.str.contains(separator, literal=True))
    if held.len() < FEW_HOLD * values.len() or not held.len():
        return False
    flat = pieces(values, separator).explode().drop_nulls()
    if flat.n_unique() * 2 <= flat.len():
        return True
    spaced = held.str.contains(f" {separator}", literal=True).sum() * 2 > held.len()
    return held.len() >= MOST_HOLD * values.len() and not (spaced and _differ(flat))


def _differ(values: pl.Series) -> bool:
    distinct = values.n_unique()
    return distinct > MAX_CODES and distinct * 2 > values.len()


def pieces(values: pl.Series, separator: str) -> pl.Series:
    """The texts between the separators, without spaces around them and without empty ones."""
    lists = values.str.split(separator)
    return lists.list.eval(pl.element().str.strip_chars().filter(pl.element().str.strip_chars() != ""))


@dataclass(frozen=True)
class Column:
    """What was learnt of one feature column: plain numbers and strings, so that a manifest can hold it."""

    name: str
    kind: Kind
    vocabulary: tuple[str, ...] = ()
    """Values with a code of their own, most frequent first: value i has code i + 1, every other value 0."""
    mean: float = 0.0
    """Of a numeric column over train."""
    scale: float = 1.0
    """Standard deviation over train; 0: the column is constant there, so that every value is encoded as 0."""
    separator: str = SEPARATOR
    """Of a multi-valued column, between the values of one text."""

    @classmethod
    def fit(cls, name: str, kind: Kind, values: pl.Series, min_count: int, separator: str = SEPARATOR) -> Self:
        """From the column's values in train.

        Values that occur fewer than ``min_count`` times have no code of their own.  Raises InputError where the values
        cannot be of the kind.
        """
        if kind == "text":
            return cls(name, kind)
        if kind == "numeric":
            numbers = _numbers(name, values).drop_nulls()
            spread = float(numbers.std() or 0.0) if numbers.len() > 1 else 0.0  # type: ignore[arg-type]
            mean = float(numbers.mean() or 0.0)  # type: ignore[arg-type]
            return cls(name, kind, mean=mean, scale=spread)
        flat = _lists(name, values, separator).explode() if kind == "multi" else _text(values)
        counts = flat.drop_nulls().alias("v").to_frame().group_by("v").len().filter(pl.col("len") >= min_count)
        ranked = counts.sort(["len", "v"], descending=[True, False])
        vocabulary = tuple(ranked["v"].to_list())
        return cls(name, kind, vocabulary, separator=separator if kind == "multi" else SEPARATOR)

    @property
    def field(self) -> Field:
        """The column as the models see it."""
        kind: FieldKind = self.kind  # type: ignore[assignment]
        return Field(self.name, kind, 0 if kind == "numeric" else len(self.vocabulary) + 1)

    def codes(self, values: pl.Series) -> pl.Series:
        """Int64 codes of text values, 0 for null and for what the vocabulary does not hold."""
        known = pl.Series(self.vocabulary, dtype=pl.String)
        codes = pl.int_range(1, known.len() + 1, dtype=pl.Int64, eager=True)
        return values.replace_strict(known, codes, default=0, return_dtype=pl.Int64)

    def standardised(self, values: pl.Series) -> pl.Series:
        """Float32 with mean 0 and standard deviation 1 over train; 0 where missing."""
        numbers = _numbers(self.name, values) - self.mean
        return (numbers / self.scale if self.scale else numbers * 0.0).fill_null(0.0).cast(pl.Float32)


@dataclass(frozen=True)
class Encoder:
    """Turns a frame of raw feature columns into ``Features``, with the vocabularies and means of train."""

    columns: tuple[Column, ...] = ()

    @classmethod
    def fit(
        cls, frame: pl.DataFrame, kinds: Mapping[str, Kind], min_count: int = 1, separator: str = SEPARATOR
    ) -> Self:
        """From train's rows.

        ``kinds``: declared kinds of some columns; the others are inferred.  Names that no column has are refused by the
        caller, which knows all tables.  Raises InputError for an unknown kind and for values that cannot be of theirs.
        """
        columns = []
        for name in frame.columns:
            kind = kinds.get(name) or infer_kind(frame[name], separator)
            if kind not in KINDS:
                raise unknown(f"kind of feature {name!r}", kind, KINDS)
            columns.append(Column.fit(name, kind, frame[name], min_count, separator))
        return cls(tuple(columns))

    @property
    def schema(self) -> tuple[Field, ...]:
        """The columns that reach a model."""
        return tuple(column.field for column in self.columns if column.kind != "text")

    @property
    def titles(self) -> list[str]:
        """Names of the columns kept for display."""
        return [column.name for column in self.columns if column.kind == "text"]

    def encode(self, frame: pl.DataFrame) -> Features:
        """Features of the frame's rows; a column that the frame lacks is missing in every row."""
        rows = frame.height
        by_kind: dict[str, list[Any]] = {"categorical": [], "numeric": [], "multi": []}
        for column in self.columns:
            if column.kind == "text":
                continue
            values = frame[column.name] if column.name in frame.columns else pl.Series([None] * rows, dtype=pl.String)
            by_kind[column.kind].append(_encoded(column, values))
        categorical = [torch.from_numpy(c.to_numpy().copy()) for c in by_kind["categorical"]]
        numeric = [torch.from_numpy(c.to_numpy().copy()) for c in by_kind["numeric"]]
        return Features(
            torch.stack(categorical, 1) if categorical else torch.empty((rows, 0), dtype=torch.int64),
            torch.stack(numeric, 1) if numeric else torch.empty((rows, 0)),
            tuple(by_kind["multi"]),
        )

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data for a manifest."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> Self:
        """The inverse of ``to_json``."""
        return cls(tuple(Column(**{**item, "vocabulary": tuple(item["vocabulary"])}) for item in data))


def _encoded(column: Column, values: pl.Series) -> pl.Series | Ragged:
    if column.kind == "numeric":
        return column.standardised(values)
    if column.kind == "categorical":
        return column.codes(_text(values))
    lists = _lists(column.name, values, column.separator)
    lengths = torch.from_numpy(lists.list.len().fill_null(0).to_numpy().astype("int64"))
    flat = lists.filter(lists.list.len() > 0).explode()
    codes = torch.from_numpy(column.codes(flat).to_numpy().copy())
    return Ragged(codes, offsets_of(lengths))


def _text(values: pl.Series) -> pl.Series:
    if values.dtype == pl.Duration:
        values = values.cast(pl.Int64)
    if not values.dtype.is_float():
        return values.cast(pl.String)
    # "1.0" and "1" name the same code: a reader turns integers with gaps into floats
    values = values.fill_nan(None)
    whole = (values == values.floor()) & (values.abs() < 2.0**53)
    integers = pl.when(whole).then(values).cast(pl.Int64).cast(pl.String)
    return pl.select(pl.coalesce(integers, values.cast(pl.String))).to_series()


def _numbers(name: str, values: pl.Series) -> pl.Series:
    if values.dtype in (pl.Date, pl.Datetime):
        values = values.cast(pl.Datetime("us"))
    if values.dtype.is_temporal():
        values = values.cast(pl.Int64)
    try:
        numbers = values.cast(pl.Float64).fill_nan(None)
    except pl.exceptions.PolarsError as error:
        what = str(error).splitlines()[0]
        raise InputError(
            f"feature {name!r} is declared numeric and holds text ({what}); declare another kind"
        ) from None
    beyond = numbers.filter(numbers.abs() > LARGEST)
    if beyond.len():
        what = "an infinite number" if beyond.is_infinite().any() else f"{beyond[0]:g}, which no model computes with"
        raise InputError(f"feature {name!r} holds {what}; replace it with a bound or leave it empty")
    return numbers


def _lists(name: str, values: pl.Series, separator: str) -> pl.Series:
    """One list of texts per row, without empty ones; null where the row is."""
    if values.dtype == pl.String:
        return pieces(values, separator)
    if values.dtype in (pl.List, pl.Array, pl.Null):
        lists = values.cast(pl.List(pl.String))
        return lists.list.eval(pl.element().filter(pl.element() != ""))
    raise InputError(
        f"feature {name!r} is declared multi and holds {values.dtype}; give lists or text with {separator!r}"
    )
