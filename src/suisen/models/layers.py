"""Layers that several models share: id tables, the field encoder of the feature models, and the split deep net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suisen.data.batch import Contexts, Features, Field, Schema
from suisen.data.ragged import Ragged
from suisen.models.tables import bag_sums, lookup


def adam(rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Callable[[nn.Module], list[torch.optim.Optimizer]]:
    """What a phase wants for one Adam over all parameters; fused: one pass over each table a step."""
    return lambda module: [torch.optim.Adam(module.parameters(), rate, betas, fused=True)]


class IdEmbedding(nn.Embedding):
    """(n, dim) table whose row 0 (unknown, padding) is zero and stays so."""

    def __init__(self, n: int, dim: int, std: float = 0.01) -> None:
        super().__init__(n, dim, padding_idx=0)
        nn.init.normal_(self.weight, std=std)
        with torch.no_grad():
            self.weight[0] = 0

    def forward(self, input: Tensor) -> Tensor:
        """(…, dim) of (…,) ids."""
        return lookup(self.weight, input)


def pooled(bags: Ragged, table: Tensor) -> Tensor:
    """(B, d): the (weighted) mean of each row's vectors, zero for an empty row; code 0 counts for nothing."""
    known = (bags.values > 0).to(table.dtype)
    weights = known if bags.weights is None else known * bags.weights
    total = bag_sums(table, bags.values, bags.offsets, weights)
    mass = torch.zeros(len(bags), dtype=table.dtype, device=table.device).index_add_(0, bags.rows(), weights)
    return total / torch.where(mass == 0, 1, mass)[:, None]


class FieldVectors(nn.Module):
    """One vector a field: the encoder that all feature models share.

    A categorical field looks its code up (code 0: the zero vector), a numeric one multiplies its vector by the value, a
    multi-valued one takes the mean of its codes' vectors.
    """

    def __init__(self, fields: Sequence[Field], dim: int, std: float = 0.01) -> None:
        super().__init__()
        self.dim, self.count = dim, len(fields)
        sizes = [field.size for field in fields if field.kind == "categorical"]
        starts = torch.tensor([0, *sizes[:-1]] if sizes else [], dtype=torch.int64).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)
        self.categorical = nn.Parameter(torch.randn(sum(sizes), dim) * std)
        self.numeric = nn.Parameter(torch.randn(sum(field.kind == "numeric" for field in fields), dim) * std)
        self.multi = nn.ModuleList(IdEmbedding(field.size, dim, std) for field in fields if field.kind == "multi")

    starts: Tensor

    def forward(self, features: Features) -> Tensor:
        """(n, F, dim) of n rows: categorical fields, then numeric, then multi-valued."""
        codes = features.categorical
        looked = lookup(self.categorical, codes + self.starts, padding=False) * (codes > 0).unsqueeze(-1)
        scaled = features.numeric.unsqueeze(-1) * self.numeric
        tables: Any = self.multi
        bags = [pooled(bag, table.weight).unsqueeze(1) for bag, table in zip(features.multi, tables, strict=True)]
        return torch.cat([looked, scaled, *bags], 1)


class ContextVectors(nn.Module):
    """Vectors of a context's fields: user id, user features, request features, and for each span > 0 the mean vector
    of the last so many items of the history (a table a span).
    """

    def __init__(self, schema: Schema, dim: int, spans: Sequence[int], std: float = 0.01) -> None:
        super().__init__()
        self.spans = [span for span in spans if span]
        self.user = IdEmbedding(schema.n_users, dim, std)
        self.fields = FieldVectors(schema.user, dim, std)
        self.request = FieldVectors(schema.request, dim, std)
        self.history = nn.ModuleList(IdEmbedding(schema.n_items, dim, std) for _ in self.spans)
        self.count = 1 + self.fields.count + self.request.count + len(self.spans)

    def forward(self, contexts: Contexts, drop_ids: float = 0.0) -> Tensor:
        """(B, count, dim).  In training a share ``drop_ids`` of the users is shown as unknown, and, drawn apart, the
        same share without features: who brings a history alone must not be a surprise.
        """
        user, own = contexts.user, self.fields(contexts.user_features)
        if self.training and drop_ids:
            user = drop_some(user, drop_ids)
            own = own * (torch.rand((len(contexts), 1, 1), device=own.device) >= drop_ids)
        parts = [self.user(user).unsqueeze(1), own, self.request(contexts.request)]
        tables: Any = self.history
        for span, table in zip(self.spans, tables, strict=True):
            parts.append(pooled(contexts.history.last(span), table.weight).unsqueeze(1))
        return torch.cat(parts, 1)


