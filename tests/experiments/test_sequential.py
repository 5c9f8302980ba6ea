import inspect

import numpy as np
import pytest
from scipy import integrate, optimize
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.means import compare, estimate
from suisen.experiments.moments import Moments
from suisen.experiments.proportions import share
from suisen.experiments.sequential import (
    GroupDesign,
    confidence_sequence,
    log_mixture,
    mixture_bound,
    mixture_rho,
    repeated_p,
    spending_bounds,
    spent,
)
from tests.experiments.made import of_sums

FIFTHS = [0.2, 0.4, 0.6, 0.8, 1.0]


def relative():
    a = estimate(of_sums(3000, 1396.87, 52377.9767))
    return compare(a, estimate(of_sums(3461, 2422.7, 134698.29)), scale="relative")


def test_r4_confidence_sequence_of_growthbook():
    first, second = (confidence_sequence(relative(), 6461, tune=n) for n in (1000, 5000))
    assert [round(float(v), 5) for v in (first.value, first.low, first.high)] == [0.50336, -0.55844, 1.56516]
    assert [round(float(v), 5) for v in (second.low, second.high)] == [-0.50972, 1.51644]
    assert first.p == 1
    shares = compare(share(1396, 3000), share(2422, 3461), scale="relative")
    found = confidence_sequence(shares, 6461, tune=5000)
    assert [round(float(v), 5) for v in (found.value, found.low, found.high)] == [0.50386, 0.40098, 0.60675]


def test_r5_normal_mixture_boundary():
    two, one = mixture_rho(100, 0.05), mixture_rho(100, 0.05, sides=1)
    assert two == pytest.approx(12.60056, abs=5e-6)
    assert log_mixture(10, 100, two) == pytest.approx(-0.6510052, abs=5e-8)
    assert mixture_bound(100, two) == pytest.approx(30.35209, abs=5e-6)
    assert log_mixture(10, 100, one, sides=1) == pytest.approx(-0.06502391, abs=5e-9)
    assert mixture_bound(100, one, sides=1) == pytest.approx(27.66071, abs=5e-6)


def test_the_interval_and_the_p_value_of_a_sequence_decide_alike():
    rng = np.random.default_rng(0)
    a, b = (estimate(Moments.of(rng.normal(m, 1, (200, 400)))) for m in (0, 0.3))
    found = confidence_sequence(compare(a, b), 800, tune=500)
    crossed = (found.low > 0) | (found.high < 0)
    assert ((found.p <= 0.05) == crossed).all()
    assert 0.3 < crossed.mean() < 0.95
    greater = confidence_sequence(compare(a, b), 800, tune=500, alternative="greater")
    less = confidence_sequence(compare(a, b), 800, tune=500, alternative="less")
    assert (greater.p <= 0.05).mean() > crossed.mean()
    assert (less.p == 1).all()
    assert ((greater.p <= 0.05) == (greater.low > 0)).all()
    assert (greater.low > found.low).all()  # all of alpha is on one side
    assert (greater.high == np.inf).all()
    assert (less.low == -np.inf).all()
    assert (less.high > 0).all()


def test_peeking_a_hundred_times_keeps_its_promise():
    rng = np.random.default_rng(1)
    steps = rng.standard_normal((1000, 100)) * np.sqrt(2 * 100)  # Σ of differences of 100 pairs
    total, n = steps.cumsum(1), np.arange(1, 101) * 200.0
    se = np.sqrt(2 / (n / 2))
    z = total / (n / 2) / se
    effect = compare(share(1, 2), share(1, 2))._replace(value=z * se, se=se, statistic=z)
    ever = (confidence_sequence(effect, n, tune=5000).p <= 0.05).any(1).mean()
    naive = (np.abs(z) > 1.96).any(1).mean()
    assert 0.005 < ever <= 0.05
    assert naive > 0.3


def test_peeking_with_a_one_sided_bound_keeps_its_promise():
    rng = np.random.default_rng(2)
    total = (rng.standard_normal((1000, 100)) * np.sqrt(2 * 100)).cumsum(1)
    n = np.arange(1, 101) * 200.0
    se = np.sqrt(2 / (n / 2))
    effect = compare(share(1, 2), share(1, 2))._replace(value=total / (n / 2), se=se, statistic=total / (n / 2) / se)
    for alternative in ("greater", "less"):
        found = confidence_sequence(effect, n, tune=5000, alternative=alternative)
        out = (found.low > 0) | (found.high < 0)
        assert ((found.p <= 0.05) == out).all()
        assert 0.01 < out.any(1).mean() <= 0.055


def test_r7_spending_and_its_bounds_by_both_conventions():
    two = {"convention": "two-sided"}
    expected = [1.17264e-05, 1.941913e-03, 1.139642e-02, 2.842963e-02, 0.05]
    assert spent(FIFTHS, **two).tolist() == pytest.approx(expected, rel=5e-6)
    assert spent(0.5, **two) == pytest.approx(0.00557460, abs=5e-9)
    found, usual = spending_bounds(FIFTHS, **two), spending_bounds(FIFTHS)
    assert [round(b, 4) for b in found.bounds] == [4.3826, 3.0997, 2.5534, 2.2538, 2.0635]
    assert [round(b, 4) for b in usual.bounds] == [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]
    for design in (found, usual, spending_bounds(FIFTHS, spending="pocock")):
        assert design.crossing().sum() == pytest.approx(0.05, abs=1e-9)


