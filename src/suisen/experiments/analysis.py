"""From exposures and events to a result: ``analyze`` does what the plan says, corrects, and gives a verdict."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import polars as pl
from scipy import special

from suisen.data.durations import moment
from suisen.errors import InputError
from suisen.experiments.blocks import CONTAMINATED, block_of, contamination, unjudged
from suisen.experiments.comparing import Comparing, corrected, with_stratum
from suisen.experiments.covariates import combined
from suisen.experiments.daily import by_day
from suisen.experiments.earlier import Moment, by_reading, by_summing, moments_of, summable
from suisen.experiments.families import ARM, SINCE
from suisen.experiments.frozen import Frozen
from suisen.experiments.looks import earlier, look_of
from suisen.experiments.metrics import transformed
from suisen.experiments.outlook import outlook
from suisen.experiments.plan import Plan
from suisen.experiments.result import Cumulative, Estimated, Result, Segment
from suisen.experiments.srm import Part, Ratio, mismatched, sample_ratio
from suisen.experiments.standing import Look, Taken
from suisen.experiments.statistical_tests import ComparisonOptions
from suisen.experiments.units import Duplicates, Frame, Units, events_of, units, until
from suisen.experiments.verdict import verdict
from suisen.stats import Floats, benjamini_hochberg, holm

CORRECT: dict[str, Callable[[Sequence[float]], Floats]] = {"holm": holm, "bh": benjamini_hochberg}
NAMES = {"holm": "Holm", "bh": "Benjamini-Hochberg"}
NAMED = 3
"""How many of the segments and days whose sample ratio does not hold are named."""


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions:
    """What an analysis may be told beside the plan; nothing here changes what is tested."""

    duplicates: Duplicates = "auto"
    """auto: rows with an equal id (``columns.event_id`` of the plan) are one event, and without ids every row is one;
    drop: without ids, rows that are equal in every column are one event; keep: every row is one, whatever its id."""
    cluster: str = ""
    """Column of the exposures whose ids hold units that depend on each other."""
    resamples: int = 2000
    """Of bootstrap and permutation tests."""
    seed: int = 0
    daily: bool = True
    """Whether to look at the effect by day since exposure."""
    cumulative: int = 0
    """At how many earlier moments to show the primary metric: one more pass over the events, or one per moment where
    the metric is of visits or SQL, or units were dropped for being in two arms."""
    most: int = 20
    """Values of a segment column that are looked at, the most frequent ones."""
    now: str = ""
    """ISO 8601: the moment of this look, from which on nothing counts; empty: that of the latest event.  Data that stop
    earlier reach no further for it."""

    @property
    def comparison(self) -> ComparisonOptions:
        """How the tests draw."""
        return ComparisonOptions(resamples=self.resamples, seed=self.seed)

    @property
    def looked_at(self) -> int | None:
        """``now`` in microseconds; None: not stated."""
        return moment("now", self.now, 0) if self.now else None


def analyze(
    exposures: Frame,
    events: Frame,
    plan: Plan,
    *,
    pre: Frame | None = None,
    frozen: Frozen | None = None,
    looks: Sequence[Taken] | None = None,
    mode: Literal["A/B", "A/A"] = "A/B",
    options: AnalysisOptions | None = None,
) -> Result:
    """The whole analysis.

    ``exposures``: unit, arm, time and columns of strata and segments; ``events``: unit, time, type, value, …, named by
    the plan's ``columns``; ``pre``: events before the experiment where ``events`` does not hold them; ``frozen``: the
    plan as it was at the start; ``looks``: those taken before (``looks.taken_of`` a result makes one of it), without
    which a group-sequential plan's looks count as taken when they were planned.  Raises InputError for data that cannot
    be judged (``units`` states the rules), and for plans that ask for what a test cannot do.
    """
    given = options or AnalysisOptions()
    found = units(
        exposures, events, plan, pre=pre, duplicates=given.duplicates, cluster=given.cluster, now=given.looked_at
    )  # fmt: skip
    result = analyze_units(found, plan, frozen=frozen, looks=looks, mode=mode, options=given)
    seen = until(plan, given.looked_at)
    log = None if given.cluster else events_of(found, events, seen, pre=pre, duplicates=given.duplicates)
    if given.daily and log is not None:
        days, trends = by_day(log, found, seen)
        result = replace(result, days=days, trends=trends)
    if given.cumulative:
        untils = moments_of(found, seen, given.cumulative)
        if log is not None and summable(found, plan):
            stood = by_summing(log, found, seen, untils)
        else:
            stood = by_reading(seen, untils, lambda one: units(
                exposures, events, one, pre=pre, duplicates=given.duplicates, cluster=given.cluster,
                now=given.looked_at,
            ))  # fmt: skip
        result = replace(result, cumulative=_cumulative(stood, result, given))
    return result


def analyze_units(
    found: Units | pl.DataFrame,
    plan: Plan,
    *,
    frozen: Frozen | None = None,
    looks: Sequence[Taken] | None = None,
    mode: Literal["A/B", "A/A"] = "A/B",
    options: AnalysisOptions | None = None,
) -> Result:
    """The analysis of units whose metrics are known: one row each, ``arm`` and ``<metric>__y`` (``moments``).

    The values of a frame are those before logs and winsorising, which the plan asks for and which are done here.
    """
    given = options or AnalysisOptions()
    known = found if isinstance(found, Units) else _units_of(found, plan)
    ratio = sample_ratio(known.counts(), plan.arms, threshold=plan.srm_threshold)
    now = known.last if given.looked_at is None else given.looked_at
    look, times = look_of(plan, valued(known.frame, plan.primary), now, looks)
    comparing = Comparing(known.frame, plan, look, times, given.comparison)
    notes = [*known.notes, with_stratum(known.frame, plan)[1]]
    estimates = _with_immature(_estimates(comparing, mode, notes), known, plan.control)
    segments, skipped = _segments(comparing, given)
    parts = mismatched(known.frame, [*plan.segments, *plan.strata], plan.arms, threshold=plan.srm_threshold)
    late = "" if frozen is None else frozen.late(*_span(known, plan))
    result = Result(
        plan, mode, plan.fingerprint(), () if frozen is None else frozen.changes(plan), ratio, known.exposed or
        known.frame.height, known.contaminated, tuple(note for note in [*notes, *skipped] if note),
        (*known.warnings, *_doubts(known, ratio, parts), *(said for said in (late, look.doubt) if said)), look,
        estimates, segments, repeated=known.repeated or 0, events=known.events, parts=parts, late=late,
        looks=earlier(looks or (), look),
    )  # fmt: skip
    primary = [each for each in estimates if each.role == "primary"]
    blocked = block_of(ratio, parts, result.contamination, look, primary)
    if blocked is not None:
        shown = [replace(each, estimate=unjudged(each.estimate)) for each in segments]
        result = replace(result, blocked=blocked, estimates=tuple(map(unjudged, estimates)), segments=tuple(shown))
    seen = int(comparing.moments(plan.primary).n.sum())
    ahead = outlook(plan, comparing.control(plan.primary), seen) if blocked is None else None
    return replace(result, verdict=verdict(result), outlook=ahead)


def _units_of(frame: pl.DataFrame, plan: Plan) -> Units:
    """A frame of units, checked, with the plan's transforms."""
    for name in (ARM, *(f"{metric}__y" for metric in plan.metrics)):
        if name not in frame.columns:
            raise InputError(f"the units have no column {name!r} (they have {', '.join(frame.columns)}); add it")
    if frame[ARM].null_count():
        raise InputError(f"{frame[ARM].null_count():,} units have no arm; leave them out")
    for metric in plan.metrics:
        bad = int(frame.select((~pl.col(f"{metric}__y").cast(pl.Float64).is_finite()).sum()).item())
        if bad:
            raise InputError(f"metric {metric!r}: {bad:,} units have a value that is NaN or infinite; mend them")
    made, said = frame.with_columns(pl.col(ARM).cast(pl.String)), list[str]()
    for name, rule in plan.metrics.items():
        made = transformed(made, name, rule, said)
    return Units(combined(made, plan, said), exposed=frame.height, notes=tuple(said))


