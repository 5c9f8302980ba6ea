"""Caps and pins: from candidates in their order to the list that is shown, refilled from the reserve behind it.

Places are filled from the first to the last, in all lists at once: each takes the first candidate that no cap bars, so
that what is passed over is replaced by what comes next.  Where caps bar all that is left, they give way: the list keeps
its length, and it is said which of them did.  Pins stand already, and count for caps from the beginning.

Cost of k places in B lists of n candidates: k · n bytes of a list looked at per place and cap, in bulk; Python runs per
place, not per candidate.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from suisen.recommending.rules.columns import NONE, Bools, Codes

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Capped(NamedTuple):
    """A cap, and the values of what it counts."""

    most: int
    first: int
    """Places that it holds for."""
    codes: Codes
    """(B, n, V) the values of each candidate; ``NONE`` pads."""
    pinned: Codes
    """(B, k, V) those of the items that are pinned to each place."""


class Filled(NamedTuple):
    """B lists."""

    items: Ints
    """(B, k), 0 = none."""
    scores: Floats
    """(B, k), -inf beside none."""
    passed: Ints
    """(B, caps) candidates that each cap passed over."""
    relaxed: Bools
    """(B, caps) whether it gave way."""


class _Count:
    """What a cap bars while the lists are filled."""

    def __init__(self, cap: Capped) -> None:
        self.cap = cap
        self.over = np.zeros(cap.codes.shape[:2], dtype=np.bool_)
        """(B, n) candidates that it bars now."""
        self.passed = np.zeros(cap.codes.shape[:2], dtype=np.bool_)
        self.taken = np.full_like(cap.pinned, NONE)
        """(B, k, V) the values that stand at each place."""
        for place in range(min(cap.first, cap.pinned.shape[1])):
            rows = np.flatnonzero((cap.pinned[:, place] != NONE).any(1))
            self.take(rows, place, cap.pinned[rows, place])

    def take(self, rows: Ints, place: int, values: Codes) -> None:
        """Counts (r, V) values that came to a place; those that are as many as may be bar their candidates."""
        if place >= self.cap.first or not rows.size or not values.shape[1]:
            return
        self.taken[rows, place] = values
        stands = self.taken[rows][:, : self.cap.first]  # (r, k, V)
        for one in range(values.shape[1]):
            value = values[:, one]
            held = (stands == value[:, None, None]).any(2).sum(1)  # (r,) items, this one among them
            full = (held >= self.cap.most) & (value != NONE)
            if full.any():
                self.over[rows[full]] |= (self.cap.codes[rows[full]] == value[full, None, None]).any(2)

    def end(self, free: Bools, furthest: Ints) -> None:
        """It bars nothing from now on; what it passed over is remembered."""
        before = np.arange(free.shape[1]) < furthest[:, None]
        self.passed |= free & self.over & before
        self.over[:] = False


def fill(ids: Ints, scores: Floats, k: int, caps: Sequence[Capped], pinned: Ints) -> Filled:
    """Lists of k items from (B, n) candidates in their order, 0 = none.

    ``pinned`` (B, k): the items that stand at each place, 0 = none; behind the list's end they move up to it.  One that
    is no candidate has the score of the item behind it, or before it where none is.
    """
    rows_all, counts = np.arange(len(ids)), [_Count(cap) for cap in caps]
    pins = np.flatnonzero(pinned.any(0))
    free = (ids > 0) & ~(ids[:, :, None] == pinned[:, None, pins]).any(2)
    chosen = np.full((len(ids), k), -1, dtype=np.int64)
    furthest = np.full(len(ids), -1, dtype=np.int64)
    relaxed = np.zeros((len(ids), len(caps)), dtype=np.bool_)
    for place in range(k):
        for count in counts:
            if count.cap.first == place:
                count.end(free, furthest)
        rows = rows_all[(pinned[:, place] == 0) & free.any(1)]
        if not rows.size:
            continue
        left = free[rows]  # (r, n)
        within = left.copy()
        for count in counts:
            within &= ~count.over[rows]
        kept = within.any(1)
        best = np.where(kept, within.argmax(1), left.argmax(1))  # (r,)
        for number, count in enumerate(counts):
            relaxed[rows, number] |= ~kept & count.over[rows, best]
            count.take(rows, place, count.cap.codes[rows, best])
        chosen[rows, place] = best
        free[rows, best] = False
        furthest[rows] = np.maximum(furthest[rows], best)
    passed = np.zeros((len(ids), len(caps)), dtype=np.int64)
    for number, count in enumerate(counts):
        count.end(free, furthest)
        passed[:, number] = count.passed.sum(1)
    return Filled(*_placed(ids, scores, chosen, pinned), passed, relaxed)


def _placed(ids: Ints, scores: Floats, chosen: Ints, pinned: Ints) -> tuple[Ints, Floats]:
    """(B, k) items and scores of the places chosen, with the pins, without gaps."""
    padded = np.pad(ids, ((0, 0), (0, 1))), np.pad(scores, ((0, 0), (0, 1)), constant_values=-np.inf)
    taken = chosen % padded[0].shape[1]  # -1: the padding
    items, values = np.take_along_axis(padded[0], taken, 1), np.take_along_axis(padded[1], taken, 1)
    if pinned.any():
        for place in np.flatnonzero(pinned.any(0)):
            rows = np.flatnonzero(pinned[:, place])
            same = padded[0][rows] == pinned[rows, place, None]  # (r, n + 1)
            own = padded[1][rows, same.argmax(1)]
            items[rows, place] = pinned[rows, place]
            values[rows, place] = np.where(same.any(1), own, np.nan)
        order = (items == 0).argsort(axis=1, kind="stable")
        items, values = np.take_along_axis(items, order, 1), np.take_along_axis(values, order, 1)
        _borrow(values)
    return items, values


def _borrow(scores: Floats) -> None:
    """Gives each place without a score (NaN) that of the next place behind it that has one, or of the next before."""
    k = scores.shape[1]
    for places in (range(k - 2, -1, -1), range(1, k)):
        step = 1 if places.step < 0 else -1
        for place in places:
            beside = scores[:, place + step]
            lacks = np.isnan(scores[:, place]) & np.isfinite(beside)
            scores[lacks, place] = beside[lacks]
    scores[np.isnan(scores)] = 0.0
