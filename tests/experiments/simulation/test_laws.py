"""Laws: the truth they claim is the mean of what they draw, lifted or not; populations are the laws they stand for."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.simulation.laws import BUYERS, LAWS, POPULATION, _population, correlated, law


@pytest.mark.parametrize("name", [*LAWS, "before-0.4"])
@pytest.mark.parametrize("lift", [0.0, 0.3])
def test_draws_have_the_value_that_is_claimed(name, lift):
    """600,000 units: within 4.5 standard errors (of the linearised ratio, where there is one)."""
    found = correlated(0.4) if name == "before-0.4" else law(name)
    units = found.draw(np.random.default_rng(1), (3, 200_000), lift)
    assert units.y.shape == (3, 200_000)
    truth = found.value(lift)
    d = np.ones_like(units.y) if units.d is None else units.d
    gap = units.y - truth * d
    assert abs(gap.mean()) <= 4.5 * gap.std() / np.sqrt(gap.size)
    assert (found.family == "ratio") == (units.d is not None)
    assert found.value(0.3) == pytest.approx(1.3 * found.value(0.0), rel=1e-3)


def test_populations_are_their_laws():
    y, _ = _population("counts", 0.0)
    seen = np.bincount(y.astype(int), minlength=20)[:20] / POPULATION
    assert seen == pytest.approx(scipy_stats.nbinom(1, 0.25).pmf(np.arange(20)), abs=1 / POPULATION)
    y, d = _population("ctr", 0.0)
    shown = np.bincount(d.astype(int), minlength=12)[:12] / POPULATION
    assert shown[1:] == pytest.approx(scipy_stats.poisson(9).pmf(np.arange(11)), abs=20 / POPULATION)
    assert (y <= d).all()
    ten = y[d == 10]
    assert (ten == 0).mean() == pytest.approx(scipy_stats.betabinom(10, 1, 9).pmf(0), abs=1e-3)
    y, d = _population("conversion", 0.0)
    assert (y.sum(), d, len(y)) == (round(0.1 * POPULATION), None, POPULATION)


def test_the_covariate_has_its_correlation():
    units = correlated(0.6).draw(np.random.default_rng(0), (100_000,), 0.0)
    assert np.corrcoef(units.x, units.y)[0, 1] == pytest.approx(0.6, abs=0.01)


def test_buyers_are_five_in_a_hundred():
    units = law("buyers").draw(np.random.default_rng(0), (200_000,), 0.0)
    assert (units.y > 0).mean() == pytest.approx(BUYERS, abs=0.002)
    assert pytest.approx(0.05, abs=1e-5) == BUYERS


def test_a_units_own_value_is_its_rate():
    units = law("ctr").draw(np.random.default_rng(0), (4,), 0.0)
    assert units.value().tolist() == (units.y / units.d).tolist()
    units = law("pareto").draw(np.random.default_rng(0), (4,), 0.0)
    assert units.value() is units.y


def test_mistakes_are_named():
    with pytest.raises(InputError, match="law = 'lognormal' is unknown; did you mean 'lognormal-"):
        law("lognormal")
    for rho in (1, -1, -1.5):
        with pytest.raises(InputError, match=f"rho = {rho}; give a correlation between"):
            correlated(rho)
