"""Stopping rules: each is itself on one experiment's own looks; the errors of the reference tables are found again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "benchmarks")]

from peeking import Looks, _growing, watch  # noqa: E402

from suisen.errors import InputError  # noqa: E402
from suisen.experiments.means import estimate  # noqa: E402
from suisen.experiments.moments import Moments  # noqa: E402
from suisen.experiments.simulation.laws import law  # noqa: E402
from suisen.experiments.simulation.simulate import band  # noqa: E402


@pytest.mark.parametrize("name", ["ctr", "lognormal-1"])
def test_moments_grow_as_the_units_come(name):
    units = law(name).draw(np.random.default_rng(0), (2, 4, 5), 0.0)
    grown = estimate(_growing(units))
    for run in range(2):
        for look in range(4):
            part = [column[run, : look + 1].ravel() for column in units[:2] if column is not None]
            slow = estimate(Moments.of(*part))
            assert float(grown.value[run, look]) == pytest.approx(float(slow.value))
            assert float(grown.var[run, look]) == pytest.approx(float(slow.var), rel=1e-9)


def test_peeking_errs_as_often_as_it_is_known_to():
    found = {stopped.rule: stopped for stopped in watch(Looks(law="lognormal-1", last=5_000, runs=1000))}
    rate = {rule: stopped.rejected / stopped.runs for rule, stopped in found.items()}
    assert 0.3 < rate["fixed, at every look"] < 0.45
    low, high = band(0.05, 1000, rows=4)
    for rule in (
        "fixed, at the end",
        "O'Brien-Fleming, per side, 5 looks",
        "O'Brien-Fleming, two-sided, 5 looks",
        "Pocock, 5 looks",
    ):
        assert low <= rate[rule] <= high, rule
    for tune in (500, 5000):
        assert rate[f"always valid, N = {tune}"] <= high
    assert found["fixed, at the end"].units == 5_000
    assert found["fixed, at every look"].units < 4_500


def test_looking_early_costs_power_and_saves_units():
    found = {stopped.rule: stopped for stopped in watch(Looks(law="before", last=1_000, lift=0.125, runs=600))}
    fixed, group, valid = (
        found[rule] for rule in ("fixed, at the end", "O'Brien-Fleming, per side, 5 looks", "always valid, N = 500")
    )
    power = scipy_stats.norm.sf(1.96 - 0.125 * np.sqrt(500))
    assert abs(fixed.rejected / 600 - power) <= 4.5 * np.sqrt(power * (1 - power) / 600)
    assert valid.rejected < group.rejected <= fixed.rejected + 10
    assert max(valid.units, group.units) < fixed.units


def test_same_seed_same_answer():
    one, two, other = (watch(Looks(law="counts", last=100, looks=10, runs=50, seed=seed)) for seed in (0, 0, 1))
    assert one == two != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"looks": 7}, "give a multiple of 5 looks that divides last"),
        ({"last": 101}, "looks = 100, last = 101"),
        ({"last": 100}, "two or more units"),
        ({"runs": 0}, "runs = 0"),
        ({"law": "ctrs"}, "did you mean 'ctr'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        Looks(**{"law": "ctr", **options})