def flat(bound, looks):
    """One bound at every of the equally spaced looks."""
    return GroupDesign(tuple(np.arange(1, looks + 1) / looks), (bound,) * looks)


def classical(family, looks, alpha=0.05):
    """Bounds of equally spaced looks: pocock: one constant; obrien-fleming: C √(K/k) (1977, 1979)."""
    times = np.arange(1, looks + 1) / looks
    shape = np.ones(looks) if family == "pocock" else np.sqrt(1 / times)

    def excess(constant):
        return GroupDesign(tuple(times), tuple(constant * shape)).power(0.0) - alpha

    low = scipy_stats.norm.isf(alpha / 2)
    constant = low if looks == 1 else optimize.brentq(excess, low, low + 3, xtol=1e-10)
    return GroupDesign(tuple(times), tuple(constant * shape))


def test_r8_classical_constants_and_naive_peeking():
    assert [round(b, 4) for b in classical("pocock", 5).bounds] == [2.4132] * 5
    assert [round(b, 4) for b in classical("obrien-fleming", 5).bounds] == [4.5617, 3.2256, 2.6337, 2.2809, 2.0401]
    for looks, pocock, fleming in ((2, 2.1783, 1.9774), (3, 2.2895, 2.0040)):
        assert classical("pocock", looks).bounds[-1] == pytest.approx(pocock, abs=5e-5)
        assert classical("obrien-fleming", looks).bounds[-1] == pytest.approx(fleming, abs=5e-5)
    assert [round(flat(1.959964, looks).power(0.0), 4) for looks in (2, 5, 10)] == [0.0831, 0.1417, 0.1934]
    assert classical("pocock", 1).bounds == (pytest.approx(1.959964),)


def test_two_looks_are_a_bivariate_normal():
    design = spending_bounds([0.3, 0.7], 0.1, spending="pocock")
    b1, b2 = design.bounds
    assert 2 * scipy_stats.norm.sf(b1) == pytest.approx(float(spent(0.3, 0.1, spending="pocock")))
    corr, drift = np.sqrt(0.3 / 0.7), 1.5

    def inside(z1):  # P(|Z2| < b2 | z1) φ(z1)
        mean = drift * np.sqrt(0.7) + corr * (z1 - drift * np.sqrt(0.3))
        sd = np.sqrt(1 - corr**2)
        upto = scipy_stats.norm.cdf([(b2 - mean) / sd, (-b2 - mean) / sd])
        return (upto[0] - upto[1]) * scipy_stats.norm.pdf(z1, drift * np.sqrt(0.3))

    stay = integrate.quad(inside, -b1, b1, epsabs=1e-12)[0]
    assert design.power(drift) == pytest.approx(1 - stay, abs=1e-9)


def test_many_looks_and_power():
    many = spending_bounds(np.arange(1, 51) / 50, spending="pocock")
    assert many.crossing().sum() == pytest.approx(0.05, abs=1e-8)
    fixed = scipy_stats.norm.sf(1.959964 - 2.8) + scipy_stats.norm.cdf(-1.959964 - 2.8)
    fleming, pocock = spending_bounds(FIFTHS).power(2.8), spending_bounds(FIFTHS, spending="pocock").power(2.8)
    assert pocock < fleming < fixed
    assert fleming == pytest.approx(fixed, abs=0.02)


def test_repeated_p_decides_as_the_bound_does():
    for spending in ("obrien-fleming", "pocock"):
        design = spending_bounds(FIFTHS[:3], spending=spending)
        assert repeated_p(design.bounds[-1], FIFTHS[:3], spending=spending) == pytest.approx(0.05, rel=1e-5)
    assert repeated_p(0.0, FIFTHS) == 1
    assert repeated_p(50, FIFTHS) == 1e-12
    assert repeated_p(2.2, [1.0]) == pytest.approx(2 * scipy_stats.norm.sf(2.2))
    assert repeated_p(-2.5, FIFTHS[:4]) == repeated_p(2.5, FIFTHS[:4])


def test_early_looks_spend_nothing_that_doubles_can_hold():
    design = spending_bounds([1e-4, 1.0])
    assert design.bounds[0] == float("inf")
    assert design.bounds[1] == pytest.approx(1.959964, abs=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spending_bounds([0.5, 0.5, 1]), "should be rising information fractions"),
        (lambda: spending_bounds([]), "should be rising information fractions"),
        (lambda: spending_bounds([0.5, 1.5]), "should be rising information fractions"),
        (lambda: spent(0.5, spending="pocok"), "did you mean 'pocock'"),
        (lambda: spent(0.5, convention="one"), "convention = 'one' is unknown"),
        (lambda: spent(0.5, 5), "alpha = 5; give a probability"),
        (lambda: confidence_sequence(relative(), 10, tune=0), "tune = 0 must be above 0"),
        (lambda: confidence_sequence(relative(), 10, alternative="up"), "alternative = 'up' is unknown"),
    ],
)
def test_what_is_no_design_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_usual_tuning_is_that_of_the_guide():
    """``tune`` is the number of units at which the sequence is tightest; the guide says 5,000."""
    assert inspect.signature(confidence_sequence).parameters["tune"].default == 5000
