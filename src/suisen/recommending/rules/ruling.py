"""Rules at work on the lists of some queries.  The order never changes:

    allowed → expressions → ranked → boosts → diversity → caps → pins → the first k

Queries that may get the same items are one call of the stages, so that expressions cost no look at a candidate.  Where
caps or boosts move items, the stages make a longer list (``Rules.reserve``); what is passed over is replaced from it.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from suisen.recommending.engine import Filters, Open, wide
from suisen.recommending.rules.bound import BoundRules, Opened
from suisen.recommending.rules.columns import Bools
from suisen.recommending.rules.filling import Capped, Floats, Ints, fill

Make = Callable[[Tensor | None, int, Filters], tuple[Tensor, Tensor]]
"""(b, n) items and scores of those queries, None for all, under filters: the stages."""
Diversify = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]
"""The most diverse items of (b, n) lists, so many, and their scores."""
SPREAD = 3
"""Times k: places whose order diversity chooses where caps may pass items over; the others stay as they were."""
RELAXED, SHORT, BARRED = "relaxed", "short", "barred"
"""Why a rule is not met in a list: the cap gave way, for too little was left; the expression left fewer than k items;
the pinned item may not be in this list."""
SAID = {
    RELAXED: "gave way in {}, for too few other items were left",
    SHORT: "left fewer items than were asked for in {}",
    BARRED: "pins an item that may not be in {}",
}


@dataclass
class Marks:
    """What rules did to B lists."""

    names: tuple[str, ...]
    items: Ints
    """(B, rules) items that each touched: refused of all that lists may hold (expressions), moved up into the first k
    (boosts), passed over (caps), put in its place (pins)."""
    unmet: dict[int, dict[str, str]] = field(default_factory=dict)
    """List → rule → why it is not met: relaxed, short or barred."""


@dataclass
class Ruling:
    """Rules, the queries that they are applied to, and what they did."""

    rules: BoundRules
    keys: Sequence[Hashable]
    """(B,) what each query's allowed items depend on; empty where no rule asks."""
    open: Open
    k: int
    candidates: int
    at: Ints
    """(B,) or (1,) microseconds since 1970: when the queries are asked."""
    marks: Marks
    diversify: Diversify | None = None

    @classmethod
    def of(
        cls,
        rules: BoundRules,
        asked: Sequence[Mapping[str, object]],
        size: int,
        k: int,
        candidates: int,
        at: Ints,
        open_: Open,
    ) -> "Ruling":
        """``asked``: what each of ``size`` queries brings under the rules' names; empty where they ask nothing.

        Raises InputError where a query lacks what a rule needs.
        """
        keys = [rules.key(one) for one in asked]
        marks = Marks(rules.names, np.zeros((size, len(rules.names)), dtype=np.int64))
        return cls(rules, keys, open_, k, candidates, at, marks)

    @property
    def moves(self) -> bool:
        """Whether rules change the order of what the stages make."""
        return bool(self.rules.caps or self.rules.boosts or len(self.rules.pinned))

    def lists(self, places: Tensor, filters: Filters, make: Make, *, ranked: bool = True) -> tuple[Tensor, Tensor]:
        """(b, k) items, 0 = none, and their scores, of the queries at ``places``, whose filters have b rows.

        ``ranked``: whether a model made the order; only then items are boosted and lists diversified.
        """
        items = torch.zeros((len(places), self.k), dtype=torch.int64)
        scores = torch.full((len(places), self.k), -torch.inf)
        diverse = ranked and self.diversify is not None
        reserve = self.rules.rules.reserve(self.k, self.candidates)
        n = max(reserve, self.candidates) if diverse else reserve
        for within, opened in self._groups(places):
            rows = places if within is None else places[within]
            part = replace(filters if within is None else filters.take(within), open=opened.open)
            found, values = make(within, n, part)
            marks = self.marks.items[rows.numpy()]
            marks[:, : len(opened.refused)] = opened.refused
            if self.moves or diverse:
                found, values = self._moved(rows, found, values, marks, opened, part, ranked)
            found, values = wide(found[:, : self.k], self.k, 0), wide(values[:, : self.k], self.k, -torch.inf)
            self.marks.items[rows.numpy()] = marks
            self._say_short(rows, found, opened)
            target = slice(None) if within is None else within
            items[target], scores[target] = found, values
        return items, scores

    def may_hold(self, places: Tensor, items: Tensor) -> Tensor:
        """(b, C) bool: which of (b, C) items given with the queries at ``places`` their lists may hold."""
        allowed = torch.zeros_like(items, dtype=torch.bool)
        for within, opened in self._groups(places):
            rows = slice(None) if within is None else within
            allowed[rows] = opened.open.mask[items[rows]]
        return allowed

    def _groups(self, places: Tensor) -> Iterator[tuple[Tensor | None, Opened]]:
        """Those of b queries together that may get the same items, as rows among them, None for all."""
        if not len(places):
            return
        groups: dict[Hashable, list[int]] = {}
        if not self.keys:
            groups[self.rules.key({})] = []
        for row, place in enumerate(places.tolist() if self.keys else ()):
            groups.setdefault(self.keys[place], []).append(row)
        for key, rows in groups.items():
            yield None if len(groups) == 1 else torch.tensor(rows), self.rules.opened(key, self.open)

    # -- moving -----------------------------------------------------------------------------------------------------

    def _moved(
        self, rows: Tensor, ids: Tensor, scores: Tensor, marks: Ints, opened: Opened, part: Filters, ranked: bool
    ) -> tuple[Tensor, Tensor]:
        """The lists after boosts, diversity, caps and pins; what those did is written into ``marks``."""
        if ranked and self.rules.boosts:
            ids, scores = self._boosted(rows, ids, scores, marks)
        if ranked and self.diversify is not None:
            places = min(ids.shape[1], SPREAD * self.k if self.rules.caps else self.k)
            ids, scores = _in_front(ids, scores, *self.diversify(ids, scores, places))
        pinned = self._pinned(rows, marks, opened, part)
        if not (self.rules.caps or pinned.any()):
            return ids, scores
        caps, k, n = [], self.k, ids.shape[1]
        given = ids.numpy()
        for cap, column in zip(self.rules.rules.cap, self.rules.caps, strict=True):
            codes = column.of(np.concatenate([given, pinned], 1))
            caps.append(Capped(cap.most, min(k, cap.first or k), codes[:, :n], codes[:, n:]))
        filled = fill(given, scores.numpy(), k, caps, pinned)
        first = len(self.rules.required) + len(self.rules.boosts)
        marks[:, first : first + len(caps)] = filled.passed
        for row, number in zip(*np.nonzero(filled.relaxed), strict=True):
            self._unmet(int(rows[row]), self.rules.rules.cap[number].name, RELAXED)
        return torch.from_numpy(filled.items), torch.from_numpy(filled.scores)

    def _boosted(self, rows: Tensor, ids: Tensor, scores: Tensor, marks: Ints) -> tuple[Tensor, Tensor]:
        """Lists in the order of boosted scores, then of shifted ranks."""
        items, values = ids.numpy(), scores.numpy().astype(np.float32)
        at = np.broadcast_to(self.at, (len(self.marks.items),))[rows.numpy()]
        weights = [boost.of(items, at) for boost in self.rules.boosts]
        shift = np.zeros(items.shape)
        for boost, weight in zip(self.rules.boosts, weights, strict=True):
            if boost.rule.add is not None:
                values = values + np.float32(boost.rule.add) * weight
            else:
                shift += (boost.rule.ranks or 0.0) * weight
        order = np.argsort(-values, axis=1, kind="stable")  # padding has -inf and stays behind
        places = np.arange(items.shape[1]) - np.take_along_axis(shift, order, 1)
        places[np.take_along_axis(items, order, 1) == 0] = np.inf
        order = np.take_along_axis(order, np.argsort(places, axis=1, kind="stable"), 1)
        up = (order > np.arange(items.shape[1])) & (np.take_along_axis(items, order, 1) > 0)
        for number, weight in enumerate(weights):
            moved = up & (np.take_along_axis(weight, order, 1) > 0)
            marks[:, len(self.rules.required) + number] = moved[:, : self.k].sum(1)
        best = torch.from_numpy(order)
        return ids.gather(1, best), torch.from_numpy(values).gather(1, best)

    def _pinned(self, rows: Tensor, marks: Ints, opened: Opened, part: Filters) -> Ints:
        """(b, k) the items pinned to each place, 0 = none."""
        pinned = np.zeros((len(rows), self.k), dtype=np.int64)
        if not len(self.rules.pinned):
            return pinned
        allowed = self._pins_allowed(len(rows), opened, part)
        first = len(self.rules.names) - len(self.rules.pinned)
        for number, pin in enumerate(self.rules.rules.pin):
            if pin.position <= self.k:
                marks[:, first + number] = allowed[:, number]
                pinned[allowed[:, number], pin.position - 1] = int(self.rules.pinned[number])
                for row in np.flatnonzero(~allowed[:, number]):
                    self._unmet(int(rows[row]), pin.name, BARRED)
        return pinned

    def _pins_allowed(self, size: int, opened: Opened, part: Filters) -> Bools:
        """(b, pins) whether each list may hold each pinned item."""
        pins = self.rules.pinned
        free = torch.from_numpy(opened.pins)
        if part.among is not None:
            free = free & torch.isin(pins, part.among)
        gone = part.exclude.holds(pins.expand(size, -1))
        return (free & ~gone).numpy()

    # -- what is said -----------------------------------------------------------------------------------------------

    def _say_short(self, rows: Tensor, items: Tensor, opened: Opened) -> None:
        if not any(opened.refused):
            return
        for row in ((items > 0).sum(1) < self.k).nonzero().squeeze(1).tolist():
            for one, refused in zip(self.rules.required, opened.refused, strict=True):
                if refused:
                    self._unmet(int(rows[row]), one.name, SHORT)

    def _unmet(self, place: int, name: str, why: str) -> None:
        self.marks.unmet.setdefault(place, {})[name] = why


