"""A world to experiment in: users who browse recommendations, with everything that they do known in probability.

It stands on ``data/synthetic.py``, whose p(i | u) is each user's true taste.  A ranker is any function from users to
lists; the world knows nothing of models.

    visit       a list of k places is shown; place j is looked at with probability j^−attention (position bias)
    click       of what is looked at, with log-odds logit(interest) + eagerness · ln(n_items · p(i | u)) + user's own
    purchase    of what is clicked, with log-odds logit(buying) + half of the same fit; worth price × user × noise
    refund      of what is bought, with a fixed probability, twelve to fourteen hours after the visit began
    return      after a visit the user will come back with probability ``pleased`` if something was clicked, else
                ``coming_back``; one who will does so on each following day with probability ``pace``

Visits of a user are alike and independent but for whether they happen, so the expectation of every metric is a formula
in c_j and b_j, the chances of clicking and of buying at place j (``expected``): the true effect is computed, not drawn.
With ρ the chance to come back after a visit and s = 1 − pace (1 − ρ), a visit on day t > 0 has probability
pace ρ s^(t − 1), and what a visit holds is independent of whether it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator
from scipy import special

from suisen.data.log import Col
from suisen.data.synthetic import DAY, START, Generated
from suisen.errors import InputError
from suisen.parameters import parameters

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Ranker = Callable[[Longs], npt.ArrayLike]
"""Users (B,), raw ids of the world, to lists (B, K) of its items, best first; 0: no item."""
Share = Annotated[float, Field(ge=0, le=1)]
HOUR = DAY // 24
LOOK = 8
"""Seconds spent on a place before it is clicked."""
BUY = 4
"""Seconds between click and purchase."""
RETENTION = (7, 7)
"""Days since exposure on which a visit counts as retention; the default of ``plan.Metric``."""
EVENTS = ("impression", "click", "purchase", "return")


@parameters
class Habits:
    """What users do with a list."""

    places: Annotated[int, Field(ge=1)] = 10
    """Length of the list shown."""
    attention: Annotated[float, Field(ge=0)] = 0.8
    """Place j is looked at with probability j^−attention."""
    interest: Annotated[float, Field(gt=0, lt=1)] = 0.06
    """Chance of a click on an item that fits as any item does on average, once looked at."""
    eagerness: Annotated[float, Field(ge=0)] = 0.6
    """How much the odds of a click rise with fit; 0: not at all."""
    buying: Annotated[float, Field(gt=0, lt=1)] = 0.08
    """Chance that such an item is bought, once clicked."""
    coming_back: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Chance to come back after a visit without a click."""
    pleased: Annotated[float, Field(ge=0, lt=1)] = 0.8
    """Chance to come back after a visit with one."""
    pace: Annotated[float, Field(gt=0, le=1)] = 0.3
    """Chance, on each day, that one who will come back does."""
    days: Annotated[int, Field(ge=1)] = 14
    """How long a user is followed, from the first visit."""
    arrival_days: Annotated[int, Field(ge=1)] = 7
    """First visits are spread over so many days."""
    temper: Annotated[float, Field(ge=0)] = 0.8
    """Spread of the users' own log-odds of clicking and of the logarithm of what they spend."""
    tail: Annotated[float, Field(ge=0)] = 0.5
    """Spread of the logarithm of a purchase's worth; the larger, the heavier the tail of revenue."""
    refunds: Share = 0.05
    """Share of purchases that are given back."""
    seed: int = 0
    """Of the users' own tempers and purses."""

    @model_validator(mode="after")
    def _ordered(self) -> Habits:
        if self.pleased < self.coming_back:
            raise ValueError(f"pleased = {self.pleased} is below coming_back = {self.coming_back}; swap them")
        return self