def valued(frame: pl.DataFrame, name: str) -> int:
    """Units that have a value of a metric: those that are not followed for long enough are no part of a sample yet."""
    return int(frame[f"{name}__y"].count())


def _span(known: Units, plan: Plan) -> tuple[int | None, int | None]:
    """The first exposure and the latest event, or the planned dates where the units have no times."""
    first = known.frame[SINCE].min() if SINCE in known.frame.columns else plan.starts
    return first, plan.ends if known.last is None else known.last  # type: ignore[return-value]


def _doubts(known: Units, ratio: Ratio, parts: Sequence[Part]) -> list[str]:
    out = []
    share = known.contaminated / known.exposed if known.exposed else 0.0
    if share > CONTAMINATED:
        out.append(f"{contamination(share)}; mend the assignment")
    out += [f"sample ratio: {part} is not as planned" for part in parts[:NAMED]]
    if len(parts) > NAMED:
        out.append(f"sample ratio: nor are {len(parts) - NAMED:,} more segments and days")
    if ratio.doubt:
        out.append(f"{ratio.doubt}: look for what may lose units of one arm")
    if min(ratio.expected.values()) < 5:
        out.append("sample ratio: an arm has fewer than 5 expected units, so its test says little")
    return out


# -- estimates and corrections ----------------------------------------------------------------------------------------


