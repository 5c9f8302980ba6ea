"""Not worse than a margin, and equal within margins: what a test of "no difference" cannot show."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from suisen.errors import InputError
from suisen.experiments.means import Effect, statistic_of
from suisen.experiments.moments import Floats
from suisen.experiments.result import Equality, Guard, Range, State
from suisen.experiments.scales import LEAST, Held


class Margins(NamedTuple):
    """One-sided tests against margins, and the interval that decides alike."""

    p: Floats
    low: Floats
    high: Floats


def non_inferior(
    effect: Effect, margin: npt.ArrayLike, *, better: Literal["higher", "lower"] = "higher", alpha: float = 0.025
) -> Margins:
    """One-sided test of "the treatment is worse by ``margin`` or more"; margin > 0, on the effect's own scale.

    p < alpha where the interval of level 1 − 2 alpha lies beyond the margin: 0.025 goes with 95 % intervals.
    Raises InputError for a margin that is not above 0.
    """
    width = np.asarray(margin, dtype=np.float64)
    if not bool((width > 0).all()):
        raise InputError(f"margin = {margin!r} must be above 0: how much worse is still accepted")
    sign = 1.0 if better == "higher" else -1.0
    p = special.stdtr(effect.df, -statistic_of(sign * effect.value + width, effect.se))
    return Margins(np.asarray(p), *_interval(effect, alpha))


def equivalent(effect: Effect, low: float, high: float, *, alpha: float = 0.05) -> Margins:
    """Two one-sided tests (Schuirmann 1987): p of "the effect is at or beyond one of the margins".

    p < alpha where the interval of level 1 − 2 alpha lies inside (low, high).  Raises InputError for low >= high.
    """
    if not low < high:
        raise InputError(f"margins ({low!r}, {high!r}) are empty; give low < high, like (-0.01, 0.01)")
    above = special.stdtr(effect.df, -statistic_of(effect.value - low, effect.se))
    below = special.stdtr(effect.df, statistic_of(effect.value - high, effect.se))
    return Margins(np.asarray(np.maximum(above, below)), *_interval(effect, alpha))


def guarded(held: Held, better: Literal["higher", "lower"]) -> Guard:
    """Whether the interval, which is two-sided, lies on the good side of a guardrail's margin."""
    effect, margin, scale, why = held
    sign = 1.0 if better == "higher" else -1.0
    ends = sorted((sign * float(effect.low), sign * float(effect.high)))
    state: State = "holds" if ends[0] > -margin else "fails" if ends[1] < -margin else "undecided"
    p = float(non_inferior(effect, max(margin, LEAST), better=better).p)
    return Guard(margin, scale, p, state, why, Range.of(effect))


def equalled(held: Held, alpha: float) -> Equality:
    """Whether the interval, of level 1 − 2 alpha, lies between the margins; undecided where nothing varies."""
    effect, margin, scale, why = held
    low, high = float(effect.low), float(effect.high)
    if not float(effect.se) > 0:
        return Equality(margin, scale, Range(float(effect.value), low, high, float("nan")), "undecided", why)
    state: State = "holds" if -margin < low and high < margin else "undecided"
    if low >= margin or high <= -margin:
        state = "fails"
    p = float(equivalent(effect, -max(margin, LEAST), max(margin, LEAST), alpha=alpha).p)
    return Equality(margin, scale, Range(float(effect.value), low, high, p), state, why)


def _interval(effect: Effect, alpha: float) -> tuple[Floats, Floats]:
    if not 0 < alpha < 0.5:
        raise InputError(f"alpha = {alpha!r} of a one-sided test must be between 0 and 0.5")
    half = special.stdtrit(effect.df, 1 - alpha) * effect.se
    return effect.value - half, effect.value + half
