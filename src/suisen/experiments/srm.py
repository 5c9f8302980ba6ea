"""Sample ratio mismatch: whether the arms have as many units as their weights say.

A mismatch says that assignment, logging or filtering is broken, and that no comparison of the arms can be trusted
(Fabijan et al. 2019); hence no verdict below the threshold.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from suisen.errors import InputError
from suisen.experiments.moments import Floats

STRICT = 0.01
"""A common stricter threshold; a ratio that passes the plan's and fails this one is doubted."""


@dataclass(frozen=True)
class Ratio:
    """The test of the sample ratio."""

    counts: Mapping[str, int]
    expected: Mapping[str, float]
    statistic: float
    p: float
    threshold: float

    @property
    def holds(self) -> bool:
        """Whether the counts agree with the weights."""
        return self.p >= self.threshold

    @property
    def doubt(self) -> str:
        """Where it holds at its threshold and would not at a common stricter one, in words; else empty."""
        if not self.holds or self.p >= STRICT:
            return ""
        return f"sample ratio p = {self.p:.2g} passes at {self.threshold:g} and would fail at {STRICT:g}"

    def __str__(self) -> str:
        seen = " : ".join(f"{count:,}" for count in self.counts.values())
        planned = " : ".join(f"{count:,.1f}" for count in self.expected.values())
        word = "sample ratio as planned" if self.holds else "SAMPLE RATIO MISMATCH"
        sign = ">=" if self.holds else "<"
        return (
            f"{word}: {seen} units, {planned} expected, chi-square {self.statistic:.4g}, "
            f"p = {self.p:.3g} {sign} threshold {self.threshold:g}"
        )


def ratio_p(counts: npt.ArrayLike, weights: npt.ArrayLike, *, continuity: bool = False) -> tuple[Floats, Floats]:
    """Pearson's statistic and p of counts (..., arms) against weights (arms,), which need not sum to 1.

    ``continuity``: Yates's correction, for two arms; with it p is a little larger.
    """
    seen, weight = np.asarray(counts, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    expected = seen.sum(-1, keepdims=True) * weight / weight.sum()
    gap = np.abs(seen - expected)
    if continuity and weight.size == 2:
        gap = gap - np.minimum(0.5, gap)
    statistic = (gap**2 / expected).sum(-1)
    return statistic, np.asarray(special.chdtrc(weight.size - 1, statistic))


def sample_ratio(counts: Mapping[str, int], weights: Mapping[str, float], *, threshold: float = 0.001) -> Ratio:
    """The test of units against the weights of their arms.

    Raises InputError for one arm, for an arm without a unit, and for an arm without a weight.
    """
    if len(weights) < 2:
        raise InputError(f"arms = {list(weights)} is one arm; a comparison needs two or more")
    for arm in counts:
        if arm not in weights:
            raise InputError(f"arm {arm!r} is not in the plan ({', '.join(weights)}); leave its rows out or plan it")
    for arm, weight in weights.items():
        if not weight > 0:
            raise InputError(f"arm {arm!r} has weight {weight!r}; give a share above 0")
        if not counts.get(arm):
            raise InputError(f"arm {arm!r} has no units; nothing can be compared with it")
    seen = [counts[arm] for arm in weights]
    statistic, p = ratio_p(seen, list(weights.values()))
    whole = sum(seen) / sum(weights.values())
    expected = {arm: whole * weight for arm, weight in weights.items()}
    return Ratio(dict(zip(weights, seen, strict=True)), expected, float(statistic), float(p), threshold)
