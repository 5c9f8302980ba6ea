"""Views by time: the effect on each day since exposure, whether it changes, and as it stood at earlier moments.

A new thing is tried because it is new (novelty) or resisted because it is not the old one (primacy); either shows as an
effect that changes with the days since a unit's first exposure.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from suisen.data.durations import duration
from suisen.experiments.families import ARM, DAY, SINCE, TIME
from suisen.experiments.means import Cuped, compare, estimate
from suisen.experiments.metrics import Window, tallies, visits
from suisen.experiments.moments import Moments, aggregate, moments
from suisen.experiments.plan import Plan
from suisen.experiments.result import Day, Range, Trend
from suisen.experiments.tally import ROW, Array, Places, grouped, tallied
from suisen.experiments.units import Units
from suisen.stats import holm

MOST = 14
"""Days at the most."""
SEEN = 0.5
"""Share of the units that must have been seen for all the days of a trend."""


def by_day(joined: pl.LazyFrame, found: Units, plan: Plan) -> tuple[tuple[Day, ...], tuple[Trend, ...]]:
    """The primary metric by day since exposure, and its trend; empty for metrics that a single day does not have.

    ``joined``: ``units.events_of``.  Of day k speak the units that were seen for k + 1 days (``Units.horizon``);
    without covariate, log and caps.  The p-values are Holm's over days and arms.
    """
    metric, horizon = plan.metrics[plan.primary], found.horizon
    if not metric.family.by_day or metric.quantile is not None or horizon is None:
        return (), ()
    seen = ((horizon - found.frame[SINCE]) // DAY).to_numpy()
    if metric.window:  # later days hold nothing, which is no effect that wears off
        seen = np.minimum(seen, max(duration("window", metric.window) // DAY, 1))
    length = int(min(MOST, max(seen.max(initial=0), 0)))
    if not length:
        return (), ()
    values = _values(joined, found.frame.height, length, plan)
    table = _Table(found.frame[ARM], seen, values)
    days = [each for day in range(length) for each in _day(table, plan, day)]
    return _corrected(days), _trends(table, plan)


@dataclass(frozen=True)
class _Table:
    """The primary metric by day and unit."""

    arm: pl.Series
    """(units,)"""
    seen: Array
    """(units,): whole days from the first exposure to the latest moment."""
    values: Mapping[str, Array]
    """y and, of a ratio, d: (days, units)."""

    def frame(self, least: int, values: Mapping[str, Array]) -> pl.DataFrame:
        """ARM and columns of units, of those that were seen for ``least`` days."""
        table = pl.DataFrame({ARM: self.arm, **values})
        return table if (kept := self.seen >= least).all() else table.filter(pl.Series(kept))


def _values(joined: pl.LazyFrame, units: int, length: int, plan: Plan) -> dict[str, Array]:
    """m__y and m__d, (days, units), of the first ``length`` days."""
    plain, window = replace(plan.metrics[plan.primary], covariate=False), Window(plan.ends, 0)
    day = (pl.col(TIME) - pl.col(SINCE)) // DAY
    places = Places(day * units + pl.col(ROW), length * units)
    inside = joined.filter(window.during(plain) & (day < length))
    made = visits("m", plain, window)
    if made:
        flat = grouped(inside, places, made, int(inside.select(pl.len()).collect(engine="streaming").item()))
    else:
        flat = tallied(inside, places, tallies("m", plain, plan.columns, window)).sums
    return {name: each.reshape(length, units) for name, each in flat.items()}


def _by_arm(frame: pl.DataFrame, plan: Plan) -> dict[str, Moments]:
    """Moments of "m" by arm; empty where an arm has fewer than two units, or nothing in its denominator."""
    table = aggregate(frame, ["m"], (ARM,))
    found = moments(table, "m")
    out = {arm: found[i] for i, arm in enumerate(table[ARM].to_list())}
    good = all(arm in out and out[arm].n >= 2 and out[arm].mean[1] > 0 for arm in plan.arms)
    return out if good else {}


def _day(table: _Table, plan: Plan, day: int) -> list[Day]:
    arms = _by_arm(table.frame(day + 1, {name: each[day] for name, each in table.values.items()}), plan)
    out = []
    for arm in plan.treatments if arms else ():
        a, b = estimate(arms[plan.control]), estimate(arms[arm])
        absolute = compare(a, b, level=1 - plan.alpha)
        relative = compare(a, b, scale="relative", level=1 - plan.alpha)
        value, other = float(a.value), float(b.value)
        out.append(
            Day(day, arm, value, other, int(a.n + b.n), Range.of(absolute), Range.of(relative), float(absolute.p))
        )
    return out


def _corrected(days: list[Day]) -> tuple[Day, ...]:
    tested = [day for day in days if not np.isnan(day.effect.p)]
    values = holm([day.effect.p for day in tested])
    return tuple(replace(day, corrected=float(p)) for day, p in zip(tested, values, strict=True))


def _trends(table: _Table, plan: Plan) -> tuple[Trend, ...]:
    """Later days less earlier ones, by unit, among units that were seen for all of them."""
    least = SEEN * table.seen.size
    length = max((k for k in range(2, MOST + 1) if (table.seen >= k).sum() >= least), default=0)
    if length < 2:
        return ()
    half = length // 2
    ratio = "m__d" in table.values
    scale = (1.0, 1.0) if ratio else (float(length - half), float(half))  # a mean is one of a day
    made = {}
    for name, late, early in (("m__y", "m__y", "m__x"), *([("m__d", "m__d", "m__w")] if ratio else [])):
        made[late] = table.values[name][half:length].sum(0, dtype=np.float64) / scale[0]
        made[early] = table.values[name][:half].sum(0, dtype=np.float64) / scale[1]
    arms = _by_arm(table.frame(length, made), plan)
    if not arms or not all(float(m.mean[3]) > 0 for m in arms.values()):
        return ()
    less = Cuped(np.asarray(1.0), np.asarray(0.0), np.asarray(0.0))  # "adjusted" by the whole of the earlier days
    control = estimate(arms[plan.control], cuped=less)
    spans = f"0-{half - 1}", f"{half}-{length - 1}"
    changes = {arm: compare(control, estimate(arms[arm], cuped=less), level=1 - plan.alpha) for arm in plan.treatments}
    return tuple(Trend(arm, *spans, Range.of(change)) for arm, change in changes.items() if float(change.se) > 0)
