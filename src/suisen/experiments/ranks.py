"""Mann-Whitney U with its effect: the probability of superiority, its interval, and the Hodges-Lehmann shift."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy  # scipy.stats is loaded at its first use: a plan, which knows all tests, needs none of it
from scipy import special

from suisen.errors import InputError
from suisen.experiments.means import Alternative, check_level, cut
from suisen.experiments.moments import Floats

SAYS = (
    "Mann-Whitney asks whether a unit of the treatment is more often above than below one of the control; it says "
    "nothing about means or totals, and its p-value is exact only where equal arms have equal distributions."
)
STEPS = 200
"""Halvings of an interval of doubles at the most."""


@dataclass(frozen=True)
class RankEffect:
    """Treatment against control by ranks."""

    u: float
    """Pairs in which the treatment is above the control; ties count half."""
    p: float
    superiority: float
    """P(treatment > control) + P(equal)/2; 0.5: no effect."""
    low: float
    """Interval of ``superiority``."""
    high: float
    shift: float
    """Hodges-Lehmann: the median of all differences treatment − control."""
    shift_low: float
    shift_high: float
    ties: float
    """Share of the pairs that are equal."""
    says: str = SAYS
    """What the test does and does not say."""


def mann_whitney_p(
    control: npt.ArrayLike,
    treatment: npt.ArrayLike,
    *,
    alternative: Alternative = "two-sided",
    method: Literal["auto", "asymptotic", "exact"] = "asymptotic",
    continuity: bool = True,
) -> tuple[Floats, Floats]:
    """U of the treatment and its p, for samples (..., n) and (..., m); ties are corrected for."""
    found = scipy.stats.mannwhitneyu(
        treatment, control, alternative=alternative, method=method, use_continuity=continuity, axis=-1
    )
    p = np.where(np.isnan(found.pvalue), 1.0, found.pvalue)  # all values equal: the variance of U is 0
    return np.asarray(found.statistic), p


def mann_whitney(
    control: npt.ArrayLike,
    treatment: npt.ArrayLike,
    *,
    level: float = 0.95,
    alternative: Alternative = "two-sided",
    method: Literal["auto", "asymptotic", "exact"] = "auto",
) -> RankEffect:
    """The test with everything that makes it legible.

    The interval of superiority is Brunner and Munzel's (2000) on the logit scale, which allows unequal spreads; where
    all pairs point one way it is that of Newcombe (2006, method 5).  The shift's interval inverts the test.
    A one-sided alternative has one-sided bounds: the other ends are 0 or 1, and infinite.
    Raises InputError for an arm without units.
    """
    check_level(level)
    a, b = (np.sort(np.asarray(v, dtype=np.float64).ravel()) for v in (control, treatment))
    if not a.size or not b.size:
        raise InputError("Mann-Whitney needs at least one unit in each arm; one has none")
    u, p = mann_whitney_p(a, b, alternative=alternative, method=method)
    above, upto = np.searchsorted(a, b, "left"), np.searchsorted(a, b, "right")
    ties = float((upto - above).sum()) / (a.size * b.size)
    superiority = float(u) / (a.size * b.size)
    both = max(2 * cut(level, alternative) - 1, 1e-9)
    low, high = _superiority_interval(a, b, superiority, both)
    shift, shift_low, shift_high = hodges_lehmann(a, b, level=both)
    if alternative == "greater":
        high, shift_high = 1.0, float("inf")
    elif alternative == "less":
        low, shift_low = 0.0, float("-inf")
    return RankEffect(float(u), float(p), superiority, low, high, shift, shift_low, shift_high, ties)


def _superiority_interval(a: Floats, b: Floats, value: float, level: float) -> tuple[float, float]:
    """Interval of the probability of superiority from the placements of each sorted sample in the other."""
    if not 0 < value < 1 or min(a.size, b.size) < 2:
        return _newcombe(value, a.size, b.size, level)
    of_b = (np.searchsorted(a, b, "left") + np.searchsorted(a, b, "right")) / 2 / a.size
    of_a = (np.searchsorted(b, a, "left") + np.searchsorted(b, a, "right")) / 2 / b.size
    var_b, var_a = float(of_b.var(ddof=1)) / b.size, float(of_a.var(ddof=1)) / a.size
    if var_a + var_b == 0:
        return (value, value) if a[0] == a[-1] == b[0] == b[-1] else _newcombe(value, a.size, b.size, level)
    df = (var_a + var_b) ** 2 / (var_a**2 / (a.size - 1) + var_b**2 / (b.size - 1))
    half = float(special.stdtrit(df, (1 + level) / 2)) * np.sqrt(var_a + var_b) / (value * (1 - value))
    logit = special.logit(value)
    return float(special.expit(logit - half)), float(special.expit(logit + half))


def _newcombe(value: float, n: int, m: int, level: float) -> tuple[float, float]:
    """Newcombe (2006), method 5: solves |θ − value| = z √var(θ) for θ on either side."""
    z2 = float(special.ndtri((1 + level) / 2)) ** 2
    extra = (n + m) / 2 - 1

    def outside(theta: float) -> bool:
        var = theta * (1 - theta) * (1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (n * m)
        return (theta - value) ** 2 > z2 * var

    return _edge(outside, 0.0, value), _edge(outside, 1.0, value)


def _edge(outside: Callable[[float], bool], far: float, near: float) -> float:
    """Where a region around ``near`` ends on the way to ``far``."""
    for _ in range(60):
        middle = (far + near) / 2
        far, near = (middle, near) if outside(middle) else (far, middle)
    return near


def hodges_lehmann(
    control: npt.ArrayLike, treatment: npt.ArrayLike, *, level: float = 0.95
) -> tuple[float, float, float]:
    """Median of all m·n differences treatment − control, and its interval by the ranks of the differences.

    The differences are never made: each of the three is found by halving an interval and counting, so memory and each
    step are of the order of the units.
    """
    a, b = (np.sort(np.asarray(v, dtype=np.float64).ravel()) for v in (control, treatment))
    pairs = a.size * b.size
    spread = np.sqrt(pairs * (a.size + b.size + 1) / 12) * float(special.ndtri((1 + level) / 2))
    k = int(max(1, np.floor(pairs / 2 - spread)))
    middle = (_difference(a, b, (pairs + 1) // 2) + _difference(a, b, pairs // 2 + 1)) / 2
    return middle, _difference(a, b, k), _difference(a, b, pairs + 1 - k)


def _difference(a: Floats, b: Floats, k: int) -> float:
    """The k-th smallest (from 1) of all b − a, both sorted."""
    low, high = float(b[0] - a[-1]), float(b[-1] - a[0])
    if k <= _count(a, b, low):
        return low
    for _ in range(STEPS):
        middle = low + (high - low) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if _count(a, b, middle) >= k else (middle, high)
    return _nearest(a, b, high)


def _count(a: Floats, b: Floats, most: float) -> int:
    """Pairs with b − a <= most."""
    return int((a.size - np.searchsorted(a, b - most, "left")).sum())


def _nearest(a: Floats, b: Floats, value: float) -> float:
    """The difference of a pair that is nearest to ``value``: halving finds it up to rounding."""
    at = np.searchsorted(a, b - value, "left")
    found = np.concatenate([b - a[np.minimum(at, a.size - 1)], b - a[np.maximum(at - 1, 0)]])
    return float(found[np.abs(found - value).argmin()])
