"""Layers that several models share: id tables, the field encoder of the feature models, and the split deep net."""

from collections.abc import Callable, Iterable, Sequence
from functools import singledispatch
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suisen.data.batch import Contexts, Features, Field, Schema
from suisen.data.ragged import Ragged
from suisen.models.tables import bag_sums, lookup

FLOATS_PER_CHUNK = 2**17
"""Floats of a temporary on a CPU: half a megabyte, which stays in a core's second-level cache."""
threshold_backward: Any = torch.ops.aten.threshold_backward


def adam(rate: float, betas: tuple[float, float] = (0.9, 0.999)) -> Callable[[nn.Module], list[torch.optim.Optimizer]]:
    """Makes one Adam over all parameters of a module, as ``Phase.optimisers`` is called.

    Fused: a step passes over each table once (weights, gradients and both moments together), not once per operation.
    """
    return lambda module: [torch.optim.Adam(module.parameters(), rate, betas, fused=True)]


def retrieval_prior(schema: Schema) -> Tensor:
    """(p,) first weights of the pair features: 1 for ``retrieval_score``, 0 for the others, so that an untrained second
    stage keeps the order of the first and training only has to improve it.
    """
    return torch.tensor([float(name == "retrieval_score") for name in schema.pair])


class IdEmbedding(nn.Embedding):
    """Table of (n, dim) vectors looked up by id; row 0 (unknown, padding) is zero and gets no gradient."""

    def __init__(self, n: int, dim: int, std: float = 0.01) -> None:
        super().__init__(n, dim, padding_idx=0)
        nn.init.normal_(self.weight, std=std)
        with torch.no_grad():
            self.weight[0] = 0

    def forward(self, input: Tensor) -> Tensor:
        """(…, dim) of (…,) ids."""
        return lookup(self.weight, input)


def shares(bags: Ragged, dtype: torch.dtype = torch.float32) -> Tensor:
    """(values,): each value's part of its row's weight, so that a row sums to 1; code 0 counts for nothing."""
    known = (bags.values > 0).to(dtype)
    weights = known if bags.weights is None else known * bags.weights
    mass = torch.zeros(len(bags), dtype=dtype, device=weights.device).index_add_(0, bags.rows(), weights)
    return weights / bags.beside(torch.where(mass == 0, 1, mass))


@singledispatch
def pooled(bags: Ragged, table: Tensor) -> Tensor:
    """(B, d): the (weighted) mean of each row's vectors, zero for an empty row; code 0 counts for nothing."""
    return bag_sums(table, bags.values, bags.offsets, shares(bags, table.dtype))


@singledispatch
def inside_pairs(bags: Ragged, table: Tensor, mean: Tensor) -> Tensor:
    """(B,): Σ_{i<j} x_i x_j (v_i · v_j) over the different codes of each row, x_i the code's share of the row's weight.

    ``table`` (n, k) holds v, ``mean`` (B, k) is Σ x_i v_i.  A code that stands in a row twice is one coordinate of x
    with both shares, so rows are sorted first (14 ns per value); then it is ½(|Σ x_i v_i|² − Σ x_i² |v_i|²).
    """
    keys, where = torch.unique(bags.keys(len(table)), return_inverse=True)
    x = torch.zeros(len(keys), dtype=table.dtype, device=table.device)
    x.index_add_(0, where, shares(bags, table.dtype))
    norms = table.square().sum(1).index_select(0, keys % len(table))
    rows = torch.div(keys, len(table), rounding_mode="floor")
    squares = torch.zeros(len(bags), dtype=norms.dtype, device=table.device).index_add(0, rows, x.square() * norms)
    return 0.5 * (mean.square().sum(1) - squares)


class _SquareNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *tables: Tensor) -> Tensor:
        ctx.save_for_backward(*tables)
        return torch.stack([flat.dot(flat) for flat in map(torch.flatten, tables)]).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(table * (2 * grads[0]) for table in ctx.saved_tensors)


