"""How long an experiment has to run: its plan against events from before it.

The events of the last d days are taken for an experiment of d days without an effect: a unit is exposed at its first
event in them, and the primary metric is measured as it will be (``units``), its covariate from what lies before.  So
both grow with d as they do in truth: the units, of whom ever fewer are new, and the spread of a unit's value.  The cut
leaves clicks on what was shown before it, so that only all units together may not have more of them than impressions.
What the assignment leaves out (slots, holdout, the share open at the end of the ramp) is taken off; eligibility and
testers are not known before and are not.

Sequential plans cost power: always-valid ones are sized by their interval at the end alone, what is found earlier comes
on top; group plans by exact integration, at the planned power.

Guardrails and equivalences need units of their own: where nothing is wrong, few units leave them undecided.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, sqrt
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy import optimize, special

from suisen.data.durations import duration, spelt
from suisen.data.times import parse_times
from suisen.errors import InputError, unknown
from suisen.experiments.covariates import needed
from suisen.experiments.families import ARM, DAY
from suisen.experiments.means import cuped_of, estimate
from suisen.experiments.metrics import follow_up
from suisen.experiments.moments import aggregate, moments
from suisen.experiments.plan import Plan, Scale
from suisen.experiments.power import Baseline, Design, arms_of, margin_power, margin_size, mde, power, sample_size
from suisen.experiments.sequential import both_sides, mixture_bound, mixture_rho, spending_bounds
from suisen.experiments.units import Frame, units

GRID = (1, 2, 3, 5, 7, 10, 14, 21, 28, 42, 56)
"""Days that are tried, as far as the events reach."""


@dataclass(frozen=True)
class Run:
    """An experiment of so many days."""

    days: int
    units: int
    """Units with a value of the primary metric (followed for as long as it asks), in all arms together."""
    baseline: Baseline
    """The primary metric of a unit after so many days, adjusted by its covariate where the plan says so."""
    needed: float
    """Units that find the plan's effect with the plan's power."""
    power: float
    """Of finding the plan's effect with ``units``."""
    mde: float
    """The effect that ``units`` find with the plan's power, on the plan's scale; NaN: none, however large."""


@dataclass(frozen=True)
class Margin:
    """A guardrail or an equivalence, where the arms are alike in truth."""

    metric: str
    kind: Literal["guardrail", "equivalence"]
    margin: float
    scale: Scale
    needed: float
    """Units with which it holds with the plan's power."""
    power: float
    """Of holding at the length that the primary metric takes."""

    def __str__(self) -> str:
        size = f"{100 * self.margin:g} %" if self.scale == "relative" else f"{self.margin:g}"
        claim = f"not worse by {size}" if self.kind == "guardrail" else f"equal within {size}"
        return (
            f"{self.kind} {self.metric} ({claim}): with arms that are alike it is shown with probability "
            f"{self.power:.0%}; {ceil(self.needed):,} units would reach the planned power."
        )


@dataclass(frozen=True)
class Sizing:
    """What a plan needs, and what so many days give."""

    plan: Plan
    runs: tuple[Run, ...]
    days: int | None
    """The fewest days that reach the plan's power; None: more than the events reach back."""
    arms: Mapping[str, int]
    """Units of every arm that the plan needs, at ``days`` or at the longest run."""
    notes: tuple[str, ...]
    """What was left out of the events or changed, with its count."""
    margins: tuple[Margin, ...] = ()

    def frame(self) -> pl.DataFrame:
        """One row per run."""
        rows = [
            (run.days, run.units, run.baseline.value, sqrt(run.baseline.variance), ceil(run.needed), run.power, run.mde)
            for run in self.runs
        ]
        names = ["days", "units", "value", "deviation", "needed", "power", "mde"]
        return pl.DataFrame(rows, schema=names, orient="row")

    def text(self) -> str:
        """The answer in words."""
        plan, last = self.plan, self.runs[-1]
        effect = f"{plan.mde:.3g}" if plan.scale == "absolute" else f"{plan.mde:.2%}"
        found = next((run for run in self.runs if run.days == self.days), last)
        need = " and ".join(f"{count:,} in {arm}" for arm, count in self.arms.items())
        head = f"To find an effect of {effect} ({plan.scale}) on {plan.primary} with power {plan.power:g}: {need}."
        if self.days is None:
            more = f"{last.days} days give {last.units:,} units, power {last.power:.0%}"
            least = f", and find effects from {_size(last.mde, plan)}" if last.mde == last.mde else ""
            said = f"{more}{least}: run longer, or plan for a larger effect."
            return "\n".join([head, said, *map(str, self.margins)])
        weeks = ceil(self.days / 7)
        tail = f"{self.days} days give {found.units:,} units, power {found.power:.0%}"
        whole = "" if self.days % 7 == 0 else f"; run {weeks} whole week{'s' * (weeks > 1)}, as days of the week differ"
        return "\n".join([f"{head}\n{tail}{whole}.", *map(str, self.margins)])


