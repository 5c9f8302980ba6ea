"""Repetitions of an experiment in the statistical world: false alarms, coverage and power of every test.

A cell is one law, size and split; its experiments are drawn and judged together, in blocks.  With lift 0 both arms
follow one law (A/A): the share of p < alpha is the rate of false alarms, to be judged against a band that holds for all
rows of a table at once.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator
from scipy import stats

from suisen.errors import InputError, unknown
from suisen.experiments.means import Effect, Estimate, cuped_of, estimate, share_warning, shares_of
from suisen.experiments.moments import Moments
from suisen.experiments.power import Probability
from suisen.experiments.proportions import Counts
from suisen.experiments.resampling import Sample
from suisen.experiments.simulation.laws import Floats, Law, Units, law
from suisen.experiments.statistical_tests import TESTS, Arms, ComparisonOptions, EffectScale, StatisticalTest
from suisen.parameters import parameters

Codes = npt.NDArray[np.int64]
UNITS_PER_CHUNK = 2**21
"""Units of both arms held at once: 16 MiB per column."""
WARNINGS = 200
"""Experiments of a cell for which the warning is asked for."""
TAIL = 0.99
"""Quantile of winsorising."""
STRATA = (-0.6745, 0.0, 0.6745)
"""Edges of the strata of the covariate: quartiles of the normal law."""


@parameters
class Cell:
    """Experiments that are alike."""

    law: str
    n: Annotated[int, Field(ge=2)] = 2_000
    """Half of the units: both arms have 2n together."""
    share: Probability = 0.5
    """Of the units, how many the treatment gets."""
    lift: float = 0.0
    """True relative effect; 0: A/A."""
    runs: Annotated[int, Field(ge=1)] = 10_000
    alpha: Probability = 0.05
    resamples: Annotated[int, Field(ge=99)] = 499
    seed: int = 0

    @model_validator(mode="after")
    def _sound(self) -> "Cell":
        law(self.law)
        if min(self.sizes) < 2:
            raise ValueError(
                f"share = {self.share} leaves an arm with {min(self.sizes)} of {2 * self.n} units; give it 2"
            )
        return self

    @property
    def sizes(self) -> tuple[int, int]:
        """Units of control and treatment."""
        treated = round(2 * self.n * self.share)
        return 2 * self.n - treated, treated

    def generator(self, block: int) -> np.random.Generator:
        """Of one block: another for every law, size, split and lift."""
        name = zlib.crc32(f"{self.law} {self.sizes} {self.lift!r}".encode())
        return np.random.default_rng([self.seed, name, block])


@dataclass(frozen=True, eq=False)
class Experiments:
    """The units of E experiments, (E, n) per arm."""

    control: Units
    treatment: Units
    counts: Counts | None = None
    """Successes and trials, where a test is to know of them."""
    given: tuple[Estimate, Estimate] | None = None
    """Estimates that are adjusted; None: the plain ones."""

    @cached_property
    def moments(self) -> tuple[Moments, Moments]:
        """Of each arm, (E,)."""
        control, treatment = (Moments.of(units.y, units.d, units.x) for units in (self.control, self.treatment))
        return control, treatment

    def arms(self) -> Arms:
        """All of them as a test is given them; ``samples`` are those of one experiment."""
        control, treatment = self.moments
        return Arms(
            metric="m",
            estimates=self.given or (estimate(control), estimate(treatment)),
            adjusted=self.given is not None,
            moments=self.moments,
            counts=self.counts,
            values=lambda: (self.control.value(), self.treatment.value()),
            samples=lambda: (Sample.of(self.control.y, self.control.d), Sample.of(self.treatment.y, self.treatment.d)),
        )

    def __len__(self) -> int:
        return len(self.control.y)

    def one(self, row: int) -> "Experiments":
        """One of the experiments, (n,) per arm."""
        counts = None if self.counts is None else Counts(*(part[row] for part in self.counts))
        given = None
        if self.given is not None:
            control, treatment = (Estimate(*(part[row] for part in each)) for each in self.given)
            given = control, treatment
        return Experiments(_row(self.control, row), _row(self.treatment, row), counts, given)


def _row(units: Units, row: int) -> Units:
    d = None if units.d is None else units.d[row]
    x = None if units.x is None else units.x[row]
    return Units(units.y[row], d, x)


@dataclass(frozen=True)
class Trial:
    """A test as it is tried out."""

    test: StatisticalTest
    warns: bool = False
    """Whether the analysis may warn of it."""
    scale: Literal["absolute", "relative", "own"] | None = "absolute"
    """Of the interval; own: another effect than the metric's, whose truth is known for A/A alone; None: none."""
    change: Callable[[Experiments], Experiments] | None = None
    """What is done before: to the units' values, or to the estimates."""

    def judge(self, arms: Experiments, cell: Cell) -> Effect:
        """The experiments, changed already, each as a row, to their effects, (E,)."""
        scale: EffectScale = "relative" if self.scale == "relative" else "absolute"
        options = ComparisonOptions(level=1 - cell.alpha, resamples=cell.resamples)
        if self.test.vectorised:
            return self.test.trial(arms.arms(), scale, options)
        rows = [self.test.trial(arms.one(run).arms(), scale, replace(options, seed=run)) for run in range(len(arms))]
        return Effect(*(np.array([float(value) for value in column]) for column in zip(*rows, strict=True)))

    def warned(self, arms: Experiments, most: int) -> list[bool]:
        """Whether the analysis would warn, of so many experiments."""
        return [self._doubted(arms.one(run).arms()) for run in range(min(most, len(arms)))]

    def _doubted(self, arms: Arms) -> bool:
        share = share_warning(arms.estimates[0]) if self.scale == "relative" else ""
        return any(self.test.warnings(arms)) or bool(share)


