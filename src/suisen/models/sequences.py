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

    hidden: Tensor
    """(n, d) float32: their states, row by row."""
    targets: Tensor
    """(n,) the items that follow."""
    inputs: Ragged
    """B rows of what was read: n values."""
    sequences: Ragged
    """B rows: all items of each sequence."""

    @property
    def owners(self) -> Tensor:
        """(n,) the row of each position."""
        return self.inputs.rows()


def next_items(sequences: Ragged) -> tuple[Ragged, Tensor]:
    """What a causal model reads and what it is to predict: each row without its last item, and for each of the read
    values (n,) the item that follows it.
    """
    first = torch.zeros_like(sequences.values, dtype=torch.bool)
    first[sequences.offsets[:-1][sequences.lengths > 0]] = True
    return sequences.drop_last(), sequences.values[~first]


def positions(states: Callable[[Ragged], Tensor], sequences: Ragged, groups: int = 1) -> Positions:
    """Every position of a causal model that has a next item, its rows sorted by length where there are ``groups``;
    ``states``: (B, L, d) of B rows.
    """
    if groups > 1:
        sequences = by_length(sequences)
    inputs, targets = next_items(sequences)
    return Positions(flat_states(states, inputs, groups), targets, inputs, sequences)


def by_length(rows: Ragged) -> Ragged:
    """The same rows, the shortest first."""
    return rows.take(rows.lengths.argsort(stable=True))


def flat_states(states: Callable[[Ragged], Tensor], rows: Ragged, groups: int = 1) -> Tensor:
    """(n, d) float32 states of the values of B rows, computed in so many ``groups`` of rows one behind the other: of
    rows in the order of their lengths little is computed on padding, though any lengths meet in a batch.
    """
    parts = torch.arange(len(rows), device=rows.offsets.device).tensor_split(min(groups, max(1, len(rows))))
    grouped = [rows] if groups == 1 else [rows.take(part) for part in parts]
    found = []
    for some in [group for group in grouped if group.values.numel()] or grouped[:1]:
        made = states(some).float()
        found.append(made[some.mask(made.shape[1])])
    return torch.cat(found)


def newest(states: Callable[[Ragged], Tensor], items: Ragged, dim: int) -> Tensor:
    """(B, dim) float32: the state behind each row's last item; zero for an empty row."""
    if not items.values.numel():
        return torch.zeros((len(items), dim), device=items.values.device)
    at = items.lengths - 1
    found = states(items).float()[torch.arange(len(items), device=at.device), at.clamp(min=0)]
    return torch.where(at[:, None] >= 0, found, 0)
