"""Off-policy evaluation: what another policy would have earned, from a log whose actions were drawn with known chances.

Row i: context x, action a taken with logged probability μ(a | x) (the propensity), reward r; the target policy would
have taken it with π(a | x); weight w = π/μ.  With a reward model q(x, a), q(x, π) = Σ_a π(a | x) q(x, a):

    ips     mean of w r                           (Horvitz & Thompson 1952)       unbiased, may vary wildly
    snips   Σ w r / Σ w                           (Swaminathan & Joachims 2015)   biased by O(1/n), steadier
    dm      mean of q(x, π)                       the model's word alone: as biased as the model is
    dr      mean of q(x, π) + w (r − q(x, a))     (Dudík, Langford, Li 2011)      unbiased if μ or q is right

``clip`` bounds the weights: less variance, and with rewards ≥ 0 ips can then only say too little.

The lift is the estimate minus the log's own mean, a mean of the same rows: the two go up and down together, so the
interval of the lift is that of the pair (each resample gives both; influence functions are subtracted), and not that
of the estimate moved by a constant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator
from scipy import special

from suisen.errors import InputError, unknown
from suisen.experiments.logged import Logged
from suisen.experiments.resampling import drawn_counts
from suisen.parameters import parameters

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
Interval = Literal["bootstrap", "bernstein", "normal"]
ESTIMATORS = ("ips", "snips", "dm", "dr")
DRAWS_PER_CHUNK = 2**21
MIN_EFFECTIVE_ROWS = 100
"""Effective rows below which a warning is given."""
FAR = 4.0
"""Standard errors: from 1, at which the mean weight is warned of; from 0, below which no share of the log's mean is
taken."""
TINY = 1e-100
"""A mean this small counts as 0: the square of a share of it leaves the range of doubles."""


class Estimate(NamedTuple):
    """One estimator's word on the target policy's mean reward."""

    estimator: str
    value: float
    se: float
    low: float
    high: float
    relative: float
    """Value / the log's own mean reward."""
    lift: float
    """Value − the log's own mean reward, with its interval."""
    lift_low: float
    lift_high: float
    relative_lift: float
    """``lift`` / |the log's own mean reward|, with its interval; NaN where that mean is not clear of 0.  ``bernstein``
    knows no interval of a share: NaN."""
    relative_low: float
    relative_high: float


@dataclass(frozen=True)
class OffPolicy:
    """What the log says of the target policy, and how much of it is behind that."""

    estimates: tuple[Estimate, ...]
    rows: int
    units: int
    logged: float
    """The log's own mean reward: what the logging policy earned."""
    effective: float
    """Effective sample size (Kish 1965): (Σw)² / Σw², of the weights as used."""
    largest: float
    """Largest weight before clipping."""
    mean_weight: float
    """Mean weight before clipping; 1 in expectation where overlap holds and propensities are right."""
    clipped: int
    """Rows whose weight was clipped."""
    interval: str
    """How low and high were made."""
    warnings: tuple[str, ...]

    def __getitem__(self, estimator: str) -> Estimate:
        found = {each.estimator: each for each in self.estimates}
        if estimator not in found:
            raise unknown("estimator", estimator, found)
        return found[estimator]

    def frame(self) -> pl.DataFrame:
        """One row per estimator."""
        return pl.DataFrame(self.estimates, schema=list(Estimate._fields), orient="row")

    def __str__(self) -> str:
        lines = [f"{'estimator':<10}{'value':>12}{'se':>12}   {self.interval:<28}lift over the log"]
        for each in self.estimates:
            ends = f"[{each.low:.6g}, {each.high:.6g}]"
            lift = f"{each.lift:+.4g} [{each.lift_low:.4g}, {each.lift_high:.4g}]"
            share = "" if np.isnan(each.relative_lift) else f" = {100 * each.relative_lift:+.3g} %"
            share += (
                ""
                if np.isnan(each.relative_low)
                else f" [{100 * each.relative_low:.3g}, {100 * each.relative_high:.3g}]"
            )
            lines.append(f"{each.estimator:<10}{each.value:>12.6g}{each.se:>12.3g}   {ends:<28}{lift}{share}")
        lines.append(
            f"{self.rows:,} rows of {self.units:,} units, logged mean {self.logged:.6g}; effective rows "
            f"{self.effective:,.1f}; weights: mean {self.mean_weight:.4f}, largest {self.largest:.4g}, "
            f"{self.clipped:,} clipped"
        )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


