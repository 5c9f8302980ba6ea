"""One voice for errors: the field, the value, the bound and the mend, in one line."""

import difflib
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any


class SuisenError(Exception):
    """Base of every error that Suisen raises on purpose; the command line prints it and exits with 2."""


class InputError(SuisenError, ValueError):
    """Something the caller gave is wrong: the message names the field, the value and the mend."""


class UnknownName(InputError):
    """A name that is none of a closed list: of a field, an option, a model."""


class UnsupportedQuery(InputError):
    """The model cannot answer this kind of query: the message names the ability that is missing."""


class BundleError(SuisenError):
    """A bundle is missing, damaged, of a newer format, or answers other than it did when it was saved."""


class TrainingError(SuisenError):
    """Training cannot go on: the message names the batch, the learning rate and what to lower."""


class MissingExtra(SuisenError, ImportError):
    """An optional library is not installed: the message names the extra that brings it."""


def one_line(text: str) -> str:
    """``text`` with every character that is not printable escaped: a caller's own words must not break a line."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def unknown(field: str, value: object, known: Iterable[Any]) -> UnknownName:
    """The error for a value outside a closed list, with the nearest known one.

    >>> str(unknown("loss", "inforce", ["infonce", "bpr"]))
    "loss = 'inforce' is unknown; did you mean 'infonce'?"
    """
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(value), names, n=1)
    mend = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return UnknownName(f"{field} = {value!r} is unknown; {mend}")


def missing_extra(package: str, extra: str) -> MissingExtra:
    """The error for an optional library that is not there."""
    return MissingExtra(f"{package} is not installed; run: pip install 'suisen[{extra}]'")


def need_extra(extra: str, *packages: str) -> None:
    """Raises MissingExtra for the first of an extra's packages that is not installed.  None of them is imported."""
    for package in packages:
        if find_spec(package) is None:
            raise missing_extra(package, extra)