class Tally(NamedTuple):
    """What a test said in the runs of a cell."""

    test: str
    runs: int
    rejected: int
    """p < alpha."""
    below: int
    """Of these, with the treatment below the control."""
    covered: int | None
    """Intervals that hold the true effect; None where the test has none, or its effect is another than the metric's."""
    warned: float | None
    """Share of the experiments in which the analysis would warn of the test (of those asked); None: it never does."""


# -- what is done before -----------------------------------------------------------------------------------------------


def _logs(arms: Experiments) -> Experiments:
    return Experiments(Units(np.log1p(arms.control.y)), Units(np.log1p(arms.treatment.y)))


def _capped(arms: Experiments) -> Experiments:
    """Winsorised at the quantile of both arms' values other than 0 together, experiment by experiment, as plans do."""
    both = np.concatenate([arms.control.y, arms.treatment.y], axis=-1)
    cap = np.nanquantile(np.where(both == 0, np.nan, both), TAIL, axis=-1)[..., None]
    return Experiments(Units(np.minimum(arms.control.y, cap)), Units(np.minimum(arms.treatment.y, cap)))


def _counted(arms: Experiments) -> Experiments:
    """As shares; for a ratio of impressions as if they were independent, which they are not."""
    (a, n_a), (b, n_b) = (_sums(units) for units in (arms.control, arms.treatment))
    return replace(arms, counts=Counts.of(a, n_a, b, n_b))


def _sums(units: Units) -> tuple[Floats, Floats]:
    total = units.y.sum(-1)
    return total, np.full(total.shape, float(units.y.shape[-1])) if units.d is None else units.d.sum(-1)


def _cuped(arms: Experiments) -> Experiments:
    found = cuped_of(Moments.stacked(arms.moments))
    control, treatment = (estimate(m, cuped=found) for m in arms.moments)
    return replace(arms, given=(control, treatment))


def _stratified(arms: Experiments) -> Experiments:
    """Post-stratified by quartiles of the covariate."""
    sides = arms.control, arms.treatment
    a, b = (_by_stratum(units, code) for units, code in zip(sides, _strata(*sides), strict=True))
    shares = shares_of(Moments.stacked([a, b], axis=-2))
    return replace(arms, given=(estimate(a, shares=shares), estimate(b, shares=shares)))


def _strata(control: Units, treatment: Units) -> tuple[Codes, Codes]:
    """(E, n) strata of the units of both arms; one in which an arm has fewer than two joins the largest."""
    if control.x is None or treatment.x is None:
        raise InputError("post-stratification needs a covariate; use a law that has one")
    size = len(STRATA) + 1
    codes = [np.searchsorted(STRATA, x) for x in (control.x, treatment.x)]
    counts = np.stack([[(code == h).sum(-1) for h in range(size)] for code in codes])  # (arms, strata, E)
    largest = counts.sum(0).argmax(0)[:, None]
    joined = np.where((counts < 2).any(0).T, largest, np.arange(size))  # (E, strata)
    first, second = (np.take_along_axis(joined, code, axis=1) for code in codes)
    return first, second


def _by_stratum(units: Units, code: Codes) -> Moments:
    """(E, strata) moments of y."""
    n, mean = (np.zeros((*units.y.shape[:-1], len(STRATA) + 1)) for _ in range(2))
    products, cubes = np.zeros((*n.shape, 4, 4)), np.zeros((*n.shape, 4))
    for h in range(len(STRATA) + 1):
        inside = code == h
        n[..., h] = inside.sum(-1)
        mean[..., h] = (units.y * inside).sum(-1) / np.maximum(n[..., h], 1)
        gap = (units.y - mean[..., h, None]) * inside
        products[..., h, 0, 0], cubes[..., h, 0] = (gap**2).sum(-1), (gap**3).sum(-1)
    one = np.ones_like(n)
    return Moments(n, np.stack([mean, one, 0 * one, one], -1), products, cubes)


