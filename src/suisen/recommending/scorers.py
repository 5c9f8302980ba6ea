"""Networks as the evaluation sees them: every item of the catalogue in tiles, or the candidates that are given."""

from functools import cached_property

import torch
from torch import Tensor

from suisen.data.batch import Candidates, Contexts
from suisen.data.ragged import Ragged
from suisen.models.contract import Net
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
        items = items.to(self.device)
        scores = self.net.score_prepared(state, self.items, items)
        return torch.where(self.allowed[items], scores.float(), -torch.inf).cpu()

    @torch.no_grad()
    def prepare(self, contexts: Contexts) -> Tensor:
        """Query vectors, context states or all scores: what ``tile`` needs, computed once."""
        return self.net.prepare_contexts(contexts.to(self.device))

    @torch.no_grad()
    def tile(self, state: Tensor, lo: int, hi: int) -> Tensor:
        """(B, hi − lo) scores."""
        return self.net.score_tile(state, self.items, lo, hi)

    @property
    def bytes_per_score(self) -> int:
        """Working bytes of one score in a tile."""
        return self.net.bytes_per_score(self.items)

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

    @cached_property
    @torch.no_grad()
    def items(self) -> Tensor | None:
        """Item vectors or states, computed at first use: a scorer lives no longer than the weights stand still."""
        return self.net.prepare_items()
