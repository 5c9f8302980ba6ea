"""Vectorised negative sampling: draws, their log-probabilities, and the exclusion of known positives."""

from dataclasses import dataclass

import torch
from torch import Tensor

from suisen.data.dataset import Dataset

MAX_TABLE_BYTES = 64 * 2**20
"""Of the dense table of known pairs; where it would be larger, sorted keys are searched instead."""
MAX_ROUNDS = 8
"""How often a draw that hits a positive is repeated before the rest of the catalogue is listed."""
MAX_TRIES = 16
"""Most draws for one place in a round: after two rounds few places are left, and the number of calls costs most."""
CELLS_PER_CHUNK = 2**20
"""(user, item) cells listed at a time for users who have taken nearly everything."""


class KnownPairs:
    """Whether (user, item) is a positive of train.

    One look-up in a table of bytes where that takes at most ``MAX_TABLE_BYTES``, else a binary search in sorted keys (8
    bytes per pair).  Guests (user 0) have no positives: one guest's item says nothing of another guest.
    """

    def __init__(self, train: Dataset) -> None:
        wanted = train.positive & (train.user > 0)
        user, item = train.user[wanted], train.events.item[wanted]
        self._n_items = train.schema.n_items
        keys = user * self._n_items + item
        self._table: Tensor | None = None
        if train.schema.n_users * self._n_items <= MAX_TABLE_BYTES:
            self._table = torch.zeros(train.schema.n_users * self._n_items, dtype=torch.bool)
            self._table[keys] = True
        else:
            self._keys = torch.unique(keys)

    def contains(self, user: Tensor, item: Tensor) -> Tensor:
        """Bool, of the shape to which ``user`` and ``item`` broadcast."""
        keys = user * self._n_items + item
        if self._table is not None:
            return self._table.index_select(0, keys.reshape(-1)).view(keys.shape)
        if not self._keys.numel():
            return torch.zeros_like(keys, dtype=torch.bool)
        at = torch.searchsorted(self._keys, keys).clamp(max=self._keys.numel() - 1)
        found: Tensor = self._keys[at] == keys
        return found


@dataclass(frozen=True)
class Sampler:
    """Draws items of train with probability ~ (positives of the item) ^ ``power``: 0 is uniform, 1 is popularity.

    Items of which train has labelled negatives alone count as one positive.
    """

    items: Tensor
    """(m,) the items that may be drawn: all that train has events of."""
    log_q: Tensor
    """(n_items,) log-probability of each item; -inf where it is never drawn."""
    cumulative: Tensor | None
    """(m,) float64 distribution function over ``items``; None where uniform."""
    known: KnownPairs | None
    """Positives to draw again; None: none are excluded."""

    @classmethod
    def of(cls, train: Dataset, power: float = 0.0, exclude_known: bool = True) -> "Sampler":
        """The sampler of train.  ``exclude_known``: whether ``draw_for`` avoids each user's positives."""
        items = train.trained_items.nonzero().squeeze(1)
        share = train.item_counts[items].double().clamp(min=1).pow(power)
        share /= share.sum()
        log_q = torch.full((train.schema.n_items,), -torch.inf)
        log_q[items] = share.log().float()
        cumulative = None if power == 0 else share.cumsum(0)
        return cls(items, log_q, cumulative, KnownPairs(train) if exclude_known else None)

    def draw(self, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
        """Independent draws: dense items of this shape."""
        if self.cumulative is None:
            at = torch.randint(self.items.numel(), shape, generator=rng)
            return self.items.index_select(0, at.view(-1)).view(shape)
        at = torch.searchsorted(self.cumulative, torch.rand(shape, dtype=torch.float64, generator=rng))
        return self.items[at.clamp(max=self.items.numel() - 1)]

    def draw_for(self, user: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """(B, count) draws that avoid the positives of each of ``user`` (B,).

        A draw that hits a positive is repeated, at most ``MAX_ROUNDS`` times.  Places that still hold a positive belong
        to users who have taken most of the catalogue; they are filled from a list of what those users have not taken.
        A user who has taken everything keeps what was drawn: there is no negative.  Guests (user 0) avoid nothing.
        """
        drawn = self.draw((user.numel(), count), rng)
        known = self.known
        if known is None:
            return drawn
        flat, owner = drawn.view(-1), user.repeat_interleave(count)
        hit = known.contains(owner, flat).nonzero().squeeze(1)
        for _ in range(MAX_ROUNDS):
            if not hit.numel():
                return drawn
            tries = min(MAX_TRIES, 1 + flat.numel() // (16 * hit.numel()))
            more = self.draw((hit.numel(), tries), rng)
            free = ~known.contains(owner[hit, None], more)
            first = free.byte().argmax(1, keepdim=True)  # the first that is no positive: rejection, in one go
            flat[hit] = more.gather(1, first).squeeze(1)
            hit = hit[~free.any(1)]
        for some in hit.split(max(1, CELLS_PER_CHUNK // self.items.numel())):  # type: ignore[no-untyped-call]
            flat[some] = self._listed(~known.contains(owner[some, None], self.items), flat[some], rng)
        return drawn

    def _listed(self, free: Tensor, drawn: Tensor, rng: torch.Generator) -> Tensor:
        """(h,) draws, each from the items of its row of ``free`` (h, m); ``drawn`` where the row has none."""
        mass = (self.log_q[self.items].double().exp() * free).cumsum(1)
        point = torch.rand((len(drawn), 1), dtype=torch.float64, generator=rng) * mass[:, -1:]
        at = torch.searchsorted(mass, point, right=True).squeeze(1).clamp(max=self.items.numel() - 1)
        return torch.where(mass[:, -1] > 0, self.items[at], drawn)
