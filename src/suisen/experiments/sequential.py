"""Looking before the end: confidence sequences for any number of looks, group-sequential bounds for planned ones.

Confidence sequences are the normal mixture of Robbins (1970), two- or one-sided, in the asymptotic form of Waudby-Smith
et al. (2021); group-sequential bounds follow from exact integration of the joint normal distribution (Armitage,
McPherson, Rowe 1969) and spending functions (Lan, DeMets 1983).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from suisen.errors import InputError, unknown
from suisen.experiments.means import Alternative, Effect, opened, statistic_of
from suisen.experiments.moments import Floats

Spending = Literal["obrien-fleming", "pocock"]
Convention = Literal["two-sided", "per-side"]
FARTHEST = 38.0
"""Standard deviations beyond which the normal distribution has no mass in doubles."""


# -- confidence sequences ---------------------------------------------------------------------------------------------


def mixture_rho(v: float, alpha: float = 0.05, *, sides: Literal[1, 2] = 2) -> float:
    """The mixture's parameter that makes its boundary tightest, nearly, at intrinsic time ``v`` (Howard et al. 2021).

    >>> round(mixture_rho(100, 0.05), 5)
    12.60056
    """
    share = np.log(1 / (alpha if sides == 2 else 2 * alpha))
    return float(v / (2 * share + np.log1p(2 * share)))


def log_mixture(s: npt.ArrayLike, v: npt.ArrayLike, rho: float, *, sides: Literal[1, 2] = 2) -> Floats:
    """Logarithm of the normal mixture supermartingale of a sum ``s`` at intrinsic time ``v``."""
    total, time = np.asarray(s, dtype=np.float64), np.asarray(v, dtype=np.float64)
    out = 0.5 * np.log(rho / (time + rho)) + total**2 / (2 * (time + rho))
    if sides == 1:
        out = out + np.log(2) + special.log_ndtr(total / np.sqrt(time + rho))
    return np.asarray(out)


def mixture_bound(v: npt.ArrayLike, rho: float, alpha: float = 0.05, *, sides: Literal[1, 2] = 2) -> Floats:
    """What the sum (with 2 sides: |sum|) reaches at any time with probability alpha at the most."""
    time = np.asarray(v, dtype=np.float64)
    two = np.sqrt((time + rho) * np.log((time + rho) / (rho * alpha**2)))
    if sides == 2:
        return np.asarray(two)
    low, high = np.zeros_like(two), two
    for _ in range(80):  # the one-sided mixture has no inverse in closed form
        middle = (low + high) / 2
        above = log_mixture(middle, time, rho, sides=1) >= -np.log(alpha)
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return np.asarray(high)


def confidence_sequence(
    effect: Effect, n: npt.ArrayLike, *, alpha: float = 0.05, tune: float = 5000, alternative: Alternative = "two-sided"
) -> Effect:
    """The effect with an interval and a p-value that hold at every look, however many there are.

    ``n``: units of both arms together.  ``tune``: the n at which the interval is tightest; it must not be chosen after
    the data were seen.  Both follow the alternative: p <= alpha exactly where the interval excludes 0.
    """
    if alternative not in ("two-sided", "greater", "less"):
        raise unknown("alternative", alternative, ("two-sided", "greater", "less"))
    if not tune > 0:
        raise InputError(f"tune = {tune!r} must be above 0: the number of units at which the interval is tightest")
    units = np.asarray(n, dtype=np.float64)
    sides: Literal[1, 2] = 2 if alternative == "two-sided" else 1
    rho, z = mixture_rho(tune, alpha, sides=sides), statistic_of(effect.value, effect.se)
    half = effect.se * mixture_bound(units, rho, alpha, sides=sides) / np.sqrt(units)
    evidence = log_mixture((-z if alternative == "less" else z) * np.sqrt(units), units, rho, sides=sides)
    p = np.asarray(np.exp(-np.maximum(evidence, 0.0)))
    return opened(effect._replace(low=effect.value - half, high=effect.value + half, p=p), alternative)


# -- group-sequential plans -------------------------------------------------------------------------------------------


class _Density(NamedTuple):
    """Sub-density of the score at a look, of the paths that have not crossed, on Gauss-Legendre nodes."""

    nodes: Floats
    mass: Floats
    time: float


def spent(
    t: npt.ArrayLike, alpha: float = 0.05, *, spending: Spending = "obrien-fleming", convention: Convention = "per-side"
) -> Floats:
    """Alpha spent, on both sides together, at the information fraction ``t``.

    obrien-fleming, two-sided: 2 − 2 Φ(z_{α/2} / √t).  per-side: twice the same of α/2, which is what R's ldbounds and
    gsDesign tabulate; it spends later.  pocock: α ln(1 + (e − 1) t), the same in both conventions.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha = {alpha!r}; give a probability between 0 and 1, like 0.05")
    fraction = np.clip(np.asarray(t, dtype=np.float64), 0.0, 1.0)
    if spending == "pocock":
        return np.asarray(alpha * np.log1p((np.e - 1) * fraction))
    if spending != "obrien-fleming":
        raise unknown("spending", spending, ("obrien-fleming", "pocock"))
    if convention not in ("two-sided", "per-side"):
        raise unknown("convention", convention, ("two-sided", "per-side"))
    sides = 2.0 if convention == "per-side" else 1.0
    quantile = -special.ndtri(alpha / sides / 2)
    with np.errstate(divide="ignore"):
        return np.asarray(sides * 2 * special.ndtr(-quantile / np.sqrt(fraction)))


