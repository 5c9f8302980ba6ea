"""Sample size, power and minimal detectable effect of one comparison, for means, proportions and ratios.

Everything follows from the value of the metric in the control and the variance of one unit (``Baseline``): that of the
values for a mean, p(1 − p) for a proportion, that of the linearised ratio (delta method) for a ratio, each times 1 − ρ²
where a covariate is used.  The variance in the treatment is taken to be the control's, but for proportions, where it
follows from p.

* **welch**, **student**: the noncentral t distribution, both tails, with Welch and Satterthwaite's or n_a + n_b − 2
  degrees of freedom.  student equals R's ``power.t.test(strict = TRUE)`` and statsmodels' ``TTestIndPower``.
* **z**: the normal distribution.
* **proportions**: z with the pooled variance under "no effect" and each arm's own under the effect (statsmodels'
  ``power_proportions_2indep``).

With ``scale = "relative"`` effects are shares of the control's absolute value (above 0 is up, whatever its sign) and
the test is that of the ratio of the arms, whose standard error grows with the effect: it needs more units where the
ratio rises, and fewer where it falls, than the test of the difference.  To have the difference tested against a share,
give ``effect = share * abs(baseline.value)`` on the absolute scale.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import ceil, inf, isfinite, sqrt
from typing import Annotated, Any, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy import optimize, special, stats

from suisen.errors import InputError
from suisen.experiments.families import Metric
from suisen.experiments.means import Alternative, Estimate
from suisen.experiments.plan import Plan, Scale
from suisen.experiments.statistical_tests import PowerTest
from suisen.parameters import parameters

Probability = Annotated[float, Field(gt=0, lt=1)]
FREEDOM: Mapping[PowerTest, Callable[[float, float], float]] = {
    "welch": lambda n_a, n_b: (1 / n_a + 1 / n_b) ** 2 / (1 / (n_a**2 * (n_a - 1)) + 1 / (n_b**2 * (n_b - 1))),
    "student": lambda n_a, n_b: n_a + n_b - 2,
    "z": lambda n_a, n_b: inf,
    "proportions": lambda n_a, n_b: inf,
}
"""Formula → degrees of freedom of the arms' units; infinite: the normal distribution."""
MOST = 1e15
"""Units beyond which no experiment is looked for."""
HIGHEST = 1e6
"""Relative rise beyond which no effect is looked for: its standard error rises with it, so that few units find none."""


@dataclass(frozen=True)
class Baseline:
    """A metric before the experiment: its value and the variance of one unit.

    The standard error of the value in an arm of n units is √(variance / n).
    """

    value: float
    variance: float
    n: float = inf
    """Units it was measured on; inf: it is assumed."""

    def __post_init__(self) -> None:
        if not isfinite(self.value):
            raise InputError(f"value = {self.value!r} is no number; the metric has no value before the experiment")
        if not (isfinite(self.variance) and self.variance > 0):
            raise InputError(
                f"variance = {self.variance!r} should be above 0; a metric that is the same for all units cannot be "
                "planned with"
            )

    @classmethod
    def mean(cls, values: npt.ArrayLike) -> Baseline:
        """Of one value per unit, (n,)."""
        y = _numbers("values", values)
        return cls(float(y.mean()), float(y.var(ddof=1)), len(y))

    @classmethod
    def proportion(cls, p: float, n: float = inf) -> Baseline:
        """Of a share of units, 0 < p < 1."""
        if not 0 < p < 1:
            raise InputError(f"p = {p!r}; give a share of units between 0 and 1")
        return cls(float(p), float(p * (1 - p)), n)

    @classmethod
    def ratio(cls, numerator: npt.ArrayLike, denominator: npt.ArrayLike) -> Baseline:
        """Of Σ numerator / Σ denominator over units, (n,) each: Var(y − R·d) / mean(d)² (delta method)."""
        y, d = _numbers("numerator", numerator), _numbers("denominator", denominator)
        if len(y) != len(d):
            raise InputError(f"{len(y)} numerators cannot belong to {len(d)} denominators; give one of each a unit")
        if d.sum() == 0:
            raise InputError("denominator sums to 0; the ratio has no value")
        value = float(y.sum() / d.sum())
        return cls(value, float((y - value * d).var(ddof=1) / d.mean() ** 2), len(y))

    @classmethod
    def of(cls, estimate: Estimate) -> Baseline:
        """Of an estimate of one group (``means.estimate``), adjusted by a covariate or not."""
        value, var, n = (float(np.asarray(each)) for each in (estimate.value, estimate.var, estimate.n))
        return cls(value, var * n, n)

    def adjusted(self, rho: float) -> Baseline:
        """With a covariate whose correlation with the metric is ``rho`` (CUPED)."""
        if not -1 < rho < 1:
            raise InputError(f"rho = {rho!r}; give a correlation between -1 and 1")
        return Baseline(self.value, self.variance * (1 - rho**2), self.n)


