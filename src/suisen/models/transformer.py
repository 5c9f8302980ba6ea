"""The transformer that SASRec and BERT4Rec share: positions counted from the end, pre-norm blocks, a last norm.

Attention and feed-forward layer: Vaswani et al. 2017, sections 3.2 and 3.3; blocks: Kang & McAuley 2018, section III.
x = x + P[positions];  each block: x + attention(norm(x)), then x + feed-forward(norm(x));  last: norm(x).
The published code of SASRec does otherwise than its paper, and learns faster (``Shape.published``): n = norm(x), then
n + attention with queries of n but keys and values of x; the feed-forward layer's residual starts from its norm, too.
Positions are counted from the end (the newest item always has the last one), so that padding on the right equals the
papers' padding on the left.  Causal blocks need no mask for it: what pads lies in the future.  Blocks that look both
ways mask it.
Cost a sequence of L: blocks · ((8 + 4 f) L d² + 4 L² d) multiply-adds with a feed-forward layer of f · d, forward; half
of the L² where causal.  In training on a CPU the attention weights are held, 4 L² bytes a sequence, head and block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suisen.models.layers import dropout


@dataclass(frozen=True)
class Shape:
    """Sizes and kinds of a transformer."""

    dim: int
    blocks: int
    heads: int
    length: int
    """Positions there are."""
    dropout: float
    inner: int
    """Width of the feed-forward layer."""
    activation: Literal["relu", "gelu"] = "relu"
    causal: bool = True
    """Whether a position sees only itself and what came before."""
    published: bool = False
    """Blocks as in SASRec's published code; their first weights are N(0, ``std``²), their biases 0."""
    std: float = 0.02
    """Standard deviation of the first weights of positions."""


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        dim = shape.dim
        self.heads, self.dropout, self.causal = shape.heads, shape.dropout, shape.causal
        self.published = shape.published
        self.activation = F.relu if shape.activation == "relu" else F.gelu
        self.norm_attention, self.norm_forward = nn.LayerNorm(dim, eps=1e-8), nn.LayerNorm(dim, eps=1e-8)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.first, self.second = nn.Linear(dim, shape.inner), nn.Linear(shape.inner, dim)
        if shape.published:
            for layer in (self.qkv, self.out, self.first, self.second):
                nn.init.normal_(layer.weight, std=shape.std)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        """(B, L, d) → (B, L, d).  ``keys`` (B, 1, 1, L) bool: which positions may be looked at; None where causal."""
        normed = self.norm_attention(x)
        seen = self._attend(*self._projected(normed, x if self.published else normed), keys)
        base = normed if self.published else x
        x = base + dropout(self.out(seen.transpose(1, 2).reshape(x.shape)), self.dropout, self.training)
        normed = self.norm_forward(x)
        inner = dropout(self.activation(self.first(normed)), self.dropout, self.training)
        return (normed if self.published else x) + dropout(self.second(inner), self.dropout, self.training)

    def _projected(self, asking: Tensor, asked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of one, keys and values of the other (B, L, d): (B, heads, L, d / heads) each."""
        rows, length, dim = asking.shape
        if asking is asked:
            parts = self.qkv(asking)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            mine, others = F.linear(asking, weight[:dim], bias[:dim]), F.linear(asked, weight[dim:], bias[dim:])
            parts = torch.cat([mine, others], 2)
        q, k, v = parts.view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None) -> Tensor:
        """(B, heads, L, d).  With dropout torch has no fused kernel for a CPU either, and draws its masks more slowly
        than we do.
        """
        if not self.training or self.dropout == 0 or q.device.type != "cpu":
            drop = self.dropout if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, is_causal=self.causal, dropout_p=drop)
        if keys is None:
            hidden = q.new_full((q.shape[2], q.shape[2]), -torch.inf).triu(1)
        else:
            hidden = q.new_zeros(keys.shape).masked_fill(~keys, -torch.inf)
        weights = ((q * q.shape[3] ** -0.5) @ k.mT + hidden).softmax(3)
        return dropout(weights, self.dropout, True) @ v


class Transformer(nn.Module):
    """Positions, blocks and the last norm, over vectors that somebody else has looked up."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.position = nn.Embedding(shape.length, shape.dim)
        nn.init.normal_(self.position.weight, std=shape.std)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.dim, eps=1e-8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, d) states of (B, L, d) vectors padded on the right behind (B,) lengths; padding's states mean nothing.

        A row of length 0 has finite states: its first place counts as real.
        """
        width = x.shape[1]
        at = torch.arange(width, device=x.device)
        places = at + (self.shape.length - lengths[:, None])
        x = x + self.position(places.clamp(max=self.shape.length - 1))
        x = dropout(x, self.shape.dropout, self.training)
        keys = None if self.shape.causal else (at < lengths.clamp(min=1)[:, None])[:, None, None]
        block: Any
        for block in self.blocks:
            x = block(x, keys)
        out: Tensor = self.norm(x)
        return out
