"""The engine: contexts in, ranked lists out.  Retrieve → filter → rank → diversify → top k, in dense ids.

It is what training makes lists with, what the evaluation ranks with, and what the server runs.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.checkpoint import checkpoint
from suisen.data.batch import Candidates, Contexts
from suisen.data.ragged import Ragged
from suisen.models.contract import Model, Net, Ranker, Retriever
from suisen.recommending.diversity import mmr
from suisen.recommending.likeness import Likeness
from suisen.recommending.pairs.covisits import standardised
from suisen.recommending.pairs.tables import PairTables
from suisen.recommending.scorers import NetScorer
from suisen.recommending.stages import ended, made
from suisen.retrieval import Exact, Excluded, Index, IndexSettings, create_index, search_among
from suisen.retrieval.contract import Floats
from suisen.retrieval.select import top_of

PAIR = ("retrieval_score", "retrieval_rank")
"""Features of a (context, candidate) pair that a ranker is given: see ``pair_features``."""
CONTEXTS_PER_CHUNK = 256
"""Contexts ranked together: 256 × 500 candidates of 80 floats are 41 MB."""
SCORES_PER_CHUNK, HISTORY_PER_CHUNK = 2**22, 2**14
"""Fewer of them where a first stage without vectors scores the whole catalogue: so many scores, and so many items of
their histories, take tens of milliseconds, after which a computation may be broken off."""


def pair_features(scores: Tensor, known: Tensor) -> Tensor:
    """(B, C, 2) of (B, C) retrieval scores in descending order: standardised in its list, and −log₂ of its rank.

    The one function that makes them, for training and for serving.  ``known`` (B, C) is False on padding.
    """
    standard = standardised(scores, known)
    rank = torch.arange(1, scores.shape[1] + 1, dtype=torch.float32, device=scores.device)
    return torch.stack([standard.float(), (-torch.log2(rank) / 8).expand_as(standard)], 2)


def recommendable(model: Model, trained_items: Tensor) -> Tensor:
    """(n_items,) bool: what a model may recommend.  All items for one that can score new ones, else ``trained_items``,
    those that train has events of.
    """
    if "new items" not in model.abilities:
        return trained_items.clone()
    allowed = torch.ones_like(trained_items)
    allowed[0] = False
    return allowed


def build_index(net: Net | None, settings: IndexSettings) -> Index | None:
    """An index over rows 1… of a retriever's item vectors; None for a network that has none."""
    if not isinstance(net, Retriever):
        return None
    index = create_index(settings)
    with torch.no_grad():
        index.build(net.item_vectors()[1:].float().cpu().numpy())
    return index


@dataclass(frozen=True)
class Filters:
    """What a list may hold, beside what the model may recommend."""

    exclude: Ragged
    """B rows of dense items that each context must not get."""
    among: Tensor | None = None
    """(m,) dense items, rising: only these; None: the whole catalogue."""

    def take(self, rows: Tensor) -> "Filters":
        """The filters of some of the contexts."""
        return Filters(self.exclude.take(rows), self.among)


class Open(NamedTuple):
    """What lists may hold now: what the model may recommend, without items that are blocked.  Replaced as a whole, so
    that no list is made from two of them.
    """

    mask: Tensor
    """(n_items,) bool."""
    size: int
    popular: Tensor | None
    """(m,) those of them that train has, most positive events first; None: all that the store has."""


class States(NamedTuple):
    """What the fast way needs of B contexts: computed once, and as good as long as nothing new is known of them."""

    queries: Floats
    """(B, d) query vectors; (B, n_items) scores of a first stage without vectors."""
    rows: Floats | None
    """(B, r) what the ranker needs of the context; None without a ranker."""


