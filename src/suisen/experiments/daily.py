"""Views by time: the effect on each day since exposure, whether it changes, and as it stood at earlier moments.

A new thing is tried because it is new (novelty) or resisted because it is not the old one (primacy); either shows as an
effect that changes with the days since a unit's first exposure.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from suisen.experiments.comparing import ARM
from suisen.experiments.means import Cuped, Effect, compare, estimate
from suisen.experiments.metrics import DAY, SINCE, TIME, UNIT, Window, aggregates
from suisen.experiments.moments import Moments, aggregate, moments
from suisen.experiments.plan import Plan
from suisen.experiments.result import Day, Range, Trend
from suisen.experiments.units import Units
from suisen.stats import holm

KINDS = ("ctr", "conversion", "value", "count", "sessions", "time-spent")
"""Kinds of metrics that a single day has."""
MOST = 14
"""Days at the most."""
SEEN = 0.5
"""Share of the units that must have been seen for all the days of a trend."""


def by_day(joined: pl.LazyFrame, found: Units, plan: Plan) -> tuple[tuple[Day, ...], tuple[Trend, ...]]:
    """The primary metric by day since exposure, and its trend; empty for metrics that a single day does not have.

    ``joined``: ``units.events_of``.  Of day k speak the units that were seen for k + 1 days; without covariate, log and
    winsorising.  The p-values are Holm's over days and arms.
    """
    metric = plan.metrics[plan.primary]
    horizon = plan.ends if plan.ends is not None else found.last
    if metric.kind not in KINDS or metric.quantile is not None or horizon is None:
        return (), ()
    plain = replace(metric, covariate=False)
    window = Window(plan.ends, 0)
    table = (
        joined.filter(window.during(plain))
        .with_columns(((pl.col(TIME) - pl.col(SINCE)) // DAY).alias("__day"))
        .filter(pl.col("__day") < MOST)
        .group_by(UNIT, "__day")
        .agg(*aggregates("m", plain, plan.columns, window))
        .collect(engine="streaming")
    )
    who = found.frame.select(UNIT, ARM, ((horizon - pl.col(SINCE)) // DAY).alias("__seen"))
    days: list[Day] = []
    for day in range(MOST):
        days += _day(who.filter(pl.col("__seen") > day), table.filter(pl.col("__day") == day), plan, day)
    return _corrected(days), _trends(who, table, plan)


def _filled(who: pl.DataFrame, table: pl.DataFrame) -> pl.DataFrame:
    """The units with their values, 0 for those without an event."""
    values = [name for name in table.columns if name.startswith("m__")]
    joined = who.join(table.select(UNIT, *values), on=UNIT, how="left", maintain_order="left")
    return joined.with_columns(pl.col(values).fill_null(0.0))


def _by_arm(frame: pl.DataFrame, plan: Plan) -> dict[str, Moments]:
    """Moments of "m" by arm; empty where an arm has fewer than two units, or nothing in its denominator."""
    table = aggregate(frame, ["m"], (ARM,))
    found = moments(table, "m")
    out = {arm: found[i] for i, arm in enumerate(table[ARM].to_list())}
    good = all(arm in out and out[arm].n >= 2 and out[arm].mean[1] > 0 for arm in plan.arms)
    return out if good else {}


def _day(who: pl.DataFrame, table: pl.DataFrame, plan: Plan, day: int) -> list[Day]:
    if not who.height:
        return []
    arms = _by_arm(_filled(who, table), plan)
    out = []
    for arm in plan.treatments if arms else ():
        a, b = estimate(arms[plan.control]), estimate(arms[arm])
        absolute = compare(a, b, level=1 - plan.alpha)
        relative = compare(a, b, scale="relative", level=1 - plan.alpha)
        value, other = float(a.value), float(b.value)
        out.append(Day(day, arm, value, other, int(a.n + b.n), _range(absolute), _range(relative), float(absolute.p)))
    return out


def _corrected(days: list[Day]) -> tuple[Day, ...]:
    tested = [day for day in days if not np.isnan(day.effect.p)]
    values = holm([day.effect.p for day in tested])
    return tuple(replace(day, corrected=float(p)) for day, p in zip(tested, values, strict=True))


def _trends(who: pl.DataFrame, table: pl.DataFrame, plan: Plan) -> tuple[Trend, ...]:
    """Later days less earlier ones, by unit, among units that were seen for all of them."""
    length = max((k for k in range(2, MOST + 1) if (who["__seen"] >= k).sum() >= SEEN * who.height), default=0)
    if length < 2:
        return ()
    half = length // 2
    early, late = pl.col("__day") < half, (pl.col("__day") >= half) & (pl.col("__day") < length)
    ratio = "m__d" in table.columns
    scale = (1.0, 1.0) if ratio else (float(length - half), float(half))  # a mean is one of a day
    made = [(pl.col("m__y").filter(late).sum() / scale[0]).alias("m__y")]
    made.append((pl.col("m__y").filter(early).sum() / scale[1]).alias("m__x"))
    if ratio:
        made += [pl.col("m__d").filter(late).sum().alias("m__d"), pl.col("m__d").filter(early).sum().alias("m__w")]
    arms = _by_arm(_filled(who.filter(pl.col("__seen") >= length), table.group_by(UNIT).agg(*made)), plan)
    if not arms or not all(float(m.mean[3]) > 0 for m in arms.values()):
        return ()
    less = Cuped(np.asarray(1.0), np.asarray(0.0), np.asarray(0.0))  # "adjusted" by the whole of the earlier days
    control = estimate(arms[plan.control], cuped=less)
    spans = f"0-{half - 1}", f"{half}-{length - 1}"
    changes = {arm: compare(control, estimate(arms[arm], cuped=less), level=1 - plan.alpha) for arm in plan.treatments}
    return tuple(Trend(arm, *spans, _range(change)) for arm, change in changes.items() if float(change.se) > 0)


def _range(effect: Effect) -> Range:
    return Range(float(effect.value), float(effect.low), float(effect.high), float(effect.p))


def primary_only(plan: Plan, end: str) -> Plan:
    """The plan as it would have been judged at ``end``, of its primary metric alone."""
    metric = plan.metrics[plan.primary]
    names = {plan.primary, metric.numerator, metric.denominator} - {""}
    kept = {name: plan.metrics[name] for name in plan.metrics if name in names}
    return replace(plan, metrics=kept, guardrails={}, equivalence={}, segments=(), end=end)
