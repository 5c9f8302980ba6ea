"""A log with dense ids, in the order of its visitors' histories: what rules that split a log look at."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import polars as pl
import torch
from torch import Tensor

from suisen.data.ids import IdMap
from suisen.data.log import Col, Log
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.display import brief
from suisen.errors import InputError


@dataclass(frozen=True)
class Events:
    """n events, sorted by visitor, then time, then the place in the source (the rule that breaks ties in time)."""

    __repr__ = brief

    visitor: Tensor
    """(n,) int64: the user's dense id; the guests, one per session, are numbered behind the users."""
    item: Tensor
    """(n,) int64 dense items, never 0."""
    time: Tensor
    """(n,) int64, microseconds since 1970 UTC; all 0 where the log has no time."""
    label: Tensor | None
    """(n,) float32, 0 or 1; None: every event is a positive."""
    weight: Tensor | None
    """(n,) float32 > 0; None: every event weighs 1."""
    offsets: Tensor
    """(n_visitors + 1,) int64; visitor v's events are offsets[v]:offsets[v + 1]; visitor 0 has none."""

    def __len__(self) -> int:
        return self.item.numel()

    def keep(self, rows: Tensor) -> "Events":
        """The events where ``rows`` (n,) is True, in the same order, of the same visitors."""
        return self._taken(rows, self.visitor[rows], self.offsets.numel() - 1)

    def regrouped(self, order: Tensor, visitor: Tensor) -> "Events":
        """The events in another order (n,) and of other visitors (n,), which rise."""
        return self._taken(order, visitor, int(visitor[-1]) + 1)

    def _taken(self, rows: Tensor, visitor: Tensor, n_visitors: int) -> "Events":
        return Events(
            visitor=visitor,
            item=self.item[rows],
            time=self.time[rows],
            label=None if self.label is None else self.label[rows],
            weight=None if self.weight is None else self.weight[rows],
            offsets=offsets_of(torch.bincount(visitor, minlength=n_visitors)),
        )


@dataclass(frozen=True, eq=False)
class OrderedLog:
    """A log with dense ids from its events and tables, its events in the order of its visitors' histories.

    No feature is encoded: a log can be split without learning a vocabulary or a mean from what train may not see.
    """

    log: Log
    """The log itself, its events in the order of ``events``."""
    users: IdMap
    items: IdMap
    events: Events

    @classmethod
    def of(cls, log: Log) -> Self:
        """From a clean log.  Ids are numbered by the place in the source, whatever the order of the frame.

        Raises InputError where an event has neither a user nor a session.
        """
        source = log.events.sort(Col.ROW)
        users = _ids(Col.USER, source, log.users)
        items = _ids(Col.ITEM, source, log.items)
        frame = _sorted(source, users, items)
        ordered = replace(log, events=frame.drop("visitor", "dense_item"))
        return cls(ordered, users, items, _events(frame, len(users)))

    # -- facts ------------------------------------------------------------------------------------------------------

    @property
    def has_time(self) -> bool:
        """Whether the log has times."""
        return Col.TIME in self.log.events.columns

    @property
    def has_order(self) -> bool:
        """Whether a visitor's events have an order: by their times, or because their rows are known to stand in it."""
        return self.has_time or self.log.ordered

    @property
    def n_visitors(self) -> int:
        """Number of visitors, visitor 0 included."""
        return self.events.offsets.numel() - 1

    @cached_property
    def positive(self) -> Tensor:
        """(n,) bool: events with label 1 (all where the log has no labels)."""
        labels = self.events.label
        return torch.ones(len(self.events), dtype=torch.bool) if labels is None else labels > 0

    @cached_property
    def asked(self) -> Tensor:
        """(n,) bool: positives that valid and test may ask for: those of the target types, where some are named."""
        if Col.TARGET not in self.log.events.columns:
            return self.positive
        return self.positive & tensor_of(self.log.events[Col.TARGET].cast(pl.UInt8)).bool()

    @cached_property
    def asked_counts(self) -> Tensor:
        """(n_visitors,) int64: how many events of each visitor may be asked for."""
        return torch.bincount(self.events.visitor[self.asked], minlength=self.n_visitors)

    @cached_property
    def asked_left(self) -> Tensor:
        """(n,) int64: how many events of its visitor may be asked for from each event on."""
        marks = self.asked.long()
        return offsets_of(self.asked_counts)[self.events.visitor + 1] - (marks.cumsum(0) - marks)

    @cached_property
    def spare(self) -> Tensor:
        """(n_visitors,) int64: how many of these can be held out, the last first, so that a positive stays in front."""
        first = self.asked & (self.positives_before == self.histories.offsets[self.events.visitor])
        return self.asked_counts - torch.bincount(self.events.visitor[first], minlength=self.n_visitors)

    @cached_property
    def user(self) -> Tensor:
        """(n,) int64: each event's dense user, 0 for a guest."""
        visitor = self.events.visitor
        return torch.where(visitor < len(self.users), visitor, 0)

    @cached_property
    def item_counts(self) -> Tensor:
        """(n_items,) int64: positive events per item."""
        return torch.bincount(self.events.item[self.positive], minlength=len(self.items))

    @cached_property
    def trained_items(self) -> Tensor:
        """(n_items,) bool: items with an event here; row 0 is False."""
        return torch.bincount(self.events.item, minlength=len(self.items)) > 0

    @cached_property
    def trained_users(self) -> Tensor:
        """(n_users,) bool: users with an event here; row 0 is False."""
        return self.events.offsets[: len(self.users) + 1].diff() > 0

    # -- histories --------------------------------------------------------------------------------------------------

    @cached_property
    def histories(self) -> Ragged:
        """One row per visitor: the items of its positive events, oldest first."""
        counts = torch.bincount(self.events.visitor[self.positive], minlength=self.n_visitors)
        return Ragged(self.events.item[self.positive], offsets_of(counts))

    @cached_property
    def history_times(self) -> Tensor:
        """(values of ``histories``,) int64, microseconds."""
        return self.events.time[self.positive]

    @cached_property
    def positives_before(self) -> Tensor:
        """(n,) int64: positives in front of each event, over the whole log: its place in ``histories.values``."""
        marks = self.positive.long()
        return marks.cumsum(0) - marks

    def history_before(self, rows: Tensor, most: int) -> tuple[Ragged, Tensor]:
        """For each event in ``rows`` (B,): the last ``most`` positives of its visitor before it, and their times.

        Where a visitor's events have no order, the history is the visitor's other positives (at most ``most`` of them).
        Returns B rows of dense items and, beside their values, int64 microseconds.
        """
        places = self._earlier(rows, most) if self.has_order else self._others(rows, most)
        return places.with_values(self.histories.values[places.values]), self.history_times[places.values]

    def _earlier(self, rows: Tensor, most: int) -> Ragged:
        """Places in ``histories.values`` of the positives in front of each event."""
        ends = self.positives_before[rows]
        lengths = (ends - self.histories.offsets[self.events.visitor[rows]]).clamp(max=most)
        return Ragged(spans(ends - lengths, lengths), offsets_of(lengths))

    def _others(self, rows: Tensor, most: int) -> Ragged:
        """Places in ``histories.values`` of the visitor's positives without the event itself."""
        visitor = self.events.visitor[rows]
        ends = self.histories.offsets[visitor + 1]
        lengths = (ends - self.histories.offsets[visitor]).clamp(max=most + 1)  # the event itself may be among them
        places = Ragged(spans(ends - lengths, lengths), offsets_of(lengths))
        own = torch.where(self.positive[rows], self.positives_before[rows], -1)
        return places.keep(places.values != own[places.rows()]).last(most)

    # -- for people -------------------------------------------------------------------------------------------------

    @property
    def size(self) -> str:
        """How many users, items, events and guest sessions there are, in words."""
        guests = self.n_visitors - len(self.users)
        more = f", {guests:,} guest sessions" if guests else ""
        return f"{len(self.users) - 1:,} users, {len(self.items) - 1:,} items, {len(self.events):,} events{more}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.size})"


