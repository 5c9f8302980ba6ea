"""The transformer of SASRec and BERT4Rec: positions counted from the end, pre-norm blocks, a last norm.

Source: attention and feed-forward layer, Vaswani et al. 2017, sections 3.2 and 3.3; blocks, Kang & McAuley 2018,
section III.  With x (B, L, d) and norm = layer norm:

    x ← x + P[positions];  in each block x ← x + attention(norm(x)), then x ← x + feed-forward(norm(x));  out = norm(x)

The published code of SASRec differs from its paper, and learns faster (``Shape.published``): with n = norm(x) it is
n + attention, queries made of n but keys and values of x; and n' + feed-forward(n') with n' = norm of that.

Positions are counted from the end: the newest item always has the last one.  So padding on the right equals the papers'
padding on the left, and causal blocks need no mask for it: padding lies in the future.  Blocks that look both ways mask
it.

Cost per sequence of L: blocks · ((8 + 4 f) L d² + 4 L² d) multiply-adds forward, f · d the width of the feed-forward
layer; half of the L² where causal.  In training on a CPU the attention weights are held: 4 L² bytes per sequence, head
and block.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suisen.models.layers import dropout


@dataclass(frozen=True)
class Shape:
    """Sizes and variants of a transformer."""

    dim: int
    """d, the length of a state."""
    blocks: int
    heads: int
    length: int
    """Number of positions: the longest sequence."""
    dropout: float
    """Share dropped of the embeddings, the attention weights, and the outputs and inner layer of each block."""
    inner: int
    """Width of the feed-forward layer."""
    activation: Literal["relu", "gelu"] = "relu"
    causal: bool = True
    """Whether a position sees only itself and what came before."""
    published: bool = False
    """Blocks as in SASRec's published code; their initial weights are N(0, ``std``²), their biases 0."""
    std: float = 0.02
    """Standard deviation of the initial weights of positions."""


class Block(nn.Module):
    """Attention and a feed-forward layer, each with a norm in front of it and a residual around it."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        dim = shape.dim
        self.heads = shape.heads
        self.dropout = shape.dropout
        self.causal = shape.causal
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
        seen = self._attend(*self._projected(normed, x if self.published else normed), keys)  # (B, heads, L, d / heads)
        seen = seen.transpose(1, 2).reshape(x.shape)  # (B, L, d)
        base = normed if self.published else x
        x = base + dropout(self.out(seen), self.dropout, self.training)
        normed = self.norm_forward(x)
        base = normed if self.published else x
        inner = dropout(self.activation(self.first(normed)), self.dropout, self.training)  # (B, L, inner)
        return base + dropout(self.second(inner), self.dropout, self.training)

    def _projected(self, of_queries: Tensor, of_keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries made of one, keys and values of the other, (B, L, d) both: (B, heads, L, d / heads) each."""
        rows, length, dim = of_queries.shape
        if of_queries is of_keys:
            parts = self.qkv(of_queries)  # (B, L, 3 d): one product for the three
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            queries = F.linear(of_queries, weight[:dim], bias[:dim])  # (B, L, d)
            keys_and_values = F.linear(of_keys, weight[dim:], bias[dim:])  # (B, L, 2 d)
            parts = torch.cat([queries, keys_and_values], 2)
        q, k, v = parts.view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, keys: Tensor | None) -> Tensor:
        """(B, heads, L, d / heads): softmax(q kᵀ / √(d / heads)) v."""
        if not self.training or self.dropout == 0 or q.device.type != "cpu":
            drop = self.dropout if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, attn_mask=keys, is_causal=self.causal, dropout_p=drop)
        # With dropout torch has no fused kernel for a CPU either, and its masks are drawn more slowly than ours.
        if keys is None:
            hidden = q.new_full((q.shape[2], q.shape[2]), -torch.inf).triu(1)  # (L, L): −inf in the future
        else:
            hidden = q.new_zeros(keys.shape).masked_fill(~keys, -torch.inf)  # (B, 1, 1, L): −inf where padding
        weights = ((q * q.shape[3] ** -0.5) @ k.mT + hidden).softmax(3)  # (B, heads, L, L)
        return dropout(weights, self.dropout, True) @ v


class Transformer(nn.Module):
    """Positions, blocks and the last norm; the caller looks up the items' vectors."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.position = nn.Embedding(shape.length, shape.dim)
        nn.init.normal_(self.position.weight, std=shape.std)
        self.blocks: Any = nn.ModuleList(Block(shape) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(shape.dim, eps=1e-8)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """(B, L, d) states of B rows of vectors ``x`` (B, L, d), padded on the right behind their (B,) ``lengths``.

        States of padding mean nothing.  A row of length 0 has finite states: its first place counts as real.
        """
        width = x.shape[1]
        at = torch.arange(width, device=x.device)
        places = at + (self.shape.length - lengths[:, None])  # (B, L): a row's last item stands at length − 1
        x = x + self.position(places.clamp(max=self.shape.length - 1))
        x = dropout(x, self.shape.dropout, self.training)
        keys = None if self.shape.causal else (at < lengths.clamp(min=1)[:, None])[:, None, None]
        for block in self.blocks:
            x = block(x, keys)
        return self.norm(x)
