"""Times of any spelling → Int64 microseconds since 1970 UTC."""

from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

from suisen.data.written_times import in_zone, read_format, read_written
from suisen.errors import InputError, unknown

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "iso"]
UNITS: tuple[TimeUnit, ...] = get_args(TimeUnit)
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
WORDS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
LARGEST = 253_402_300_800 * 10**6
"""Microseconds at the end of the year 9999: beyond it a number is no time of this unit."""
BOUNDS = {"s": 1e11, "ms": 1e14, "us": 1e17, "ns": float("inf")}
"""Below which a number counts this unit."""
DIGITS = {6: "yyyymm", 8: "yyyymmdd", 10: "yyyymmddHH", 12: "yyyymmddHHMM", 14: "yyyymmddHHMMSS"}
"""Dates written as one number, by its digits."""
YEARS = (1900, 2100)
"""First and last year of such a date."""
Faults = tuple[tuple[str, pl.Series], ...]


@dataclass(frozen=True)
class Times:
    """Parsed times and what is wrong with those that are not."""

    values: pl.Series
    """(n,) Int64 microseconds; null where a rule of ``faults`` holds."""
    faults: Faults
    """(what is wrong, (n,) bool); a row may stand in several."""
    said: str
    """How the values were read, in words."""

    @property
    def span(self) -> str:
        """The first and the last moment, in words; empty where there is none."""
        known = self.values.drop_nulls()
        if known.len() == 0:
            return ""
        first, last = (
            pl.Series([known.min(), known.max()], dtype=pl.Int64)
            .cast(pl.Datetime("us"))
            .dt.to_string("%Y-%m-%d %H:%M:%S")
        )
        return f"from {first} to {last} UTC"


def parse_times(
    name: str, values: pl.Series, unit: TimeUnit = "auto", zone: str = "UTC", form: str | None = None
) -> Times:
    """A column of times of any spelling, as microseconds since 1970 UTC, with what is wrong with its values.

    * Datetimes with a zone are converted; those without, and dates, are taken in ``zone``.
    * Text: the spellings of ``suisen.data.written_times``, or the one of ``form`` (``strptime`` codes); or numbers,
      where more than half of the values are numbers.
    * Numbers count from 1970 UTC; with ``auto`` the unit is the one that puts the median between 1970 and 5138
      (below 1e11 seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds).  Small numbers (ranks)
      are therefore seconds.  A number that would be of another unit is wrong.
    * Numbers of 6 to 14 digits that are dates (``DIGITS``, from 1900 to 2100) in more than half of the values are read
      as these dates with ``auto``, in ``zone``; the others are wrong then.  Where the median has the 8 digits of a
      date, no value is a number of seconds.
    * A local time that clocks showed twice is the earlier one; one that they skipped is not a time.

    Raises InputError for a column that cannot hold times, an unknown unit, zone or form, and for text that leaves open
    which of two digits is the day.
    """
    if unit not in UNITS:
        raise unknown("time_unit", unit, UNITS)
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    dtype = values.dtype
    more: Faults = ()
    if form is not None:
        parsed, said = _by_form(name, values, unit, zone, form)
    elif dtype == pl.Null:
        parsed, said = values.cast(pl.Int64), "nothing"
    elif dtype.is_temporal():
        parsed, said = _from_temporal(name, values, zone), f"times, zone {zone} where they name none"
    elif dtype.is_numeric() and unit != "iso":
        parsed, said, more = _from_numbers(values.cast(pl.Float64), values, unit, zone)
    elif dtype == pl.String:
        parsed, said, more = _from_text(name, values, unit, zone)
    else:
        raise InputError(f"time column {name!r} holds {dtype}; give ISO 8601 text or numbers since 1970")
    return _judged(values, parsed, said, more)


def _judged(values: pl.Series, parsed: pl.Series, said: str, more: Faults) -> Times:
    missing = values.is_null()
    if values.dtype == pl.String:
        missing = missing | (values.str.strip_chars() == "").fill_null(True)
    faults = (
        ("is missing", missing),
        *((why, bad & parsed.is_null()) for why, bad in more),
        ("is not a time", parsed.is_null() & ~missing),
        ("is negative (before 1970)", (parsed < 0).fill_null(False)),
        ("is beyond the year 9999; is its unit another?", (parsed >= LARGEST).fill_null(False)),
        *((why, bad & parsed.is_not_null()) for why, bad in more),
    )
    bad = pl.select(pl.any_horizontal([mask.alias(str(i)) for i, (_, mask) in enumerate(faults)])).to_series()
    return Times(parsed.set(bad, None), faults, said)


def _by_form(name: str, values: pl.Series, unit: TimeUnit, zone: str, form: str) -> tuple[pl.Series, str]:
    if unit != "auto":
        raise InputError(f"time_format = {form!r} and time_unit = {unit!r} contradict each other; pass one of them")
    if values.dtype != pl.String and not values.dtype.is_numeric():
        raise InputError(f"time column {name!r} holds {values.dtype}; leave time_format= out, it is for text")
    return read_format(name, values, form, zone), f"times of the format {form}, zone {zone} where they name none"


