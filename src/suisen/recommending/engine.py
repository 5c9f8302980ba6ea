"""The engine: contexts in, ranked lists out.  Retrieve → filter → rank → diversify → top k, in dense ids.

It is what training makes lists with, what the evaluation ranks with, and what the server runs.
"""

from collections.abc import Iterator, Mapping, Sequence
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
from suisen.recommending.diversity import By, diverse
from suisen.recommending.likeness import Likeness
from suisen.recommending.pairs.tables import PairTables
from suisen.recommending.scorers import NetScorer
from suisen.recommending.sources import Found, Source, Sourced, Union, models_of, names_of, pair_names
from suisen.recommending.stages import ended, made
from suisen.retrieval import Exact, Index, IndexSettings, create_index
from suisen.retrieval.contract import Floats

CONTEXTS_PER_CHUNK = 256
"""Contexts ranked together: 256 × 500 candidates of 80 floats are 41 MB."""
SCORES_PER_CHUNK, HISTORY_PER_CHUNK = 2**22, 2**14
"""Fewer of them where a first stage without vectors scores the whole catalogue: so many scores, and so many items of
their histories, take tens of milliseconds, after which a computation may be broken off."""


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
    open: "Open | None" = None
    """What lists may hold under rules; None: what the engine's may."""

    def take(self, rows: Tensor) -> "Filters":
        """The filters of some of the contexts."""
        return Filters(self.exclude.take(rows), self.among, self.open)


