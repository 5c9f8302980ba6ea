"""Exposures and events → one row per unit: its arm, its first exposure, and its value of every metric.

Rules, each counted in ``Units.notes`` where it took something out:

* A unit belongs to the experiment from its first exposure inside the plan's dates; its events count from then on.
* A unit seen in two arms is contaminated: left out of both, or kept in the arm seen first, as the plan says.
* Testers (``assignment.overrides``) are left out.
* Nothing at or after ``now`` counts.  The data reach to the end, to ``now`` or to the last event, whichever is first,
  and a unit counts for a metric where its follow-up (``window``, days of retention) was over by then.
* Rows are one event where they have an equal id (``columns.event_id``); without ids every row is an event, as one can
  see two lists in the same second.  ``duplicates="drop"``: rows that are equal in every column are one event.
* Where ``cluster`` is named, its ids are what is independent: values are summed over each cluster, means become ratios
  over the cluster's number of units, and a cluster seen in two arms is contaminated.
* Zones are converted; a column without one is UTC, unless the other table names zones.
* More clicks than impressions of a unit (``ctr``) count as many as its impressions.  To leave the unit out would choose
  units by their outcome; the smaller of the two numbers is a metric like any, the same in every arm.  Where more than
  ``MOST_OVER`` of an arm's units are like that the log is broken, and refused.
* Missing ids, times and arms, arms that are not planned, and values that are no finite number are refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import polars as pl

from suisen.data.durations import duration, spelt
from suisen.errors import InputError
from suisen.experiments.clock import clocked, same_clock
from suisen.experiments.covariates import PAST, columns_of, with_past
from suisen.experiments.families import ARM, DAY, EVENT, SINCE, TIME, UNIT, Metric, Tally
from suisen.experiments.metrics import Window, finish, sql_aggregates, tallies, visits
from suisen.experiments.plan import Plan
from suisen.experiments.tally import (
    ROW,
    Array,
    Places,
    Tallied,
    grouped,
    once,
    repeated,
    rows_of,
    tallied,
    without_repeats,
)

Frame = pl.DataFrame | pl.LazyFrame
Duplicates = Literal["auto", "drop", "keep"]
"""auto: rows with an equal id (``columns.event_id``) are one event, and without ids every row is one; drop: without
ids, rows that are equal in every column are one event; keep: every row is one, whatever its id."""
USER = "user"
MIN_USERS, SAME_ARM = 20, 0.95
"""Users with several units, and their share in one arm, from which units are taken for clustered."""
MOST_OVER = 0.01
"""Share of an arm's units with more clicks than impressions above which the log is refused."""
SHORT = 0.1
"""Share of ``pre`` that may be missing before the first exposure without a word."""


