import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.experiments.equivalence import equivalent, non_inferior
from suisen.experiments.means import compare, estimate
from suisen.experiments.moments import Moments
from tests.experiments.oracles import weightstats


@given(st.integers(0, 10_000), st.sampled_from(["student", "welch"]))
@settings(max_examples=25)
def test_two_one_sided_tests_are_those_of_statsmodels(seed, test):
    rng = np.random.default_rng(seed)
    y, z = rng.normal(0, 1, 30), rng.normal(0.1, 2, 25)
    effect = compare(estimate(Moments.of(y)), estimate(Moments.of(z)), test=test)
    usevar = "pooled" if test == "student" else "unequal"
    p, above, below = weightstats.ttost_ind(z, y, -0.5, 0.7, usevar=usevar)
    found = equivalent(effect, -0.5, 0.7)
    assert found.p == pytest.approx(p, rel=1e-9)
    assert non_inferior(effect, 0.5).p == pytest.approx(above[1], rel=1e-9)
    assert non_inferior(effect, 0.7, better="lower").p == pytest.approx(below[1], rel=1e-9)
    # the interval decides alike
    assert (found.p < 0.05) == (found.low > -0.5 and found.high < 0.7)
    guard = non_inferior(effect, 0.5, alpha=0.025)
    assert (guard.p < 0.025) == (guard.low > -0.5)
    assert (guard.low, guard.high) == (pytest.approx(effect.low), pytest.approx(effect.high))


def test_no_spread_at_the_margin_is_no_evidence():
    flat = estimate(Moments.of([1.0, 1.0, 1.0]))
    effect = compare(flat, flat)
    assert non_inferior(effect, 0.1).p == 0
    assert equivalent(effect, 0.0, 1.0).p == 0.5


def test_margins_that_are_none_are_refused():
    effect = compare(*(estimate(Moments.of([1.0, 2.0])),) * 2)
    with pytest.raises(InputError, match=r"margin = 0 must be above 0"):
        non_inferior(effect, 0)
    with pytest.raises(InputError, match=r"margins \(1, -1\) are empty"):
        equivalent(effect, 1, -1)
    with pytest.raises(InputError, match=r"alpha = 0.6 of a one-sided test"):
        equivalent(effect, -1, 1, alpha=0.6)
