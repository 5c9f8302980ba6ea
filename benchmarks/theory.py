"""Simulations beside theory: the variance that CUPED leaves, the power of the sample-ratio test."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import stats

from suisen.experiments.simulation.laws import correlated
from suisen.experiments.simulation.simulate import TRIALS, UNITS_PER_CHUNK, Cell, Experiments
from suisen.experiments.srm import ratio_p


def variance_ratio(rho: float, *, n: int = 1_000, runs: int = 2_000, seed: int = 0) -> tuple[float, float]:
    """CUPED's estimated variance over the plain one's, mean over the runs, and 1 − ρ² (Deng and others 2013)."""
    cuped, plain = TRIALS["cuped"], TRIALS["welch"]
    cell = Cell(law="before", n=n, runs=runs, seed=seed)
    found, ratios = correlated(rho), []
    size = max(1, UNITS_PER_CHUNK // (2 * n))
    for block, start in enumerate(range(0, runs, size)):
        rng, shape = cell.generator(block), (min(size, runs - start), n)
        arms = Experiments(found.draw(rng, shape, 0.0), found.draw(rng, shape, 0.0))
        ratios.append((cuped.judge(cuped.change(arms), cell).se / plain.judge(arms, cell).se) ** 2)
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
    plan, real = (np.asarray(each, dtype=np.float64) / np.sum(each) for each in (planned, true))
    counts = np.random.default_rng([seed, units]).multinomial(units, real, size=runs)
    _, p = ratio_p(counts, plan)
    shift = units * float(((real - plan) ** 2 / plan).sum())
    edge = stats.chi2(plan.size - 1).isf(threshold)
    return float((p < threshold).mean()), float(stats.ncx2(plan.size - 1, shift).sf(edge) if shift else threshold)