@dataclass(frozen=True)
class Units:
    """What is analysed."""

    frame: pl.DataFrame
    """One row per unit: ``__unit``, ``arm``, ``__since``, strata and segments, and ``<metric>__y|d|x|w``."""
    contaminated: int = 0
    """Units seen in more than one arm."""
    exposed: int = 0
    """Units exposed inside the dates, contaminated ones and testers included."""
    notes: tuple[str, ...] = ()
    """What was left out or changed, with its count."""
    last: int | None = None
    """The latest event or exposure, microseconds."""
    horizon: int | None = None
    """The first moment that was not seen: the earliest of the end, ``now`` and what follows the last event."""
    warnings: tuple[str, ...] = ()
    """What the tests assume and the data contradict."""
    repeated: int | None = None
    """Events left out because they repeat another; None: not looked for."""
    events: int = 0
    """Events of the units, repeated ones included."""
    immature: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Metric → arm → units whose follow-up is not over, which do not count for it."""

    def counts(self) -> dict[str, int]:
        """Units by arm."""
        table = self.frame.group_by(ARM).len().sort(ARM)
        return dict(zip(table[ARM].to_list(), table["len"].to_list(), strict=True))


def units(
    exposures: Frame,
    events: Frame,
    plan: Plan,
    *,
    pre: Frame | None = None,
    duplicates: Duplicates = "auto",
    cluster: str = "",
    cut: bool = False,
    now: int | None = None,
) -> Units:
    """One row per unit.

    ``pre``: events before the experiment, where ``events`` does not hold them.  ``cut``: the first events may answer
    what was shown before, so that single units may have more clicks than impressions.  ``now``: the first moment of
    which nothing is known (microseconds), for a look at data that go on.

    ``cluster``: a column of the exposures whose ids hold units that are not independent of each other, like the user
    of sessions; it is then the cluster that is one row.  Lazy frames are read as a stream.  Raises InputError for what
    the module's rules refuse.
    """
    extra = [*plan.strata, *plan.segments, *([cluster] if cluster else [])]
    wanted = [plan.unit, plan.columns.arm, plan.columns.time, *extra, *columns_of(plan)]
    names = _names(exposures, "exposures", wanted)
    other = [USER] if plan.unit != USER and USER in exposures.lazy().collect_schema() else []
    notes: list[str] = []
    exposed, zone = clocked("exposures", exposures.lazy().select(list(dict.fromkeys([*names, *other]))), plan)
    plan = until(plan, now)
    who, contaminated, seen = _exposed(exposed, plan, [*extra, *other], notes, now)
    joined = _joined(events, pre, plan, who, zone)
    frame, log, again = _measured(joined, who, plan, notes, _key(plan, duplicates), now)
    frame = no_more_than_shown(frame, plan, notes, cut=cut)
    horizon = _horizon(log, who, plan)
    if now is not None and min(now, plan.ends or now) - horizon >= DAY:
        notes.append(f"the data stop at {spelt(horizon - 1)}, before now: what came later is missing, and no 0")
    frame, said, immature = finish(frame, plan, horizon)
    notes += said if cut else [*_short_past(log, who, plan), *said]
    warnings: tuple[str, ...] = ()
    if cluster:
        frame, mixed = _by_cluster(frame, plan, cluster, notes)
        contaminated += mixed
    elif other:
        warnings = _alike(frame, plan)
    last = max(value for value in (log.last, who[SINCE].max()) if isinstance(value, int))
    total = log.events + (again or 0)
    return Units(frame, contaminated, seen, tuple(notes), last, horizon, warnings, again, total, immature)


def until(plan: Plan, now: int | None) -> Plan:
    """The plan, ending ``now`` where that is before its end.  Raises InputError for a moment before the start."""
    if now is None or (plan.ends is not None and plan.ends <= now):
        return plan
    if plan.starts is not None and now <= plan.starts:
        raise InputError(f"now = {spelt(now)} is not after start = {plan.start}; there is nothing to look at yet")
    return replace(plan, end=spelt(now))


def events_of(
    found: Units, events: Frame, plan: Plan, *, pre: Frame | None = None, duplicates: Duplicates = "auto"
) -> pl.LazyFrame:
    """The events of units that ``units`` found, each with UNIT, TIME, SINCE, EVENT and ROW (its place in the frame)."""
    joined, key = _joined(events, pre, plan, found.frame), _key(plan, duplicates)
    return joined if key is None or found.repeated == 0 else once(joined, key)


def _key(plan: Plan, duplicates: Duplicates) -> Sequence[str] | None:
    """Columns in which rows of one event are equal, the id last; empty: all of them; None: each row is an event."""
    if plan.columns.event_id and duplicates != "keep":
        return UNIT, EVENT, plan.columns.event_id
    return () if duplicates == "drop" else None


def _horizon(log: Tallied, who: pl.DataFrame, plan: Plan) -> int:
    """``Units.horizon``.  A log of dates alone reaches to the end of its last day; without events, exposures say."""
    timed = log.counts["__timed"] or log.last is None
    last = int(who[SINCE].max()) if log.last is None else log.last  # type: ignore[arg-type]
    reached = last + (1 if timed else DAY)
    return reached if plan.ends is None else min(reached, plan.ends)


def _short_past(log: Tallied, who: pl.DataFrame, plan: Plan) -> list[str]:
    """Whether the log begins too late for the covariates of the first units, in words."""
    since, pre = who[SINCE], duration("pre", plan.pre)
    if log.first is None or not any(metric.covariate for metric in with_past(plan).metrics.values()):
        return []
    if log.first - (int(since.min()) - pre) <= SHORT * pre:  # type: ignore[arg-type]
        return []
    few = int((since - pre < log.first).sum())
    return [
        f"covariates: the log begins at {spelt(log.first)}, less than pre = {plan.pre} before the exposure of {few:,} "
        "units, whose covariates hold what there is and explain less"
    ]


# -- exposures --------------------------------------------------------------------------------------------------------


def _names(frame: Frame, table: str, names: Sequence[str]) -> list[str]:
    """The wanted columns, once each.  Raises InputError for one that is not there."""
    known = frame.lazy().collect_schema().names()
    for name in names:
        if name not in known:
            raise InputError(f"{table} has no column {name!r} (it has {', '.join(known)}); name it in the plan")
    return list(dict.fromkeys(names))


def _exposed(
    exposures: pl.LazyFrame, plan: Plan, extra: Sequence[str], notes: list[str], now: int | None
) -> tuple[pl.DataFrame, int, int]:
    """(units, contaminated, all seen): one row per unit with UNIT, arm, SINCE, and the extra columns as text."""
    extra = list(dict.fromkeys(extra))
    text = [pl.col(name).cast(pl.String).fill_null("(none)") for name in extra]
    numbers = [name for name in columns_of(plan) if name not in extra]
    table = exposures.select(
        pl.col(plan.unit).alias(UNIT),
        pl.col(plan.columns.arm).cast(pl.String).alias(ARM),
        TIME,
        *text,
        *numbers,
    ).collect(engine="streaming")
    _refuse_missing("exposures", table, {UNIT: plan.unit, ARM: plan.columns.arm, TIME: plan.columns.time})
    unknown_arms = sorted(set(table[ARM].unique().to_list()) - set(plan.arms))
    if unknown_arms:
        raise InputError(
            f"exposures: arm {unknown_arms[0]!r} is not in the plan ({', '.join(plan.arms)}); leave its rows out or "
            "plan it"
        )
    table = _inside(_before(table, now, notes), plan, notes)
    if plan.assignment.overrides:
        testers = table[UNIT].cast(pl.String).is_in(list(plan.assignment.overrides))
        if testers.any():
            notes.append(f"{table.filter(testers)[UNIT].n_unique():,} testers are left out")
            table = table.filter(~testers)
    if table[UNIT].n_unique() == table.height:
        return table.rename({TIME: SINCE}), 0, table.height
    ordered = table.sort(TIME, ARM, maintain_order=True)
    once = ordered.group_by(UNIT, maintain_order=True).agg(
        pl.col(ARM).first(), pl.col(TIME).first().alias(SINCE), *(pl.col(name).first() for name in [*extra, *numbers]),
        pl.col(ARM).n_unique().alias("__arms"),
    )  # fmt: skip
    mixed = int((once["__arms"] > 1).sum())
    seen = once.height
    if mixed:
        rule = "left out of every arm" if plan.contamination == "drop" else "kept in the arm seen first"
        notes.append(f"{mixed:,} units were seen in more than one arm; {rule}")
        if plan.contamination == "drop":
            once = once.filter(pl.col("__arms") == 1)
    return once.drop("__arms"), mixed, seen


def _before(table: pl.DataFrame, now: int | None, notes: list[str]) -> pl.DataFrame:
    """The exposures before ``now``."""
    kept = table if now is None else table.filter(pl.col(TIME) < now)
    if now is not None and kept.height < table.height:
        if not kept.height:
            raise InputError(f"exposures: none of {table.height:,} is before now = {spelt(now)}; mend it or wait")
        notes.append(f"{table.height - kept.height:,} exposures at or after now ({spelt(now)}) do not count")
    return kept


def _inside(table: pl.DataFrame, plan: Plan, notes: list[str]) -> pl.DataFrame:
    """The exposures inside the plan's dates."""
    inside = pl.lit(value=True)
    if plan.starts is not None:
        inside &= pl.col(TIME) >= plan.starts
    if plan.ends is not None:
        inside &= pl.col(TIME) < plan.ends
    kept = table.filter(inside)
    if not kept.height:
        first = f"; the first is at {spelt(int(table[TIME].min()))}" if table.height else ""  # type: ignore[arg-type]
        raise InputError(
            f"exposures: none of {table.height:,} is between start = {plan.start or 'any'!s} and end = "
            f"{plan.end or 'any'!s}{first}; check the dates and the zone"
        )
    if kept.height < table.height:
        notes.append(f"{table.height - kept.height:,} exposures are outside the plan's dates and do not count")
    return kept


