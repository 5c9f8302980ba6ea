"""Sample ratio mismatch: whether the arms have as many units as their weights say.

A mismatch says that assignment, logging or filtering is broken, and that no comparison of the arms can be trusted
(Fabijan et al. 2019); hence no verdict below the threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy import special

from suisen.errors import InputError
from suisen.experiments.families import ARM, DAY, SINCE
from suisen.experiments.moments import Floats
from suisen.stats import holm

STRICT = 0.01
"""A common stricter threshold; a ratio that passes the plan's and fails this one is doubted."""
LEAST = 10
"""Expected units of an arm from which the ratio of a segment or a day is tested."""


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


# -- where units are missing -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """Units with one value of a column, or first exposed on one day, whose ratio does not hold."""

    column: str
    value: str
    counts: Mapping[str, int]
    corrected: float
    """p, corrected by Holm over all values and days that were tested."""
    alone: bool
    """Whether the ratio of all other units holds."""

    def __str__(self) -> str:
        counts = " : ".join(f"{n:,}" for n in self.counts.values())
        return f"{self.column} = {self.value} ({counts} units, corrected p = {self.corrected:.2g})"


def mismatched(
    frame: pl.DataFrame, columns: Sequence[str], weights: Mapping[str, float], *, threshold: float = 0.001
) -> tuple[Part, ...]:
    """The values of columns, and the days (UTC) of first exposure, whose sample ratio does not hold; to blame first.

    ``frame``: one row per unit, with its arm.  Values with fewer than ``LEAST`` expected units in an arm are left out.
    The first is one that leaves the ratio of all others as planned, if there is one; then the least p comes first.
    """
    values = {name: pl.col(name) for name in dict.fromkeys(columns) if name in frame.columns}
    if SINCE in frame.columns:
        values["day"] = (pl.col(SINCE) // DAY).cast(pl.Int32).cast(pl.Date)
    weight = np.array(list(weights.values())) / sum(weights.values())
    tables = [_counted(frame, each, weights) for each in values.values()]
    names = [(name, str(value)) for name, table in zip(values, tables, strict=True) for value in table["value"]]
    counts = np.concatenate([np.empty((0, weight.size)), *(table.drop("value").to_numpy() for table in tables)])
    kept = counts.sum(1) * weight.min() >= LEAST
    names, counts = [name for name, keep in zip(names, kept, strict=True) if keep], counts[kept]
    if not names:
        return ()
    corrected = holm(ratio_p(counts, weight, continuity=True)[1])
    whole = _counted(frame, pl.lit(""), weights).drop("value").to_numpy()
    with np.errstate(invalid="ignore"):  # a value that all units have leaves none
        others = ratio_p(whole - counts, weight)[1]
    found = [
        Part(
            column, value, dict(zip(weights, row.astype(int).tolist(), strict=True)), float(p), bool(rest >= threshold)
        )
        for (column, value), row, p, rest in zip(names, counts, corrected, others, strict=True)
        if p < threshold
    ]
    return tuple(sorted(found, key=lambda part: (not part.alone, part.corrected)))


def _counted(frame: pl.DataFrame, by: pl.Expr, weights: Mapping[str, float]) -> pl.DataFrame:
    """Units by value, a column per arm."""
    table = frame.lazy().group_by(by.alias("value"), ARM).len().collect(engine="streaming")
    of_arm = [pl.col("len").filter(pl.col(ARM) == arm).sum().alias(str(i)) for i, arm in enumerate(weights)]
    return table.group_by("value").agg(of_arm).sort("value")
