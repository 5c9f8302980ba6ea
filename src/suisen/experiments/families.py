"""Metrics and their families: how one number of a unit comes from its events.

``units`` joins events to exposures and leaves columns beside those of the events: ``TIME`` and ``SINCE`` (the event's
moment and the unit's first exposure, microseconds), ``UNIT``, and ``EVENT``, the event's type.  A metric is up to four
numbers of a unit (``moments``): y and d after the exposure, x and w, the same before it.

A new family is a class here and one line in ``METRIC_FAMILIES``; in a plan it is ``kind = "its name"``.
"""

from abc import ABC
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from suisen.data.durations import duration
from suisen.errors import unknown
from suisen.experiments.statistical_tests import TESTS, StatisticalTest
from suisen.parameters import parameters

UNIT, TIME, SINCE, EVENT, ARM = "__unit", "__time", "__since", "__event", "arm"
DAY = 86_400 * 10**6
"""Microseconds."""


@dataclass(frozen=True)
class Tally:
    """A sum over a unit's events, which one pass over all events makes (``tally``)."""

    taken: pl.Expr
    """Which events."""
    value: str = ""
    """The column that is summed; empty: events are counted."""
    once: bool = False
    """1 where there is any event."""
    name: str = ""


@parameters
class Metric:
    """How one number of a unit comes from its events, and how the arms are compared on it."""

    kind: str
    """ctr: ``event`` over ``per``, by unit.  conversion: has at least one ``event``.  value: Σ of the values of
    ``event``.  count: events of type ``event``.  sessions: visits ``gap`` apart.  time-spent: seconds inside them.
    retention: any ``event`` from ``first_day`` to ``last_day`` after exposure.  sql: ``expression`` (over
    ``per_expression``, where given).  ratio: the sums of two metrics, ``numerator`` over ``denominator``."""
    event: str | None = None
    """Type of the events counted; None: click for ctr, purchase for conversion and value, all for the rest."""
    per: str = "impression"
    """ctr: type of the events in the denominator."""
    numerator: str = ""
    """ratio: name of a metric of this plan."""
    denominator: str = ""
    """ratio: name of a metric of this plan."""
    expression: str = ""
    """sql: an aggregate over one unit's events, like ``SUM(value) FILTER (WHERE event = 'purchase')``."""
    per_expression: str = ""
    """sql: the denominator, an aggregate as well; empty: one per unit."""
    gap: str = "30m"
    """sessions, time-spent: a pause that ends a session."""
    first_day: Annotated[int, Field(ge=0)] = 7
    """retention: first day since exposure that counts; the day of the exposure is 0."""
    last_day: Annotated[int, Field(ge=0)] = 7
    """retention: last day since exposure that counts."""
    window: str = ""
    """How long after a unit's first exposure its events count, like ``7d``; empty: to the end of the experiment."""
    transform: Literal["none", "log"] = "none"
    """log: log(1 + y) of a unit's value; its mean is another question than the mean of y."""
    winsorize: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    """Quantile of the units' values, over all arms together, above which a value counts as that quantile.  It is that
    of the values other than 0, so that with few buyers it cuts the largest baskets and not every basket."""
    winsorize_zeros: bool = False
    """Whether the zeros count among the values whose quantile ``winsorize`` is."""
    cap: Annotated[float, Field(gt=0)] | None = None
    """A value above which a unit's value counts as it, in the metric's own unit; fixed before the data are seen."""
    covariate: bool = False
    """CUPED: adjust by the same metric before the experiment."""
    covariates: tuple[str, ...] = ()
    """CUPED by several: metrics of the plan (this one too), whose values before the experiment are taken, and columns
    of the exposures with numbers that were known before, like a model's prediction.  Replaces ``covariate``."""
    test: str = "auto"
    """auto: z for conversion and retention, Welch's t (of the delta method, where there is a denominator) elsewhere."""
    quantile: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Compare this quantile of the units' values in place of their mean."""
    better: Literal["higher", "lower"] = "higher"
    """Which way is an improvement."""

    @model_validator(mode="after")
    def _complete(self) -> "Metric":
        if self.kind not in METRIC_FAMILIES:
            raise unknown("kind", self.kind, METRIC_FAMILIES)
        if self.test != "auto" and self.test not in TESTS:
            raise unknown("test", self.test, ["auto", *TESTS])
        for name in self.family.needs:
            if not getattr(self, name):
                raise ValueError(f"kind = {self.kind!r} needs {name}; name it")
        if self.last_day < self.first_day:
            raise ValueError(f"last_day = {self.last_day} is before first_day = {self.first_day}; swap them")
        if self.covariate and self.covariates:
            raise ValueError(
                f"covariate = true and covariates = {list(self.covariates)} both adjust; keep covariates, and name the "
                "metric itself among them"
            )
        if self.cap is not None and self.winsorize is not None:
            raise ValueError(f"cap = {self.cap:g} and winsorize = {self.winsorize:g} both cut large values; keep one")
        if self.winsorize_zeros and self.winsorize is None:
            raise ValueError("winsorize_zeros says which values winsorize looks at, and there is no winsorize; drop it")
        duration("gap", self.gap)
        if self.window:
            duration("window", self.window)
        return self

    @property
    def family(self) -> "MetricFamily":
        """What ``kind`` names."""
        return METRIC_FAMILIES[self.kind]

    @property
    def is_ratio(self) -> bool:
        """Whether a unit has a denominator of its own, so that variances need the delta method."""
        return self.family.ratio or bool(self.per_expression)

    @property
    def adjusts(self) -> bool:
        """Whether covariates are planned."""
        return self.covariate or bool(self.covariates)

    @property
    def capped(self) -> bool:
        """Whether large values are cut."""
        return self.cap is not None or self.winsorize is not None

    @property
    def parts(self) -> dict[str, str]:
        """Of a ratio of two metrics: field → name of the metric."""
        return {name: getattr(self, name) for name in ("numerator", "denominator")} if self.family.of_metrics else {}

    @property
    def event_type(self) -> str | None:
        """Type of the events that are counted; None: all."""
        return self.event or self.family.event

    def planned_test(self, *, plain: bool) -> StatisticalTest:
        """The test; auto is z for ``plain`` shares (no covariate, no strata, no denominator), Welch's t elsewhere."""
        auto = "z" if plain and self.family.share else "welch"
        return TESTS[auto if self.test == "auto" else self.test]


