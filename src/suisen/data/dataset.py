"""The Dataset: an event log with dense ids, encoded features and histories: what every model is trained on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Candidates, Contexts, Features, Schema
from suisen.data.encode import Encoder, Kind
from suisen.data.ids import IdMap
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.errors import InputError

if TYPE_CHECKING:
    from suisen.data.splits import Split, Splitter


class Col(StrEnum):
    """Column names of the canonical log: the one place where they are written."""

    USER = "user"
    ITEM = "item"
    TIME = "time"
    LABEL = "label"
    WEIGHT = "weight"
    SESSION = "session"
    ROW = "row"


@dataclass(frozen=True)
class Log:
    """Clean events and tables with the user's own ids: what reading yields and what splits cut."""

    events: pl.DataFrame
    """Columns of ``Col``: user (null: a guest), item; where given time (Int64, microseconds since 1970 UTC), label
    (0 or 1), weight (> 0), session; row (the place in the source); then the context columns."""
    users: pl.DataFrame | None = None
    """Column ``user`` first, then features; one row a user."""
    items: pl.DataFrame | None = None
    """Column ``item`` first, then features and titles; one row an item, with events or without."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Declared kinds of feature columns; the others are inferred."""
    notes: tuple[str, ...] = ()
    """What reading dropped, merged or assumed, in words."""

    @property
    def context_columns(self) -> list[str]:
        """Names of the context columns."""
        return [name for name in self.events.columns if name not in set(Col)]


@dataclass(frozen=True)
class Events:
    """Events sorted by visitor, then time, then the place in the source (the rule that breaks ties in time)."""

    visitor: Tensor
    """(n,) int64: the user's dense id; guests' sessions follow behind the users."""
    item: Tensor
    """(n,) int64, never 0."""
    time: Tensor
    """(n,) int64, microseconds; all 0 where the log has no time."""
    label: Tensor | None
    """(n,) float32, 0 or 1; None: every event is a positive."""
    weight: Tensor | None
    """(n,) float32 > 0; None: all weigh 1."""
    context_features: Features
    """n rows."""
    offsets: Tensor
    """(n_visitors + 1,) int64; visitor v's events are offsets[v]:offsets[v + 1]; visitor 0 has none."""

    def __len__(self) -> int:
        return self.item.numel()


