"""The form of a ranker: its ``combine`` as arrays, which compiled kernels run without torch.

Of pair features p (one number each), a context's row [u, α, c] and an item's row [v, β, i]:

    score = u · v + Σ_j p_j (α_j + β_j) + Σ_{j≤l} γ_jl p_j p_l + out · x_n,
    x_1 = relu(c + i + P p), x_l = relu(W_l x_{l−1} + b_l).

An inner product of sides is what factorisation machines leave per pair, the last term what a split deep net leaves (see
``SplitMLP``); batch norm is folded into the layers, and constants into u · v.  A ranker without a deep net has no c, i
and layers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.models.layers import SplitMLP

Layer = tuple[Tensor, Tensor]
"""Weight (h_out, h_in) and bias (h_out,)."""


@dataclass(frozen=True, eq=False)
class Form:
    """How a ranker scores pairs, as it stands: made from a network in eval mode, and out of date when that learns."""

    inner: int
    """Numbers in u and in v."""
    context: Callable[[Tensor], Tensor]
    """(B, inner + p + h₁) rows [u, α, c] of (B, t) context states."""
    item: Callable[[Tensor], Tensor]
    """(n, inner + p + h₁) rows [v, β, i] of (n, s) item states."""
    gamma: Tensor
    """(p, p): what each two pair features meet with, 0 below the diagonal."""
    from_pair: Tensor
    """P, (h₁, p)."""
    layers: tuple[Layer, ...]
    """W_2 and b_2 to W_n and b_n."""
    out: Tensor
    """(h_n,)."""
    exact: bool = True
    """Whether its scores are the ranker's; False: near them, so that a list's best are among the form's best."""

    @classmethod
    def shallow(
        cls,
        inner: int,
        context: Callable[[Tensor], Tensor],
        item: Callable[[Tensor], Tensor],
        gamma: Tensor,
        exact: bool = True,
    ) -> "Form":
        """The form of a ranker without a deep net."""
        nothing = gamma.new_zeros((0, len(gamma)))
        return cls(inner, context, item, gamma.detach(), nothing, (), gamma.new_zeros(0), exact)

    def beside(self, net: SplitMLP, out: Tensor) -> "Form":
        """The form with a deep net's part added, read out by ``out`` (h_n,).

        The rows must already end with the sides' parts of the net's first layer.
        """
        from_pair, layers = net.folded()
        return replace(self, from_pair=from_pair, layers=layers, out=out.detach())

    @torch.no_grad()
    def score(self, context: Tensor, item: Tensor, pair: Tensor | None) -> Tensor:
        """(B, C) scores of (B, r) context rows, (B or 1, C, r) item rows and (B, C, p) pair features, None for zeros.

        The definition, on torch: what the kernels are held to.
        """
        p = len(self.gamma)
        u, alpha, c = torch.split(context.unsqueeze(1), [self.inner, p, len(self.from_pair)], -1)
        v, beta, i = torch.split(item, [self.inner, p, len(self.from_pair)], -1)
        pair = u.new_zeros((*(c + i).shape[:2], p)) if pair is None else pair
        score = (u * v).sum(-1) + (pair * (alpha + beta + pair @ self.gamma.T)).sum(-1)
        x = F.relu(c + i + F.linear(pair, self.from_pair))
        for weight, bias in self.layers:
            x = F.relu(F.linear(x, weight, bias))
        return score + x @ self.out


def additive(bias: Tensor, pair: Tensor, own: int) -> Form:
    """The form of a ranker whose sides only add up: bias + their own terms, (own,) of 0 or 1 numbers, + pair · p.

    What a state holds behind its own term goes into the row as it is.
    """

    def context(state: Tensor) -> Tensor:
        ones = state.new_ones((len(state), 1))
        return torch.cat([state[:, :own], ones, pair.expand(len(state), -1), state[:, own:]], 1)

    def item(state: Tensor) -> Tensor:
        ones = state.new_ones((len(state), own))
        mine = state[:, :own].sum(1, keepdim=True) + bias
        return torch.cat([ones, mine, state.new_zeros((len(state), len(pair))), state[:, own:]], 1)

    return Form.shallow(own + 1, context, item, pair.new_zeros((len(pair), len(pair))))
