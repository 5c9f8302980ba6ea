"""The candidate's categories and numbers beside those of the history's items: from the columns of the item table."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Self

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Features, Field
from suisen.data.ragged import Ragged, largest
from suisen.display import brief

LARGEST = 8.0
"""Where a difference ends, in standard deviations."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The columns of the item table that some feature reads."""

    __repr__ = brief

    codes: Mapping[str, Ragged]
    """Column → n_items rows of the different codes of each item, none where it is unknown."""
    numbers: Mapping[str, Tensor]
    """Column → (n_items,) float32, standardised; NaN where it is unknown."""

    @classmethod
    def of(cls, wanted: Collection[str], fields: Iterable[Field], features: Features, frame: pl.DataFrame) -> Self:
        """Those that the features of these names read; ``features`` and ``frame``: n_items rows, encoded and raw."""
        columns = {name.partition(":")[2] for name in wanted}
        codes, numbers, seen = dict[str, Ragged](), dict[str, Tensor](), Counter[str]()
        for field in fields:
            at = seen[field.kind]
            seen[field.kind] += 1
            if field.name not in columns:
                continue
            if field.kind == "numeric":
                numbers[field.name] = torch.where(_said(frame, field.name), features.numeric[:, at], torch.nan)
            elif field.kind == "categorical":
                one = features.categorical[:, at]
                codes[field.name] = Ragged(one, torch.arange(len(one) + 1)).keep(one > 0)
            else:
                bag = features.multi[at]
                codes[field.name] = bag.keep(bag.values > 0).unique()
        return cls(codes, numbers)

    def features(self, history: Ragged, ids: Tensor) -> dict[str, Tensor]:
        """Name → (B, C) float32."""
        out = {f"difference:{name}": self.difference(history, ids, name) for name in self.numbers}
        for name in self.codes:
            out[f"last:{name}"], out[f"share:{name}"] = self.met(history, ids, name)
        return out

    def met(self, history: Ragged, ids: Tensor, column: str) -> tuple[Tensor, Tensor]:
        """(B, C) each, of the candidates' categories: how lately the history met one, and how often.

        1 / log₂(1 + d), d the place from behind of the newest item of one of them (1: the last item), 0 where there is
        none; and the share of the history's items that are of a category, its mean over the candidate's.  One sort of
        the history's categories, and a binary search among them per category of a candidate.
        """
        codes = self.codes[column]
        own, theirs = codes.take(history.values), codes.take(ids.reshape(-1))
        size = 1 + largest(codes.values)
        keys, where = torch.unique(history.rows()[own.rows()] * size + own.values, return_inverse=True)
        row = theirs.rows()  # (n,): of which candidate, of B · C, each category is
        if not keys.numel() or not row.numel():
            return torch.zeros(ids.shape), torch.zeros(ids.shape)
        d = history.lengths[history.rows()] - history.places()  # 1: the last item
        nearest = torch.full((len(keys),), len(d)).scatter_reduce(0, where, d[own.rows()], "amin")
        times = torch.bincount(where, minlength=len(keys))
        context = torch.div(row, ids.shape[1], rounding_mode="floor")
        wanted = context * size + theirs.values
        at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
        hit = keys[at] == wanted
        lately = torch.where(hit, 1 / torch.log2(1.0 + nearest[at]), 0.0)
        last = torch.zeros(ids.numel()).scatter_reduce(0, row, lately, "amax")
        often = torch.where(hit, times[at] / history.lengths[context], 0.0) / theirs.lengths[row]
        share = torch.zeros(ids.numel()).index_add_(0, row, often)
        return last.view(ids.shape), share.view(ids.shape)

    def difference(self, history: Ragged, ids: Tensor, column: str) -> Tensor:
        """(B, C): the candidate's number less the mean of the history's known ones; 0 where either is not known."""
        numbers, rows = self.numbers[column].double(), history.rows()
        past = numbers[history.values]
        known = ~past.isnan()
        total = torch.zeros(len(ids), dtype=torch.float64).index_add_(0, rows[known], past[known])
        usual = total / torch.bincount(rows[known], minlength=len(ids))  # NaN where none is known
        return (numbers[ids] - usual[:, None]).nan_to_num(0.0).clamp(-LARGEST, LARGEST).float()


def _said(frame: pl.DataFrame, column: str) -> Tensor:
    """(n,) bool: rows with a number in the column."""
    if column not in frame.columns:
        return torch.zeros(frame.height, dtype=torch.bool)
    values = frame[column]
    values = values.fill_nan(None) if values.dtype.is_float() else values
    return torch.from_numpy(values.is_not_null().to_numpy().copy())


__all__ = ["Columns"]
