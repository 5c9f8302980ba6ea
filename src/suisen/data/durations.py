"""Durations and moments as people write them, in microseconds."""

import operator
import re
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np

from suisen.arguments import shown
from suisen.errors import InputError

UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
MICRO = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")


def duration(field: str, text: str) -> int:
    """Microseconds of "30m", "12h", "7d", "2w" or "45s".

    >>> duration("gap", "30m")
    1800000000
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InputError(f"{field} = {text!r} is no duration; write a number and a unit, like '30m', '12h' or '7d'")
    return round(float(found[1]) * UNITS[found[2]] * MICRO)


def moment(field: str, text: str, end: int) -> int:
    """A duration back from ``end``, or an absolute ISO 8601 time (UTC where it names no zone), as microseconds.

    >>> moment("test", "1970-01-02", 0)
    86400000000
    """
    if _DURATION.fullmatch(text.strip()):
        return end - duration(field, text)
    try:
        return _micros(datetime.fromisoformat(text))
    except ValueError:
        raise InputError(
            f"{field} = {text!r} is neither a duration like '7d' nor an ISO time like '2024-05-01T00:00:00Z'"
        ) from None


def _micros(when: datetime) -> int:
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def moment_text(field: str, value: Any) -> str:
    """What ``moment`` reads, from a text like it, a timedelta, a date or a datetime of any library.

    Raises InputError for anything else, a bare number among it: its unit is not known.

    >>> moment_text("test", timedelta(days=7)), moment_text("test", date(2024, 5, 1))
    ('7d', '2024-05-01')
    """
    if isinstance(value, np.datetime64 | np.timedelta64):
        value = value.astype(f"{value.dtype.kind}8[us]").tolist()
    if isinstance(value, timedelta) and value == value:  # noqa: PLR0124 - pandas' NaT is not
        days = value / timedelta(days=1)
        return f"{days:.0f}d" if days == int(days) else f"{value.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"
    if isinstance(value, date) and value == value:  # noqa: PLR0124
        return value.isoformat()
    if not isinstance(value, str):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        mend = f"name the unit, like '{value:g}d' or '{value:g}h'" if number else "give text like '7d' or '2024-05-01'"
        raise InputError(f"{field} = {shown(value)} is no duration and no time; {mend}")
    moment(field, value, 0)
    return value


def instant(field: str, value: Any) -> int:
    """Microseconds since 1970 UTC of ISO 8601 text, a date or a datetime of any library, or of just that many.

    Raises InputError for anything else.

    >>> instant("at", "1970-01-02") == instant("at", date(1970, 1, 2)) == instant("at", 86_400_000_000)
    True
    """
    if isinstance(value, np.datetime64):
        value = value.astype("M8[us]").tolist()
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value)
        if isinstance(value, date) and value == value:  # noqa: PLR0124 - pandas' NaT is not
            return _micros(value if isinstance(value, datetime) else datetime.combine(value, time()))
        if not isinstance(value, bool):
            return operator.index(value)
    except (TypeError, ValueError):
        pass
    mend = "give ISO text like '2024-05-01T00:00:00Z', a datetime, or microseconds since 1970"
    raise InputError(f"{field} = {shown(value)} is no time; {mend}")


def spelt(micros: int) -> str:
    """A moment for people: ISO 8601 in UTC, to the second where it is whole."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
