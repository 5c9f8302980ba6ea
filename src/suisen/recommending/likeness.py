"""How alike items are, as the first stage sees them: what similar items and diversity compare."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.models.contract import Net


@dataclass(frozen=True, eq=False)
class Likeness:
    """Cosines of the first stage's vectors, or, of a model without vectors, its own similarities (see
    ``Net.similarities``).
    """

    net: Net
    vectors: Tensor | None
    """(n_items, d) of length 1, on the CPU; None: the network's own similarities."""

    @classmethod
    @torch.no_grad()
    def of(cls, net: Net) -> "Likeness":
        """Of a network in eval mode."""
        vectors = net.similarity_vectors()
        return cls(net, None if vectors is None else F.normalize(vectors.float().cpu(), dim=1))

    @torch.no_grad()
    def between(self, items: Tensor, others: Tensor) -> Tensor:
        """(B, C) float32: how alike each of (B,) items and each of its (B, C) others are."""
        if self.vectors is not None:
            return torch.einsum("bd,bcd->bc", self.vectors[items], self.vectors[others])
        device = self.net.items.trained.device
        return self.net.similarities(items.to(device), others.to(device)).float().cpu()

    def rows(self, items: Tensor) -> Tensor:
        """(B, n_items) float32: how alike each of (B,) items and every item are."""
        if self.vectors is not None:
            return self.vectors[items] @ self.vectors.T
        return self.between(items, torch.arange(len(self.net.items)).expand(len(items), -1))

    def pairs(self, items: Tensor) -> Tensor:
        """(B, k, k) float32: how alike each two items of (B, k) lists are."""
        return torch.stack([self.between(items[:, at], items) for at in range(items.shape[1])], 1)

    @property
    def facts(self) -> Tensor | Callable[[Tensor], Tensor]:
        """What ``suisen.evaluation.Facts`` wants."""
        return self.pairs if self.vectors is None else self.vectors

    @property
    def said(self) -> str:
        """What is compared, in words."""
        return "the retriever's own similarities of items" if self.vectors is None else "the retriever's item vectors"
