"""Times written as text → microseconds: which spellings are read, and what decides where a spelling is ambiguous.

Read by themselves are (names in English, of any case, whole or of three letters; the day of the week is passed over):

* the year first: ``2020-09-24``, ``2020/9/24``, ``2020.09.24``, ``20200924T115706``;
* the day first, with dots or the month's name: ``31.12.2012``, ``31-Dec-2012``, ``Mon, 31 December 2012``;
* the month's name first: ``Dec 31, 2012``, ``Mon Dec 31 18:00:09 +0000 2012``;
* day and month in digits, with ``/`` or ``-`` between them, where the column tells which of the two is the day: one of
  its values has a day above 12 (``31/12/2012``), and none has it in the other place.

The clock goes from 0 to 24 or has AM and PM.  The zone is an offset (``Z``, ``+0900``, ``GMT-5``; a name behind it is
passed over), ``UTC`` or ``GMT``, or a name such as ``Europe/Paris``.  Short names such as EST or CST are several zones
and are refused.  All else needs ``time_format``.
"""

import re
from contextlib import suppress
from dataclasses import dataclass

import polars as pl

from suisen.errors import InputError

CLOCK = (
    r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:[.,](?P<fraction>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[ap])\.?m\b\.?)?"
)
OFFSET = r"(?:utc|gmt|ut)?([+-])(\d{1,2}?):?(\d{2})?"
ZONE = (
    r"(?:\s*(?P<zone>z|(?:utc|gmt|ut)?[+-]\d{1,2}(?::?\d{2})?)(?:\s*[\[(][^\])]*[\])]|\s+[a-z]{2,5})?"
    r"|\s*(?P<named>[a-z][\w/+-]*))?"
)
TIME = rf"(?:(?:t|(?:,|\s+at)?\s+|:){CLOCK})?{ZONE}\s*$"
WEEKDAY = r"^\s*(?:(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\.?,?\s+)?"
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH = (
    r"(?P<name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?"
    r"|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)\.?"
)
DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
YEAR = r"(?P<year>\d{4})"
SPELLINGS = (
    rf"^\s*{YEAR}[-/.](?P<month>\d{{1,2}})[-/.](?P<day>\d{{1,2}}){TIME}",
    rf"^\s*{YEAR}(?P<month>\d{{2}})(?P<day>\d{{2}})"
    rf"(?:[t ]?(?P<hour>\d{{2}}):?(?P<minute>\d{{2}})(?::?(?P<second>\d{{2}})(?:[.,](?P<fraction>\d{{1,9}}))?)?)?"
    rf"{ZONE}\s*$",
    rf"{WEEKDAY}(?P<first>\d{{1,2}})(?P<mark>[-/.])(?P<next>\d{{1,2}})[-/.]{YEAR}{TIME}",
    rf"{WEEKDAY}{DAY}[-/ .]\s*{MONTH}[-/ ,]\s*{YEAR}{TIME}",
    rf"{WEEKDAY}{MONTH}\s+{DAY},?\s+{YEAR}{TIME}",
    rf"{WEEKDAY}{MONTH}\s+{DAY}\s+{CLOCK}{ZONE}\s+{YEAR}\s*$",
)
"""Tried one after the other on what is not read yet; without regard to case."""
PARTS = (
    "year", "month", "name", "day", "first", "mark", "next", "hour", "minute", "second", "fraction", "half", "zone",
    "named",
)  # fmt: skip
UNIVERSAL = ("z", "utc", "gmt", "ut", "uct", "zulu", "universal")
HOUR_CODES, MINUTE_CODES = ("%H", "%I", "%k", "%l"), ("%M", "%T", "%R", "%r", "%X", "%c", "%s", "%+")
MONTH_CODES, DATE_CODES = ("%m", "%b", "%B", "%h", "%j"), ("%D", "%F", "%c", "%x", "%v", "%s", "%+")
YEAR_CODES = ("%Y", "%y", "%G")
"""Codes of ``time_format``, by what they say."""


@dataclass(frozen=True)
class Written:
    """What a column of text says."""

    values: pl.Series
    """(n,) Int64 microseconds since 1970 UTC; null where the text is no time."""
    nameless: pl.Series
    """(n,) bool: where the zone is none that has one meaning."""
    said: str
    """How it was read, in words."""