@parameters
class Settings:
    """How a log is judged."""

    clip: Annotated[float, Field(gt=0)] | None = None
    """Largest weight used; None: weights as they are."""
    interval: Interval = "bootstrap"
    """bootstrap: BCa over units; bernstein: empirical Bernstein (Maurer & Pontil 2009), holds at every n, needs a bound
    on weights and rewards; normal: the central limit theorem."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    reward_range: tuple[float, float] = (0.0, 1.0)
    """Smallest and largest reward that can be; read by bernstein alone."""
    largest_weight: Annotated[float, Field(gt=0)] | None = None
    """Largest weight that can be, where it is known and ``clip`` is not given; read by bernstein alone."""
    resamples: Annotated[int, Field(ge=100)] = 2_000
    seed: int = 0

    @model_validator(mode="after")
    def _rising(self) -> "Settings":
        if not self.reward_range[0] < self.reward_range[1]:
            raise ValueError(f"reward_range = {self.reward_range}; give (smallest, largest) reward that can be")
        return self


def evaluate_policy(
    log: Logged, estimators: Sequence[str] = ("ips", "snips"), settings: Settings | None = None
) -> OffPolicy:
    """The target policy's mean reward by each estimator.  ``dm`` and ``dr`` need a log with a reward model's values."""
    settings = settings or Settings()
    weight = log.weight if settings.clip is None else np.minimum(log.weight, settings.clip)
    own = np.stack([log.reward, np.ones(len(log))])  # the log's own mean, as one more estimator
    terms = np.stack([*(_terms(name, log, weight) for name in estimators), own])  # (E + 1, 2, n)
    logged = float(log.reward.mean())
    sums = terms if log.unit is None else _by_unit(terms, log.unit)
    values = sums[:, 0].sum(-1) / sums[:, 1].sum(-1)
    parts = (sums[:, 0] - values[:, None] * sums[:, 1]) / sums[:, 1].mean(-1, keepdims=True)  # (E + 1, units)
    errors = np.sqrt((parts**2).mean(-1) / parts.shape[-1])
    clear = abs(logged) > max(FAR * errors[-1], TINY)  # no share can be taken of a mean that may be 0
    said, influence = _lifts(values), _influence(values, parts)
    if not clear:
        said[2], influence[2] = np.nan, 0.0
    ends = _interval(log, estimators, (sums, said, influence), settings)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relative = values[:-1] / logged
    columns = (said[0], errors[:-1], *ends[0], relative, said[1], *ends[1], said[2], *ends[2])
    return OffPolicy(
        estimates=tuple(Estimate(name, *map(float, row)) for name, *row in zip(estimators, *columns, strict=True)),
        rows=len(log), units=sums.shape[-1], logged=logged, effective=effective_rows(weight),
        largest=float(log.weight.max()), mean_weight=float(log.weight.mean()),
        clipped=int((log.weight > weight).sum()), interval=f"{settings.level:.0%} {settings.interval}",
        warnings=tuple(_warnings(log, weight, estimators, settings)),
    )  # fmt: skip


def effective_rows(weight: npt.ArrayLike) -> float:
    """(Σw)² / Σw²: how many rows of equal weight would vary as little (Kish 1965); 0 where all weights are 0.

    >>> effective_rows([1, 1, 2])
    2.6666666666666665
    """
    w = np.asarray(weight, dtype=np.float64)
    square = float((w**2).sum())
    return float(w.sum()) ** 2 / square if square > 0 else 0.0


def empirical_bernstein(values: npt.ArrayLike, width: float, level: float = 0.95) -> float:
    """Half the width of the empirical Bernstein interval (Maurer & Pontil 2009, theorem 4, both sides).

    ``values`` (n,) lie in an interval of length ``width``, whatever their law: √(2 V ln(4/δ) / n) + 7 width ln(4/δ) /
    (3 (n − 1)), V the unbiased variance, δ = 1 − level.
    """
    x = np.asarray(values, dtype=np.float64)
    if len(x) < 2:
        return float("inf")
    log = np.log(4 / (1 - level))
    return float(np.sqrt(2 * x.var(ddof=1) * log / len(x)) + 7 * width * log / (3 * (len(x) - 1)))


# -- estimators -------------------------------------------------------------------------------------------------------


def _terms(name: str, log: Logged, weight: Floats) -> Floats:
    """(2, n): the estimate is Σ of the first row / Σ of the second."""
    one = np.ones(len(log))
    if name == "ips":
        return np.stack([weight * log.reward, one])
    if name == "snips":
        return np.stack([weight * log.reward, weight])
    if name not in ESTIMATORS:
        raise unknown("estimator", name, ESTIMATORS)
    expected = _predictions(name, "expected", log.expected)
    if name == "dm":
        return np.stack([expected, one])
    predicted = _predictions(name, "predicted", log.predicted)
    return np.stack([expected + weight * (log.reward - predicted), one])


def _predictions(estimator: str, field: str, values: Floats | None) -> Floats:
    if values is None:
        raise InputError(f"estimator {estimator!r} needs a reward model: give the log {field}=, its predictions")
    return values


def _by_unit(terms: Floats, unit: Longs) -> Floats:
    """(E, 2, units): sums over the rows of each unit."""
    flat = terms.reshape(-1, terms.shape[-1])
    sums = np.stack([np.bincount(unit, weights=row) for row in flat]).astype(np.float64)
    return sums.reshape(*terms.shape[:2], -1)


# -- intervals --------------------------------------------------------------------------------------------------------


def _lifts(values: Floats) -> Floats:
    """(..., E + 1), the log's own mean last → (..., 3, E): estimates, lifts, and lifts as shares of |the mean|."""
    value, own = values[..., :-1], values[..., -1:]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.stack([value, value - own, (value - own) / np.abs(own)], axis=-2)


