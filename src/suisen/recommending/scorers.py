"""Networks as the evaluation sees them: every item of the catalogue in tiles, or the candidates that are given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suisen.data.batch import Candidates, Contexts
from suisen.data.ragged import Ragged
from suisen.models.contract import CatalogueScorer, Net, Ranker, Retriever
from suisen.retrieval.select import top_of

CONTEXTS_PER_CHUNK = 256
"""Contexts that are scored together where a network needs all of the catalogue at a time."""


class NetScorer:
    """One network over the whole catalogue: ``suisen.evaluation.TileScorer``."""

    def __init__(self, net: Net, allowed: Tensor) -> None:
        self.net, self.n_items = net, allowed.numel()
        self.device = net.items.trained.device
        self.allowed = allowed.to(self.device)

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C); -inf for what the model may not recommend."""
        return self.given(self.prepare(contexts), candidates.items)

    @torch.no_grad()
    def given(self, state: Tensor, items: Tensor) -> Tensor:
        """(B, C) scores of given items from what ``prepare`` made of their contexts."""
        net, items = self.net, items.to(self.device)
        if isinstance(net, Retriever):
            scores = torch.bmm(self._vectors()[items], state.unsqueeze(2)).squeeze(2)
        elif isinstance(net, Ranker):
            scores = net.combine(state, self._states()[items], None)
        else:
            scores = state.gather(1, items)
        return torch.where(self.allowed[items], scores.float(), -torch.inf).cpu()

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
        """(B, min(k, n_items)) the best of everything allowed, 0 = none; equal scores: lower id first."""
        ids, values = [], []
        for rows in torch.arange(len(contexts)).split(CONTEXTS_PER_CHUNK):  # type: ignore[no-untyped-call]
            scores = self.open_scores(self.prepare(contexts.take(rows)), exclude.take(rows))
            top_ids, top = top_of(scores, k)
            ids.append(top_ids)
            values.append(top)
        return torch.cat(ids), torch.cat(values)

    @torch.no_grad()
    def open_scores(self, state: Tensor, exclude: Ragged) -> Tensor:
        """(B, n_items) from what ``prepare`` made: -inf for what is excluded and for what may not be recommended."""
        scores = self.tile(state, 0, self.n_items).float()
        scores.masked_fill_(~self.allowed, -torch.inf)
        scores[exclude.rows().to(self.device), exclude.values.to(self.device)] = -torch.inf
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
