"""Diluted effects: the same question as comparing everybody, with less noise."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.experiments.means import compare, estimate
from suisen.experiments.moments import Moments
from suisen.experiments.triggered import diluted


def of(values):
    return estimate(Moments.of(values))


def drawn(seed, n=2000, share=0.1, lift=0.2, rest=4.0):
    """(control, treatment) of (values, triggered): only triggered units feel the lift."""
    rng = np.random.default_rng(seed)
    out = []
    for arm in range(2):
        hit = rng.random(n) < share
        out.append((np.where(hit, rng.gamma(2, 1 + lift * arm, n), rng.gamma(rest, 1, n)), hit))
    return out


def both_ways(seed, scale, **world):
    (a, in_a), (b, in_b) = drawn(seed, **world)
    sharp = diluted(of(a[in_a]), of(b[in_b]), of(np.r_[a[~in_a], b[~in_b]]), scale=scale)
    return sharp, compare(of(a), of(b), scale=scale)


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("world", [{}, {"lift": 1.0}, {"share": 0.6, "rest": 0.5}])
def test_intervals_cover_the_effect_among_all_and_are_narrower(scale, world):
    share, lift, rest = (world.get(name, usual) for name, usual in (("share", 0.1), ("lift", 0.2), ("rest", 4.0)))
    truth = share * 2 * lift / (1 if scale == "absolute" else share * 2 + (1 - share) * rest)
    found = [both_ways(seed, scale, **world) for seed in range(600)]
    held = np.mean([sharp.low <= truth <= sharp.high for sharp, _ in found])
    assert 0.925 <= held <= 0.975
    assert np.mean([float(sharp.value) for sharp, _ in found]) == pytest.approx(truth, rel=0.06)
    assert np.median([float(plain.se / sharp.se) for sharp, plain in found]) > 1.05
    spread = np.std([float(sharp.value) for sharp, _ in found])
    assert spread == pytest.approx(np.median([float(sharp.se) for sharp, _ in found]), rel=0.1)


@given(st.integers(0, 1000), st.floats(0.1, 50))
def test_a_unit_of_money_does_not_matter(seed, scale):
    (a, in_a), (b, in_b) = drawn(seed, n=200, share=0.5)
    one, other = (
        diluted(of(k * a[in_a]), of(k * b[in_b]), of(k * np.r_[a[~in_a], b[~in_b]]), scale="relative")
        for k in (1.0, scale)
    )
    assert float(one.value) == pytest.approx(float(other.value), rel=1e-9)
    assert float(one.low) == pytest.approx(float(other.low), rel=1e-9)


def test_losses_that_shrink_are_a_rise():
    others = of(np.array([-4.0, -6.0, -5.0]))
    found = diluted(of(np.array([-9.0, -11.0])), of(np.array([-4.0, -6.0])), others, scale="relative")
    assert float(found.value) == pytest.approx(5 * 4 / 7 / (4 / 7 * 10 + 3 / 7 * 5))


def test_without_others_there_is_nothing_to_dilute():
    few = of(np.array([1.0, 2.0, 3.0]))
    with pytest.raises(InputError, match="one is missing"):
        diluted(few, few, of(np.array([np.nan, np.nan])))
    zero = of(np.array([-1.0, 1.0, 0.0]))
    with pytest.raises(InputError, match="among all units is 0, so no effect is a share of it"):
        diluted(zero, few, zero, scale="relative")


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_bound_says_what_p_says(scale, alternative):
    for seed in range(30):
        (a, in_a), (b, in_b) = drawn(seed, n=300, share=0.3)
        others = of(np.r_[a[~in_a], b[~in_b]])
        found = diluted(of(a[in_a]), of(b[in_b]), others, scale=scale, alternative=alternative)
        assert (found.p <= 0.05) == (not found.low <= 0 <= found.high)
        assert np.isinf(found.high) == (alternative == "greater")
        assert np.isinf(found.low) == (alternative == "less")
