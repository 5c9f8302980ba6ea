"""CUPED leaves 1 − ρ² of the variance; the sample-ratio test speaks as often as its noncentral law says."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "benchmarks")]

from theory import mismatches, variance_ratio  # noqa: E402

from suisen.experiments.simulation.simulate import band  # noqa: E402


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_cuped_takes_rho_squared_of_the_variance(rho):
    found, theory = variance_ratio(rho, n=500, runs=200)
    assert theory == pytest.approx(1 - rho**2)
    assert found == pytest.approx(theory, rel=0.02)


def test_the_sample_ratio_test_finds_what_it_must():
    found, theory = mismatches(20_000, [1, 1], [0.513, 0.487], runs=4000)
    assert 0.5 < theory < 0.8
    assert abs(found - theory) <= 4.5 * np.sqrt(theory * (1 - theory) / 4000)
    found, theory = mismatches(20_000, [0.5, 0.3, 0.2], [5, 3, 2], runs=4000)
    assert theory == 0.001
    assert found <= band(0.001, 4000)[1]