def _refuse_missing(where: str, table: pl.DataFrame, names: Mapping[str, str]) -> None:
    for column, name in names.items():
        missing = table[column].null_count()
        if missing:
            raise InputError(f"{where}: {name!r} is missing in {missing:,} rows; fill it or leave the rows out")


# -- clusters ---------------------------------------------------------------------------------------------------------


def _by_cluster(frame: pl.DataFrame, plan: Plan, cluster: str, said: list[str]) -> tuple[pl.DataFrame, int]:
    """One row per cluster: sums of y and d (of a mean: units with a value), of x and w; how many were in two arms."""
    made = []
    for name in plan.metrics:
        counted = pl.col(f"{name}__y").is_not_null()
        for part, whole in (("y", "d"), ("x", "w")):
            if f"{name}__{part}" in frame.columns:
                total = pl.col(f"{name}__{part}").filter(counted).sum()
                made.append(pl.when(counted.any()).then(total) if part == "y" else total)
                has = f"{name}__{whole}" in frame.columns
                over = pl.col(f"{name}__{whole}").filter(counted).sum() if has else counted.sum().cast(pl.Float64)
                made.append(over.alias(f"{name}__{whole}"))
    extra = list(dict.fromkeys(name for name in (*plan.strata, *plan.segments) if name != cluster))
    arms = pl.col(ARM).n_unique().alias("__arms")
    table = frame.sort(SINCE, ARM, maintain_order=True).group_by(cluster, maintain_order=True).agg(
        pl.col(ARM).first(), pl.col(SINCE).first(), *(pl.col(name).first() for name in extra), *made, arms
    )  # fmt: skip
    mixed = int((table["__arms"] > 1).sum())
    if mixed:
        said.append(f"{mixed:,} clusters ({cluster}) were in more than one arm and are left out")
    kept = table.filter(pl.col("__arms") == 1).drop("__arms").with_columns(pl.col(cluster).alias(UNIT))
    said.append(f"{frame.height:,} units are in {table.height:,} clusters ({cluster}), which are what is independent")
    return kept, mixed