@dataclass(frozen=True)
class Lists:
    """Lists of candidates with answers: what a ranker learns on (retrieved lists, logged impressions)."""

    contexts: Contexts
    candidates: Candidates
    labels: Tensor
    """(B, C) float32."""
    weights: Tensor
    """(B, C) float32; 0 pads."""

    def __len__(self) -> int:
        return len(self.contexts)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Events of known users and guests, with dense ids from their own events and from the declared tables."""

    log: Log
    users: IdMap
    items: IdMap
    events: Events
    user_features: Features
    """n_users rows, row 0 unknown."""
    item_features: Features
    """n_items rows, row 0 unknown."""
    encoders: Mapping[str, Encoder]
    """By owner: user, item, context."""
    schema: Schema
    frames: Mapping[str, pl.DataFrame]
    """By owner, user and item: the raw features and titles, row i = dense id i, row 0 empty."""
    lists: Lists | None = None
    """Where given, rankers learn on these instead of on the events."""

    # -- made from --------------------------------------------------------------------------------------------------

    @classmethod
    def from_frame(cls, events: Any, **options: Any) -> Self:
        """From a Polars, pandas or Arrow table; see ``suisen.data.read.ReadOptions`` for the options."""
        from suisen.data.read import read_frame

        return cls.of(read_frame(events, **options))

    @classmethod
    def from_path(cls, path: str | Path, **options: Any) -> Self:
        """From a Parquet, CSV, JSON-lines or RecBole atomic file; the same options as ``from_frame``."""
        from suisen.data.read import read_path

        return cls.of(read_path(path, **options))

    @classmethod
    def of(cls, log: Log) -> Self:
        """From a clean log: id maps from its events and tables, statistics from its events alone."""
        events = log.events.sort(Col.ROW)  # ids go by the place in the source, whatever the order of the frame
        users = _ids(Col.USER, events, log.users)
        items = _ids(Col.ITEM, events, log.items)
        frame = _sorted(events, users, items)
        user_frame, item_frame = _aligned(log.users, users), _aligned(log.items, items)
        encoders = {
            "user": _fitted(user_frame, frame["visitor"], len(users), log.kinds),
            "item": _fitted(item_frame, frame["dense_item"], len(items), log.kinds),
            "context": Encoder.fit(frame.select(log.context_columns), log.kinds),
        }
        fields = {owner: encoder.schema for owner, encoder in encoders.items()}
        schema = Schema(len(users), len(items), fields["user"], fields["item"], fields["context"])
        return cls(
            log=replace(log, events=frame.drop("visitor", "dense_item")),
            users=users,
            items=items,
            events=_events(frame, len(users), encoders["context"]),
            user_features=encoders["user"].encode(user_frame),
            item_features=encoders["item"].encode(item_frame),
            encoders=encoders,
            schema=schema,
            frames={"user": user_frame, "item": item_frame},
        )

    def keep(self, rows: Tensor) -> Self:
        """The events where ``rows`` (n,) is True, with the same ids, features and schema: a part of train to learn on
        while the rest asks the questions.
        """
        events, n_visitors = self.events, self.events.offsets.numel() - 1
        visitor = events.visitor[rows]
        kept = Events(
            visitor=visitor,
            item=events.item[rows],
            time=events.time[rows],
            label=None if events.label is None else events.label[rows],
            weight=None if events.weight is None else events.weight[rows],
            context_features=events.context_features.take(rows.nonzero().squeeze(1)),
            offsets=offsets_of(torch.bincount(visitor, minlength=n_visitors)),
        )
        log = replace(self.log, events=self.log.events.filter(pl.Series(rows.numpy())))
        return replace(self, log=log, events=kept)

    def split(self, how: Splitter) -> Split:
        """Train, valid and test by a rule of ``suisen.data.splits``."""
        return how.split(self)

    # -- facts ------------------------------------------------------------------------------------------------------

    @property
    def has_time(self) -> bool:
        """Whether the log says when; without it there is no order inside a visitor."""
        return Col.TIME in self.log.events.columns

    @cached_property
    def positive(self) -> Tensor:
        """(n,) bool: events with label 1 (all where the log has no labels)."""
        labels = self.events.label
        return torch.ones(len(self.events), dtype=torch.bool) if labels is None else labels > 0

    @cached_property
    def user(self) -> Tensor:
        """(n,) int64: each event's dense user, 0 for a guest."""
        visitor = self.events.visitor
        return torch.where(visitor < self.schema.n_users, visitor, 0)

    @cached_property
    def item_counts(self) -> Tensor:
        """(n_items,) int64: positive events of each item."""
        return torch.bincount(self.events.item[self.positive], minlength=self.schema.n_items)

    @cached_property
    def trained_items(self) -> Tensor:
        """(n_items,) bool: items with an event here; row 0 is False."""
        return torch.bincount(self.events.item, minlength=self.schema.n_items) > 0

    @cached_property
    def trained_users(self) -> Tensor:
        """(n_users,) bool: users with an event here; row 0 is False."""
        return self.events.offsets[: self.schema.n_users + 1].diff() > 0

    # -- histories --------------------------------------------------------------------------------------------------

    @cached_property
    def histories(self) -> Ragged:
        """One row a visitor: the items of its positive events, oldest first."""
        counts = torch.bincount(self.events.visitor[self.positive], minlength=self.events.offsets.numel() - 1)
        return Ragged(self.events.item[self.positive], offsets_of(counts))

    @cached_property
    def history_times(self) -> Tensor:
        """(values of ``histories``,) int64."""
        return self.events.time[self.positive]

    @cached_property
    def positives_before(self) -> Tensor:
        """(n,) int64: positives in front of each event, over the whole log: its place in ``histories``."""
        marks = self.positive.long()
        return marks.cumsum(0) - marks

    def history_before(self, rows: Tensor, most: int) -> tuple[Ragged, Tensor]:
        """For each event named: the last ``most`` positives of its visitor before it, and their times.

        Without an order: the visitor's other positives (at most ``most`` of them).
        """
        places = self._earlier(rows, most) if self.has_time else self._others(rows, most)
        return places.with_values(self.histories.values[places.values]), self.history_times[places.values]

    def _earlier(self, rows: Tensor, most: int) -> Ragged:
        """Places in ``histories.values`` of the positives in front of each event."""
        ends = self.positives_before[rows]
        lengths = (ends - self.histories.offsets[self.events.visitor[rows]]).clamp(max=most)
        return Ragged(spans(ends - lengths, lengths), offsets_of(lengths))

    def _others(self, rows: Tensor, most: int) -> Ragged:
        """Places in ``histories.values`` of the visitor's positives but the event itself."""
        visitor = self.events.visitor[rows]
        ends = self.histories.offsets[visitor + 1]
        lengths = (ends - self.histories.offsets[visitor]).clamp(max=most + 1)  # the event itself may be among them
        places = Ragged(spans(ends - lengths, lengths), offsets_of(lengths))
        own = torch.where(self.positive[rows], self.positives_before[rows], -1)
        return places.keep(places.values != own[places.rows()]).last(most)

    def contexts(self, rows: Tensor, history: int = 0) -> Contexts:
        """Contexts of the events named, with at most ``history`` items of history each."""
        user = self.user[rows]
        if history:
            past, times = self.history_before(rows, history)
        else:
            past, times = Ragged.empty(rows.numel()), torch.zeros(0, dtype=torch.int64)
        features, asked = self.user_features.take(user), self.events.context_features.take(rows)
        return Contexts(user, features, asked, self.events.time[rows], past, times)

    # -- for people -------------------------------------------------------------------------------------------------

    def titles(self, dense: Tensor | np.ndarray[Any, Any]) -> list[str]:
        """A name for people for each dense item: the catalogue's first text column, else the raw id."""
        raw = self.items.raw(np.asarray(dense))
        names = self.encoders["item"].titles
        if self.log.items is None or not names:
            return raw.cast(pl.String).to_list()
        table = self.log.items.select(pl.col(Col.ITEM).alias("raw"), pl.col(names[0]).alias("title"))
        found = raw.alias("raw").to_frame().join(table, on="raw", how="left", maintain_order="left")
        return found.select(pl.coalesce("title", pl.col("raw").cast(pl.String))).to_series().to_list()

    def __repr__(self) -> str:
        guests = self.events.offsets.numel() - 1 - self.schema.n_users
        more = f", {guests:,} guest sessions" if guests else ""
        users, items = self.schema.n_users - 1, self.schema.n_items - 1
        return f"Dataset({users:,} users, {items:,} items, {len(self.events):,} events{more})"


