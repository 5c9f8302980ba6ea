"""Shares of two arms: z (pooled), chi-square, Fisher's exact test, intervals that go with them; any leading axes."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from suisen.errors import InputError, unknown
from suisen.experiments.means import Alternative, Effect, Estimate, check_level, compare, cut, opened, p_of
from suisen.experiments.moments import Floats

MIN_EXPECTED = 5.0
"""Least expected number of successes and failures in an arm for z and chi-square (Cochran 1954)."""


class ChiSquare(NamedTuple):
    """Pearson's test of a table."""

    statistic: Floats
    df: int
    p: Floats


class Counts(NamedTuple):
    """Successes and trials of control and treatment."""

    control: Floats
    control_n: Floats
    treatment: Floats
    treatment_n: Floats

    @classmethod
    def of(
        cls, control: npt.ArrayLike, control_n: npt.ArrayLike, treatment: npt.ArrayLike, treatment_n: npt.ArrayLike
    ) -> "Counts":
        """Checked.  Raises InputError for trials that are not above 0 and successes that are not among them."""
        made = cls(*(np.asarray(v, dtype=np.float64) for v in (control, control_n, treatment, treatment_n)))
        for arm, x, n in (("control", made[0], made[1]), ("treatment", made[2], made[3])):
            if not bool((n > 0).all()):
                raise InputError(f"{arm}: a share needs at least one trial; leave the arm out")
            if not bool(((x >= 0) & (x <= n)).all()):
                raise InputError(f"{arm}: successes must be from 0 to the trials; count each trial once")
        return made

    def pooled(self) -> Floats:
        """The share of both arms together."""
        return (self.control + self.treatment) / (self.control_n + self.treatment_n)


def share(successes: npt.ArrayLike, trials: npt.ArrayLike) -> Estimate:
    """A share as the value of an arm; its variance is p(1 − p)/n."""
    x, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    return Estimate(x / n, x / n * (1 - x / n) / n, n - 1, n)


def z_test(
    counts: Counts,
    *,
    level: float = 0.95,
    alternative: Alternative = "two-sided",
    interval: Literal["wald", "newcombe"] = "wald",
) -> Effect:
    """The difference of shares: p of the z test with the pooled variance, an interval with the arms' own.

    A one-sided bound is that of the score (``score_bounds``), which decides as p does.
    newcombe: the square-and-add interval of two Wilson intervals (Newcombe 1998, method 10), good for few successes.
    """
    if interval not in ("wald", "newcombe"):
        raise unknown("interval", interval, ("wald", "newcombe"))
    a, b = share(counts.control, counts.control_n), share(counts.treatment, counts.treatment_n)
    wald = compare(a, b, test="z", level=level)
    pooled = counts.pooled()
    spread = np.sqrt(pooled * (1 - pooled) * (1 / a.n + 1 / b.n))
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(spread > 0, wald.value / spread, 0.0)
    p, low, high = p_of(statistic, wald.df, alternative), wald.low, wald.high
    if interval == "newcombe":
        low, high = newcombe(counts, level=max(2 * cut(level, alternative) - 1, 1e-9))
    elif alternative != "two-sided":
        low, high = score_bounds(counts, level=level)
    return opened(wald._replace(low=low, high=high, p=p, statistic=statistic), alternative)