def read_written(name: str, values: pl.Series, zone: str) -> Written:
    """The times of text (n,) in the spellings above; those that name no zone are taken in ``zone``.

    Raises InputError where a column leaves open which of two digits is the day, where no value is a time, and for an
    unknown ``zone``.
    """
    parts = _parts(values)
    filled = values.is_not_null() & (values.str.strip_chars() != "")
    if filled.any() and not (filled & parts["year"].is_not_null()).any():
        example = values.filter(filled)[0]
        raise InputError(
            f"{name} = {example!r} is not a time that is read by itself; write ISO 8601 (2020-09-24 11:57:06) "
            "or pass time_format= (like '%d/%m/%y %H:%M')"
        )
    parts, order = _with_days(name, values, parts)
    local = _local(parts)
    zones, utc = parts["zone"].fill_null(parts["named"]), local.clear(local.len()).cast(pl.Int64)
    nameless = pl.repeat(value=False, n=values.len(), dtype=pl.Boolean, eager=True)
    for written in zones.unique(maintain_order=True):
        here = zones.eq_missing(written)
        found = _of_zone(local.set(~here, None), written, zone)
        nameless = nameless | (here if found is None else False)
        utc = utc if found is None else utc.fill_null(found)
    spelled = "ISO 8601" if order is None and parts["name"].null_count() == len(parts) else "dates"
    return Written(utc, nameless, f"{spelled}{order or ''}, zone {zone} where they name none")


def _of_zone(local: pl.Series, written: str | None, zone: str) -> pl.Series | None:
    """Int64 microseconds UTC of local times in a written zone, ``zone`` where none is; None: it has no one meaning."""
    if written is None:
        return in_zone(local, zone)
    if written.lower() in UNIVERSAL:
        return local.cast(pl.Int64)
    if ahead := re.fullmatch(OFFSET, written.lower()):
        minutes = int(ahead[2]) * 60 + int(ahead[3] or 0)
        return local.cast(pl.Int64) - int(f"{ahead[1]}{minutes}") * 60 * 10**6
    with suppress(InputError):
        return in_zone(local, written) if "/" in written else None
    return None


def in_zone(local: pl.Series, zone: str) -> pl.Series:
    """Int64 microseconds UTC of naive local times, null where the local clock skipped them.

    Raises InputError for a zone that does not exist.
    """
    try:
        return local.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null").cast(pl.Int64)
    except pl.exceptions.PolarsError:
        raise InputError(f"time_zone = {zone!r} is no time zone; give a name such as 'Asia/Tokyo' or 'UTC'") from None


def _parts(values: pl.Series) -> pl.DataFrame:
    """``PARTS`` of each value as text; all null where no spelling fits."""
    text = values.alias("time")
    parts = _groups(text, SPELLINGS[0])
    for spelling in SPELLINGS[1:]:
        open_rows = parts["year"].is_null() & values.is_not_null()
        if not open_rows.any():
            break
        more = _groups(text.set(~open_rows, None), spelling)
        if more["year"].null_count() < len(more):
            parts = pl.DataFrame([parts[part].fill_null(more[part]) for part in PARTS])
    return parts


def _groups(text: pl.Series, spelling: str) -> pl.DataFrame:
    found = text.to_frame().select(pl.col("time").str.extract_groups(f"(?i){spelling}").alias("parts")).unnest("parts")
    absent = [pl.lit(None, dtype=pl.String).alias(part) for part in PARTS if part not in found.columns]
    return found.with_columns(absent).select(PARTS)


def _with_days(name: str, values: pl.Series, parts: pl.DataFrame) -> tuple[pl.DataFrame, str | None]:
    """The parts with a day and a month in every row, and in words which came first; None where all say it."""
    if parts["first"].null_count() == len(parts):
        return parts, None
    first, after = parts["first"].cast(pl.Int64), parts["next"].cast(pl.Int64)
    open_rows = (first.is_not_null() & (parts["mark"] != ".")).fill_null(value=False)
    day_shown, month_shown = open_rows & (first > 12), open_rows & (after > 12)
    if day_shown.any() and month_shown.any():
        raise InputError(
            f"{name} = {_value(values, day_shown)!r} begins with the day and {_value(values, month_shown)!r} with the "
            "month; write them alike, or read each kind on its own with time_format="
        )
    doubtful = open_rows & (first != after)
    if doubtful.any() and not day_shown.any() and not month_shown.any():
        mark = parts["mark"].filter(doubtful)[0]
        raise InputError(
            f"{name} = {_value(values, doubtful)!r} and all others may begin with the day or with the month; pass "
            f"time_format='%d{mark}%m{mark}%Y…' or '%m{mark}%d{mark}%Y…', with the clock's codes (%H:%M:%S, %I:%M %p)"
        )
    month_first = bool(month_shown.any())
    day, month = (parts["next"], parts["first"]) if month_first else (parts["first"], parts["next"])
    dotted = parts["mark"] == "."
    day, month = day.zip_with(~dotted, parts["first"]), month.zip_with(~dotted, parts["next"])
    said = f" with the {'month' if month_first else 'day'} first"
    if day_shown.any() or month_shown.any():
        said += f" ({_value(values, day_shown | month_shown)!r} shows it)"
    return parts.with_columns(day=parts["day"].fill_null(day), month=parts["month"].fill_null(month)), said


