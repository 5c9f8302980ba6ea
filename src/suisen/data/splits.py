"""How a log is cut into train, valid and test: the rules that a user names.

>>> LeaveLast(test=1, valid=1)
LeaveLast(test=1, valid=1, valid_users=0, seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from suisen.data.cut import TEST, TRAIN, VALID, Order, Parts, Split, Splitter, split_parts
from suisen.data.dataset import Col, Dataset, Log
from suisen.data.sampled import allow_seen, candidates_of, given_negatives, with_negatives
from suisen.data.screen import check_no_future, k_core
from suisen.data.sessions import ClickRatio, Sessions
from suisen.data.shares import By, check_before, check_by, check_shares, fixed, need_time
from suisen.data.when import moment, spelt
from suisen.errors import InputError


@dataclass(frozen=True)
class LeaveLast:
    """Each visitor's last ``test`` positives are asked in test, the ``valid`` before them in valid.

    Who has fewer than test + valid + 1 positives stays in train whole.  The order is time, then the place in the
    source; the place alone where the log has no time.  Events of label 0 go with the positive that they follow.
    """

    test: int = 1
    valid: int = 1
    valid_users: int = 0
    """Ask only so many users in valid, drawn by ``seed``; the others' events before test stay in train.  0: all."""
    seed: int = 0

    def __post_init__(self) -> None:
        wanted = (("test", self.test, 1), ("valid", self.valid, 0), ("valid_users", self.valid_users, 0))
        for name, value, least in wanted:
            if value < least:
                raise InputError(f"LeaveLast: {name} = {value!r} must be at least {least}")

    def split(self, data: Dataset) -> Split:
        """Fails where nobody has enough events."""
        counts, held = data.histories.lengths, self.test + self.valid
        enough = counts > held
        if not bool(enough.any()):
            raise _too_few(self, int(counts.max()))
        part = _tail(data, enough * self.test, self._asked_in_valid(data, enough) * self.valid)
        short = int(((counts <= held) & (data.events.offsets.diff() > 0)).sum())
        notes = (f"{short:,} users with fewer than {held + 1} positives stay in train whole",) if short else ()
        rule = f"leave last out: test {self.test}, valid {self.valid}"
        rule += f" of {self.valid_users:,} users, seed {self.seed}" if self.valid_users and self.valid else ""
        return split_parts(data, Parts(part, _user_order(data), rule, notes=notes))

    def _asked_in_valid(self, data: Dataset, enough: Tensor) -> Tensor:
        """(n_visitors,) bool, of those who have enough events."""
        if not self.valid_users:
            return enough
        visitors = enough.nonzero().squeeze(1)
        visitors = visitors[_names(data)[visitors].argsort()]
        drawn = torch.randperm(visitors.numel(), generator=torch.Generator().manual_seed(self.seed))
        asked = torch.zeros_like(enough)
        asked[visitors[drawn[: self.valid_users]]] = True
        return asked


@dataclass(frozen=True)
class GlobalTime:
    """One cut for all: each visitor with a positive at or after it is asked for the positives from there on.

    ``test`` and ``valid`` are durations ("7d": the last seven days of the log; valid's end where test begins) or ISO
    times at which they begin; ``valid=None`` holds nothing out for it.
    """

    valid: str | None = "7d"
    test: str = "7d"

    def split(self, data: Dataset) -> Split:
        """Fails without time, and where a part would be empty."""
        need_time(data, "GlobalTime")
        test = moment("GlobalTime: test", self.test, int(data.events.time.max()))
        valid = test if self.valid is None else moment("GlobalTime: valid", self.valid, test)
        check_before("GlobalTime", self.valid, valid, test)
        part = (data.events.time >= valid).long() + (data.events.time >= test).long()
        start = "" if self.valid is None else f"valid from {spelt(valid)}, "
        return split_parts(data, Parts(part, "global", f"global time: {start}test from {spelt(test)}", cut=valid))


@dataclass(frozen=True)
class Ratio:
    """Shares of each visitor's positives, rounded to the nearest, at least one left in train.

    ``by="time"``: the last ones, in the order of ``LeaveLast``.  ``by="random"``: any of them; events of label 0 stay
    in train, and histories are all that train holds of the visitor, for there is no order.  The draw goes by the users'
    ids and the order of each user's events, not by the order of users in the file.
    """

    test: float = 0.2
    valid: float = 0.1
    by: By = "time"
    seed: int = 0

    def __post_init__(self) -> None:
        check_shares("Ratio", self.test, self.valid)
        check_by("Ratio", self.by)

    def split(self, data: Dataset) -> Split:
        """Fails where nobody has enough events for one to be held out."""
        counts = data.histories.lengths
        spare = (counts - 1).clamp(min=0)
        test = torch.minimum(_share(counts, self.test), spare)
        valid = torch.minimum(_share(counts, self.valid), spare - test)
        whole = int(((test == 0) & (data.events.offsets.diff() > 0)).sum())
        notes = (f"{whole:,} users have too few positives to be asked in test",) if whole else ()
        rule = f"ratio by {self.by}: test {self.test:g}, valid {self.valid:g}"
        if self.by == "time":
            return split_parts(data, Parts(_tail(data, test, valid), _user_order(data), rule, notes=notes))
        part = _drawn(data, test, valid, self.seed)
        return split_parts(data, Parts(part, "random", f"{rule}, seed {self.seed}", notes=notes))