def score_bounds(counts: Counts, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """One-sided bounds of the difference of shares, each of ``level``: where the score test rejects (Mee 1984).

    The test of a difference δ has the variance of the likeliest shares that are δ apart; of 0 it is the pooled z test.
    """
    z, value = special.ndtri(level), counts.treatment / counts.treatment_n - counts.control / counts.control_n
    ends = []
    for sign in (-1.0, 1.0):
        near, far = value, np.full_like(value, sign)
        for _ in range(60):
            middle = (near + far) / 2
            out = sign * (middle - value) > z * np.sqrt(_apart(counts, middle))
            near, far = np.where(out, near, middle), np.where(out, middle, far)
        ends.append(near)
    return ends[0], ends[1]


def _apart(counts: Counts, gap: Floats) -> Floats:
    """Variance of the difference of the likeliest shares that are ``gap`` apart: a root of a cubic (Mee 1984)."""
    x, n, y, m = counts
    third = 3 * (n + m)
    two, one = ((2 * n + m) * gap - (n + m) - x - y) / third, ((n * gap - (n + m) - 2 * x) * gap + x + y) / third
    v = two**3 - 1.5 * two * one + 1.5 * x * gap * (1 - gap) / third
    u = np.where(v < 0, -1.0, 1.0) * np.sqrt(np.maximum(two**2 - one, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        turn = np.clip(np.where(u == 0, 0.0, v / u**3), -1.0, 1.0)
    share_a = np.clip(2 * u * np.cos((np.pi + np.arccos(turn)) / 3) - two, np.maximum(0, -gap), np.minimum(1, 1 - gap))
    share_b = np.clip(share_a + gap, 0.0, 1.0)
    return np.asarray(share_a * (1 - share_a) / n + share_b * (1 - share_b) / m)


def wilson(successes: npt.ArrayLike, trials: npt.ArrayLike, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson's interval of a share (1927)."""
    check_level(level)
    x, n = np.asarray(successes, dtype=np.float64), np.asarray(trials, dtype=np.float64)
    z2 = special.ndtri((1 + level) / 2) ** 2
    middle = (x + z2 / 2) / (n + z2)
    half = np.sqrt(z2) / (n + z2) * np.sqrt(x * (1 - x / n) + z2 / 4)
    return middle - half, middle + half


def newcombe(counts: Counts, *, level: float = 0.95) -> tuple[Floats, Floats]:
    """Interval of the difference of shares from the Wilson interval of each (Newcombe 1998, method 10)."""
    a, b = counts.control / counts.control_n, counts.treatment / counts.treatment_n
    low_a, high_a = wilson(counts.control, counts.control_n, level=level)
    low_b, high_b = wilson(counts.treatment, counts.treatment_n, level=level)
    below, above = np.hypot(b - low_b, high_a - a), np.hypot(high_b - b, a - low_a)
    return b - a - below, b - a + above


def chi_square(counts: Counts, *, continuity: bool = False) -> ChiSquare:
    """Pearson's test of the 2 × 2 table; without Yates's continuity correction its p is that of the z test."""
    x = np.stack([counts.control, counts.treatment], -1)
    n = np.stack([counts.control_n, counts.treatment_n], -1)
    return chi_square_table(np.stack([x, n - x], -1), continuity=continuity)


def chi_square_table(table: npt.ArrayLike, *, continuity: bool = False) -> ChiSquare:
    """Pearson's test of independence of tables (..., rows, columns); rows or columns of zeros count for nothing."""
    seen = np.asarray(table, dtype=np.float64)
    rows, columns = seen.sum(-1, keepdims=True), seen.sum(-2, keepdims=True)
    expected = rows * columns / rows.sum(-2, keepdims=True)
    gap = np.abs(seen - expected)
    df = (seen.shape[-2] - 1) * (seen.shape[-1] - 1)
    if continuity and df == 1:
        gap = gap - np.minimum(0.5, gap)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.where(expected > 0, gap**2 / expected, 0.0).sum((-2, -1))
    return ChiSquare(statistic, df, np.asarray(special.chdtrc(df, statistic)))


def fisher(counts: Counts, *, alternative: Alternative = "two-sided") -> Floats:
    """The p-values of Fisher's exact test; two-sided sums the tables that are no likelier than the one seen.

    greater: the treatment's share is above the control's.  Tables of the same margins are computed together.
    """
    parts = np.broadcast_arrays(*(np.rint(part).astype(np.int64) for part in counts))
    x, n, y, m = (part.ravel() for part in parts)
    out = np.empty(x.size)
    margins, where = np.unique(np.stack([n, m, x + y]), axis=1, return_inverse=True)
    for i, (trials, others, total) in enumerate(margins.T.tolist()):
        rows = np.flatnonzero(where.ravel() == i)
        out[rows] = _tails(y[rows], others, trials, total, alternative)
    return out.reshape(parts[0].shape)


def _tails(y: npt.NDArray[np.int64], m: int, n: int, total: int, alternative: Alternative) -> Floats:
    """The p-values for ``y`` of ``total`` successes in the treatment's ``m``, the control having ``n``."""
    low, high = max(0, total - n), min(total, m)
    support = np.arange(low, high + 1)
    log = _choose(m, support) + _choose(n, total - support)
    mass = np.exp(log - log.max())
    mass /= mass.sum()
    at = y - low
    if alternative == "greater":
        return np.asarray(np.minimum(np.cumsum(mass[::-1])[::-1][at], 1.0))
    if alternative == "less":
        return np.asarray(np.minimum(np.cumsum(mass)[at], 1.0))
    if alternative != "two-sided":
        raise unknown("alternative", alternative, ("two-sided", "greater", "less"))
    order = np.sort(mass)
    upto = np.searchsorted(order, mass[at] * (1 + 1e-7), side="right")  # equally likely but for rounding
    return np.asarray(np.minimum(np.cumsum(order)[upto - 1], 1.0))


def _choose(n: int, k: npt.NDArray[np.int64]) -> Floats:
    return np.asarray(special.gammaln(n + 1) - special.gammaln(k + 1) - special.gammaln(n - k + 1))


def few_warning(counts: Counts) -> str:
    """What is wrong with z and chi-square for these counts (no leading axes); empty: nothing."""
    share_of_all = float(counts.pooled())
    least = min(
        float(n) * part for n in (counts.control_n, counts.treatment_n) for part in (share_of_all, 1 - share_of_all)
    )
    if least >= MIN_EXPECTED:
        return ""
    return (
        f"few events: an arm has {least:.1f} expected (at least {MIN_EXPECTED:.0f} needed), so z and chi-square are "
        "inexact; use Fisher's exact test"
    )
