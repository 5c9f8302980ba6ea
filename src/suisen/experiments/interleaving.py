"""Interleaving: two rankers answer the same request in one list, and clicks say whose items were wanted.

Team-draft (Radlinski, Kurup, Joachims, CIKM 2008): two captains pick in turn, a coin says who begins each round, and a
click is a point for the team that picked the item.  Under clicks that do not look at the items both teams get the same
in expectation, whatever the two lists are.

Balanced (Joachims 2002): the lists are zipped, a coin says which begins, doubles are dropped; the ranker wins whose own
list, read as far down as the lowest click asks, holds more of the clicked items.  It can favour one side under random
clicks: for [1, 2, 3] against [2, 3, 1] it does, so prefer team-draft.

Lists are (B, K) arrays of ids, best first, one request per row, or one list alone; where a list has ended stands −1
(integers) or "" (strings).
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from suisen.errors import InputError

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Ids = npt.NDArray[Any]
Seed = int | np.random.Generator
NEITHER = -1
"""Team of a place that neither captain picked: an empty one, or one filled from a list when the other had ended."""


@dataclass(frozen=True, eq=False)
class TeamDraft:
    """Lists made by team-draft, and who picked what."""

    items: Ids
    """(B, k) ids as shown; −1 or "" where there is none."""
    team: npt.NDArray[np.int8]
    """(B, k): 0 = A picked it, 1 = B, −1 = neither."""
    shared: Longs
    """(B,): how many leading places of the two lists are the same item; their teams are pure chance."""

    def credit(self, gains: npt.ArrayLike, *, without_shared: bool = False) -> Floats:
        """(B, 2) points of A and B from ``gains`` (B, k): clicks as 0/1, or any worth ≥ 0 of what was done.

        ``without_shared`` leaves out places that both lists begin with: their points are a coin's, so leaving them out
        keeps the comparison fair and takes noise away.
        """
        table = _gains(gains, self.items)
        if without_shared:
            table = np.where(np.arange(table.shape[1]) < self.shared[:, None], 0.0, table)
        return np.stack([(table * (self.team == team)).sum(1) for team in (0, 1)], axis=1)


@dataclass(frozen=True, eq=False)
class Balanced:
    """Lists made by balanced interleaving, and where each item stood in the two lists."""

    items: Ids
    """(B, k) ids as shown; −1 or "" where there is none."""
    rank_a: Longs
    """(B, k): the item's place in A's list, from 1; K + 1 where A does not have it."""
    rank_b: Longs
    """(B, k): the same for B."""

    def credit(self, gains: npt.ArrayLike) -> Floats:
        """(B, 2) points of A and B: gains of the items in their top n, n being the better rank of the lowest click."""
        table = _gains(gains, self.items)
        clicked = table > 0
        lowest = table.shape[1] - 1 - clicked[:, ::-1].argmax(1)
        rows = np.arange(len(table))
        deep = np.minimum(self.rank_a[rows, lowest], self.rank_b[rows, lowest])[:, None]
        return np.stack([(table * (rank <= deep)).sum(1) for rank in (self.rank_a, self.rank_b)], axis=1)


class Preference(NamedTuple):
    """Which ranker the units preferred: the sign test over units, ties left out of it and counted."""

    units: int
    wins_a: int
    wins_b: int
    ties: int
    share: float
    """Of the decided units, the share that preferred B; NaN where none is decided."""
    low: float
    high: float
    """Exact (Clopper-Pearson) interval of ``share``."""
    p: float
    """Two-sided exact binomial test of share = 1/2."""
    delta: float
    """(wins of B + ties/2)/units − 1/2 (Chapelle, Joachims, Radlinski, Yue 2012): over all units, ties halved."""
    delta_low: float
    delta_high: float
    """Normal interval of ``delta``."""
    level: float

    def __str__(self) -> str:
        decided = self.wins_a + self.wins_b
        if not decided:
            return f"none of {self.units:,} units preferred either ranker"
        return (
            f"B preferred by {self.share:.1%} [{self.low:.1%}, {self.high:.1%}] of {decided:,} decided units, "
            f"p = {self.p:.3g}; {self.ties:,} of {self.units:,} units tied and say nothing"
        )


def team_draft(a: npt.ArrayLike, b: npt.ArrayLike, k: int | None = None, *, seed: Seed = 0) -> TeamDraft:
    """Interleaves each row of ``a`` with that of ``b`` into ``k`` places (the longer list's length by default).

    Each captain takes the best item of the own list that is not yet shown.  When one list has ended the other fills the
    rest, for nobody's credit.  Cost: B · k · (K_a + K_b) comparisons in k vectorised steps.
    """
    a, b, k = _checked(a, b, k)
    rng = np.random.default_rng(seed)
    free = [lists != _none(lists) for lists in (a, b)]
    rows, picked = np.arange(len(a)), np.zeros((2, len(a)), dtype=np.int64)
    items = np.full((len(a), k), _none(a), dtype=np.result_type(a, b))
    team = np.full((len(a), k), NEITHER, dtype=np.int8)
    for place in range(k):
        coin = rng.random(len(a)) < 0.5
        has_a, has_b = (each.any(1) for each in free)
        turn = np.where(picked[0] == picked[1], coin, picked[1] < picked[0])
        turn = np.where(has_a & has_b, turn, has_b)  # True: B's turn
        item = np.where(turn, b[rows, free[1].argmax(1)], a[rows, free[0].argmax(1)])
        item = np.where(has_a | has_b, item, _none(a))
        items[:, place] = item
        team[:, place] = np.where(has_a & has_b, turn, NEITHER)
        picked += np.stack([team[:, place] == 0, team[:, place] == 1])
        free = [each & (lists != item[:, None]) for each, lists in zip(free, (a, b), strict=True)]
    return TeamDraft(items, team, _shared(a, b))


def balanced(a: npt.ArrayLike, b: npt.ArrayLike, k: int | None = None, *, seed: Seed = 0) -> Balanced:
    """Zips each row of ``a`` with that of ``b``, a coin saying which begins, and keeps each item's first place."""
    a, b, k = _checked(a, b, k)
    coin = np.random.default_rng(seed).random(len(a)) < 0.5
    width = max(a.shape[1], b.shape[1])
    wide_a, wide_b = (_widened(lists, width) for lists in (a, b))
    first, second = (np.where(coin[:, None], x, y) for x, y in ((wide_b, wide_a), (wide_a, wide_b)))
    zipped = np.stack([first, second], axis=2).reshape(len(a), 2 * width)
    kept = (zipped != _none(a)) & ~_repeated(zipped)
    order = np.argsort(~kept, axis=1, kind="stable")[:, :k]
    items = np.take_along_axis(np.where(kept, zipped, _none(a)), order, axis=1)
    items = _widened(items, k)
    return Balanced(items, _ranks(items, a), _ranks(items, b))


def by_unit(credit: npt.ArrayLike, unit: npt.ArrayLike) -> Floats:
    """(units, 2) points summed over the requests of a unit: one user's requests are not independent."""
    table, units = np.asarray(credit, dtype=np.float64), np.asarray(unit)
    if units.shape != table.shape[:1]:
        raise InputError(f"unit has shape {units.shape}; give one unit for each of the {len(table)} requests")
    _, code = np.unique(units, return_inverse=True)
    return np.stack([np.bincount(code, weights=column) for column in table.T], axis=1)


def preference(credit: npt.ArrayLike, unit: npt.ArrayLike | None = None, *, level: float = 0.95) -> Preference:
    """The sign test of (n, 2) points of A and B: of the units that prefer one of them, do half prefer B?

    ``unit`` (n,) names whose request each row is; without it every row is a unit of its own.
    """
    table = np.asarray(credit, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != 2:
        raise InputError(f"credit has shape {table.shape}; give (requests, 2): points of A and of B")
    if not 0 < level < 1:
        raise InputError(f"level = {level!r}; give a probability between 0 and 1, like 0.95")
    if not np.isfinite(table).all():
        raise InputError("credit holds NaN or infinity; give finite points")
    table = table if unit is None else by_unit(table, unit)
    if not len(table):
        raise InputError("credit has no row; an interleaved comparison needs at least one unit")
    sign = np.sign(table[:, 1] - table[:, 0])
    wins_a, wins_b = int((sign < 0).sum()), int((sign > 0).sum())
    low, high = (float(end) for end in share_interval(wins_b, wins_a + wins_b, level))
    delta = float(sign.mean()) / 2
    half = float(special.ndtri((1 + level) / 2)) * float(np.sqrt(np.var(sign / 2) / len(sign)))
    decided = wins_a + wins_b
    return Preference(
        units=len(sign), wins_a=wins_a, wins_b=wins_b, ties=len(sign) - decided,
        share=wins_b / decided if decided else float("nan"), low=low, high=high, p=float(sign_test(wins_a, wins_b)),
        delta=delta, delta_low=delta - half, delta_high=delta + half, level=level,
    )  # fmt: skip


def sign_test(wins_a: npt.ArrayLike, wins_b: npt.ArrayLike) -> Floats:
    """Two-sided exact p of "each side wins with 1/2", elementwise; 1 where nobody won.

    >>> float(sign_test(2, 8).round(6))
    0.109375
    """
    a, b = np.asarray(wins_a, dtype=np.float64), np.asarray(wins_b, dtype=np.float64)
    tail = special.bdtr(np.minimum(a, b), np.asarray(a + b, dtype=np.int64), 0.5)
    return np.asarray(np.minimum(1.0, 2 * tail))


def share_interval(wins: npt.ArrayLike, n: npt.ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """The exact interval (Clopper & Pearson 1934) of a share with ``wins`` out of ``n``, elementwise; n = 0: [0, 1].

    >>> [float(end.round(4)) for end in share_interval(8, 10)]
    [0.4439, 0.9748]
    """
    w, n = np.asarray(wins, dtype=np.float64), np.asarray(n, dtype=np.float64)
    tail = (1 - level) / 2
    low = special.betaincinv(np.maximum(w, 0.5), n - w + 1, tail)  # where w = 0 the value is replaced
    high = special.betaincinv(w + 1, np.maximum(n - w, 0.5), 1 - tail)
    return np.where(w == 0, 0.0, low), np.where(w == n, 1.0, high)


def _checked(a: npt.ArrayLike, b: npt.ArrayLike, k: int | None) -> tuple[Ids, Ids, int]:
    one, two = _lists("a", a), _lists("b", b)
    if len(one) != len(two):
        raise InputError(f"a has {len(one)} lists and b has {len(two)}; give both rankers' lists of the same requests")
    if one.dtype.kind != two.dtype.kind:
        raise InputError(f"a holds {one.dtype} and b holds {two.dtype}; give both rankers' ids in one type")
    k = max(one.shape[1], two.shape[1]) if k is None else k
    if k < 1:
        raise InputError(f"k = {k}; an interleaved list has at least 1 place")
    return one, two, k


def _lists(name: str, lists: npt.ArrayLike) -> Ids:
    try:
        table = np.atleast_2d(np.asarray(lists))
    except ValueError:
        raise InputError(f"{name}: lists differ in length; fill the shorter ones up with −1") from None
    if table.ndim != 2 or table.dtype.kind not in "iuU" or table.shape[1] == 0:
        raise InputError(
            f"{name} is {table.dtype} of shape {table.shape}; give (requests, places) of integers or strings"
        )
    table = table.astype(np.int64) if table.dtype.kind == "u" else table
    twice = _repeated(table) & (table != _none(table))
    if twice.any():
        row, place = (int(at[0]) for at in np.nonzero(twice))
        raise InputError(
            f"{name}, row {row}: item {table[row, place].item()!r} stands in it twice; rank each item once"
        )
    return table


def _none(lists: Ids) -> Any:
    """What stands where a list has ended."""
    return "" if lists.dtype.kind == "U" else -1


def _repeated(lists: Ids) -> npt.NDArray[np.bool_]:
    """(B, K): the same value stands further left in the row."""
    order = np.argsort(lists, axis=1, kind="stable")
    ordered = np.take_along_axis(lists, order, axis=1)
    same = np.zeros(lists.shape, dtype=bool)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    out = np.empty_like(same)
    np.put_along_axis(out, order, same, axis=1)
    return out


def _shared(a: Ids, b: Ids) -> Longs:
    width = min(a.shape[1], b.shape[1])
    same = (a[:, :width] == b[:, :width]) & (a[:, :width] != _none(a))
    prefix: Longs = np.logical_and.accumulate(same, axis=1).sum(1)
    return prefix


def _ranks(items: Ids, lists: Ids) -> Longs:
    """(B, k) places from 1 of the items in the lists, one column of the lists at a time; K + 1: not there."""
    ranks = np.full(items.shape, lists.shape[1] + 1, dtype=np.int64)
    for place in range(lists.shape[1] - 1, -1, -1):
        ranks[(items == lists[:, place, None]) & (items != _none(items))] = place + 1
    return ranks


def _widened(lists: Ids, width: int) -> Ids:
    missing = max(0, width - lists.shape[1])
    return np.pad(lists, ((0, 0), (0, missing)), constant_values=_none(lists)) if missing else lists


def _gains(gains: npt.ArrayLike, items: Ids) -> Floats:
    table = np.atleast_2d(np.asarray(gains, dtype=np.float64))
    if table.shape != items.shape:
        raise InputError(f"gains have shape {table.shape}; give one for each of the {items.shape} places shown")
    if not bool((table >= 0).all()):
        raise InputError("gains hold NaN or a negative number; give 0 or more for each place")
    return table
