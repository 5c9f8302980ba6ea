"""Metrics as Polars expressions over the events of one unit, and what is done to their values afterwards.

How a unit's value comes from its events is the metric's family (``families``); here are the windows, and what follows
for all families alike: ratios of metrics, censoring, logs, caps.
"""

from dataclasses import dataclass, replace

import polars as pl

from suisen.data.durations import duration
from suisen.errors import InputError
from suisen.experiments.covariates import combined, with_past
from suisen.experiments.families import DAY, SINCE, TIME, Metric, Tally, taken
from suisen.experiments.plan import Columns, Plan


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


def finish(frame: pl.DataFrame, plan: Plan, horizon: int | None) -> tuple[pl.DataFrame, list[str]]:
    """Ratios, censoring, logs and caps, in this order; the frame and what was done, in words."""
    said: list[str] = []
    past = with_past(plan)
    for name, metric in past.metrics.items():
        if metric.parts:
            frame = frame.with_columns(_ratio(name, metric, past))
    for name, metric in past.metrics.items():
        frame = _censored(frame, name, metric, horizon, said)
        frame = transformed(frame, name, metric, said)
    return combined(frame, plan, said), said


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


def _censored(frame: pl.DataFrame, name: str, metric: Metric, horizon: int | None, said: list[str]) -> pl.DataFrame:
    """Null where the unit was not seen for as long as the metric asks."""
    window = duration("window", metric.window) if metric.window else 0
    needed = max(window, metric.family.days_needed(metric) * DAY)
    if not needed or horizon is None:
        return frame
    short = pl.col(SINCE) + needed > horizon
    few = int(frame.select(short.sum()).item())
    if few == frame.height:
        raise InputError(
            f"metric {name!r} needs {needed / DAY:g} days after exposure, and no unit was seen for so long; shorten it "
            "or wait"
        )
    if few:
        said.append(f"{name}: {few:,} units were seen for less than {needed / DAY:g} days and do not count for it")
    return frame.with_columns(pl.when(~short).then(pl.col(f"{name}__y")).alias(f"{name}__y"))


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
        top = frame.select(
            column.filter(column != 0 if some else pl.lit(value=True)).quantile(metric.winsorize, "higher")
        ).item()
        if top is None:  # nothing but zeros
            return frame
        if some and top < 0:  # of losses: 0 is above them and no large value
            top = 0.0
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
