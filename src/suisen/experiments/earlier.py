"""The units as they stood at earlier moments, by the same rules with the end moved.

Where the primary metric is made of sums, one pass over the events sums them by unit and by the moment they were first
seen at; adding up from one moment to the next gives every moment.  Else each moment reads the events again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from suisen.data.durations import duration, spelt
from suisen.errors import InputError
from suisen.experiments.covariates import needed
from suisen.experiments.families import SINCE, TIME, Tally
from suisen.experiments.metrics import Window, finish, tallies
from suisen.experiments.plan import Plan
from suisen.experiments.tally import ROW, Array, Places, tallied
from suisen.experiments.units import Units, no_more_than_shown

Read = Callable[[Plan], Units]
"""``units`` of the same tables under another plan."""


@dataclass(frozen=True)
class Moment:
    """An earlier one."""

    until: int
    """Microseconds; the first one that does not count."""
    plan: Plan
    """The primary metric alone, ending then."""
    frame: pl.DataFrame
    """``Units.frame`` of then."""


def primary_only(plan: Plan, end: str) -> Plan:
    """The plan as it would have been judged at ``end``, of its primary metric alone."""
    kept = {name: plan.metrics[name] for name in needed(plan, plan.primary)}
    return replace(plan, metrics=kept, guardrails={}, equivalence={}, segments=(), end=end)


def moments_of(found: Units, plan: Plan, count: int) -> list[int]:
    """``count`` evenly spaced moments until the latest one."""
    first = int(found.frame[SINCE].min())  # type: ignore[arg-type]
    last = max(found.horizon or 0, (found.last or first) + 1)
    last = last if plan.ends is None else min(last, plan.ends)
    return [int(each) for each in np.linspace(first, last, count + 1)[1:].astype(np.int64)]


def summable(found: Units, plan: Plan) -> bool:
    """Whether one pass will do: the metric is of sums, and nobody was left out for what was seen later."""
    sums = all(metric.family.summable for metric in primary_only(plan, plan.end).metrics.values())
    return sums and (not found.contaminated or plan.contamination == "first")


def by_reading(plan: Plan, untils: Sequence[int], read: Read) -> Iterator[Moment]:
    """Each moment from the tables.  A moment too early for the metric is left out: nobody was seen for long enough."""
    for until in untils:
        one = primary_only(plan, spelt(until))
        try:
            yield Moment(until, one, read(one).frame)
        except InputError:
            continue


def by_summing(events: pl.LazyFrame, found: Units, plan: Plan, untils: Sequence[int]) -> Iterator[Moment]:
    """Each moment from one pass over ``events`` (``units.events_of``, those before the experiment included)."""
    one = primary_only(plan, spelt(untils[-1]))
    size, window = found.frame.height, Window(untils[-1], duration("pre", plan.pre))
    sums = [each for name, metric in one.metrics.items() for each in tallies(name, metric, plan.columns, window)]
    after, before = ([each for each in sums if each.name[-1] in parts] for parts in ("yd", "xw"))
    seen = pl.sum_horizontal((pl.col(TIME) >= until).cast(pl.Int64) for until in untils)
    whole = [replace(each, once=False) for each in after]  # once in all, and not once a moment
    early = events.filter((pl.col(TIME) < untils[-1]) & (pl.col(TIME) >= pl.col(SINCE)))
    found_after = tallied(early, Places(seen * size + pl.col(ROW), size * len(untils)), whole).sums
    known = tallied(events, Places(pl.col(ROW), size), before).sums if before else {}
    extra = found.frame.select(pl.exclude("^.*__[ydxw]$"))
    so_far = {each.name: np.zeros(size) for each in after}
    for at, until in enumerate(untils):
        for each in after:
            so_far[each.name] += found_after[each.name][at * size : (at + 1) * size]
        then = replace(one, end=spelt(until))
        try:
            yield Moment(until, then, _frame(extra, after, so_far, known, then, min(until, found.horizon or until)))
        except InputError:
            continue


def _frame(
    extra: pl.DataFrame,
    after: Sequence[Tally],
    so_far: dict[str, Array],
    known: dict[str, Array],
    plan: Plan,
    horizon: int,
) -> pl.DataFrame:
    """The units that were exposed before the plan's end, with values where follow-up is over."""
    values = {each.name: np.minimum(so_far[each.name], 1) if each.once else so_far[each.name].copy() for each in after}
    values |= {name: each.astype(np.float64) for name, each in known.items()}
    frame = extra.with_columns(pl.Series(name, each) for name, each in values.items()).filter(pl.col(SINCE) < plan.ends)
    return finish(no_more_than_shown(frame, plan, []), plan, horizon).frame
