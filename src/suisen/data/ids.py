"""The map between a user's own ids and dense ones.

An id is text or a whole number.  5, 5.0, Decimal("5") and numpy's 5 are the same whole number; a float that may stand
for several whole numbers (``EXACT``), a fraction and a boolean name nothing.  ``suisen.data.clean.as_ids`` holds the
columns of events to the same rule.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.errors import InputError

RawId = str | int
DenseIds = npt.NDArray[np.int64]
IDS_PER_CHUNK = 2**16
"""Ids that are looked up together: what is compared at a time stays in the processor's cache."""

EXACT: Mapping[str, int] = {"Float64": 53, "Float32": 24, "Float16": 11}
"""Type → e: from 2ᵉ on several whole numbers share one float."""
POINT_ZERO = r"^(-?\d+)\.0+$"
"""A whole number as programs write it that hold it as a float."""

FEW, KEPT = 1_000, 65_536
"""Ids that are looked up at a time and remembered; and how many are, about 10 MB."""


class HashTable:
    """Where each of n < 2³² unique values stands, found by its hash: a look-up costs the same however large n is.

    A value's bucket is ⌊hash · n / 2⁶⁴⌋, so that a bucket holds one value on average.  The buckets are the rows of a
    CSR matrix: ``_entries[_starts[b]:_starts[b + 1]]`` are bucket b's values, each a position with the lower half of
    the value's hash above it.  A value takes 12 bytes, where a Python dict of texts takes about a hundred.  A look-up
    compares what it wants with the values of its bucket whose hashes agree: equal hashes cost time, they never give a
    wrong answer.
    """

    def __init__(self, values: pl.Series) -> None:
        """``values`` (n,) are unique and hold no null."""
        self._values = values.rechunk()  # in a single chunk a position is found without a search
        self._buckets = max(1, values.len())
        bucket, tag = self._buckets_and_tags(self._values)
        # A bucket in the upper half and a position in the lower one sort in place, 4 times as fast as np.argsort.
        keys = (bucket.astype(np.uint64) << _HALF) | np.arange(values.len(), dtype=np.uint64)
        keys.sort()
        position = keys & _LOWER
        self._entries = (tag[position.astype(np.int64)] << _HALF) | position
        self._starts = np.zeros(self._buckets + 1, dtype=np.uint32)
        np.cumsum(np.bincount(bucket, minlength=self._buckets), out=self._starts[1:])

    @property
    def nbytes(self) -> int:
        """Bytes of the table, beside the values themselves."""
        return self._entries.nbytes + self._starts.nbytes

    def places(self, wanted: pl.Series) -> DenseIds:
        """(m,) position of each of ``wanted``, which has the values' type; −1 for null and for what is not there."""
        parts = [self._places(part["wanted"]) for part in wanted.to_frame("wanted").iter_slices(IDS_PER_CHUNK)]
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)

    def _places(self, wanted: pl.Series) -> DenseIds:
        bucket, tag = self._buckets_and_tags(wanted)
        start = self._starts[bucket].astype(np.int64)
        size = self._starts[bucket + 1].astype(np.int64) - start  # (m,) entries of each one's bucket
        row = np.repeat(np.arange(wanted.len()), size)  # (c,) which of ``wanted`` an entry is looked at for
        shift = start - (np.cumsum(size) - size)
        entry = self._entries[np.arange(row.size) + np.repeat(shift, size)]  # (c,)
        alike = np.flatnonzero(entry >> _HALF == tag[row])  # few others are left, and no value is read in vain
        row, place = row[alike], (entry[alike] & _LOWER).astype(np.int64)
        same = self._values[place] == wanted[row]
        hit = same.fill_null(value=False).to_numpy() if wanted.null_count() else same.to_numpy()
        places = np.full(wanted.len(), -1, dtype=np.int64)
        places[row[hit]] = place[hit]
        return places

    def _buckets_and_tags(self, values: pl.Series) -> tuple[DenseIds, npt.NDArray[np.uint64]]:
        """(n,) the bucket of each value and the lower half of its hash."""
        hashed = hashes(values)
        upper = hashed >> _HALF  # times n < 2³² it still fits into 64 bits
        return ((upper * np.uint64(self._buckets)) >> _HALF).astype(np.int64), hashed & _LOWER


_HALF = np.uint64(32)
_LOWER = np.uint64(2**32 - 1)


