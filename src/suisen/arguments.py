"""Arguments as they were meant, or one line that says the mend: lists of any kind, whole numbers of any library."""

import operator
import reprlib
from collections.abc import Collection, Iterable, Mapping
from numbers import Number
from typing import Any

from suisen.errors import InputError, one_line, unknown

ROOM = 60
"""Most characters of a value in a message."""
TABLES = frozenset({"DataFrame", "LazyFrame", "Table", "RecordBatch"})
"""Classes of Polars, pandas and Arrow that hold several columns, by name: asking a lazy one for its columns costs."""

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = ROOM
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 3


def shown(value: object) -> str:
    """A value for a message, in one short line.

    >>> shown("u1"), shown(dict), shown(list(range(9)))
    ("'u1'", 'the class dict', '[0, 1, 2, ...]')
    """
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if is_table(value) or hasattr(value, "dtype") or hasattr(value, "__next__"):
        return f"a {type(value).__name__}"
    text = _SHORT.repr(value) if isinstance(value, str | bytes | Mapping | list | tuple | set) else repr(value)
    return one_line(text) if len(text) <= 2 * ROOM and "\n" not in text else f"a {type(value).__name__}"


def is_table(value: object) -> bool:
    """Whether the value is a table of several columns."""
    return type(value).__name__ in TABLES


def listed(field: str, value: Any, ordered: bool = False) -> Any:
    """The list or tuple that the caller meant: also a generator, a set, an array or a column of any library.

    None stays None.  ``ordered``: the order counts, so a set will not do.  Raises InputError for one value where a list
    belongs, for a mapping and for a table.

    >>> listed("users", range(2)), listed("users", None)
    ([0, 1], None)
    """
    if value is None or type(value) in (list, tuple):  # what a server gives, thousands of times a second
        return value
    if is_table(value):
        raise InputError(f"{field} = {shown(value)} has several columns; give one of them, like {field}=table['id']")
    if ordered and isinstance(value, set | frozenset):
        raise InputError(f"{field} = {shown(value)} is a set, which has no order; give a list")
    read = getattr(value, "tolist", None) or getattr(value, "to_list", None)  # of arrays, columns
    found = read() if callable(read) and not isinstance(value, type) else value
    if isinstance(found, str | bytes | Mapping | type) or not isinstance(found, Iterable):
        mend = f", like {field}=[{shown(value)}]" if isinstance(found, str | bytes | int) else ""
        raise InputError(f"{field} = {shown(value)} is not a list; give a list{mend}")
    return found if isinstance(found, list | tuple) else list(found)


def check_ids(field: str, values: Iterable[Any] | None) -> None:
    """Raises InputError for an entry of a list that can be no id: a list, a table, a model."""
    for value in values or ():
        if not isinstance(value, str | Number | None):
            raise InputError(f"{field}: {shown(value)} is no id; ids are texts or whole numbers")


def choice(field: str, value: Any, known: Collection[str]) -> Any:
    """One of the names of a closed list.  Raises InputError for anything else, with the nearest of them.

    >>> choice("by", "time", ["time", "random"])
    'time'
    """
    if isinstance(value, str):
        if value not in known:
            raise unknown(field, value, known)
        return value
    named = ", ".join(map(repr, list(known)[:8])) + (", …" if len(known) > 8 else "")
    raise InputError(f"{field} = {shown(value)} must be one of {named}")


def whole(field: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """A whole number from ``least`` to ``most`` as Python's own, whichever library it is of.

    Raises InputError for anything else: texts, fractions, True.

    >>> whole("k", 5, 1)
    5
    """
    bounds = f"at least {least}" if most is None else f"a whole number from {least} to {most:,}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise InputError(f"{field} = {shown(value)} must be {bounds.replace('at least', 'a whole number of at least')}")
    if number < least or (most is not None and number > most):
        raise InputError(f"{field} = {number!r} must be {bounds}")
    return number


def real(field: str, value: Any, bounds: str) -> float:
    """A number as Python's own; ``bounds``: what it must be, for the message.  Raises InputError for anything else."""
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise InputError(f"{field} = {shown(value)} must be {bounds}") from None
