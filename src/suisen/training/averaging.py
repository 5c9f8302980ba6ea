"""Weights averaged over the steps of training: what a constant learning rate jitters about, without the jitter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from suisen.training.checkpoint import weights_of


class Average:
    """An exponential moving average of a network's weights (Polyak & Juditsky 1992; as used today: Morales-Brotons et
    al. 2024, "Exponential Moving Average of Weights in Deep Learning").

    Of the first steps it is the plain mean of what was seen (1 − 1/n < decay), so that it never holds the first,
    random weights for long.  Costs a copy of the weights and one pass over them a step: for tables of millions of rows
    of which a batch touches few, that is more than the step itself.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = module, decay, 0
        self.weights = {name: value.clone() for name, value in weights_of(module).items()}

    @torch.no_grad()
    def update(self) -> None:
        """After each step."""
        self.steps += 1
        share = max(1.0 - self.decay, 1.0 / self.steps)
        for name, value in weights_of(self.module).items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Meanwhile the network has the averaged weights; then its own again."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """The averaged weights and the network's change places."""
        for name, value in weights_of(self.module).items():
            held = value.clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(held)