# -- families ---------------------------------------------------------------------------------------------------------


class MetricFamily(ABC):
    """What metrics of one kind have in common: how they are computed, and what follows for their test and size."""

    name: ClassVar[str]
    """In a plan: ``kind = "ctr"``."""
    event: ClassVar[str | None] = None
    """Type of the events that are counted where the metric names none; None: all."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Fields of the metric that must be written."""
    share: ClassVar[bool] = False
    """Whether a unit's value is 0 or 1, so that z tests it and proportions size it."""
    ratio: ClassVar[bool] = False
    """Whether a unit has a denominator of its own."""
    bounded: ClassVar[bool] = False
    """Whether y counts answers to what d counts, so that y above d is a mistake of the log."""
    rare: ClassVar[bool] = False
    """Whether few units may have any event, so that a normal interval is a guess."""
    reads_value: ClassVar[bool] = False
    """Whether it sums the events' values."""
    by_day: ClassVar[bool] = True
    """Whether a single day since exposure has a value."""
    summable: ClassVar[bool] = True
    """Whether a unit's value is a sum over its events (or of such sums), so that one pass will do."""
    of_metrics: ClassVar[bool] = False
    """Whether it is made of two other metrics."""
    of_sql: ClassVar[bool] = False
    """Whether it is written as SQL."""

    def sums(self, metric: Metric, inside: pl.Expr, value: str, *, after: bool) -> list[Tally]:
        """The sums of y and, of a ratio, of d.

        ``inside``: whether an event is in the window; ``value``: the column of the events' values; ``after``: the
        window is the one after the exposure.
        """
        return []

    def in_order(self, metric: Metric, taken: pl.Expr) -> pl.Expr | None:
        """Y as an aggregate of a unit's events in their order; None: it is none."""
        return None

    def days_needed(self, metric: Metric) -> int:
        """Days that a unit must have been seen for, beside the metric's window."""
        return 0


