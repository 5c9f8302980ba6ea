"""The map between a user's own ids and dense ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.errors import InputError

RawId = str | int
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
        cast = series.cast(self.raw_ids.dtype, strict=False).alias("raw").to_frame()
        found = cast.join(self._table, on="raw", how="left", maintain_order="left")
        return found["dense"].fill_null(0).to_numpy().astype(np.int64)

    def dense_one(self, raw: RawId) -> int:
        """One look-up without building a frame: what a server asks."""
        if self.raw_ids.dtype == pl.String:
            return self._position.get(str(raw), 0)
        if isinstance(raw, int):
            return self._position.get(raw, 0)
        return self._position.get(int(raw), 0) if raw.lstrip("-").isdigit() else 0

    def raw(self, dense: npt.NDArray[np.integer[Any]]) -> pl.Series:
        """Raw ids of dense ones.  Fails on 0, naming the first position."""
        index = np.asarray(dense, dtype=np.int64)
        if index.size and index.min() < 1:
            raise InputError(f"{self.name} id 0 (unknown) at position {int(index.argmin())} has no raw id")
        return self.raw_ids.gather(index - 1).alias(f"{self.name}_id")


def _plain(raw: Iterable[Any]) -> list[Any]:
    """A list in which mixed types have become text, so that a Series of one type can hold it."""
    values = raw.tolist() if isinstance(raw, np.ndarray) else list(raw)
    kinds = {type(value) for value in values if value is not None}
    return values if len(kinds) <= 1 else [None if value is None else str(value) for value in values]
