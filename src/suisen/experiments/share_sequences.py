"""Shares looked at at any time: intervals that hold at all looks together, from the first unit on.

The normal mixture of ``sequential`` is valid for large samples only.  Of zeros and ones the likelihood is known, and a
Beta mixture of it gives intervals without any approximation, for rare events and few units too.
"""

import numpy as np
import numpy.typing as npt
from scipy import special

from suisen.errors import InputError
from suisen.experiments.moments import Floats


def share_sequence(
    wins: npt.ArrayLike, n: npt.ArrayLike, *, alpha: float = 0.05, prior: tuple[float, float] = (0.5, 0.5)
) -> tuple[Floats, Floats]:
    """(low, high) of a share that hold at every look together with probability 1 − alpha, from the first unit on.

    ``wins`` of ``n`` units, elementwise; units are independent, or each has the same share given those before it.
    Values in [0, 1] that are no share may be summed as ``wins``: the interval is then that of their mean.  A share p
    is inside while the mixture of likelihoods ∫ q^wins (1 − q)^(n − wins) dBeta(q; prior) is below 1/alpha times that
    of p: the ratio of the two is a martingale (Robbins 1970; Howard et al. 2021; for values in [0, 1] it falls on
    average, as the likelihood ratio is convex in the value), so nothing is asymptotic.  Raises InputError for wins
    beyond n.
    """
    won, of = np.broadcast_arrays(np.asarray(wins, dtype=np.float64), np.asarray(n, dtype=np.float64))
    if not bool(((won >= 0) & (won <= of)).all()):
        raise InputError("wins should be at least 0 and at most n, of every look")
    if not 0 < alpha < 1 or not min(prior) > 0:
        raise InputError(f"alpha = {alpha!r}, prior = {prior!r}; give a probability, and two numbers above 0")
    mixed = special.betaln(prior[0] + won, prior[1] + of - won) - special.betaln(*prior) + np.log(alpha)
    seen = np.divide(won, of, out=np.full(won.shape, 0.5), where=of > 0)

    def end(edge: float) -> Floats:
        """Where the ratio is 1/alpha between the edge of [0, 1] and the share seen, by bisection."""
        outer, inner = np.full(won.shape, edge), seen
        for _ in range(60):
            middle = (outer + inner) / 2
            outside = mixed >= special.xlogy(won, middle) + special.xlog1py(of - won, -middle)
            outer, inner = np.where(outside, middle, outer), np.where(outside, inner, middle)
        return np.asarray(outer)

    return end(0.0), end(1.0)


def share_difference_sequence(
    control: tuple[npt.ArrayLike, npt.ArrayLike], treatment: tuple[npt.ArrayLike, npt.ArrayLike], *, alpha: float = 0.05
) -> tuple[Floats, Floats]:
    """(low, high) of treatment − control at every look together, from (wins, n) of both.

    By a union bound: each share has a sequence of its own at alpha/2, so it is valid however the two depend on each
    other, and wider than need be.
    """
    a, b = (share_sequence(*arm, alpha=alpha / 2) for arm in (control, treatment))
    return b[0] - a[1], b[1] - a[0]