class Chances(NamedTuple):
    """What a list does to its user, (B, k) each."""

    items: Longs
    """Raw ids; 0: an empty place."""
    click: Floats
    """Looked at and clicked."""
    buy: Floats
    """Bought, once clicked."""
    worth: Floats
    """Expected worth of the purchase."""

    def take(self, rows: npt.ArrayLike) -> Chances:
        """Some of the users, each as often as named."""
        return Chances(*(part[np.asarray(rows)] for part in self))


@dataclass(frozen=True, eq=False)
class Totals:
    """What units did in their whole window, (B,) each: drawn numbers, or their expectations."""

    sessions: Floats
    """Visits."""
    impressions: Floats
    clicks: Floats
    purchases: Floats
    revenue: Floats
    """Worth of the purchases."""
    refunded: Floats
    """Worth of the purchases given back."""
    returns: Floats
    """Number of those."""
    conversion: Floats
    """Whether anything was bought."""
    retention: Floats
    """Whether there was a visit on the days of retention."""
    seconds: Floats
    """Time between the first and last event of each visit, summed."""

    def __len__(self) -> int:
        return len(self.clicks)

    def metric(self, name: str) -> tuple[Floats, Floats]:
        """Numerator and denominator of a metric, (B,) each; a mean's denominator is 1."""
        if name == "ctr":
            return self.clicks, self.impressions
        if name == "net_revenue":
            return self.revenue - self.refunded, np.ones(len(self))
        return getattr(self, name), np.ones(len(self))


METRICS = ("ctr", *(field.name for field in fields(Totals)), "net_revenue")


class Traffic(NamedTuple):
    """An experiment's files."""

    exposures: pl.DataFrame
    """user, arm, time, and the user's features: one row per visit."""
    events: pl.DataFrame
    """user, time, event (impression, click, purchase, return), item, position (from 1), value (of purchase and return),
    session: in order of time."""
    totals: Totals
    """The same by user, in the order of the users given."""


class _Visits(NamedTuple):
    """One row per visit: whose, when, and what happened at each place."""

    unit: Longs
    day: Longs
    clicked: npt.NDArray[np.bool_]
    bought: npt.NDArray[np.bool_]
    worth: Floats
    refunded: npt.NDArray[np.bool_]

    @staticmethod
    def joined(days: Sequence[_Visits]) -> _Visits:
        return _Visits(*(np.concatenate(parts) for parts in zip(*days, strict=True)))