def _from_temporal(name: str, values: pl.Series, zone: str) -> pl.Series:
    if values.dtype not in (pl.Date, pl.Datetime):
        raise InputError(f"time column {name!r} holds {values.dtype}, a time without a date; give dates and times")
    naive = values.dtype == pl.Date or getattr(values.dtype, "time_zone", None) is None
    local = values.cast(pl.Datetime("us")) if naive else values.dt.cast_time_unit("us")
    return in_zone(local, zone) if naive else local.cast(pl.Int64)


def _from_numbers(numbers: pl.Series, values: pl.Series, unit: TimeUnit, zone: str) -> tuple[pl.Series, str, Faults]:
    finite = numbers.set(~numbers.is_finite(), None)
    if unit == "auto":
        dates, form = _dates(finite)
        if dates is not None:
            why = f"is no date written {form} (pass time_unit= where it counts from 1970)"
            return (
                in_zone(dates, zone),
                f"dates written {form}, zone {zone}",
                ((why, dates.is_null() & ~finite.is_null()),),
            )
    chosen = unit if unit in PER_SECOND else _unit_of(finite)
    others = _of_other_units(finite, chosen) if unit == "auto" else ()
    factor = 10**6 / PER_SECOND[chosen]
    size = (finite * factor).clip(-LARGEST, LARGEST)  # inside Int64, and beyond the bounds where it was
    said = f"{WORDS[chosen]} since 1970"
    if values.dtype.is_integer():  # exact: a Float64 holds microseconds of today, but not nanoseconds
        exact = values.cast(pl.Int64, strict=False)
        bounded = exact.set((size.abs() >= LARGEST).fill_null(False), None)
        parsed = bounded * int(factor) if factor >= 1 else bounded // 1000
        return parsed.fill_null(size.cast(pl.Int64)), said, others
    return size.round(0).cast(pl.Int64), said, others


def _unit_of(finite: pl.Series) -> str:
    middle = _middle(finite)
    return next(unit for unit, bound in BOUNDS.items() if middle < bound)


def _middle(finite: pl.Series) -> float:
    middle = finite.abs().quantile(0.5, interpolation="lower")
    return float(middle) if isinstance(middle, int | float) else 0.0


def _of_other_units(finite: pl.Series, chosen: str) -> Faults:
    """The rows whose numbers are of another unit than most."""
    lower, out = 0.0, []
    size = finite.abs()
    for unit, bound in BOUNDS.items():
        here = ((size >= lower) & (size < bound)).fill_null(value=False)
        lower = bound
        if unit == chosen:
            most = int(here.sum())
        elif here.any():
            out.append((unit, here))
    mend = "make them one unit or pass time_unit="
    return tuple((f"looks like {WORDS[u]} among {most:,} in {WORDS[chosen]} ({mend})", here) for u, here in out)


def _dates(finite: pl.Series) -> tuple[pl.Series | None, str]:
    """Naive datetimes of numbers such as 20140101, null where one is none, and their form; None: they are no dates."""
    middle = f"{_middle(finite):.0f}"
    if len(middle) not in DIGITS or not YEARS[0] <= int(middle[:4]) <= YEARS[1]:
        return None, ""
    whole = finite.set(finite != finite.floor(), None).cast(pl.Int64, strict=False).cast(pl.String)
    alike = whole.set(whole.str.len_chars() != len(middle), None)
    if len(middle) == 6:
        alike = alike + "01"
    local = alike.str.pad_end(14, "0").str.to_datetime("%Y%m%d%H%M%S", strict=False, time_unit="us")
    local = local.set(~local.dt.year().is_between(*YEARS), None)
    good = local.len() - local.null_count()
    # as seconds 20140101 is August 1970, which no log is from; of a longer number most values decide
    day = len(middle) == 8 and 1 <= int(middle[4:6]) <= 12 and 1 <= int(middle[6:]) <= 31
    return (local if day or good * 2 > finite.len() - finite.null_count() else None), DIGITS[len(middle)]


def _from_text(name: str, values: pl.Series, unit: TimeUnit, zone: str) -> tuple[pl.Series, str, Faults]:
    stripped = values.str.strip_chars()
    numbers = stripped.cast(pl.Float64, strict=False)
    written = values.len() - values.null_count()
    as_numbers = unit != "iso" if unit != "auto" else numbers.is_finite().fill_null(False).sum() * 2 > written
    if not as_numbers:
        found = read_written(name, values, zone)
        why = "names a zone that may be several or is none (write its offset, like -05:00, or Europe/Paris)"
        return found.values, found.said, ((why, found.nameless),)
    whole = stripped.cast(pl.Int64, strict=False)
    fractions = bool((numbers.is_finite() & whole.is_null()).any())
    return _from_numbers(numbers, numbers if fractions else whole, unit, zone)