def _ids(name: Col, events: pl.DataFrame, table: pl.DataFrame | None) -> IdMap:
    parts = [events[name]] + ([] if table is None else [table[name]])
    return IdMap.of(str(name), pl.concat([part.alias("raw") for part in parts]))


def _sorted(events: pl.DataFrame, users: IdMap, items: IdMap) -> pl.DataFrame:
    """The events with their visitor and dense item, in the order of ``Events``."""
    user = pl.Series("visitor", users.dense(events[Col.USER]))
    frame = events.with_columns(user, pl.Series("dense_item", items.dense(events[Col.ITEM])))
    if Col.SESSION in events.columns:  # an event without a user belongs to the guest that its session names
        guest = pl.col("visitor") == 0
        number = pl.when(guest).then(pl.col(Col.SESSION)).rank("dense").cast(pl.Int64) - 1 + len(users)
        frame = frame.with_columns(pl.when(guest).then(number).otherwise("visitor").alias("visitor"))
    nobody = int((frame["visitor"].fill_null(0) == 0).sum())
    if nobody:
        raise InputError(f"{nobody} events name neither a user nor a session; name the session column or drop them")
    keys = ["visitor", *([Col.TIME] if Col.TIME in events.columns else []), Col.ROW]
    return frame.sort(keys)


def _events(frame: pl.DataFrame, n_users: int) -> Events:
    visitor = tensor_of(frame["visitor"])
    n_visitors = max(n_users, int(visitor.max()) + 1) if visitor.numel() else n_users

    def optional(name: Col) -> Tensor | None:
        return tensor_of(frame[name]).float() if name in frame.columns else None

    return Events(
        visitor=visitor,
        item=tensor_of(frame["dense_item"]),
        time=tensor_of(frame[Col.TIME]) if Col.TIME in frame.columns else torch.zeros(frame.height, dtype=torch.int64),
        label=optional(Col.LABEL),
        weight=optional(Col.WEIGHT),
        offsets=offsets_of(torch.bincount(visitor, minlength=n_visitors)),
    )


def tensor_of(column: pl.Series) -> Tensor:
    """(n,) a column without nulls as a tensor of its type, on memory of its own."""
    return torch.from_numpy(column.to_numpy().copy())


__all__ = ["Events", "OrderedLog", "tensor_of"]
