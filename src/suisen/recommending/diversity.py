"""Diversity: maximal marginal relevance (Carbonell & Goldstein 1998)."""

from collections.abc import Callable

import torch
from torch import Tensor

from suisen.models.contract import Net
from suisen.recommending.likeness import Likeness

GATHERED = 2**24
"""float32 numbers of candidate vectors held at once: 64 MiB."""


def mmr(ids: Tensor, scores: Tensor, alike: Likeness | Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    """(B, min(k, C)) ids and their scores, picked one by one from (B, C) lists: the next item is the one with the
    largest (1 − diversity) · relevance − diversity · (largest similarity to what is picked already).

    Relevance is the score scaled to [0, 1] in its list.  ``alike``: what compares items, or their unit vectors
    (n_items, d).  Id 0 pads and comes last.  Equal gains: the earlier in the list.  Cost: k · C similarities
    a list, of vectors d multiply-adds each.
    """
    k = min(k, ids.shape[1])
    if k == 0:  # nothing is allowed
        return ids[:, :0], scores[:, :0]
    if isinstance(alike, Tensor):
        alike = Likeness(Net(), alike)
    width = 1 if alike.vectors is None else alike.vectors.shape[1]
    chunk = max(1, GATHERED // max(1, ids.shape[1] * width))
    order = torch.zeros((len(ids), k), dtype=torch.int64)
    for rows in torch.arange(len(ids)).split(chunk):  # type: ignore[no-untyped-call]
        order[rows] = _picked(ids[rows] > 0, scores[rows], _to_one(ids[rows], alike), k, diversity)
    kept = torch.arange(k) < (ids > 0).sum(1, keepdim=True)
    return torch.where(kept, ids.gather(1, order), 0), torch.where(kept, scores.gather(1, order), -torch.inf)


def _to_one(ids: Tensor, alike: Likeness) -> Callable[[Tensor], Tensor]:
    """From places (B, 1) in lists (B, C) to how alike the item there and each of its list are, (B, C)."""
    if alike.vectors is None:
        return lambda at: alike.between(ids.gather(1, at)[:, 0], ids)
    candidates = alike.vectors[ids]  # (B, C, d), looked up once
    wide = candidates.shape[2]
    return lambda at: (candidates * candidates.gather(1, at.unsqueeze(2).expand(-1, 1, wide))).sum(2)


def _picked(real: Tensor, scores: Tensor, to_one: Callable[[Tensor], Tensor], k: int, diversity: float) -> Tensor:
    """(B, k) places in the list, in the order in which they are picked."""
    low = scores.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    relevance = (scores - low) / (high - low).clamp(min=1e-9)
    nearest = torch.full_like(scores, -1.0)
    left = real.clone()
    picked = []
    for _ in range(k):
        gain = (1 - diversity) * relevance - diversity * nearest
        best = gain.masked_fill(~left, -torch.inf).argmax(1, keepdim=True)
        picked.append(best)
        left.scatter_(1, best, False)
        nearest = torch.maximum(nearest, to_one(best))
    return torch.cat(picked, 1)