def _influence(values: Floats, parts: Floats) -> Floats:
    """(3, E, units): of each unit on ``_lifts(values)``, by its influence on the values, (E + 1, units)."""
    lift, own = parts[:-1] - parts[-1], values[-1]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        share = (lift - (values[:-1, None] / own - 1) * parts[-1]) / abs(own)
    return np.stack([parts[:-1], lift, share])


def _interval(log: Logged, names: Sequence[str], found: tuple[Floats, Floats, Floats], settings: Settings) -> Floats:
    """(3, 2, E): low and high of estimates, lifts and relative lifts."""
    sums, said, influence = found
    if settings.interval == "bootstrap":
        return _bootstrap(sums, said, influence, settings)
    if settings.interval == "normal":
        half = special.ndtri((1 + settings.level) / 2) * influence.std(-1) / np.sqrt(influence.shape[-1])
    else:
        low, high = settings.reward_range
        half = np.full(said.shape, np.nan)
        for at, name in enumerate(names):
            width, terms = _width(name, log, settings), sums[at, 0]
            half[0, at] = empirical_bernstein(terms, width, settings.level)
            half[1, at] = empirical_bernstein(terms - sums[-1, 0], width + high - low, settings.level)
    return np.stack([said - half, said + half], axis=1)


def _bootstrap(sums: Floats, said: Floats, influence: Floats, settings: Settings) -> Floats:
    """BCa (Efron 1987) over units; acceleration from the influence of each unit."""
    drawn = _lifts(_resampled(sums, settings.resamples, np.random.default_rng(settings.seed)))  # (R, 3, E)
    constant = np.abs(influence).max(-1) <= 1e-12 * np.fmax(1.0, np.abs(said))
    with np.errstate(divide="ignore", invalid="ignore"):
        skew = np.where(constant, 0.0, (influence**3).sum(-1) / (6 * (influence**2).sum(-1) ** 1.5))
    below = (drawn < said).mean(0) + 0.5 * (drawn == said).mean(0)
    bias = special.ndtri(below.clip(0.5 / settings.resamples, 1 - 0.5 / settings.resamples))
    ends = np.stack([said, said], axis=1)
    for side, tail in enumerate(((1 - settings.level) / 2, (1 + settings.level) / 2)):
        shifted = bias + special.ndtri(tail)
        levels = special.ndtr(bias + shifted / (1 - skew * shifted))
        for row, at in zip(*np.nonzero(~constant), strict=True):
            ends[row, side, at] = np.quantile(drawn[:, row, at], levels[row, at])
    return ends


