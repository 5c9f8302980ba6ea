"""What a server logged, read back: its events, the lists that it answered with, and a count of what is neither.

A line whose ``item_id`` is a list is a list that was shown; any other is an event.  So it does not matter in which file
or topic a line stands.  Lines of older servers lack the newer fields, and of lines with more fields the rest is left.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from math import isfinite
from typing import Any

import polars as pl

TIME = pl.Datetime("us", "UTC")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class _Fault(Exception):
    """Why a line is none that a server wrote."""


def _text(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is no text")
    value.encode()  # a lone surrogate
    return value


def _id(value: Any) -> str | None:
    """Ids are text; whole numbers are spelt."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else _text(value)


def _whole(value: Any) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise ValueError("is no whole number")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not isfinite(value):
        raise ValueError("is no finite number")
    return float(value)


def _moment(value: Any) -> int | None:
    """Microseconds since 1970; UTC where no zone is named."""
    moment = datetime.fromisoformat(value)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


def _each(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def values(value: Any) -> list[Any] | None:
        if not isinstance(value, list | None):
            raise ValueError("is no list")
        return None if value is None else [read(one) for one in value]

    return values


Field = tuple[pl.DataType, Callable[[Any], Any]]
TEXT: Field = (pl.String(), _text)
ID: Field = (pl.String(), _id)
WHOLE: Field = (pl.Int64(), _whole)
NUMBER: Field = (pl.Float64(), _number)
MOMENT: Field = (pl.Int64(), _moment)


def _several(one: Field) -> Field:
    return pl.List(one[0]), _each(one[1])


EVENT: Mapping[str, Field] = {
    "event_id": TEXT, "user_id": ID, "session_id": ID, "item_id": ID, "event": TEXT, "time": MOMENT,
    "request_id": TEXT, "position": WHOLE, "value": NUMBER, "price": NUMBER, "quantity": WHOLE,
}  # fmt: skip
SHOWN: Mapping[str, Field] = {
    "request_id": TEXT, "time": MOMENT, "version": TEXT, "user_id": ID, "session_id": ID, "answered_by": TEXT,
    "item_id": _several(ID), "position": _several(WHOLE), "score": _several(NUMBER), "arm": TEXT,
    "propensity": _several(NUMBER),
}  # fmt: skip
NEEDED = {"item_id", "event", "time"}, {"request_id", "time", "item_id", "position", "score"}
"""Fields without which a line is no event, no list."""


ROWS = 100_000
"""Lines that are read before they become a table."""


class Lines:
    """Lines on their way to tables."""

    def __init__(self) -> None:
        self.count = 0
        self.faults: Counter[str] = Counter()
        """Lines that are neither event nor list, by reason."""
        self._first: dict[str, str] = {}
        self._rows: dict[bool, list[tuple[Any, ...]]] = {False: [], True: []}
        """Of events, of lists."""
        self._tables = {False: [_frame(EVENT, [])], True: [_frame(SHOWN, [])]}

    def take(self, lines: Iterable[tuple[str, bytes]]) -> None:
        """Reads (place, line) pairs."""
        for place, line in lines:
            self.count += 1
            try:
                found = _object(line)
                shown = isinstance(found.get("item_id"), list)
                self._rows[shown].append(_list(found) if shown else _event(found))
                if len(self._rows[shown]) == ROWS:
                    self._table(shown)
            except _Fault as fault:
                self.faults[str(fault)] += 1
                self._first.setdefault(str(fault), place)

    def notes(self) -> list[str]:
        """What was left out, and where it stands first."""
        return [
            f"{count:,} line{'s' * (count > 1)} left out: {why} (first: {self._first[why]})"
            for why, count in self.faults.most_common()
        ]

    def events(self) -> pl.DataFrame:
        """A row per event, as they came."""
        return self._table(False)

    def shown(self) -> pl.DataFrame:
        """A row per list, as they came."""
        return self._table(True)

    def _table(self, shown: bool) -> pl.DataFrame:
        """Rows of Python take ten times the memory of a table's."""
        self._tables[shown].append(_frame(SHOWN if shown else EVENT, self._rows[shown]))
        self._rows[shown] = []
        return pl.concat(self._tables[shown])


def _frame(fields: Mapping[str, Field], rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    schema = {name: kind for name, (kind, _) in fields.items()}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("time").cast(TIME))


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        raise _Fault("no JSON") from None
    if not isinstance(found, dict):
        raise _Fault("no object")
    return found


def _values(found: dict[str, Any], fields: Mapping[str, Field], needed: set[str], what: str) -> dict[str, Any]:
    out = {}
    for name, (_, read) in fields.items():
        value = found.get(name)
        if value is None and name in needed:
            raise _Fault(f"no {what}: {name} is missing")
        try:
            out[name] = None if value is None else read(value)
        except (ValueError, TypeError, OverflowError) as error:
            why = "is no time" if name == "time" else "is no text" if isinstance(error, UnicodeError) else str(error)
            raise _Fault(f"no {what}: {name} {why}") from None
    return out


def _event(found: dict[str, Any]) -> tuple[Any, ...]:
    values = _values(found, EVENT, NEEDED[0], "event")
    if values["user_id"] is None and values["session_id"] is None:
        raise _Fault("no event: user_id and session_id are missing")
    return tuple(values.values())


def _list(found: dict[str, Any]) -> tuple[Any, ...]:
    values = _values(found, SHOWN, NEEDED[1], "list")
    items = values["item_id"]
    if values["propensity"] is None:
        values["propensity"] = [None] * len(items)
    if None in items or any(len(values[name]) != len(items) for name in ("position", "score", "propensity")):
        raise _Fault("no list: its items, positions, scores and propensities are not as many")
    return tuple(values.values())
