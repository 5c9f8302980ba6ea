"""Repetitions of an experiment in the statistical world: false alarms, coverage and power of every test.

A cell is one law, size and split; its experiments are drawn and judged together, in blocks.  With lift 0 both arms
follow one law (A/A): the share of p < alpha is the rate of false alarms, to be judged against a band that holds for all
rows of a table at once.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

from suisen.errors import InputError, unknown
from suisen.experiments.means import (
    Effect,
    MeanTest,
    Scale,
    compare,
    cuped_of,
    estimate,
    share_warning,
    shares_of,
    tail_warning,
)
from suisen.experiments.moments import Moments
from suisen.experiments.proportions import Counts, chi_square, few_warning, fisher, z_test
from suisen.experiments.ranks import mann_whitney_p
from suisen.experiments.resampling import Sample, bootstrap, permutation
from suisen.experiments.simulation.laws import Floats, Law, Units, law

Codes = npt.NDArray[np.int64]
AT_ONCE = 2**21
"""Units of both arms held at once: 16 MiB a column."""
WARNINGS = 200
"""Experiments of a cell for which the warning is asked for."""
TAIL = 0.99
"""Quantile of winsorising."""
STRATA = (-0.6745, 0.0, 0.6745)
"""Edges of the strata of the covariate: quartiles of the normal law."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Experiments of one kind."""

    law: str
    n: int = 2_000
    """Half of the units: both arms have 2n together."""
    share: float = 0.5
    """Of the units, how many the treatment gets."""
    lift: float = 0.0
    """True relative effect; 0: A/A."""
    runs: int = 10_000
    alpha: float = 0.05
    resamples: int = 499
    seed: int = 0

    def __post_init__(self) -> None:
        law(self.law)
        for name, least in (("n", 2), ("runs", 1), ("resamples", 99)):
            if getattr(self, name) < least:
                raise InputError(f"{name} = {getattr(self, name)}; give at least {least}")
        for name in ("share", "alpha"):
            if not 0 < getattr(self, name) < 1:
                raise InputError(f"{name} = {getattr(self, name)!r}; give a number between 0 and 1")
        if min(self.sizes) < 2:
            raise InputError(
                f"share = {self.share} leaves an arm with {min(self.sizes)} of {2 * self.n} units; give it 2"
            )

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
class Arms:
    """The units of E experiments, (E, n) an arm."""

    control: Units
    treatment: Units

    @cached_property
    def moments(self) -> tuple[Moments, Moments]:
        """Of each arm, (E,)."""
        return _moments(self.control), _moments(self.treatment)


@dataclass(frozen=True)
class Trial:
    """A test as it is tried out."""

    judge: Callable[[Arms, Cell], Effect]
    """The experiments, each as a row, to their effects, (E,)."""
    warn: Callable[[Arms, int], list[bool]] | None = None
    """Whether the analysis would warn, of so many experiments; None: it has nothing to warn of."""
    scale: Literal["absolute", "relative", "own"] | None = "absolute"
    """Of the interval; own: another effect than the metric's, whose truth is known for A/A alone; None: none."""
    change: Callable[[Arms], Arms] | None = None
    """What is done to the units' values before."""


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


# -- the tests --------------------------------------------------------------------------------------------------------


def _moments(units: Units) -> Moments:
    return Moments.of(units.y, units.d, units.x)


def _t(arms: Arms, cell: Cell, *, test: MeanTest = "welch", scale: Scale = "absolute") -> Effect:
    control, treatment = (estimate(m) for m in arms.moments)
    return compare(control, treatment, test=test, scale=scale, level=1 - cell.alpha)


def _logs(arms: Arms) -> Arms:
    return Arms(*(Units(np.log1p(units.y)) for units in (arms.control, arms.treatment)))


def _capped(arms: Arms) -> Arms:
    """Winsorised at the quantile of both arms together, experiment by experiment."""
    both = np.concatenate([arms.control.y, arms.treatment.y], axis=-1)
    cap = np.quantile(both, TAIL, axis=-1)[..., None]
    return Arms(*(Units(np.minimum(units.y, cap)) for units in (arms.control, arms.treatment)))


def _counts(arms: Arms) -> Counts:
    (a, n_a), (b, n_b) = (_sums(units) for units in (arms.control, arms.treatment))
    return Counts.of(a, n_a, b, n_b)


def _sums(units: Units) -> tuple[Floats, Floats]:
    total = units.y.sum(-1)
    return total, np.full(total.shape, float(units.y.shape[-1])) if units.d is None else units.d.sum(-1)


