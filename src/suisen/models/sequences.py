"""What models of sequences share: what is read and what is predicted, and the state that answers a question."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from suisen.data.ragged import Ragged


@dataclass(frozen=True)
class Positions:
    """The n positions of a batch that predict something."""

    states: Tensor
    """(B, L, d), padded on the right."""
    real: Tensor
    """(B, L) bool: where the positions are."""
    targets: Tensor
    """(n,) the items that follow, row by row."""
    owners: Tensor
    """(n,) the row of each position."""
    sequences: Ragged
    """B rows: all items of each sequence."""

    @property
    def hidden(self) -> Tensor:
        """(n, d) states of the positions."""
        return self.states[self.real]


def next_items(sequences: Ragged) -> tuple[Ragged, Tensor]:
    """What a causal model reads and what it is to predict: each row without its last item, and for each of the read
    values (n,) the item that follows it.
    """
    first = torch.zeros_like(sequences.values, dtype=torch.bool)
    first[sequences.offsets[:-1][sequences.lengths > 0]] = True
    return sequences.drop_last(), sequences.values[~first]


def positions(states: Callable[[Ragged], Tensor], sequences: Ragged) -> Positions:
    """Every position of a causal model that has a next item; ``states``: (B, L, d) of B rows."""
    inputs, targets = next_items(sequences)
    made = states(inputs).float()
    return Positions(made, inputs.mask(made.shape[1]), targets, inputs.rows(), sequences)


def newest(states: Callable[[Ragged], Tensor], items: Ragged, dim: int) -> Tensor:
    """(B, dim) float32: the state behind each row's last item; zero for an empty row."""
    if not items.values.numel():
        return torch.zeros((len(items), dim), device=items.values.device)
    at = items.lengths - 1
    found = states(items).float()[torch.arange(len(items), device=at.device), at.clamp(min=0)]
    return torch.where(at[:, None] >= 0, found, 0)