class Fast(Protocol):
    """The fast way to lists: ``suisen.recommending.plan.Plan``."""

    most: int
    """Largest k that it takes."""

    @property
    def quick(self) -> bool:
        """Whether ``lists`` is short enough for an event loop."""

    def describe(self) -> dict[str, Any]:
        """Plain data: what runs, and how its lists compare with those of ``Engine.lists``."""

    def of(self, engine: "Engine") -> "Fast":
        """The same for an engine that shares all but ``open`` with this one's."""

    def prepare(self, contexts: Contexts) -> States:
        """What ``lists`` needs of B contexts."""

    def lists(self, states: States, k: int, exclude: Ragged, among: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B, k) dense ids, 0 = none, and their scores, descending: as ``Engine.lists``."""


class Engine:
    """The two stages, ready to run.  Either may be missing, not both.

    Without a retriever the ranker scores everything that is allowed; without a ranker the retrieval order stands.
    ``allowed`` (n_items,) bool marks what may be recommended; ``candidates`` are handed to the ranker per list.
    ``index`` is a built one over rows 1… of the retriever's item vectors; without it the search is exact.
    ``pairs`` makes the features of pairs that the ranker reads beside ``PAIR``.
    """

    def __init__(
        self,
        retriever: Net | None,
        ranker: Ranker | None,
        allowed: Tensor,
        candidates: int,
        index: Index | None = None,
        pairs: PairTables | None = None,
    ) -> None:
        first = retriever if retriever is not None else ranker
        if first is None:
            raise TypeError("an engine needs a retriever, a ranker or both")
        self.retriever, self.ranker, self.candidates, self.allowed = retriever, ranker, candidates, allowed
        self.pairs = pairs
        self.first = NetScorer(first, allowed)
        self.n_allowed = int(allowed.sum())
        self.open = Open(allowed, self.n_allowed, None)
        """What lists may hold now; see ``System.block``."""
        self.index = build_index(retriever, Exact()) if index is None else index
        self.states = NetScorer(ranker, allowed).items if ranker is not None and retriever is not None else None
        self.plan: Fast | None = None
        """The fast way, where the engine was loaded with one."""
        self.on_torch = "a plan is made when a bundle is saved; load that"
        """Why there is no plan, where there is none."""

    def apart(self) -> "Engine":
        """The same, with an ``open`` and a plan of its own."""
        other = copy(self)
        other.plan = None if self.plan is None else self.plan.of(other)
        return other

    # -- stages -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def retrieve(self, contexts: Contexts, n: int, filters: Filters) -> tuple[Tensor, Tensor]:
        """(B, n) dense ids, 0 = none, and (B, n) first-stage scores, descending.  n is cut to what is allowed."""
        return self.search(self.first.prepare(contexts), n, filters)

    @torch.no_grad()
    def search(self, state: Tensor, n: int, filters: Filters) -> tuple[Tensor, Tensor]:
        """``retrieve`` from what ``first.prepare`` made of the contexts."""
        open_ = self.open
        among = None if filters.among is None else filters.among[open_.mask[filters.among]]  # (m,)
        n = min(n, open_.size if among is None else among.numel())
        if self.index is None:
            scores = self.first.open_scores(state, filters.exclude)  # (B, n_items)
            if open_.size < self.n_allowed:
                scores.masked_fill_(~open_.mask, -torch.inf)
            if among is not None:
                outside = torch.ones_like(self.allowed)
                outside[among] = False
                scores.masked_fill_(outside, -torch.inf)
            return top_of(scores, n)
        queries = state.float().cpu().numpy()
        exclude = Excluded(filters.exclude.values.numpy() - 1, filters.exclude.offsets.numpy())
        if among is not None:
            found, products = search_among(self.index, queries, n, exclude, among.numpy() - 1)
        else:
            mask = None if open_.size == len(open_.mask) - 1 else open_.mask[1:].numpy()
            found, products = self.index.search(queries, n, exclude, mask)
        return torch.from_numpy(found) + 1, torch.from_numpy(products)

    @torch.no_grad()
    def rerank(self, contexts: Contexts, ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The same lists in the ranker's order, with its scores."""
        if self.states is None:
            return ids, scores
        ranked = self._ranked(contexts, ids, scores)
        order = ranked.argsort(dim=1, descending=True, stable=True)
        return ids.gather(1, order), ranked.gather(1, order)

    @torch.no_grad()
    def lists(self, contexts: Contexts, k: int, filters: Filters, diversity: float = 0.0) -> tuple[Tensor, Tensor]:
        """(B, k) ids, 0 = none, and their scores: exactly min(k, allowed) items per row, whatever is excluded.

        With ``diversity`` > 0 the order is that of maximal marginal relevance and scores may rise along it.
        """
        ids, values = [torch.zeros((0, k), dtype=torch.int64)], [torch.zeros((0, k))]
        for rows in self._chunks(contexts):
            checkpoint()
            part = contexts.take(rows)
            n = max(k, self.candidates) if self.states is not None or diversity > 0 else k
            began = perf_counter()
            found, scores = self.retrieve(part, n, filters.take(rows))
            began = ended("retrieve", began)
            made("retrieve", found, scores)
            checkpoint()
            if self.states is not None:
                found, scores = self.rerank(part, found, scores)
                began = ended("rank", began)
                made("rank", found, scores)
            if diversity > 0:
                found, scores = mmr(found, scores, self.likeness, k, diversity)
                ended("diversify", began)
                made("diversify", found, scores)
            ids.append(wide(found[:, :k], k, 0))
            values.append(wide(scores[:, :k], k, -torch.inf))
        return torch.cat(ids), torch.cat(values)

    def fast_lists(self, contexts: Contexts, k: int, filters: Filters, diversity: float = 0.0) -> tuple[Tensor, Tensor]:
        """``lists`` by the plan, where there is one and it takes what is asked for."""
        if self.plan is None or diversity > 0 or k > self.plan.most:
            return self.lists(contexts, k, filters, diversity)
        ids, values = [torch.zeros((0, k), dtype=torch.int64)], [torch.zeros((0, k))]
        for rows in self._chunks(contexts):
            checkpoint()
            part = filters.take(rows)
            began = perf_counter()
            found, scores = self.plan.lists(self.plan.prepare(contexts.take(rows)), k, part.exclude, part.among)
            ended("plan", began)
            ids.append(found)
            values.append(scores)
        return torch.cat(ids), torch.cat(values)

    # -- what others ask --------------------------------------------------------------------------------------------

    def rank(self, contexts: Contexts, k: int, exclude: Ragged) -> tuple[Tensor, Tensor]:
        """As ``suisen.evaluation.Scorer`` asks."""
        return self.lists(contexts, k, Filters(exclude))

    @torch.no_grad()
    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C): the last stage's scores of given candidates, ranked among themselves; -inf on what is not open."""
        open_ = self.open.mask[candidates.items]
        if self.states is None:
            return torch.where(open_, self.first.score(contexts, candidates), -torch.inf)
        out = torch.full(candidates.items.shape, -torch.inf)
        for rows in self._chunks(contexts):
            checkpoint()
            part, items = contexts.take(rows), candidates.items[rows]
            first = self.first.score(part, Candidates(items))
            first = torch.where(open_[rows], first, -torch.inf)
            order = first.argsort(dim=1, descending=True, stable=True)
            ids = torch.where(first > -torch.inf, items, 0).gather(1, order)
            ranked = self._ranked(part, ids, first.gather(1, order))
            out[rows] = torch.empty_like(ranked).scatter_(1, order, ranked)  # back where the candidates stood
        return out

    def _chunks(self, contexts: Contexts) -> Iterator[Tensor]:
        """The numbers of the contexts, those together that are ranked together."""
        rows = torch.arange(len(contexts))
        if self.index is not None:
            yield from rows.split(CONTEXTS_PER_CHUNK)  # type: ignore[no-untyped-call]
            return
        most = max(1, min(CONTEXTS_PER_CHUNK, SCORES_PER_CHUNK // len(self.allowed)))
        alike = torch.bincount(contexts.history.lengths.cumsum(0) // HISTORY_PER_CHUNK)  # rising, so each is a stretch
        for part in rows.split(alike.tolist()):  # type: ignore[no-untyped-call]
            yield from part.split(most)

    @property
    def pair_names(self) -> tuple[str, ...]:
        """Names of what ``pair`` makes: ``Schema.pair`` of the ranker; none without a retriever."""
        return () if self.retriever is None else (*PAIR, *(() if self.pairs is None else self.pairs.names))

    def pair(self, contexts: Contexts, ids: Tensor, scores: Tensor) -> Tensor:
        """(B, C, p) features of the pairs of lists: (B, C) items, 0 = none, and their retrieval scores, descending."""
        first = pair_features(scores, ids > 0)
        return first if self.pairs is None else torch.cat([first, self.pairs.of(contexts, ids)], 2)

    def _ranked(self, contexts: Contexts, ids: Tensor, scores: Tensor) -> Tensor:
        """(B, C) the ranker's scores of lists in retrieval order; -inf on padding."""
        if self.ranker is None or self.states is None:
            return scores
        state = self.ranker.context_state(contexts.to(self.first.device))
        return self.combined(state, ids, self.pair(contexts, ids, scores))

    @torch.no_grad()
    def combined(self, state: Tensor, ids: Tensor, pair: Tensor) -> Tensor:
        """(B, C) the ranker's scores from (B, t) context states, (B, C) items, 0 = none, and their pair features; -inf
        beside none.  Raises TypeError without a second stage.
        """
        if self.ranker is None or self.states is None:
            raise TypeError("the engine has no second stage")
        device = self.first.device
        ranked = self.ranker.combine(state, self.states[ids.to(device)], pair.to(device)).float().cpu()
        return torch.where(ids > 0, ranked, -torch.inf)

    @cached_property
    def likeness(self) -> Likeness:
        """How alike items are, as the first stage sees them."""
        return Likeness.of(self.first.net)


def wide(lists: Tensor, k: int, fill: float) -> Tensor:
    """(B, k): padded where the catalogue is smaller than k."""
    return F.pad(lists, (0, k - lists.shape[1]), value=fill)
