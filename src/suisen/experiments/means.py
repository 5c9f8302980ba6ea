"""Means and ratios of two arms: Student's t, Welch's t, z; CUPED; post-stratification; absolute and relative effects.

A ratio is Σy/Σd over the units of an arm; its variance is that of the delta method, which treats the unit as what is
independent and equals cluster-robust regression (Deng, Lu, Qin 2021).  A mean is the ratio whose d is 1.  Everything is
computed from ``Moments`` and works on any leading axes.

**Relative effects** are (b − a) / |a|: divided by the absolute value of the control's value, so that "up" is up
whatever the sign of a metric: from −10 to −5 is +50 %.  Of a control of 0 they are not defined (NaN).

**CUPED and relative effects.**  An arm's value is e + θ c, with e = ȳ − θ x̄ its own part and c the covariate's value
over all arms, which moves them all alike.  c falls out of the difference but not out of b / a = r:
d(b/a) = (de_b − r de_a + (1 − r) θ dc) / a, and so the variance of the relative effect is

    (V_b + r² V_a + (1 − r)² C + 2 (1 − r) (L_b − r L_a)) / a²,   V = Var(e), C = θ² Var(c), L = Cov(e, θ c).

L is not 0 where the slope of an arm is not θ: with an effect in proportion it takes off what C adds.  An arm of n of
all N units has Cov(e, c) = Cov(unit's e, unit's x) / N.  Of a ratio y, x and c are linearised (delta method); with
strata the sums run inside strata, whose shares are taken as given.  a is the *adjusted* value of the control, which is
known better than the plain one (GrowthBook divides by the plain one).  Without an effect r is 1 and nothing changes.
"""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from suisen.errors import InputError, unknown
from suisen.experiments.moments import Floats, Moments

Alternative = Literal["two-sided", "greater", "less"]
MeanTest = Literal["welch", "student", "z"]
Scale = Literal["absolute", "relative", "log-relative"]


class Estimate(NamedTuple):
    """The value of a metric in an arm."""

    value: Floats
    var: Floats
    """Variance of the value, the squared standard error."""
    df: Floats
    """Degrees of freedom of that variance."""
    n: Floats
    """Units."""
    shared: Floats = np.zeros(())
    """With CUPED: variance of what the covariate's overall value adds to all arms alike; ``var`` is without it."""
    along: Floats = np.zeros(())
    """With CUPED: covariance of the arm's own part with that."""

    @property
    def error(self) -> Floats:
        """Standard error of the value, whatever it is compared with."""
        return np.asarray(np.sqrt(np.maximum(self.var + 2 * self.along + self.shared, 0.0)))


class Effect(NamedTuple):
    """Treatment against control.  ``value`` is a difference (absolute) or a share of the control's size (relative).

    A one-sided interval has one end; the other is infinite.
    """

    value: Floats
    se: Floats
    df: Floats
    low: Floats
    high: Floats
    p: Floats
    statistic: Floats
    """value / se."""


class Cuped(NamedTuple):
    """A covariate's slope and its overall ratio."""

    theta: Floats
    centre: Floats
    rho: Floats
    """Correlation of metric and covariate: the variance falls by the factor 1 − ρ²."""
    slope: Floats = np.zeros(4)
    """(..., 4): derivative of the centre by the means of y, d, x, w of all units; 0: the centre is a constant."""
    var: Floats = np.zeros(())
    """Squared standard error of the centre."""
    units: Floats = np.asarray(np.inf)
    """Units that the centre is of."""


