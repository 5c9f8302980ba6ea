"""Repetitions of an experiment in the browsing world: do intervals hold the true effect, what does interleaving save.

Each repetition draws its users from the world with replacement, so that they are a sample of it and the true effect is
the world's; assigns them at random; lets them live; and compares the arms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field
from scipy import stats

from suisen.data.synthetic import NUMBERS_PER_CHUNK
from suisen.errors import InputError, unknown
from suisen.experiments.interleaving import preference, team_draft
from suisen.experiments.means import Effect, Scale, compare, cuped_of, estimate
from suisen.experiments.moments import Moments
from suisen.experiments.power import Baseline, Design, sample_size
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


def popular(world: Browsing) -> Ranker:
    """The same list for everybody: the items that all users together take most."""
    truth = world.generated.truth
    best = np.argsort(-(truth.taste.mean(0) @ truth.offer), kind="stable")[: world.habits.places] + 1
    return lambda users: np.tile(best, (len(users), 1))


# -- interleaving beside A/B ------------------------------------------------------------------------------------------


class Gain(NamedTuple):
    """Users that an A/B test and team-draft interleaving need to tell the same two rankers apart, one visit each."""

    effect: float
    """True relative effect on clicks per visit."""
    ab_units: int
    """Of both arms together, by the formula of Welch's t."""
    interleaved_units: int
    """By the binomial law of the sign test and the shares of wins and ties measured on many visits."""
    times: float
    """How many times fewer users interleaving needs."""
    ab_power: float
    """Share of simulated A/B tests of that size that tell them apart."""
    interleaved_power: float
    """The same for interleaving."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How the two are compared."""

    power: float = 0.8
    alpha: float = 0.05
    pilot: int = 100_000
    """Visits from which wins and ties are measured."""
    runs: int = 400
    """Simulated experiments of either kind, at the sizes found."""
    seed: int = 0


def interleaving_gain(world: Browsing, arms: Mapping[str, Ranker], sizes: Sizes | None = None) -> Gain:
    """How many users either method needs for the same power, by calculation, and the power it has in simulation."""
    how = sizes or Sizes()
    lists = [np.asarray(ranker(world.users))[:, : world.habits.places] for ranker in _two(arms)]
    clicks = [world.chances(_given(each)).click for each in lists]
    means = [float(each.sum(1).mean()) for each in clicks]
    variance = float(np.mean([(each * (1 - each)).sum(1).mean() + each.sum(1).var() for each in clicks]))
    design = Design(alpha=how.alpha, power=how.power)
    ab = int(np.ceil(sample_size(Baseline(means[0], variance), design, effect=means[1] - means[0])))
    rng = np.random.default_rng([how.seed, 5])
    points = _interleaved(world, lists, rng.integers(len(world.users), size=how.pilot), rng)
    wins = [float((points[:, side] > points[:, 1 - side]).mean()) for side in (0, 1)]
    needed = _sign_units(wins, how)
    found = np.zeros(2)
    for _ in range(how.runs):
        who = rng.integers(len(world.users), size=ab)
        arm = [
            (rng.random(each[rows].shape) < each[rows]).sum(1)
            for each, rows in zip(clicks, np.array_split(who, 2), strict=True)
        ]
        effect = compare(*(estimate(Moments.of(each)) for each in arm))
        who = rng.integers(len(world.users), size=needed)
        answer = preference(_interleaved(world, lists, who, rng), level=1 - how.alpha)
        found += [float(effect.p) < how.alpha, answer.p < how.alpha]
    return Gain(means[1] / means[0] - 1, ab, needed, ab / needed, *(float(hits) / how.runs for hits in found))


def _given(lists: Longs) -> Ranker:
    return lambda users: lists[users - 1]


def _interleaved(world: Browsing, lists: list[Longs], who: Longs, rng: np.random.Generator) -> Floats:
    """(visits, 2) points of a visit of each user ``who`` (places from 0)."""
    shown = team_draft(lists[0][who], lists[1][who], seed=rng)
    click = world.chances(lambda users: shown.items, who + 1).click
    return shown.credit(rng.random(click.shape) < click, without_shared=True)


def _sign_units(wins: list[float], how: Sizes) -> int:
    """The least number of users for which the sign test has the power, ties included."""
    decided, share = sum(wins), wins[1] / sum(wins)
    if share == 0.5:
        raise InputError("the two rankers win equally often; no number of users tells them apart")
    low, high = 4, 8
    while _sign_power(high, share, how.alpha) < how.power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _sign_power(middle, share, how.alpha) < how.power else (low, middle)
    return int(np.ceil(high / decided))


def _sign_power(n: int, share: float, alpha: float) -> float:
    """Of the two-sided sign test of ``n`` decided users."""
    edge = int(stats.binom(n, 0.5).ppf(alpha / 2)) - 1  # P(X <= edge) <= alpha / 2
    return float(stats.binom(n, share).cdf(edge) + stats.binom(n, share).sf(n - edge - 1))
