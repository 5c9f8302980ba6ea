"""Times of any spelling → Int64 microseconds since 1970 UTC."""

from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

from suisen.errors import InputError, unknown

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
UNITS: tuple[TimeUnit, ...] = get_args(TimeUnit)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
LARGEST = 253_402_300_800 * 10**6
"""Microseconds at the end of the year 9999: beyond it a number is no time of this unit."""
ISO = (
    r"^\s*(?P<year>\d{4})[-/](?P<month>\d{1,2})[-/](?P<day>\d{1,2})"
    r"(?:[T ](?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?)?"
    r"\s*(?P<zone>[Zz]|[+-]\d{2}(?::?\d{2})?)?\s*$"
)


@dataclass(frozen=True)
class Times:
    """Parsed times and what is wrong with those that are not."""

    values: pl.Series
    """(n,) Int64 microseconds; null where a rule of ``faults`` holds."""
    faults: tuple[tuple[str, pl.Series], ...]
    """(what is wrong, (n,) bool); a row may stand in one only."""
    said: str
    """How the values were read, in words."""


def parse_times(name: str, values: pl.Series, unit: TimeUnit = "auto", zone: str = "UTC") -> Times:
    """A column of times of any spelling, as microseconds since 1970 UTC, with what is wrong with its values.

    * Datetimes with a zone are converted; those without, and dates, are taken in ``zone``.
    * Text: ISO 8601 dates and times, ``-`` or ``/`` between the parts of the date, ``T`` or a space before the time,
      with or without a zone; or numbers, where more than half of the values are numbers.
    * Numbers count from 1970 UTC; with ``auto`` the unit is the one that puts the median between 1970 and 5138
      (below 1e11 seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds).  Small numbers (ranks)
      are therefore seconds.
    * A local time that clocks showed twice is the earlier one; one that they skipped is not a time.

    Raises InputError for a column that cannot hold times, an unknown unit and an unknown zone.
    """
    if unit not in UNITS:
        raise unknown("time_unit", unit, UNITS)
    if values.dtype == pl.Null:
        parsed, said = values.cast(pl.Int64), "nothing"
    elif values.dtype.is_temporal():
        parsed, said = _from_temporal(name, values, zone), f"times, zone {zone} where they name none"
    elif values.dtype.is_numeric() and unit != "iso":
        parsed, said = _from_numbers(values.cast(pl.Float64), values, unit)
    elif values.dtype == pl.String:
        parsed, said = _from_text(values, unit, zone)
    else:
        raise InputError(f"time column {name!r} holds {values.dtype}; give ISO 8601 text or numbers since 1970")
    return _judged(values, parsed, said)


def _judged(values: pl.Series, parsed: pl.Series, said: str) -> Times:
    missing = values.is_null()
    if values.dtype == pl.String:
        missing = missing | (values.str.strip_chars() == "").fill_null(True)
    faults = (
        ("is missing", missing),
        ("is not a time", parsed.is_null() & ~missing),
        ("is negative (before 1970)", (parsed < 0).fill_null(False)),
        ("is beyond the year 9999; is its unit another?", (parsed >= LARGEST).fill_null(False)),
    )
    bad = faults[0][1] | faults[1][1] | faults[2][1] | faults[3][1]
    return Times(parsed.set(bad, None), faults, said)


def _from_temporal(name: str, values: pl.Series, zone: str) -> pl.Series:
    if values.dtype not in (pl.Date, pl.Datetime):
        raise InputError(f"time column {name!r} holds {values.dtype}, a time without a date; give dates and times")
    naive = values.dtype == pl.Date or getattr(values.dtype, "time_zone", None) is None
    local = values.cast(pl.Datetime("us")) if naive else values.dt.cast_time_unit("us")
    return _in_zone(local, zone) if naive else local.cast(pl.Int64)


