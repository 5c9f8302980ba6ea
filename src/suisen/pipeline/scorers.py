"""Networks as the evaluation sees them: every item of the catalogue in tiles, or the candidates that are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suisen.data.batch import Candidates, Contexts
from suisen.data.ragged import Ragged
from suisen.models.contract import CatalogueScorer, Net, Ranker, Retriever

AT_ONCE = 256
"""Contexts that are scored together where a network needs all of the catalogue at a time."""


class NetScorer:
    """One network over the whole catalogue: ``suisen.evaluation.TileScorer``."""

    def __init__(self, net: Net, allowed: Tensor) -> None:
        self.net, self.n_items = net, allowed.numel()
        self.device = net.items.trained.device
        self.allowed = allowed.to(self.device)

    @torch.no_grad()
    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C); -inf for what the model may not recommend."""
        candidates = candidates.to(self.device)
        scores = self.net.score(contexts.to(self.device), candidates)
        return torch.where(self.allowed[candidates.items], scores, -torch.inf).cpu()

    @torch.no_grad()
    def prepare(self, contexts: Contexts) -> Any:
        """Query vectors, context states or all scores: what ``tile`` needs, once."""
        contexts, net = contexts.to(self.device), self.net
        if isinstance(net, Retriever):
            return net.query_vectors(contexts)
        if isinstance(net, CatalogueScorer):
            return net.score_all(contexts)
        if isinstance(net, Ranker):
            return net.context_state(contexts)
        raise TypeError(f"{type(net).__name__} is neither a retriever nor a ranker")

    @torch.no_grad()
    def tile(self, state: Tensor, lo: int, hi: int) -> Tensor:
        """(B, hi − lo) scores."""
        net = self.net
        if isinstance(net, Retriever):
            return state @ self._vectors()[lo:hi].T
        if isinstance(net, CatalogueScorer):
            return state[:, lo:hi].clone()
        if isinstance(net, Ranker):
            return net.combine(state, self._states()[None, lo:hi], None)
        raise TypeError(f"{type(net).__name__} is neither a retriever nor a ranker")

    @property
    def bytes_per_score(self) -> int:
        """Working bytes of one score in a tile."""
        if isinstance(self.net, Ranker):  # the broadcast sum of two states, and what the layers above make of it
            return 16 * int(self._states().shape[1])
        return 8 if isinstance(self.net, CatalogueScorer) and not isinstance(self.net, Retriever) else 4

    def rank(self, contexts: Contexts, k: int, exclude: Ragged) -> tuple[Tensor, Tensor]:
        """The best k of everything allowed; equal scores: lower id first."""
        ids, values = [], []
        for rows in torch.arange(len(contexts)).split(AT_ONCE):  # type: ignore[no-untyped-call]
            scores = self.all_scores(contexts.take(rows), exclude.take(rows))
            top_ids, top = top_of(scores, min(k, self.n_items))
            ids.append(top_ids)
            values.append(top)
        return torch.cat(ids), torch.cat(values)

    def all_scores(self, contexts: Contexts, exclude: Ragged) -> Tensor:
        """(B, n_items): -inf for what is excluded and for what the model may not recommend."""
        scores = self.tile(self.prepare(contexts), 0, self.n_items).float()
        scores.masked_fill_(~self.allowed, -torch.inf)
        scores[exclude.rows(), exclude.values] = -torch.inf
        return scores.cpu()

    def _vectors(self) -> Tensor:
        """Item vectors, computed at first use: a scorer lives no longer than the weights stand still."""
        if not hasattr(self, "_cache"):
            net: Any = self.net
            self._cache: Tensor = net.item_vectors()
        return self._cache

    def _states(self) -> Tensor:
        """Item states, computed at first use."""
        if not hasattr(self, "_cache"):
            self._cache = item_states(self.net, self.n_items)
        return self._cache


@torch.no_grad()
def item_states(ranker: Any, n_items: int, at_once: int = 65_536) -> Tensor:
    """(n_items, s) of a ranker, a part of the catalogue at a time."""
    ids = torch.arange(n_items, device=ranker.items.trained.device)
    return torch.cat([ranker.item_state(part) for part in ids.split(at_once)])  # type: ignore[no-untyped-call]


def top_of(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, k) ids and scores of the largest, equal scores: lower id first; id 0 and -inf where only -inf is left.

    ``torch.topk`` may take any of equal scores; where a tie crosses the cut, the row is sorted in full.
    """
    k = min(k, scores.shape[1])
    top, ids = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if top.shape[1] > k:
        cut = (top[:, k] == top[:, k - 1]) & (top[:, k] > -torch.inf) if k else torch.zeros(len(top), dtype=torch.bool)
        top, ids = top[:, :k].clone(), ids[:, :k].clone()
        for row in cut.nonzero().squeeze(1).tolist():
            top[row], ids[row] = (part[:k] for part in scores[row].sort(descending=True, stable=True))
    order = ids.argsort(dim=1)  # then by score, stably: equal scores stand by id
    top, ids = top.gather(1, order), ids.gather(1, order)
    order = top.argsort(dim=1, descending=True, stable=True)
    top, ids = top.gather(1, order), ids.gather(1, order)
    return torch.where(top > -torch.inf, ids, 0), top
