"""Diversity: maximal marginal relevance (Carbonell & Goldstein 1998)."""

import torch
from torch import Tensor

GATHERED = 2**24
"""float32 numbers of candidate vectors held at once: 64 MiB."""


def mmr(ids: Tensor, scores: Tensor, vectors: Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    """(B, min(k, C)) ids and their scores, picked one by one from (B, C) lists: the next item is the one with the
    largest (1 − diversity) · relevance − diversity · (largest cosine to what is picked already).

    Relevance is the score scaled to [0, 1] in its list.  ``vectors`` (n_items, d) are unit vectors.  Id 0 pads and
    comes last.  Equal gains: the earlier in the list.  Cost: k · C · d multiply-adds a list.
    """
    k = min(k, ids.shape[1])
    if k == 0:  # nothing is allowed
        return ids[:, :0], scores[:, :0]
    chunk = max(1, GATHERED // max(1, ids.shape[1] * vectors.shape[1]))
    order = torch.zeros((len(ids), k), dtype=torch.int64)
    for rows in torch.arange(len(ids)).split(chunk):  # type: ignore[no-untyped-call]
        order[rows] = _picked(ids[rows] > 0, scores[rows], vectors[ids[rows]], k, diversity)
    kept = torch.arange(k) < (ids > 0).sum(1, keepdim=True)
    return torch.where(kept, ids.gather(1, order), 0), torch.where(kept, scores.gather(1, order), -torch.inf)


def _picked(real: Tensor, scores: Tensor, candidates: Tensor, k: int, diversity: float) -> Tensor:
    """(B, k) places in the list, in the order in which they are picked; of (B, C, d) vectors."""
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
        chosen = candidates.gather(1, best.unsqueeze(2).expand(-1, 1, candidates.shape[2]))
        nearest = torch.maximum(nearest, (candidates * chosen).sum(2))
    return torch.cat(picked, 1)
