"""Losses of two towers: a softmax over a pool of items that the whole batch shares, triplets, and hard negatives.

The pool's *different* items are columns, and a column weighs exp(bias).  With bias = log(times drawn) − log(expected
times) the sum over the columns is an unbiased estimate of the sum over the catalogue, and the mean gradient is that of
the full softmax but for O(1 / draws): the logQ correction, log q *subtracted* (Bengio & Senécal 2008; Yi et al. 2019,
eq. 3).  The positive stands in the sum for certain, once, whatever is drawn: it is no draw and is not corrected.
(Corrected too, as Yi et al. write it, it would weigh 1 / expected times, and its items' gradient would be another.)
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suisen.data.ragged import offsets_of
from suisen.models.losses import weighted_mean

IN_CACHE = 2**19
"""Logits that are worked on at a time: 2 MB."""
MULTIPLIERS = (0x9E3779B97F4A7C15 - 2**64, 0xC2B2AE3D27D4EB4F - 2**64, 0x165667B19E3779F9)
"""Odd numbers of multiplicative hashing, as signed 64-bit integers."""


def info_nce(logits: Tensor, log_q: Tensor | None, ids: Tensor, weights: Tensor | None = None) -> Tensor:
    """In-batch softmax by its definition: row b's positive is column b, the other columns are its negatives.

    ``logits`` (B, B), already divided by the temperature.  ``log_q`` (B,), where given, is the log-probability with
    which each column's item is drawn: a negative is divided by the times it was to be expected, (B − 1)·q.  Columns
    that hold the row's own item again (``ids``, (B,)) are masked: accidental hits.
    """
    logits = logits.float()
    if log_q is not None:
        own = logits.diagonal()
        logits = (logits - log_q - math.log(max(1, len(ids) - 1))).diagonal_scatter(own)
    same = ids[:, None] == ids[None, :]
    same.fill_diagonal_(False)
    losses = F.cross_entropy(
        logits.masked_fill(same, -torch.inf), torch.arange(len(ids), device=ids.device), reduction="none"
    )
    return weighted_mean(losses[:, None], weights)


def pool_softmax(
    query: Tensor, items: Tensor, bias: Tensor, where: Tensor, row: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Mean over B examples of −log e^a / (e^a + Σ_{j ≠ p} e^(x_j + bias_j)), x = q · v, p the positive's column,
    a = x_p: the own item is no negative, however often it was drawn (accidental hits).

    ``query`` (R, d), already divided by the temperature; ``items`` (m, d), the pool's different items; ``bias`` (m,),
    −inf: there as a positive alone; ``where`` (B,) the positives' columns; ``row`` (B,) each example's query (None:
    B = R, each its own); ``weights`` (B, 1).  Cost: 3·R·m·d multiply-adds, R at most the different users, m at most
    the catalogue, however large the batch.  Memory: 2 MB of logits, no (B, B) array.
    """
    query, items = query.to(bias.dtype), items.to(bias.dtype)
    share = query.new_ones(where.shape) if weights is None else weights[:, 0].to(query.dtype)
    if row is None:
        row, starts = torch.arange(len(query), device=query.device), None
    else:
        starts = offsets_of(torch.bincount(row, minlength=len(query))).tolist()
        order = row.int().sort().indices
        row, where, share = row[order], where[order], share[order]
    share = share / share.sum().clamp(min=1e-12)
    loss: Tensor = _PoolSoftmax.apply(  # type: ignore[no-untyped-call]
        query, items, bias, where, row, share, starts
    )
    return loss


