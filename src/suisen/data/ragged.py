"""Rows of unequal length, as one array of values and one of offsets (the layout of Arrow lists and CSR)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor


def spans(starts: Tensor, lengths: Tensor) -> Tensor:
    """Positions start, start + 1, … of several spans, one behind the other: (sum(lengths),) int64.

    >>> spans(torch.tensor([5, 0]), torch.tensor([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    ends = lengths.cumsum(0)
    shift = torch.repeat_interleave(starts - (ends - lengths), lengths)
    return shift + torch.arange(shift.numel(), device=shift.device)


def offsets_of(lengths: Tensor) -> Tensor:
    """(B + 1,) int64 offsets of rows with these lengths."""
    offsets = torch.zeros(lengths.numel() + 1, dtype=torch.int64, device=lengths.device)
    torch.cumsum(lengths, 0, out=offsets[1:])
    return offsets


def largest(values: Tensor) -> int:
    """The largest of whole numbers from 0 on; −1 where there are none."""
    return int(values.max()) if values.numel() else -1


@dataclass(frozen=True)
class Ragged:
    """Row i is ``values[offsets[i]:offsets[i + 1]]``; ``weights``, where given, runs beside ``values``."""

    values: Tensor
    """(n,) of any type."""
    offsets: Tensor
    """(B + 1,) int64, starting at 0, never falling."""
    weights: Tensor | None = None
    """(n,) float32, or None where every value counts alike."""

    def __len__(self) -> int:
        return self.offsets.numel() - 1

    @property
    def lengths(self) -> Tensor:
        """(B,) int64."""
        return self.offsets.diff()

    @classmethod
    def empty(cls, rows: int, dtype: torch.dtype = torch.int64) -> Self:
        """``rows`` empty rows."""
        return cls(torch.empty(0, dtype=dtype), torch.zeros(rows + 1, dtype=torch.int64))

    @classmethod
    def of(cls, rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.int64) -> Self:
        """From Python lists: for tests and single requests, not for hot paths."""
        values = torch.tensor([value for row in rows for value in row], dtype=dtype)
        return cls(values, offsets_of(torch.tensor([len(row) for row in rows], dtype=torch.int64)))

    def rows(self) -> Tensor:
        """(n,) int64: the row each value stands in."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    def places(self) -> Tensor:
        """(n,) int64: where in its row each value stands, from 0."""
        return torch.arange(self.values.numel(), device=self.offsets.device) - self.offsets[self.rows()]

    def take(self, rows: Tensor) -> Self:
        """The rows named, in that order; a row may be named again.  The other rows are not looked at."""
        starts = self.offsets[rows]
        return self._cut(starts, self.offsets[rows + 1] - starts)

    def last(self, most: int) -> Self:
        """At most the last ``most`` values of each row."""
        kept = self.lengths.clamp(max=most)
        return self._cut(self.offsets[1:] - kept, kept)

    def drop_last(self, count: int = 1) -> Self:
        """Each row without its last ``count`` values."""
        return self._cut(self.offsets[:-1], (self.lengths - count).clamp(min=0))

    def keep(self, mask: Tensor) -> Self:
        """The same rows with only those values where ``mask`` (n,) is True."""
        lengths = torch.bincount(self.rows()[mask], minlength=len(self))
        weights = None if self.weights is None else self.weights[mask]
        return replace(self, values=self.values[mask], offsets=offsets_of(lengths), weights=weights)

    def _cut(self, starts: Tensor, lengths: Tensor) -> Self:
        index = spans(starts, lengths)
        weights = None if self.weights is None else self.weights.index_select(0, index)
        return replace(self, values=self.values.index_select(0, index), offsets=offsets_of(lengths), weights=weights)

    def beside(self, per_row: Tensor) -> Tensor:
        """(n,): each row's number of (B,) ``per_row``, beside each of the row's values."""
        return per_row.repeat_interleave(self.lengths)

    @property
    def barren(self) -> bool:
        """Whether no row holds a value."""
        return not self.values.numel()

    # -- rows as sets of whole numbers from 0 on -----------------------------------------------------------------------

    def keys(self, size: int) -> Tensor:
        """(n,) int64: row · size + value, one number for each pair; ``size`` is above every value."""
        return self.rows() * size + self.values

    @classmethod
    def of_keys(cls, keys: Tensor, size: int, rows: int) -> Self:
        """``rows`` rows of the pairs that ``keys(size)`` made (n,) rising numbers of."""
        lengths = torch.bincount(torch.div(keys, size, rounding_mode="floor"), minlength=rows)
        return cls(keys % size, offsets_of(lengths))

    def holds(self, ids: Tensor, rows: Tensor | None = None) -> Tensor:
        """Bool, of the shape of ``ids``: whether a row holds each of them.

        Row i is asked about row i of ``ids`` (B, C), or, where ``rows`` are given, the row that stands there; ``ids``
        and ``rows`` then broadcast.
        """
        size = 1 + max(largest(self.values), largest(ids))
        if rows is None:
            rows = torch.arange(len(self), device=ids.device)[:, None]  # (B, 1)
        wanted = rows * size + ids
        known = torch.unique(self.keys(size))  # rising; sorts numbers alone, which is faster than to sort with places
        if not known.numel():
            return torch.zeros_like(wanted, dtype=torch.bool)
        found: Tensor = known[torch.searchsorted(known, wanted).clamp(max=known.numel() - 1)] == wanted
        return found

    def isin(self, others: "Ragged") -> Tensor:
        """(n,) bool: which values stand in the same row of ``others`` too."""
        return others.holds(self.values, self.rows())

    def minus(self, others: "Ragged") -> Self:
        """Each row without the values in the same row of ``others``."""
        return self.keep(~self.isin(others))

    def unique(self) -> Self:
        """Each row's different values, rising, without weights."""
        size = 1 + largest(self.values)
        return self.of_keys(torch.unique(self.keys(size)), size, len(self))

    def distinct(self) -> Self:
        """Each row with the first of equal values only, in the order they stood in."""
        keys = self.keys(1 + largest(self.values))
        order = torch.argsort(keys, stable=True)
        first = torch.ones_like(keys, dtype=torch.bool)
        first[order[1:]] = keys[order].diff() != 0
        return self.keep(first)

    # ------------------------------------------------------------------------------------------------------------------

    def with_values(self, values: Tensor) -> Self:
        """The same rows over other values of the same number."""
        return replace(self, values=values, weights=None)

    def padded(self, length: int | None = None, fill: float = 0) -> Tensor:
        """(B, L): values from the left, ``fill`` behind them.  ``length`` must be at least the longest row."""
        lengths = self.lengths
        width = length if length is not None else (int(lengths.max()) if len(self) else 0)
        out = self.values.new_full((len(self), width), fill)
        out[self.mask(width)] = self.values
        return out

    def mask(self, length: int) -> Tensor:
        """(B, length) bool: True where ``padded(length)`` holds a value."""
        return torch.arange(length, device=self.offsets.device) < self.lengths[:, None]

    def tolist(self) -> list[list[float]]:
        """Python lists, for people and for single requests."""
        ends, values = self.offsets.tolist(), self.values.tolist()
        return [values[a:b] for a, b in pairwise(ends)]

    def to(self, device: torch.device) -> Self:
        """The same on another device."""
        weights = None if self.weights is None else self.weights.to(device)
        return replace(self, values=self.values.to(device), offsets=self.offsets.to(device), weights=weights)


def concat(parts: Sequence[Ragged]) -> Ragged:
    """The rows of several, one behind the other."""
    weights = None
    if any(part.weights is not None for part in parts):
        weights = torch.cat([torch.ones(p.values.numel()) if p.weights is None else p.weights for p in parts])
    return Ragged(
        torch.cat([part.values for part in parts]), offsets_of(torch.cat([part.lengths for part in parts])), weights
    )


def side_by_side(first: Ragged, second: Ragged) -> Ragged:
    """Row i of ``first`` with row i of ``second`` behind it; both have the same number of rows.

    >>> side_by_side(Ragged.of([[1], [2, 3]]), Ragged.of([[4], []])).tolist()
    [[1, 4], [2, 3]]
    """
    rows = len(first)
    pairs = concat([first, second]).take(torch.arange(2 * rows).view(2, rows).T.reshape(-1))
    return replace(pairs, offsets=pairs.offsets[::2])