def _ids(name: Col, events: pl.DataFrame, table: pl.DataFrame | None) -> IdMap:
    parts = [events[name]] + ([] if table is None else [table[name]])
    return IdMap.of(str(name), pl.concat([part.alias("raw") for part in parts]))


def _sorted(events: pl.DataFrame, users: IdMap, items: IdMap) -> pl.DataFrame:
    """The events with their visitor and dense item, in the order of ``Events``."""
    user = pl.Series("visitor", users.dense(events[Col.USER]))
    frame = events.with_columns(user, pl.Series("dense_item", items.dense(events[Col.ITEM])))
    if Col.SESSION in events.columns:  # a guest is a session of nobody
        guest = pl.col("visitor") == 0
        number = pl.when(guest).then(pl.col(Col.SESSION)).rank("dense").cast(pl.Int64) - 1 + len(users)
        frame = frame.with_columns(pl.when(guest).then(number).otherwise("visitor").alias("visitor"))
    nobody = int((frame["visitor"].fill_null(0) == 0).sum())
    if nobody:
        raise InputError(f"{nobody} events name neither a user nor a session; name the session column or drop them")
    keys = ["visitor", *([Col.TIME] if Col.TIME in events.columns else []), Col.ROW]
    return frame.sort(keys)


def _events(frame: pl.DataFrame, n_users: int, encoder: Encoder) -> Events:
    visitor = _tensor(frame["visitor"])
    visitors = max(n_users, int(visitor.max()) + 1) if visitor.numel() else n_users
    names = frame.columns

    def optional(name: Col) -> Tensor | None:
        return _tensor(frame[name]).float() if name in names else None

    return Events(
        visitor=visitor,
        item=_tensor(frame["dense_item"]),
        time=_tensor(frame[Col.TIME]) if Col.TIME in names else torch.zeros(frame.height, dtype=torch.int64),
        label=optional(Col.LABEL),
        weight=optional(Col.WEIGHT),
        context_features=encoder.encode(frame),
        offsets=offsets_of(torch.bincount(visitor, minlength=visitors)),
    )


def _aligned(table: pl.DataFrame | None, ids: IdMap) -> pl.DataFrame:
    """The table's feature columns with row i = dense id i; nulls where the table has no row."""
    if table is None:
        return pl.DataFrame(height=len(ids))
    key = table.columns[0]
    first = pl.Series(key, [None], dtype=ids.raw_ids.dtype)
    keys = pl.concat([first, ids.raw_ids.alias(key)]).to_frame()
    return keys.join(table, on=key, how="left", maintain_order="left").drop(key)


def _fitted(frame: pl.DataFrame, used: pl.Series, rows: int, kinds: Mapping[str, Kind]) -> Encoder:
    """An encoder whose statistics come from the rows that have events."""
    mask = np.zeros(rows, dtype=bool)
    index = used.to_numpy()
    mask[index[index < rows]] = True
    mask[0] = False
    return Encoder.fit(frame.filter(pl.Series(mask)), kinds) if frame.width else Encoder()


def _tensor(column: pl.Series) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())


__all__ = ["Col", "Dataset", "Events", "Lists", "Log"]