class _PoolSoftmax(torch.autograd.Function):
    """``pool_softmax`` of examples sorted by query, ``starts[r]`` the first of query r; gradients are made on the way
    forward.  Under autocast the three products are made in bfloat16, all else in float32.

    With E_j = exp(x_j + bias_j) and S = Σ E_j, both shared by all examples of a query, an example's mass is
    D = S − E_p + e^a, its loss log D − a, its gradient E_j / D, and e^a / D − 1 in its own column.  So the gradient of
    a query's logits is E · Σ_b 1 / D_b and, in each example's own column, (e^a − E_p) / D − 1.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, items: Tensor, bias: Tensor, where: Tensor, row: Tensor, share: Tensor,
        starts: list[int] | None,
    ) -> Tensor:  # fmt: skip
        kind = torch.bfloat16 if torch.is_autocast_enabled(query.device.type) else query.dtype
        grad_query, grad_items = torch.empty_like(query), torch.zeros_like(items)
        small, total = items.to(kind), query.new_zeros(())
        size = IN_CACHE // max(1, len(items)) + 1
        for first in range(0, len(query), size):
            part, last = query[first : first + size].to(kind), min(first + size, len(query))
            mine = slice(first, last) if starts is None else slice(starts[first], starts[last])
            logits = (part @ small.T).to(query.dtype)
            total += _slopes(logits, bias, row[mine] - first, where[mine], share[mine])
            if kind == query.dtype:
                torch.mm(logits, small, out=grad_query[first:last])
                grad_items.addmm_(logits.T, part)
            else:
                slope = logits.to(kind)
                grad_query[first:last] = slope @ small
                grad_items += slope.T @ part
        ctx.save_for_backward(grad_query, grad_items)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_query, grad_items = ctx.saved_tensors
        return grad_query * grads[0], grad_items * grads[0], None, None, None, None, None


def _slopes(logits: Tensor, bias: Tensor, row: Tensor, where: Tensor, share: Tensor) -> Tensor:
    """The summed losses of some queries' examples; ``logits`` (r, m) become the loss's gradient."""
    cell, flat = row * logits.shape[1] + where, logits.view(-1)
    own = flat[cell]
    logits += bias
    peak = logits.amax(1).scatter_reduce_(0, row, own, "amax").clamp_(min=torch.finfo(own.dtype).min)
    mass = logits.sub_(peak[:, None]).exp_().sum(1)
    drawn, own = flat[cell], own - peak[row]
    kept = own.exp()
    mass = (mass[row] - drawn).clamp_(min=0) + kept
    rate = share / mass
    logits *= torch.zeros_like(peak).index_add_(0, row, rate)[:, None]
    flat.scatter_add_(0, cell, rate * (kept - drawn) - share)
    return (mass.log() - own) @ share


def triplet(
    query: Tensor, items: Tensor, where: Tensor, margin: float, row: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Mean of max(0, margin − s_p + s_n) with one semi-hard negative n of the batch for each example (Schroff et al.
    2015): of the items that score below the positive the one that scores highest, and where none does, the one that
    scores lowest of all.  Arguments as those of ``pool_softmax``; cost: R·m·d multiply-adds and one pass over B·m.
    """
    row = torch.arange(len(query), device=query.device) if row is None else row
    right = (query[row] * items[where]).sum(1)
    if len(items) < 2:
        return right.sum() * 0.0  # nobody took anything else: there is nothing to be told apart
    with torch.no_grad():
        size = IN_CACHE // len(items) + 1
        parts = zip(row.split(size), where.split(size), right.split(size), strict=True)  # type: ignore[no-untyped-call]
        wrong = torch.cat([_semi_hard(query[r] @ items.T, p, s) for r, p, s in parts])
    losses = F.relu(margin - right + (query[row] * items[wrong]).sum(1))
    return weighted_mean(losses[:, None].float(), weights)


def _semi_hard(scores: Tensor, own: Tensor, right: Tensor) -> Tensor:
    """(b,) columns of (b, m) scores; ``own`` (b,) is the positive's column, ``right`` (b,) its score."""
    scores.scatter_(1, own[:, None], torch.inf)  # neither below the positive nor the lowest
    best, at = scores.masked_fill(scores >= right[:, None], -torch.inf).max(1)
    return torch.where(best > -torch.inf, at, scores.argmin(1))


def hard_softmax(right: Tensor, wrong: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean of −log softmax of the positive's logit (B,) among its own hard negatives' (B, H); −inf takes one out."""
    losses = torch.logaddexp(right, wrong.logsumexp(1)) - right if wrong.shape[1] else right * 0.0
    return weighted_mean(losses[:, None].float(), weights)


class Frequency(nn.Module):
    """How often an item is in the pool, learnt from the stream of pools alone (Yi et al. 2019, algorithm 2).

    For hashed ids, A holds the step at which an item last came and B the moving average of the steps between two
    comings; the probability that a step's pool holds it is 1 / B.  Ids that share a bucket look more frequent than
    they are, so of several hashes the longest B counts.  The average is a plain mean over an id's first 1 / ``rate``
    comings.  Memory: 16 bytes a bucket and hash, whatever the catalogue.  State of training alone: not in the bundle.
    """

    def __init__(self, buckets: int, rate: float = 0.02, hashes: int = 2) -> None:
        super().__init__()
        if buckets & (buckets - 1) or not 1 <= hashes <= len(MULTIPLIERS):
            raise ValueError(f"buckets = {buckets} must be a power of 2, hashes = {hashes} 1 to {len(MULTIPLIERS)}")
        self.rate, self.buckets = rate, buckets
        self.register_buffer("step", torch.zeros((), dtype=torch.int64), persistent=False)
        self.register_buffer("multipliers", torch.tensor(MULTIPLIERS[:hashes])[:, None], persistent=False)
        self.register_buffer("last", torch.zeros((hashes, buckets), dtype=torch.int64), persistent=False)  # A
        self.register_buffer("gap", torch.zeros((hashes, buckets)), persistent=False)  # B
        self.register_buffer("times", torch.zeros((hashes, buckets), dtype=torch.int32), persistent=False)

    step: Tensor
    multipliers: Tensor
    last: Tensor
    gap: Tensor
    times: Tensor

    @torch.no_grad()
    def forward(self, ids: Tensor) -> Tensor:
        """(n,) log-probability of the step's different ids (n,), which it counts as having come now."""
        self.step += 1
        slot = ((ids * self.multipliers) >> 32) & (self.buckets - 1)  # (hashes, n)
        times = self.times.gather(1, slot) + 1
        gap = self.gap.gather(1, slot)
        gap += (self.step - self.last.gather(1, slot) - gap) * (1 / times).clamp(min=self.rate)
        for table, value in ((self.times, times), (self.gap, gap), (self.last, self.step.expand_as(slot))):
            table.scatter_(1, slot, value)
        return -gap.amax(0).log()