class Count(MetricFamily):
    """Events of one type."""

    name = "count"
    rare = True

    def sums(self, metric: Metric, inside: pl.Expr, value: str, *, after: bool) -> list[Tally]:
        """One each."""
        return [Tally(taken(metric, inside))]


class Ctr(Count):
    """Events of one type over events of another, by unit."""

    name = "ctr"
    event = "click"
    ratio = True
    bounded = True

    def sums(self, metric: Metric, inside: pl.Expr, value: str, *, after: bool) -> list[Tally]:
        """Clicks and impressions."""
        return [Tally(taken(metric, inside)), Tally(inside & (pl.col(EVENT) == metric.per))]


class Value(Count):
    """The sum of the events' values."""

    name = "value"
    event = "purchase"
    reads_value = True

    def sums(self, metric: Metric, inside: pl.Expr, value: str, *, after: bool) -> list[Tally]:
        """Of the column ``value``."""
        return [Tally(taken(metric, inside), value)]


class Conversion(MetricFamily):
    """Whether a unit has any event of one type."""

    name = "conversion"
    event: ClassVar[str | None] = "purchase"
    share = True

    def sums(self, metric: Metric, inside: pl.Expr, value: str, *, after: bool) -> list[Tally]:
        """1 at the most."""
        return [Tally(taken(metric, inside), once=True)]


class Retention(Conversion):
    """Whether a unit has any event on some days since exposure."""

    name = "retention"
    event = None
    by_day = False

    def sums(self, metric: Metric, inside: pl.Expr, value: str, *, after: bool) -> list[Tally]:
        """Before the exposure any day counts."""
        day = (pl.col(TIME) - pl.col(SINCE)) // DAY
        kept = inside & day.is_between(metric.first_day, metric.last_day) if after else inside
        return super().sums(metric, kept, value, after=after)

    def days_needed(self, metric: Metric) -> int:
        """To the end of the last day."""
        return metric.last_day + 1


class Sessions(MetricFamily):
    """Visits: events a pause apart."""

    name = "sessions"
    summable = False

    def in_order(self, metric: Metric, taken: pl.Expr) -> pl.Expr | None:
        """One, and one more for every pause."""
        pauses, gap = _pauses(taken), duration("gap", metric.gap)
        return (taken.any().cast(pl.Int64) + (pauses > gap).sum()).cast(pl.Float64)


class TimeSpent(MetricFamily):
    """Seconds between the first and the last event of each visit, summed."""

    name = "time-spent"
    summable = False

    def in_order(self, metric: Metric, taken: pl.Expr) -> pl.Expr | None:
        """The pauses that end no visit."""
        pauses, gap = _pauses(taken), duration("gap", metric.gap)
        return pauses.filter(pauses <= gap).sum().cast(pl.Float64) / 1e6


class Sql(MetricFamily):
    """SQL aggregates over a unit's events."""

    name = "sql"
    needs = ("expression",)
    by_day = False
    summable = False
    of_sql = True


class Ratio(MetricFamily):
    """The sums of two metrics of the plan over each other."""

    name = "ratio"
    needs = ("numerator", "denominator")
    ratio = True
    by_day = False
    of_metrics = True


def taken(metric: Metric, inside: pl.Expr) -> pl.Expr:
    """Whether an event is in the window and of the metric's type."""
    return inside if metric.event_type is None else inside & (pl.col(EVENT) == metric.event_type)


def _pauses(taken: pl.Expr) -> pl.Expr:
    """Microseconds between events that follow each other."""
    return pl.col(TIME).filter(taken).sort().diff()


METRIC_FAMILIES: dict[str, MetricFamily] = {
    family.name: family
    for family in (Ctr(), Conversion(), Value(), Count(), Sessions(), TimeSpent(), Retention(), Sql(), Ratio())
}
"""Kind in a plan → family."""
