"""The Dataset: an event log with dense ids, encoded features and histories, which every model is trained on; and what a
rule makes of it that splits it into train, valid and test.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import numpy as np
import polars as pl
import torch
from torch import Tensor

from suisen.arguments import shown
from suisen.data.batch import Candidates, Contexts, Features, Queries, Schema
from suisen.data.durations import spelt
from suisen.data.encode import Encoder
from suisen.data.ids import IdMap
from suisen.data.log import Col, Log
from suisen.data.ordered import OrderedLog
from suisen.data.ragged import Ragged
from suisen.data.read import ReadOptions, read_frame, read_path
from suisen.display import Shown, Table, brief, notes_of, tell
from suisen.errors import InputError
from suisen.parameters import keywords_of

Order = Literal["user", "global", "session", "place", "random"]
"""What a split promises of train.

``user``: nothing later than the truth of the same user.  ``global``: nothing at or after one cut.  ``session``: no
session that began at or after the cut.  ``place``: the place in the source instead of time.  ``random``: nothing; train
holds events from after the queries."""


@dataclass(frozen=True)
class Lists:
    """Lists of candidates with labels: what a ranker learns on (retrieved lists, logged impressions)."""

    __repr__ = brief

    contexts: Contexts
    candidates: Candidates
    labels: Tensor
    """(B, C) float32."""
    weights: Tensor
    """(B, C) float32; 0 pads."""

    def __len__(self) -> int:
        return len(self.contexts)


@dataclass(frozen=True, eq=False, repr=False)
class Dataset(OrderedLog, Shown):
    """Events of users and guests with dense ids, encoded features and histories.

    Ids come from its own events and from the declared tables; vocabularies and means from its events alone.
    """

    user_features: Features
    """n_users rows, row 0 unknown."""
    item_features: Features
    """n_items rows, row 0 unknown."""
    context_features: Features
    """One row per event."""
    encoders: Mapping[str, Encoder]
    """By owner: user, item, context."""
    schema: Schema
    frames: Mapping[str, pl.DataFrame]
    """By owner, user and item: the raw features and titles, row i = dense id i, row 0 empty."""
    lists: Lists | None = None
    """Where given, rankers learn on these instead of on the events."""

    # -- made from --------------------------------------------------------------------------------------------------

    @classmethod
    @keywords_of(ReadOptions)
    def from_frame(cls, events: Any, options: ReadOptions) -> Self:
        """From a table (Polars, pandas, Arrow) or a SciPy sparse matrix, with ``ReadOptions`` as keywords.

        Raises InputError for bad rows, missing columns, tables without rows and options that contradict each other.

        >>> import polars as pl
        >>> events = pl.DataFrame({"uid": ["ann", "bob", "ann"], "sku": [7, 7, 9], "ts": [10, 20, 30]})
        >>> Dataset.from_frame(events, user="uid", item="sku", time="ts")
        Dataset(2 users, 2 items, 3 events)
        """
        return cls.of(told(read_frame(events, options)))

    @classmethod
    @keywords_of(ReadOptions)
    def from_path(cls, path: str | Path, options: ReadOptions) -> Self:
        """From a file of any format of docs/data.md or a folder of Parquet files, with ``ReadOptions`` as keywords.

        Raises InputError like ``from_frame``, and for files that are missing, damaged or of an unknown format.
        """
        return cls.of(told(read_path(path, options)))

    @classmethod
    def of(cls, log: Log) -> Self:
        """From a clean log: ids from its events and tables, vocabularies and means from its events alone."""
        _check_log(log)
        ordered = OrderedLog.of(log)
        users, items, events = ordered.users, ordered.items, ordered.events
        user_frame, item_frame = _aligned(log.users, users), _aligned(log.items, items)
        context_frame = ordered.log.events.select(log.context_columns)
        encoders = {
            "user": _fitted(user_frame, ordered.trained_users, log),
            "item": _fitted(item_frame, ordered.trained_items, log),
            "context": Encoder.fit(context_frame, log.kinds, 1, log.separator),
        }
        fields = {owner: encoder.schema for owner, encoder in encoders.items()}
        return cls(
            log=ordered.log,
            users=users,
            items=items,
            events=events,
            user_features=encoders["user"].encode(user_frame),
            item_features=encoders["item"].encode(item_frame),
            context_features=encoders["context"].encode(ordered.log.events),
            encoders=encoders,
            schema=Schema(len(users), len(items), fields["user"], fields["item"], fields["context"]),
            frames={"user": user_frame, "item": item_frame},
        )

    def keep(self, rows: Tensor) -> Self:
        """The events where ``rows`` (n,) is True, with the same ids, features and schema.

        Two-stage training learns on such a part of train while the other events are the queries.
        """
        log = replace(self.log, events=self.log.events.filter(pl.Series(rows.numpy())))
        context_features = self.context_features.take(rows.nonzero().squeeze(1))
        return replace(self, log=log, events=self.events.keep(rows), context_features=context_features)

    def split(self, rule: "Splitter") -> "Split":
        """Train, valid and test by a rule of ``suisen.data.splits``, like ``LeaveLast(test=1, valid=1)``.

        Raises InputError where the rule needs what the log lacks, or where train or test would be empty.
        """
        _check_rule(rule)
        split = rule.split(self)
        tell(notes_of(split.notes))
        return split

    # -- contexts ---------------------------------------------------------------------------------------------------

    def contexts(self, rows: Tensor, history: int = 0) -> Contexts:
        """The (B,) contexts of the events in ``rows`` (B,), with at most ``history`` items of history each."""
        user = self.user[rows]
        if history:
            past, times = self.history_before(rows, history)
        else:
            past, times = Ragged.empty(rows.numel()), torch.zeros(0, dtype=torch.int64)
        return Contexts(
            user=user,
            user_features=self.user_features.take(user),
            context_features=self.context_features.take(rows),
            time=self.events.time[rows],
            history=past,
            history_time=times,
        )

    # -- for people -------------------------------------------------------------------------------------------------

    def _parts(self) -> list[str | Table]:
        counts = {"user": len(self.users) - 1, "item": len(self.items) - 1, "context": len(self.events)}
        rows = [
            ["events" if owner == "context" else f"{owner}s", f"{count:,}", _fields(self.encoders[owner])]
            for owner, count in counts.items()
        ]
        times = self.events.time
        ends = (times.min(), times.max()) if self.has_time and len(times) else ()
        span = " to ".join(spelt(int(end))[:19].replace("T", " ") for end in ends)
        when = [f"from {span} UTC"] if span else []
        return [repr(self), *when, Table(("what", "number", "features"), rows), *notes_of(self.log.notes)]

    def titles(self, dense: Tensor | np.ndarray[Any, Any]) -> list[str]:
        """A name for people for each dense item: the catalogue's first text column, else the raw id."""
        raw = self.items.raw(np.asarray(dense))
        names = self.encoders["item"].titles
        if self.log.items is None or not names:
            return raw.cast(pl.String).to_list()
        table = self.log.items.select(pl.col(Col.ITEM).alias("raw"), pl.col(names[0]).alias("title"))
        found = raw.alias("raw").to_frame().join(table, on="raw", how="left", maintain_order="left")
        return found.select(pl.coalesce("title", pl.col("raw").cast(pl.String))).to_series().to_list()