def size(plan: Plan, events: Frame, *, days: Sequence[int] | None = None, exposed_by: str = "") -> Sizing:
    """The plan's primary metric against events from before the experiment.

    ``days``: lengths to try (default: ``GRID``, as far as the events reach, then every day around the answer).
    ``exposed_by``: type of the events that expose a unit, like ``impression``; empty: any.  Raises InputError for a
    plan without ``mde``, events that are too short, and what ``units`` refuses.
    """
    if plan.mde is None:
        raise InputError("the plan has no mde; write the smallest effect that must not be missed")
    metric = plan.metrics[plan.primary]
    if metric.quantile is not None:
        raise InputError(f"metrics.{plan.primary}.quantile = {metric.quantile:g} cannot be sized; size it by its mean")
    log = _Log.of(plan, events, exposed_by)
    least = ceil(follow_up(plan, plan.primary) / DAY)  # nobody is followed for long enough in a shorter one
    tried = sorted(set(days)) if days is not None else [each for each in GRID if least < each <= log.reach]
    if not tried or tried[0] < 1 or tried[-1] > log.reach:
        raise InputError(f"days = {tried or list(days or ())} do not fit into {log.reach:g} days of events; give fewer")
    design = Design.of(plan, critical_of(plan))
    runs = {each: log.run(each, design) for each in tried}
    enough = next((each for each in tried if runs[each].power >= plan.power), None)
    if enough is not None and days is None:
        below = max((each for each in tried if each < enough), default=least)
        for each in range(below + 1, enough):
            runs[each] = log.run(each, design)
            if runs[each].power >= plan.power:
                enough = each
                break
    final = runs[enough if enough is not None else tried[-1]]
    made = tuple(runs[each] for each in sorted(runs))
    claims = (log.margin(name, final) for name in (*plan.guardrails, *plan.equivalence))
    margins = tuple(claim for claim in claims if claim is not None)
    notes = (*log.notes, *_short_covariate(plan, log.reach, made[-1].days), *_other_test(plan))
    return Sizing(plan, made, enough, arms_of(final.needed, plan), notes, margins)


def _short_covariate(plan: Plan, reach: float, longest: int) -> tuple[str, ...]:
    room = floor(reach - duration("pre", plan.pre) / DAY)
    if not plan.metrics[plan.primary].adjusts or longest <= room:
        return ()
    which = f"runs of more than {room} days" if room > 0 else "all runs"
    return (
        f"the events reach back {reach:.1f} days, so that {which} have less than pre = {plan.pre} before them: their "
        "covariate explains less than it will",
    )


def _other_test(plan: Plan) -> tuple[str, ...]:
    test = plan.metrics[plan.primary].planned_test(plain=True)
    if test.own_size:
        return ()
    return (f"sized as Welch's t, though {plan.primary} is going to be tested by {test.name}",)


def critical_of(plan: Plan) -> Callable[[float], float] | None:
    """Units → standard errors that an effect must exceed at the end; None: one look (``Design.critical``)."""
    return _critical(plan, Design.of(plan).level, one_sided=plan.alternative != "two-sided")


def _critical(plan: Plan, level: float, *, one_sided: bool) -> Callable[[float], float] | None:
    looking = plan.sequential
    if looking is None:
        return None
    if looking.kind == "always-valid":
        sides: Literal[1, 2] = 1 if one_sided else 2
        rho = mixture_rho(looking.tune, level, sides=sides)
        return lambda n: float(mixture_bound(n, rho, level, sides=sides)) / sqrt(n)
    level = both_sides(level, "greater" if one_sided else "two-sided")
    group = spending_bounds(looking.looks, level, spending=looking.spending, convention=looking.convention)
    drift = float(optimize.brentq(lambda drift: group.power(drift) - plan.power, 0.0, 20.0, xtol=1e-9))
    same = drift - float(special.ndtri(plan.power))  # the fixed bound that needs as many units
    return lambda n: same


def share_of(plan: Plan) -> float:
    """The part of all units that comes into the experiment, as far as the plan says."""
    of = plan.assignment
    return (of.slots[1] - of.slots[0]) * (1 - of.holdout) * of.coverage()