@dataclass(frozen=True, eq=False)
class Browsing:
    """The world: a generated log with its truth, and habits."""

    generated: Generated
    habits: Habits

    @classmethod
    def of(cls, generated: Generated, **habits: Any) -> Browsing:
        """With habits by name."""
        return cls(generated, Habits(**habits))

    @property
    def users(self) -> Longs:
        """Raw ids of all users."""
        return np.arange(1, self.generated.world.users + 1)

    def dates(self, start: int | None = None) -> tuple[int, int]:
        """Microseconds: where an experiment begins (by default where the world's own log ends), and where every user
        has been followed for all ``days``.
        """
        begin = self.generated.world.days * DAY + START if start is None else start
        return begin, begin + (self.habits.arrival_days + self.habits.days) * DAY

    @cached_property
    def _own(self) -> tuple[Floats, Floats]:
        """(users,) own log-odds of clicking and own factor of spending (mean 1)."""
        normal = np.random.default_rng([self.habits.seed, 1]).normal(size=(2, self.generated.world.users))
        spread = self.habits.temper
        return spread * normal[0], np.exp(spread * normal[1] - spread**2 / 2)

    @cached_property
    def _prices(self) -> Floats:
        items = self.generated.log.items
        if items is None or "price" not in items.columns:
            raise InputError("the generated log has no item table with a column 'price'; use a World's own log")
        return items.sort(Col.ITEM)["price"].to_numpy()

    def chances(self, ranker: Ranker, users: npt.ArrayLike | None = None) -> Chances:
        """What a ranker's lists do to users (all by default)."""
        who = self._known(users)
        items = self._lists(ranker, who)
        habits = self.habits
        shown = items > 0
        fit = self.generated.truth.preference(who, np.maximum(items, 1)) + np.log(self.generated.world.items)
        temper, purse = (own[who - 1, None] for own in self._own)
        looked = np.arange(1, items.shape[1] + 1.0) ** -habits.attention
        click = looked * special.expit(special.logit(habits.interest) + habits.eagerness * fit + temper)
        buy = special.expit(special.logit(habits.buying) + habits.eagerness * fit / 2)
        worth = self._prices[np.maximum(items, 1) - 1] * purse
        return Chances(items, *(np.where(shown, part, 0.0) for part in (click, buy, worth)))

    def expected(self, chances: Chances, *, retention: tuple[int, int] = RETENTION) -> Totals:
        """Each unit's expectation of everything it does, by formula."""
        habits, (_, c, b, worth) = self.habits, chances
        span, pace = habits.days - 1, habits.pace
        no_click, no_buy = (1 - c).prod(1), (1 - c * b).prod(1)
        back = habits.coming_back * no_click + habits.pleased * (1 - no_click)
        stay = 1 - pace * (1 - back)
        visits = 1 + back * (1 - stay**span) / (1 - back)
        on = habits.coming_back * no_click + habits.pleased * (no_buy - no_click)  # bought nothing and will come back
        keep = (1 - pace * (1 - on)) ** span
        never = (no_buy - on) * (1 + on * (1 - keep) / (1 - on)) + on * keep
        after = np.concatenate([np.cumprod((1 - c)[:, :0:-1], axis=1)[:, ::-1], np.ones((len(c), 1))], axis=1)
        seconds = (c * after * (LOOK * np.arange(1, c.shape[1] + 1) + BUY * b)).sum(1)
        bought, spent = (c * b).sum(1), (c * b * worth).sum(1)
        parts = {
            "sessions": np.ones_like(visits), "impressions": (chances.items > 0).sum(1), "clicks": c.sum(1),
            "purchases": bought, "revenue": spent, "refunded": habits.refunds * spent,
            "returns": habits.refunds * bought, "seconds": seconds,
        }  # fmt: skip
        return Totals(
            **{name: visits * part for name, part in parts.items()},
            conversion=1 - never, retention=_retained(back, stay, habits, retention),
        )  # fmt: skip

    def truth(
        self, arms: Mapping[str, Ranker], users: npt.ArrayLike | None = None, *, retention: tuple[int, int] = RETENTION
    ) -> pl.DataFrame:
        """The true effects: metric, arm, value, absolute, relative; the first arm is the control.

        ctr is the ratio of the expected clicks of all users to their expected impressions.
        """
        found = {arm: self.expected(self.chances(ranker, users), retention=retention) for arm, ranker in arms.items()}
        control = next(iter(found.values()))
        rows = []
        for metric in METRICS:
            base = _value(control, metric)
            for arm, totals in found.items():
                value = _value(totals, metric)
                rows.append((metric, arm, value, value - base, value / base - 1 if base else float("nan")))
        return pl.DataFrame(rows, schema=["metric", "arm", "value", "absolute", "relative"], orient="row")

    def live(
        self, chances: Chances, rng: np.random.Generator | int, *, retention: tuple[int, int] = RETENTION
    ) -> Totals:
        """One draw of what each unit does in its window."""
        totals, _ = self._live(chances, np.random.default_rng(rng), retention)
        return totals

    def traffic(
        self,
        arms: Mapping[str, Ranker],
        assigned: npt.ArrayLike,
        users: npt.ArrayLike | None = None,
        *,
        seed: int = 0,
        start: int | None = None,
    ) -> Traffic:
        """An experiment: ``assigned`` (B,) names the arm of each user; times from ``start`` (microseconds; by default
        where the world's own log ends).  Called with one arm alone and an earlier start it makes a pre-period.
        """
        who, names = self._known(users), np.asarray(assigned)
        if names.shape != who.shape:
            raise InputError(f"assigned has shape {names.shape}; name the arm of each of the {who.size} users")
        if np.unique(who).size < who.size:
            raise InputError("users: an id stands in it twice; give each user once")
        if strange := sorted(set(names.tolist()) - set(arms)):
            raise InputError(f"assigned names the arm {strange[0]!r}; known: {', '.join(arms)}")
        rng = np.random.default_rng([seed, 2])
        chances = self._assigned(arms, names, who)
        totals, days = self._live(chances, rng, RETENTION)
        visits = _Visits.joined(days)
        begin, _ = self.dates(start)
        first = begin + rng.integers(self.habits.arrival_days, size=who.size) * DAY + _hours(rng, 8, 20, who.size)
        later = np.where(visits.day > 0, _hours(rng, 0, 10, visits.day.size), 0)
        at = first[visits.unit] + visits.day * DAY + later
        exposures = pl.DataFrame({Col.USER: who[visits.unit], "arm": names[visits.unit], Col.TIME: _moments(at)})
        if (features := self.generated.log.users) is not None:
            exposures = exposures.join(features, on=Col.USER, how="left", maintain_order="left")
        events = _events(visits, chances.items[visits.unit], who[visits.unit], at, rng)
        return Traffic(exposures.sort(Col.TIME, maintain_order=True), events, totals)

    def _assigned(self, arms: Mapping[str, Ranker], names: npt.NDArray[Any], who: Longs) -> Chances:
        """Each user's chances under the own arm's ranker, which is asked for its own users alone."""
        width = self.habits.places
        out = Chances(np.zeros((who.size, width), dtype=np.int64), *(np.zeros((who.size, width)) for _ in range(3)))
        for arm, ranker in arms.items():
            rows = np.flatnonzero(names == arm)
            if rows.size:
                for whole, part in zip(out, self.chances(ranker, who[rows]), strict=True):
                    whole[rows] = part
        return out

    def _live(
        self, chances: Chances, rng: np.random.Generator, retention: tuple[int, int]
    ) -> tuple[Totals, list[_Visits]]:
        """Day by day over all units at once; each day costs what its visits cost."""
        habits, (items, c, b, worth) = self.habits, chances
        shown = (items > 0).sum(1)
        sums = {field.name: np.zeros(len(c)) for field in fields(Totals)}
        coming, days = np.ones(len(c), dtype=bool), []
        for day in range(habits.days):
            rows = np.flatnonzero(coming)
            rows = rows[rng.random(rows.size) < habits.pace] if day else rows
            clicked = rng.random((rows.size, c.shape[1])) < c[rows]
            bought = clicked.copy()
            bought[clicked] = rng.random(int(clicked.sum())) < b[rows][clicked]
            worths, back = np.zeros(bought.shape), np.zeros(bought.shape, dtype=bool)
            noise = habits.tail * rng.standard_normal(int(bought.sum())) - habits.tail**2 / 2
            worths[bought] = worth[rows][bought] * np.exp(noise)
            back[bought] = rng.random(noise.size) < habits.refunds
            visits = _Visits(rows, np.full(rows.size, day), clicked, bought, worths, back)
            _add(sums, visits, shown[rows])
            if retention[0] <= day <= retention[1]:
                sums["retention"][rows] = 1
            coming[rows] = rng.random(rows.size) < np.where(clicked.any(1), habits.pleased, habits.coming_back)
            days.append(visits)
        sums["conversion"] = (sums["purchases"] > 0).astype(np.float64)
        return Totals(**sums), days

    def _known(self, users: npt.ArrayLike | None) -> Longs:
        if users is None:
            return self.users
        who = np.asarray(users)
        if who.ndim != 1 or who.dtype.kind not in "iu":
            raise InputError(f"users is {who.dtype} of shape {who.shape}; give (users,) raw ids of the world")
        outside = (who < 1) | (who > self.generated.world.users)
        if outside.any():
            raise InputError(
                f"user {who[outside][0]} is not of this world; it has users 1…{self.generated.world.users}"
            )
        return who.astype(np.int64)

    def _lists(self, ranker: Ranker, who: Longs) -> Longs:
        lists = np.asarray(ranker(who))
        if lists.ndim != 2 or len(lists) != who.size or lists.dtype.kind not in "iu" or not lists.shape[1]:
            raise InputError(f"a ranker gave {lists.dtype} of shape {lists.shape}; give integers ({who.size}, places)")
        outside = (lists < 0) | (lists > self.generated.world.items)
        if outside.any():
            raise InputError(
                f"a ranker gave item {lists[outside][0]}; the world has items 1…{self.generated.world.items}"
            )
        cut = lists[:, : self.habits.places].astype(np.int64)
        return np.pad(cut, ((0, 0), (0, self.habits.places - cut.shape[1])))


