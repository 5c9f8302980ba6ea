"""Answers: pure functions from a System and queries to ranked lists."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from time import perf_counter
from typing import Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from suisen.checkpoint import checkpoint
from suisen.data.batch import Candidates
from suisen.data.ids import RawId, in_one_type
from suisen.data.ragged import Ragged, offsets_of
from suisen.errors import InputError, UnsupportedQuery
from suisen.recommending.diversity import diverse
from suisen.recommending.engine import CONTEXTS_PER_CHUNK, Fast, Filters, States, wide
from suisen.recommending.queries import (
    RawQueries,
    RecommendOptions,
    dense_queries,
    filters_of,
    known_items,
    popular_lists,
    refusal,
)
from suisen.recommending.requests import asked_of
from suisen.recommending.rules.ruling import Make, Marks, Ruling
from suisen.recommending.stages import ended, made
from suisen.recommending.states import VisitorRows
from suisen.recommending.store import Store
from suisen.recommending.system import System
from suisen.recommending.users import RecentEvents
from suisen.retrieval.select import top_of

AnsweredBy = Literal["model", "popular", "nobody"]


@dataclass(frozen=True)
class Answers:
    """Ranked lists of B queries in dense ids."""

    items: Tensor
    """(B, k) int64 dense ids, 0 = none."""
    scores: Tensor
    """(B, k) float32, -inf beside none."""
    by: list[AnsweredBy]
    """What answered each query: the model, the popular list, or nobody (skipped)."""
    known: int = 0
    """Queries of users whom train has events of."""
    marks: Marks | None = None
    """What rules did to the lists; None where there are none."""

    @property
    def unmet(self) -> Mapping[int, Mapping[str, str]]:
        """List → rule → why it is not met: relaxed, short or barred."""
        return {} if self.marks is None else self.marks.unmet


def answer(
    system: System, queries: RawQueries, options: RecommendOptions, recent: RecentEvents | None = None
) -> Answers:
    """The best ``options.k`` items for each query: exactly min(k, allowed) of them.

    ``recent`` is what users did since the system was made.  Raises UnsupportedQuery for a query that the model cannot
    answer, unless ``options.unknown`` says otherwise, and InputError for features that do not exist and where a query
    lacks what a rule needs.
    """
    options, began = resolved(system, options), perf_counter()
    ruling, queries = _ruling(system, queries, [options])
    dense = dense_queries(system.store, queries, options.at, recent)
    able = system.answerable(dense)
    ended("rows", began)
    checkpoint()
    if options.unknown == "error" and not bool(able.all()):
        at = int((~able).nonzero()[0])
        raise refusal(queries, dense, at, system.name, system.abilities)
    filters = filters_of(system.store, options, dense)
    items = torch.zeros((len(dense), options.k), dtype=torch.int64)
    scores = torch.full((len(dense), options.k), -torch.inf)
    rows = able.nonzero().squeeze(1)
    if rows.numel():
        contexts, stages = dense.contexts.take(rows), system.engine
        lists = stages.lists if options.precise else stages.fast_lists

        def by_model(within: Tensor | None, n: int, part: Filters) -> tuple[Tensor, Tensor]:
            some = contexts if within is None else contexts.take(within)
            return lists(some, n, part, 0.0 if ruling.moves else options.diversity, options.diversity_by)

        items[rows], scores[rows] = ruling.lists(rows, filters.take(rows), by_model)
    others = (~able).nonzero().squeeze(1)
    if others.numel() and options.unknown == "popular":
        began = perf_counter()
        popular = ruling.lists(others, filters.take(others), _by_popularity(system), ranked=False)
        ended("popular", began)
        made("popular", *popular)
        items[others], scores[others] = popular
    by = _by(able.tolist(), [options] * len(dense))
    return Answers(items, scores, by, int(dense.known.sum()), ruling.marks)


def _ruling(system: System, queries: RawQueries, options: Sequence[RecommendOptions]) -> tuple[Ruling, RawQueries]:
    """Rules for the lists of B queries, whose options agree in rules, k, diversity and time, and the queries without
    what only rules read.
    """
    first, engine = options[0], system.engine
    rules = system.rules_for(first.rules)
    asked, queries = asked_of(rules, system.store, queries)
    at = np.array([time.time_ns() // 1000 if first.at is None else first.at])
    ruling = Ruling.of(rules, asked, len(queries), first.k, engine.candidates, at, engine.open)
    if first.diversity > 0 and ruling.moves:

        def diversify(ids: Tensor, scores: Tensor, places: int) -> tuple[Tensor, Tensor]:
            began = perf_counter()
            found = diverse(ids, scores, engine.likeness, places, first.diversity, first.diversity_by)
            ended("diversify", began)
            return found

        ruling.diversify = diversify
    return ruling, queries


def _by_popularity(system: System) -> Make:
    """The popular lists as rules ask for them."""
    return lambda _, n, part: popular_lists(system.store, part, n, part.open or system.engine.open)


def resolved(system: System, options: RecommendOptions) -> RecommendOptions:
    """The options with the system's word on seen items where they have none."""
    if system.exclude_seen or options.exclude_seen is not None:
        return options
    return replace(options, exclude_seen=False)


