"""From a caller's questions, in raw ids, to contexts and filters in dense ones; and who can be answered by what."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Contexts, Features
from suisen.data.ids import RawId
from suisen.data.ragged import Ragged, concat, offsets_of
from suisen.errors import InputError, UnsupportedQuery, unknown
from suisen.pipeline.engine import Filters
from suisen.pipeline.store import Store

UnknownPolicy = Literal["error", "popular", "skip"]
POLICIES: tuple[UnknownPolicy, ...] = ("error", "popular", "skip")
MOST = 10_000
"""Most items of a list: beyond it a recommendation is an export of the catalogue."""


@dataclass(frozen=True, kw_only=True)
class Ask:
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
    """Time of the request, microseconds since 1970 UTC; None: now."""

    def __post_init__(self) -> None:
        if isinstance(self.k, bool) or not isinstance(self.k, int) or not 1 <= self.k <= MOST:
            raise InputError(f"k = {self.k!r} must be a whole number from 1 to {MOST:,}")
        if not 0 <= self.diversity <= 1:
            raise InputError(f"diversity = {self.diversity!r} must be from 0 to 1")
        if self.unknown not in POLICIES:
            raise unknown("unknown", self.unknown, POLICIES)

    @property
    def moment(self) -> int:
        """``at``, or now."""
        return time.time_ns() // 1000 if self.at is None else self.at


@dataclass(frozen=True)
class Who:
    """B queries: ids, histories, features, or several of these; each sequence has B entries."""

    users: Sequence[RawId | None] | None = None
    histories: Sequence[Sequence[RawId]] | None = None
    user_features: Sequence[Mapping[str, Any]] | None = None
    requests: Sequence[Mapping[str, Any]] | None = None
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
class Questions:
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


def questions_of(store: Store, who: Who, moment: int) -> Questions:
    """Looks everything up; a history that is given takes the place of the stored one."""
    rows = who.size
    dense = np.zeros(rows, dtype=np.int64) if who.users is None else store.users.dense(who.users)
    user = torch.from_numpy(dense)
    contexts = store.contexts(user, moment)
    if who.histories is not None:
        contexts = _with_histories(store, contexts, who.histories)
    if who.user_features is not None:
        contexts = replace(contexts, user_features=_encoded(store, "user", who.user_features))
    if who.requests is not None:
        contexts = replace(contexts, request=_encoded(store, "request", who.requests))
    known = store.trained_users[user]
    contexts = replace(contexts, user=torch.where(known, user, 0))
    return Questions(contexts, contexts.history, known, _any_known(contexts.user_features))


def _with_histories(store: Store, contexts: Contexts, histories: Sequence[Sequence[RawId]]) -> Contexts:
    """Unknown items of a history are passed over.  Their times are not known: all stand at the request's."""
    lengths = torch.tensor([len(row) for row in histories], dtype=torch.int64)
    dense = torch.from_numpy(store.items.dense([item for row in histories for item in row]))
    ragged = Ragged(dense, offsets_of(lengths)).keep(dense > 0)
    times = torch.repeat_interleave(contexts.time, ragged.lengths)
    return replace(contexts, history=ragged, history_time=times)


def _encoded(store: Store, owner: str, values: Sequence[Mapping[str, Any]]) -> Features:
    encoder = store.encoders[owner]
    frames = [encoder.encode_one(row, owner) if row else pl.DataFrame({"_": [0]}) for row in values]
    parts = [encoder.encode(frame) for frame in frames]
    return Features(
        torch.cat([part.categorical for part in parts]),
        torch.cat([part.numeric for part in parts]),
        tuple(concat([part.multi[i] for part in parts]) for i in range(len(parts[0].multi))),
    )


def _any_known(features: Features) -> Tensor:
    """(B,) bool: whether any feature of the row is something else than missing."""
    out = (features.categorical > 0).any(1) | (features.numeric != 0).any(1)
    for bag in features.multi:
        out = out | (bag.lengths > 0)
    return out


def answerable(questions: Questions, abilities: frozenset[str]) -> Tensor:
    """(B,) bool: whom a model with these abilities can answer, from the user's own vector, a history or features."""
    able = questions.known.clone()
    if "history" in abilities:
        able |= questions.contexts.history.lengths > 0
    if "new users" in abilities:
        able |= questions.featured if "features" in abilities else torch.ones_like(able)
    return able


def refusal(who: Who, at: int, questions: Questions, model: str, abilities: frozenset[str]) -> UnsupportedQuery:
    """The error for a query that cannot be answered: who it is, what the model lacks, what would help."""
    name = "an anonymous query" if who.users is None or who.users[at] is None else f"user {who.users[at]!r}"
    has_history = int(questions.contexts.history.lengths[at]) > 0
    if has_history and "history" not in abilities:
        why = f"is unknown to train and {model} cannot fold in a history; use EASE, IALS, SASRec or TwoTower"
    elif bool(questions.featured[at]):
        why = f"is unknown to train and {model} cannot use features alone; use TwoTower, or give a history"
    else:
        why = "is unknown and brings neither a history nor features that the model reads"
    return UnsupportedQuery(f"{name} {why}; or pass unknown='popular' or unknown='skip'")


def filters_of(store: Store, ask: Ask, questions: Questions) -> Filters:
    """What each list may not hold, and the only items it may."""
    rows = len(questions)
    seen = questions.seen if ask.exclude_seen else Ragged.empty(rows)
    barred = torch.from_numpy(store.items.dense(list(ask.exclude)))
    barred = barred[barred > 0]
    if barred.numel():
        lengths = seen.lengths + barred.numel()
        values = torch.empty(int(lengths.sum()), dtype=torch.int64)
        mine = torch.arange(values.numel()) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
        own = mine < torch.repeat_interleave(seen.lengths, lengths)
        values[own], values[~own] = seen.values, barred.repeat(rows)
        seen = Ragged(values, offsets_of(lengths))
    among = None
    if ask.among is not None:
        among = torch.zeros(store.schema.n_items, dtype=torch.bool)
        among[torch.from_numpy(store.items.dense(list(ask.among)))] = True
        among[0] = False
    return Filters(seen, among)


def popular_lists(store: Store, filters: Filters, k: int) -> tuple[Tensor, Tensor]:
    """(B, k) the most popular items that the filters allow, and their counts as scores."""
    order = store.popular if filters.among is None else store.popular[filters.among[store.popular]]
    rows = len(filters.exclude)
    ids = torch.zeros((rows, k), dtype=torch.int64)
    scores = torch.full((rows, k), -torch.inf)
    for row in range(rows):  # only queries that no model can answer come here
        mine = filters.exclude.values[filters.exclude.offsets[row] : filters.exclude.offsets[row + 1]]
        head = order[: k + mine.numel()]
        head = head[~torch.isin(head, mine)][:k]
        ids[row, : head.numel()] = head
        scores[row, : head.numel()] = store.item_counts[head].float()
    return ids, scores
