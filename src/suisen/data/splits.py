"""How a log is cut into train, valid and test: the rules, and the list of all of them.

A rule is a frozen dataclass of its parameters with one method, ``split``: from a log in order (``OrderedLog``) to a
``Split``.  It decides which part each event belongs to; ``suisen.data.split_parts`` builds the rest.

>>> LeaveLast(test=1, valid=1)
LeaveLast(test=1, valid=1, valid_users=0, seed=0)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from suisen.data.clicks import ClickRatio
from suisen.data.dataset import Order, Split, Splitter
from suisen.data.durations import moment, spelt
from suisen.data.log import Col, Log
from suisen.data.ordered import OrderedLog, tensor_of
from suisen.data.sessions import Sessions
from suisen.data.split_checks import By, check_before, check_by, check_shares, need_time
from suisen.data.split_parts import TEST, TRAIN, VALID, Parts, visitor_split
from suisen.errors import InputError


@dataclass(frozen=True)
class LeaveLast:
    """Each visitor's last ``test`` positives are the truth of test, the ``valid`` before them that of valid.

    A visitor with fewer than test + valid + 1 positives stays in train whole.  The order is time, then the place in the
    source; the place alone where the log has no time.  Events of label 0 go with the positive that they follow.
    """

    test: int = 1
    """Positives per visitor in test."""
    valid: int = 1
    """Positives per visitor in valid; 0 holds nothing out for it."""
    valid_users: int = 0
    """Valid holds only so many users, drawn by ``seed``; the others' events before test stay in train.  0: all."""
    seed: int = 0
    """Of the draw of ``valid_users``."""

    def __post_init__(self) -> None:
        wanted = (("test", self.test, 1), ("valid", self.valid, 0), ("valid_users", self.valid_users, 0))
        for name, value, least in wanted:
            if value < least:
                raise InputError(f"LeaveLast: {name} = {value!r} must be at least {least}")

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError where no visitor has enough positives."""
        counts = log.histories.lengths
        held = self.test + self.valid
        enough = counts > held
        if not bool(enough.any()):
            raise _too_few(self, int(counts.max()))
        part = _tail(log, enough * self.test, self._in_valid(log, enough) * self.valid)
        short = int(((counts <= held) & (log.events.offsets.diff() > 0)).sum())
        notes = (f"{short:,} users with fewer than {held + 1} positives stay in train whole",) if short else ()
        rule = f"leave last out: test {self.test}, valid {self.valid}"
        rule += f" of {self.valid_users:,} users, seed {self.seed}" if self.valid_users and self.valid else ""
        return visitor_split(log, Parts(part, _user_order(log), rule, notes=notes))

    def _in_valid(self, log: OrderedLog, enough: Tensor) -> Tensor:
        """(n_visitors,) bool: visitors with a query in valid, of those that have ``enough`` positives."""
        if not self.valid_users:
            return enough
        visitors = enough.nonzero().squeeze(1)
        visitors = visitors[_names(log)[visitors].argsort()]
        drawn = torch.randperm(visitors.numel(), generator=torch.Generator().manual_seed(self.seed))
        chosen = torch.zeros_like(enough)
        chosen[visitors[drawn[: self.valid_users]]] = True
        return chosen


@dataclass(frozen=True)
class GlobalTime:
    """One cut for all: each visitor with a positive at or after it has a query for its positives from there on.

    ``test`` and ``valid`` are durations ("7d", "12h") or ISO 8601 times.
    """

    valid: str | None = "7d"
    """When valid begins: a time, or a duration back from the begin of test; None holds nothing out for it."""
    test: str = "7d"
    """When test begins: a time, or a duration back from the last event of the log."""

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError without times, and where train or test would be empty."""
        need_time(log, "GlobalTime")
        test = moment("GlobalTime: test", self.test, int(log.events.time.max()))
        valid = test if self.valid is None else moment("GlobalTime: valid", self.valid, test)
        check_before("GlobalTime", self.valid, valid, test)
        part = (log.events.time >= valid).long() + (log.events.time >= test).long()
        start = "" if self.valid is None else f"valid from {spelt(valid)}, "
        return visitor_split(log, Parts(part, "global", f"global time: {start}test from {spelt(test)}", cut=valid))


