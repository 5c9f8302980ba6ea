"""Whole sessions held out, every prefix of a session a query for its next item."""

from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Queries
from suisen.data.candidates import allow_seen
from suisen.data.dataset import Split
from suisen.data.durations import duration, moment, moment_text, spelt
from suisen.data.ids import IdMap
from suisen.data.log import Col
from suisen.data.ordered import OrderedLog, tensor_of
from suisen.data.split_checks import check_before, check_shares, need_time, settle
from suisen.data.split_parts import TRAIN, Known, Parts, QueryRows, asking, last_share, past_of, singles, split_by
from suisen.errors import InputError


@dataclass(frozen=True)
class Sessions:
    """Whole sessions, the latest to begin in test; every prefix of a session is a query for the item that follows.

    Sessions are those of the log's session column (of one user each), else a visitor's events without a pause longer
    than ``gap``.  Visitors are anonymous in all parts: train, too, is a log of guests.

    Memory: 16 bytes per prefix value, of which a session of length L has L (L - 1) / 2.
    """

    test: float | str = 0.1
    """Share of the sessions in test, or a duration or ISO 8601 time as in ``GlobalTime``; 0 holds nothing out for it:
    nothing is measured then."""
    valid: float | str | None = 0.1
    """The same for valid; 0 or None holds nothing out for it."""
    gap: str = "30m"
    """A longer pause begins a new session; not used where the log has a session column."""
    exclude_seen: bool = False
    """Whether the protocol takes the prefix's own items out of the ranking; people do come back to them."""

    def __post_init__(self) -> None:
        settle(self, **{name: _share_or_moment(name, getattr(self, name)) for name in ("test", "valid")})
        test = self.test if isinstance(self.test, float) else 0.5
        valid = self.valid if isinstance(self.valid, float) else 0.0
        check_shares("Sessions", test, valid)
        settle(self, gap=self.gap if isinstance(self.gap, str) else moment_text("Sessions: gap", self.gap))
        duration("Sessions: gap", self.gap)

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError without times, and where no session of test has two positives."""
        need_time(log, "Sessions")
        named = Col.SESSION in log.log.events.columns
        log = self._anonymous(log)
        visitors = torch.unique_consecutive(log.events.visitor)
        starts = torch.zeros(log.n_visitors, dtype=torch.int64)
        starts[visitors] = log.events.time[log.events.offsets[visitors]]
        test, valid = self._cuts(starts[visitors], int(log.events.time.max()))
        began = starts[log.events.visitor]
        part = (began >= valid).long() + (began >= test).long()
        start = f"valid from {spelt(valid)}, " if valid < test else ""
        gap = "" if named else f" (gap {self.gap})"
        parts = Parts(
            part, "session", f"sessions{gap}: {start}test from {spelt(test)}", cut=valid, tested=self.test != 0
        )
        return prefix_split(log, replace(parts, notes=_session_notes(log, parts)), self.exclude_seen)

    def _cuts(self, starts: Tensor, end: int) -> tuple[int, int]:
        """When test and valid begin."""
        test = _cut("Sessions: test", self.test, starts, end) if self.test else end + 1
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

    def _anonymous(self, log: OrderedLog) -> OrderedLog:
        """The same events as sessions of guests, in the order in which they begin; items keep their ids."""
        frame, keys = self._with_sessions(log)
        begin = [pl.col(name).min().over(keys).alias(f"_{name}") for name in (Col.TIME, Col.ROW)]
        frame = frame.with_columns(begin).with_row_index("_place").sort("_time", "_row", Col.TIME, Col.ROW)
        number = (pl.col("_row") != pl.col("_row").shift(1)).fill_null(True).cum_sum().cast(pl.Int64)
        guest = pl.lit(None, dtype=frame.schema[Col.USER]).alias(Col.USER)
        place = tensor_of(frame["_place"].cast(pl.Int64))
        frame = frame.with_columns(guest, number.alias(Col.SESSION)).drop("_place", "_time", "_row")
        nobody = IdMap(Col.USER, log.users.raw_ids.clear())
        events = log.events.regrouped(place, tensor_of(frame[Col.SESSION]))
        return OrderedLog(replace(log.log, events=frame, users=None), nobody, log.items, events)

    def _with_sessions(self, log: OrderedLog) -> tuple[pl.DataFrame, list[Col]]:
        """The events with a session column, and the columns that tell sessions apart."""
        frame = log.log.events
        if Col.SESSION in frame.columns:
            return frame, [Col.USER, Col.SESSION]
        first = torch.ones(len(log.events), dtype=torch.bool)
        pause = log.events.time.diff() > duration("Sessions: gap", self.gap)
        first[1:] = (log.events.visitor.diff() != 0) | pause
        return frame.with_columns(pl.Series(Col.SESSION, first.long().cumsum(0).numpy())), [Col.SESSION]


def _share_or_moment(name: str, value: Any) -> float | str | None:
    """A share as a float, a duration or time as text; whole numbers other than 0 are neither."""
    if value is None and name == "valid":
        return None
    if not isinstance(value, bool) and isinstance(value, Real):
        return float(value)
    return moment_text(f"Sessions: {name}", value)


def _cut(field: str, value: float | str, starts: Tensor, end: int) -> int:
    return moment(field, value, end) if isinstance(value, str) else last_share(starts, value)


def _session_notes(log: OrderedLog, parts: Parts) -> tuple[str, ...]:
    """Held-out sessions without a query, and events of train after the cut."""
    lengths = torch.bincount(log.events.visitor[log.positive], minlength=log.n_visitors)
    held = torch.unique(log.events.visitor[parts.part != TRAIN])
    single = int((lengths[held] < 2).sum())
    late = int((log.events.time[parts.part == TRAIN] >= (parts.cut or 0)).sum())
    notes = [f"{single:,} held-out sessions of fewer than two positives ask nothing"] if single else []
    if late:
        notes.append(f"{late:,} events of train's sessions lie after the cut: the sessions began before it")
    return tuple(notes)


def prefix_split(log: OrderedLog, parts: Parts, exclude_seen: bool = False) -> Split:
    """One query per prefix of each visitor's events in valid and test, for the item that follows.

    ``exclude_seen``: whether the protocol takes the prefix's own items out of the ranking.
    """
    visitor = log.events.visitor
    parts = asking(log, parts)
    later = log.asked & (log.positives_before > log.histories.offsets[visitor])  # not the first of its session

    def rows_of(number: int) -> QueryRows:
        at = torch.nonzero(later & (parts.part == number)).squeeze(1)
        return QueryRows(at, singles(at), past_of(log, log.positive, visitor[at], at))

    def finish(known: Known, rows: QueryRows, queries: Queries) -> Queries:
        queries = replace(queries, protocol=f"{parts.rule}; every prefix asked for the next item")
        return queries if exclude_seen else allow_seen(queries)

    return split_by(log, parts, rows_of, finish)