@dataclass(frozen=True)
class GroupDesign:
    """Looks at information fractions ``times`` with bounds on |z|."""

    times: tuple[float, ...]
    bounds: tuple[float, ...]

    def crossing(self, drift: float = 0.0) -> Floats:
        """Probability of crossing first at each look, where z has the mean drift·√t."""
        density: _Density | None = None
        out = []
        for time, bound in zip(self.times, self.bounds, strict=True):
            out.append(_outside(density, time, bound, drift))
            density = _advance(density, time, bound, drift)
        return np.array(out)

    def power(self, drift: float) -> float:
        """Probability of crossing at any look; ``drift`` is the mean of z at t = 1."""
        return float(self.crossing(drift).sum())


def both_sides(alpha: float, alternative: Alternative) -> float:
    """The alpha whose bounds on |z| are those of an alternative: a one-sided one has all of its alpha on its side."""
    return alpha if alternative == "two-sided" else min(2 * alpha, 0.999)


def spending_bounds(
    times: Sequence[float],
    alpha: float = 0.05,
    *,
    spending: Spending = "obrien-fleming",
    convention: Convention = "per-side",
) -> GroupDesign:
    """The bounds on |z| at the looks so far that spend alpha as the function says, found look by look.

    Raises InputError for fractions that do not rise inside (0, 1].
    """
    moments = _times(times)
    total = spent(moments, alpha, spending=spending, convention=convention)
    bounds: list[float] = []
    density: _Density | None = None
    for time, share in zip(moments, np.diff(total, prepend=0.0), strict=True):
        bounds.append(_bound(density, time, float(share)))
        density = _advance(density, time, bounds[-1], 0.0)
    return GroupDesign(tuple(moments), tuple(bounds))


def repeated_p(
    z: float, times: Sequence[float], *, spending: Spending = "obrien-fleming", convention: Convention = "per-side"
) -> float:
    """The least alpha whose design is crossed by ``z`` at the last of the looks (Jennison, Turnbull 2000, ch. 9)."""

    def excess(log_alpha: float) -> float:
        design = spending_bounds(times, float(np.exp(log_alpha)), spending=spending, convention=convention)
        return design.bounds[-1] - abs(z)

    low, high = np.log(1e-12), np.log(1 - 1e-9)
    if excess(high) >= 0:
        return 1.0
    return 1e-12 if excess(low) <= 0 else float(np.exp(optimize.brentq(excess, low, high, xtol=1e-9)))


def _times(times: Sequence[float]) -> list[float]:
    found = [float(time) for time in times]
    rising = all(a < b for a, b in pairwise(found))
    if not found or not rising or found[0] <= 0 or found[-1] > 1:
        raise InputError(f"looks = {found} should be rising information fractions above 0 and up to 1")
    return found


def _outside(density: _Density | None, time: float, bound: float, drift: float) -> float:
    """Probability that the path, inside until now, is outside ±bound at ``time``."""
    edge = bound * np.sqrt(time)
    start, mass, step = (np.zeros(1), np.ones(1), time) if density is None else (*density[:2], time - density.time)
    sd, centre = np.sqrt(step), start + drift * step
    return float(mass @ (special.ndtr((centre - edge) / sd) + special.ndtr((-edge - centre) / sd)))


def _advance(density: _Density | None, time: float, bound: float, drift: float) -> _Density:
    start, mass, step = (np.zeros(1), np.ones(1), time) if density is None else (*density[:2], time - density.time)
    sd = np.sqrt(step)
    edge = min(bound, 9.0 + abs(drift)) * np.sqrt(time)
    x, w = _legendre(int(np.clip(16 * edge / sd, 64, 3000)))
    nodes = edge * x
    gap = (nodes - drift * step - start[:, None]) / sd
    values = mass @ np.exp(-0.5 * gap**2) / (sd * np.sqrt(2 * np.pi))
    return _Density(nodes, edge * w * values, time)


def _legendre(n: int) -> tuple[Floats, Floats]:
    if n not in _NODES:
        x, w = special.roots_legendre(n)
        _NODES[n] = (np.asarray(x), np.asarray(w))
    return _NODES[n]


_NODES: dict[int, tuple[Floats, Floats]] = {}


def _bound(density: _Density | None, time: float, share: float) -> float:
    """The bound on |z| that is first crossed at ``time`` with probability ``share``; infinite for none."""
    if share <= 0:
        return float("inf")
    if density is None:
        return float(-special.ndtri(share / 2))

    def excess(bound: float) -> float:
        found = _outside(density, time, bound, 0.0)
        return float(np.log(found) - np.log(share)) if found > 0 else -1e3

    return _root(excess, share)


def _root(excess: Callable[[float], float], share: float) -> float:
    """Where ``excess`` falls through 0; a share that is more than is left inside is taken at once (bound 0)."""
    if excess(0.0) <= 0:
        return 0.0
    return float(optimize.brentq(excess, 0.0, FARTHEST, xtol=1e-11)) if share > 1e-300 else float("inf")
