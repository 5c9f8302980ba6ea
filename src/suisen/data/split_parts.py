"""From the part of each event to a Split: what train learns from, and which queries valid and test hold.

A rule (``suisen.data.splits``) says which part each event belongs to, as ``Parts``, and hands them to one of

* ``visitor_split``: one query per visitor and part, its truth all that the visitor takes in the part;
* ``prefix_split`` (``suisen.data.sessions``): one query per prefix of a session;
* ``row_split`` (``suisen.data.clicks``): one query per labelled row.

Everything through which train could learn of the future is here, once: train's ids, vocabularies and means come from
train's own events and the declared tables, and features are fitted there and nowhere else.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Asked, Catalogue, Contexts, Queries
from suisen.data.dataset import Dataset, Order, Split
from suisen.data.ordered import OrderedLog
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.errors import InputError

TRAIN, VALID, TEST = 0, 1, 2


@dataclass(frozen=True)
class Parts:
    """A rule's answer, before anything is built from it."""

    part: Tensor
    """(n,) int64 beside ``OrderedLog.events``: TRAIN, VALID or TEST."""
    order: Order
    """What the rule promises of train."""
    rule: str
    """The rule in words; opens the protocol."""
    cut: int | None = None
    """Microseconds since 1970 UTC at which train ends, where one cut does for all."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know, in words."""
    tested: bool = True
    """Whether test holds something; False where the rule was told to hold nothing out for it."""


@dataclass(frozen=True)
class QueryRows:
    """B queries as rows of the log's events."""

    at: Tensor
    """(B,) the event whose user, time and context features the query has."""
    taken: Ragged
    """B rows of events whose items are the truth."""
    past: Ragged
    """B rows of events that are the history, oldest first."""

    def __len__(self) -> int:
        return self.at.numel()


@dataclass(frozen=True)
class Known:
    """The whole log's dense ids in those of train; 0 for what train does not know."""

    log: OrderedLog
    train: Dataset
    users: Tensor
    """(n_users of log,) int64."""
    items: Tensor
    """(n_items of log,) int64."""

    @classmethod
    def of(cls, log: OrderedLog, part: Tensor) -> "Known":
        """Train from its own events and the declared tables alone, and its ids.  ``part`` (n,): the part of each event.

        Raises InputError where none is left for train.
        """
        events = log.log.events.filter(pl.Series((part == TRAIN).numpy()))
        if not events.height:
            raise InputError("the split leaves no event for train; hold out less")
        train = Dataset.of(replace(log.log, events=events, parts=None))
        users = torch.from_numpy(train.users.dense(log.users.raw_ids))
        items = torch.from_numpy(train.items.dense(log.items.raw_ids))
        unknown = torch.zeros(1, dtype=torch.int64)
        return cls(log, train, torch.cat([unknown, users]), torch.cat([unknown, items]))


def split_by(
    log: OrderedLog,
    parts: Parts,
    rows_of: Callable[[int], QueryRows],
    finish: Callable[[Known, QueryRows, Queries], Queries] = lambda known, rows, queries: queries,
) -> Split:
    """The Split whose queries stand in the rows of events that ``rows_of`` names for a part (VALID, TEST).

    ``finish``: changes the queries after they were made, their candidates or their protocol.  Raises InputError where
    nothing is left for train and where test holds no query, unless the rule wants it so.
    """
    known = Known.of(log, parts.part)
    counts = torch.bincount(parts.part, minlength=3).tolist()
    facts = dict(zip(("train_events", "valid_events", "test_events"), counts, strict=True))
    made: dict[int, Queries | None] = {}
    for number, name in ((VALID, "valid"), (TEST, "test")):
        rows = rows_of(number)
        empty = number == TEST and not parts.tested
        queries = finish(known, rows, _queries_of(known, rows, parts.rule)) if len(rows) or empty else None
        if queries is not None and not empty:
            facts[f"{name}_positives"] = int((log.positive & (parts.part == number)).sum())
            facts |= {f"{name}_{key}": value for key, value in _facts(queries).items()}
        made[number] = queries
    test = made[TEST]
    if test is None:
        raise InputError(f"{parts.rule}: no positive event falls into test; hold out more")
    return Split(known.train, made[VALID], test, parts.order, parts.cut, facts, parts.notes)


def asking(log: OrderedLog, parts: Parts) -> Parts:
    """The parts with the event types that are asked for in the words of the protocol, where only some are."""
    said = f"{parts.rule}; asked for {', '.join(log.log.targets)} alone" if log.log.targets else parts.rule
    return replace(parts, rule=said)