def tally(unmet: Mapping[int, Mapping[str, str]]) -> Counter[tuple[str, str]]:
    """(rule, why) → lists that do not meet it."""
    return Counter(each for one in unmet.values() for each in one.items())


def unmet_lines(counts: Counter[tuple[str, str]], lists: int) -> list[str]:
    """A line for people per rule that some of so many lists do not meet.

    >>> unmet_lines(tally({0: {"two per artist": "relaxed"}, 3: {"two per artist": "relaxed"}}), 8)
    ["rule 'two per artist' gave way in 2 of 8 lists, for too few other items were left"]
    """
    said = {each: f"{count:,} of {lists:,} lists" for each, count in counts.items()}
    return [f"rule {name!r} {SAID[why].format(said[name, why])}" for name, why in counts]


def _in_front(ids: Tensor, scores: Tensor, first: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """Lists that begin with (b, m) of their items, the others behind in the order that they had."""
    rest = ~(ids[:, :, None] == first[:, None, :]).any(2)
    order = (~rest).long().argsort(dim=1, stable=True)[:, : ids.shape[1] - first.shape[1]]
    kept = rest.gather(1, order)
    behind = torch.where(kept, ids.gather(1, order), 0), torch.where(kept, scores.gather(1, order), -torch.inf)
    return torch.cat([first, behind[0]], 1), torch.cat([best, behind[1]], 1)


__all__ = ["BARRED", "RELAXED", "SHORT", "Diversify", "Floats", "Make", "Marks", "Ruling", "tally", "unmet_lines"]