def square_norm(tables: Iterable[Tensor]) -> Tensor:
    """Scalar: the sum of the squares of every table.  One reading pass forward and one writing pass backward, where a
    square and its sum would write a copy of each table and read it three times.
    """
    return _SquareNorm.apply(*tables)  # type: ignore[no-untyped-call]


OwnColumns = Callable[[int], slice]
"""Given a field's place among its side's fields: the columns of its table that hold the vectors for pairs of codes of
this same field (two tags of one item, two items of one history).  An FM has one vector for all pairs; an FFM has one
per field that it meets, its own among them."""


class FieldVectors(nn.Module):
    """Encodes features as one vector per field; all feature models share it.

    A categorical field looks its code up (code 0: the zero vector), a numeric one multiplies its vector by the value, a
    multi-valued one takes the (weighted) mean of its codes' vectors.  So a field's vector is Σ x_i v_i over its part of
    the expanded vector x: 1 at the code, the number, or the shares of the codes in the weights' sum.
    """

    def __init__(self, fields: Sequence[Field], dim: int, std: float = 0.01) -> None:
        super().__init__()
        self.dim, self.count = dim, len(fields)
        sizes = [field.size for field in fields if field.kind == "categorical"]
        starts = torch.tensor([0, *sizes[:-1]] if sizes else [], dtype=torch.int64).cumsum(0)
        self.register_buffer("starts", starts, persistent=False)
        self.categorical = nn.Parameter(torch.randn(sum(sizes), dim) * std)
        self.numeric = nn.Parameter(torch.randn(sum(field.kind == "numeric" for field in fields), dim) * std)
        self.multi: Any = nn.ModuleList(IdEmbedding(field.size, dim, std) for field in fields if field.kind == "multi")
        self.bags = tuple(range(self.count - len(self.multi), self.count))
        """Places of the multi-valued fields."""

    starts: Tensor

    def forward(self, features: Features) -> Tensor:
        """(n, F, dim) of n rows: categorical fields, then numeric, then multi-valued."""
        codes = features.categorical
        # one table holds all categorical fields, one behind the other; ``starts`` says where each begins
        looked = lookup(self.categorical, codes + self.starts, padding=False) * (codes > 0).unsqueeze(-1)  # (n, C, dim)
        scaled = features.numeric.unsqueeze(-1) * self.numeric  # (n, N, 1) · (N, dim) -> (n, N, dim)
        bags = [pooled(bag, table.weight).unsqueeze(1) for bag, table in zip(features.multi, self.multi, strict=True)]
        return torch.cat([looked, scaled, *bags], 1)

    def inside(self, features: Features, fields: Tensor, own: OwnColumns) -> list[Tensor]:
        """For each multi-valued field the (n,) pairs inside it (``inside_pairs``); ``fields`` is what forward gave."""
        bags = zip(self.bags, features.multi, self.multi, strict=True)
        return [inside_pairs(bag, table.weight[:, own(at)], fields[:, at, own(at)]) for at, bag, table in bags]