@dataclass(frozen=True)
class Ratio:
    """Shares of each visitor's positives, rounded to the nearest, at least one left in train.

    The draw goes by the users' ids and the order of each user's events, not by the order of users in the file.
    """

    test: float = 0.2
    """Share of each visitor's positives in test."""
    valid: float = 0.1
    """Share in valid; 0 holds nothing out for it."""
    by: By = "time"
    """``time``: the last positives, in the order of ``LeaveLast``.  ``random``: any of them; events of label 0 stay in
    train, and a history is all that train holds of the visitor, for there is no order."""
    seed: int = 0
    """Of the draw, where ``by`` is ``random``."""

    def __post_init__(self) -> None:
        check_shares("Ratio", self.test, self.valid)
        check_by("Ratio", self.by)

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError where no visitor has enough positives for one to be held out."""
        counts = log.histories.lengths
        spare = (counts - 1).clamp(min=0)
        test = torch.minimum(_share(counts, self.test), spare)
        valid = torch.minimum(_share(counts, self.valid), spare - test)
        whole = int(((test == 0) & (log.events.offsets.diff() > 0)).sum())
        notes = (f"{whole:,} users have too few positives to be asked in test",) if whole else ()
        rule = f"ratio by {self.by}: test {self.test:g}, valid {self.valid:g}"
        if self.by == "time":
            return visitor_split(log, Parts(_tail(log, test, valid), _user_order(log), rule, notes=notes))
        part = _drawn(log, test, valid, self.seed)
        return visitor_split(log, Parts(part, "random", f"{rule}, seed {self.seed}", notes=notes))


@dataclass(frozen=True, eq=False)
class ByRows:
    """Parts named by the rows' places in the source (the log's column ``row``); all other rows are train's."""

    test: Sequence[int] | Tensor
    """Places in the source of the rows of test."""
    valid: Sequence[int] | Tensor = ()
    """Places of the rows of valid."""
    order: Order = "random"
    """What the maker of the rows promises of train; see ``suisen.data.dataset.Order``."""
    rule: str = "rows given"
    """The rule in words, for the protocol."""

    def __post_init__(self) -> None:
        if self.order not in ("user", "place", "random"):
            raise InputError(f"ByRows: order = {self.order!r} cannot be given; say 'user', 'place' or 'random'")

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError for a row that the log does not hold or that both parts name."""
        place = tensor_of(log.log.events[Col.ROW].cast(pl.Int64))
        part = torch.full_like(place, TRAIN)
        for name, rows, number in (("valid", self.valid, VALID), ("test", self.test, TEST)):
            wanted = torch.as_tensor(rows, dtype=torch.int64)
            lost = wanted[~torch.isin(wanted, place)]
            if lost.numel():
                raise InputError(f"ByRows: {name} names row {int(lost[0])}, which the log does not hold")
            mine = torch.isin(place, wanted)
            if bool((part[mine] != TRAIN).any()):
                raise InputError(f"ByRows: row {int(place[mine & (part != TRAIN)][0])} is named in valid and in test")
            part[mine] = number
        return visitor_split(log, Parts(part, self.order, self.rule))


def given_split(train: Log, test: Log, valid: Log | None = None, order: Order = "random") -> Split:
    """A split that somebody else made, as published ones are.  Tables and kinds are those of train's log.

    ``order``: what its maker promises of train.  Raises InputError where the parts have other columns than train.
    """
    logs = [train, *([] if valid is None else [valid]), test]
    starts, frames = [0], []
    for log in logs:
        if log.events.columns != train.events.columns:
            raise InputError(f"the parts have other columns: {train.events.columns} and {log.events.columns}")
        places = pl.int_range(starts[-1], starts[-1] + log.events.height, dtype=pl.Int64, eager=True)
        frames.append(log.events.sort(Col.ROW).with_columns(places.alias(Col.ROW)))
        starts.append(starts[-1] + log.events.height)
    whole = OrderedLog.of(replace(train, events=pl.concat(frames)))
    rule = ByRows(torch.arange(*starts[-2:]), torch.arange(starts[1], starts[-2]), order, "split given")
    return rule.split(whole)


def _user_order(log: OrderedLog) -> Literal["user", "place"]:
    return "user" if log.has_time else "place"


def _too_few(rule: LeaveLast, most: int) -> InputError:
    have = "only one event a user" if most <= 1 else f"at most {most} positives a user"
    need = rule.test + rule.valid + 1
    held = f"LeaveLast(test={rule.test}, valid={rule.valid})"
    return InputError(f"{have}: {held} needs {need} of somebody; hold out less or split by GlobalTime")


def _tail(log: OrderedLog, test: Tensor, valid: Tensor) -> Tensor:
    """(n,) parts: the last ``test`` positives of each visitor, the ``valid`` before them, and what lies between.

    ``test`` and ``valid`` are (n_visitors,).
    """
    visitor = log.events.visitor
    left = log.histories.offsets[visitor + 1] - log.positives_before  # positives from here on
    place = left + (~log.positive).long()  # an event of label 0 stands with the positive in front of it
    held = test[visitor]
    return (place <= held).long() + (place <= held + valid[visitor]).long()


def _names(log: OrderedLog) -> Tensor:
    """(n_visitors,) rank of each visitor's own id, whatever the order of the file; guests behind."""
    name = torch.arange(log.n_visitors)
    name[1 : len(log.users)] = tensor_of(log.users.raw_ids.rank("ordinal").cast(pl.Int64))
    return name


def _share(counts: Tensor, share: float) -> Tensor:
    return (counts.double() * share + 0.5).floor().long()


def _drawn(log: OrderedLog, test: Tensor, valid: Tensor, seed: int) -> Tensor:
    """(n,) parts: of each visitor's positives ``test`` and ``valid`` (n_visitors,) drawn at random."""
    visitor, n, name = log.events.visitor, len(log.events), _names(log)
    draw = torch.empty(n, dtype=torch.int64)
    draw[torch.argsort(name[visitor], stable=True)] = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    order = torch.argsort(draw)
    order = order[torch.argsort((visitor * 2 + (~log.positive).long())[order], stable=True)]  # positives in front
    place = torch.arange(n) - log.events.offsets[visitor]  # ``order`` leaves every visitor's span where it was
    part = torch.empty(n, dtype=torch.int64)
    part[order] = (place < test[visitor]).long() + (place < (test + valid)[visitor]).long()
    return part


SPLITS: dict[str, type[Splitter]] = {
    "leave-last": LeaveLast,
    "global-time": GlobalTime,
    "ratio": Ratio,
    "sessions": Sessions,
    "click-ratio": ClickRatio,
}
"""Every rule by the name that the command line gives it; the contract suite of ``tests/data`` runs over all of them."""

__all__ = ["SPLITS", "ByRows", "ClickRatio", "GlobalTime", "LeaveLast", "Ratio", "Sessions", "given_split"]