@dataclass(frozen=True, repr=False)
class Split(Shown):
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
    """Counts: events of each part, queries, truth, and how much of it train does not know."""
    notes: tuple[str, ...]
    """What the rule left out or merged, in words."""

    def _parts(self) -> list[str | Table]:
        facts, rows = self.facts, [["train", f"{len(self.train.events):,}", "", "", ""]]
        for name, queries in (("valid", self.valid), ("test", self.test)):
            if queries is not None:
                counts = [facts.get(f"{name}_events", 0), len(queries), queries.truth.values.numel()]
                rows.append([name, *(f"{count:,}" for count in (*counts, int((queries.truth.values == 0).sum())))])
        head = ("part", "events", "queries", "relevant items", "of them unknown to train")
        return [f"Split: {self.test.protocol}", Table(head, rows), *notes_of(self.notes)]


class Splitter(Protocol):
    """A rule that cuts a log.  CONTRIBUTING.md shows how one is added."""

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test; every event goes to exactly one of them."""


def told(log: Log) -> Log:
    """The log, its notes shown to a person who looks on."""
    tell(notes_of(log.notes))
    return log


def _check_log(log: object) -> None:
    """Raises InputError for what is no log."""
    if not isinstance(log, Log):
        made = "a table is read by Dataset.from_frame(table), a file by Dataset.from_path(path)"
        raise InputError(f"log = {shown(log)} is no Log; {made}")


def _check_rule(rule: object) -> None:
    """Raises InputError for what is no rule: its name, its class, a share."""
    if isinstance(rule, type) and hasattr(rule, "split"):
        raise InputError(f"rule = {shown(rule)} itself; make a rule of it, like split({rule.__name__}())")
    other = isinstance(rule, str | bytes | type | OrderedLog) or hasattr(rule, "dtype")  # have another split
    if other or not callable(getattr(rule, "split", None)):
        raise InputError(f"rule = {shown(rule)} is no rule; give one, like split(suisen.LeaveLast(test=1, valid=1))")


def _fields(encoder: Encoder) -> str:
    """Features with their kinds, in words."""
    titles = [f"{name} (title)" for name in encoder.titles]
    return ", ".join([*titles, *(f"{field.name} ({field.kind})" for field in encoder.schema)]) or "none"


def _aligned(table: pl.DataFrame | None, ids: IdMap) -> pl.DataFrame:
    """The table's feature columns with row i = dense id i; nulls where the table has no row."""
    if table is None:
        return pl.DataFrame(height=len(ids))
    key = table.columns[0]
    first = pl.Series(key, [None], dtype=ids.raw_ids.dtype)
    keys = pl.concat([first, ids.raw_ids.alias(key)]).to_frame()
    return keys.join(table, on=key, how="left", maintain_order="left").drop(key)


def _fitted(frame: pl.DataFrame, trained: Tensor, log: Log) -> Encoder:
    """An encoder whose statistics come from the rows of ids that have events: ``trained``, (rows,) bool."""
    kept = frame.filter(pl.Series(trained.numpy()))
    return Encoder.fit(kept, log.kinds, 1, log.separator) if frame.width else Encoder()


__all__ = ["Dataset", "Lists", "Order", "Split", "Splitter", "told"]
