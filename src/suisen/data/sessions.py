"""Rules that ask more than one question a visitor: prefixes of sessions, and single labelled rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Queries
from suisen.data.cut import (
    TEST,
    TRAIN,
    VALID,
    Asked,
    Known,
    Parts,
    Split,
    assembled,
    past_of,
    queries_of,
    train_of,
)
from suisen.data.dataset import Col, Dataset
from suisen.data.ragged import Ragged
from suisen.data.sampled import allow_seen
from suisen.data.shares import By, check_before, check_by, check_shares, fixed, last_share, need_time
from suisen.data.when import duration, moment, spelt
from suisen.errors import InputError


@dataclass(frozen=True)
class Sessions:
    """Whole sessions, the latest to begin in test; every prefix of a session is asked for the item that follows.

    Sessions are those of the log's session column (of one user each), else a visitor's events without a pause longer
    than ``gap``.  Visitors are anonymous in all parts: train, too, is a log of guests.  ``test`` and ``valid`` are
    shares of the sessions, or durations or ISO times as in ``GlobalTime``; ``valid=0`` or None holds nothing out.

    Memory: 16 bytes a prefix value, of which a session of length L has L (L - 1) / 2.
    """

    test: float | str = 0.1
    valid: float | str | None = 0.1
    gap: str = "30m"
    exclude_seen: bool = False
    """Whether the protocol takes the prefix's own items out of the ranking; people do come back to them."""

    def __post_init__(self) -> None:
        test, valid = (v if isinstance(v, float | int) else None for v in (self.test, self.valid))
        check_shares("Sessions", 0.5 if test is None else test, 0.0 if valid is None else valid)
        duration("Sessions: gap", self.gap)

    def split(self, data: Dataset) -> Split:
        """Fails without time, and where no session of test has two events."""
        need_time(data, "Sessions")
        named = Col.SESSION in data.log.events.columns
        data = self._anonymous(data)
        visitors = torch.unique_consecutive(data.events.visitor)
        starts = torch.zeros(data.events.offsets.numel() - 1, dtype=torch.int64)
        starts[visitors] = data.events.time[data.events.offsets[visitors]]
        test, valid = self._cuts(starts[visitors], int(data.events.time.max()))
        began = starts[data.events.visitor]
        part = (began >= valid).long() + (began >= test).long()
        start = f"valid from {spelt(valid)}, " if valid < test else ""
        gap = "" if named else f" (gap {self.gap})"
        parts = Parts(part, "session", f"sessions{gap}: {start}test from {spelt(test)}", cut=valid)
        return _prefix_split(data, replace(parts, notes=_session_notes(data, parts)), self.exclude_seen)

    def _cuts(self, starts: Tensor, end: int) -> tuple[int, int]:
        """When test and valid begin."""
        test = _cut("Sessions: test", self.test, starts, end)
        if not self.valid:
            return test, test
        before = starts[starts < test]
        share = self.valid
        if isinstance(share, float | int):  # a share of all sessions, not of those that test left
            share = min(1.0, share * starts.numel() / max(1, before.numel()))
        if not before.numel():
            raise InputError(f"Sessions: test = {self.test!r} takes every session; hold out less")
        valid = _cut("Sessions: valid", share, before, test)
        check_before("Sessions", self.valid, valid, test)
        return test, valid

    def _anonymous(self, data: Dataset) -> Dataset:
        """The same events as sessions of guests, numbered in the order in which they begin."""
        events = data.log.events
        if Col.SESSION in events.columns:
            keys = [Col.USER, Col.SESSION]
        else:
            visitor, time = data.events.visitor, data.events.time
            first = torch.ones(len(data.events), dtype=torch.bool)
            first[1:] = (visitor.diff() != 0) | (time.diff() > duration("Sessions: gap", self.gap))
            keys = [Col.SESSION]
            events = events.with_columns(pl.Series(Col.SESSION, first.long().cumsum(0).numpy()))
        begin = [pl.col(name).min().over(keys).alias(f"_{name}") for name in (Col.TIME, Col.ROW)]
        events = events.with_columns(begin).sort("_time", "_row", Col.ROW)
        number = (pl.col("_row") != pl.col("_row").shift(1)).fill_null(True).cum_sum().cast(pl.Int64)
        guest = pl.lit(None, dtype=events.schema[Col.USER]).alias(Col.USER)
        events = events.with_columns(guest, number.alias(Col.SESSION)).drop("_time", "_row")
        return Dataset.of(replace(data.log, events=events, users=None))


def _cut(field: str, value: float | str, starts: Tensor, end: int) -> int:
    return moment(field, value, end) if isinstance(value, str) else last_share(starts, value)


