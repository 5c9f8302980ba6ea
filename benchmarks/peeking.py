"""Repetitions of experiments that are looked at while they run: what each stopping rule does to error and power."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from suisen.experiments.means import Effect, compare, estimate
from suisen.experiments.moments import Moments
from suisen.experiments.power import Probability
from suisen.experiments.sequential import confidence_sequence, spending_bounds
from suisen.experiments.simulation.laws import Floats, Units, law
from suisen.experiments.simulation.simulate import UNITS_PER_CHUNK
from suisen.parameters import parameters

Bools = npt.NDArray[np.bool_]
GROUPS = 5
"""Looks of a group-sequential plan."""


@parameters
class Looks:
    """Experiments with equal arms, looked at evenly."""

    law: str
    last: int = 10_000
    """Units of an arm at the end."""
    looks: int = 100
    lift: float = 0.0
    """True relative effect; 0: A/A."""
    runs: Annotated[int, Field(ge=1)] = 10_000
    alpha: Probability = 0.05
    tunes: tuple[int, ...] = (500, 5_000)
    """always-valid: units of both arms at which the sequence is tightest, one rule each."""
    seed: int = 0

    @model_validator(mode="after")
    def _sound(self) -> Looks:
        law(self.law)
        if self.looks < GROUPS or self.looks % GROUPS or self.last % self.looks or self.last // self.looks < 2:
            raise ValueError(
                f"looks = {self.looks}, last = {self.last}: give a multiple of {GROUPS} looks that divides last into "
                "two or more units each"
            )
        return self


class Stopped(NamedTuple):
    """What a rule did in the runs."""

    rule: str
    runs: int
    rejected: int
    """Runs in which an effect was claimed."""
    units: float
    """Mean number of units of an arm when it stopped."""


Rule = Callable[[Effect, Floats], Bools]
"""Effects (E, looks) and units of both arms (looks,) to whether the rule crosses at each look."""


def watch(looks: Looks) -> list[Stopped]:
    """All rules on the same draws."""
    rules = _rules(looks)
    rejected, units = ({name: 0.0 for name in rules} for _ in range(2))
    step = looks.last // looks.looks
    n = step * np.arange(1, looks.looks + 1, dtype=np.float64)
    size = max(1, UNITS_PER_CHUNK // (2 * looks.last))
    name = zlib.crc32(f"{looks.law} {looks.last} {looks.looks} {looks.lift!r}".encode())
    for block, start in enumerate(range(0, looks.runs, size)):
        rng = np.random.default_rng([looks.seed, name, block])
        shape = (min(size, looks.runs - start), looks.looks, step)
        arms = (estimate(_growing(law(looks.law).draw(rng, shape, lift))) for lift in (0.0, looks.lift))
        effect = compare(*arms, level=1 - looks.alpha)
        for rule, crosses in rules.items():
            crossed = crosses(effect, 2 * n)
            found = crossed.any(1)
            rejected[rule] += float(found.sum())
            units[rule] += float(np.where(found, n[crossed.argmax(1)], n[-1]).sum())
    return [Stopped(rule, looks.runs, int(rejected[rule]), units[rule] / looks.runs) for rule in rules]


def _growing(units: Units) -> Moments:
    """(E, looks) moments of all units up to each look, from (E, looks, step) units."""
    y, d = units.y, units.d
    n = y.shape[-1] * np.arange(1, y.shape[-2] + 1, dtype=np.float64)
    columns = [y] if d is None else [y, d]
    mean = np.zeros((*y.shape[:-1], 4)) + np.array([0.0, 1.0, 0.0, 1.0])
    products = np.zeros((*y.shape[:-1], 4, 4))
    for i, column in enumerate(columns):
        mean[..., i] = column.sum(-1).cumsum(-1) / n
    for i, one in enumerate(columns):
        for j, other in enumerate(columns):
            both = np.einsum("...n,...n->...", one, other).cumsum(-1)
            products[..., i, j] = both - n * mean[..., i] * mean[..., j]
    cubes = np.full((*y.shape[:-1], 4), np.nan)
    return Moments(np.broadcast_to(n, y.shape[:-1]), mean, products, cubes)


def _rules(looks: Looks) -> dict[str, Rule]:
    last = np.arange(1, looks.looks + 1) == looks.looks
    found: dict[str, Rule] = {
        "fixed, at the end": lambda effect, n: (effect.p < looks.alpha) & last,
        "fixed, at every look": lambda effect, n: effect.p < looks.alpha,
    }
    for tune in looks.tunes:
        found[f"always valid, N = {tune}"] = _always_valid(tune, looks.alpha)
    times = [(k + 1) / GROUPS for k in range(GROUPS)]
    at = np.arange(1, GROUPS + 1) * (looks.looks // GROUPS) - 1
    for name, design in (
        ("O'Brien-Fleming, per side", spending_bounds(times, looks.alpha)),
        ("O'Brien-Fleming, two-sided", spending_bounds(times, looks.alpha, convention="two-sided")),
        ("Pocock", spending_bounds(times, looks.alpha, spending="pocock")),
    ):
        bounds = np.full(looks.looks, np.inf)
        bounds[at] = design.bounds
        found[f"{name}, {GROUPS} looks"] = _bounded(bounds)
    return found


def _always_valid(tune: int, alpha: float) -> Rule:
    return lambda effect, n: np.asarray(confidence_sequence(effect, n, alpha=alpha, tune=tune).p <= alpha)


def _bounded(bounds: Floats) -> Rule:
    return lambda effect, n: np.asarray(np.abs(effect.statistic) >= bounds)