class ContextVectors(nn.Module):
    """Vectors of a context's fields: user id, user features, context features, and the history once per span.

    A span is how many of the newest items are read; their vectors' mean is the field's.  Each span > 0 has a table of
    its own, so that the last three items may mean something else than the last fifty.
    """

    def __init__(self, schema: Schema, dim: int, spans: Sequence[int], std: float = 0.01) -> None:
        super().__init__()
        self.spans = [span for span in spans if span]
        self.user = IdEmbedding(schema.n_users, dim, std)
        self.fields = FieldVectors(schema.user, dim, std)
        self.request = FieldVectors(schema.context, dim, std)
        self.history: Any = nn.ModuleList(IdEmbedding(schema.n_items, dim, std) for _ in self.spans)
        self.count = 1 + self.fields.count + self.request.count + len(self.spans)

    def forward(self, contexts: Contexts, drop_ids: float = 0.0) -> Tensor:
        """(B, count, dim).  In training a share ``drop_ids`` of the users is shown as unknown, and, drawn apart, the
        same share without features: the network must learn to answer a guest of whom it knows the history alone.
        """
        return self._encode(contexts, drop_ids, None)[0]

    def with_inside(self, contexts: Contexts, drop_ids: float, own: OwnColumns) -> tuple[Tensor, Tensor | None]:
        """What ``forward`` gives, and (B,) the sum of the pairs inside multi-valued fields, histories among them; None
        where there is no such field.  ``own`` counts places over all fields of the context.
        """
        fields, inside = self._encode(contexts, drop_ids, own)
        return fields, _total(inside)

    def _encode(self, contexts: Contexts, drop_ids: float, own: OwnColumns | None) -> tuple[Tensor, list[Tensor]]:
        user, features = contexts.user, self.fields(contexts.user_features)
        of_moment = self.request(contexts.context_features)  # (B, fields, dim)
        first = 1 + self.fields.count
        inside: list[Tensor] = []
        if own is not None:
            inside = self.fields.inside(contexts.user_features, features, lambda place: own(1 + place))
        if self.training and drop_ids:
            user = drop_some(user, drop_ids)
            shown = torch.rand((len(contexts), 1, 1), device=features.device) >= drop_ids
            features, inside = features * shown, [part * shown[:, 0, 0] for part in inside]
        parts = [self.user(user).unsqueeze(1), features, of_moment]
        if own is not None:
            inside += self.request.inside(contexts.context_features, of_moment, lambda place: own(first + place))
        for place, (span, table) in enumerate(zip(self.spans, self.history, strict=True), self.count - len(self.spans)):
            past = contexts.history.last(span)
            mean = pooled(past, table.weight)  # (B, dim)
            parts.append(mean.unsqueeze(1))
            if own is not None and span > 1:  # one item is no pair
                inside.append(inside_pairs(past, table.weight[:, own(place)], mean[:, own(place)]))
        return torch.cat(parts, 1), inside


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

    def with_inside(
        self, ids: Tensor, features: Features, drop_ids: float, own: OwnColumns
    ) -> tuple[Tensor, Tensor | None]:
        """What ``forward`` gives, and (n,) the sum of the pairs inside multi-valued fields; None where there is no such
        field.  ``own`` counts places over all fields of the item.
        """
        fields = self(ids, features, drop_ids)
        return fields, _total(self.fields.inside(features, fields[:, 1:], lambda place: own(1 + place)))


def _total(parts: list[Tensor]) -> Tensor | None:
    return torch.stack(parts).sum(0) if parts else None


def inner(context: Tensor, item: Tensor) -> Tensor:
    """(B, C): inner products of contexts (B, d) with items (B or 1, C, d).

    Items of shape (1, C, d) are the same for every context, and all products are one matrix product.
    """
    alike = not torch.compiler.is_exporting() and len(item) == 1  # an exported graph takes any B
    return context @ item[0].T if alike else (context.unsqueeze(1) * item).sum(-1)


def _draws(x: Tensor) -> Tensor:
    """uint8, in the shape of ``x``: one 64-bit draw serves eight elements (drawing dominates dropout on a CPU)."""
    draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64, device=x.device).random_(-(2**63), None)
    return draws.view(torch.uint8)[: x.numel()].view(x.shape)


def _kept(draws: Tensor, cut: int, dtype: torch.dtype) -> Tensor:
    """1 where a draw is at least ``cut``, else 0, as floats: a product with bools costs six times as much on a CPU."""
    return draws.to(dtype).ge_(cut)


def _cut(share: float) -> int:
    return min(round(share * 256), 255)


class _DropoutFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cut: int) -> Tensor:
        draws = _draws(x)
        ctx.save_for_backward(draws)  # a byte an element
        ctx.cut = cut
        return _kept(draws, cut, x.dtype).mul_(x).mul_(256 / (256 - cut))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (draws,) = ctx.saved_tensors
        return _kept(draws, ctx.cut, grads[0].dtype).mul_(grads[0]).mul_(256 / (256 - ctx.cut)), None


def dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """Inverted dropout; 8 bits of a draw decide over an element, so ``share`` counts in steps of 1/256."""
    cut = _cut(share)
    if not training or cut == 0:
        return x
    return _DropoutFunction.apply(x, cut)  # type: ignore[no-untyped-call]


class Dropout(nn.Module):
    """``dropout`` as a module, for ``nn.Sequential``."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """Of any shape."""
        return dropout(x, self.share, self.training)


def drop_some(ids: Tensor, share: float) -> Tensor:
    """``ids`` with a random share of them set to 0 (unknown), so that a network learns to answer without them."""
    return ids if share == 0 else torch.where(torch.rand(ids.shape, device=ids.device) < share, 0, ids)


def chunks_in_cache(x: Tensor) -> list[slice]:
    """Slices of rows whose temporaries stay in a core's cache.

    A whole batch's temporaries cost more in fresh memory pages than in arithmetic: backward through batch norm of
    4,096 × 400 floats takes 20 ms whole and 2.5 ms in chunks.
    """
    width = max(1, x.numel() // max(1, len(x)))
    step = max(1, FLOATS_PER_CHUNK // width) if x.device.type == "cpu" else max(1, len(x))
    return [slice(start, start + step) for start in range(0, len(x), step)]


class _NormReluDropout(torch.autograd.Function):
    """Batch norm, ReLU and dropout in one: the output's zeros tell the backward pass what ReLU and dropout took, and
    dropout's factor rides on batch norm's weight and bias.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, weight: Tensor, bias: Tensor, norm: nn.BatchNorm1d, cut: int) -> Tensor:
        factor = 256 / (256 - cut)
        out, mean, inverse = torch.native_batch_norm(
            z, weight * factor, bias * factor, norm.running_mean, norm.running_var, True, norm.momentum or 0.0, norm.eps
        )
        _rectify(out, cut)
        ctx.save_for_backward(z, out, weight, mean, inverse)
        ctx.factor = factor
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        z, out, weight, mean, inverse = ctx.saved_tensors
        of_z = torch.empty_like(z)
        of_weight, of_bias = torch.zeros_like(mean), torch.zeros_like(mean)
        for chunk in chunks_in_cache(z):
            passed = of_z[chunk]  # gradient behind ReLU and dropout: 0 where the output is 0
            threshold_backward.grad_input(grads[0][chunk], out[chunk], 0, grad_input=passed)
            of_bias += passed.sum(0, dtype=mean.dtype)
            of_weight += (z[chunk] - mean).mul_(passed).sum(0, dtype=mean.dtype)
        of_weight *= inverse
        # Ioffe & Szegedy 2015: dL/dz = γ/σ · (dL/dy − mean(dL/dy) − ẑ · mean(ẑ · dL/dy)); linear in z, as below
        scale = weight * inverse * ctx.factor
        slope = -scale * inverse * of_weight / len(z)
        level = -scale * of_bias / len(z) - slope * mean
        for chunk in chunks_in_cache(z):
            of_z[chunk].mul_(scale).add_((z[chunk] * slope).add_(level))
        return of_z, of_weight * ctx.factor, of_bias * ctx.factor, None, None


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, cut: int) -> Tensor:
        out = _rectify(z.clone(), cut)
        ctx.factor = 256 / (256 - cut)
        if cut:
            out.mul_(ctx.factor)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return threshold_backward(grads[0], ctx.saved_tensors[0], 0).mul_(ctx.factor), None


def _rectify(x: Tensor, cut: int) -> Tensor:
    """ReLU and a dropout mask, in place."""
    if not cut:
        return x.relu_()
    draws = _draws(x)
    for chunk in chunks_in_cache(x):
        x[chunk].relu_().mul_(_kept(draws[chunk], cut, x.dtype))
    return x