def _estimates(comparing: Comparing, mode: str, notes: list[str]) -> tuple[Estimated, ...]:
    """Primary, guardrails, secondary.  In A/A mode all are one family; else guardrails stand alone, each to hold."""
    plan = comparing.plan
    judged = _judged(comparing, notes)
    guards = [name for name in plan.guardrails if name != plan.primary and name in judged]
    secondary = [name for name in plan.secondary if name in judged]
    families = [
        comparing.estimated(plan.primary, "primary"),
        [each for name in guards for each in comparing.estimated(name, "guardrail")],
        [each for name in secondary for each in comparing.estimated(name, "secondary")],
    ]
    if mode == "A/A":
        return tuple(_family([each for family in families for each in family], plan))
    primary, guarded, rest = families
    return tuple([*_family(primary, plan), *guarded, *_family(rest, plan)])


def _judged(comparing: Comparing, notes: list[str]) -> list[str]:
    """The metrics beside the primary one that two units of every arm have; the others are left out with a note."""
    names = [name for name in comparing.present if name != comparing.plan.primary]
    counts = comparing.frame.group_by(ARM).agg(pl.col(f"{name}__y").count() for name in names)
    few = {name: [arm for arm, n in counts.select(ARM, f"{name}__y").iter_rows() if n < 2] for name in names}
    notes += [
        f"{name} is left out: arm {min(arms)!r} has fewer than 2 units with a value of it"
        for name, arms in few.items()
        if arms
    ]
    return [name for name in names if not few[name]]


def _with_immature(estimates: Sequence[Estimated], known: Units, control: str) -> tuple[Estimated, ...]:
    """The estimates with the units that wait for their follow-up to be over, of control and arm."""
    waiting = {name: known.immature.get(name, {}) for name in {each.metric for each in estimates}}
    return tuple(
        replace(each, immature=(waiting[each.metric].get(control, 0), waiting[each.metric].get(each.arm, 0)))
        for each in estimates
    )


def _family(estimates: list[Estimated], plan: Plan, *, always: bool = False) -> list[Estimated]:
    """Corrected together; what could not be tested is left as it is."""
    rule = "holm" if always and plan.correction == "none" else plan.correction
    tested = [each for each in estimates if not np.isnan(each.p)]
    if rule == "none" or len(tested) < 2:
        return estimates
    said = f"{NAMES[rule]} over {len(tested)}"
    values = iter(corrected(tested, CORRECT[rule]([each.p for each in tested]).tolist(), said))
    return [each if np.isnan(each.p) else next(values) for each in estimates]


