"""When each item was taken: counts before any moment, by binary search.

Two arrays: the different times of train, rising, and one number per positive event, item · (times + 1) + rank of its
time, rising.  The takes of an item before t are the difference of two places in the second array, one of which is known
of each item.  Memory: 8 bytes per event and 8 per time.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from suisen.data.dataset import Dataset
from suisen.display import brief

DAY = 86_400_000_000
"""Microseconds."""
TRENDS = {"trend_day": DAY, "trend_week": 7 * DAY, "trend_month": 30 * DAY}
NAMES = ("popularity", "age", *TRENDS)


@dataclass(frozen=True, eq=False)
class Moments:
    """Times of the positive events of each item."""

    __repr__ = brief

    n_items: int
    times: Tensor
    """(T,) int64 microseconds, rising, each once."""
    keys: Tensor
    """(n,) int64, rising: item · (T + 1) + rank of the time."""

    @classmethod
    def of(cls, train: Dataset) -> Self:
        """Of all positive events of train, those of guests among them."""
        times, rank = torch.unique(train.history_times, return_inverse=True)
        keys = train.histories.values * (len(times) + 1) + rank
        return cls(train.schema.n_items, times, keys.sort().values)

    @cached_property
    def starts(self) -> Tensor:
        """(n_items,) int64: where each item's keys begin."""
        return torch.searchsorted(self.keys, torch.arange(self.n_items) * (len(self.times) + 1))

    def grown(self, n_items: int) -> Self:
        """The same for a longer catalogue: the new items were never taken."""
        return replace(self, n_items=n_items)

    def before(self, ids: Tensor, time: Tensor) -> Tensor:
        """(B, C) int64: events of the (B, C) items strictly before the (B,) times."""
        rank = torch.searchsorted(self.times, time)  # (B,): how many different times lie before
        return torch.searchsorted(self.keys, ids * (len(self.times) + 1) + rank[:, None]) - self.starts[ids]

    def features(self, time: Tensor, ids: Tensor, wanted: Collection[str]) -> dict[str, Tensor]:
        """Name → (B, C) float32, at least of those of ``NAMES`` that are wanted, as of the (B,) times.

        A request that comes later than all events is answered as of the moment behind the newest: what has been taken
        since then is not known here, and a week without news is no trend.
        """
        now = time.clamp(max=int(self.times[-1]) + 1) if len(self.times) else time
        taken = self.before(ids, now)
        out = {"popularity": torch.log2(1.0 + taken) / 8, "age": torch.zeros(ids.shape)}
        if len(self.keys):
            first = self.starts[ids].clamp(max=len(self.keys) - 1)
            since = now[:, None] - self.times[self.keys[first] % (len(self.times) + 1)]
            out["age"] = torch.where(taken > 0, torch.log2(1.0 + since.clamp(min=0) / DAY) / 8, 0.0)
        for name, window in TRENDS.items():
            if name in wanted:
                lately, earlier = self.before(ids, now - window), self.before(ids, now - 2 * window)
                out[name] = torch.log2((1.0 + taken - lately) / (1.0 + lately - earlier)) / 4
        return out

    def flaw(self) -> str:
        """What is wrong with arrays that were read from a file; "": nothing."""
        if bool((self.times.diff() <= 0).any()) or bool((self.keys.diff() < 0).any()):
            return "times and keys do not rise"
        item, rank = self.keys // (len(self.times) + 1), self.keys % (len(self.times) + 1)
        wrong = (item < 1) | (item >= self.n_items) | (rank >= len(self.times))
        return "keys name items or times that are not there" if bool(wrong.any()) else ""


__all__ = ["NAMES", "Moments"]
