"""Looking rows of embedding tables up, with fast backward passes on a CPU.

A batch looks the same row up at many *places* (popular items, padding).  The backward pass of ``nn.Embedding`` adds the
places' gradients to their rows one after the other, 85 ns per place of 64 floats.  Here the places are sorted by id
once (15 ns per place) and each row's gradient is one sum over its places (5 ns per place).  ``products`` and
``bag_sums`` never write a vector per place at all.  On other devices torch's own kernels are used.  Row 0 is padding
and has no gradient.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_PER_CHUNK = 256
"""Rows of ids whose vectors are multiplied at a time: 256 × 9 × 64 floats are 0.6 MB and stay in cache."""


@dataclass(frozen=True)
class _Places:
    """The places of (m,) ids, sorted by id: row i of a table was read at ``order[starts[i]:starts[i + 1]]``."""

    order: Tensor
    starts: Tensor

    @classmethod
    def of(cls, ids: Tensor, rows: int) -> "_Places":
        """Of flat ids below ``rows``."""
        counts = torch.bincount(ids, minlength=rows)
        return cls(ids.int().sort(stable=True).indices, counts.cumsum(0) - counts)

    def sums(self, values: Tensor, at: Tensor, weights: Tensor | None = None, padding: bool = True) -> Tensor:
        """(n, d): for each table row the (weighted) sum of ``values[at]`` over its places; 0 for row 0 if it pads."""
        out = F.embedding_bag(at, values.contiguous(), self.starts, mode="sum", per_sample_weights=weights)
        if padding:
            out[0] = 0.0
        return out


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, padding: bool) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.rows, ctx.padding = len(table), padding
        return F.embedding(ids, table)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (ids,) = ctx.saved_tensors
        places = _Places.of(ids.flatten(), ctx.rows)
        grad = grads[0].reshape(ids.numel(), -1)
        return places.sums(grad, places.order, padding=ctx.padding), None, None


def lookup(table: Tensor, ids: Tensor, padding: bool = True) -> Tensor:
    """(…, d): the rows of (n, d) at ids (…,); with ``padding`` row 0 has no gradient."""
    if not _ours(table) or not ids.numel():
        return F.embedding(ids, table, padding_idx=0 if padding else None)
    return _Lookup.apply(table, ids, padding)  # type: ignore[no-untyped-call]


class _Bags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(values, offsets, weights)
        ctx.rows = len(table)
        return F.embedding_bag(values, table, offsets[:-1], mode="sum", per_sample_weights=weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        values, offsets, weights = ctx.saved_tensors
        grad = transposed_sums(grads[0], values, offsets, weights, ctx.rows)
        grad[0] = 0.0
        return grad, None, None, None


def transposed_sums(grad: Tensor, values: Tensor, offsets: Tensor, weights: Tensor, rows: int) -> Tensor:
    """(rows, d): the gradient of ``bag_sums``'s table, from the gradient (B, d) of its bags.

    Each row of the table is one sum, so that no two additions race and runs repeat bit for bit.
    """
    places = _Places.of(values, rows)
    owner = torch.repeat_interleave(torch.arange(offsets.numel() - 1, device=values.device), offsets.diff())
    at, share = owner.index_select(0, places.order), weights.index_select(0, places.order)
    return places.sums(grad, at, share, padding=False)


def bag_sums(table: Tensor, values: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
    """(B, d): weighted sums of the table's rows at values[offsets[b]:offsets[b + 1]]."""
    if not _ours(table) or not values.numel():
        return F.embedding_bag(values, table, offsets[:-1], mode="sum", per_sample_weights=weights, padding_idx=0)
    return _Bags.apply(table, values, offsets, weights)  # type: ignore[no-untyped-call]


def distinct(ids: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """What ``torch.unique`` gives, by counting where that is cheaper than sorting: (u,) the different ids below
    ``size``, rising; where each of ``ids`` stands among them, in the shape of ``ids``; (u,) how often each occurs.
    """
    if size > 8 * ids.numel():
        return torch.unique(ids, return_inverse=True, return_counts=True)
    counts = torch.bincount(ids.flatten(), minlength=size)
    there = counts > 0
    found = there.nonzero().squeeze(1)
    return found, F.embedding(ids, (there.cumsum(0) - 1).unsqueeze(1)).squeeze(-1), counts[found]


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, table: Tensor, bias: Tensor, ids: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, table, ids)
        out = vectors.new_empty(ids.shape)
        for start in range(0, len(ids), ROWS_PER_CHUNK):
            chunk = slice(start, start + ROWS_PER_CHUNK)
            rows = F.embedding(ids[chunk], table).mul_(vectors[chunk].unsqueeze(1))  # (chunk, K, d)
            torch.sum(rows, 2, out=out[chunk])
        return out.add_(F.embedding(ids, bias.unsqueeze(1)).squeeze(2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        vectors, table, ids = ctx.saved_tensors
        grad = grads[0].contiguous()
        of_vectors = F.embedding_bag(ids, table, per_sample_weights=grad, mode="sum")  # (B, d): Σ_k g_k · row_k
        places = _Places.of(ids.flatten(), len(table))
        owner = torch.div(places.order, ids.shape[1], rounding_mode="floor")
        weights = grad.flatten()[places.order]  # (B·K,) in the order of ids: each row's gradient is Σ g · vector
        of_table = places.sums(vectors, owner, weights)
        of_bias = torch.zeros(len(table), dtype=grad.dtype).index_add_(0, ids.flatten(), grad.flatten())
        of_bias[0] = 0.0
        return of_vectors, of_table, of_bias, None


def products(vectors: Tensor, table: Tensor, bias: Tensor, ids: Tensor) -> Tensor:
    """(B, K): vectors (B, d) · table rows at ids (B, K), plus their bias (n,).

    Cost: d multiply-adds per pair forward, 2·d backward.  Traffic: each row is read three times, and no (B, K, d) array
    is ever written: at K = 9, d = 64 six of them of 2.3 kB an example, forward and backward, were 3/4 of the time.
    """
    if not _ours(table):
        rows = F.embedding(ids, table, padding_idx=0)
        return torch.einsum("bd,bkd->bk", vectors, rows) + F.embedding(ids, bias.unsqueeze(1), padding_idx=0).squeeze(2)
    return _Products.apply(vectors, table, bias, ids)  # type: ignore[no-untyped-call]


def mean_square(table: Tensor, ids: Tensor) -> Tensor:
    """Scalar: mean over ``ids`` (any shape) of the squared norm of their row of (n, d); each row is squared once."""
    times = torch.bincount(ids.flatten(), minlength=len(table)).to(table.dtype)
    return times @ table.square().sum(1) / ids.numel()


def _ours(table: Tensor) -> bool:
    return table.device.type == "cpu" and table.requires_grad and torch.is_grad_enabled()