def activated(z: Tensor, norm: nn.BatchNorm1d | None, share: float) -> Tensor:
    """(n, w): what training does behind a linear layer: batch norm (where there is one), ReLU, inverted dropout.

    Fewer than two rows have no spread: they are normalised by the running statistics and leave those as they are.
    4,096 × 400 on a core: 2.3 ms forward and 2.5 backward (the three layers one by one: 9 and 21 ms).
    """
    cut = _cut(share)
    if norm is None:
        return _ReluDropout.apply(z, cut)  # type: ignore[no-untyped-call]
    if len(z) < 2:
        still = F.batch_norm(z, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return dropout(F.relu(still), share, training=True)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _NormReluDropout.apply(z, norm.weight, norm.bias, norm, cut)  # type: ignore[no-untyped-call]


class SplitMLP(nn.Module):
    """A multi-layer perceptron over [context; item; pair] whose first layer is computed in parts.

    A linear layer of a concatenation is a sum of linear layers: W [c; i; p] = W_c c + W_i i + W_p p.  So the context's
    part is computed once per context and the item's once per item; only the sum and the upper layers are left per pair.
    Each hidden layer is linear, batch norm (optional), ReLU, dropout.  Out of training, batch norm is an affine map,
    folded into the layer before it.

    Arguments: ``inputs`` widths of context, item and pair; ``hidden`` widths of the layers, the last one the output.
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
        self.upper: Any = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for width in hidden) if batch_norm else None
        self.dropout = dropout
        self.width, self.out = hidden[0], hidden[-1]

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
        x = context.unsqueeze(1) + item  # (B, 1, width) + (B or 1, C, width) -> (B, C, width)
        if pair is not None and self.from_pair.shape[1]:
            folded = self._fold(0)
            x = x + F.linear(pair, self.from_pair if folded is None else self.from_pair * folded[0][:, None])
        # padding must not count in batch norm's statistics: only candidates that weigh something pass the layers
        real = None if weights is None or not self.training or self.norms is None else weights > 0
        if real is None or bool(real.all()):
            return self._layers(x.flatten(0, 1)).reshape(*x.shape[:2], self.out)
        out = x.new_zeros((*x.shape[:2], self.out))
        out[real] = self._layers(x[real]).to(out.dtype)
        return out

    def _layers(self, x: Tensor) -> Tensor:
        x = self._activate(x, 0)
        for depth, layer in enumerate(self.upper, start=1):
            folded = self._fold(depth)
            if folded is None:
                x = layer(x)
            else:
                x = F.linear(x, layer.weight * folded[0][:, None], layer.bias * folded[0] + folded[1])
            x = self._activate(x, depth)
        return x

    def _activate(self, x: Tensor, depth: int) -> Tensor:
        if not self.training:
            return F.relu(x)
        norm: Any = None if self.norms is None else self.norms[depth]
        return activated(x, norm, self.dropout)

    @torch.no_grad()
    def folded(self) -> tuple[Tensor, tuple[tuple[Tensor, Tensor], ...]]:
        """(width, pair) the pair's part of the first layer, and weight and bias of each upper one, batch norm in them:
        out of training ``forward`` is relu(… relu(weight · relu(context + item + part · pair) + bias) …).
        """
        first, upper = self._fold(0), []
        for depth, layer in enumerate(self.upper, start=1):
            scale, shift = self._fold(depth) or (layer.bias.new_ones(1), layer.bias.new_zeros(1))
            upper.append((layer.weight * scale.unsqueeze(-1), layer.bias * scale + shift))
        return self.from_pair.detach() if first is None else self.from_pair * first[0][:, None], tuple(upper)

    def _fold(self, depth: int) -> tuple[Tensor, Tensor] | None:
        """Scale and shift, (width,) each, of the batch norm behind a layer; None in training or where there is none.

        γ (y − μ) / √(σ² + ε) + β = y · scale + shift, with the running μ and σ².
        """
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