def _session_notes(data: Dataset, parts: Parts) -> tuple[str, ...]:
    """What a reader of the numbers should know."""
    lengths = torch.bincount(data.events.visitor[data.positive], minlength=data.events.offsets.numel() - 1)
    held = torch.unique(data.events.visitor[parts.part != TRAIN])
    single = int((lengths[held] < 2).sum())
    late = int((data.events.time[parts.part == TRAIN] >= (parts.cut or 0)).sum())
    notes = [f"{single:,} held-out sessions of fewer than two positives ask nothing"] if single else []
    if late:
        notes.append(f"{late:,} events of train's sessions lie after the cut: the sessions began before it")
    return tuple(notes)


def _prefix_split(data: Dataset, parts: Parts, exclude_seen: bool) -> Split:
    known = Known.of(data, train_of(data, parts.part))
    visitor = data.events.visitor
    later = data.positive & (data.positives_before > data.histories.offsets[visitor])  # not the first of its session
    made: dict[int, Queries | None] = {}
    for number in (VALID, TEST):
        at = torch.nonzero(later & (parts.part == number)).squeeze(1)
        asked = Asked(at, _singles(at), past_of(data, data.positive, visitor[at], at))
        queries = queries_of(known, asked, f"{parts.rule}; every prefix asked for the next item")
        made[number] = (queries if exclude_seen else allow_seen(queries)) if at.numel() else None
    return assembled(known, parts, made[VALID], made[TEST])


def _singles(values: Tensor) -> Ragged:
    """Rows of one value each."""
    return Ragged(values, torch.arange(values.numel() + 1))


@dataclass(frozen=True)
class ClickRatio:
    """Shares of all labelled rows, each asked by itself: one candidate, one label; for AUC and logloss.

    ``by="random"``: the draw goes by the rows' places in the source.  ``by="time"``: the last ones, ties together.
    A row's history is its visitor's last ``history`` positives before it (in a random split: those in train).
    """

    test: float = 0.1
    valid: float = 0.1
    by: By = "random"
    seed: int = 0
    history: int = 200

    def __post_init__(self) -> None:
        check_shares("ClickRatio", self.test, self.valid)
        check_by("ClickRatio", self.by)

    def split(self, data: Dataset) -> Split:
        """Fails without labels; with ``by="time"`` without time."""
        if data.events.label is None:
            raise InputError("ClickRatio needs labels and the log has none; name the label column, or use Ratio")
        return click_split(data, self._by_time(data) if self.by == "time" else self._by_chance(data), self.history)

    @property
    def _rule(self) -> str:
        return f"labelled rows by {self.by}: test {self.test:g}, valid {self.valid:g}"

    def _by_time(self, data: Dataset) -> Parts:
        need_time(data, "ClickRatio(by='time')")
        time = data.events.time
        test = last_share(time, self.test)
        valid = last_share(time, self.test + self.valid) if self.valid else test
        return Parts((time >= valid).long() + (time >= test).long(), "global", self._rule, cut=valid)

    def _by_chance(self, data: Dataset) -> Parts:
        n = len(data.events)
        test, valid = max(1, round(n * self.test)), round(n * self.valid)
        place = torch.argsort(torch.argsort(fixed(data.log.events[Col.ROW])))
        draw = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[place]
        part = (draw < test).long() + (draw < test + valid).long()
        return Parts(part, "random", f"{self._rule}, seed {self.seed}")


def click_split(data: Dataset, parts: Parts, history: int = 200) -> Split:
    """Every row of valid and test asked by itself, whatever rule parted them: one candidate, one label, and as history
    its visitor's last ``history`` positives before it (in a random split: those in train).
    """
    known = Known.of(data, train_of(data, parts.part))
    made = {number: _click_queries(known, parts, number, history) for number in (VALID, TEST)}
    return assembled(known, parts, made[VALID], made[TEST])


def _click_queries(known: Known, parts: Parts, number: int, history: int) -> Queries | None:
    data = known.data
    at = torch.nonzero(parts.part == number).squeeze(1)
    if not at.numel():
        return None
    taken = _singles(at).keep(data.positive[at])
    among = data.positive & (parts.part == TRAIN) if parts.order == "random" else data.positive
    past = past_of(data, among, data.events.visitor[at], at if data.has_time else None, history)
    queries = queries_of(known, Asked(at, taken, past), f"{parts.rule}; each row scored by itself")
    items, labels = known.items[data.events.item[at]][:, None], data.positive[at].float()[:, None]
    return replace(queries, seen=Ragged.empty(len(queries)), candidates=items, labels=labels)