def _in_zone(local: pl.Series, zone: str) -> pl.Series:
    """Int64 microseconds UTC of naive local times; null where the local clock skipped them."""
    try:
        return local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").cast(pl.Int64)
    except pl.exceptions.PolarsError:
        raise InputError(f"time_zone = {zone!r} is no time zone; give a name such as 'Asia/Tokyo' or 'UTC'") from None


def _from_numbers(numbers: pl.Series, values: pl.Series, unit: TimeUnit) -> tuple[pl.Series, str]:
    finite = numbers.set(~numbers.is_finite(), None)
    chosen = unit if unit in PER_SECOND else _unit_of(finite)
    factor = 10**6 / PER_SECOND[chosen]
    size = (finite * factor).clip(-LARGEST, LARGEST)  # inside Int64, and beyond the bounds where it was
    if values.dtype.is_integer():  # exact: a Float64 holds microseconds of today, but not nanoseconds
        exact = values.cast(pl.Int64, strict=False)
        bounded = exact.set((size.abs() >= LARGEST).fill_null(False), None)
        parsed = bounded * int(factor) if factor >= 1 else bounded // 1000
        return parsed.fill_null(size.cast(pl.Int64)), f"{WORDS[chosen]} since 1970"
    return size.round(0).cast(pl.Int64), f"{WORDS[chosen]} since 1970"


def _unit_of(finite: pl.Series) -> str:
    middle = finite.abs().median()
    size = float(middle) if isinstance(middle, int | float) else 0.0
    bounds = {"s": 1e11, "ms": 1e14, "us": 1e17}
    return next((unit for unit, bound in bounds.items() if size < bound), "ns")


def _from_text(values: pl.Series, unit: TimeUnit, zone: str) -> tuple[pl.Series, str]:
    stripped = values.str.strip_chars()
    numbers = stripped.cast(pl.Float64, strict=False)
    written = values.len() - values.null_count()
    as_numbers = unit != "iso" if unit != "auto" else numbers.is_finite().fill_null(False).sum() * 2 > written
    if not as_numbers:
        return _from_iso(values, zone), f"ISO 8601, zone {zone} where they name none"
    whole = stripped.cast(pl.Int64, strict=False)
    fractions = bool((numbers.is_finite() & whole.is_null()).any())
    return _from_numbers(numbers, numbers if fractions else whole, unit)


def _from_iso(values: pl.Series, zone: str) -> pl.Series:
    part = pl.col("time").str.extract_groups(ISO)
    frame = values.alias("time").to_frame().select(part.alias("parts")).unnest("parts")
    number = {name: pl.col(name).cast(pl.Int64, strict=False).fill_null(0) for name in ("hour", "minute", "second")}
    fraction = pl.col("fraction").str.pad_end(9, "0").cast(pl.Int64, strict=False).fill_null(0) // 1000
    date = pl.concat_str([pl.col(name).str.zfill(2) for name in ("year", "month", "day")], separator="-")
    offset = _offset(pl.col("zone"))
    good = (number["hour"] < 24) & (number["minute"] < 60) & (number["second"] < 60)
    seconds = number["hour"] * 3600 + number["minute"] * 60 + number["second"]
    clock = (seconds * 10**6 + fraction).cast(pl.Duration("us"))
    local = date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")) + clock
    table = frame.select(pl.when(good).then(local).alias("local"), offset.alias("offset"))
    zoned = table["local"].cast(pl.Int64) - table["offset"]
    return zoned.fill_null(_in_zone(table["local"].set(table["offset"].is_not_null(), None), zone))


def _offset(zone: pl.Expr) -> pl.Expr:
    """Int64 microseconds that a written zone is ahead of UTC; null where none is written."""
    digits = zone.str.replace_all(r"[^0-9]", "").str.pad_end(4, "0").cast(pl.Int64, strict=False)
    minutes = (digits // 100) * 60 + digits % 100
    sign = pl.when(zone.str.starts_with("-")).then(-1).otherwise(1)
    return pl.when(zone.is_null()).then(None).otherwise(sign * minutes * 60 * 10**6)
