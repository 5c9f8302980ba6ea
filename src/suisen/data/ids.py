"""The map between a user's own ids and dense ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.errors import InputError

RawId = str | int
_INTEGER = re.compile(r"[+-]?[0-9]+")
DenseIds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class IdMap:
    """Raw ids (all strings or all integers) ↔ dense ids 1…n; 0 is "unknown"."""

    name: str
    """What the ids name, for messages: "user" or "item"."""
    raw_ids: pl.Series
    """(n,) String or Int64, unique, no null; dense id i is at position i − 1."""

    def __len__(self) -> int:
        """Number of dense ids, 0 included."""
        return self.raw_ids.len() + 1

    @classmethod
    def of(cls, name: str, values: pl.Series) -> IdMap:
        """The unique values in order of first appearance."""
        return cls(name, values.drop_nulls().unique(maintain_order=True).alias("raw"))

    @cached_property
    def _table(self) -> pl.DataFrame:
        dense = pl.int_range(1, len(self), dtype=pl.Int64, eager=True).alias("dense")
        return pl.DataFrame([self.raw_ids.alias("raw"), dense])

    @cached_property
    def _position(self) -> dict[RawId, int]:
        return {raw: i for i, raw in enumerate(self.raw_ids.to_list(), start=1)}

    def dense(self, raw: Iterable[Any] | pl.Series) -> DenseIds:
        """Dense ids of raw ones; 0 for what the map does not hold, null included.  Never fails.

        Integers are looked up as text where the map holds text, and text that spells an integer as an integer.
        """
        series = raw if isinstance(raw, pl.Series) else pl.Series(_plain(raw), strict=False)
        if series.len() == 0:
            return np.zeros(0, dtype=np.int64)
        cast = _whole(series).cast(self.raw_ids.dtype, strict=False).alias("raw").to_frame()
        found = cast.join(self._table, on="raw", how="left", maintain_order="left")
        return found["dense"].fill_null(0).to_numpy().astype(np.int64)

    def dense_one(self, raw: RawId) -> int:
        """One look-up without building a frame: what a server asks."""
        if self.raw_ids.dtype == pl.String:
            return self._position.get(str(raw), 0)
        if isinstance(raw, int):
            return self._position.get(raw, 0)
        return self._position.get(int(raw), 0) if _INTEGER.fullmatch(raw) else 0

    def raw(self, dense: npt.NDArray[np.integer[Any]]) -> pl.Series:
        """Raw ids of dense ones.  Fails on 0 and on what the map does not hold, naming the first position."""
        index = np.asarray(dense, dtype=np.int64)
        outside = np.flatnonzero((index < 1) | (index >= len(self)))
        if outside.size:
            first = int(outside[0])
            raise InputError(
                f"{self.name} id {index[first]} at position {first} has no raw id; known: 1 to {len(self) - 1}"
            )
        return self.raw_ids.gather(index - 1).alias(f"{self.name}_id")


def _plain(raw: Iterable[Any]) -> list[Any]:
    """A list in which mixed types have become text, so that a Series of one type can hold it."""
    values = raw.tolist() if isinstance(raw, np.ndarray) else list(raw)
    kinds = {type(value) for value in values if value is not None}
    return values if len(kinds) <= 1 else [None if value is None else str(value) for value in values]


def _whole(series: pl.Series) -> pl.Series:
    """Floats as the integers they spell (readers make floats of integers with gaps); other floats name nothing."""
    if not series.dtype.is_float():
        return series
    return pl.select(pl.when(series == series.floor()).then(series)).to_series().cast(pl.Int64, strict=False)
