"""What the rules that split a log check alike."""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl
import torch
from torch import Tensor

from suisen.data.dataset import Dataset
from suisen.data.when import spelt
from suisen.errors import InputError, unknown

By = Literal["time", "random"]


def check_shares(rule: str, test: float, valid: float) -> None:
    """0 < test, 0 <= valid, test + valid < 1."""
    for name, value in (("test", test), ("valid", valid)):
        if not 0 <= value < 1 or (name == "test" and value == 0):
            raise InputError(f"{rule}: {name} = {value!r} must be a share between 0 and 1")
    if test + valid >= 1:
        raise InputError(f"{rule}: test = {test!r} and valid = {valid!r} leave nothing for train; hold out less")


def check_by(rule: str, by: str) -> None:
    """One of the two orders."""
    if by not in get_args(By):
        raise unknown(f"{rule}: by", by, get_args(By))


def check_before(rule: str, given: object, valid: int, test: int) -> None:
    """Valid may not begin after test."""
    if valid > test:
        raise InputError(f"{rule}: valid = {given!r} begins after test ({spelt(test)}); name an earlier time")


def need_time(data: Dataset, rule: str) -> None:
    """Fails where the log does not say when."""
    if not data.has_time:
        raise InputError(f"{rule} needs times and the log has none; name the time column, or use LeaveLast or Ratio")


def last_share(values: Tensor, share: float) -> int:
    """The value at which the last ``share`` of ``values`` begins: at least one, ties together."""
    count = max(1, round(values.numel() * share))
    return int(values.sort().values[-count])


def fixed(column: pl.Series) -> Tensor:
    """(n,) int64 of an integer column without nulls."""
    return torch.from_numpy(column.cast(pl.Int64).to_numpy().copy())
