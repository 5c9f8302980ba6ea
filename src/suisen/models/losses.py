"""Loss functions: each a scalar, the mean over the examples it is given (weighted where weights are given)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``values``; with weights of the same shape, their weighted mean (0 where all weigh 0)."""
    if weights is None:
        return values.mean()
    return (values * weights).sum() / weights.sum().clamp(min=1e-12)


def logistic(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of logits against labels in [0, 1], any one shape."""
    return weighted_mean(F.binary_cross_entropy_with_logits(scores.float(), labels, reduction="none"), weights)


def logistic_pairs(positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
    """Logistic loss of (B, 1) positives and (B, N) negatives, every pair alike (He et al. 2017, eq. 7)."""
    losses = F.softplus(torch.cat([-positive, negative], 1).float())
    return weighted_mean(losses.mean(1, keepdim=True), weights)


def bpr(positive: Tensor, negative: Tensor, weights: Tensor | None = None) -> Tensor:
    """−log σ(positive − negative), mean over the N negatives (Rendle et al. 2009): (B, 1) against (B, N)."""
    return weighted_mean(F.softplus((negative - positive).float()).mean(1, keepdim=True), weights)


def softmax_lists(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over lists of −log softmax of the taken items among (B, C) candidates (Cao et al. 2007, top-one model).

    Weight 0 takes a candidate out; a list counts as much as its taken items weigh on average, without one for nothing.
    """
    scores = scores.float()
    if weights is not None:
        scores = scores.masked_fill(weights <= 0, -torch.inf)
        labels = labels * weights
    log_p = scores.log_softmax(1).masked_fill(labels <= 0, 0.0)
    mass = labels.sum(1)
    losses = -(log_p * labels).sum(1) / mass.clamp(min=1e-12)
    return weighted_mean(losses, mass / (labels > 0).sum(1).clamp(min=1))


def lambda_lists(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over lists of Σ |ΔNDCG_ij| · log(1 + e^(s_j − s_i)), over the pairs of candidates with label_i > label_j
    among (B, C), whose gradient is LambdaRank's (Burges 2010, section 4; as a loss: Wang et al. 2018).

    |ΔNDCG_ij| is what swapping the two would change of the list's NDCG (gain 2^label − 1, discount 1/log₂(1 + rank)) as
    it is ranked now; it is no part of the gradient.  Weights as in ``softmax_lists``.  Cost: C pairs per taken item.
    """
    scores = scores.float()
    counted = torch.ones_like(labels, dtype=torch.bool) if weights is None else weights > 0
    taken = counted & (labels > 0)
    gains = torch.where(counted, torch.exp2(labels) - 1, 0.0)
    with torch.no_grad():
        order = scores.masked_fill(~counted, -torch.inf).argsort(dim=1, descending=True, stable=True)
        by_rank = 1 / torch.arange(2, scores.shape[1] + 2, device=scores.device).to(scores.dtype).log2()
        discounts = torch.empty_like(scores).scatter_(1, order, by_rank.expand_as(scores))
        ideal = (gains.sort(1, descending=True).values * by_rank).sum(1)  # (B,)
    row, at = taken.nonzero(as_tuple=True)  # (P,)

    def own(values: Tensor) -> Tensor:
        """(P, 1) of the taken items, beside (P, C) of their lists."""
        return values[row, at].unsqueeze(1)

    delta = (own(gains) - gains[row]).abs() * (own(discounts) - discounts[row]).abs() / ideal[row].unsqueeze(1)
    lower = counted[row] & (labels[row] < own(labels))
    pairs = torch.where(lower, F.softplus(scores[row] - own(scores)) * delta, 0.0).sum(1)
    losses = torch.zeros_like(ideal).index_add(0, row, pairs)
    share = taken.to(losses.dtype) if weights is None else torch.where(taken, weights, 0.0)
    return weighted_mean(losses, share.sum(1) / taken.sum(1).clamp(min=1))


ListLoss = Literal["softmax", "logistic", "lambda"]
"""What a list of several candidates teaches: which one is taken (softmax), whether each is (logistic), or the order of
each two, weighed by what it is worth in NDCG (lambda)."""


def of_rows(scores: Tensor, labels: Tensor, weights: Tensor | None = None, lists: ListLoss = "softmax") -> Tensor:
    """The loss of a Rows batch: logistic where each context has one candidate, ``lists`` else."""
    if scores.shape[1] == 1 or lists == "logistic":
        return logistic(scores, labels, weights)
    return (softmax_lists if lists == "softmax" else lambda_lists)(scores, labels, weights)


class _ChunkedSoftmax(torch.autograd.Function):
    """Mean cross-entropy over all rows of a table without ever holding all logits; gradients are made on the way
    forward.  ``bias`` (m,) is added to every row of logits; ``share`` (n,) is what each row counts in the mean.

    Under autocast all three products are made in bfloat16 and summed in float32; everything else stays float32.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, bias: Tensor, chunk: int, share: Tensor
    ) -> Tensor:
        dtype = torch.bfloat16 if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
        small = table.to(dtype)  # (m, d); no copy where the table has this type already
        grad_hidden, grad_table = torch.empty_like(hidden), torch.zeros_like(table)
        grad_bias = torch.zeros_like(bias) if ctx.needs_input_grad[3] else None
        total = hidden.new_zeros(())
        for start in range(0, targets.numel(), chunk):
            part = hidden[start : start + chunk].to(dtype)  # (chunk, d)
            wanted = targets[start : start + chunk, None]  # (chunk, 1)
            weight = share[start : start + chunk, None]  # of each target in the mean
            logits = (part @ small.T).to(hidden.dtype)  # (chunk, m)
            logits += bias
            peak = logits.amax(1, keepdim=True)  # subtracted, so that exp cannot overflow
            right = logits.gather(1, wanted)
            mass = logits.sub_(peak).exp_().sum(1, keepdim=True)
            total += ((mass.log() + peak - right) * weight).sum()
            # the gradient of the loss by the logits is softmax − 1 at the target; both written over the logits
            logits.mul_(mass.reciprocal() * weight)
            logits.scatter_add_(1, wanted, -weight)
            if grad_bias is not None:
                grad_bias += logits.sum(0)
            if dtype == hidden.dtype:
                torch.mm(logits, table, out=grad_hidden[start : start + chunk])
                grad_table.addmm_(logits.T, part)
            else:
                slope = logits.to(dtype)
                grad_hidden[start : start + chunk] = slope @ small
                grad_table += slope.T @ part
        ctx.save_for_backward(grad_hidden, grad_table, grad_bias)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_table, grad_bias = ctx.saved_tensors
        of_bias = None if grad_bias is None else grad_bias * grads[0]
        return grad_hidden * grads[0], grad_table * grads[0], None, of_bias, None, None


def full_softmax(
    hidden: Tensor, table: Tensor, targets: Tensor, chunk: int | None = None, bias: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Mean cross-entropy of ``hidden`` (n, d) against every row 1… of ``table`` (m, d), plus ``bias`` (m,) where
    given; targets (n,) ids ≥ 1, ``weights`` (n,) of theirs in the mean.

    Memory: one chunk of logits (``chunk`` × m floats) instead of n × m.  By default on a CPU 256 rows, 3.5 MB at
    m = 3,500, which stay in its caches, and at most 16 MB or 16 rows; elsewhere 4,096 rows and at most 1 GB.
    Cost: three matrix products of n·m·d multiply-adds in all, forward and backward together (a plain cross-entropy
    needs the same three, and twice the logits' bytes in traffic).  Under autocast the products are made in bfloat16:
    1.5–1.8x faster in all on a core with AVX-512 BF16 (m = 3,417 and 12,102, d = 64).
    """
    hidden = hidden.to(table.dtype)
    if chunk is None:
        rows, floats = (256, 2**22) if table.device.type == "cpu" else (4096, 2**28)
        chunk = max(16, min(rows, floats // len(table)))
    bias = table.new_zeros(len(table)) if bias is None else bias.clone()
    bias[0] = -torch.inf  # row 0 is padding, no item
    share = hidden.new_full(targets.shape, 1 / max(1, targets.numel()))
    if weights is not None:
        share = weights / weights.sum().clamp(min=1e-12)
    return _ChunkedSoftmax.apply(hidden, table, targets, bias, chunk, share)  # type: ignore[no-untyped-call]
