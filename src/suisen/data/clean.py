"""Which rows of an event log are bad, and what is done with them.

A row is bad where

* the item is missing;
* the user is missing, and no session names a guest in its place;
* the log has times and this row's is missing, unreadable, before 1970 or beyond the year 9999;
* the label is missing, not finite, or neither 0 nor 1 while no ``positive_from`` judges it;
* the weight is missing, not finite, 0, or, alone or with its type's weight, too large or too small for a Float32, in
  which models compute;
* the event's type is not listed in ``event_weights``;
* in a text file, the record has another number of fields than the header.

By default one bad row refuses the file, in one message: how many bad rows there are, where the first stands, and why it
is bad.  With ``bad_rows="drop"`` they are dropped and counted by reason; a row counts for the first of its reasons.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl

from suisen.data.ids import EXACT, POINT_ZERO, exact_whole
from suisen.errors import InputError

BadRows = Literal["refuse", "drop"]
Keep = Literal["first", "last", "all", "exact"]
INTEGER = r"^(?:0|-?[1-9]\d{0,17})$"
"""Text that is an integer and nothing else: written back it is the same text, so "007" stays text."""
WHOLE = r"^(?:0|-?[1-9]\d*)(?:\.0+)?$"
"""Text that is a whole number, as a program writes it that may hold it as a float."""
ROUNDED = r"^-?\d\.\d+[eE]\+\d+$"
"""A large number as programs write floats: its last digits are lost."""
DECIMAL = r"^[+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?$"
"""A number as programs write it: also .5, 5. and +3; but 007 is text."""
NO_NUMBER = r"(?i)^[+-]?(?:nan|inf|infinity)$"
"""What programs write among decimals for what is none: such a column is one of numbers, not of titles."""


@dataclass(frozen=True)
class Fault:
    """Rows that are bad for one reason."""

    reason: str
    """In words."""
    first: str
    """The first of the rows with its value, in words."""
    lines: pl.Series
    """Lines (or rows) of the source that are bad for this reason, rising."""


class Sieve:
    """The bad rows of one table, collected rule by rule.

    ``lines`` (n,): where each row stands in its source, in units of ``unit`` ("line" or "row"), for messages.
    """

    def __init__(self, name: str, lines: pl.Series, unit: str, malformed: tuple[Fault, ...] = ()) -> None:
        self.name, self.unit, self.lines = name, unit, lines
        self.faults = list(malformed)
        self.bad = pl.repeat(False, lines.len(), dtype=pl.Boolean, eager=True)

    def refuse(self, field: str, why: str, bad: pl.Series, values: pl.Series | None = None) -> None:
        """Marks the rows where ``bad`` (n,) is True; a row that is bad already keeps its first reason.

        ``field`` and ``why`` make the reason ("age is missing"); ``values`` (n,), where given, show the first row's.
        """
        fresh = bad.fill_null(False) & ~self.bad
        where = fresh.arg_true()
        if where.len() == 0:
            return
        value = None if values is None else values[int(where[0])]
        shown = f"{field} {why}" if value is None or value == "" else f"{field} = {_short(value)} {why}"
        self.faults.append(Fault(f"{field} {why}", shown, self.lines.gather(where)))
        self.bad = self.bad | fresh

    def settle(self, policy: BadRows) -> tuple[str, ...]:
        """Notes on what is dropped.  Raises InputError where rows are bad and the policy is to refuse."""
        faults = sorted(self.faults, key=lambda fault: int(fault.lines[0]))
        if not faults:
            return ()
        total = sum(fault.lines.len() for fault in faults)
        if policy == "drop":
            counts = ", ".join(f"{fault.lines.len():,} {fault.reason}" for fault in faults)
            return (f"{self.name}: {_plural(total, 'bad row')} dropped: {counts}",)
        raise InputError(self._message(faults, total))

    def _message(self, faults: list[Fault], total: int) -> str:
        first, others = faults[0], faults[1:]
        start = int(first.lines[0])
        where = f"at {self.unit} {start}" if total == 1 else f"first at {self.unit} {start}"
        parts = [f"{self.name}: {_plural(total, 'bad row')}, {where}: {first.first}"]
        if others:
            said = ", ".join(f"{f.reason} ({f.lines.len():,}, first at {self.unit} {f.lines[0]})" for f in others)
            parts.append(f"{_plural(len(others), 'more kind')}: {said}")
        return "; ".join([*parts, 'fix them or pass bad_rows="drop" (--bad-rows drop)'])


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 42 else f"{text[:40]}…"


# -- values -----------------------------------------------------------------------------------------------------------


def as_ids(
    name: str,
    values: pl.Series,
    text: bool,
    where: Callable[[int], str] = "row {}".format,
    notes: list[str] | None = None,
) -> pl.Series:
    """Ids as String or Int64, null where missing (null, NaN, blank).

    Whole numbers are Int64 however they are written (5, 5.0, Decimal("5")); where one of them does not fit, the column
    is text.  ``text``: the values come from a text file, and are whole numbers where all of them are written as such
    ("7" or "7.0", but not "007"); in a frame the type is the caller's own.  ``where`` says the place of a row (first =
    0); what was changed is added to ``notes``.

    Raises InputError for fractions, for floats so large that several ids share one, and for other types.
    """
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    dtype = values.dtype
    if dtype == pl.String:
        kept = pl.select(pl.when(values.str.strip_chars() != "").then(values)).to_series().alias(values.name)
        return _of_text(name, kept, where, notes if notes is not None else []) if text else kept
    if dtype.is_integer():
        return _narrowed(values)
    if dtype.is_float():
        return _of_floats(name, values.fill_nan(None), where)
    if dtype.is_decimal():
        digits = values.cast(pl.String).str.replace(POINT_ZERO, "${1}")
        _refuse_fractions(name, values, digits.str.contains(".", literal=True), where)
        return _narrowed(digits)
    if dtype == pl.Null:
        return values.cast(pl.String)
    raise InputError(f"{name} holds {dtype}; ids are text or whole numbers: make the column one of them")


def _narrowed(whole: pl.Series) -> pl.Series:
    """Int64 where all of these integers, or digits, fit into it; else text."""
    fits = whole.cast(pl.Int64, strict=False)
    return fits if fits.null_count() == whole.null_count() else whole.cast(pl.String)


def _of_text(name: str, kept: pl.Series, where: Callable[[int], str], notes: list[str]) -> pl.Series:
    """Ids of a text file: whole numbers where all are."""
    known = kept.drop_nulls()
    if known.len() == 0:
        return kept
    if known.str.contains(WHOLE).all():
        pointed = known.filter(known.str.contains(".", literal=True))
        if pointed.len():
            notes.append(f"{name}: {pointed.len():,} whole numbers with '.0' ({pointed[0]!r}) are read without it")
        return _narrowed(kept.str.replace(POINT_ZERO, "${1}") if pointed.len() else kept)
    rounded = kept.str.contains(ROUNDED)
    if rounded.any() and known.cast(pl.Float64, strict=False).null_count() == 0:
        row = int(rounded.arg_true()[0])
        raise InputError(
            f"{name} holds {kept[row]!r} at {where(row)}, a rounded number whose last digits are lost; write ids as "
            "text or whole numbers"
        )
    return kept


def _of_floats(name: str, known: pl.Series, where: Callable[[int], str]) -> pl.Series:
    """Int64 ids that became floats, because some were missing or a program knows no other numbers."""
    _refuse_fractions(name, known, ~known.is_finite() | (known != known.floor()), where)
    vague = ~exact_whole(known) & known.is_not_null()
    if vague.any():
        row, bits = int(vague.arg_true()[0]), EXACT[str(known.dtype)]
        raise InputError(
            f"{name} holds {known[row]:.0f} at {where(row)}, a {known.dtype}: from 2^{bits} on several ids share one "
            "such number; read the column as text or as integers, before it becomes floats"
        )
    return known.cast(pl.Int64)


def _refuse_fractions(name: str, values: pl.Series, bad: pl.Series, where: Callable[[int], str]) -> None:
    rows = bad.fill_null(value=False).arg_true()
    if rows.len():
        row = int(rows[0])
        raise InputError(
            f"{name} holds fractions or infinite numbers ({values[row]} at {where(row)}); ids are text or whole numbers"
        )


def same_ids(*columns: pl.Series | None) -> list[Any]:
    """The columns as one type: text where any of them is text."""
    dtypes = {column.dtype for column in columns if column is not None}
    if len(dtypes) <= 1:
        return list(columns)
    return [None if column is None else column.cast(pl.String) for column in columns]


def as_numbers(values: pl.Series) -> pl.Series:
    """Float64; null where text is no number."""
    if values.dtype == pl.Boolean:
        values = values.cast(pl.Int8)
    if values.dtype == pl.String:
        lowered = values.str.strip_chars().str.to_lowercase()
        values = lowered.replace({"true": "1", "false": "0"})
    return values.cast(pl.Float64, strict=False)


def typed(values: pl.Series) -> pl.Series:
    """A feature column from a text file: Int64 or Float64 where every value is written as one, else text.

    Spaces around a number do not count.  Among decimals nan (read as missing) and inf (refused where the column is
    numeric) are numbers too.
    """
    if values.dtype != pl.String or values.null_count() == values.len():
        return values
    bare = values.str.strip_chars()
    known = bare.drop_nulls()
    if known.str.contains(INTEGER).all():
        return bare.cast(pl.Int64)
    decimal = known.str.contains(DECIMAL)
    numbers = decimal.any() and (decimal | known.str.contains(NO_NUMBER)).all()
    return as_numbers(bare) if numbers else values


# -- rules ------------------------------------------------------------------------------------------------------------


def judge_numbers(sieve: Sieve, field: str, values: pl.Series) -> pl.Series:
    """(n,) Float64 of a label or weight column; missing, unreadable and non-finite ones are refused.

    Raises InputError for a column that holds no numbers.
    """
    if values.dtype.is_nested() or values.dtype.is_temporal() or values.dtype in (pl.Binary, pl.Object):
        raise InputError(f"{sieve.name}: {field} holds {values.dtype}; give a column of numbers")
    numbers = as_numbers(values)
    missing = values.is_null()
    sieve.refuse(field, "is missing", missing)
    sieve.refuse(field, "is not a number", numbers.is_null() & ~missing, values)
    sieve.refuse(field, "is not finite", ~numbers.is_finite(), values)
    return numbers


def judge_labels(sieve: Sieve, field: str, values: pl.Series, positive_from: float | None) -> pl.Series:
    """(n,) Int8, 0 or 1: the label itself, or whether it reaches ``positive_from``.

    ``positive_from`` is rounded as the column is: a Float32 of 4.1 reaches 4.1.
    """
    numbers = judge_numbers(sieve, field, values)
    if positive_from is not None:
        bound = pl.Series([positive_from], dtype=pl.Float64)
        if values.dtype.is_float():
            bound = bound.cast(values.dtype).cast(pl.Float64)
        return (numbers >= float(bound[0])).cast(pl.Int8)
    sieve.refuse(field, "is neither 0 nor 1 (pass positive_from=)", ~numbers.is_in([0.0, 1.0]), values)
    return (numbers == 1.0).cast(pl.Int8)


def judge_size(sieve: Sieve, field: str, weights: pl.Series) -> None:
    """Refuses weights (n,) Float64 that models, which compute in Float32, would read as infinite or as 0."""
    narrow, kind = weights.cast(pl.Float32), np.finfo(np.float32)
    why = f"is beyond what models compute with ({kind.smallest_subnormal:.2g} to {kind.max:.2g})"
    sieve.refuse(field, why, narrow.is_infinite() | ((narrow == 0) & (weights != 0)), weights)


def types_as_text(values: pl.Series) -> pl.Series:
    """(n,) String: types of events as options name them; 1.0 is the type that is named 1."""
    whole = values.dtype.is_float() and exact_whole(values.drop_nulls()).all()
    return (values.cast(pl.Int64) if whole else values).cast(pl.String)


def judge_types(sieve: Sieve, field: str, values: pl.Series, weights: Mapping[str, float]) -> pl.Series:
    """(n,) Float64: the weight of each event's type."""
    text = types_as_text(values)
    known = [str(name) for name in weights]
    numbers = pl.Series(list(map(float, weights.values())), dtype=pl.Float64)
    sieve.refuse(field, "is missing", text.is_null())
    listed = f"is a type that event_weights does not list ({', '.join(known)})"
    sieve.refuse(field, listed, ~text.is_in(known), values)
    return text.replace_strict(pl.Series(known), numbers, default=None, return_dtype=pl.Float64)


