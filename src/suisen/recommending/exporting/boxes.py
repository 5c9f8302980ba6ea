"""Rows of unequal length in a box: what histories and lists of codes are inside an exported graph.

A graph has to know each tensor's shape from those of its inputs.  The values of a ``Ragged`` have no such shape once
some are cut or left out; here every row keeps L places, and those that hold no value hold 0.
"""

from dataclasses import dataclass, field, replace
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.data.ragged import Ragged
from suisen.models.bert4rec import with_mask
from suisen.models.layers import inside_pairs, pooled
from suisen.models.lightgcn import hop


@dataclass(frozen=True)
class Boxed(Ragged):
    """B rows of at most L ids above 0; ``values`` and ``weights``, (B·L,), run beside the box, row by row.

    What networks ask of a ``Ragged`` when they compute a query is answered for the box.  Only ``len`` is not to be
    asked: in a graph, B is no number.
    """

    box: Tensor = field(kw_only=True)
    """(B, L) int64 ids; 0: none."""
    most: int | None = field(default=None, kw_only=True)
    """No row holds more than this; None: any number."""
    asked: list[int] = field(default_factory=list, kw_only=True)
    """What ``last`` was called with, of this box and of those made of it."""

    @classmethod
    def of_box(cls, box: Tensor, weights: Tensor | None = None, most: int | None = None) -> Self:
        """Of (B, L) ids, each row's from the left and 0 behind them, and their (B, L) weights."""
        offsets = torch.arange(box.shape[0] + 1, device=box.device) * box.shape[1]
        return cls(box.reshape(-1), offsets, None if weights is None else weights.reshape(-1), box=box, most=most)

    @property
    def lengths(self) -> Tensor:
        """(B,) ids of each row."""
        return (self.box > 0).sum(1)

    @property
    def barren(self) -> bool:
        """False: a graph is made for any rows."""
        return False

    def rows(self) -> Tensor:
        """(B·L,) the row of each place."""
        return torch.arange(self.box.shape[0], device=self.box.device).unsqueeze(1).expand_as(self.box).reshape(-1)

    def places(self) -> Tensor:
        """(B·L,) where in its row each place stands, from 0."""
        return torch.arange(self.box.shape[1], device=self.box.device).expand_as(self.box).reshape(-1)

    def beside(self, per_row: Tensor) -> Tensor:
        """(B·L,): each row's number beside its ids, 0 beside none."""
        return torch.where(self.box > 0, per_row.unsqueeze(1), 0).reshape(-1)

    def last(self, most: int) -> Self:
        """At most the last ``most`` ids of each row."""
        self.asked.append(most)
        if self.most is not None and self.most <= most:
            return self
        lengths = self.lengths.unsqueeze(1)  # (B, 1)
        kept, places = lengths.clamp(max=most), torch.arange(most, device=self.box.device)
        at = (lengths - kept + places).clamp(max=self.box.shape[1] - 1)  # (B, most)

        def cut(flat: Tensor) -> Tensor:
            return torch.where(places < kept, flat.reshape(self.box.shape).gather(1, at), 0)

        box = cut(self.box)
        weights = None if self.weights is None else cut(self.weights).reshape(-1)
        offsets = torch.arange(box.shape[0] + 1, device=box.device) * most
        return replace(self, values=cut(self.values).reshape(-1), offsets=offsets, weights=weights, box=box, most=most)

    def keep(self, mask: Tensor) -> Self:
        """The same rows with only those ids where ``mask`` (B·L,) is True; the others' places stay, and are empty."""
        inside = mask.reshape(self.box.shape)
        values = torch.where(inside, self.values.reshape(self.box.shape), 0).reshape(-1)
        return replace(self, values=values, box=torch.where(inside, self.box, 0))

    def unique(self) -> Self:
        """Each row's different ids, rising, with empty places between them; without weights."""
        rising = self.box.sort(1).values
        before = F.pad(rising, (1, 0))[:, :-1]
        return self.of_box(torch.where(rising == before, 0, rising))

    def padded(self, length: int | None = None, fill: float = 0) -> Tensor:
        """(B, L), or (B, length): values from the left, ``fill`` behind them."""
        out = torch.where(self.box > 0, self.values.reshape(self.box.shape), fill)
        return out if length is None else F.pad(out, (0, length - out.shape[1]), value=fill)

    def mask(self, length: int) -> Tensor:
        """(B, length) bool: True where ``padded(length)`` holds a value."""
        return torch.arange(length, device=self.box.device) < self.lengths.unsqueeze(1)


def _shares(bags: Boxed, dtype: torch.dtype) -> Tensor:
    """(B, L): each id's part of its row's weight; see ``suisen.models.layers.shares``."""
    weights = (bags.box > 0).to(dtype)
    if bags.weights is not None:
        weights = torch.where(bags.box > 0, bags.weights.reshape(bags.box.shape), 0).to(dtype)
    mass = weights.sum(1, keepdim=True)
    return weights / torch.where(mass == 0, 1, mass)


@pooled.register
def _(bags: Boxed, table: Tensor) -> Tensor:
    vectors = F.embedding(bags.box, table)  # (B, L, d)
    return (_shares(bags, table.dtype).unsqueeze(1) @ vectors).squeeze(1)


@inside_pairs.register
def _(bags: Boxed, table: Tensor, mean: Tensor) -> Tensor:
    """Without sorting: an id's whole share is the sum over the places that hold it, L² comparisons per row."""
    x = _shares(bags, table.dtype)
    same = (bags.box.unsqueeze(2) == bags.box.unsqueeze(1)).to(x.dtype)  # (B, L, L)
    whole = (same @ x.unsqueeze(2)).squeeze(2)  # (B, L)
    norms = F.embedding(bags.box, table).square().sum(2)  # (B, L)
    return 0.5 * (mean.square().sum(1) - (x * whole * norms).sum(1))


@hop.register
def _(graph: Boxed, x: Tensor) -> Tensor:
    weights = (graph.box > 0).to(x.dtype) if graph.weights is None else graph.weights.reshape(graph.box.shape)
    return (weights.unsqueeze(1) @ F.embedding(graph.box, x)).squeeze(1)


@with_mask.register
def _(items: Boxed, mask: int) -> Boxed:
    wider = F.pad(items.box, (0, 1))  # (B, L + 1)
    behind = torch.arange(wider.shape[1], device=wider.device) == items.lengths.unsqueeze(1)
    return Boxed.of_box(torch.where(behind, mask, wider))
