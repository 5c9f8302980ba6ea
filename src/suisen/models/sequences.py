"""From ragged histories to states and targets: what a causal model reads, what it predicts, and how it is computed.

Rows of like length are computed together, so that little time goes into padding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from suisen.data.ragged import Ragged


@dataclass(frozen=True)
class Positions:
    """The n positions of a batch of B sequences at which a next item is predicted."""

    hidden: Tensor
    """(n, d) float32 states of the positions, row by row."""
    targets: Tensor
    """(n,) items to predict: the one that follows each position."""
    inputs: Ragged
    """B rows with n values: the items that are read."""
    sequences: Ragged
    """B rows: all items of each sequence, the inputs and the last target."""
    weights: Tensor | None = None
    """(n,) what the events to predict weigh; None: all alike."""

    @property
    def owners(self) -> Tensor:
        """(n,) the row of each position."""
        return self.inputs.rows()


def next_items(sequences: Ragged) -> tuple[Ragged, Tensor]:
    """The inputs and targets of a causal model: each row without its last item (n values in all), and (n,) the item
    that follows each of them.
    """
    first = torch.zeros_like(sequences.values, dtype=torch.bool)
    first[sequences.offsets[:-1][sequences.lengths > 0]] = True
    return sequences.drop_last(), sequences.values[~first]


def positions(states: Callable[[Ragged], Tensor], sequences: Ragged, groups: int = 1) -> Positions:
    """Every position of ``sequences`` that has a next item, with its state.

    ``states`` computes (B, L, d) of B rows.  With several ``groups`` the rows come sorted by length.
    """
    if groups > 1:
        sequences = by_length(sequences)
    inputs, targets = next_items(sequences)
    weights = None if sequences.weights is None else next_items(sequences.with_values(sequences.weights))[1]
    return Positions(flat_states(states, inputs, groups), targets, inputs, sequences, weights)


def by_length(rows: Ragged) -> Ragged:
    """The same rows, the shortest first."""
    return rows.take(rows.lengths.argsort(stable=True))


def flat_states(states: Callable[[Ragged], Tensor], rows: Ragged, groups: int = 1) -> Tensor:
    """(n, d) float32 states of the n values of B rows, in their order.

    The rows are computed in ``groups`` of neighbours: where they are sorted by length, little is computed on padding,
    though the batch holds rows of any length.
    """
    parts = torch.arange(len(rows), device=rows.offsets.device).tensor_split(min(groups, max(1, len(rows))))
    grouped = [rows] if groups == 1 else [rows.take(part) for part in parts]
    with_values = [group for group in grouped if group.values.numel()]
    found = []
    for group in with_values or grouped[:1]:  # where all rows are empty one call tells d
        padded = states(group).float()  # (rows of the group, L, d)
        found.append(padded[group.mask(padded.shape[1])])  # (values of the group, d)
    return torch.cat(found)


def newest(states: Callable[[Ragged], Tensor], items: Ragged, dim: int) -> Tensor:
    """(B, dim) float32: the state behind each row's last item; zero for an empty row."""
    if items.barren:
        return torch.zeros((len(items), dim), device=items.values.device)
    last = items.lengths - 1  # (B,)
    found = states(items).float()[torch.arange(last.shape[0], device=last.device), last.clamp(min=0)]  # (B, dim)
    return torch.where(last[:, None] >= 0, found, 0)