def planned(system: System, options: RecommendOptions) -> bool:
    """Whether ``answer_planned`` can give what is asked for: there is a plan, and it takes that."""
    engine = system.engine
    if engine.plan is None or options.precise or options.rules is not None:
        return False
    if system.rules.reserve(options.k, engine.candidates) > engine.plan.most:
        return False
    return options.diversity == 0 and options.at is None and not options.where


def answer_planned(
    system: System, visitors: VisitorRows, queries: RawQueries, options: Sequence[RecommendOptions]
) -> Answers:
    """What ``answer`` gives, by the plan and from the rows of those who ask, to B queries with options of their own.

    All options are ``planned`` and share ``k`` and ``among``.  Raises as ``answer`` does.
    """
    if not system.exclude_seen:
        options = [resolved(system, one) for one in options]
    began = perf_counter()
    ruling = None
    if system.rules:
        ruling, queries = _ruling(system, queries, options)
    store, k, found = system.store, options[0].k, visitors.of(queries)
    ended("rows", began)
    by, known = _by(found.able.tolist(), options), int(found.known.sum())
    for at, one in enumerate(options):
        if by[at] == "nobody" and one.unknown == "error":
            asked = queries.take([at])
            raise refusal(asked, dense_queries(store, asked, None, visitors.recent), 0, system.name, system.abilities)
    among = None if options[0].among is None else known_items(store, options[0].among)
    items, scores = np.zeros((len(by), k), dtype=np.int64), np.full((len(by), k), -np.inf, dtype=np.float32)
    for who in ("model", "popular"):
        rows = [at for at, one in enumerate(by) if one == who]
        if not rows:
            continue
        exclude = _excluded(store, [found.seen[at] for at in rows], [options[at] for at in rows])
        filters, model = Filters(exclude, among), who == "model"
        began = perf_counter()
        if model:
            make = _by_plan(visitors.plan, found.states if len(rows) == len(by) else _taken(found.states, rows))
        else:
            make = _by_popularity(system)
        if ruling is None:
            lists = make(None, k, filters)
        else:
            lists = ruling.lists(torch.tensor(rows), filters, make, ranked=model)
        ended("plan" if model else "popular", began)
        if len(rows) == len(by):
            return Answers(*lists, by, known, None if ruling is None else ruling.marks)
        items[rows], scores[rows] = lists[0].numpy(), lists[1].numpy()
    marks = None if ruling is None else ruling.marks
    return Answers(torch.from_numpy(items), torch.from_numpy(scores), by, known, marks)


def _by_plan(plan: Fast, states: States) -> Make:
    """Lists of the plan as rules ask for them."""

    def make(within: Tensor | None, n: int, part: Filters) -> tuple[Tensor, Tensor]:
        some = states if within is None else _taken(states, within.tolist())
        return plan.lists(some, n, part.exclude, part.among, part.open)

    return make


