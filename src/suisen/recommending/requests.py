"""From a caller's questions, in raw ids, to contexts and filters in dense ones; and who can be answered by what."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from suisen.data.batch import Contexts, Features, joined
from suisen.data.ids import RawId
from suisen.data.ragged import Ragged, concat, offsets_of
from suisen.errors import InputError, UnsupportedQuery, unknown
from suisen.recommending.engine import Filters, marked
from suisen.recommending.store import Store, saying

UnknownPolicy = Literal["error", "popular", "skip"]
POLICIES: tuple[UnknownPolicy, ...] = ("error", "popular", "skip")
MOST = 10_000
"""Most items of a list: beyond it a recommendation is an export of the catalogue."""
CELLS = 2**22
"""Places in popular lists that are looked at together."""


@dataclass(frozen=True, kw_only=True)
class RecommendOptions:
    """How a recommendation is wanted, whoever it is for."""

    k: int = 10
    """Items a list; fewer come only where fewer are allowed."""
    exclude: Sequence[RawId] = ()
    """Items that no list may hold; ids that are not known are ignored."""
    among: Sequence[RawId] | None = None
    """Only these items, where given."""
    exclude_seen: bool = True
    """Leave out what the history holds; False for things that people take again."""
    unknown: UnknownPolicy = "error"
    """What an unanswerable query gets: an error, the popular list, or no rows."""
    diversity: float = 0.0
    """0: by score alone; towards 1: lists of unlike items (maximal marginal relevance)."""
    at: int | None = None
    """Time of the request, microseconds since 1970 UTC: what stored histories hold from then on is left out, as if it
    had not happened yet.  None: now, and nothing is left out."""

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 1 <= self.k <= MOST:
            raise InputError(f"k = {self.k!r} must be a whole number from 1 to {MOST:,}")
        if not 0 <= self.diversity <= 1:
            raise InputError(f"diversity = {self.diversity!r} must be from 0 to 1")
        if self.unknown not in POLICIES:
            raise unknown("unknown", self.unknown, POLICIES)
        for name in ("exclude", "among"):
            check_list(name, getattr(self, name))


def check_list(name: str, values: object) -> None:
    """Raises InputError for one id where a list of ids belongs."""
    if isinstance(values, (str, bytes, int, Mapping)):
        raise InputError(f"{name} = {values!r} is not a list; give a list, like {name}=[{values!r}]")


@dataclass(frozen=True)
class RawQueries:
    """B queries: ids, histories, features, or several of these; each sequence has B entries.

    Where an entry is given it takes the place of what is stored of the user; None, and no features, leave that alone.
    """

    users: Sequence[RawId | None] | None = None
    histories: Sequence[Sequence[RawId] | None] | None = None
    user_features: Sequence[Mapping[str, Any] | None] | None = None
    requests: Sequence[Mapping[str, Any] | None] | None = None
    size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        given = {
            "users": self.users,
            "history": self.histories,
            "user_features": self.user_features,
            "context": self.requests,
        }
        sizes = {name: len(part) for name, part in given.items() if part is not None}
        if not sizes:
            raise InputError("nobody is asked for; give users, history or user_features")
        if len(set(sizes.values())) > 1:
            raise InputError(f"the queries differ in number: {sizes}; give one entry a query in each")
        object.__setattr__(self, "size", next(iter(sizes.values())))


@dataclass(frozen=True)
class DenseQueries:
    """B questions in dense ids."""

    contexts: Contexts
    seen: Ragged
    """B rows: what the histories hold."""
    known: Tensor
    """(B,) bool: a user whom train has events of."""
    featured: Tensor
    """(B,) bool: some user feature is known."""

    def __len__(self) -> int:
        return len(self.contexts)


def dense_queries(store: Store, who: RawQueries, at: int | None) -> DenseQueries:
    """Looks everything up; what is given takes the place of what is stored."""
    dense = np.zeros(who.size, dtype=np.int64) if who.users is None else store.users.dense(who.users)
    user = torch.from_numpy(dense)
    contexts = store.contexts(user, time.time_ns() // 1000 if at is None else at)
    if at is not None and store.has_time:
        contexts = _before(contexts, at)
    if who.histories is not None:
        contexts = _with_histories(store, contexts, who.histories)
    featured = store.featured_users[user]
    if who.user_features is not None:
        given = _encoded(store, "user", who.user_features)
        contexts = replace(contexts, user_features=_merged(contexts.user_features, given))
        featured = torch.where(given.rows, given.known, featured)
    if who.requests is not None:
        contexts = replace(contexts, context_features=_encoded(store, "context", who.requests).features)
    known = store.trained_users[user]
    contexts = replace(contexts, user=torch.where(known, user, 0))
    return DenseQueries(contexts, contexts.history, known, featured)


def _before(contexts: Contexts, at: int) -> Contexts:
    """The contexts with what their histories held in front of ``at``."""
    earlier = contexts.history_time < at
    return replace(contexts, history=contexts.history.keep(earlier), history_time=contexts.history_time[earlier])


def _with_histories(store: Store, contexts: Contexts, histories: Sequence[Sequence[RawId] | None]) -> Contexts:
    """Unknown items of a history are passed over.  Their times are not known: all stand at the request's."""
    for row in histories:
        check_list("history", row)
    rows = [() if row is None else row for row in histories]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    dense = torch.from_numpy(store.items.dense([item for row in rows for item in row]))
    given = Ragged(dense, offsets_of(lengths)).keep(dense > 0)
    times = given.with_values(torch.repeat_interleave(contexts.time, given.lengths))
    stored = torch.tensor([row is None for row in histories], dtype=torch.bool)
    if bool(stored.any()):
        chosen = torch.arange(len(contexts)) + stored.long() * len(contexts)
        given, times = (
            concat(pair).take(chosen)
            for pair in ((given, contexts.history), (times, contexts.history.with_values(contexts.history_time)))
        )
    return replace(contexts, history=given, history_time=times.values)