def _alike(frame: pl.DataFrame, plan: Plan) -> tuple[str, ...]:
    """Whether the users behind the units, not the units themselves, were drawn into arms."""
    users = frame.group_by(USER).agg(pl.len().alias("units"), pl.col(ARM).n_unique().alias("arms"))
    several = users.filter(pl.col("units") > 1)
    together = int((several["arms"] == 1).sum())
    if several.height < MIN_USERS or together < SAME_ARM * several.height:
        return ()
    return (
        f"clusters: {several.height:,} users have several units ({plan.unit}), all in one arm, so units are not "
        f"independent and errors are too small; pass cluster = {USER!r} or make it the plan's unit",
    )


# -- events -----------------------------------------------------------------------------------------------------------


def _events(where: str, events: Frame, plan: Plan, zone: bool | None) -> pl.LazyFrame:
    """The columns that the metrics need, with UNIT, TIME and EVENT."""
    known = events.lazy().collect_schema()
    metrics = list(plan.metrics.values())
    wanted = [plan.unit, plan.columns.time]
    if any(metric.event_type is not None for metric in metrics):
        wanted.append(plan.columns.event)
    if plan.columns.event_id:
        wanted.append(plan.columns.event_id)
    if any(metric.family.reads_value for metric in metrics):
        wanted.append(plan.columns.value)
        if plan.columns.value in known and not known[plan.columns.value].is_numeric():
            raise InputError(f"{where}: {plan.columns.value!r} holds {known[plan.columns.value]}; give numbers")
    _names(events, where, wanted)
    frame, clock = clocked(where, events.lazy(), plan)
    same_clock(where, clock, zone)
    event = pl.col(plan.columns.event).cast(pl.String) if plan.columns.event in known else pl.lit(None, pl.String)
    return frame.with_columns(pl.col(plan.unit).alias(UNIT), event.alias(EVENT))