def repeats(frame: pl.DataFrame) -> pl.Series:
    """(n,) bool: rows that are equal to an earlier one in every column."""
    hashes = None if pl.Object in frame.dtypes else frame.hash_rows(seed=0)  # Python objects cannot be compared
    if hashes is None or hashes.n_unique() == frame.height:  # 5 times as fast as to say which they are
        return pl.repeat(value=False, n=frame.height, dtype=pl.Boolean, eager=True)
    return ~hashes.is_first_distinct()


def keep_duplicates(visitor: list[pl.Series], item: pl.Series, time: pl.Series | None, keep: Keep) -> pl.Series:
    """(n,) bool: the rows that stay when one of each (visitor, item) is kept, by time, then by place in the source."""
    if keep in ("all", "exact"):
        return pl.repeat(True, item.len(), dtype=pl.Boolean, eager=True)
    keys = [column.alias(f"key{i}") for i, column in enumerate([*visitor, item])]
    order = [] if time is None else [time.alias("time")]
    frame = pl.DataFrame([*keys, *order]).with_row_index("place")
    ordered = frame.sort(*(["time"] if order else []), "place")
    which: Literal["first", "last"] = "first" if keep == "first" else "last"
    kept = ordered.unique([key.name for key in keys], keep=which, maintain_order=True)["place"]
    return frame["place"].is_in(kept.implode())
