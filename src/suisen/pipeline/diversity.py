"""Diversity: maximal marginal relevance (Carbonell & Goldstein 1998)."""

from __future__ import annotations

import torch
from torch import Tensor


def mmr(ids: Tensor, scores: Tensor, vectors: Tensor, k: int, diversity: float) -> tuple[Tensor, Tensor]:
    """(B, min(k, C)) ids and their scores, picked one by one from (B, C) lists: the next item is the one with the
    largest (1 − diversity) · relevance − diversity · (largest cosine to what is picked already).

    Relevance is the score scaled to [0, 1] in its list.  ``vectors`` (n_items, d) are unit vectors.  Id 0 pads and
    comes last.  Cost: k · C · d multiply-adds a list.
    """
    k = min(k, ids.shape[1])
    real = ids > 0
    low = scores.masked_fill(~real, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~real, -torch.inf).amax(1, keepdim=True)
    relevance = ((scores - low) / (high - low).clamp(min=1e-9)).masked_fill(~real, -torch.inf)
    candidates = vectors[ids]  # (B, C, d)
    nearest = torch.full_like(relevance, -1.0)
    left = real.clone()
    picked = []
    for _ in range(k):
        gain = (1 - diversity) * relevance - diversity * nearest
        best = gain.masked_fill(~left, -torch.inf).argmax(1, keepdim=True)
        picked.append(best)
        left.scatter_(1, best, False)
        chosen = candidates.gather(1, best.unsqueeze(2).expand(-1, 1, candidates.shape[2]))
        nearest = torch.maximum(nearest, (candidates * chosen).sum(2))
    order = torch.cat(picked, 1) if picked else torch.zeros((len(ids), 0), dtype=torch.int64)
    kept = torch.arange(order.shape[1]) < real.sum(1, keepdim=True)
    return torch.where(kept, ids.gather(1, order), 0), torch.where(kept, scores.gather(1, order), -torch.inf)