@parameters
class Design:
    """How a comparison is going to be tested."""

    alpha: Probability = 0.05
    power: Probability = 0.8
    alternative: Alternative = "two-sided"
    scale: Scale = "absolute"
    test: PowerTest = "welch"
    shares: tuple[float, float] = (0.5, 0.5)
    """Of all units: how many are in the control and in the treatment."""
    comparisons: Annotated[int, Field(ge=1)] = 1
    """Treatments whose smallest p-value has to pass alpha / comparisons (Holm's first step)."""
    critical: Callable[[float], float] | None = None
    """Sequential plans: number of units → standard errors that the effect must exceed at that look.  The power is then
    that of the last look alone; what earlier looks find comes on top."""

    @model_validator(mode="after")
    def _sound(self) -> Design:
        if self.power <= self.level:
            raise ValueError(f"power = {self.power!r} should be above alpha = {self.alpha!r}; any sample reaches it")
        if min(self.shares) <= 0 or sum(self.shares) > 1 + 1e-9:
            raise ValueError(f"shares = {self.shares!r}; give the control's and the treatment's part of all units")
        return self

    @property
    def of_shares(self) -> bool:
        """Whether a unit's value is 0 or 1, so that the variance follows from the value."""
        return self.test == "proportions"

    @property
    def level(self) -> float:
        """Alpha of one comparison."""
        return self.alpha / self.comparisons

    @classmethod
    def of_margin(cls, plan: Plan, name: str, critical: Callable[[float], float] | None = None) -> Design:
        """A guardrail or an equivalence of the plan; one-sided, and not corrected for other metrics or arms."""
        equal = name in plan.equivalence
        return replace(
            cls.of(plan, critical),
            alpha=plan.alpha if equal else plan.alpha / 2,
            alternative="greater",
            scale=(plan.equivalence if equal else plan.guardrails)[name].scale,
            test=_test_of(plan.metrics[name]),
            comparisons=1,
        )

    @classmethod
    def of(cls, plan: Plan, critical: Callable[[float], float] | None = None) -> Design:
        """The plan's primary metric: the control against the smallest treatment, corrected for their number."""
        return cls(
            alpha=plan.alpha,
            power=plan.power,
            alternative=plan.alternative,
            scale=plan.scale,
            test=_test_of(plan.metrics[plan.primary]),
            shares=(plan.arms[plan.control], min(plan.arms[arm] for arm in plan.treatments)),
            comparisons=1 if plan.correction == "none" else len(plan.treatments),
            critical=critical,
        )


def _test_of(metric: Metric) -> PowerTest:
    """How a metric's test is sized: ranks, bootstrap and permutation as Welch's t, an adjusted share as a mean."""
    plain = not metric.adjusts
    return metric.planned_test(plain=plain).sized_as(share=plain and metric.family.share)


def power(baseline: Baseline, design: Design, *, units: float, effect: float) -> float:
    """Probability that the test finds ``effect`` with ``units`` in all arms together."""
    _check(baseline, design)
    _check_units(units, design)
    _check_effect(baseline, design, effect)
    return _power(baseline, design, units, effect)


def sample_size(baseline: Baseline, design: Design, *, effect: float) -> float:
    """Units in all arms together with which ``effect`` is found with ``design.power``; not rounded (``arms_of``)."""
    _check(baseline, design)
    if effect == 0 or (design.alternative != "two-sided" and (effect > 0) != (design.alternative == "greater")):
        raise InputError(f"effect = {effect!r} is not what alternative = {design.alternative!r} looks for; mend either")
    _check_effect(baseline, design, effect)
    return _units(lambda units: _power(baseline, design, units, effect), design, f"effect = {effect!r}")


