"""The moving average of a network's weights against its recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from suisen.training.averaging import Average


class Counting(nn.Module):
    """A weight, a buffer of floats and one of whole numbers, all moved by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("mean", torch.zeros(3), persistent=False)
        self.register_buffer("steps", torch.tensor(0))

    @torch.no_grad()
    def move(self, to: float) -> None:
        self.weight.fill_(to)
        self.mean.fill_(-to)
        self.steps.fill_(int(to))


def test_the_mean_first_then_exponential():
    net = Counting()
    average = Average(net, decay=0.75)
    seen, held = [], 0.0
    for step in range(1, 8):
        net.move(float(step * step))
        average.update()
        seen.append(float(step * step))
        held = sum(seen) / len(seen) if step <= 4 else 0.75 * held + 0.25 * seen[-1]
        assert average.weights["weight"].tolist() == pytest.approx([held] * 2)
        assert average.weights["mean"].tolist() == pytest.approx([-held] * 3)
        assert int(average.weights["steps"]) == step * step  # whole numbers are not averaged


def test_in_place_of_the_weights_only_within_the_context():
    net = Counting()
    average = Average(net, decay=0.5)
    for to in (2.0, 4.0):
        net.move(to)
        average.update()
    with average.in_place():
        assert (net.weight.tolist(), net.mean.tolist()) == ([3.0] * 2, [-3.0] * 3)
    assert (net.weight.tolist(), net.mean.tolist()) == ([4.0] * 2, [-4.0] * 3)
    with pytest.raises(RuntimeError, match="interrupted"), average.in_place():
        raise RuntimeError("interrupted")
    assert net.weight.tolist() == [4.0] * 2
