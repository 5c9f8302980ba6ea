"""Several covariates as one: CUPED by more than the same metric before the experiment.

A unit's covariates z are metrics of the plan before its first exposure and columns of the exposures, like what a model
predicted of the unit from before (CUPAC; Tang et al. 2020).  For units without any event before, and for those without
a value in a column, there is an indicator, so that "nothing is known" is no 0 like any other.  The regression of y on z
over all arms together makes one covariate of them, x = z'β (of a ratio: the regression of its linear part, (y − R d) /
d̄).  CUPED with x has the slope 1 and leaves 1 − R² of the variance, as adjusting by all of z does (Lin 2013; Deng et
al. 2013, section 3.3).  β costs one degree of freedom per covariate, hence the least number of units for each.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.errors import InputError
from suisen.experiments.plan import Plan

Floats = npt.NDArray[np.float64]
PAST = "__past"
"""Column of the units: events before the first exposure, of any type."""
UNITS_EACH = 50
"""Units per covariate below which they are not used: the variance would look smaller than it is by 1 in so many."""


def with_past(plan: Plan) -> Plan:
    """The plan with every metric measured before the exposure that is a covariate of another, or a part of one."""
    read = {name for metric in plan.metrics.values() for name in metric.covariates if name in plan.metrics}
    for name in [*read]:
        read |= set(plan.metrics[name].parts.values())
    past = {name: replace(plan.metrics[name], covariate=True, covariates=()) for name in read}
    return replace(plan, metrics=plan.metrics | past) if read else plan


def needed(plan: Plan, name: str) -> list[str]:
    """The metrics that one metric is made of, in the plan's order: itself, its parts, its covariates and theirs."""
    read = [each for each in plan.metrics[name].covariates if each in plan.metrics]
    kept = {name, *read, *(part for each in (name, *read) for part in plan.metrics[each].parts.values())}
    return [each for each in plan.metrics if each in kept]


def columns_of(plan: Plan) -> list[str]:
    """Columns of the exposures that are covariates."""
    named = [name for metric in plan.metrics.values() for name in metric.covariates]
    return [name for name in dict.fromkeys(named) if name not in plan.metrics]


def combined(frame: pl.DataFrame, plan: Plan, said: list[str]) -> pl.DataFrame:
    """The units with one covariate ``<metric>__x`` in place of several; ``said`` gets what it is made of.

    Raises InputError for a column that the units do not have, or that holds no numbers.
    """
    made: dict[str, Floats | None] = {}
    for name, metric in plan.metrics.items():
        if not metric.covariates:
            continue
        mine = frame.filter(pl.col(f"{name}__y").is_not_null())
        used = {label: each for source in metric.covariates for label, each in _columns(mine, plan, source).items()}
        used |= _new(mine, plan, metric.covariates)
        kept = np.array([bool(np.ptp(each) > 0) if mine.height else False for each in used.values()])
        if not kept.any() or mine.height < UNITS_EACH * kept.sum():
            said.append(f"{name}: {_unused(mine.height, int(kept.sum()))}")
            made[name] = None
            continue
        z = np.stack(list(used.values()), -1)
        z -= z.mean(0)
        x = np.zeros(frame.height)
        x[frame[f"{name}__y"].is_not_null().to_numpy()] = _predicted(mine, name, z[:, kept])
        made[name] = x
        said.append(f"{name}: adjusted by {', '.join(label for label, good in zip(used, kept, strict=True) if good)}")
    for name, values in made.items():
        frame = frame.drop(f"{name}__x", f"{name}__w", strict=False)
        frame = frame.with_columns(pl.lit(0.0 if values is None else pl.Series(values)).alias(f"{name}__x"))
    return frame


def _unused(units: int, covariates: int) -> str:
    if not covariates:
        return "its covariates are the same for all units and are not used"
    return f"{units:,} units are too few for {covariates} covariates ({UNITS_EACH} each), which are not used"


def _columns(units: pl.DataFrame, plan: Plan, source: str) -> dict[str, Floats]:
    """What a covariate gives: the metric before, or the column and an indicator of where it is missing."""
    if source in plan.metrics:
        x = units[f"{source}__x"].cast(pl.Float64).to_numpy()
        return {f"{source} before": _linear(x, _weights(units, source, "w", x))}
    if source not in units.columns:
        raise InputError(
            f"covariates: {source!r} is neither a metric of the plan nor a column of the units "
            f"({', '.join(name for name in units.columns if '__' not in name)}); add it or drop it"
        )
    column = units[source]
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise InputError(
            f"covariates: {source!r} holds {column.dtype}, not numbers; give numbers, or make it a stratum"
        )
    values = column.cast(pl.Float64).fill_nan(None)
    missing = values.is_null().to_numpy()
    found = {source: values.fill_null(values.mean() or 0.0).to_numpy()}
    if np.isinf(found[source]).any():
        raise InputError(f"covariates: {source!r} holds infinite values; mend them or leave them empty")
    return found | ({f"no {source}": missing.astype(np.float64)} if missing.any() else {})


def _new(units: pl.DataFrame, plan: Plan, sources: tuple[str, ...]) -> dict[str, Floats]:
    """The indicator of units without any event before, where the past of a metric is read."""
    if PAST not in units.columns or not any(source in plan.metrics for source in sources):
        return {}
    return {"no events before": (units[PAST] == 0).cast(pl.Float64).to_numpy()}


def _weights(units: pl.DataFrame, name: str, part: str, like: Floats) -> Floats:
    """The denominator of a metric; 1 where it has none."""
    column = f"{name}__{part}"
    return units[column].cast(pl.Float64).to_numpy() if column in units.columns else np.ones_like(like)


def _linear(top: Floats, under: Floats) -> Floats:
    """A unit's part in R = Σ top / Σ under: (top − R under) / mean(under); of a mean, top less its mean."""
    total = under.sum()
    return np.asarray((top - top.sum() / total * under) / under.mean()) if total > 0 else np.zeros_like(top)


def _predicted(units: pl.DataFrame, name: str, z: Floats) -> Floats:
    """Z'β, with β by least squares; columns are scaled, so that none is lost for being small."""
    y = units[f"{name}__y"].cast(pl.Float64).to_numpy()
    target = _linear(y, _weights(units, name, "d", y))
    scale = z.std(0)
    beta, *_ = np.linalg.lstsq(z / scale, target - target.mean(), rcond=None)
    return np.asarray(z / scale @ beta)