def estimate(m: Moments, *, cuped: Cuped | None = None, shares: npt.ArrayLike | None = None, ddof: int = 1) -> Estimate:
    """The metric's value in groups of shape (...,), adjusted by a covariate where ``cuped`` is given.

    ``shares`` (..., H) post-stratifies: the last leading axis of ``m`` are strata, and each counts with its share of
    all units instead of its share of the arm's.  ``ddof`` 1: variances with 1/(n − 1); 0: with 1/n, as in regressions.
    """
    if shares is None:
        m = Moments.stacked([m])
        shares = np.ones(1)
    weight = np.broadcast_to(np.asarray(shares, dtype=np.float64), m.n.shape)
    mean = np.einsum("...h,...hi->...i", weight, m.mean)
    gradient, value = _gradient(mean)
    if cuped is not None:
        other, ratio = _gradient(mean, at=2)
        value = value - cuped.theta * (ratio - cuped.centre)
        gradient = gradient - cuped.theta[..., None] * other
    square = np.maximum(np.einsum("...i,...hij,...j->...h", gradient, m.products, gradient), 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(weight > 0, weight**2 * square / (m.n * (m.n - ddof)), 0.0)
        var = parts.sum(-1)
        df = np.where(var > 0, var**2 / (parts**2 / (m.n - 1)).sum(-1), (m.n - 1).sum(-1))
    none = np.zeros_like(value)
    if cuped is None:
        return Estimate(value, var, df, m.n.sum(-1), none, none)
    with np.errstate(divide="ignore", invalid="ignore"):
        both = np.einsum("...i,...hij,...j->...h", gradient, m.products, cuped.slope) / (m.n - ddof)
        along = cuped.theta / cuped.units * np.where(weight > 0, weight * both, 0.0).sum(-1)
    return Estimate(value, var, df, m.n.sum(-1), none + cuped.theta**2 * cuped.var, none + along)


def _gradient(mean: Floats, at: int = 0) -> tuple[Floats, Floats]:
    """Of the ratio of columns ``at`` and ``at + 1`` by the four means, (..., 4), and the ratio itself."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = mean[..., at] / mean[..., at + 1]
        out = np.zeros_like(mean)
        out[..., at] = 1 / mean[..., at + 1]
        out[..., at + 1] = -ratio / mean[..., at + 1]
    return out, ratio


def cuped_of(arms: Moments, *, strata: bool = False) -> Cuped:
    """Slope and centre from all arms (last leading axis) put together (Deng, Xu, Kohavi, Walker 2013).

    ``strata``: the last leading axis are strata, the one before arms; the slope is then the one inside strata.
    """
    whole = arms
    if strata:  # (..., arms, strata) become one axis
        lead, axes = arms.n.shape[:-2], arms.n.ndim
        whole = Moments(*(part.reshape(*lead, -1, *part.shape[axes:]) for part in arms.parts))
    total = whole.pooled()
    products = whole.within().products if strata else total.products
    own, _ = _gradient(total.mean)
    other, centre = _gradient(total.mean, at=2)
    var = np.einsum("...i,...ij,...j->...", other, products, other)
    both = np.einsum("...i,...ij,...j->...", own, products, other)
    mine = np.einsum("...i,...ij,...j->...", own, products, own)
    with np.errstate(divide="ignore", invalid="ignore"):
        theta = np.where(var > 0, both / var, 0.0)
        rho = np.where((var > 0) & (mine > 0), both / np.sqrt(var * mine), 0.0)
    error = np.maximum(var, 0.0) / (total.n * (total.n - 1))
    centre, other, error = (np.where(np.isfinite(each), each, 0.0) for each in (centre, other, error))
    return Cuped(theta, centre, rho, other, error, total.n)


def compare(
    control: Estimate,
    treatment: Estimate,
    *,
    test: MeanTest = "welch",
    scale: Scale = "absolute",
    level: float = 0.95,
    alternative: Alternative = "two-sided",
) -> Effect:
    """The effect with its interval of ``level`` and the p-value of "there is none".

    The interval is as one-sided as the alternative: p <= 1 − level where it excludes 0, and only there.
    absolute: treatment − control.  relative: (treatment − control) / |control| by the delta method; its test is another
    than that of the difference and may disagree with it.  log-relative: the same share, its interval and test those of
    the logarithm of the ratio of the two, hence asymmetric, and only where both have one sign.
    welch: unequal variances, Welch and Satterthwaite's degrees of freedom, always of the difference's own variances.
    student: one variance for both.  z: the normal distribution.
    """
    check_level(level)
    a, b = control.value, treatment.value
    var_a, var_b, df = _variances(control, treatment, test)
    with np.errstate(divide="ignore", invalid="ignore"):
        if scale == "absolute":
            value, se = b - a, np.sqrt(var_a + var_b)
        elif scale == "relative":
            size, ratio = np.abs(np.where(a == 0, np.nan, a)), b / np.where(a == 0, np.nan, a)
            square = var_b + ratio**2 * var_a + shared_of(control.shared, control.along, treatment.along, ratio)
            value, se = (b - a) / size, np.sqrt(np.maximum(square, 0.0)) / size
        elif scale == "log-relative":
            return _log_relative(control, treatment, test, level, alternative)
        else:
            raise unknown("scale", scale, ("absolute", "relative", "log-relative"))
        statistic = statistic_of(value, se)
        half = special.stdtrit(df, cut(level, alternative)) * se
        p = p_of(statistic, df, alternative)
        return opened(Effect(value, se, df, value - half, value + half, p, statistic), alternative)


def shared_of(shared: Floats, along_a: Floats, along_b: Floats, ratio: Floats) -> Floats:
    """What the variance of treatment − ratio · control gets from what moves both alike (see above)."""
    gap = 1 - ratio
    return np.asarray(gap**2 * shared + 2 * gap * (along_b - ratio * along_a))


def cut(level: float, alternative: Alternative) -> float:
    """The quantile at which an interval of ``level`` ends: a one-sided one leaves all that it leaves on one side."""
    return (1 + level) / 2 if alternative == "two-sided" else level


def opened(effect: Effect, alternative: Alternative) -> Effect:
    """The effect with the end infinite that a one-sided alternative does not ask for."""
    if alternative == "two-sided":
        return effect
    far = np.where(np.isnan(effect.value), np.nan, np.inf)
    return effect._replace(high=far) if alternative == "greater" else effect._replace(low=-far)


def fieller(control: Estimate, treatment: Estimate, far: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Ends of (b − a) / |a|: the ratios r for which b − r a is ``far`` standard errors from 0 (Fieller 1954).

    They decide as the test of the difference does.  Infinite where a itself is not so far from 0.
    """
    a, b, far = control.value, treatment.value, np.asarray(far)
    with np.errstate(divide="ignore", invalid="ignore"):
        free = a**2 - far**2 * control.error**2
        middle = a * b - far**2 * (control.shared + control.along + treatment.along)
        square = middle**2 - free * (b**2 - far**2 * treatment.error**2)
        half = np.sign(far) * np.sqrt(np.maximum(square, 0.0)) / free
        middle = np.sign(a) * (middle / free - 1)
    none = np.where(a == 0, np.nan, np.inf)
    return np.where(free > 0, middle - half, -none), np.where(free > 0, middle + half, none)


def agreeing(effect: Effect, level: float) -> Effect:
    """The effect of a test whose p comes from elsewhere than its interval, which then must not say otherwise.

    Where p accepts 0, an end that excludes it moves to 0; where p rejects it, the end beyond 0 moves to the value's
    side of 0 (by a billionth of the value): the test of 0 is p's, that of every other difference the interval's.
    """
    found, value = effect.p <= 1 - level, effect.value
    below, above = np.isfinite(effect.low) & (effect.low <= 0), np.isfinite(effect.high) & (effect.high >= 0)
    low = np.where(found & below & (value > 0), 1e-9 * value, effect.low)
    high = np.where(found & above & (value < 0), 1e-9 * value, effect.high)
    low, high = np.where(~found & (low > 0), 0.0, low), np.where(~found & (high < 0), 0.0, high)
    return effect._replace(low=low, high=high)


def _log_relative(
    control: Estimate, treatment: Estimate, test: MeanTest, level: float, alternative: Alternative
) -> Effect:
    """A ratio's interval on the scale of its logarithm; degrees of freedom of the variances on that scale."""
    a, b = control.value, treatment.value
    good, sign = a * b > 0, np.sign(a)
    a, b = np.where(good, a, np.nan), np.where(good, b, np.nan)
    common = shared_of(control.shared, control.along, treatment.along, b / a) / b**2
    control, treatment = control._replace(var=control.var / a**2), treatment._replace(var=treatment.var / b**2)
    var_a, var_b, df = _variances(control, treatment, test)
    log, se = np.log(b / a), np.sqrt(np.maximum(var_a + var_b + common, 0.0))
    statistic = statistic_of(sign * log, se)
    half, p = sign * special.stdtrit(df, cut(level, alternative)) * se, p_of(statistic, df, alternative)
    with np.errstate(over="ignore"):  # a bound beyond the largest number is infinite
        low, high = (sign * np.expm1(log + end) for end in (-half, half))
    return opened(Effect(sign * np.expm1(log), se, df, low, high, p, statistic), alternative)


def _variances(control: Estimate, treatment: Estimate, test: MeanTest) -> tuple[Floats, Floats, Floats]:
    """Squared standard errors of both values and the degrees of freedom of their sum."""
    var_a, var_b = control.var, treatment.var
    if test == "z":
        return var_a, var_b, np.full(np.shape(var_a + var_b), np.inf)
    if test == "student":
        freedom = control.df + treatment.df
        spread = (control.df * control.n * var_a + treatment.df * treatment.n * var_b) / freedom
        return spread / control.n, spread / treatment.n, freedom
    if test != "welch":
        raise unknown("test", test, ("welch", "student", "z"))
    with np.errstate(divide="ignore", invalid="ignore"):
        df = (var_a + var_b) ** 2 / (var_a**2 / control.df + var_b**2 / treatment.df)
    return var_a, var_b, np.where(np.isnan(df), control.df + treatment.df, df)


def statistic_of(value: Floats, se: Floats) -> Floats:
    """Value / se; 0 where both are 0: no difference and no spread is no evidence."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((value == 0) & (se == 0), 0.0, value / se)


def p_of(statistic: Floats, df: Floats, alternative: Alternative = "two-sided") -> Floats:
    """p-value of a t statistic (df inf: of a normal one)."""
    if alternative == "two-sided":
        return np.asarray(np.minimum(2 * special.stdtr(df, -np.abs(statistic)), 1.0))
    if alternative not in ("greater", "less"):
        raise unknown("alternative", alternative, ("two-sided", "greater", "less"))
    return np.asarray(special.stdtr(df, -statistic if alternative == "greater" else statistic))


def check_level(level: float) -> None:
    """Raises InputError for a level that is no probability."""
    if not 0 < level < 1:
        raise InputError(f"level = {level!r}; give a probability between 0 and 1, like 0.95")


def shares_of(arms: Moments) -> Floats:
    """(..., H) share of each stratum among the units of all arms; ``arms`` (..., arms, H)."""
    n = arms.n.sum(-2)
    return np.asarray(n / n.sum(-1, keepdims=True))


# -- where the theory of t does not hold -----------------------------------------------------------------------------


SKEW_OF_DIFFERENCE = 0.1
"""Beyond it the tails of the t statistic, 2.5 % each by theory, differ by more than a third from each other."""
SURE = 0.1
"""Standard error of the control's value, as a share of it, above which tests of relative effects lean: of a true z
they make z (1 − s z / 2), with s the relative standard error of the effect."""
RESAMPLED = 30.0
"""Units of an arm per squared skewness below which a bootstrap says too much."""
UNITS_PER_SKEW = 10.0
"""Units an arm needs per squared skewness: below it t is not exact even with equal arms (benchmarks/experiments.py)."""


def skew_of_difference(control: Moments, treatment: Moments) -> Floats:
    """Skewness of the difference of means where both arms follow one law: 0 for equal arms, whatever the tail.

    γ (1/n_T² − 1/n_C²) / (1/n_T + 1/n_C)^1.5, with γ that of the units inside arms.  By Edgeworth's expansion a tail
    of probability q at z has q ± (2z² + 1) φ(z) γ_d / 6 in truth (Hall 1992).
    """
    both = Moments.stacked([control, treatment]).within()
    over, under = 1 / treatment.n, 1 / control.n
    return np.asarray(both.skewness * (over**2 - under**2) / (over + under) ** 1.5)


def share_warning(control: Estimate, most: float = SURE) -> str:
    """What is wrong with a share of the control's value (no leading axes); empty: nothing."""
    value, se = abs(float(control.value)), float(control.error)
    if se <= most * value and value > 0:
        return ""
    error = f"known to ± {100 * se / value:.0f} %" if value > 0 else "0"
    return (
        f"relative effect: the control's value is {error} (standard error; at most {100 * most:.0f} % wanted), so a "
        "share of it says too much; decide by the absolute effect"
    )


def tail_warning(control: Moments, treatment: Moments, *, resampled: bool = False) -> str:
    """What is wrong with a t test of two arms with these moments (no leading axes); empty: nothing.

    ``resampled``: with a bootstrap, which follows the skewness of an unequal split and sees no tail beyond its units.
    """
    lean = float(skew_of_difference(control, treatment))
    worst = max(float(m.skewness) ** 2 / float(m.n) for m in (control, treatment))
    if np.isnan(lean) or np.isnan(worst):
        return ""
    if abs(lean) > SKEW_OF_DIFFERENCE and not resampled:
        side = "low" if lean > 0 else "high"
        return (
            f"heavy tail and unequal split: the difference has skewness {lean:.2f} (limit {SKEW_OF_DIFFERENCE}), so "
            f"false alarms that the treatment is {side} are too many; use a permutation test, winsorize, "
            "or take logs"
        )
    least = RESAMPLED if resampled else UNITS_PER_SKEW
    if worst > 1 / least:
        return (
            f"heavy tail: an arm has {1 / worst:.1f} units per squared skewness (at least {least:.0f} "
            f"needed), so {'bootstrap' if resampled else 't'} intervals do not cover as they say; use a permutation "
            "test, winsorize, or take logs"
        )
    return ""
