"""Co-visits: what was taken soon after what, as a sparse table of items by items.

    c_ab = Σ 1/d over all places in train's histories where b stands d ≤ 10 places behind a,
    w_ab = c_ab / (√(n_a n_b) + 10),   n_a the positive events of a,

of which row a keeps the 100 largest.  The 10 in the sum is a shrinkage: rare items that met once weigh little.  Where
histories have no order, the ten nearest places are a sample of the pairs, and count both ways.

Making it: at most 10 pairs per event, sorted.  Memory: 8 bytes per pair that is kept, at most 800 per item.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.display import brief

WINDOW, NEIGHBOURS, SHRINKAGE = 10, 100, 10.0
LARGEST = 8.0
"""Where a standardised feature ends: of a list in which one candidate alone was met, it would be √C."""


def standardised(values: Tensor, known: Tensor) -> Tensor:
    """(B, C) of (B, C) values: less the mean of their list, over its standard deviation.

    ``known`` (B, C) is False on padding, which counts for nothing and is 0.
    """
    held = torch.where(known, values, 0.0)
    count = known.sum(1, keepdim=True).clamp(min=1)
    mean = held.sum(1, keepdim=True) / count
    spread = (torch.where(known, values - mean, 0.0).square().sum(1, keepdim=True) / count).sqrt()
    return torch.where(known, (values - mean) / spread.clamp(min=1e-6), 0.0)


@dataclass(frozen=True, eq=False)
class CoVisits:
    """Row a holds the items that were taken soon after a."""

    __repr__ = brief

    offsets: Tensor
    """(n_items + 1,) int64."""
    items: Tensor
    """(pairs,) int32, the largest weight of a row first; equal ones: the lower id."""
    weights: Tensor
    """(pairs,) float32."""

    @classmethod
    def of(cls, train: Dataset) -> Self:
        """Of all histories of train, those of guests among them."""
        n, values, rows = train.schema.n_items, train.histories.values, train.histories.rows()
        together = sp.csr_matrix((n, n), dtype=np.float64)
        for d in range(1, WINDOW + 1):
            same = rows[d:] == rows[:-d]
            first, then = values[:-d][same].numpy(), values[d:][same].numpy()
            together = together + sp.csr_matrix((np.full(len(first), 1 / d), (first, then)), shape=(n, n))
        if not train.has_order:
            together = together + together.T.tocsr()
        pairs = together.tocoo()
        counts = np.bincount(values.numpy(), minlength=n).astype(np.float64)
        weights = pairs.data / (np.sqrt(counts[pairs.row] * counts[pairs.col]) + SHRINKAGE)
        order = np.lexsort((pairs.col, -weights, pairs.row))
        lengths = np.bincount(pairs.row, minlength=n)
        place = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        order = order[place < NEIGHBOURS]
        return cls(
            offsets_of(torch.from_numpy(np.minimum(lengths, NEIGHBOURS))),
            torch.from_numpy(pairs.col[order].astype(np.int32)),
            torch.from_numpy(weights[order].astype(np.float32)),
        )

    def grown(self, n_items: int) -> Self:
        """The same for a longer catalogue: nothing is known to have followed the new items."""
        return replace(self, offsets=F.pad(self.offsets, (0, n_items + 1 - len(self.offsets)), value=len(self.items)))

    def flaw(self, n_items: int) -> str:
        """What is wrong with arrays that were read from a file; "": nothing."""
        if len(self.offsets) != n_items + 1 or self.offsets[0] != 0 or bool((self.offsets.diff() < 0).any()):
            return f"offsets do not rise from 0 over {n_items} rows"
        if not int(self.offsets[-1]) == len(self.items) == len(self.weights):
            return "offsets, items and weights differ in length"
        if bool(((self.items < 1) | (self.items >= n_items)).any()):
            return f"items are not all ids from 1 to {n_items - 1}"
        return "" if bool((self.weights.isfinite() & (self.weights > 0)).all()) else "weights are not all above 0"

    def features(self, history: Ragged, ids: Tensor, of_span: Sequence[int]) -> list[Tensor]:
        """For each span n a (B, C): Σ_{j ≤ n} w(h_j, candidate) / j, h₁ the last item, standardised in its list."""
        sums = self.sums(history, ids, of_span)
        return [standardised(each, ids > 0).clamp(-LARGEST, LARGEST).float() for each in sums.unbind(2)]

    def sums(self, history: Ragged, ids: Tensor, of_span: Sequence[int]) -> Tensor:
        """(B, C, spans) float64, not yet standardised: sums that are equal must stay equal.

        Each follower of a last item is looked up in the sorted list: log₂ C steps, at most 100 followers per item.
        """
        recent = history.last(max(of_span))
        j = recent.lengths[recent.rows()] - recent.places()  # 1: the last item
        first = self.offsets[recent.values]
        lengths = self.offsets[recent.values + 1] - first
        at = spans(first, lengths)  # (n,) places in the table, item by item of each history
        row, j = recent.rows().repeat_interleave(lengths), j.repeat_interleave(lengths)
        followers = Ragged(self.items[at].long(), offsets_of(torch.bincount(row, minlength=len(ids))))
        ids, order = ids.sort(dim=1)
        place = torch.searchsorted(ids, followers.padded(fill=-1))[followers.mask(int(followers.lengths.max()))]
        place = place.clamp(max=ids.shape[1] - 1)  # (n,): which candidate each follower would be
        met = ids[row, place] == followers.values
        place, row, j, weight = place[met], row[met], j[met], self.weights[at[met]]
        shares = torch.stack([torch.where(j <= span, weight.double() / j, 0.0) for span in of_span], 1)  # (met, spans)
        sums = shares.new_zeros((ids.numel(), len(of_span))).index_add_(0, row * ids.shape[1] + place, shares)
        sums = sums.view(*ids.shape, len(of_span))
        first = torch.searchsorted(ids, ids)  # a candidate that stands twice was met where it stands first
        sums = sums.gather(1, first[:, :, None].expand_as(sums))
        return torch.empty_like(sums).scatter_(1, order[:, :, None].expand_as(sums), sums)


__all__ = ["CoVisits", "standardised"]