# -- segments ---------------------------------------------------------------------------------------------------------


def _segments(comparing: Comparing, given: AnalysisOptions) -> tuple[tuple[Segment, ...], list[str]]:
    """The primary metric in each value of each segment column, all corrected together; looks are not allowed for."""
    plan, notes = comparing.plan, []
    alone = replace(plan, sequential=None, strata=(), segments=(), guardrails={}, equivalence={}, correction="none")
    found: list[tuple[str, str, Estimated]] = []
    for column in plan.segments:
        values = comparing.frame[column].value_counts(sort=True)[column].to_list()
        if len(values) > given.most:
            notes.append(f"segments: {column!r} has {len(values):,} values; the {given.most} most frequent are shown")
        for value in values[: given.most]:
            part = comparing.frame.filter(pl.col(column) == value)
            counts = dict(part.group_by(ARM).agg(pl.col(f"{plan.primary}__y").count()).iter_rows())
            if min(counts.get(arm, 0) for arm in plan.arms) < 2:
                notes.append(f"segments: {column} = {value!r} has an arm with fewer than 2 units and is not shown")
                continue
            one = replace(comparing, frame=part, plan=alone, look=Look("fixed", None, ""), times=())
            found += [(column, str(value), each) for each in one.estimated(plan.primary, "primary")]
    made = _family([each for _, _, each in found], plan, always=True)
    differ = {
        (column, arm): _differ([each for name, _, each in found if name == column and each.arm == arm])
        for column in plan.segments
        for arm in plan.treatments
    }
    return tuple(
        Segment(column, value, each, differ[column, each.arm])
        for (column, value, _), each in zip(found, made, strict=True)
    ), notes


def _differ(estimates: Sequence[Estimated]) -> float:
    """The p-value of Cochran's Q: whether effects differ by more than chance; 1 where there is nothing to compare."""
    share = all(each.scale == "relative" for each in estimates)
    ranges = [each.on("relative" if share else "absolute") for each in estimates]
    values, low, high = (np.array([getattr(each, end) for each in ranges]) for end in ("value", "low", "high"))
    one = np.isinf(low) != np.isinf(high)  # a one-sided interval has its width on one side
    widths = np.where(one, np.fmin(values - low, high - values), (high - low) / 2)
    good = np.isfinite(widths) & (widths > 0) & np.isfinite(values)
    if good.sum() < 2:
        return 1.0
    quantile = -special.ndtri(estimates[0].alpha / np.where(one[good], 1, 2))
    weight = (quantile / widths[good]) ** 2
    mean = (weight * values[good]).sum() / weight.sum()
    return float(special.chdtrc(int(good.sum()) - 1, float((weight * (values[good] - mean) ** 2).sum())))


# -- as it stood earlier ----------------------------------------------------------------------------------------------


def _cumulative(stood: Iterable[Moment], result: Result, given: AnalysisOptions) -> tuple[Cumulative, ...]:
    """The primary metric at moments that had two units in every arm, and enough of them for its test."""
    plan, scales = result.plan, {each.arm: each.scale for each in result.of("primary")}
    out = []
    for then in stood:
        counts = Units(then.frame).counts()
        if min(counts.get(arm, 0) for arm in plan.arms) < 2:
            continue
        n = valued(then.frame, plan.primary)
        look, times = look_of(plan, n, then.until)
        comparing = Comparing(then.frame, replace(then.plan, correction="none"), look, times, given.comparison)
        try:
            estimates = comparing.estimated(plan.primary, "primary")
        except InputError:  # too early for the metric
            continue
        out += [Cumulative(then.until, each.arm, n, each.on(scales[each.arm])) for each in estimates]
    return tuple(out)
