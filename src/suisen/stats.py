"""Resampling, paired tests and corrections for many comparisons: for offline metrics and experiments alike."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from suisen.errors import InputError

Floats = npt.NDArray[np.float64]
DRAWS_PER_CHUNK = 2**21
"""Numbers drawn: 16 MiB."""


class Difference(NamedTuple):
    """A paired difference of means: its bootstrap interval and the p-value of "there is none"."""

    value: float
    low: float
    high: float
    p: float
    n: int


def bootstrap_means(
    values: npt.ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> tuple[Floats, Floats]:
    """BCa bootstrap intervals (Efron 1987) of the means of m columns whose n rows are resampled together.

    ``values`` (n, m), NaN = the row does not count in that column.  Returns low and high, (m,).  Bias correction from
    the resamples, acceleration from the column's skewness (Σd³ / 6(Σd²)^1.5, the jackknife of a mean).  A column that
    is constant has an interval of no width: resampling cannot tell what it has never seen.  Fewer than two rows: NaN.
    """
    if not 0 < level < 1:
        raise InputError(f"level = {level!r}; give a probability between 0 and 1, like 0.95")
    table = _table(values)
    means = column_means(table)
    drawn = _resampled_means(table, resamples, np.random.default_rng(seed))
    spread = np.where(np.isnan(table), 0.0, table - means)
    squares = (spread**2).sum(0)  # (m,)
    constant = np.nanmax(np.abs(spread), axis=0, initial=0.0) <= 1e-12 * np.maximum(1.0, np.abs(means))
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = np.where(constant, 0.0, (spread**3).sum(0) / (6 * squares**1.5))
    # Share of the resampled means below the mean, ties half: where it is not ½, the bootstrap is biased.
    below = ((drawn < means).sum(0) + 0.5 * (drawn == means).sum(0)) / resamples
    bias = special.ndtri(below.clip(0.5 / resamples, 1 - 0.5 / resamples))
    ends = [_ends(drawn, bias, skew, tail) for tail in ((1 - level) / 2, (1 + level) / 2)]
    few = (~np.isnan(table)).sum(0) < 2
    low, high = (np.where(few, np.nan, np.where(constant, means, end)) for end in ends)
    return low, high


def column_means(values: npt.ArrayLike) -> Floats:
    """(m,) means over the rows that are not NaN; NaN where there is none."""
    table = _table(values)
    counts = (~np.isnan(table)).sum(0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(np.isnan(table), 0.0, table).sum(0) / np.where(counts == 0, np.nan, counts))


def paired_differences(
    ours: npt.ArrayLike, theirs: npt.ArrayLike, *, level: float = 0.95, resamples: int = 1000, seed: int = 0
) -> list[Difference]:
    """For each column: mean(ours − theirs) over rows that both have, with interval and p-value.

    The interval is the BCa bootstrap of the differences; p is the two-sided paired t-test, which agrees with the
    randomisation test on ranking metrics (Smucker, Allan, Carterette 2007) and does not depend on a seed.
    """
    ours, theirs = _table(ours), _table(theirs)
    if ours.shape != theirs.shape:
        raise InputError(f"{ours.shape} values cannot be paired with {theirs.shape}; give the same rows and columns")
    differences = ours - theirs
    low, high = bootstrap_means(differences, level=level, resamples=resamples, seed=seed)
    counts = (~np.isnan(differences)).sum(0)
    parts = (column_means(differences), low, high, paired_p(differences), counts)
    return [Difference(float(v), float(a), float(b), float(p), int(n)) for v, a, b, p, n in zip(*parts, strict=True)]


def paired_p(differences: npt.ArrayLike) -> Floats:
    """(m,) two-sided p-values of the t-test of mean 0; 1 where all values are 0 or there are fewer than two."""
    table = _table(differences)
    counts = (~np.isnan(table)).sum(0)
    means = column_means(table)
    squares = (np.where(np.isnan(table), 0.0, table - means) ** 2).sum(0)
    freedom = np.maximum(counts - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = means / np.sqrt(squares / freedom / counts)
    p = 2 * special.stdtr(freedom, -np.abs(t))
    return np.where((counts < 2) | np.isnan(t), 1.0, p)


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's step-down adjusted p-values (family-wise error), in the order given.

    >>> holm([0.01, 0.04, 0.03, 0.005, 0.55, 0.6]).round(4).tolist()
    [0.05, 0.12, 0.12, 0.03, 1.0, 1.0]
    """
    values = _probabilities(p)
    order = np.argsort(values)
    steps = values[order] * np.arange(values.size, 0, -1)
    return np.minimum(np.maximum.accumulate(steps), 1.0)[np.argsort(order)]


def benjamini_hochberg(p: npt.ArrayLike) -> Floats:
    """Benjamini and Hochberg's step-up adjusted p-values (false discovery rate), in the order given.

    >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.2]).round(4).tolist()
    [0.04, 0.0533, 0.0533, 0.2]
    """
    values = _probabilities(p)
    order = np.argsort(values)[::-1]
    steps = values[order] * values.size / np.arange(values.size, 0, -1)
    return np.minimum(np.minimum.accumulate(steps), 1.0)[np.argsort(order)]


def _resampled_means(table: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """(resamples, m) means of n rows drawn with replacement: counts of the draws × the table, chunk by chunk."""
    rows, columns = table.shape
    out = np.full((resamples, columns), np.nan)
    if rows == 0:
        return out
    known = ~np.isnan(table)
    whole = bool(known.all())
    filled = np.where(known, table, 0.0)
    chunk = max(1, DRAWS_PER_CHUNK // rows)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        # Each resample's draws in a range of its own, so that one bincount counts them all.
        draws = rng.integers(0, rows, size=(size, rows), dtype=np.int64) + np.arange(size)[:, None] * rows
        weights = np.bincount(draws.ravel(), minlength=size * rows).reshape(size, rows).astype(np.float64)
        counts: Any = float(rows) if whole else weights @ known.astype(np.float64)
        with np.errstate(invalid="ignore"):
            out[start : start + size] = weights @ filled / np.where(counts == 0, np.nan, counts)
    return out


def _ends(drawn: Floats, bias: Floats, skew: Floats, tail: float) -> Floats:
    """(m,): one end of each column's BCa interval (Efron 1987) from (resamples, m) means."""
    shifted = bias + special.ndtri(tail)
    levels = special.ndtr(bias + shifted / (1 - skew * shifted))
    columns = zip(drawn.T, levels, strict=True)
    return np.array([np.nanquantile(column, q) if not np.isnan(column).all() else np.nan for column, q in columns])


def _table(values: npt.ArrayLike) -> Floats:
    table = np.asarray(values, dtype=np.float64)
    return table[:, None] if table.ndim == 1 else table


def _probabilities(p: npt.ArrayLike) -> Floats:
    values = np.asarray(p, dtype=np.float64).ravel()
    if values.size and not bool(((values >= 0) & (values <= 1)).all()):
        raise InputError(f"p = {values.tolist()}; give probabilities between 0 and 1")
    return values
