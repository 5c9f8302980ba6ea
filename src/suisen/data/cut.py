"""From parts of a log to a Split: which events train learns from, and what valid and test ask.

The rules of ``suisen.data.splits`` only say which part each event belongs to; everything that could leak is here, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Contexts, Queries
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.errors import InputError

Order = Literal["user", "global", "session", "place", "random"]
"""What is promised of train: per user nothing later than the truth; nothing at or after one cut; no session that began
at or after the cut; the place in the source instead of time; nothing (a random split knows the future)."""
TRAIN, VALID, TEST = 0, 1, 2


@dataclass(frozen=True)
class Split:
    """What a model learns from, what it is picked on and what it is measured on."""

    train: Dataset
    valid: Queries | None
    """None where the rule holds nothing out for it."""
    test: Queries
    order: Order
    """What ``check_no_future`` can rely on."""
    cut: int | None
    """Microseconds since 1970 UTC at which train ends, where one cut does for all."""
    facts: Mapping[str, int]
    """Counts: events of each part, queries, truth, and what train does not know of it."""
    notes: tuple[str, ...]
    """What the rule left out or merged, in words."""


class Splitter(Protocol):
    """A rule that cuts a data set."""

    def split(self, data: Dataset) -> Split:
        """Every event goes to exactly one of train, valid and test."""


@dataclass(frozen=True)
class Parts:
    """A rule's answer, before anything is built from it."""

    part: Tensor
    """(n,) int64 beside ``Dataset.events``: TRAIN, VALID or TEST."""
    order: Order
    rule: str
    """The rule in words; opens the protocol."""
    cut: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Asked:
    """B queries as rows of the whole data set's events."""

    at: Tensor
    """(B,) the event whose user, time and request features the query has."""
    taken: Ragged
    """B rows of events whose items are the truth."""
    past: Ragged
    """B rows of events that are the history, in order."""

    def __len__(self) -> int:
        return self.at.numel()


@dataclass(frozen=True)
class Known:
    """The whole data set's dense ids in those of train; 0 for what train does not know."""

    data: Dataset
    train: Dataset
    users: Tensor
    """(n_users of data,) int64."""
    items: Tensor
    """(n_items of data,) int64."""

    @classmethod
    def of(cls, data: Dataset, train: Dataset) -> Known:
        """By way of the raw ids."""
        users, items = train.users.dense(data.users.raw_ids), train.items.dense(data.items.raw_ids)
        return cls(data, train, *(torch.cat([torch.zeros(1).long(), torch.from_numpy(m)]) for m in (users, items)))


def train_of(data: Dataset, part: Tensor) -> Dataset:
    """Train from its own events and the declared tables alone: ids, vocabularies, means.  Fails where none is left."""
    events = data.log.events.filter(pl.Series((part == TRAIN).numpy()))
    if not events.height:
        raise InputError("the split leaves no event for train; hold out less")
    return Dataset.of(replace(data.log, events=events))


def split_parts(data: Dataset, parts: Parts) -> Split:
    """One query a visitor and part: truth = its positives in the part.

    History and seen are the visitor's positives in front of the first of them, those of valid included where test asks;
    in a random split they are its positives in train.  Items that train does not know are 0 in the truth (a miss for
    every model) and left out of histories; a truth named twice counts once; all are counted in ``facts``.

    Memory: 16 bytes a history value and at most two history values an event (valid's and test's), plus one copy of
    the events.  Fails where train or test would be empty.
    """
    known = Known.of(data, train_of(data, parts.part))
    made = {}
    for name, number in (("valid", VALID), ("test", TEST)):
        asked = per_visitor(data, parts, number)
        made[name] = queries_of(known, asked, parts.rule) if len(asked) else None
    return assembled(known, parts, made["valid"], made["test"])


def per_visitor(data: Dataset, parts: Parts, number: int) -> Asked:
    """Each visitor with a positive in the part, in the order of the data set."""
    rows = torch.nonzero(data.positive & (parts.part == number)).squeeze(1)
    visitor, counts = torch.unique_consecutive(data.events.visitor[rows], return_counts=True)
    taken = Ragged(rows, offsets_of(counts))
    at = rows[taken.offsets[:-1]]
    if parts.order == "random":
        return Asked(at, taken, past_of(data, data.positive & (parts.part == TRAIN), visitor))
    return Asked(at, taken, past_of(data, data.positive, visitor, at))