def _resampled(sums: Floats, resamples: int, rng: np.random.Generator) -> Floats:
    """(resamples, E) ratios of units drawn with replacement, chunk by chunk; a draw of weight 0 counts as value 0."""
    estimators, _, n = sums.shape
    flat = sums.reshape(2 * estimators, n).T
    out = np.empty((resamples, estimators))
    for rows, counts in drawn_counts(n, resamples, rng, DRAWS_PER_CHUNK):
        top, under = np.moveaxis((counts @ flat).reshape(-1, estimators, 2), 2, 0)
        out[rows] = np.divide(top, under, out=np.zeros_like(top), where=under > 0)
    return out


def _width(name: str, log: Logged, settings: Settings) -> float:
    """Length of the interval that a row's term lies in, whatever the data turn out to be."""
    if log.unit is not None:
        raise InputError("interval = 'bernstein' needs independent rows; leave unit out or use 'bootstrap'")
    low, high = settings.reward_range
    if name == "snips":
        raise InputError("interval = 'bernstein' is for means; snips is a ratio: use 'bootstrap' for it")
    outside = (log.reward < low) | (log.reward > high)
    if outside.any():
        row = int(outside.argmax())
        raise InputError(f"reward = {log.reward[row]:g} in row {row} is outside reward_range = {settings.reward_range}")
    for field in ("expected", "predicted") if name in ("dm", "dr") else ():
        values = getattr(log, field)
        if values is not None and bool(((values < low) | (values > high)).any()):
            raise InputError(f"{field} leaves reward_range = {settings.reward_range}; cut the predictions to it")
    if name == "dm":
        return high - low
    known = [bound for bound in (settings.clip, settings.largest_weight, log.bound) if bound is not None]
    if not known:
        raise InputError(
            "interval = 'bernstein' needs a bound on the weights; give clip=, largest_weight= or the logging policy"
        )
    bound = min(known)
    if settings.clip is None and float(log.weight.max()) > bound * (1 + 1e-9):
        raise InputError(f"largest_weight = {bound:g}, but the log holds a weight of {log.weight.max():g}; raise it")
    if name == "dr":
        return (high - low) * (1 + 2 * bound)
    return max(0.0, bound * high) - min(0.0, bound * low)


def _warnings(log: Logged, weight: Floats, names: Sequence[str], settings: Settings) -> list[str]:
    found = []
    n = len(log)
    error = float(log.weight.std() / np.sqrt(n))
    away = abs(float(log.weight.mean()) - 1)
    if away > FAR * error and away > 1e-9:
        found.append(
            f"the mean weight {log.weight.mean():.4f} is far from 1 (standard error {error:.4f}): propensities are "
            "wrong, or the target policy acts where the log never could"
        )
    if (rows := effective_rows(weight)) < MIN_EFFECTIVE_ROWS:
        found.append(
            f"only {rows:.1f} effective rows of {n:,}: collect more, clip, or judge a policy nearer to the log's"
        )
    if settings.clip is not None and (log.weight > settings.clip).any():
        lost = float((log.weight - weight).sum() / log.weight.sum())
        found.append(
            f"clipping at {settings.clip:g} takes {lost:.1%} of the weight away: intervals hold the clipped value"
        )
    if "dm" in names:
        found.append("the interval of dm holds the chance of the log alone, not the error of the reward model")
    return found
