"""Interleaving needs fewer users than A/B; the sign test's power is the binomial's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "benchmarks")]

from interleaving import Gain, Sizes, _sign_power, _sign_units, interleaving_gain  # noqa: E402

from suisen.data.synthetic import World  # noqa: E402
from suisen.errors import InputError  # noqa: E402
from suisen.experiments.simulation.repeats import noisy  # noqa: E402
from suisen.experiments.simulation.world import Browsing  # noqa: E402


@pytest.fixture(scope="module")
def world():
    return Browsing.of(World(users=1_500, items=80, groups=4, seed=2).generate(), places=6, days=8, temper=1.0)


@pytest.fixture(scope="module")
def arms(world):
    return {"rough": noisy(world, 1.0), "fine": noisy(world, 0.3)}


def test_interleaving_needs_fewer_users(world, arms):
    found = interleaving_gain(world, arms, Sizes(pilot=20_000, runs=60))
    assert isinstance(found, Gain)
    assert found.times > 2
    assert found.effect > 0
    assert min(found.ab_power, found.interleaved_power) > 0.6  # 0.8 is meant; 60 runs


def test_sign_test_power_is_the_binomials():
    rng = np.random.default_rng(0)
    wins = rng.binomial(60, 0.65, size=20_000)
    p = np.array([scipy_stats.binomtest(k, 60).pvalue for k in range(61)])
    assert _sign_power(60, 0.65, 0.05) == pytest.approx((p[wins] < 0.05).mean(), abs=0.015)
    n = _sign_units([0.2, 0.3], Sizes())
    assert _sign_power(round(n / 2), 0.6, 0.05) == pytest.approx(0.8, abs=0.03)


def test_rankers_that_win_equally_often_are_not_told_apart():
    with pytest.raises(InputError, match="win equally often"):
        _sign_units([0.2, 0.2], Sizes())