@dataclass(frozen=True, eq=False)
class ByRows:
    """Parts named by the rows' places in the source (the log's column ``row``); all other rows are train's."""

    test: Sequence[int] | Tensor
    valid: Sequence[int] | Tensor = ()
    order: Order = "random"
    """What the maker of the rows promises; see ``suisen.data.cut.Order``."""
    rule: str = "rows given"

    def __post_init__(self) -> None:
        if self.order not in ("user", "place", "random"):
            raise InputError(f"ByRows: order = {self.order!r} cannot be given; say 'user', 'place' or 'random'")

    def split(self, data: Dataset) -> Split:
        """Fails on a row that the log does not hold or that is named in both parts."""
        place = fixed(data.log.events[Col.ROW])
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
        return split_parts(data, Parts(part, self.order, self.rule))


def given_split(train: Log, test: Log, valid: Log | None = None, order: Order = "random") -> Split:
    """A split that somebody else made, as published ones are; the tables and kinds are those of train's log.

    Fails where the parts have other columns than train.
    """
    logs = [train, *([] if valid is None else [valid]), test]
    starts, frames = [0], []
    for log in logs:
        if log.events.columns != train.events.columns:
            raise InputError(f"the parts have other columns: {train.events.columns} and {log.events.columns}")
        places = pl.int_range(starts[-1], starts[-1] + log.events.height, dtype=pl.Int64, eager=True)
        frames.append(log.events.sort(Col.ROW).with_columns(places.alias(Col.ROW)))
        starts.append(starts[-1] + log.events.height)
    data = Dataset.of(replace(train, events=pl.concat(frames)))
    rule = ByRows(torch.arange(*starts[-2:]), torch.arange(starts[1], starts[-2]), order, "split given")
    return rule.split(data)


def _user_order(data: Dataset) -> Literal["user", "place"]:
    return "user" if data.has_time else "place"


def _too_few(rule: LeaveLast, most: int) -> InputError:
    have = "only one event a user" if most <= 1 else f"at most {most} positives a user"
    need = rule.test + rule.valid + 1
    held = f"LeaveLast(test={rule.test}, valid={rule.valid})"
    return InputError(f"{have}: {held} needs {need} of somebody; hold out less or split by GlobalTime")


def _tail(data: Dataset, test: Tensor, valid: Tensor) -> Tensor:
    """(n,) parts: the last ``test`` positives of each visitor, the ``valid`` before them, and what lies between.

    ``test`` and ``valid`` are (n_visitors,).
    """
    visitor = data.events.visitor
    left = data.histories.offsets[visitor + 1] - data.positives_before  # positives from here on
    place = left + (~data.positive).long()  # an event of label 0 stands with the positive in front of it
    held = test[visitor]
    return (place <= held).long() + (place <= held + valid[visitor]).long()


def _names(data: Dataset) -> Tensor:
    """(n_visitors,) rank of each visitor's own id, whatever the order of the file; guests behind."""
    name = torch.arange(data.events.offsets.numel() - 1)
    name[1 : len(data.users)] = fixed(data.users.raw_ids.rank("ordinal"))
    return name


def _share(counts: Tensor, share: float) -> Tensor:
    return (counts.double() * share + 0.5).floor().long()


def _drawn(data: Dataset, test: Tensor, valid: Tensor, seed: int) -> Tensor:
    """(n,) parts: of each visitor's positives ``test`` and ``valid`` (n_visitors,) drawn at random."""
    visitor, n, name = data.events.visitor, len(data.events), _names(data)
    draw = torch.empty(n, dtype=torch.int64)
    draw[torch.argsort(name[visitor], stable=True)] = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    order = torch.argsort(draw)
    order = order[torch.argsort((visitor * 2 + (~data.positive).long())[order], stable=True)]  # positives in front
    place = torch.arange(n) - data.events.offsets[visitor]  # ``order`` leaves every visitor's span where it was
    part = torch.empty(n, dtype=torch.int64)
    part[order] = (place < test[visitor]).long() + (place < (test + valid)[visitor]).long()
    return part


__all__ = [
    "ByRows",
    "ClickRatio",
    "GlobalTime",
    "LeaveLast",
    "Order",
    "Ratio",
    "Sessions",
    "Split",
    "Splitter",
    "allow_seen",
    "candidates_of",
    "check_no_future",
    "given_negatives",
    "given_split",
    "k_core",
    "with_negatives",
]
