"""Repetitions of an experiment in the browsing world: do intervals hold the true effect?

Each repetition draws its users from the world with replacement, so that they are a sample of it and the true effect is
the world's; assigns them at random; lets them live; and compares the arms.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field

from suisen.data.synthetic import NUMBERS_PER_CHUNK
from suisen.errors import InputError, unknown
from suisen.experiments.means import Effect, Scale, compare, cuped_of, estimate
from suisen.experiments.moments import Moments
from suisen.experiments.simulation.world import METRICS, Browsing, Chances, Ranker, Totals
from suisen.parameters import parameters

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]
SCALES: tuple[Scale, ...] = ("absolute", "relative")
RANK = 16
"""Numbers behind the noise of a ranker."""


@parameters
class Repeats:
    """How often and how large."""

    repeat: Annotated[int, Field(ge=2)] = 400
    units: Annotated[int, Field(ge=20)] = 4_000
    """Users of both arms together."""
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Of the users, how many the treatment gets."""
    metrics: tuple[str, ...] = ("ctr", "conversion", "revenue", "sessions", "retention")
    covariate: bool = False
    """Adjust by the same metric in a window before, with every user under the control (CUPED)."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    seed: int = 0


class Line(NamedTuple):
    """One metric on one scale over all repetitions."""

    metric: str
    scale: str
    adjusted: bool
    """By CUPED."""
    truth: float
    mean: float
    """Mean estimate; equals the truth but for chance."""
    error: float
    """Standard error of ``mean``."""
    covered: int
    """Intervals that hold the truth."""
    coverage: float
    found: float
    """Share of repetitions in which p is below 1 − level: the power, or the false alarms where the truth is 0."""


@dataclass(frozen=True)
class Repeated:
    """All lines, and what they stand on."""

    lines: tuple[Line, ...]
    repeats: Repeats

    def frame(self) -> pl.DataFrame:
        """One row per metric, scale and adjustment."""
        return pl.DataFrame(self.lines, schema=list(Line._fields), orient="row")

    def __str__(self) -> str:
        how = self.repeats
        rows = [f"{how.repeat} repetitions of {how.units:,} users; intervals of {how.level:.0%}"]
        rows.append(
            f"{'metric':<14}{'scale':<10}{'':<7}{'true effect':>12}{'mean estimate':>15}{'coverage':>10}{'found':>8}"
        )
        for line in self.lines:
            rows.append(
                f"{line.metric:<14}{line.scale:<10}{'CUPED' if line.adjusted else '':<7}{line.truth:>12.5g}"
                f"{line.mean:>15.5g}{line.coverage:>10.1%}{line.found:>8.1%}"
            )
        return "\n".join(rows)


def browse(world: Browsing, arms: Mapping[str, Ranker], repeats: Repeats | None = None) -> Repeated:
    """Repeats the experiment of two arms, the first the control."""
    how = repeats or Repeats()
    for metric in how.metrics:
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
    control, treatment = (world.chances(ranker) for ranker in _two(arms))
    expected = [world.expected(chances) for chances in (control, treatment)]
    effects: dict[tuple[str, Scale, bool], list[Effect]] = {}
    for number in range(how.repeat):
        rng = np.random.default_rng([how.seed, 3, number])
        for key, effect in _once(world, (control, treatment), how, rng).items():
            effects.setdefault(key, []).append(effect)
    return Repeated(tuple(_line(*key, expected, found, how) for key, found in effects.items()), how)


def _two(arms: Mapping[str, Ranker]) -> tuple[Ranker, Ranker]:
    if len(arms) != 2:
        raise InputError(f"arms = {list(arms)}; give two rankers, the first the control")
    first, second = arms.values()
    return first, second


def _once(
    world: Browsing, chances: tuple[Chances, Chances], how: Repeats, rng: np.random.Generator
) -> dict[tuple[str, Scale, bool], Effect]:
    """One repetition: (metric, scale, adjusted) → effect."""
    treated = round(how.units * how.share)
    who = rng.integers(len(world.users), size=how.units)
    parts = who[treated:], who[:treated]
    lives = [world.live(each.take(rows), rng) for each, rows in zip(chances, parts, strict=True)]
    before = [world.live(chances[0].take(rows), rng) for rows in parts] if how.covariate else [None, None]
    out: dict[tuple[str, Scale, bool], Effect] = {}
    for metric in how.metrics:
        moments = [_moments(metric, life, past) for life, past in zip(lives, before, strict=True)]
        plain = [estimate(m) for m in moments]
        for scale in SCALES:
            out[metric, scale, False] = compare(*plain, scale=scale, level=how.level)
        if how.covariate:
            adjusted = [estimate(m, cuped=cuped_of(Moments.stacked(moments))) for m in moments]
            for scale in SCALES:
                out[metric, scale, True] = compare(*adjusted, scale=scale, level=how.level)
    return out


def _moments(metric: str, life: Totals, past: Totals | None) -> Moments:
    y, d = life.metric(metric)
    return Moments.of(y, d) if past is None else Moments.of(y, d, *past.metric(metric))


def _line(metric: str, scale: Scale, adjusted: bool, expected: list[Totals], found: list[Effect], how: Repeats) -> Line:
    a, b = (float(y.sum() / d.sum()) for y, d in (totals.metric(metric) for totals in expected))
    relative = b / a - 1 if a else float("nan")
    truth = b - a if scale == "absolute" else relative
    value, low, high, p = (
        np.array([float(getattr(each, name)) for each in found]) for name in ("value", "low", "high", "p")
    )
    held = (low <= truth) & (truth <= high)
    error = float(value.std(ddof=1) / np.sqrt(len(value)))
    return Line(
        metric, scale, adjusted, truth, float(value.mean()), error, int(held.sum()), float(held.mean()),
        float((p < 1 - how.level).mean()),
    )  # fmt: skip


# -- rankers of known quality -----------------------------------------------------------------------------------------


def noisy(world: Browsing, noise: float, *, seed: int = 0) -> Ranker:
    """Lists by each user's true preference, ln p(i | u), with noise of this spread on it: the more, the worse.

    The noise of a pair is an inner product of 16 normal numbers each, so that it is the same whoever is asked for.
    """
    if noise < 0:
        raise InputError(f"noise = {noise}; give a spread of 0 or more")
    truth, size = world.generated.truth, world.generated.world
    rng = np.random.default_rng([seed, 4])
    user, item = (rng.standard_normal((n, RANK)) / RANK**0.25 for n in (size.users, size.items))
    places = min(world.habits.places, size.items)

    def rank(users: Longs) -> Longs:
        step = max(1, NUMBERS_PER_CHUNK // size.items)
        lists = [_ranked(users[start : start + step]) for start in range(0, len(users), step)]
        return np.concatenate(lists) if lists else np.zeros((0, places), dtype=np.int64)

    def _ranked(users: Longs) -> Longs:
        score = np.log(truth.taste[users - 1] @ truth.offer) + noise * (user[users - 1] @ item.T)
        return np.argsort(-score, axis=1, kind="stable")[:, :places] + 1

    return rank