def _value(values: pl.Series, rows: pl.Series) -> str:
    return str(values.filter(rows)[0])


def _local(parts: pl.DataFrame) -> pl.Series:
    """Naive datetimes; null where a part is out of range."""
    hour, minute, second = (pl.col(name).cast(pl.Int64).fill_null(0) for name in ("hour", "minute", "second"))
    half = pl.col("half").str.to_lowercase()
    good = (hour < 24) & (minute < 60) & (second < 60) & (half.is_null() | hour.is_between(1, 12))
    hour = pl.when(half.is_null()).then(hour).otherwise(hour % 12 + pl.when(half == "p").then(12).otherwise(0))
    fraction = pl.col("fraction").str.pad_end(9, "0").cast(pl.Int64, strict=False).fill_null(0) // 1000
    clock = ((hour * 3600 + minute * 60 + second) * 10**6 + fraction).cast(pl.Duration("us"))
    named = pl.col("name").str.to_lowercase().str.slice(0, 3)
    numbers = [f"{i:02}" for i in range(1, 13)]
    month = pl.coalesce(pl.col("month"), named.replace_strict(list(MONTHS), numbers, default=None))
    date = pl.concat_str([pl.col("year"), month.str.zfill(2), pl.col("day").str.zfill(2)], separator="-")
    local = date.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")) + clock
    return parts.select(pl.when(good).then(local).alias("local")).to_series()


# -- a format that the caller gives ------------------------------------------------------------------------------------


def read_format(name: str, values: pl.Series, form: str, zone: str) -> pl.Series:
    """Int64 microseconds of text (or of whole numbers such as 20140101) by a format of ``strptime`` codes.

    The codes are those of Python (``%d``, ``%b``, ``%p``, ``%z``, …; ``.%f`` are fractions of a second); what stands
    between them has to stand in the text.  Null where a value is of another form.

    Raises InputError for a format that cannot be read and for an unknown ``zone``.
    """
    _check_format(form)
    if values.dtype.is_float():
        values = values.cast(pl.Int64, strict=False)
    text, codes = values.cast(pl.String).str.strip_chars(), form.replace(".%f", "%.f")
    if _has(form, HOUR_CODES) and not _has(form, MINUTE_CODES):  # the parser wants minutes with an hour
        text, codes = text + " 00", codes + " %M"
    try:
        if _has(form, (*HOUR_CODES, *MINUTE_CODES)):
            found = text.str.to_datetime(codes, strict=False, time_unit="us")
        else:
            found = text.str.to_date(codes, strict=False).cast(pl.Datetime("us"))
    except pl.exceptions.PolarsError as error:
        what = str(error).splitlines()[0]
        raise InputError(f"time_format = {form!r} cannot be read ({what}); write it like '%d/%m/%Y %H:%M'") from None
    filled = values.drop_nulls()
    if filled.len() and found.null_count() == found.len():
        raise InputError(f"{name} = {filled[0]!r} and all others are not of time_format = {form!r}; mend the format")
    return found.cast(pl.Int64) if getattr(found.dtype, "time_zone", None) else in_zone(found, zone)


def _has(form: str, codes: tuple[str, ...]) -> bool:
    return any(code in form.replace("%-", "%") for code in codes)


def _check_format(form: str) -> None:
    """Raises InputError for a format whose times would be no moments."""
    if "%Z" in form:
        raise InputError(
            f"time_format = {form!r}: %Z reads no zone; write the zone's letters in its place and pass time_zone="
        )
    for what, codes in (("year (%Y, %y)", YEAR_CODES), ("month (%m, %b, %B)", MONTH_CODES)):
        if not _has(form, (*codes, *DATE_CODES)):
            raise InputError(f"time_format = {form!r} names no {what}; write it like '%d/%m/%Y %H:%M'")
