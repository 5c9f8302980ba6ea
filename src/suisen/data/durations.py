"""Durations and moments as people write them, in microseconds."""

import re
from datetime import UTC, datetime, timedelta

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
        when = datetime.fromisoformat(text)
    except ValueError:
        raise InputError(
            f"{field} = {text!r} is neither a duration like '7d' nor an ISO time like '2024-05-01T00:00:00Z'"
        ) from None
    return ((when if when.tzinfo else when.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


def spelt(micros: int) -> str:
    """A moment for people: ISO 8601 in UTC, to the second where it is whole."""
    return (_EPOCH + timedelta(microseconds=micros)).isoformat().replace("+00:00", "Z")