def _z(arms: Arms, cell: Cell) -> Effect:
    """For a ratio: of impressions as if they were independent, which they are not."""
    return z_test(_counts(arms), level=1 - cell.alpha)


def _chi_square(arms: Arms, cell: Cell) -> Effect:
    return _z(arms, cell)._replace(p=chi_square(_counts(arms)).p)


def _fisher(arms: Arms, cell: Cell) -> Effect:
    return _z(arms, cell)._replace(p=fisher(_counts(arms)))


def _ranks(arms: Arms, cell: Cell) -> Effect:
    a, b = arms.control.value(), arms.treatment.value()
    u, p = mann_whitney_p(a, b)
    value = u / (a.shape[-1] * b.shape[-1]) - 0.5
    none = np.full(value.shape, np.nan)
    return Effect(value, none, none, none, none, p, none)


def _cuped(arms: Arms, cell: Cell) -> Effect:
    both = _stacked(arms.moments)
    found = cuped_of(both)
    control, treatment = (estimate(m, cuped=found) for m in arms.moments)
    return compare(control, treatment, level=1 - cell.alpha)


def _stratified(arms: Arms, cell: Cell) -> Effect:
    """Post-stratified by quartiles of the covariate."""
    sides = arms.control, arms.treatment
    a, b = (_by_stratum(units, code) for units, code in zip(sides, _strata(*sides), strict=True))
    shares = shares_of(_stacked((a, b), axis=-2))
    return compare(estimate(a, shares=shares), estimate(b, shares=shares), level=1 - cell.alpha)


def _stacked(arms: tuple[Moments, Moments], axis: int = -1) -> Moments:
    """With the arms as a leading axis: the last one, or the one before the strata."""
    a, b = arms
    place = a.n.ndim + 1 + axis
    return Moments(*(np.stack([x, y], place) for x, y in zip(_parts(a), _parts(b), strict=True)))


def _parts(m: Moments) -> tuple[Floats, Floats, Floats, Floats]:
    return m.n, m.mean, m.products, m.cubes


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


def _resampled(judge: Callable[..., Effect], arms: Arms, cell: Cell) -> Effect:
    """Experiment by experiment: a resampling test looks at every unit."""
    rows = []
    for run in range(len(arms.control.y)):
        sides = [
            Sample.of(units.y[run], None if units.d is None else units.d[run])
            for units in (arms.control, arms.treatment)
        ]
        rows.append(judge(*sides, level=1 - cell.alpha, resamples=cell.resamples, seed=run))
    return Effect(*(np.array([float(value) for value in column]) for column in zip(*rows, strict=True)))


def _tail(arms: Arms, most: int, *, resampled: bool = False) -> list[bool]:
    control, treatment = arms.moments
    return [
        bool(tail_warning(control[run], treatment[run], resampled=resampled))
        for run in range(min(most, len(control.n)))
    ]


def _shares(arms: Arms, most: int) -> list[bool]:
    """Of relative effects: the tail, or a control that is not clear of 0."""
    control = arms.moments[0]
    doubted = (bool(share_warning(estimate(control[run]))) for run in range(min(most, len(control.n))))
    return [tail or doubt for tail, doubt in zip(_tail(arms, most), doubted, strict=True)]


def _few(arms: Arms, most: int) -> list[bool]:
    found = _counts(arms)
    return [bool(few_warning(Counts(*(part[run] for part in found)))) for run in range(min(most, len(found.control)))]


RESAMPLING = {
    "bootstrap-t": Trial(partial(_resampled, partial(bootstrap, method="t")), partial(_tail, resampled=True)),
    "bootstrap-bca": Trial(partial(_resampled, partial(bootstrap, method="bca")), partial(_tail, resampled=True)),
    "permutation": Trial(partial(_resampled, permutation)),
}
"""Tests that go experiment by experiment."""
TESTS: Mapping[str, Trial] = {
    "welch": Trial(_t, _tail),
    "student": Trial(partial(_t, test="student"), _tail),
    "welch, relative": Trial(partial(_t, scale="relative"), _shares, "relative"),
    "delta": Trial(_t, _tail),
    "delta, relative": Trial(partial(_t, scale="relative"), _shares, "relative"),
    "z of impressions": Trial(_z),
    "z": Trial(_z, _few),
    "chi-square": Trial(_chi_square, _few, None),
    "fisher": Trial(_fisher, None, None),
    "mann-whitney": Trial(_ranks, None, None),
    "winsorised": Trial(_t, _tail, "own", _capped),
    "log": Trial(_t, _tail, "own", _logs),
    "cuped": Trial(_cuped, _tail),
    "post-stratified": Trial(_stratified, _tail),
    **RESAMPLING,
}
FAST: Mapping[str, tuple[str, ...]] = {
    "share": ("z", "chi-square", "fisher", "welch"),
    "ratio": ("delta", "delta, relative", "z of impressions", "mann-whitney"),
    "mean": ("welch", "student", "welch, relative", "winsorised", "log", "mann-whitney"),
    "covariate": ("welch", "cuped", "post-stratified"),
}
"""Tests that are vectorised over experiments, by what they are for."""