def margin_power(baseline: Baseline, design: Design, *, units: float, margin: float, both: bool = False) -> float:
    """Probability that an arm without an effect is shown to be not worse by ``margin``; ``both``: equal within it.

    ``design.alternative`` is one-sided.  ``both`` is two such tests (TOST); both fail together only where the interval
    is wider than the margins, which is counted twice, so that small probabilities are a little too small.
    """
    _check(baseline, design)
    _check_units(units, design)
    _check_margin(margin)
    return _margin_power(baseline, design, units, margin, both)


def margin_size(baseline: Baseline, design: Design, *, margin: float, both: bool = False) -> float:
    """Units in all arms together with which ``margin_power`` is ``design.power``; not rounded (``arms_of``)."""
    _check(baseline, design)
    _check_margin(margin)
    return _units(lambda units: _margin_power(baseline, design, units, margin, both), design, f"margin = {margin!r}")


def mde(baseline: Baseline, design: Design, *, units: float) -> float:
    """The smallest effect that ``units`` in all arms together find with ``design.power``.

    Above 0, but for ``alternative = "less"``.  InputError where even the largest effect is not found.
    """
    _check(baseline, design)
    _check_units(units, design)
    sign = -1.0 if design.alternative == "less" else 1.0

    def short(size: float) -> float:
        return _power(baseline, design, units, sign * size) - design.power

    bound = _largest(baseline, design, sign)
    most = min(sqrt(baseline.variance / units) / (abs(baseline.value) if design.scale == "relative" else 1), bound)
    while short(most) < 0:
        if most >= bound or not isfinite(most):
            raise InputError(
                f"units = {units:g} find no effect, however large, with power {design.power}; plan for more"
            )
        most = min(2 * most, bound)
    return sign * float(optimize.brentq(short, 0.0, most, xtol=1e-15, rtol=1e-14))


def _units(chance: Callable[[float], float], design: Design, what: str) -> float:
    """Units at which a probability that grows with them is ``design.power``."""
    least = _least(design)
    if chance(least) >= design.power:
        return least
    most = 2 * least
    while chance(most) < design.power:
        most *= 2
        if most > MOST:
            raise InputError(f"{what} needs more than {MOST:.0e} units; plan for a larger one")
    return float(optimize.brentq(lambda units: chance(units) - design.power, most / 2, most, xtol=1e-10, rtol=1e-14))


def arms_of(units: float, plan: Plan) -> dict[str, int]:
    """Whole units of every arm, rounded up, for a sample of ``units`` in all."""
    return {arm: ceil(units * weight - 1e-9) for arm, weight in plan.arms.items()}


def _power(baseline: Baseline, design: Design, units: float, effect: float) -> float:
    n_a, n_b = units * design.shares[0], units * design.shares[1]
    null, alt, df = _spread(baseline, design, n_a, n_b, effect)
    if not alt > 0:
        return 1.0
    upper, lower = design.alternative != "less", design.alternative != "greater"
    tail = design.level / (2 if upper and lower else 1)
    bound, df = _bound(design, units, df, tail)
    found = 0.0
    for wanted, sign in ((upper, 1.0), (lower, -1.0)):
        if wanted:
            found += _beyond(bound * null / alt, df, sign * effect / alt)
    return min(found, 1.0)


def _margin_power(baseline: Baseline, design: Design, units: float, margin: float, both: bool) -> float:
    null, _, df = _spread(baseline, design, units * design.shares[0], units * design.shares[1], 0.0)
    bound, df = _bound(design, units, df, design.level)
    one = _beyond(bound, df, margin / null)
    return max(2 * one - 1, 0.0) if both else one


def _bound(design: Design, units: float, df: float, tail: float) -> tuple[float, float]:
    """Standard errors that an effect must exceed, and the degrees of freedom they go with."""
    if design.critical is not None:
        return design.critical(units), inf
    return (float(special.stdtrit(df, 1 - tail)) if isfinite(df) else float(-special.ndtri(tail))), df


