"""Which rows of an event log are bad, and what is done with them.

A row is bad where

* the item is missing;
* the user is missing, and no session names a guest in its place;
* the log has times and this row's is missing, unreadable, before 1970 or beyond the year 9999;
* the label is missing, not finite, or neither 0 nor 1 while no ``positive_from`` judges it;
* the weight is missing, not finite or 0;
* the event's type is not listed in ``event_weights``;
* in a text file, the record has another number of fields than the header.

By default one bad row refuses the file, in one message: how many bad rows there are, where the first stands, and why it
is bad.  With ``bad_rows="drop"`` they are dropped and counted by reason; a row counts for the first of its reasons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from suisen.errors import InputError

BadRows = Literal["refuse", "drop"]
Keep = Literal["first", "last", "all"]
INTEGER = r"^(?:0|-?[1-9]\d{0,17})$"
"""Text that is an integer and nothing else: written back it is the same text, so "007" stays text."""
DECIMAL = r"^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$"
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


def as_ids(name: str, values: pl.Series, text: bool) -> pl.Series:
    """Ids as String or Int64, null where missing (null, NaN, blank).

    ``text``: the values come from a text file, and are integers where all of them are written as integers
    ("7" but not "007"); in a frame the type is the caller's own.  Raises InputError for other types.
    """
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        kept = pl.select(pl.when(values.str.strip_chars() != "").then(values)).to_series().alias(values.name)
        whole = text and kept.null_count() < kept.len() and kept.drop_nulls().str.contains(INTEGER).all()
        return kept.cast(pl.Int64) if whole else kept
    if values.dtype.is_integer():
        fits = values.cast(pl.Int64, strict=False)
        return fits if fits.null_count() == values.null_count() else values.cast(pl.String)
    if values.dtype.is_float():
        return _whole(name, values.fill_nan(None))
    if values.dtype == pl.Null:
        return values.cast(pl.String)
    raise InputError(f"{name} holds {values.dtype}; ids are text or whole numbers")


def _whole(name: str, known: pl.Series) -> pl.Series:
    """Int64 ids that became floats because some were missing."""
    ids = known.cast(pl.Int64, strict=False)
    if ids.null_count() > known.null_count() or bool((ids.cast(pl.Float64) != known).any()):
        raise InputError(f"{name} holds fractions or infinite numbers; ids are text or whole numbers")
    return ids


def same_ids(*columns: pl.Series | None) -> list[pl.Series | None]:
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

    Among decimals nan (read as missing) and inf (refused where the column is numeric) are numbers too.
    """
    if values.dtype != pl.String or values.null_count() == values.len():
        return values
    known = values.drop_nulls()
    if known.str.contains(INTEGER).all():
        return values.cast(pl.Int64)
    decimal = known.str.contains(DECIMAL)
    numbers = decimal.any() and (decimal | known.str.contains(NO_NUMBER)).all()
    return values.str.to_lowercase().cast(pl.Float64) if numbers else values


# -- rules ------------------------------------------------------------------------------------------------------------


def judge_numbers(sieve: Sieve, field: str, values: pl.Series) -> pl.Series:
    """(n,) Float64 of a label or weight column; missing, unreadable and non-finite ones are refused."""
    numbers = as_numbers(values)
    missing = values.is_null()
    sieve.refuse(field, "is missing", missing)
    sieve.refuse(field, "is not a number", numbers.is_null() & ~missing, values)
    sieve.refuse(field, "is not finite", ~numbers.is_finite(), values)
    return numbers


def judge_labels(sieve: Sieve, field: str, values: pl.Series, positive_from: float | None) -> pl.Series:
    """(n,) Int8, 0 or 1: the label itself, or whether it reaches ``positive_from``."""
    numbers = judge_numbers(sieve, field, values)
    if positive_from is not None:
        return (numbers >= positive_from).cast(pl.Int8)
    sieve.refuse(field, "is neither 0 nor 1 (pass positive_from=)", ~numbers.is_in([0.0, 1.0]), values)
    return (numbers == 1.0).cast(pl.Int8)


def judge_types(sieve: Sieve, field: str, values: pl.Series, weights: Mapping[str, float]) -> pl.Series:
    """(n,) Float64: the weight of each event's type."""
    text = values.cast(pl.String)
    known = [str(name) for name in weights]
    numbers = pl.Series(list(map(float, weights.values())), dtype=pl.Float64)
    sieve.refuse(field, "is missing", text.is_null())
    listed = f"is a type that event_weights does not list ({', '.join(known)})"
    sieve.refuse(field, listed, ~text.is_in(known), values)
    return text.replace_strict(pl.Series(known), numbers, default=None, return_dtype=pl.Float64)


def keep_duplicates(visitor: list[pl.Series], item: pl.Series, time: pl.Series | None, keep: Keep) -> pl.Series:
    """(n,) bool: the rows that stay when one of each (visitor, item) is kept, by time, then by place in the source."""
    if keep == "all":
        return pl.repeat(True, item.len(), dtype=pl.Boolean, eager=True)
    keys = [column.alias(f"key{i}") for i, column in enumerate([*visitor, item])]
    order = [] if time is None else [time.alias("time")]
    frame = pl.DataFrame([*keys, *order]).with_row_index("place")
    ordered = frame.sort(*(["time"] if order else []), "place")
    kept = ordered.unique([key.name for key in keys], keep=keep, maintain_order=True)["place"]
    return frame["place"].is_in(kept.implode())
