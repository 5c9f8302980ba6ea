"""Metrics as Polars expressions over the events of one unit, and what is done to their values afterwards.

How a unit's value comes from its events is the metric's family (``families``); here are the windows, and what follows
for all families alike: ratios of metrics, censoring, logs, caps.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import polars as pl

from suisen.data.durations import MICRO, duration, spelt
from suisen.errors import InputError
from suisen.experiments.covariates import combined, with_past
from suisen.experiments.families import ARM, DAY, SINCE, TIME, Metric, Tally, taken
from suisen.experiments.plan import Columns, Plan

NEARLY = 0.99
"""Share of a follow-up that will do where no unit has the whole."""


@dataclass(frozen=True)
class Window:
    """Which moments count, in microseconds."""

    end: int | None
    """The experiment's first moment that no longer counts."""
    pre: int
    """How long before the exposure covariates reach."""

    def during(self, metric: Metric) -> pl.Expr:
        """Whether an event is in the metric's window after the exposure."""
        inside = pl.col(TIME) >= pl.col(SINCE)
        if self.end is not None:
            inside &= pl.col(TIME) < self.end
        if metric.window:
            inside &= pl.col(TIME) < pl.col(SINCE) + duration("window", metric.window)
        return inside

    def before(self) -> pl.Expr:
        """Whether an event is in the window before the exposure."""
        return (pl.col(TIME) < pl.col(SINCE)) & (pl.col(TIME) >= pl.col(SINCE) - self.pre)


def tallies(name: str, metric: Metric, columns: Columns, window: Window) -> list[Tally]:
    """The sums of one metric by unit: ``<name>__y``, ``__d`` and with a covariate ``__x``, ``__w``.

    Visits have none (``visits``), nor has SQL (``sql_aggregates``), nor a ratio, which ``finish`` makes of its parts.
    """
    family, value = metric.family, columns.value
    sums = [*zip("yd", family.sums(metric, window.during(metric), value, after=True), strict=False)]
    if metric.covariate:
        sums += zip("xw", family.sums(metric, window.before(), value, after=False), strict=False)
    return [replace(each, name=f"{name}__{part}") for part, each in sums]


def visits(name: str, metric: Metric, window: Window) -> list[pl.Expr]:
    """The aggregates of sessions and time spent, which need a unit's events in order."""
    sides = {"y": window.during(metric), **({"x": window.before()} if metric.covariate else {})}
    made = {part: metric.family.in_order(metric, taken(metric, inside)) for part, inside in sides.items()}
    return [each.alias(f"{name}__{part}") for part, each in made.items() if each is not None]


def sql_aggregates(name: str, metric: Metric, parts: str = "yd") -> list[pl.Expr]:
    """The aggregates of an SQL metric, for events that are filtered by its window already; ``parts`` names them."""
    written = [metric.expression, *([metric.per_expression] if metric.per_expression else [])]
    try:
        made = [pl.sql_expr(text) for text in written]
    except pl.exceptions.PolarsError as error:
        raise InputError(f"metrics.{name}.expression = {written} is no SQL aggregate ({error}); mend it") from None
    return [each.cast(pl.Float64).alias(f"{name}__{part}") for part, each in zip(parts, made, strict=False)]


# -- after the aggregation --------------------------------------------------------------------------------------------


class Finished(NamedTuple):
    """Units with their final values."""

    frame: pl.DataFrame
    said: list[str]
    """What was done, in words."""
    immature: dict[str, dict[str, int]]
    """Metric → arm → units that were not followed for long enough, and have no value of it."""


def finish(frame: pl.DataFrame, plan: Plan, horizon: int | None) -> Finished:
    """Ratios, follow-up, logs and caps, in this order.

    ``horizon``: the first moment that was not seen (microseconds); None: all that will be was.  Raises InputError where
    no unit was followed for as long as the primary metric asks.
    """
    said: list[str] = []
    immature: dict[str, dict[str, int]] = {}
    past = with_past(plan)
    for name, metric in past.metrics.items():
        if metric.parts:
            frame = frame.with_columns(_ratio(name, metric, past))
    for name, metric in past.metrics.items():
        needed = follow_up(plan, name)
        if needed and horizon is not None:
            frame, immature[name] = _followed(frame, plan, name, needed, horizon, said)
        frame = transformed(frame, name, metric, said)
    waiting = {name: arms for name, arms in immature.items() if arms}
    return Finished(combined(frame, plan, said), said, waiting)


def _ratio(name: str, metric: Metric, plan: Plan) -> list[pl.Expr]:
    parts = {"y": (metric.numerator, "y"), "d": (metric.denominator, "y")}
    if metric.covariate:
        for other in (metric.numerator, metric.denominator):
            if not plan.metrics[other].covariate:
                raise InputError(
                    f"metrics.{name}.covariate needs the metric {other!r} before the experiment; set "
                    f"metrics.{other}.covariate = true"
                )
        parts |= {"x": (metric.numerator, "x"), "w": (metric.denominator, "x")}
    return [pl.col(f"{other}__{part}").alias(f"{name}__{mine}") for mine, (other, part) in parts.items()]