WELCH = TESTS["welch"]
RESAMPLING = ("bootstrap-t", "bootstrap-bca", "permutation")
"""Tests that go experiment by experiment."""
TRIALS: Mapping[str, Trial] = {
    "welch": Trial(WELCH, warns=True),
    "student": Trial(TESTS["student"], warns=True),
    "welch, relative": Trial(WELCH, warns=True, scale="relative"),
    "delta": Trial(WELCH, warns=True),
    "delta, relative": Trial(WELCH, warns=True, scale="relative"),
    "z of impressions": Trial(TESTS["z"], change=_counted),
    "z": Trial(TESTS["z"], warns=True, change=_counted),
    "chi-square": Trial(TESTS["chi2"], warns=True, scale=None, change=_counted),
    "fisher": Trial(TESTS["fisher"], scale=None, change=_counted),
    "mann-whitney": Trial(TESTS["mann-whitney"], scale=None),
    "winsorised": Trial(WELCH, warns=True, scale="own", change=_capped),
    "log": Trial(WELCH, warns=True, scale="own", change=_logs),
    "cuped": Trial(WELCH, warns=True, change=_cuped),
    "post-stratified": Trial(WELCH, warns=True, change=_stratified),
    **{name: Trial(TESTS[name], warns=name.startswith("bootstrap")) for name in RESAMPLING},
}
"""Tests and what may be done before them, by the names of the tables; every other test goes by its own name."""
FAST: Mapping[str, tuple[str, ...]] = {
    "share": ("z", "chi-square", "fisher", "welch"),
    "ratio": ("delta", "delta, relative", "z of impressions", "mann-whitney"),
    "mean": ("welch", "student", "welch, relative", "winsorised", "log", "mann-whitney"),
    "covariate": ("welch", "cuped", "post-stratified"),
}
"""Trials that are vectorised over experiments, by what they are for."""


def trial(name: str) -> Trial:
    """A row of ``TRIALS``, or a test of ``TESTS`` as it is.  Raises InputError for a name that neither has."""
    if name in TRIALS:
        return TRIALS[name]
    if name not in TESTS:
        raise unknown("test", name, [*TRIALS, *TESTS])
    return Trial(TESTS[name], change=_counted if TESTS[name].of_shares else None)


def fitting(name: str) -> tuple[str, ...]:
    """The vectorised tests that fit a law."""
    found = law(name)
    return FAST["covariate" if found.name.startswith("before") else found.family]


# -- the runs ---------------------------------------------------------------------------------------------------------


def run(cell: Cell, tests: Sequence[str] = ()) -> list[Tally]:
    """The cell's experiments, judged by each test on the same draws; without ``tests`` by all fast ones that fit."""
    trials = {name: trial(name) for name in tuple(tests) or fitting(cell.law)}
    counts = {name: np.zeros(3, dtype=np.int64) for name in trials}
    warned: dict[str, list[bool]] = {name: [] for name in trials}
    for arms in blocks(cell):
        for name, each in trials.items():
            seen = arms if each.change is None else each.change(arms)
            effect = each.judge(seen, cell)
            hit, truth = effect.p < cell.alpha, _truth(cell, each)
            held = (effect.low <= truth) & (truth <= effect.high)
            counts[name] += [hit.sum(), (hit & (effect.value < 0)).sum(), held.sum()]
            if each.warns and len(warned[name]) < WARNINGS:
                warned[name] += each.warned(seen, WARNINGS - len(warned[name]))
    return [_tally(cell, name, counts[name], warned[name]) for name in trials]


def _tally(cell: Cell, name: str, counts: npt.NDArray[np.int64], warned: list[bool]) -> Tally:
    rejected, below, held = (int(count) for count in counts)
    covered = None if np.isnan(_truth(cell, trial(name))) else held
    return Tally(name, cell.runs, rejected, below, covered, float(np.mean(warned)) if warned else None)


def blocks(cell: Cell) -> Iterator[Experiments]:
    """The experiments of a cell, as many at a time as memory should hold."""
    found: Law = law(cell.law)
    size = max(1, UNITS_PER_CHUNK // (2 * cell.n))
    control, treated = cell.sizes
    for block, start in enumerate(range(0, cell.runs, size)):
        count, rng = min(size, cell.runs - start), cell.generator(block)
        yield Experiments(found.draw(rng, (count, control), 0.0), found.draw(rng, (count, treated), cell.lift))


def _truth(cell: Cell, of: Trial) -> float:
    if of.scale is None or (of.scale == "own" and cell.lift != 0):
        return float("nan")
    control, treatment = (law(cell.law).value(lift) for lift in (0.0, cell.lift))
    return treatment / control - 1 if of.scale == "relative" else treatment - control


# -- what is judged against -------------------------------------------------------------------------------------------


def band(rate: float, runs: int, rows: int = 1, level: float = 0.99) -> tuple[float, float]:
    """The shares of ``runs`` that a true ``rate`` leaves with probability 1 − level at the most, in any of ``rows``
    rows (Bonferroni): exact, from the binomial law.

    >>> band(0.05, 10_000)
    (0.0445, 0.0557)
    """
    tail = (1 - level) / rows / 2
    law_of = stats.binom(runs, rate)
    return float(law_of.ppf(tail)) / runs, float(law_of.isf(tail)) / runs
