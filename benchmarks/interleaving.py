"""Interleaving beside A/B: how many users either needs to tell two rankers of the browsing world apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from suisen.errors import InputError
from suisen.experiments.interleaving import preference, team_draft
from suisen.experiments.means import compare, estimate
from suisen.experiments.moments import Moments
from suisen.experiments.power import Baseline, Design, sample_size
from suisen.experiments.simulation.world import Browsing, Ranker

Floats = npt.NDArray[np.float64]
Longs = npt.NDArray[np.int64]


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
    lists = [np.asarray(ranker(world.users))[:, : world.habits.places] for ranker in arms.values()]
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