@dataclass(frozen=True, eq=False)
class Open:
    """What lists may hold now: what the model may recommend, without items that are blocked.  Replaced as a whole, so
    that no list is made from two of them.
    """

    mask: Tensor
    """(n_items,) bool."""
    size: int
    popular: Tensor | None
    """(m,) those of them that train has, most positive events first; None: all that the store has."""
    blocked: Tensor | None = None
    """(m,) dense items that are blocked, whether the model may recommend them or not."""


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

    def lists(
        self, states: States, k: int, exclude: Ragged, among: Tensor | None = None, open_: Open | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, k) dense ids, 0 = none, and their scores, descending: as ``Engine.lists``."""


class Engine:
    """The two stages, ready to run.  Either may be missing, not both.

    Without a retriever the ranker scores everything that is allowed; without a ranker the retrieval order stands.
    ``allowed`` (n_items,) bool marks what may be recommended; ``candidates`` are handed to the ranker per list.
    ``index`` is a built one over rows 1… of the retriever's item vectors; without it the search is exact.  Several
    sources come as their ``Union``, which brings its indexes; see ``Engine.of``.  ``pairs`` makes the features of pairs
    that the ranker reads beside those of the first stage.
    """

    def __init__(
        self,
        retriever: Net | Union | None,
        ranker: Ranker | None,
        allowed: Tensor,
        candidates: int,
        index: Index | None = None,
        pairs: PairTables | None = None,
    ) -> None:
        self.union = retriever if isinstance(retriever, Union) else None
        self.retriever = None if isinstance(retriever, Union) else retriever
        """The network of the only source; None where there are several, and where there is none."""
        self.ranker, self.candidates, self.allowed, self.pairs = ranker, candidates, allowed, pairs
        self.sources = self._only(index) if self.union is None else self.union.sources
        self.first = next((each for each in self.sources if each.net.compares_items), self.sources[0]).scorer
        """The only source; of several the first one that can tell which items are alike."""
        self.index = self.sources[0].index if self.union is None else None
        """Of the only source."""
        self.n_allowed = int(allowed.sum())
        self.open = Open(allowed, self.n_allowed, None)
        """What lists may hold now; see ``System.block``."""
        self.states = NetScorer(ranker, allowed).items if ranker is not None and retriever is not None else None
        self.plan: Fast | None = None
        """The fast way, where the engine was loaded with one."""
        self.on_torch = "a plan is made when a bundle is saved; load that"
        """Why there is no plan, where there is none."""

    @classmethod
    def of(
        cls,
        models: tuple[Sourced, Model | None],
        nets: tuple[Sequence[Net], Ranker | None],
        trained_items: Tensor,
        candidates: int,
        indexes: IndexSettings | Sequence[Index | None],
        quotas: Mapping[str, int] | None = None,
        pairs: PairTables | None = None,
    ) -> "Engine":
        """An engine of models and their networks, each a pair of those of the first stage and of the ranker.

        ``trained_items``: (n_items,) bool; ``indexes``: built ones of each source, or what is to be built.
        """
        sources, ranker = models_of(models[0]), nets[1]
        built: Sequence[Index | None] = (
            indexes if isinstance(indexes, Sequence) else [build_index(net, indexes) for net in nets[0]]
        )
        if len(sources) < 2:
            model = sources[0] if sources else models[1]
            if model is None:
                raise TypeError("an engine needs a retriever, a ranker or both")
            allowed = recommendable(model, trained_items)
            net, index = (nets[0][0], built[0]) if sources else (None, None)
            return cls(net, ranker, allowed, candidates, index, pairs)
        parts = [
            Source(name, net, recommendable(model, trained_items), index, frozenset(model.abilities))
            for name, model, net, index in zip(names_of(sources), sources, nets[0], built, strict=True)
        ]
        union = Union(parts, quotas)
        return cls(union, ranker, union.allowed, candidates, pairs=pairs)

    def _only(self, index: Index | None) -> tuple[Source, ...]:
        """The only source: the retriever, or a ranker that ranks everything by itself."""
        net = self.retriever if self.retriever is not None else self.ranker
        if net is None:
            raise TypeError("an engine needs a retriever, a ranker or both")
        return (Source("", net, self.allowed, build_index(self.retriever, Exact()) if index is None else index),)

    @property
    def listed(self) -> bool:
        """Whether answers are made of candidates that were retrieved first, and not of scores of all items."""
        return self.states is not None or self.union is not None

    @property
    def alone(self) -> "NetScorer | Engine":
        """The first stage by itself, for the evaluation."""
        return self.first if self.union is None else self.with_ranker(None)

    def with_ranker(self, ranker: Ranker | None) -> "Engine":
        """The same first stage in front of another ranker, or of none."""
        first = self.retriever if self.union is None else self.union
        return Engine(first, ranker, self.allowed, self.candidates, self.index, None if ranker is None else self.pairs)

    def apart(self) -> "Engine":
        """The same, with an ``open`` and a plan of its own."""
        other = copy(self)
        other.plan = None if self.plan is None else self.plan.of(other)
        return other

    # -- stages -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def find(self, contexts: Contexts, n: int, filters: Filters) -> Found:
        """N candidates of each context in the order of the first stage, with their pair features.  n is cut to what is
        allowed.
        """
        if self.union is not None:
            open_ = filters.open or self.open
            return self.union.find(contexts, n, filters.exclude, open_.mask, _left(filters.among, open_))
        return Found(*self.search(self.first.prepare(contexts), n, filters))

    def retrieve(self, contexts: Contexts, n: int, filters: Filters) -> tuple[Tensor, Tensor]:
        """(B, n) dense ids, 0 = none, and (B, n) first-stage scores, descending.  n is cut to what is allowed."""
        found = self.find(contexts, n, filters)
        return found.ids, found.scores

    @torch.no_grad()
    def search(self, state: Tensor, n: int, filters: Filters) -> tuple[Tensor, Tensor]:
        """``retrieve`` by the only source, from what ``first.prepare`` made of the contexts."""
        open_ = filters.open or self.open
        among = _left(filters.among, open_)
        return self.sources[0].search(state, n, filters.exclude, (open_.mask, open_.size), among)

    @torch.no_grad()
    def rerank(self, contexts: Contexts, found: Found) -> tuple[Tensor, Tensor]:
        """The candidates in the ranker's order, with its scores."""
        if self.states is None:
            return found.ids, found.scores
        ranked = self._ranked(contexts, found)
        order = ranked.argsort(dim=1, descending=True, stable=True)
        return found.ids.gather(1, order), ranked.gather(1, order)

    @torch.no_grad()
    def lists(
        self, contexts: Contexts, k: int, filters: Filters, diversity: float = 0.0, by: By = "mmr"
    ) -> tuple[Tensor, Tensor]:
        """(B, k) ids, 0 = none, and their scores: exactly min(k, allowed) items per row, whatever is excluded.

        With ``diversity`` > 0 the order is that of ``suisen.recommending.diversity``, and scores may rise along it.
        """
        ids, values = [torch.zeros((0, k), dtype=torch.int64)], [torch.zeros((0, k))]
        for rows in self._chunks(contexts):
            checkpoint()
            part = contexts.take(rows)
            n = max(k, self.candidates) if self.listed or diversity > 0 else k
            began = perf_counter()
            candidates = self.find(part, n, filters.take(rows))
            began = ended("retrieve", began)
            made("retrieve", candidates.ids, candidates.scores)
            checkpoint()
            found, scores = self.rerank(part, candidates)
            if self.states is not None:
                began = ended("rank", began)
                made("rank", found, scores)
            if diversity > 0:
                found, scores = diverse(found, scores, self.likeness, k, diversity, by)
                ended("diversify", began)
                made("diversify", found, scores)
            ids.append(wide(found[:, :k], k, 0))
            values.append(wide(scores[:, :k], k, -torch.inf))
        return torch.cat(ids), torch.cat(values)

    def fast_lists(
        self, contexts: Contexts, k: int, filters: Filters, diversity: float = 0.0, by: By = "mmr"
    ) -> tuple[Tensor, Tensor]:
        """``lists`` by the plan, where there is one and it takes what is asked for."""
        if self.plan is None or diversity > 0 or k > self.plan.most:
            return self.lists(contexts, k, filters, diversity, by)
        ids, values = [torch.zeros((0, k), dtype=torch.int64)], [torch.zeros((0, k))]
        for rows in self._chunks(contexts):
            checkpoint()
            part = filters.take(rows)
            began = perf_counter()
            found, scores = self.plan.lists(
                self.plan.prepare(contexts.take(rows)), k, part.exclude, part.among, part.open
            )
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
        if not self.listed:
            open_ = self.open.mask[candidates.items]
            return torch.where(open_, self.first.score(contexts, candidates), -torch.inf)
        out = torch.full(candidates.items.shape, -torch.inf)
        for rows in self._chunks(contexts):
            checkpoint()
            part = contexts.take(rows)
            found, order = self._given(part, candidates.items[rows])
            ranked = self._ranked(part, found)
            out[rows] = torch.empty_like(ranked).scatter_(1, order, ranked)  # back where the candidates stood
        return out

    def _given(self, contexts: Contexts, items: Tensor) -> tuple[Found, Tensor]:
        """(B, C) given items in the order of the first stage, and (B, C) where each of them stood."""
        mask = self.open.mask
        if self.union is not None:
            return self.union.given(contexts, items, mask)
        first = self.first.score(contexts, Candidates(items))
        first = torch.where(mask[items], first, -torch.inf)
        order = first.argsort(dim=1, descending=True, stable=True)
        ids = torch.where(first > -torch.inf, items, 0).gather(1, order)
        return Found(ids, first.gather(1, order)), order

    def _chunks(self, contexts: Contexts) -> Iterator[Tensor]:
        """The numbers of the contexts, those together that are ranked together."""
        rows = torch.arange(len(contexts))
        if all(source.index is not None for source in self.sources):
            yield from rows.split(CONTEXTS_PER_CHUNK)  # type: ignore[no-untyped-call]
            return
        most = max(1, min(CONTEXTS_PER_CHUNK, SCORES_PER_CHUNK // len(self.allowed)))
        alike = torch.bincount(contexts.history.lengths.cumsum(0) // HISTORY_PER_CHUNK)  # rising, so each is a stretch
        for part in rows.split(alike.tolist()):  # type: ignore[no-untyped-call]
            yield from part.split(most)

    @property
    def pair_names(self) -> tuple[str, ...]:
        """Names of what ``pair`` makes: ``Schema.pair`` of the ranker; none without a first stage of its own."""
        if self.retriever is None and self.union is None:
            return ()
        return (
            *pair_names([source.name for source in self.sources]),
            *(() if self.pairs is None else self.pairs.names),
        )

    def pair(self, contexts: Contexts, found: Found) -> Tensor:
        """(B, C, p) features of the pairs of the contexts and their candidates."""
        return found.pair if self.pairs is None else torch.cat([found.pair, self.pairs.of(contexts, found.ids)], 2)

    def _ranked(self, contexts: Contexts, found: Found) -> Tensor:
        """(B, C) the last stage's scores of candidates; -inf on padding."""
        if self.ranker is None or self.states is None:
            return found.scores
        state = self.ranker.context_state(contexts.to(self.first.device))
        return self.combined(state, found.ids, self.pair(contexts, found))

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


def _left(among: Tensor | None, open_: Open) -> Tensor | None:
    """Those of the only items of a request that lists may hold now; None: all may."""
    return None if among is None else among[open_.mask[among]]


def wide(lists: Tensor, k: int, fill: float) -> Tensor:
    """(B, k): padded where the catalogue is smaller than k."""
    return F.pad(lists, (0, k - lists.shape[1]), value=fill)