def past_of(data: Dataset, among: Tensor, visitor: Tensor, at: Tensor | None = None, most: int | None = None) -> Ragged:
    """Rows of the visitors' events ``among`` (n,) bool, in order: those in front of ``at`` (B,), or all of them; the
    last ``most`` of those.
    """
    marks = among.long()
    offsets = offsets_of(torch.bincount(data.events.visitor[among], minlength=data.events.offsets.numel() - 1))
    ends = offsets[visitor + 1] if at is None else (marks.cumsum(0) - marks)[at]
    lengths = ends - offsets[visitor]
    if most is not None:
        lengths = lengths.clamp(max=most)
    return Ragged(torch.nonzero(among).squeeze(1)[spans(ends - lengths, lengths)], offsets_of(lengths))


def queries_of(known: Known, asked: Asked, protocol: str) -> Queries:
    """The queries in train's ids."""
    data, train, events = known.data, known.train, known.data.events
    taken = distinct(asked.taken.with_values(events.item[asked.taken.values]), data.schema.n_items)
    past = asked.past.keep(known.items[events.item[asked.past.values]] > 0)
    history = past.with_values(known.items[events.item[past.values]])
    user = known.users[data.user[asked.at]]
    contexts = Contexts(
        user=user,
        user_features=train.user_features.take(user),
        context_features=train.encoders["context"].encode(data.log.events[asked.at.numpy()]),
        time=torch.maximum(events.time[asked.at], _latest(past, events.time)),
        history=history,
        history_time=events.time[past.values],
    )
    truth = taken.with_values(known.items[taken.values])
    return Queries(contexts, truth, distinct(history, train.schema.n_items), protocol=protocol)


def _latest(past: Ragged, time: Tensor) -> Tensor:
    """(B,) time of the last event of each row, the smallest number where there is none.

    Later than the query's own event only in a random split, which asks after everything that train knows.
    """
    latest = torch.full((len(past),), torch.iinfo(torch.int64).min)
    some = past.lengths > 0
    latest[some] = time[past.values[past.offsets[1:][some] - 1]]
    return latest


def distinct(rows: Ragged, size: int) -> Ragged:
    """Each row with the first of equal values only; values lie in [0, size)."""
    keys = rows.rows() * size + rows.values
    order = torch.argsort(keys, stable=True)
    first = torch.ones_like(keys, dtype=torch.bool)
    first[order[1:]] = keys[order].diff() != 0
    return rows.keep(first)


def assembled(known: Known, parts: Parts, valid: Queries | None, test: Queries | None) -> Split:
    """The Split with its facts; fails where nothing is asked in test."""
    if test is None:
        raise InputError(f"{parts.rule}: no positive event falls into test; hold out more")
    counts = torch.bincount(parts.part, minlength=3).tolist()
    facts = {f"{name}_events": counts[i] for i, name in enumerate(("train", "valid", "test"))}
    for number, name, queries in ((VALID, "valid", valid), (TEST, "test", test)):
        if queries is not None:
            facts |= {f"{name}_{key}": value for key, value in _facts(known, parts.part == number, queries).items()}
    return Split(known.train, valid, test, parts.order, parts.cut, facts, parts.notes)


def _facts(known: Known, mine: Tensor, queries: Queries) -> dict[str, int]:
    """Counts of one part, given the events in it."""
    truth, size = queries.truth, known.train.schema.n_items
    seen = torch.isin(truth.rows() * size + truth.values, queries.seen.rows() * size + queries.seen.values)
    return {
        "positives": int((mine & known.data.positive).sum()),
        "queries": len(queries),
        "truth": truth.values.numel(),
        "truth_unknown": int((truth.values == 0).sum()),
        "truth_seen": int((seen & (truth.values > 0)).sum()),
        "queries_unknown_user": int((queries.contexts.user == 0).sum()),
        "queries_without_history": int((queries.contexts.history.lengths == 0).sum()),
    }
