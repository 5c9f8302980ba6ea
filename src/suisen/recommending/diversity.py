"""Diversity: maximal marginal relevance (Carbonell & Goldstein 1998), and determinantal point processes (Chen et al.
2018, Fast Greedy MAP Inference for Determinantal Point Process, NeurIPS).
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from suisen.checkpoint import checkpoint
from suisen.models.contract import Net
from suisen.recommending.likeness import Likeness

GATHERED = 2**24
"""float32 numbers of candidate vectors held at once: 64 MiB."""
ALL_PAIRS, FROM = 1_024, 16
"""Lists of at most so many candidates have all their pairs compared at once where so many items are picked: one product
of matrices, then a pick reads a row.  Fewer picks or wider lists read the vectors at each pick."""
DEPENDENT, LAST = 1e-6, -1e30
"""What is left of an item's variance, of 1, where those picked say all of it; its gain then: it comes last."""
By = Literal["mmr", "dpp"]
Pick = Callable[[Tensor, Tensor, Callable[[Tensor], Tensor], int], Tensor]
"""From (B, C) which places are real, their scores, what compares them, and k to (B, k) places in the order of picks."""


def diverse(
    ids: Tensor, scores: Tensor, alike: Likeness | Tensor, k: int, diversity: float, by: By = "mmr"
) -> tuple[Tensor, Tensor]:
    """``mmr`` or ``dpp``."""
    return (mmr if by == "mmr" else dpp)(ids, scores, alike, k, diversity)


def mmr(ids: Tensor, scores: Tensor, alike: Likeness | Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    """(B, min(k, C)) ids and their scores, picked one by one from (B, C) lists: the next item is the one with the
    largest (1 − diversity) · relevance − diversity · (largest similarity to what is picked already).

    Relevance is the score scaled to [0, 1] in its list.  ``alike``: what compares items, or their unit vectors
    (n_items, d).  Id 0 pads and comes last.  Equal gains: the earlier in the list.  Cost: k · C similarities
    a list, of vectors d multiply-adds each; see ``ALL_PAIRS``.  May be broken off between two picks.
    """
    return _lists(ids, scores, alike, k, partial(_by_mmr, diversity=diversity))


def dpp(ids: Tensor, scores: Tensor, alike: Likeness | Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    """The same by a determinantal point process: the next item R ∪ {i} is the one with the largest

        (1 − diversity) · Σ relevance + diversity · log det S_R,     S_ij = (1 + similarity) / 2,  S_ii = 1

    which is section 4 of the paper with θ = 1 − diversity.  Items of which nothing is left once those picked are known
    come last, in the order of the list.  Cost: that of ``mmr`` and k² · C multiply-adds a list, by an incremental
    Cholesky factor (algorithm 1); memory k · C float64.
    """
    return _lists(ids, scores, alike, k, partial(_by_dpp, diversity=diversity), 2 * k)


def _lists(
    ids: Tensor, scores: Tensor, alike: Likeness | Tensor, k: int, pick: Pick, held: int = 1
) -> tuple[Tensor, Tensor]:
    """The picked items of lists and their scores, some lists at a time; ``held``: float32 numbers per candidate that
    picking keeps.
    """
    k = min(k, ids.shape[1])
    if k == 0:  # nothing is allowed
        return ids[:, :0], scores[:, :0]
    if isinstance(alike, Tensor):
        alike = Likeness(Net(), alike)
    count = ids.shape[1]
    pairs = alike.vectors is not None and count <= ALL_PAIRS and k >= FROM
    width = 1 if alike.vectors is None else max(alike.vectors.shape[1], count if pairs else 1)
    chunk = max(1, GATHERED // max(1, count * max(width, held)))
    order = torch.zeros((len(ids), k), dtype=torch.int64)
    for rows in torch.arange(len(ids)).split(chunk):  # type: ignore[no-untyped-call]
        real = ids[rows] > 0
        order[rows] = pick(real, scores[rows], _to_one(ids[rows], alike, pairs), k)
    kept = torch.arange(k) < (ids > 0).sum(1, keepdim=True)
    return torch.where(kept, ids.gather(1, order), 0), torch.where(kept, scores.gather(1, order), -torch.inf)


def _to_one(ids: Tensor, alike: Likeness, pairs: bool) -> Callable[[Tensor], Tensor]:
    """From places (B, 1) in lists (B, C) to how alike the item there and each of its list are, (B, C); ``pairs``: all
    of them are computed beforehand.
    """
    if alike.vectors is None:
        return lambda at: alike.between(ids.gather(1, at)[:, 0], ids)
    candidates = alike.vectors[ids]  # (B, C, d), looked up once
    if pairs:
        compared = torch.bmm(candidates, candidates.transpose(1, 2))  # (B, C, C)
        return lambda at: compared.gather(1, at.unsqueeze(2).expand(-1, 1, compared.shape[2])).squeeze(1)
    wide = candidates.shape[2]
    return lambda at: torch.bmm(candidates, candidates.gather(1, at.unsqueeze(2).expand(-1, 1, wide)).mT).squeeze(2)


def _relevance(real: Tensor, scores: Tensor, weight: float) -> Tensor:
    """(B, C) scores scaled to [0, weight] in their lists; what stands on padding means nothing."""
    low = scores.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    return weight * (scores - low) / (high - low).clamp(min=1e-9)


def _by_mmr(real: Tensor, scores: Tensor, to_one: Callable[[Tensor], Tensor], k: int, diversity: float) -> Tensor:
    """(B, k) places in the list, in the order in which they are picked."""
    relevance = _relevance(real, scores, 1 - diversity)
    relevance.masked_fill_(~real, -torch.inf)
    nearest = torch.full_like(relevance, -1.0)
    picked = []
    for _ in range(k):
        checkpoint()
        best = (relevance - diversity * nearest).argmax(1, keepdim=True)
        picked.append(best)
        relevance.scatter_(1, best, -torch.inf)  # none is picked twice
        torch.maximum(nearest, to_one(best), out=nearest)
    return torch.cat(picked, 1)


def _by_dpp(real: Tensor, scores: Tensor, to_one: Callable[[Tensor], Tensor], k: int, diversity: float) -> Tensor:
    """(B, k) places in the list, in the order in which they are picked.

    The paper's kernel is diag(q) S diag(q) with log q² = (1 − diversity) / diversity · relevance: its factor is that of
    S with each row times q, so that S alone is factored and no exponential is taken.
    """
    free = real.clone()
    gains = _relevance(real, scores.double(), 1 - diversity)  # (B, C)
    left = torch.ones_like(gains)  # what is left of each item's variance, d² of the paper
    rows = torch.zeros((len(real), k, real.shape[1]), dtype=torch.float64)  # the factor: c of the paper
    picked = []
    for step in range(k):
        checkpoint()
        gain = torch.where(left > DEPENDENT, gains + diversity * left.clamp(min=DEPENDENT).log(), LAST)
        best = gain.masked_fill(~free, -torch.inf).argmax(1, keepdim=True)  # (B, 1)
        picked.append(best)
        free.scatter_(1, best, False)
        mine = left.gather(1, best)
        own = rows[:, :step].gather(2, best.unsqueeze(1).expand(-1, step, 1))  # (B, step, 1)
        like = (1 + to_one(best).double().clamp(-1, 1)) / 2  # (B, C)
        new = (like - (own * rows[:, :step]).sum(1)) / mine.clamp(min=DEPENDENT).sqrt()
        rows[:, step] = torch.where(mine > DEPENDENT, new, 0.0)
        left = left - rows[:, step].square()
    return torch.cat(picked, 1)
