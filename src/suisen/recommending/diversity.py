"""Diversity: maximal marginal relevance (Carbonell & Goldstein 1998)."""

from collections.abc import Callable

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


def mmr(ids: Tensor, scores: Tensor, alike: Likeness | Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    """(B, min(k, C)) ids and their scores, picked one by one from (B, C) lists: the next item is the one with the
    largest (1 − diversity) · relevance − diversity · (largest similarity to what is picked already).

    Relevance is the score scaled to [0, 1] in its list.  ``alike``: what compares items, or their unit vectors
    (n_items, d).  Id 0 pads and comes last.  Equal gains: the earlier in the list.  Cost: k · C similarities
    a list, of vectors d multiply-adds each; see ``ALL_PAIRS``.  May be broken off between two picks.
    """
    k = min(k, ids.shape[1])
    if k == 0:  # nothing is allowed
        return ids[:, :0], scores[:, :0]
    if isinstance(alike, Tensor):
        alike = Likeness(Net(), alike)
    count = ids.shape[1]
    pairs = alike.vectors is not None and count <= ALL_PAIRS and k >= FROM
    width = 1 if alike.vectors is None else max(alike.vectors.shape[1], count if pairs else 1)
    chunk = max(1, GATHERED // max(1, count * width))
    order = torch.zeros((len(ids), k), dtype=torch.int64)
    for rows in torch.arange(len(ids)).split(chunk):  # type: ignore[no-untyped-call]
        order[rows] = _picked(ids[rows] > 0, scores[rows], _to_one(ids[rows], alike, pairs), k, diversity)
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


def _picked(real: Tensor, scores: Tensor, to_one: Callable[[Tensor], Tensor], k: int, diversity: float) -> Tensor:
    """(B, k) places in the list, in the order in which they are picked."""
    low = scores.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    relevance = (1 - diversity) * (scores - low) / (high - low).clamp(min=1e-9)
    relevance.masked_fill_(~real, -torch.inf)
    nearest = torch.full_like(scores, -1.0)
    picked = []
    for _ in range(k):
        checkpoint()
        best = (relevance - diversity * nearest).argmax(1, keepdim=True)
        picked.append(best)
        relevance.scatter_(1, best, -torch.inf)  # none is picked twice
        torch.maximum(nearest, to_one(best), out=nearest)
    return torch.cat(picked, 1)
