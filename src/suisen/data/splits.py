"""How a log is cut into train, valid and test: the rules, and the list of all of them.

A rule is a frozen dataclass of its parameters with one method, ``split``: from a log in order (``OrderedLog``) to a
``Split``.  It decides which part each event belongs to; ``suisen.data.split_parts`` builds the rest.

>>> LeaveLast(test=1, valid=1)
LeaveLast(test=1, valid=1, valid_users=0, seed=0, by='time')
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from suisen.data.clicks import ClickRatio
from suisen.data.dataset import Split, Splitter
from suisen.data.durations import moment, moment_text, spelt
from suisen.data.given import ByRows, Given, given_split
from suisen.data.ordered import OrderedLog
from suisen.data.sessions import Sessions
from suisen.data.split_checks import By, check_before, check_by, check_shares, need_time, settle, settle_counts
from suisen.data.split_orders import Way, names_of
from suisen.data.split_parts import Parts, visitor_split
from suisen.errors import InputError


@dataclass(frozen=True)
class LeaveLast:
    """Each visitor's last ``test`` positives are the truth of test, the ``valid`` before them that of valid.

    A visitor with fewer than test + valid + 1 positives stays in train whole.  The order is time, then the place in the
    source.  A log without times has no last positives: they are drawn at random, and the protocol says so, unless the
    rows are in order (``by="rows"``, or a format whose lines are).  Events of label 0 go with the positive that they
    follow; in a random split they stay in train.
    """

    test: int = 1
    """Positives per visitor in test; 0 holds nothing out for it: nothing is measured then."""
    valid: int = 1
    """Positives per visitor in valid; 0 holds nothing out for it."""
    valid_users: int = 0
    """Valid holds only so many users, drawn by ``seed``; the others' events before test stay in train.  0: all."""
    seed: int = 0
    """Of the draw of ``valid_users``, and of the positives where no order is known."""
    by: By = "time"
    """``time``: the last ones (without times: any, drawn).  ``rows``: the last in the order of the rows, for a log
    without times.  ``random``: any of them, drawn."""

    def __post_init__(self) -> None:
        settle_counts(self, test=0, valid=0, valid_users=0, seed=0)
        check_by("LeaveLast", self.by)

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError where no visitor has enough positives."""
        held = self.test + self.valid
        enough = log.spare >= held
        if not bool(enough.any()):
            raise _too_few(self, int(log.spare.max()) + 1)
        short = int((~enough & (log.events.offsets.diff() > 0)).sum())
        notes = (f"{short:,} users with fewer than {held + 1} positives stay in train whole",) if short and held else ()
        shares = f"test {self.test}, valid {self.valid}"
        some = bool(self.valid_users and self.valid)
        shares += f" of {self.valid_users:,} users" if some else ""
        way = Way.of("LeaveLast", log, self.by, self.seed)
        shares += f", seed {self.seed}" if some or way.by == "random" else ""
        last = "" if way.order == "random" else "last "
        said = "" if way.by in ("time", "order") else way.said
        rule = f"leave {last}out{said}: {shares}"
        return way.split(enough * self.test, self._in_valid(log, enough) * self.valid, rule, notes, self.test > 0)

    def _in_valid(self, log: OrderedLog, enough: Tensor) -> Tensor:
        """(n_visitors,) bool: visitors with a query in valid, of those that have ``enough`` positives."""
        if not self.valid_users:
            return enough
        visitors = enough.nonzero().squeeze(1)
        visitors = visitors[names_of(log)[visitors].argsort()]
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
    """When valid begins: a time, or a duration back from the begin of test; None or 0 holds nothing out for it."""
    test: str | None = "7d"
    """When test begins: a time, or a duration back from the last event of the log; None or 0 holds nothing out for it:
    nothing is measured then."""

    def __post_init__(self) -> None:
        for name in ("test", "valid"):
            given = getattr(self, name)
            none = given is None or (type(given) in (int, str) and given in (0, "0"))  # a table answers no comparison
            settle(self, **{name: None if none else moment_text(f"GlobalTime: {name}", given)})

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError without times, and where train or test would be empty."""
        need_time(log, "GlobalTime")
        end = int(log.events.time.max())
        test = end + 1 if self.test is None else moment("GlobalTime: test", self.test, end)
        valid = test if self.valid is None else moment("GlobalTime: valid", self.valid, test)
        check_before("GlobalTime", self.valid, valid, test)
        part = (log.events.time >= valid).long() + (log.events.time >= test).long()
        start = "" if self.valid is None else f"valid from {spelt(valid)}, "
        rule = f"global time: {start}test from {spelt(test)}" if self.test else f"global time: {start}no test"
        return visitor_split(log, Parts(part, "global", rule, cut=valid, tested=self.test is not None))


@dataclass(frozen=True)
class Ratio:
    """Shares of each visitor's positives, rounded to the nearest, at least one left in train.

    The draw goes by the users' ids and the order of each user's events, not by the order of users in the file.
    """

    test: float = 0.2
    """Share of each visitor's positives in test; 0 holds nothing out for it: nothing is measured then."""
    valid: float = 0.1
    """Share in valid; 0 holds nothing out for it."""
    by: By = "time"
    """``time``: the last positives, in the order of ``LeaveLast`` (without times: any, drawn).  ``rows``: the last in
    the order of the rows, for a log without times.  ``random``: any of them; events of label 0 stay in train, and a
    history is all that train holds of the visitor, for there is no order."""
    seed: int = 0
    """Of the draw, where one is made."""

    def __post_init__(self) -> None:
        check_shares("Ratio", self.test, self.valid)
        check_by("Ratio", self.by)
        settle_counts(self, seed=0)

    def split(self, log: OrderedLog) -> Split:
        """Train, valid and test.  Raises InputError where no visitor has enough positives for one to be held out."""
        counts, spare = log.asked_counts, log.spare
        test = torch.minimum(_share(counts, self.test), spare)
        valid = torch.minimum(_share(counts, self.valid), spare - test)
        whole = int(((test == 0) & (log.events.offsets.diff() > 0)).sum())
        notes = (f"{whole:,} users have too few positives to be asked in test",) if whole and self.test else ()
        way = Way.of("Ratio", log, self.by, self.seed)
        rule = f"ratio{way.said}: test {self.test:g}, valid {self.valid:g}"
        rule += f", seed {self.seed}" if way.by == "random" else ""
        return way.split(test, valid, rule, notes, self.test > 0)


def _too_few(rule: LeaveLast, most: int) -> InputError:
    have = "only one event a user" if most <= 1 else f"at most {most} positives a user"
    need = rule.test + rule.valid + 1
    held = f"LeaveLast(test={rule.test}, valid={rule.valid})"
    return InputError(f"{have}: {held} needs {need} of somebody; hold out less or split by GlobalTime")


def _share(counts: Tensor, share: float) -> Tensor:
    return (counts.double() * share + 0.5).floor().long()


SPLITS: dict[str, type[Splitter]] = {
    "leave-last": LeaveLast,
    "global-time": GlobalTime,
    "ratio": Ratio,
    "sessions": Sessions,
    "click-ratio": ClickRatio,
    "given": Given,
}
"""Every rule by the name that the command line gives it; the contract suite of ``tests/data`` runs over all of them."""

__all__ = ["SPLITS", "ByRows", "ClickRatio", "Given", "GlobalTime", "LeaveLast", "Ratio", "Sessions", "given_split"]