@dataclass
class _Log:
    """Events from before, and the plan as an experiment without an effect sees it."""

    plan: Plan
    events: Frame
    exposing: pl.DataFrame
    """Unit and moment (microseconds) of what exposes."""
    end: int
    reach: float
    """Days of events."""
    notes: list[str]

    @classmethod
    def of(cls, plan: Plan, events: Frame, exposed_by: str) -> "_Log":
        lazy, columns = events.lazy(), plan.columns
        known = lazy.collect_schema().names()
        for name in (plan.unit, columns.time, *([columns.event] if exposed_by else [])):
            if name not in known:
                raise unknown("events: column", name, known)
        kept = lazy.filter(pl.col(columns.event).cast(pl.String) == exposed_by) if exposed_by else lazy
        table = kept.select(plan.unit, columns.time).collect(engine="streaming")
        times = parse_times(columns.time, table[columns.time])
        faults = {reason: int(rows.sum()) for reason, rows in times.faults if rows.any()}
        for reason, count in faults.items():
            raise InputError(f"events: {columns.time!r} {reason} in {count:,} rows; mend or leave out")
        moments_ = times.values
        if moments_.is_empty():
            raise InputError(f"events hold none of type {exposed_by!r}; name a type that exposes units")
        first, last = int(moments_.min()), int(moments_.max())  # type: ignore[arg-type]
        end = last + 1
        return cls(plan, events, table.select(plan.unit, moments_.alias("at")), end, (end - first) / DAY, [])

    def run(self, days: int, design: Design) -> Run:
        """An experiment of the last ``days`` days."""
        baseline, n = self._measured(days)
        effect, count = self.plan.mde or 0.0, int(n * share_of(self.plan))
        effect = -effect if design.alternative == "less" else effect
        needed = sample_size(baseline, design, effect=effect)
        if count < 2 / min(design.shares):
            return Run(days, count, baseline, needed, 0.0, float("nan"))
        try:
            least = mde(baseline, design, units=count)
        except InputError:  # no effect, however large: the row says so
            least = float("nan")
        return Run(days, count, baseline, needed, power(baseline, design, units=count, effect=effect), least)

    def margin(self, name: str, at: Run) -> Margin | None:
        """A guardrail or an equivalence after the days of ``at``; None, with a note, where it cannot be sized."""
        plan, equal = self.plan, name in self.plan.equivalence
        rule = plan.equivalence[name] if equal else plan.guardrails[name]
        kind: Literal["guardrail", "equivalence"] = "equivalence" if equal else "guardrail"
        try:
            if plan.metrics[name].quantile is not None:
                raise InputError("it is a quantile")
            baseline, _ = self._measured(at.days, name)
            critical = _critical(plan, 2 * plan.alpha if equal else plan.alpha, one_sided=False)
            design = Design.of_margin(plan, name, critical)
            needed = margin_size(baseline, design, margin=rule.margin, both=equal)
            few = at.units < 2 / min(design.shares)
            power = 0.0 if few else margin_power(baseline, design, units=at.units, margin=rule.margin, both=equal)
        except InputError as error:
            self.notes.append(f"{kind} {name} is not sized: {error}")
            return None
        return Margin(name, kind, rule.margin, rule.scale, needed, power)

    def _measured(self, days: int, name: str = "") -> tuple[Baseline, int]:
        """A metric, the primary one without a name, in the last ``days`` days, and how many units have a value of it.

        Units are in their own order: sums over another one differ in their last digits.
        """
        start, name = self.end - days * DAY, name or self.plan.primary
        plan = _without_effect(self.plan, name, start, self.end)
        first = self.exposing.filter(pl.col("at") >= start).group_by(plan.unit).agg(pl.col("at").min()).sort(plan.unit)
        arm = pl.lit(plan.control).alias(plan.columns.arm)
        time = pl.col("at").cast(pl.Datetime("us", "UTC")).alias(plan.columns.time)
        found = units(first.select(plan.unit, arm, time), _in_utc(self.events, plan), plan, cut=True)
        self.notes += [note for note in found.notes if note not in self.notes]
        group = moments(aggregate(found.frame, [name], (ARM,)), name)
        cuped = cuped_of(group) if plan.metrics[name].adjusts else None
        return Baseline.of(_only(estimate(group, cuped=cuped))), int(group.n[0])


def _only(many: Any) -> Any:
    """The first group of an estimate."""
    return type(many)(*(np.asarray(each).reshape(-1)[0] for each in many))


def _without_effect(plan: Plan, name: str, start: int, end: int) -> Plan:
    """A metric alone, from ``start`` to ``end``."""
    values = plan.as_dict()
    past = [each for each in plan.metrics[name].covariates if each in plan.metrics]  # columns are not known before
    kept = {each: values["metrics"][each] for each in needed(plan, name)}
    kept[name]["covariates"] = past
    dates = {"start": spelt(start), "end": spelt(end)}
    none: dict[str, Any] = {"guardrails": {}, "equivalence": {}, "strata": [], "segments": [], "sequential": None}
    return Plan.of({**values, "primary": name, "metrics": kept, **dates, **none, "assignment": {}})


def _in_utc(events: Frame, plan: Plan) -> pl.LazyFrame:
    """The events with their times as UTC datetimes, so that they meet the exposures on one clock."""
    name = plan.columns.time
    dtype = events.lazy().collect_schema()[name]
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return events.lazy()
    table = events.lazy().collect(engine="streaming")
    return table.with_columns(parse_times(name, table[name]).values.cast(pl.Datetime("us", "UTC")).alias(name)).lazy()


def _size(value: float, plan: Plan) -> str:
    return f"{value:.2%}" if plan.scale == "relative" else f"{value:.3g}"
