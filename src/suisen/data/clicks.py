"""Labelled rows held out, each row a query of one candidate with one label: for AUC and logloss."""

from dataclasses import dataclass, replace

import polars as pl
import torch

from suisen.data.batch import Queries
from suisen.data.dataset import Order, Split
from suisen.data.log import Col
from suisen.data.ordered import OrderedLog, tensor_of
from suisen.data.ragged import Ragged
from suisen.data.split_checks import By, check_by, check_shares, need_time, settle_counts
from suisen.data.split_parts import TRAIN, Known, Parts, QueryRows, last_share, past_of, singles, split_by
from suisen.errors import InputError


@dataclass(frozen=True)
class ClickRatio:
    """Shares of all labelled rows, each row a query of one candidate with one label; for AUC and logloss."""

    test: float = 0.1
    """Share of the rows in test; 0 holds nothing out for it: nothing is measured then."""
    valid: float = 0.1
    """Share in valid; 0 holds nothing out for it."""
    by: By = "random"
    """``random``: rows drawn by their places in the source.  ``time``: the last rows, equal times together.
    ``rows``: the last in the order of the rows, for a log without times."""
    seed: int = 0
    """Of the draw, where ``by`` is ``random``."""
    history: int = 200
    """Most items in a row's history: its visitor's last positives before it (in a random split: those in train)."""

    def __post_init__(self) -> None:
        check_shares("ClickRatio", self.test, self.valid)
        check_by("ClickRatio", self.by)
        settle_counts(self, seed=0, history=0)

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.

        Raises InputError without labels; without times where ``by`` is time, and with times where it is rows.
        """
        if log.events.label is None:
            raise InputError("ClickRatio needs labels and the log has none; name the label column, or use Ratio")
        parts = self._by_chance(log) if self.by == "random" else self._last(log)
        return row_split(log, parts, self.history)

    @property
    def _rule(self) -> str:
        return f"labelled rows by {self.by}: test {self.test:g}, valid {self.valid:g}"

    def _last(self, log: OrderedLog) -> Parts:
        if self.by == "time":
            need_time(log, "ClickRatio(by='time')")
        elif log.has_time:
            raise InputError("ClickRatio: by = 'rows' needs a log without times; say 'time', or read with time=None")
        timed = self.by == "time"
        place = log.events.time if timed else tensor_of(log.log.events[Col.ROW].cast(pl.Int64))
        test = last_share(place, self.test) if self.test else int(place.max()) + 1
        valid = last_share(place, self.test + self.valid) if self.valid else test
        part = (place >= valid).long() + (place >= test).long()
        order: Order = "global" if timed else "place"
        return Parts(part, order, self._rule, cut=valid if timed else None, tested=self.test > 0)

    def _by_chance(self, log: OrderedLog) -> Parts:
        n = len(log.events)
        test = max(int(self.test > 0), round(n * self.test))
        valid = round(n * self.valid)
        place = torch.argsort(torch.argsort(tensor_of(log.log.events[Col.ROW].cast(pl.Int64))))
        draw = torch.randperm(n, generator=torch.Generator().manual_seed(self.seed))[place]
        part = (draw < test).long() + (draw < test + valid).long()
        return Parts(part, "random", f"{self._rule}, seed {self.seed}", tested=self.test > 0)


def row_split(log: OrderedLog, parts: Parts, history: int = 200) -> Split:
    """One query per row of valid and test, whatever rule parted them: one candidate with one label.

    Its history is its visitor's last ``history`` positives before it (in a random split: those in train).
    """
    among = log.positive & (parts.part == TRAIN) if parts.order == "random" else log.positive

    def rows_of(number: int) -> QueryRows:
        at = torch.nonzero(parts.part == number).squeeze(1)
        past = past_of(log, among, log.events.visitor[at], at if log.has_order else None, history)
        return QueryRows(at, singles(at).keep(log.positive[at]), past)

    def finish(known: Known, rows: QueryRows, queries: Queries) -> Queries:
        return replace(
            queries,
            seen=Ragged.empty(len(queries)),
            candidates=known.items[log.events.item[rows.at]][:, None],  # (B, 1)
            labels=log.positive[rows.at].float()[:, None],  # (B, 1)
            protocol=f"{parts.rule}; each row scored by itself",
        )

    return split_by(log, parts, rows_of, finish)
