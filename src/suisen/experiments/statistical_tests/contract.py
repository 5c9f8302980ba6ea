"""The contract of a statistical test: what it is given, what it says, and what sizing and reports ask of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np

from suisen.errors import InputError
from suisen.experiments.means import Alternative, Effect, Estimate
from suisen.experiments.moments import Floats, Moments
from suisen.experiments.proportions import Counts
from suisen.experiments.ranks import RankEffect
from suisen.experiments.resampling import Sample

PowerTest = Literal["welch", "student", "z", "proportions"]
"""Formulas that a sample is sized by (``power``)."""
EffectScale = Literal["absolute", "relative"]


@dataclass(frozen=True, kw_only=True)
class Arms:
    """One metric in two arms.  Every pair is (control, treatment); what costs is a function, called where it is needed.

    Vectorised tests are also given many experiments at once: moments, estimates and counts then have the experiments as
    leading axis, (E,), and values have it before the units, (E, n).
    """

    metric: str
    """Its name, for messages."""
    estimates: tuple[Estimate, Estimate]
    """Value and variance of each arm, with the planned adjustments: covariate, strata."""
    adjusted: bool
    """Whether ``estimates`` are."""
    moments: tuple[Moments, Moments]
    """Of the units, without adjustments."""
    counts: Counts | None
    """Successes and units; None where a unit's value is other than 0 or 1."""
    values: Callable[[], tuple[Floats, Floats]]
    """(n,) each: a unit's own value, y or y/d, without adjustments."""
    samples: Callable[[], tuple[Sample, Sample]]
    """The units for resampling, adjusted by the covariate."""
    rare: Callable[[], str] = str
    """A warning where few units of an arm have any event; empty: they are enough."""


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """How two arms are compared, beside the test."""

    level: float = 0.95
    """Of the intervals, which are as one-sided as the alternative."""
    alternative: Alternative = "two-sided"
    resamples: int = 2000
    """Of tests that draw."""
    seed: int = 0
    quantile: float = 0.5
    """Which quantile, where one is compared."""


class Pair(NamedTuple):
    """What a test found."""

    absolute: Effect
    relative: Effect
    p: float | None = None
    """The test's own p, where it is not that of an effect."""
    ranks: RankEffect | None = None

    def on(self, scale: EffectScale) -> Effect:
        """The effect on a scale."""
        return self.relative if scale == "relative" else self.absolute


class StatisticalTest(ABC):
    """One way to judge two arms.

    A test is a class with a name and an ``effect``, and one line in ``TESTS`` (``statistical_tests/__init__.py``).
    Plan, analysis, sizing, page and repetitions find it there, and so does the suite of what every test must do
    (``tests/experiments/statistical_tests/test_contract.py``).
    """

    name: ClassVar[str]
    """In a plan: ``test = "welch"``."""
    words: ClassVar[str]
    """In reports."""
    note: ClassVar[str] = ""
    """What a reader has to know of the numbers, for the report."""
    normal: ClassVar[bool] = False
    """Whether the statistic is normal in large samples, so that looks can be allowed for; else the test is a remedy."""
    own_p: ClassVar[bool] = False
    """Whether the p of the absolute effect decides on either scale."""
    uses_covariate: ClassVar[bool] = True
    uses_strata: ClassVar[bool] = False
    of_shares: ClassVar[bool] = False
    """Whether it is of plain shares of units alone."""
    own_size: ClassVar[bool] = False
    """Whether ``sized_as`` is its own power; else sizing notes that it is Welch's t's."""
    vectorised: ClassVar[bool] = False
    """Whether ``trial`` takes many experiments at once; else repetitions go one by one."""

    @abstractmethod
    def effect(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """The effect with its interval and p: treatment − control, or that as a share of the control's absolute value.

        The interval follows the alternative, and excludes 0 exactly where p <= 1 − level.
        """

    def base(self, arms: Arms, options: ComparisonOptions) -> Estimate:
        """The control's value, of which relative effects are shares."""
        return arms.estimates[0]

    def ranks(self, arms: Arms, options: ComparisonOptions) -> RankEffect | None:
        """What a test of ranks finds; its p then decides."""
        return None

    def refuse(self, arms: Arms, options: ComparisonOptions) -> None:
        """Raises InputError for arms or options that the test is not made for."""
        if self.of_shares and (arms.counts is None or arms.adjusted):
            raise InputError(
                f"metrics.{arms.metric}.test = {self.name!r} is of plain shares of units; use welch for other values "
                "and for covariates"
            )

    def warnings(self, arms: Arms) -> list[str]:
        """Where the theory of the test does not hold for these arms, with the remedy; empty texts count for nothing."""
        return []

    def sized_as(self, *, share: bool) -> PowerTest:
        """The formula that sizes it; ``share``: a unit's value is 0 or 1, and there is no covariate."""
        return "welch"

    def judged(self, arms: Arms, options: ComparisonOptions) -> Pair:
        """Both effects, and what decides.  Raises InputError as ``refuse`` does."""
        self.refuse(arms, options)
        absolute = self.effect(arms, "absolute", options)
        relative = self.effect(arms, "relative", options)
        ranks = self.ranks(arms, options)
        if ranks is not None:
            return Pair(absolute, relative, ranks.p, ranks)
        return Pair(absolute, relative, float(absolute.p) if self.own_p else None)

    def trial(self, arms: Arms, scale: EffectScale, options: ComparisonOptions) -> Effect:
        """What repetitions count: the effect with the p that decides; of ranks, superiority − ½ without an interval."""
        ranks = self.ranks(arms, options)
        if ranks is None:
            return self.effect(arms, scale, options)
        return rank_trial(np.asarray(ranks.superiority), np.asarray(ranks.p))


def rank_trial(superiority: Floats, p: Floats) -> Effect:
    """A test of ranks as repetitions count it."""
    none = np.full(np.shape(p), np.nan)
    return Effect(superiority - 0.5, none, none, none, none, p, none)