def _by(able: Sequence[bool], options: Sequence[RecommendOptions]) -> list[AnsweredBy]:
    """What answers each of B queries."""
    pairs = zip(able, options, strict=True)
    return ["model" if yes else "popular" if one.unknown == "popular" else "nobody" for yes, one in pairs]


def _taken(states: States, rows: list[int]) -> States:
    """The states of some of the queries."""
    return States(states.queries[rows], None if states.rows is None else states.rows[rows])


def _excluded(store: Store, seen: list[bytes], options: Sequence[RecommendOptions]) -> Ragged:
    """B rows of dense items that each query's list may not hold: what was seen (int32, as bytes), what is excluded."""
    rows = [b"" if one.exclude_seen is False else its for its, one in zip(seen, options, strict=True)]
    barred = [item for one in options for item in one.exclude]
    if barred:
        dense = store.items.dense(barred).astype(np.int32)
        ends = np.cumsum([len(one.exclude) for one in options])[:-1]
        rows = [row + its[its > 0].tobytes() for row, its in zip(rows, np.split(dense, ends), strict=True)]
    values = np.frombuffer(b"".join(rows), dtype=np.int32).astype(np.int64)
    ends = np.array([0, *accumulate(len(row) // 4 for row in rows)])
    return Ragged(torch.from_numpy(values), torch.from_numpy(ends))


def rank(
    system: System,
    queries: RawQueries,
    given: Sequence[Sequence[RawId]],
    options: RecommendOptions,
    recent: RecentEvents | None = None,
) -> Answers:
    """The items given with each of B queries, the best first, with the last stage's scores; k is the longest row's.

    A ranker's pair features are those of the given items among themselves.  What is unknown or cannot be scored is left
    out, and an item that is given twice stands once; what was seen is not left out.  Of ``options``, ``unknown`` and
    ``at`` count.  Equal scores: as given.  Raises as ``answer`` does.
    """
    store, began = system.store, perf_counter()
    ruling, queries = _ruling(system, queries, [options])
    dense = dense_queries(store, queries, options.at, recent)
    able = system.answerable(dense)
    began = ended("rows", began)
    if options.unknown == "error" and not bool(able.all()):
        raise refusal(queries, dense, int((~able).nonzero()[0]), system.name, system.abilities)
    found = torch.from_numpy(store.items.dense([item for row in given for item in row]))
    ragged = Ragged(found, offsets_of(torch.tensor([len(row) for row in given]))).keep(found > 0).distinct()
    items = ragged.padded()  # (B, C)
    if ruling.rules:
        items = torch.where(ruling.may_hold(torch.arange(len(items)), items), items, 0)
    counted = store.trained_items[items] & system.engine.open.mask[items]
    scores = torch.where(counted, store.item_counts[items].float(), -torch.inf)
    rows = able.nonzero().squeeze(1)
    if rows.numel() and items.numel():
        scores[rows] = system.engine.score(dense.contexts.take(rows), Candidates(items[rows]))
    scores = torch.where(items > 0, scores, -torch.inf)
    ended("rank", began)
    if options.unknown != "popular":
        scores[~able] = -torch.inf
    best, order = scores.sort(dim=1, descending=True, stable=True)
    ranked = torch.where(best > -torch.inf, items.gather(1, order), 0)
    return Answers(ranked, best, _by(able.tolist(), [options] * len(dense)), int(dense.known.sum()))


def to_frame(system: System, queries: RawQueries, answers: Answers) -> pl.DataFrame:
    """Answers with raw ids: user_id, item_id, score, rank (from 1).

    Queries without a user are numbered from 0 in user_id.  Raises InputError where such a number is also a user's id.
    """
    row, place = _places(answers.items)
    return pl.DataFrame(
        [
            _user_ids(queries, system.store.users.raw_ids.dtype).gather(row),
            system.store.items.raw(answers.items.numpy()[row, place]).alias("item_id"),
            pl.Series("score", answers.scores.numpy()[row, place]),
            pl.Series("rank", place + 1, dtype=pl.Int64),
        ]
    )


def titles_of(system: System, answers: Answers) -> pl.Series:
    """The item titles of the rows of ``to_frame``."""
    return pl.Series("title", system.store.titles(answers.items[answers.items > 0]), dtype=pl.String)


def similar(system: System, items: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, k) the items most alike to (B,) dense ones, 0 = none, and how alike they are, descending; never itself.

    Of several sources the first one says it that can.

    Raises UnsupportedQuery for an item that the model does not know, and of a model that cannot tell what is alike.
    """
    first = system.engine.first
    allowed = first.allowed.cpu()
    if not first.net.compares_items:
        raise UnsupportedQuery(f"{system.name} cannot tell which items are alike; use ItemKNN or IALS")
    for at in items[~allowed[items]].tolist():
        raw = system.store.items.raw(np.array([at]))[0]
        raise UnsupportedQuery(f"item {raw!r} has no event in train and {system.name} lacks 'new items'; use TwoTower")
    likeness, open_ = system.engine.likeness, system.bound_rules.always(system.engine.open)
    ids, scores = [torch.zeros((0, k), dtype=torch.int64)], [torch.zeros((0, k))]
    for chunk in items.split(CONTEXTS_PER_CHUNK):  # type: ignore[no-untyped-call]
        alike = likeness.rows(chunk)  # (b, n_items)
        alike.masked_fill_(~(open_ & allowed), -torch.inf)
        alike[torch.arange(len(chunk)), chunk] = -torch.inf
        found, best = top_of(alike, k)
        ids.append(wide(found, k, 0))
        scores.append(wide(best, k, -torch.inf))
    return torch.cat(ids), torch.cat(scores)


def similar_frame(system: System, items: Sequence[RawId], k: int) -> pl.DataFrame:
    """``similar`` in raw ids: item_id, similar_id, score, rank.  Raises InputError for an item that is not known."""
    dense = torch.from_numpy(system.store.items.dense(list(items)))
    for item, at in zip(items, dense.tolist(), strict=True):
        if at == 0:
            raise InputError(f"item {item!r} is unknown; items are those of train and of the item table")
    ids, scores = similar(system, dense, k)
    row, place = _places(ids)
    return pl.DataFrame(
        [
            system.store.items.raw(dense.numpy()[row]).alias("item_id"),
            system.store.items.raw(ids.numpy()[row, place]).alias("similar_id"),
            pl.Series("score", scores.numpy()[row, place]),
            pl.Series("rank", place + 1, dtype=pl.Int64),
        ]
    )


def _places(ids: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every id of (B, k) that is there, row by row."""
    row, place = np.nonzero((ids > 0).numpy())
    return row, place


def _user_ids(queries: RawQueries, dtype: pl.DataType) -> pl.Series:
    """(B,) the queries' users as they were given, in one type; the query's number, from 0, where none is named."""
    if queries.users is None:
        return pl.Series("user_id", range(len(queries)), dtype=pl.Int64)
    given = [user.item() if isinstance(user, np.generic) else user for user in queries.users]
    numbers: list[RawId] = [str(i) if dtype == pl.String else i for i in range(len(given))]
    taken = {user for user in given if user is not None}
    named: list[RawId] = []
    for number, user in zip(numbers, given, strict=True):
        if user is None and number in taken:
            raise InputError(f"query {number} names no user, and user {number!r} is asked for too; ask for them apart")
        named.append(number if user is None else user)
    kinds = {type(user) for user in named}
    if kinds <= {str} or kinds <= {int}:
        return pl.Series("user_id", named, dtype=None if named else dtype)
    own = in_one_type(named).cast(dtype, strict=False)  # 2.0 is user 2
    return (own if own.null_count() == 0 else pl.Series([str(user) for user in named])).alias("user_id")