@dataclass(frozen=True)
class _Given:
    """Features as a caller gave them, encoded."""

    features: Features
    """B rows."""
    rows: Tensor
    """(B,) bool: where there were any."""
    known: Tensor
    """(B,) bool: where one of them says something."""


def _encoded(store: Store, owner: str, values: Sequence[Mapping[str, Any] | None]) -> _Given:
    """Rows that give the same features, of the same types, are encoded together."""
    encoder = store.encoders[owner]
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, row in enumerate(values):
        if row is not None and not isinstance(row, Mapping):
            raise InputError(f"{owner} features = {row!r} must be names with values, like {{'age': 24}}")
        alike.setdefault(tuple((name, _kind(value)) for name, value in (row or {}).items()), []).append(place)
    names = [column.name for column in encoder.columns]
    parts, marks = [Features.missing(encoder.schema, 0)], []
    for shape, places in alike.items():
        for name, _ in shape:
            if name not in names:
                raise unknown(f"{owner} feature", name, names)
        columns = {name: [(values[place] or {})[name] for place in places] for name, _ in shape}
        frame = pl.DataFrame(columns, strict=False) if columns else pl.DataFrame(height=len(places))
        parts.append(encoder.encode(frame))
        marks.append(saying(encoder, parts[-1], frame))
    order = torch.tensor([place for places in alike.values() for place in places], dtype=torch.int64).argsort()
    known = torch.cat(marks)[order] if marks else torch.zeros(0, dtype=torch.bool)
    return _Given(joined(parts).take(order), torch.tensor([bool(row) for row in values], dtype=torch.bool), known)


def _kind(value: object) -> object:
    """What must agree for values to stand in one column."""
    return (list, *{type(part) for part in value}) if isinstance(value, (list, tuple)) else type(value)