def follow_up(plan: Plan, name: str) -> int:
    """For how long after its exposure a unit has to be followed to count for a metric, in microseconds."""
    metric = plan.metrics[name]
    window = duration("window", metric.window) if metric.window else 0
    own = max(window, metric.family.days_needed(metric) * DAY)
    return max([own, *(follow_up(plan, part) for part in metric.parts.values())])


def _followed(
    frame: pl.DataFrame, plan: Plan, name: str, needed: int, horizon: int, said: list[str]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Null where a unit's follow-up is not over (what is yet to come is no 0), and how many those are by arm."""
    short = pl.col(SINCE) + needed > horizon
    if frame.select(short.all()).item():  # all exposed at once, and the last event a little before the end
        short = pl.col(SINCE) + int(NEARLY * needed) > horizon
    counts = frame.filter(short).group_by(ARM).len().sort(ARM)
    few = dict(zip(counts[ARM].to_list(), counts["len"].to_list(), strict=True))
    days = f"{needed / DAY:g} days"
    if sum(few.values()) == frame.height:
        why = f"needs {days} after exposure, and no unit was seen for so long{_over(frame, needed, horizon)}"
        if name == plan.primary:
            raise InputError(f"metric {name!r} {why}; shorten it or wait")
        said.append(f"{name} {why}")
    elif few:
        arms = ", ".join(f"{count:,} of {arm}" for arm, count in few.items())
        count = f"{sum(few.values()):,} units ({arms})"
        said.append(f"{name}: {count} were seen for less than {days} and do not count for it")
    y = pl.col(f"{name}__y")
    return frame.with_columns(pl.when(~short).then(y).alias(f"{name}__y")), few


def _over(frame: pl.DataFrame, needed: int, horizon: int) -> str:
    """When the first follow-up is over, in words; empty: there are no units."""
    first = frame[SINCE].min()
    if not isinstance(first, int):
        return ""
    return f" (the data reach {spelt(horizon // MICRO * MICRO)}, the first is over {spelt(first + needed)})"


def transformed(frame: pl.DataFrame, name: str, metric: Metric, said: list[str]) -> pl.DataFrame:
    """The metric's logs and caps, as planned; ``said`` gets what was done."""
    parts = [part for part in ("y", "x") if f"{name}__{part}" in frame.columns]
    if metric.transform == "log":
        if metric.is_ratio:
            raise InputError(
                f"metrics.{name}.transform = 'log' is of one value per unit, and {name!r} is a ratio; drop it"
            )
        least = frame.select(pl.min_horizontal(*(pl.col(f"{name}__{part}").min() for part in parts))).item()
        if least is not None and least <= -1:
            raise InputError(f"metric {name!r} has a value of {least:g}, which has no log(1 + y); drop the transform")
        frame = frame.with_columns(pl.col(f"{name}__{part}").log1p() for part in parts)
        said.append(f"{name}: compared by the mean of log(1 + y), another question than the mean of y")
    for part in parts if metric.capped else ():
        frame = _capped(frame, name, metric, part, said)
    return frame


def _capped(frame: pl.DataFrame, name: str, metric: Metric, part: str, said: list[str]) -> pl.DataFrame:
    """One column with its large values cut; 0 stays 0.  Raises InputError where a cut leaves y the same everywhere."""
    column, top = pl.col(f"{name}__{part}"), metric.cap
    what = "" if top is None else f"cap {top:,.6g}"
    if metric.winsorize is not None:
        some = frame.select((column == 0).any()).item() and not metric.winsorize_zeros
        among = column.filter(column != 0) if some else column
        top = frame.select(among.quantile(metric.winsorize, "higher")).item()
        if top is None:  # nothing but zeros
            return frame
        top = max(top, 0.0) if some else top  # of losses: 0 is above them and no large value
        of = " of those other than 0" if some else ""
        what = f"quantile {metric.winsorize:g}{of}, {top:,.6g}"
    cut = frame.with_columns(column.clip(upper_bound=top))
    if part == "y":
        values = column.drop_nulls().n_unique()
        if frame.select(values).item() > 1 and cut.select(values).item() == 1:
            raise InputError(
                f"metrics.{name}: the {what} is all that is left of its values, so that it does not vary; "
                f"{'raise it' if metric.winsorize is None else 'raise it, or give cap, in the unit of the metric'}"
            )
        capped = int(frame.select((column > top).sum()).item())
        said.append(f"{name}: {capped:,} values above the {what}, count as that")
    return cut