def _joined(events: Frame, pre: Frame | None, plan: Plan, who: pl.DataFrame, zone: bool | None = None) -> pl.LazyFrame:
    """Every event of an exposed unit, with the unit's first exposure; ``zone``: as ``clocked`` says of exposures."""
    ours = who.schema[UNIT]
    parts = []
    for where, frame in (("events", events), ("pre", pre)):
        if frame is None:
            continue
        log = _events(where, frame, plan, zone)
        theirs = log.collect_schema()[UNIT]
        if ours.is_integer() and theirs.is_integer():
            log = log.with_columns(pl.col(UNIT).cast(ours))
        elif ours != theirs:
            raise InputError(f"units are {ours} in exposures and {theirs} in events; give the same ids in both")
        parts.append(log)
    whole = parts[0] if len(parts) == 1 else pl.concat(parts, how="diagonal_relaxed")
    return whole.join(rows_of(who).lazy(), on=UNIT, how="inner", maintain_order="left")


def _measured(
    joined: pl.LazyFrame, who: pl.DataFrame, plan: Plan, notes: list[str], key: Sequence[str] | None, now: int | None
) -> tuple[pl.DataFrame, Tallied, int | None]:
    """The units with their values (0 without events), what the pass found, and how many events were left out."""
    window, places = Window(plan.ends, duration("pre", plan.pre)), Places(pl.col(ROW), who.height)
    several, plan = any(metric.covariates for metric in plan.metrics.values()), with_past(plan)
    sums = [each for name, metric in plan.metrics.items() for each in tallies(name, metric, plan.columns, window)]
    sums += [Tally(window.before(), name=PAST)] if several else []
    counts = _checks(plan, window)
    found, left = tallied(joined, places, sums, counts, key=key, now=now), None
    if key is not None:
        joined, left = without_repeats(joined, repeated(found.hashes), key)
        found.hashes.clear()
    if left:
        notes.append(f"{left:,} events repeat another in {f'its {key[-1]}' if key else 'every column'} and count once")
        found = tallied(joined, places, sums, counts, now=now)
    _judge(found, plan, notes, "the end" if now is None or plan.ends != now else "now")
    values = found.sums | _ungrouped(joined, places, found.events, plan)
    columns = [
        pl.Series(name, values.pop(name).astype(np.float64, copy=False))
        for names in (*({f"{metric}__{part}" for part in "ydxw"} for metric in plan.metrics), {PAST})
        for name in [each for each in values if each in names]
    ]
    return who.with_columns(columns), found, left


def _ungrouped(joined: pl.LazyFrame, places: Places, total: int, plan: Plan) -> dict[str, Array]:
    """Visits and SQL metrics, which are no sums; a unit without events has 0."""
    window = Window(plan.ends, duration("pre", plan.pre))
    made = [each for name, metric in plan.metrics.items() for each in visits(name, metric, window)]
    out = grouped(joined, places, made, total) if made else {}
    for name, metric in plan.metrics.items():
        if not metric.family.of_sql:
            continue
        sides = [("yd", window.during(metric)), *([("xw", window.before())] if metric.covariate else [])]
        for parts, inside in sides:
            try:
                out |= grouped(joined.filter(inside), places, sql_aggregates(name, metric, parts), total)
            except pl.exceptions.PolarsError as error:
                raise InputError(f"metrics.{name}.expression cannot be computed ({error}); mend it") from None
            except TypeError:
                raise InputError(
                    f"metrics.{name}.expression gives one value per event; aggregate it, like SUM(…)"
                ) from None
    return out