def _value(totals: Totals, metric: str) -> float:
    y, d = totals.metric(metric)
    return float(y.mean() / d.mean())


def _retained(back: Floats, stay: Floats, habits: Habits, retention: tuple[int, int]) -> Floats:
    """P(a visit on one of the days): still to come back when the first of them dawns, and then coming in time."""
    first, last = retention[0], min(retention[1], habits.days - 1)
    if first > last:
        return np.zeros_like(back)
    if first == 0:
        return np.ones_like(back)
    return np.asarray(back * stay ** (first - 1) * (1 - (1 - habits.pace) ** (last - first + 1)))


def _add(sums: dict[str, Floats], visits: _Visits, shown: Longs) -> None:
    """A day's deeds onto the running totals; nobody comes twice a day."""
    clicked, bought = visits.clicked, visits.bought
    any_click = clicked.any(1)
    last = clicked.shape[1] - 1 - clicked[:, ::-1].argmax(1)
    parts = {
        "sessions": np.ones(len(clicked)), "impressions": shown, "clicks": clicked.sum(1), "purchases": bought.sum(1),
        "revenue": visits.worth.sum(1), "refunded": (visits.worth * visits.refunded).sum(1),
        "returns": visits.refunded.sum(1),
        "seconds": np.where(any_click, LOOK * (last + 1) + BUY * bought[np.arange(len(last)), last], 0),
    }  # fmt: skip
    for name, part in parts.items():
        sums[name][visits.unit] += part


