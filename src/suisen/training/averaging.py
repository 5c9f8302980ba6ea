"""A moving average of a network's weights over the steps of training.

With a constant learning rate the weights keep moving to and fro around a good solution.  Their average lies closer to
it than the weights of any one step, so the trainer can validate and keep the average (``RunOptions.average``).
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from suisen.training.checkpoint import weights_of


class Average:
    """An exponential moving average of a network's weights and buffers.

    Source: Polyak & Juditsky 1992; exponential: Morales-Brotons et al. 2024, "Exponential Moving Average of Weights in
    Deep Learning".  While 1 / steps > 1 − ``decay`` it is the plain mean of all steps, so that the random
    first weights are soon forgotten.  Integer buffers are copied, not averaged.

    Cost: a copy of the weights, and one pass over them per step.  For tables of millions of rows, of which a batch
    touches few, that is more than the step itself.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.decay = decay
        self.steps = 0
        self.weights = {name: value.clone() for name, value in weights_of(module).items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the network's weights in; the trainer calls it after each step of the optimisers."""
        self.steps += 1
        share = max(1.0 - self.decay, 1.0 / self.steps)  # of the newest weights; 1 / steps gives the plain mean
        for name, value in weights_of(self.module).items():
            if value.is_floating_point():
                self.weights[name].lerp_(value, share)
            else:
                self.weights[name].copy_(value)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the context the network holds the averaged weights, behind it its own again."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the averaged weights and the network's."""
        for name, value in weights_of(self.module).items():
            held = value.clone()
            value.copy_(self.weights[name])
            self.weights[name].copy_(held)