class ItemVectors(nn.Module):
    """Vectors of an item's fields: item id and item features."""

    def __init__(self, schema: Schema, dim: int, std: float = 0.01) -> None:
        super().__init__()
        self.item = IdEmbedding(schema.n_items, dim, std)
        self.fields = FieldVectors(schema.item, dim, std)
        self.count = 1 + self.fields.count

    def forward(self, ids: Tensor, features: Features, drop_ids: float = 0.0) -> Tensor:
        """(n, count, dim) of (n,) ids and their features."""
        ids = drop_some(ids, drop_ids) if self.training else ids
        return torch.cat([self.item(ids).unsqueeze(1), self.fields(features)], 1)


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Inverted dropout; 8 bits of a draw decide over an element, so ``share`` counts in steps of 1/256.

    Drawing dominates dropout on a CPU: one 64-bit draw serves eight elements here (half the time in all).
    """
    cut = min(round(share * 256), 255)
    if not training or cut == 0:
        return x
    draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    kept = draws.view(torch.uint8)[: x.numel()].view(x.shape) >= cut
    return x * kept * (256 / (256 - cut))


class Dropout(nn.Module):
    """``dropout`` as a layer."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return dropout(x, self.share, self.training)


def drop_some(ids: Tensor, share: float) -> Tensor:
    """``ids`` with a random share of them set to 0, so that a network learns to do without."""
    return ids if share == 0 else torch.where(torch.rand(ids.shape, device=ids.device) < share, 0, ids)


class SplitMLP(nn.Module):
    """A multi-layer perceptron over [context; item; pair] whose first layer is computed in parts.

    A linear layer of a concatenation is a sum of linear layers, so the context's part is computed once a request and
    the item's once an item; only the sum and the upper layers are left per pair.  Each hidden layer is linear, batch
    norm (optional), ReLU, dropout.  Out of training, batch norm is an affine map, folded into the layer before it.
    """

    def __init__(
        self, inputs: tuple[int, int, int], hidden: Sequence[int], dropout: float = 0.0, batch_norm: bool = False
    ) -> None:
        super().__init__()
        context, item, pair = inputs
        whole = nn.Linear(sum(inputs), hidden[0])  # initialised as one layer of the whole input, then cut
        self.bias = nn.Parameter(whole.bias.detach().clone())
        parts = torch.split(whole.weight.detach(), [context, item, pair], 1)
        self.from_context, self.from_item, self.from_pair = (nn.Parameter(part.clone()) for part in parts)
        self.upper = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in hidden) if batch_norm else None
        self.dropout, self.width, self.out = dropout, hidden[0], hidden[-1]

    def context(self, x: Tensor) -> Tensor:
        """(B, width) of (B, context)."""
        out = F.linear(x, self.from_context, self.bias)
        folded = self._fold(0)
        return out if folded is None else out * folded[0] + folded[1]

    def item(self, x: Tensor) -> Tensor:
        """(n, width) of (n, item)."""
        out = F.linear(x, self.from_item)
        folded = self._fold(0)
        return out if folded is None else out * folded[0]

    def forward(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C, out): the last hidden layer, from (B, width), (B or 1, C, width) and (B, C, pair)."""
        x = context.unsqueeze(1) + item
        if pair is not None and self.from_pair.shape[1]:
            folded = self._fold(0)
            x = x + F.linear(pair, self.from_pair if folded is None else self.from_pair * folded[0][:, None])
        real = None if weights is None or not self.training or self.norms is None else weights > 0
        if real is None or bool(real.all()):
            return self._layers(x.flatten(0, 1)).reshape(*x.shape[:2], self.out)
        out = x.new_zeros((*x.shape[:2], self.out))
        out[real] = self._layers(x[real]).to(out.dtype)
        return out

    def _layers(self, x: Tensor) -> Tensor:
        x = self._activate(x, 0)
        layer: Any
        for depth, layer in enumerate(self.upper, start=1):
            folded = self._fold(depth)
            if folded is None:
                x = layer(x)
            else:
                x = F.linear(x, layer.weight * folded[0][:, None], layer.bias * folded[0] + folded[1])
            x = self._activate(x, depth)
        return x

    def _activate(self, x: Tensor, depth: int) -> Tensor:
        if self.training and self.norms is not None:
            x = self.norms[depth](x)
        return dropout(F.relu(x), self.dropout, self.training)

    def _fold(self, depth: int) -> tuple[Tensor, Tensor] | None:
        """Scale and shift of the batch norm behind a layer, out of training; None: there is nothing to fold."""
        if self.training or self.norms is None:
            return None
        norm: Any = self.norms[depth]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        return scale, norm.bias - norm.running_mean * scale


def perceptron(width: int, hidden: Sequence[int], dropout: float = 0.0) -> nn.Sequential:
    """Linear, ReLU, dropout for each hidden width; the last layer is linear alone."""
    layers: list[nn.Module] = []
    for i, size in enumerate(hidden):
        layers.append(nn.Linear(width, size))
        if i < len(hidden) - 1:
            layers += [nn.ReLU(), Dropout(dropout)]
        width = size
    return nn.Sequential(*layers)
