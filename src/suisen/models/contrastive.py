"""Contrastive losses: a softmax over a pool of items that the whole batch shares, and triplets.

In both an example can have hard negatives of its own beside those of the pool.

The pool's *different* items are columns, and a column weighs exp(bias).  With bias = log(times drawn) − log(expected
times) the sum over the columns is an unbiased estimate of the sum over the catalogue, and the mean gradient is that of
the full softmax but for O(1 / draws): the logQ correction, log q *subtracted* (Bengio & Senécal 2008; Yi et al. 2019,
eq. 3).  The positive stands in the sum for certain, once, whatever is drawn: it is no draw and is not corrected.
(Corrected too, as Yi et al. write it, it would weigh 1 / expected times, and its items' gradient would be another.)
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suisen.data.ragged import offsets_of
from suisen.models.losses import weighted_mean

LOGITS_PER_CHUNK = 2**19
"""Logits that are worked on at a time: 2 MB, which stay in a core's cache."""
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
    columns = torch.arange(len(ids), device=ids.device)
    losses = F.cross_entropy(logits.masked_fill(same, -torch.inf), columns, reduction="none")
    return weighted_mean(losses[:, None], weights)


def pool_softmax(
    query: Tensor, items: Tensor, bias: Tensor, where: Tensor, row: Tensor | None = None,
    weights: Tensor | None = None, hard: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean over B examples of −log e^a / (e^a + Σ_{j ≠ p} e^(x_j + bias_j) + Σ_h e^h), x = q · v, p the positive's
    column, a = x_p: the own item is no negative, however often it was drawn (accidental hits).

    ``query`` (R, d), already divided by the temperature; ``items`` (m, d), the pool's different items; ``bias`` (m,),
    −inf: there as a positive alone; ``where`` (B,) the positives' columns; ``row`` (B,) each example's query (None:
    B = R, each its own); ``weights`` (B, 1); ``hard`` (B, H) finite logits h of negatives of each example's own.
    Cost: 3·R·m·d multiply-adds, R at most the different users, m at most the catalogue, however large the batch.
    Memory: 2 MB of logits, no (B, B) array.
    """
    query, items = query.to(bias.dtype), items.to(bias.dtype)
    share = query.new_ones(where.shape) if weights is None else weights[:, 0].to(query.dtype)
    if row is None:
        row, starts = torch.arange(len(query), device=query.device), None
    else:
        starts = offsets_of(torch.bincount(row, minlength=len(query))).tolist()
        order = row.int().sort().indices
        row, where, share = row[order], where[order], share[order]
        hard = hard if hard is None else hard[order]
    examples = _Examples(row, where, share / share.sum().clamp(min=1e-12))
    beside = None if hard is None else hard.to(query.dtype).logsumexp(1)
    return _PoolSoftmax.apply(query, items, bias, beside, examples, starts)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Examples:
    """B examples, those of a query side by side."""

    row: Tensor
    """(B,) each one's query."""
    where: Tensor
    """(B,) each one's positive, a column."""
    share: Tensor
    """(B,) what each weighs in the mean."""

    def of(self, here: slice, first: int) -> "_Examples":
        """Some of them, their queries counted from ``first`` on."""
        return _Examples(self.row[here] - first, self.where[here], self.share[here])


class _PoolSoftmax(torch.autograd.Function):
    """``pool_softmax`` of examples sorted by query, ``starts[r]`` the first of query r (None: each query has one), with
    ``beside`` (B,), log Σ_h e^h, where they have hard negatives; gradients are made on the way forward.  Under autocast
    the three products are made in bfloat16, all else in float32.

    With E_j = exp(x_j + bias_j) and S = Σ E_j, both shared by all examples of a query, and H = Σ_h e^h, an example's
    mass is D = S − E_p + e^a + H, its loss log D − a, its gradient E_j / D, e^a / D − 1 in its own column, and H / D
    for log H.  So the gradient of a query's logits is E · Σ_b 1 / D_b and, in each example's own column,
    (e^a − E_p) / D − 1.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, items: Tensor, bias: Tensor, beside: Tensor | None, examples: _Examples,
        starts: list[int] | None,
    ) -> Tensor:  # fmt: skip
        dtype = torch.bfloat16 if torch.is_autocast_enabled(query.device.type) else query.dtype
        grad_query, grad_items = torch.empty_like(query), torch.zeros_like(items)
        grad_beside = None if beside is None else torch.empty_like(beside)
        small, total = items.to(dtype), query.new_zeros(())
        size = LOGITS_PER_CHUNK // max(1, len(items)) + 1
        for first in range(0, len(query), size):
            part, last = query[first : first + size].to(dtype), min(first + size, len(query))
            here = slice(first, last) if starts is None else slice(starts[first], starts[last])
            logits = (part @ small.T).to(query.dtype)
            loss, slopes = _slopes(logits, bias, examples.of(here, first), None if beside is None else beside[here])
            total += loss
            if grad_beside is not None:
                grad_beside[here] = slopes
            if dtype == query.dtype:
                torch.mm(logits, small, out=grad_query[first:last])
                grad_items.addmm_(logits.T, part)
            else:
                slope = logits.to(dtype)
                grad_query[first:last] = slope @ small
                grad_items += slope.T @ part
        ctx.save_for_backward(grad_query, grad_items, grad_beside)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_query, grad_items, grad_beside = (part if part is None else part * grads[0] for part in ctx.saved_tensors)
        return grad_query, grad_items, None, grad_beside, None, None


def _slopes(logits: Tensor, bias: Tensor, examples: _Examples, beside: Tensor | None) -> tuple[Tensor, Tensor]:
    """The summed losses of some queries' examples and the gradient of ``beside``; ``logits`` (r, m) become theirs."""
    row, share = examples.row, examples.share
    cell, flat = row * logits.shape[1] + examples.where, logits.view(-1)
    own = flat[cell]
    logits += bias
    most = own if beside is None else torch.maximum(own, beside)
    peak = logits.amax(1).scatter_reduce_(0, row, most, "amax").clamp_(min=torch.finfo(own.dtype).min)
    mass = logits.sub_(peak[:, None]).exp_().sum(1)
    drawn, own = flat[cell], own - peak[row]
    kept, more = own.exp(), own.new_zeros(()) if beside is None else (beside - peak[row]).exp()
    mass = (mass[row] - drawn).clamp_(min=0) + kept + more
    rate = share / mass
    logits *= torch.zeros_like(peak).index_add_(0, row, rate)[:, None]
    flat.scatter_add_(0, cell, rate * (kept - drawn) - share)
    return (mass.log() - own) @ share, rate * more


def triplet(
    query: Tensor, items: Tensor, where: Tensor, margin: float, row: Tensor | None = None,
    weights: Tensor | None = None, hard: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean of max(0, margin − s_p + s_n) with one semi-hard negative n of the batch for each example (Schroff et al.
    2015): of the items that score below the positive the one that scores highest, and where none does, the one that
    scores lowest of all.  ``hard`` (B, H), scores, are a triplet each beside it, of all of which the mean is taken.
    Other arguments as those of ``pool_softmax``; cost: R·m·d multiply-adds and one pass over B·m.
    """
    row = torch.arange(len(query), device=query.device) if row is None else row
    right = (query[row] * items[where]).sum(1)
    wrong = _semi_hard(query, items, where, row, right)[:, None]
    wrong = wrong if hard is None else torch.cat([wrong, hard], 1)
    losses = F.relu(margin - right[:, None] + wrong).mean(1, keepdim=True)
    return weighted_mean(losses.float(), weights)


def _semi_hard(query: Tensor, items: Tensor, where: Tensor, row: Tensor, right: Tensor) -> Tensor:
    """(B,) scores of the semi-hard negatives; −inf where the pool has no other item: nothing is to be told apart."""
    if len(items) < 2:
        return torch.full_like(right, -torch.inf)
    with torch.no_grad():
        size = LOGITS_PER_CHUNK // len(items) + 1
        parts = zip(row.split(size), where.split(size), right.split(size), strict=True)  # type: ignore[no-untyped-call]
        at = torch.cat([_just_below(query[r] @ items.T, p, s) for r, p, s in parts])
    return (query[row] * items[at]).sum(1)


def _just_below(scores: Tensor, own: Tensor, right: Tensor) -> Tensor:
    """(b,) columns of (b, m) scores; ``own`` (b,) is the positive's column, ``right`` (b,) its score."""
    scores.scatter_(1, own[:, None], torch.inf)  # neither below the positive nor the lowest
    best, at = scores.masked_fill(scores >= right[:, None], -torch.inf).max(1)
    return torch.where(best > -torch.inf, at, scores.argmin(1))


class Frequency(nn.Module):
    """Estimates how often each item is in a batch's pool from the batches alone (Yi et al. 2019, algorithm 2).

    For hashed ids, A holds the step at which an item last came and B the moving average of the steps between two
    comings; the probability that a step's pool holds it is 1 / B.  Ids that share a bucket look more frequent than
    they are, so of several hashes the longest B counts.  The average is a plain mean over an id's first 1 / ``rate``
    comings.  Memory: 16 bytes per bucket and hash, whatever the catalogue.  It is used in training alone and not saved.
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