def _beyond(bound: float, df: float, shift: float) -> float:
    """P(statistic > bound): noncentral t, or normal where df is infinite."""
    if not isfinite(df):
        return float(special.ndtr(shift - bound))
    found = float(stats.nct.sf(bound, df, shift))
    return found if isfinite(found) else float(shift > bound)  # NaN: so far in a tail that it is 0 or 1


def _spread(baseline: Baseline, design: Design, n_a: float, n_b: float, effect: float) -> tuple[float, float, float]:
    """Standard errors of the effect without and with it, and the degrees of freedom."""
    a, var = baseline.value, baseline.variance
    b = _treated(baseline, design, effect)
    var_b = b * (1 - b) if design.of_shares else var
    if design.scale == "relative":
        null = sqrt(var_b / n_b / a**2 + var / n_a * b**2 / a**4)
        se = null * _statistic_spread(var / n_a, var_b / n_b, b / a)
    else:
        se = null = sqrt(var / n_a + var_b / n_b)
        if design.of_shares:
            pooled = (n_a * a + n_b * b) / (n_a + n_b)
            null = sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    return null, se, FREEDOM[design.test](n_a, n_b)


def _statistic_spread(var_a: float, var_b: float, r: float) -> float:
    """Standard deviation of the statistic of a relative effect, which is 1 where there is none; ``r``: b / a.

    An arm whose control came out low has a larger effect and a larger standard error at once, so that the statistic
    (b − a) / √(var_b + var_a (b / a)²) varies less than the effect; first-order, by its derivatives by a and b.
    """
    square = var_b + var_a * r**2
    if square == 0:
        return 1.0
    k = (r - 1) * var_a * r / square
    return sqrt(((1 - k) ** 2 * var_b + (1 - k * r) ** 2 * var_a) / square)


def _largest(baseline: Baseline, design: Design, sign: float) -> float:
    """Beyond it there is no effect: a share of units stays in [0, 1], a value compared by a ratio keeps its sign."""
    if not design.of_shares:
        return inf if design.scale == "absolute" else 1.0 if sign * baseline.value < 0 else HIGHEST
    room = 1 - baseline.value if sign > 0 else baseline.value
    return (room / baseline.value if design.scale == "relative" else room) * (1 - 1e-12)


def _least(design: Design) -> float:
    """Units that give each arm two, with a hair more so that the degrees of freedom are above 0."""
    return 2.0 / min(design.shares)


def _check(baseline: Baseline, design: Design) -> None:
    if design.scale == "relative" and baseline.value == 0:
        raise InputError("value = 0: a relative effect has no meaning; plan with scale = 'absolute'")
    if design.of_shares and not 0 < baseline.value < 1:
        raise InputError(
            f"value = {baseline.value!r} is no share of units; give one between 0 and 1, or test = 'welch'"
        )


def _check_effect(baseline: Baseline, design: Design, effect: float) -> None:
    treated = _treated(baseline, design, effect)
    if not isfinite(treated):
        raise InputError(f"effect = {effect!r} is no number; give the size that must not be missed")
    if design.of_shares and not 0 <= treated <= 1:
        raise InputError(f"effect = {effect!r} puts the treatment at {treated:g}; a share of units is between 0 and 1")


def _treated(baseline: Baseline, design: Design, effect: float) -> float:
    """The metric's value in the treatment."""
    return baseline.value + effect * (abs(baseline.value) if design.scale == "relative" else 1)


def _check_margin(margin: float) -> None:
    if not (isfinite(margin) and margin > 0):
        raise InputError(f"margin = {margin!r} must be above 0: how much of a difference is still accepted")


def _check_units(units: float, design: Design) -> None:
    if not (isfinite(units) and units >= _least(design) * (1 - 1e-9)):
        raise InputError(f"units = {units!r} leave an arm with fewer than two; give {ceil(_least(design))} or more")


def _numbers(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(cast(Any, values), dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise InputError(f"{name} has shape {array.shape}; give two units or more, one number each")
    if not bool(np.isfinite(array).all()):
        raise InputError(
            f"{name} holds {int((~np.isfinite(array)).sum())} values that are no numbers; clean them first"
        )
    return array
