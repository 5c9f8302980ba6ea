"""Checks of a split rule: of its parameters and of what it needs of a log.  ``rule`` is its name, for the message."""

from typing import Literal, get_args

from suisen.data.durations import spelt
from suisen.data.ordered import OrderedLog
from suisen.errors import InputError, unknown

By = Literal["time", "random"]


def check_shares(rule: str, test: float, valid: float) -> None:
    """Raises InputError unless 0 < test < 1, 0 <= valid < 1 and test + valid < 1."""
    for name, value in (("test", test), ("valid", valid)):
        if not 0 <= value < 1 or (name == "test" and value == 0):
            raise InputError(f"{rule}: {name} = {value!r} must be a share between 0 and 1")
    if test + valid >= 1:
        raise InputError(f"{rule}: test = {test!r} and valid = {valid!r} leave nothing for train; hold out less")


def check_by(rule: str, by: str) -> None:
    """Raises InputError unless ``by`` is one of ``By``."""
    if by not in get_args(By):
        raise unknown(f"{rule}: by", by, get_args(By))


def check_before(rule: str, given: object, valid: int, test: int) -> None:
    """Raises InputError where valid, written as ``given``, begins after test (both in microseconds since 1970 UTC)."""
    if valid > test:
        raise InputError(f"{rule}: valid = {given!r} begins after test ({spelt(test)}); name an earlier time")


def need_time(log: OrderedLog, rule: str) -> None:
    """Raises InputError where the log has no times."""
    if not log.has_time:
        raise InputError(f"{rule} needs times and the log has none; name the time column, or use LeaveLast or Ratio")