def fitting(name: str) -> tuple[str, ...]:
    """The vectorised tests that fit a law."""
    found = law(name)
    return FAST["covariate" if found.name.startswith("before") else found.kind]


# -- the runs ---------------------------------------------------------------------------------------------------------


def run(cell: Cell, tests: Sequence[str] = ()) -> list[Tally]:
    """The cell's experiments, judged by each test on the same draws; without ``tests`` by all fast ones that fit."""
    names = tuple(tests) or fitting(cell.law)
    for name in names:
        if name not in TESTS:
            raise unknown("test", name, TESTS)
    counts = {name: np.zeros(3, dtype=np.int64) for name in names}
    warned: dict[str, list[bool]] = {name: [] for name in names}
    for arms in blocks(cell):
        for name in names:
            test = TESTS[name]
            seen = arms if test.change is None else test.change(arms)
            effect = test.judge(seen, cell)
            hit, truth = effect.p < cell.alpha, _truth(cell, test)
            held = (effect.low <= truth) & (truth <= effect.high)
            counts[name] += [hit.sum(), (hit & (effect.value < 0)).sum(), held.sum()]
            if test.warn is not None and len(warned[name]) < WARNINGS:
                warned[name] += test.warn(seen, WARNINGS - len(warned[name]))
    return [_tally(cell, name, counts[name], warned[name]) for name in names]


def _tally(cell: Cell, name: str, counts: npt.NDArray[np.int64], warned: list[bool]) -> Tally:
    rejected, below, held = (int(count) for count in counts)
    covered = None if np.isnan(_truth(cell, TESTS[name])) else held
    return Tally(name, cell.runs, rejected, below, covered, float(np.mean(warned)) if warned else None)


def blocks(cell: Cell) -> Iterator[Arms]:
    """The experiments of a cell, as many at a time as memory should hold."""
    found: Law = law(cell.law)
    size = max(1, AT_ONCE // (2 * cell.n))
    control, treated = cell.sizes
    for block, start in enumerate(range(0, cell.runs, size)):
        count, rng = min(size, cell.runs - start), cell.generator(block)
        yield Arms(found.draw(rng, (count, control), 0.0), found.draw(rng, (count, treated), cell.lift))


def _truth(cell: Cell, test: Trial) -> float:
    if test.scale is None or (test.scale == "own" and cell.lift != 0):
        return float("nan")
    control, treatment = (law(cell.law).value(lift) for lift in (0.0, cell.lift))
    return treatment / control - 1 if test.scale == "relative" else treatment - control


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


def variance_ratio(rho: float, *, n: int = 1_000, runs: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """CUPED's estimated variance over the plain one's, mean over the runs, and 1 − ρ² (Deng and others 2013)."""
    from suisen.experiments.simulation.laws import correlated

    cell = Cell(law="before", n=n, runs=runs, seed=seed)
    found, ratios = correlated(rho), []
    size = max(1, AT_ONCE // (2 * n))
    for block, start in enumerate(range(0, runs, size)):
        rng, shape = cell.generator(block), (min(size, runs - start), n)
        arms = Arms(found.draw(rng, shape, 0.0), found.draw(rng, shape, 0.0))
        ratios.append((_cuped(arms, cell).se / _t(arms, cell).se) ** 2)
    return float(np.concatenate(ratios).mean()), 1 - rho**2


def mismatches(
    units: int,
    planned: npt.ArrayLike,
    true: npt.ArrayLike,
    *,
    threshold: float = 0.001,
    runs: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """How often the sample-ratio test at ``threshold`` speaks when arms are filled with the ``true`` shares, and how
    often it must by the noncentral chi-square law.
    """
    from suisen.experiments.srm import ratio_p

    plan, real = (np.asarray(each, dtype=np.float64) / np.sum(each) for each in (planned, true))
    counts = np.random.default_rng([seed, units]).multinomial(units, real, size=runs)
    _, p = ratio_p(counts, plan)
    shift = units * float(((real - plan) ** 2 / plan).sum())
    edge = stats.chi2(plan.size - 1).isf(threshold)
    return float((p < threshold).mean()), float(stats.ncx2(plan.size - 1, shift).sf(edge) if shift else threshold)