# -- frames -----------------------------------------------------------------------------------------------------------


def _hours(rng: np.random.Generator, low: int, high: int, size: int) -> Longs:
    return rng.integers(low * HOUR, high * HOUR, size=size)


def _moments(micros: Longs) -> pl.Series:
    return pl.Series(micros, dtype=pl.Int64).cast(pl.Datetime("us", "UTC"))


def _events(visits: _Visits, items: Longs, user: Longs, at: Longs, rng: np.random.Generator) -> pl.DataFrame:
    """One row per event: impressions at once, clicks ``LOOK`` seconds per place later, purchases ``BUY`` after them."""
    second = 10**6
    back = _hours(rng, 12, 14, len(at))
    parts = []
    for name, happened in zip(EVENTS, (items > 0, visits.clicked, visits.bought, visits.refunded), strict=True):
        row, place = np.nonzero(happened)
        delay = {"click": LOOK * (place + 1), "purchase": LOOK * (place + 1) + BUY}.get(name, np.zeros(row.size))
        time = at[row] + (back[row] if name == "return" else np.asarray(delay).astype(np.int64) * second)
        worth = visits.worth[row, place] if name in ("purchase", "return") else np.full(row.size, np.nan)
        parts.append(
            pl.DataFrame({
                Col.USER: user[row], Col.TIME: time, "event": np.full(row.size, name), Col.ITEM: items[row, place],
                "position": place + 1, "value": worth, Col.SESSION: row + 1,
            })
        )  # fmt: skip
    frame = pl.concat(parts).with_columns(
        pl.col(Col.TIME).cast(pl.Datetime("us", "UTC")), pl.col("value").fill_nan(None)
    )
    return frame.sort(Col.TIME, maintain_order=True)
