"""The Recommender: the one object with the verbs.  ``fit``, ``recommend``, ``similar_items``, ``funnel``, ``save``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack

import numpy as np
import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Candidates, Contexts, Queries
from suisen.data.dataset import Dataset
from suisen.data.ids import RawId
from suisen.data.ragged import Ragged
from suisen.errors import InputError, UnsupportedQuery, unknown
from suisen.evaluation import Facts
from suisen.models import name_of
from suisen.models.contract import Model, Retriever
from suisen.pipeline.two_stage import RankerLists, Recipe, may_recommend, train_stages
from suisen.recommending.engine import AT_ONCE, Engine, Filters, wide
from suisen.recommending.requests import (
    DenseQueries,
    RawQueries,
    RecommendOptions,
    answerable,
    check_list,
    dense_queries,
    filters_of,
    popular_lists,
    refusal,
)
from suisen.recommending.scorers import top_of
from suisen.recommending.store import Store
from suisen.retrieval import IndexSettings, measured_recall
from suisen.training.options import Curve, RunOptions

if TYPE_CHECKING:
    from suisen.pipeline.funnel import Funnel

By = Literal["model", "popular", "nobody"]
USERS_AT_ONCE = 8192
"""Users of ``recommend_all`` whose frame is held at a time."""


class _AskOptions(TypedDict, total=False):
    """The keyword arguments of ``recommend``: the fields of ``RecommendOptions``, written there."""

    exclude: Sequence[RawId]
    among: Sequence[RawId] | None
    exclude_seen: bool
    unknown: Literal["error", "popular", "skip"]
    diversity: float
    at: int | None


class _WhoOptions(TypedDict, total=False):
    """Who is asked for, beside ids."""

    history: Sequence[Any] | None
    """Items of one query, or one list of items a query; takes the place of the stored history (None: it stays)."""
    user_features: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
    context: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None
    """Features of the request."""
    titles: bool
    """Add a column ``title`` from the item table."""


class Options(_AskOptions, _WhoOptions, total=False):
    """All keyword arguments of ``recommend``."""


@dataclass(frozen=True)
class Answers:
    """Ranked lists of B queries in dense ids."""

    items: Tensor
    """(B, k) dense ids, 0 = none."""
    scores: Tensor
    """(B, k) float32, -inf beside none."""
    by: list[By]
    """What answered each query: the model, the popular list, or nobody (skipped)."""


class Recommender:
    """A retriever, a ranker or both, over one Dataset.

    >>> Recommender(None)
    Traceback (most recent call last):
    suisen.errors.InputError: a Recommender needs a retriever, a ranker or both
    """

    def __init__(
        self,
        retriever: Model | None = None,
        ranker: Model | None = None,
        *,
        candidates: int = 500,
        index: IndexSettings | None = None,
        seed: int = 0,
        lists: RankerLists | None = None,
    ) -> None:
        if retriever is None and ranker is None:
            raise InputError("a Recommender needs a retriever, a ranker or both")
        if candidates < 1:
            raise InputError(f"candidates = {candidates} must be at least 1; hundreds to thousands are usual")
        self.retriever, self.ranker = retriever, ranker
        self.candidates, self.index_settings, self.seed = candidates, index, seed
        self.lists = lists or RankerLists()
        self.curves: dict[str, list[Curve]] = {}
        self.notes: tuple[str, ...] = ()
        self.index_recall: float | None = None
        self.version = ""
        """Names the bundle it was loaded from; "" before."""

    # -- learning ---------------------------------------------------------------------------------------------------

    def fit(self, train: Dataset, valid: Queries | None = None, options: RunOptions | None = None) -> Self:
        """Learns from train; ``valid`` tells each stage when to stop.  Returns itself."""
        stages = train_stages(self.recipe(options), train, valid)
        self.curves, self.notes = stages.curves, stages.notes
        self.store = Store.of(train)
        first = self.retriever if self.retriever is not None else self.ranker
        allowed = may_recommend(first, train) if first is not None else train.trained_items
        self.engine = Engine(stages.retriever, stages.ranker, allowed, self.candidates, self.index_settings)
        self.index_recall = self._measure_index()
        return self

    def recipe(self, options: RunOptions | None = None) -> Recipe:
        """What ``fit`` trains, and how."""
        history = self.ranker.view.history if self.ranker is not None and hasattr(self.ranker.view, "history") else 0
        return Recipe(
            self.retriever,
            self.ranker,
            self.candidates,
            replace(self.lists, candidates=self.candidates, history=history),
            options or RunOptions(seed=self.seed),
            self.index_settings,
        )

    def _measure_index(self) -> float | None:
        """Share of the exact nearest that the index finds for some of train's users."""
        engine = self.engine
        if engine.index is None or not isinstance(engine.retriever, Retriever):
            return None
        some = self.store.trained_users.nonzero().squeeze(1)[:256]
        with torch.no_grad():
            queries = engine.retriever.query_vectors(self.store.contexts(some, 0).to(engine.first.device))
        k = min(self.candidates, self.store.schema.n_items - 1)
        return measured_recall(engine.index, engine.index.vectors, queries.float().cpu().numpy(), k)

    @property
    def fitted(self) -> bool:
        """Whether there is something to recommend from."""
        return hasattr(self, "engine")

    def _ready(self) -> None:
        if not self.fitted:
            raise InputError("the Recommender is not fitted; call fit(train) or load a bundle")

    @property
    def abilities(self) -> frozenset[str]:
        """Whom the first stage can answer."""
        first = self.retriever if self.retriever is not None else self.ranker
        return frozenset(first.abilities) if first is not None else frozenset()

    @property
    def name(self) -> str:
        """The models' names, like ``ease + deepfm``."""
        return " + ".join(name_of(model) for model in (self.retriever, self.ranker) if model is not None)

    # -- recommending -----------------------------------------------------------------------------------------------

    def recommend(
        self, users: Sequence[RawId | None] | None = None, k: int = 10, **options: Unpack[Options]
    ) -> pl.DataFrame:
        """The best ``k`` items for each query, as a frame of user_id, item_id, score, rank (from 1).

        Queries are users (``users=["u1", "u2"]``), histories (``history=["sku9"]`` or one list a query), features
        (``user_features={"age": 24}``), or several of these; queries without a user are numbered from 0 in user_id.
        Each gets exactly min(k, allowed) items.  Raises UnsupportedQuery for a query that the model cannot answer,
        unless ``unknown`` says otherwise; the other options are the fields of ``RecommendOptions``.
        """
        who = who_of(users, options)
        frame = self.frame(self.answer(who, ask_of(k, options)), who)
        if not options.get("titles"):
            return frame
        names = self.store.titles(torch.from_numpy(self.store.items.dense(frame["item_id"])))
        return frame.with_columns(pl.Series("title", names, dtype=pl.String))

    def answer(self, who: RawQueries, ask: RecommendOptions) -> Answers:
        """What ``recommend`` returns as a frame, in dense ids, with what answered each query."""
        self._ready()
        questions = dense_queries(self.store, who, ask.at)
        able = answerable(questions, self.abilities)
        if ask.unknown == "error" and not bool(able.all()):
            at = int((~able).nonzero()[0])
            raise refusal(who, at, questions, self.name, self.abilities)
        filters = filters_of(self.store, ask, questions)
        items = torch.zeros((len(questions), ask.k), dtype=torch.int64)
        scores = torch.full((len(questions), ask.k), -torch.inf)
        rows = able.nonzero().squeeze(1)
        if rows.numel():
            contexts = questions.contexts.take(rows)
            items[rows], scores[rows] = self.engine.lists(contexts, ask.k, filters.take(rows), ask.diversity)
        others = (~able).nonzero().squeeze(1)
        if others.numel() and ask.unknown == "popular":
            items[others], scores[others] = popular_lists(self.store, filters.take(others), ask.k)
        instead: By = "popular" if ask.unknown == "popular" else "nobody"
        return Answers(items, scores, ["model" if yes else instead for yes in able.tolist()])

    def frame(self, answers: Answers, who: RawQueries) -> pl.DataFrame:
        """Answers with raw ids: user_id, item_id, score, rank."""
        there = (answers.items > 0).numpy()
        row, place = np.nonzero(there)
        return pl.DataFrame(
            [
                _names(who, self.store.users.raw_ids.dtype).gather(row),
                self.store.items.raw(answers.items.numpy()[there]).alias("item_id"),
                pl.Series("score", answers.scores.numpy()[there]),
                pl.Series("rank", place + 1, dtype=pl.Int64),
            ]
        )

    def recommend_all(self, k: int = 10, **options: Unpack[_AskOptions]) -> Iterator[pl.DataFrame]:
        """Frames for every user that train knows, some thousands at a time."""
        self._ready()
        known = self.store.users.raw(self.store.trained_users.nonzero().squeeze(1).numpy())
        for start in range(0, known.len(), USERS_AT_ONCE):
            yield self.recommend(known[start : start + USERS_AT_ONCE].to_list(), k, **options)

    def similar_items(self, items: Sequence[RawId], k: int = 10) -> pl.DataFrame:
        """For each item the ``k`` most alike ones by cosine: item_id, similar_id, score, rank.

        Raises InputError for an item that is not known, UnsupportedQuery for one that the model cannot place.
        """
        self._ready()
        check_list("items", items)
        k = RecommendOptions(k=k).k
        dense = self._placed(list(items))
        lists = [torch.zeros((0, k), dtype=torch.int64)], [torch.zeros((0, k))]
        for rows in dense.split(AT_ONCE):  # type: ignore[no-untyped-call]
            for part, found in zip(lists, self._alike(rows, k), strict=True):
                part.append(found)
        ids, scores = (torch.cat(part) for part in lists)
        row, place = np.nonzero((ids > 0).numpy())
        return pl.DataFrame(
            [
                self.store.items.raw(dense.numpy()[row]).alias("item_id"),
                self.store.items.raw(ids.numpy()[row, place]).alias("similar_id"),
                pl.Series("score", scores.numpy()[row, place]),
                pl.Series("rank", place + 1, dtype=pl.Int64),
            ]
        )

    def _placed(self, items: list[RawId]) -> Tensor:
        """(n,) dense ids of items that have a vector worth comparing."""
        dense = torch.from_numpy(self.store.items.dense(items))
        for item, at in zip(items, dense.tolist(), strict=True):
            if at == 0:
                raise InputError(f"item {item!r} is unknown; items are those of train and of the item table")
            if not self.engine.allowed[at]:
                raise UnsupportedQuery(
                    f"item {item!r} has no event in train and {self.name} lacks 'new items'; use TwoTower"
                )
        return dense

    def _alike(self, dense: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(B, k) items most alike to (B,) others, and their cosines."""
        vectors = self.engine.similarity_vectors()
        cosines = vectors[dense] @ vectors.T
        cosines.masked_fill_(~self.engine.allowed, -torch.inf)
        cosines[torch.arange(len(dense)), dense] = -torch.inf
        ids, scores = top_of(cosines, k)
        return wide(ids, k, 0), wide(scores, k, -torch.inf)

    # -- measuring: what suisen.evaluation asks ----------------------------------------------------------------------

    def scorer(self) -> Any:
        """What to hand to ``evaluate``: tiles of the whole catalogue for one stage, lists for two."""
        self._ready()
        return self.engine.first if self.engine.states is None else self.engine

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C) scores of given candidates, dense ids."""
        self._ready()
        return self.engine.score(contexts, candidates)

    def rank(self, contexts: Contexts, k: int, exclude: Ragged) -> tuple[Tensor, Tensor]:
        """(B, k) dense ids and scores."""
        self._ready()
        return self.engine.lists(contexts, k, Filters(exclude))

    def facts(self, vectors: bool = True) -> Facts:
        """What metrics beyond accuracy need; diversity compares the first stage's item ``vectors``."""
        self._ready()
        if not vectors:
            return Facts(self.store.item_counts)
        return Facts(self.store.item_counts, self.engine.similarity_vectors(), "the retriever's item vectors")

    def check_queries(self, queries: Queries) -> None:
        """Raises InputError for queries in other dense ids than the Recommender's, as far as their numbers show it."""
        self._ready()
        schema, asked = self.store.schema, queries.contexts
        given = queries.candidates if queries.candidates is not None else queries.truth.values
        items = [queries.truth.values, queries.seen.values, asked.history.values, given]
        for what, parts, size in (("user", [asked.user], schema.n_users), ("item", items, schema.n_items)):
            largest = max((int(part.max()) for part in parts if part.numel()), default=0)
            if largest >= size:
                raise InputError(
                    f"the queries ask for dense {what} {largest} and the Recommender knows 1 to {size - 1}; "
                    "give queries of the split that it was trained on"
                )

    def funnel(self, queries: Queries, k: int = 10, seed: int = 0) -> Funnel:
        """What each stage keeps of what the users went on to take; see ``suisen.pipeline.funnel``."""
        from suisen.pipeline.funnel import funnel

        self.check_queries(queries)
        return funnel(self.engine, queries, k, seed)

    # -- keeping ----------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path, **facts: Any) -> Path:
        """Writes a bundle; see ``suisen.recommending.bundle``."""
        from suisen.recommending.bundle import save

        return save(self, Path(folder), **facts)

    @classmethod
    def load(cls, folder: str | Path) -> Recommender:
        """Reads a bundle; see ``suisen.recommending.bundle``."""
        from suisen.recommending.bundle import load

        return load(Path(folder))

    def __repr__(self) -> str:
        parts = [repr(model) for model in (self.retriever, self.ranker) if model is not None]
        return f"Recommender({', '.join(parts)}, candidates={self.candidates})"


def ask_of(k: int, options: Options) -> RecommendOptions:
    """The part of ``recommend``'s options that says how."""
    names = _AskOptions.__optional_keys__
    return RecommendOptions(k=k, **{name: value for name, value in options.items() if name in names})  # type: ignore[arg-type]


def who_of(users: Sequence[RawId | None] | None, options: Options) -> RawQueries:
    """The part of ``recommend``'s options that says for whom.  Raises InputError for an option that does not exist."""
    for name in options:
        if name not in Options.__optional_keys__:
            raise unknown("option", name, Options.__optional_keys__)
    check_list("users", users)
    history = options.get("history")
    check_list("history", history)
    if history is not None and not any(entry is None or _is_list(entry) for entry in history):
        history = [history]
    return RawQueries(users, history, _listed(options.get("user_features")), _listed(options.get("context")))


def _is_list(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes))


def _listed(
    values: Mapping[str, Any] | Sequence[Mapping[str, Any] | None] | None,
) -> Sequence[Mapping[str, Any] | None] | None:
    return [values] if isinstance(values, Mapping) else values


def _names(who: RawQueries, kind: pl.DataType) -> pl.Series:
    """The queries' users as they were given, in one type; the query's number, from 0, for who was not named."""
    if who.users is None:
        return pl.Series("user_id", range(who.size), dtype=pl.Int64)
    given = list(who.users)
    numbers: list[RawId] = [str(i) if kind == pl.String else i for i in range(len(given))]
    taken = {user for user in given if user is not None}
    for number, user in zip(numbers, given, strict=True):
        if user is None and number in taken:
            raise InputError(f"query {number} names no user, and user {number!r} is asked for too; ask for them apart")
    named = [number if user is None else user for number, user in zip(numbers, given, strict=True)]
    if len({type(user) for user in named}) > 1:
        named = [str(user) for user in named]
    return pl.Series("user_id", named, dtype=None if named else kind)


__all__ = ["Answers", "DenseQueries", "Options", "RawQueries", "RecommendOptions", "Recommender"]
