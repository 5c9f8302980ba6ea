"""SASRec: causal self-attention over a visitor's items (Kang & McAuley, 2018), trained with the full softmax.

x = √d · E[items] + P[positions];  each block: x + attention(norm(x)), then x + feed-forward(norm(x));  score(u, i) =
last state · E[i].  Positions are counted from the end (the newest item always has the last one), so that padding on the
right needs no mask beyond the causal one and equals the paper's padding on the left.
Cost a sequence of L: blocks · (8 L d² + 2 L² d) multiply-adds, and L · n_items · d for the softmax, which dominates.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.ragged import Ragged
from suisen.data.views import Sequences, View
from suisen.models.contract import Ability, Phase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding, adam, dropout
from suisen.models.losses import full_softmax
from suisen.parameters import Search


@hyper_parameters
class SASRec:
    """A transformer that reads the history and points at the next item."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(32, 64, 128))] = 64
    """Length of an item vector and of the states."""
    blocks: Annotated[int, Field(ge=1, le=48), Search(1, 3)] = 2
    """Transformer blocks."""
    heads: Annotated[int, Field(ge=1)] = 1
    """Attention heads; must divide ``dim``."""
    length: Annotated[int, Field(ge=1, le=4096), Search(choices=(50, 100, 200))] = 200
    """Most items of history that are read."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0, 0.5)] = 0.1
    """In the embeddings, the attention and the feed-forward layers."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(3e-4, 3e-3, log=True)] = 1e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Sequences in a batch."""
    batch_by_length: bool = True
    """Batches hold sequences of like length, so that little is computed on padding."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Most passes over the sequences."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} must divide dim = {self.dim}")
        return self

    @property
    def view(self) -> View:
        """Whole histories of at most ``length`` inputs and their next items."""
        return Sequences(self.length + 1, self.batch_size, by_length=self.batch_by_length)

    def build(self, schema: Schema) -> SASRecNet:
        """Item and position tables and the blocks."""
        return SASRecNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam (β₂ = 0.98, as in the paper's code)."""
        return [Phase(net, adam(self.learning_rate, (0.9, 0.98)), self.epochs)]


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each with a residual."""

    def __init__(self, model: SASRec) -> None:
        super().__init__()
        dim = model.dim
        self.heads, self.dropout = model.heads, model.dropout
        self.norm_attention, self.norm_forward = nn.LayerNorm(dim, eps=1e-8), nn.LayerNorm(dim, eps=1e-8)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.first, self.second = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) → (B, L, d); position t sees positions ≤ t."""
        rows, length, dim = x.shape
        q, k, v = self.qkv(self.norm_attention(x)).view(rows, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = self._attend(q, k, v)
        x = x + dropout(self.out(seen.transpose(1, 2).reshape(rows, length, dim)), self.dropout, self.training)
        inner = dropout(F.relu(self.first(self.norm_forward(x))), self.dropout, self.training)
        return x + dropout(self.second(inner), self.dropout, self.training)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, L, d): causal attention.  With dropout torch has no fused kernel for a CPU either, and draws its
        masks more slowly than we do.
        """
        if not self.training or self.dropout == 0 or q.device.type != "cpu":
            drop = self.dropout if self.training else 0.0
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=drop)
        future = q.new_full((q.shape[2], q.shape[2]), -torch.inf).triu(1)
        weights = ((q * q.shape[3] ** -0.5) @ k.mT + future).softmax(3)
        return dropout(weights, self.dropout, True) @ v


class SASRecNet(Retriever):
    """Tied item embeddings: the table that is read is the table that is scored."""

    def __init__(self, model: SASRec, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.item = IdEmbedding(schema.n_items, model.dim, 0.02)
        self.position = nn.Embedding(model.length, model.dim)
        nn.init.normal_(self.position.weight, std=0.02)
        self.blocks = nn.ModuleList(Block(model) for _ in range(model.blocks))
        self.norm = nn.LayerNorm(model.dim, eps=1e-8)

    def states(self, items: Ragged) -> Tensor:
        """(B, L, d) states of rows of at most ``length`` items, padded on the right; padding's states mean nothing."""
        ids = items.padded()
        width = ids.shape[1]
        steps = torch.arange(width, device=ids.device) + (self.model.length - items.lengths[:, None])
        x = self.item(ids) * self.model.dim**0.5 + self.position(steps.clamp(max=self.model.length - 1))
        x = dropout(x, self.model.dropout, self.training)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def forward(self, batch: Batch) -> Tensor:
        """Every position predicts the next item, against the whole catalogue."""
        sequences = batch.contexts.history
        inputs = sequences.drop_last()
        states = self.states(inputs)
        real = inputs.mask(states.shape[1])
        first = torch.zeros_like(sequences.values, dtype=torch.bool)
        first[sequences.offsets[:-1]] = True
        return full_softmax(states[real], self.item.weight, sequences.values[~first])

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d): the state of the newest item; zero for an empty history."""
        items = contexts.history.last(self.model.length)
        if not items.values.numel():
            return self.item.weight.new_zeros((len(items), self.model.dim))
        at = items.lengths - 1
        newest = self.states(items)[torch.arange(len(items), device=at.device), at.clamp(min=0)]
        return torch.where(at[:, None] >= 0, newest, 0)

    def item_vectors(self) -> Tensor:
        """(n_items, d)."""
        return self.item.weight