def visitor_split(log: OrderedLog, parts: Parts) -> Split:
    """One query per visitor and part, whose truth is the visitor's positives in the part (of the target types).

    History and seen are the visitor's positives in front of the first of them (for test, those of valid included); in a
    random split they are its positives in train.  Items that train does not know are 0 in the truth (a miss for every
    model) and left out of histories; a truth named twice counts once; all are counted in ``facts``.

    Memory: 16 bytes per history value and at most two history values per event (valid's and test's), plus one copy of
    the events.  Raises InputError where train or test would be empty.
    """
    parts = asking(log, parts)

    def rows_of(number: int) -> QueryRows:
        rows = torch.nonzero(log.asked & (parts.part == number)).squeeze(1)
        visitor, counts = torch.unique_consecutive(log.events.visitor[rows], return_counts=True)
        taken = Ragged(rows, offsets_of(counts))
        at = rows[taken.offsets[:-1]]
        if parts.order == "random":
            return QueryRows(at, taken, past_of(log, log.positive & (parts.part == TRAIN), visitor))
        return QueryRows(at, taken, past_of(log, log.positive, visitor, at))

    return split_by(log, parts, rows_of)


def past_of(
    log: OrderedLog, among: Tensor, visitor: Tensor, at: Tensor | None = None, most: int | None = None
) -> Ragged:
    """Histories as rows of events, oldest first: for each of ``visitor`` (B,) its events where ``among`` (n,) is True.

    ``at`` (B,): only those in front of this event.  ``most``: only the last so many of them.
    """
    marks = among.long()
    offsets = offsets_of(torch.bincount(log.events.visitor[among], minlength=log.n_visitors))
    ends = offsets[visitor + 1] if at is None else (marks.cumsum(0) - marks)[at]
    lengths = ends - offsets[visitor]
    if most is not None:
        lengths = lengths.clamp(max=most)
    return Ragged(torch.nonzero(among).squeeze(1)[spans(ends - lengths, lengths)], offsets_of(lengths))


def singles(values: Tensor) -> Ragged:
    """Rows of one value each."""
    return Ragged(values, torch.arange(values.numel() + 1))


def last_share(values: Tensor, share: float) -> int:
    """The value at which the last ``share`` of ``values`` (n,) begins: at least one of them, equal values together."""
    count = max(1, round(values.numel() * share))
    return int(values.sort().values[-count])


def _queries_of(known: Known, rows: QueryRows, protocol: str) -> Queries:
    """The queries in train's ids, their context features encoded with train's vocabularies and means."""
    log, train, events = known.log, known.train, known.log.events
    taken = rows.taken.with_values(events.item[rows.taken.values]).distinct()
    past = rows.past.keep(known.items[events.item[rows.past.values]] > 0)
    history = past.with_values(known.items[events.item[past.values]])
    user = known.users[log.user[rows.at]]
    contexts = Contexts(
        user=user,
        user_features=train.user_features.take(user),
        context_features=train.encoders["context"].encode(log.log.events[rows.at.numpy()]),
        time=torch.maximum(events.time[rows.at], _latest(past, events.time)),
        history=history,
        history_time=events.time[past.values],
    )
    truth = taken.with_values(known.items[taken.values])
    catalogue = Catalogue(train.items, train.item_counts)
    asked = Asked(log.user[rows.at], taken, log.users, log.items, catalogue, log.log.users)
    return Queries(contexts, truth, history.distinct(), protocol=protocol, asked=asked)


def _latest(past: Ragged, time: Tensor) -> Tensor:
    """(B,) time of the last event of each row, the smallest number where there is none.

    It is later than the query's own event only in a random split, whose histories are all that train knows.
    """
    latest = torch.full((len(past),), torch.iinfo(torch.int64).min)
    some = past.lengths > 0
    latest[some] = time[past.values[past.offsets[1:][some] - 1]]
    return latest


def _facts(queries: Queries) -> dict[str, int]:
    truth = queries.truth
    return {
        "queries": len(queries),
        "truth": truth.values.numel(),
        "truth_unknown": int((truth.values == 0).sum()),
        "truth_seen": int((truth.isin(queries.seen) & (truth.values > 0)).sum()),
        "queries_unknown_user": int((queries.contexts.user == 0).sum()),
        "queries_without_history": int((queries.contexts.history.lengths == 0).sum()),
    }