def _checks(plan: Plan, window: Window) -> dict[str, pl.Expr]:
    """Events at a time of the day, at or after the end, and of no value or a negative one, by metric that reads it."""
    out = {"__timed": pl.col(TIME) % DAY != 0}
    if plan.ends is not None:
        out["__late"] = pl.col(TIME) >= plan.ends
    for name, metric in plan.metrics.items():
        if metric.family.reads_value:
            taken = (pl.col(EVENT) == metric.event_type) & (window.during(metric) | window.before())
            value = pl.col(plan.columns.value).cast(pl.Float64)
            out[f"__bad_{name}"] = taken & ~value.is_finite().fill_null(value=False)
            out[f"__negative_{name}"] = taken & (value < 0)
    return out


def _judge(found: Tallied, plan: Plan, notes: list[str], end: str) -> None:
    for name, metric in plan.metrics.items():
        if not metric.family.reads_value:
            continue
        bad, negative = found.counts[f"__bad_{name}"], found.counts[f"__negative_{name}"]
        if bad:
            raise InputError(
                f"events: {plan.columns.value!r} of {bad:,} {metric.event_type!r} events is missing, NaN or infinite "
                f"(metric {name!r}); mend them or leave them out"
            )
        if negative:
            notes.append(f"{name}: {negative:,} negative values are counted as they are, as refunds")
    if late := found.counts.get("__late"):
        notes.append(f"{late:,} events at or after {end} do not count")


def no_more_than_shown(frame: pl.DataFrame, plan: Plan, notes: list[str], *, cut: bool = False) -> pl.DataFrame:
    """Clicks of a unit are at most its impressions; ``cut``: they may be more, but not those of an arm together.

    Raises InputError for more than ``MOST_OVER`` of an arm's units with too many, and an arm without any impression.
    """
    for name, metric in plan.metrics.items():
        if not metric.family.bounded:
            continue
        y, d = pl.col(f"{name}__y"), pl.col(f"{name}__d")
        arms = frame.group_by(ARM).agg(y.sum(), d.sum(), (y > d).sum().alias("over"), pl.len().alias("units")).sort(ARM)
        if arms.filter(y > d if cut else pl.col("over") > MOST_OVER * pl.col("units")).height:
            raise InputError(_over(frame, name, metric))
        for arm, shown in arms.select(ARM, d).iter_rows():
            if shown == 0:
                raise InputError(f"metric {name!r}: arm {arm!r} has no {metric.per!r} events; log them or mend 'per'")
        if arms["over"].sum() and not cut:
            some = ", ".join(f"{count:,} of {arm}" for arm, count in arms.select(ARM, "over").iter_rows())
            notes.append(
                f"{name}: units with more {metric.event_type!r} than {metric.per!r} events ({some}) count as many"
            )
            frame = frame.with_columns(pl.min_horizontal(y, d).alias(f"{name}__y"))
    return frame


def _over(frame: pl.DataFrame, name: str, metric: Metric) -> str:
    """Which units have more clicks than impressions, in words."""
    over = frame.filter(pl.col(f"{name}__y") > pl.col(f"{name}__d"))
    first = over.row(0, named=True)
    return (
        f"metric {name!r}: {over.height:,} units have more {metric.event_type!r} than {metric.per!r} events "
        f"(first: {first[UNIT]!r}, {first[f'{name}__y']:g} to {first[f'{name}__d']:g}), "
        f"{100 * over.height / frame.height:.2g} % of all and more than {100 * MOST_OVER:g} % of an arm; log each one, "
        "or make it a ratio of two counts"
    )