def hashes(values: pl.Series) -> npt.NDArray[np.uint64]:
    """(n,) 64-bit hashes of texts or integers, the same for equal values within one process."""
    return values.hash(seed=0).to_numpy()


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
    def of(cls, name: str, values: pl.Series) -> "IdMap":
        """The unique values in order of first appearance."""
        return cls(name, values.drop_nulls().unique(maintain_order=True).alias("raw"))

    @cached_property
    def table(self) -> HashTable:
        """What looks up a few ids.  The first use builds it, for training, which looks up whole columns, needs none; a
        server uses it once before its first request.
        """
        return HashTable(self.raw_ids)

    def dense(self, raw: Iterable[Any] | pl.Series) -> DenseIds:
        """Dense ids of raw ones; 0 for what the map does not hold, null included.  Never fails.

        Integers are looked up as text where the map holds text, and text that spells an integer as an integer.  As
        many ids as the map holds, or more, are joined with it; that is 2 to 4 times as fast as the table for them.  Of
        a few at a time, as requests and events bring them, the latest are remembered: 0.3 µs instead of 350 for one.
        """
        if not isinstance(raw, (list, tuple)) or len(raw) > FEW:
            return self._looked_up(raw)
        kept = self._kept
        found = [0 if one is None else kept.get(one) if type(one) in (str, int) else None for one in raw]
        if None not in found:
            return np.array(found, dtype=np.int64)
        dense = self._looked_up(raw)
        if len(kept) > KEPT - FEW:
            kept.clear()
        kept.update((one, at) for one, at in zip(raw, dense.tolist(), strict=True) if type(one) in (str, int))
        return dense

    @cached_property
    def _kept(self) -> dict[RawId, int]:
        """Ids that were looked up among a few, known or not, by how they were spelled."""
        return {}

    def _looked_up(self, raw: Iterable[Any] | pl.Series) -> DenseIds:
        series = in_one_type(raw)
        if series.len() == 0:
            return np.zeros(0, dtype=np.int64)
        if series.dtype == pl.String and self.raw_ids.dtype != pl.String:
            series = series.str.replace(POINT_ZERO, "${1}")
        series = series.cast(self.raw_ids.dtype, strict=False)
        return self._joined(series) if series.len() >= len(self) else self.table.places(series) + 1

    def _joined(self, wanted: pl.Series) -> DenseIds:
        known = pl.DataFrame([self.raw_ids.alias("raw"), pl.int_range(1, len(self), eager=True).alias("dense")])
        found = wanted.alias("raw").to_frame().join(known, on="raw", how="left", maintain_order="left")
        return found["dense"].fill_null(0).to_numpy().astype(np.int64)

    def texts(self, raw: Sequence[RawId | None]) -> list[str | None]:
        """Ids as text: of those that the map holds the one spelling that its own id has ("007" is "7" among integers),
        others as they came.  0.5 µs per id that was looked up lately.
        """
        if self.raw_ids.dtype == pl.String:  # looked up letter by letter
            return [None if one is None else str(one) for one in raw]
        found = zip(raw, self.dense(list(raw)).tolist(), strict=True)
        own = self._numbers
        return [str(own[at - 1]) if at else None if one is None else str(one) for one, at in found]

    @cached_property
    def _numbers(self) -> npt.NDArray[np.int64]:
        """(n,) the raw ids, where they are integers."""
        return self.raw_ids.to_numpy()

    def dense_one(self, raw: RawId) -> int:
        """The dense id of one raw id; 0 where the map does not hold it."""
        return int(self.dense([raw])[0])

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


def in_one_type(raw: Iterable[Any] | pl.Series) -> pl.Series:
    """(n,) String or whole numbers: ids as a caller gives them; null for what is no id."""
    series = raw if isinstance(raw, pl.Series) else _series(raw)
    dtype = series.dtype
    if dtype.is_float():
        return series.cast(pl.Float64).set(~exact_whole(series), None).cast(pl.Int64)
    if dtype.is_decimal() or dtype in (pl.Categorical, pl.Enum):
        series = series.cast(pl.String)
    elif dtype.is_integer() or dtype == pl.Null:
        return series
    if series.dtype != pl.String:
        return pl.repeat(None, series.len(), dtype=pl.String, eager=True)
    return series.str.replace(POINT_ZERO, "${1}") if dtype.is_decimal() else series


def exact_whole(floats: pl.Series) -> pl.Series:
    """(n,) bool: floats that are one whole number and cannot stand for another."""
    wide = floats.cast(pl.Float64)
    return ((wide == wide.floor()) & (wide.abs() < 2.0 ** EXACT[str(floats.dtype)])).fill_null(value=False)


def _series(raw: Iterable[Any]) -> pl.Series:
    if isinstance(raw, np.ndarray) and raw.dtype.kind in "iuf" and raw.dtype.itemsize <= 8:
        return pl.Series(raw)
    values = raw.tolist() if isinstance(raw, np.ndarray) else list(raw)
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {str}:
        return pl.Series(values, dtype=pl.String)
    if kinds <= {int}:
        with suppress(OverflowError, TypeError):  # a number beyond Int64 is an id as text
            return pl.Series(values, dtype=pl.Int64)
    return pl.Series([_spelled(value) for value in values], dtype=pl.String)


def _spelled(value: Any) -> str | None:
    """An id of a list that mixes types, as text; None for what is no id."""
    if value is None or isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, float | np.floating):
        bits = 53 if isinstance(value, float) else np.finfo(value.dtype).nmant + 1
        whole = np.isfinite(value) and value == np.floor(value) and abs(float(value)) < 2.0**bits
        return str(int(value)) if whole else None
    if isinstance(value, Decimal):
        return str(int(value)) if value.is_finite() and value == value.to_integral_value() else None
    return str(value)