def _merged(stored: Features, given: _Given) -> Features:
    """Each row's given features, the stored ones where it gives none."""
    both: Features = joined([stored, given.features])
    return both.take(torch.arange(len(stored)) + given.rows.long() * len(stored))


def answerable(questions: DenseQueries, abilities: frozenset[str]) -> Tensor:
    """(B,) bool: whom a model with these abilities can answer, from the user's own vector, a history or features.

    A model that folds histories in and cannot meet new users has nothing to go by where the history is empty, even of a
    user it knows.
    """
    able = questions.known.clone()
    if "history" in abilities:
        past = questions.contexts.history.lengths > 0
        able = able | past if "new users" in abilities else past
    if "new users" in abilities:
        able |= questions.featured if "features" in abilities else torch.ones_like(able)
    return able


def refusal(
    who: RawQueries, at: int, questions: DenseQueries, model: str, abilities: frozenset[str]
) -> UnsupportedQuery:
    """The error for a query that cannot be answered: who it is, what the model lacks, what would help."""
    name = "an anonymous query" if who.users is None or who.users[at] is None else f"user {who.users[at]!r}"
    if bool(questions.known[at]):
        why = f"has no history and {model} goes by histories alone (it lacks 'new users'); give a history"
    elif int(questions.contexts.history.lengths[at]) > 0 and "history" not in abilities:
        why = f"is unknown to train and {model} lacks 'history'; use EASE, IALS, SASRec or TwoTower"
    elif bool(questions.featured[at]):
        why = f"is unknown to train and {model} lacks 'new users'; use TwoTower, or give a history"
    else:
        why = f"is unknown to train and brings neither a history nor features that {model} reads"
    return UnsupportedQuery(f"{name} {why}; or pass unknown='popular' or unknown='skip'")


def filters_of(store: Store, ask: RecommendOptions, questions: DenseQueries) -> Filters:
    """What each list may not hold, and the only items it may.

    What all lists exclude is added to each row, or, where that would be longer than the catalogue, taken out of it.
    """
    rows, n_items = len(questions), store.schema.n_items
    seen = questions.seen if ask.exclude_seen else Ragged.empty(rows)
    barred = torch.from_numpy(np.unique(store.items.dense(list(ask.exclude))))
    barred = barred[barred > 0]
    among = None
    if ask.among is not None:
        among = torch.zeros(n_items, dtype=torch.bool)
        among[torch.from_numpy(store.items.dense(list(ask.among)))] = True
        among[0] = False
    if barred.numel() * rows > n_items:
        among = torch.ones(n_items, dtype=torch.bool) if among is None else among
        among[barred] = False
    elif barred.numel():
        both = concat([seen, Ragged(barred.repeat(rows), torch.arange(rows + 1) * barred.numel())])
        pairs = both.take(torch.arange(2 * rows).view(2, rows).T.reshape(-1))  # each row's own, then what all exclude
        seen = Ragged(pairs.values, pairs.offsets[::2])
    return Filters(seen, among)


def popular_lists(store: Store, filters: Filters, k: int) -> tuple[Tensor, Tensor]:
    """(B, k) the most popular items that the filters allow, and their counts as scores."""
    order = store.popular if filters.among is None else store.popular[filters.among[store.popular]]
    longest = int(filters.exclude.lengths.max()) if len(filters.exclude) else 0
    head = order[: k + longest]
    at_once = max(1, CELLS // max(1, head.numel()))
    ids = [torch.zeros((0, k), dtype=torch.int64)]
    for rows in torch.arange(len(filters.exclude)).split(at_once):  # type: ignore[no-untyped-call]
        gone = marked(filters.exclude.take(rows), head.expand(len(rows), -1))
        best = gone.long().argsort(dim=1, stable=True)[:, :k]
        found = torch.where(gone.gather(1, best), 0, head[best])
        ids.append(F.pad(found, (0, k - found.shape[1])))
    lists = torch.cat(ids)
    return lists, torch.where(lists > 0, store.item_counts[lists].float(), -torch.inf)
