"""Features that a query brings, checked under the names that the request has for them."""

from collections.abc import Mapping
from typing import Any

from suisen.data.encode import LARGEST, Encoder
from suisen.errors import InputError, UnknownName, unknown

FIELDS = ("user_features.", "context.")
"""How messages about them begin."""


def check(field: str, encoder: Encoder, values: Mapping[str, Any]) -> None:
    """Refuses names that the bundle does not know, lists and texts where a feature is one number or one word, and
    numbers that no model computes with.
    """
    kinds = {column.name: column.kind for column in encoder.columns}
    for name, value in values.items():
        where = f"{field}.{name}"
        if name not in kinds:
            mend = str(unknown(field, name, kinds)).partition("; ")[2]
            raise UnknownName(f"{where}: {name!r} is unknown; {mend}")
        if isinstance(value, list) and kinds[name] != "multi":
            raise InputError(f"{where} = {value} is a list; the feature is {kinds[name]}: give one value")
        if kinds[name] == "numeric" and not _number(value):
            said = f"feature {name!r} is declared numeric; give a number between -{LARGEST:g} and {LARGEST:g}, or null"
            raise InputError(f"{where} = {value!r}: {said}")


def placed(detail: str, place: int, several: bool) -> str:
    """A message with the query that it is about; what it says of the whole request stays as it is."""
    if detail.startswith(FIELDS):
        return f"queries[{place}].{detail}"
    return f"queries[{place}]: {detail}" if several and not detail.startswith("where") else detail


def _number(value: Any) -> bool:
    try:
        return value is None or abs(float(value)) <= LARGEST
    except (ValueError, OverflowError):
        return False
