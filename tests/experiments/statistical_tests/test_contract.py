"""What every statistical test must do, whatever it is: the suite takes all that are in ``TESTS``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportions_ztest
from statsmodels.stats.weightstats import ztest

from suisen.experiments.analysis import AnalysisOptions, analyze_units
from suisen.experiments.power import FREEDOM, Baseline, Design, sample_size
from suisen.experiments.proportions import Counts
from suisen.experiments.simulation.laws import Units
from suisen.experiments.simulation.simulate import Cell, Experiments, band, run, trial
from suisen.experiments.statistical_tests import QUANTILE, TESTS, Arms, ComparisonOptions
from tests.experiments.made import plan, units_of

OPTIONS = ComparisonOptions(resamples=999)
DRAWN = 0.06
"""How far p may be from another draw's: four standard errors of p = 0.5 with 999 resamples."""
every = pytest.mark.parametrize("test", [*TESTS.values(), QUANTILE], ids=lambda test: test.name)
planned = pytest.mark.parametrize("test", list(TESTS.values()), ids=lambda test: test.name)


def drawn(test, n=(120, 150), lift=0.0, seed=0):
    """Units of two arms that the test is made for."""
    rng = np.random.default_rng(seed)
    if test.of_shares:
        return tuple((rng.random(size) < 0.3 * rate).astype(float) for size, rate in zip(n, (1, 1 + lift)))
    return tuple(rng.gamma(3, rate, size) for size, rate in zip(n, (1, 1 + lift)))


def arms_of(test, control, treatment):
    counts = Counts.of(control.sum(), control.size, treatment.sum(), treatment.size) if test.of_shares else None
    return Experiments(Units(control), Units(treatment), counts).arms()


def judged(test, control, treatment, options=OPTIONS):
    return test.judged(arms_of(test, control, treatment), options)


def decides(pair):
    return float(pair.absolute.p if pair.p is None else pair.p)


def direction(pair):
    return pair.ranks.superiority - 0.5 if pair.ranks is not None else float(pair.absolute.value)


@every
def test_it_says_what_it_is(test):
    assert test.name
    assert test.words
    assert TESTS.get(test.name, test) is test
    assert [each.words for each in TESTS.values()].count(test.words) == (test is not QUANTILE)
    assert test.__doc__
    assert {test.sized_as(share=share) for share in (False, True)} <= set(FREEDOM)


@every
@pytest.mark.parametrize("lift", [0.0, 0.3])
def test_p_is_a_probability_and_the_interval_holds_the_effect(test, lift):
    for seed in range(5):
        pair = judged(test, *drawn(test, lift=lift, seed=seed))
        for effect in (pair.absolute, pair.relative):
            assert 0 <= float(effect.p) <= 1
            assert float(effect.low) <= float(effect.value) <= float(effect.high)
        assert 0 <= decides(pair) <= 1


@every
def test_swapped_arms_flip_the_sign(test):
    control, treatment = drawn(test, lift=0.25)
    one, two = judged(test, control, treatment), judged(test, treatment, control)
    assert float(two.absolute.value) == pytest.approx(-float(one.absolute.value))
    assert direction(one) > 0 > direction(two)
    assert (1 + float(one.relative.value)) * (1 + float(two.relative.value)) == pytest.approx(1)
    assert decides(two) == pytest.approx(decides(one), abs=DRAWN)
    width = float(one.absolute.high - one.absolute.low)
    assert float(two.absolute.low) == pytest.approx(-float(one.absolute.high), abs=0.1 * width)
    assert float(two.absolute.high) == pytest.approx(-float(one.absolute.low), abs=0.1 * width)
    if one.ranks is not None:
        assert one.ranks.superiority + two.ranks.superiority == pytest.approx(1)


@every
def test_identical_arms_have_no_effect(test):
    control, _ = drawn(test)
    pair = judged(test, control, control.copy())
    assert float(pair.absolute.value) == float(pair.relative.value) == direction(pair) == 0
    assert float(pair.absolute.low) < 0 < float(pair.absolute.high)
    assert decides(pair) > 1 - 2 * DRAWN


@every
def test_units_of_measurement_do_not_matter(test):
    if test.of_shares:
        return
    control, treatment = drawn(test, lift=0.2)
    one, moved, scaled = (
        judged(test, change(control), change(treatment)) for change in (lambda y: y, lambda y: y + 3, lambda y: 4 * y)
    )
    for name in ("value", "low", "high"):
        was = float(getattr(one.absolute, name))
        assert float(getattr(moved.absolute, name)) == pytest.approx(was)
        assert float(getattr(scaled.absolute, name)) == pytest.approx(4 * was)
        assert float(getattr(scaled.relative, name)) == pytest.approx(float(getattr(one.relative, name)))
    assert decides(moved) == pytest.approx(decides(one))
    assert decides(scaled) == pytest.approx(decides(one))


@every
def test_the_order_of_units_does_not_matter(test):
    control, treatment = drawn(test, lift=0.2)
    one, turned = judged(test, control, treatment), judged(test, control[::-1], np.roll(treatment, 7))
    assert float(turned.absolute.value) == pytest.approx(float(one.absolute.value))
    assert decides(turned) == pytest.approx(decides(one), abs=DRAWN)


@every
def test_a_large_effect_is_found_and_its_direction(test):
    pair = judged(test, *drawn(test, n=(300, 300), lift=1.0))
    assert decides(pair) < 0.01
    assert direction(pair) > 0
    assert float(pair.absolute.low) > 0


@every
def test_a_higher_level_is_a_wider_interval(test):
    control, treatment = drawn(test, lift=0.2)
    narrow, wide = (judged(test, control, treatment, replace(OPTIONS, level=level)) for level in (0.8, 0.99))
    assert float(wide.absolute.low) < float(narrow.absolute.low)
    assert float(narrow.absolute.high) < float(wide.absolute.high)
    assert decides(wide) == decides(narrow)


@every
def test_one_sided_alternatives(test):
    control, treatment = drawn(test, lift=0.15, seed=1)
    up, down = (replace(OPTIONS, alternative=name) for name in ("greater", "less"))
    greater, less = (decides(judged(test, control, treatment, options)) for options in (up, down))
    assert greater < 0.5 < less
    assert greater < decides(judged(test, control, treatment))
    assert decides(judged(test, treatment, control, down)) == pytest.approx(greater, abs=DRAWN)


@every
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_interval_says_what_p_says(test, alternative):
    """p <= alpha exactly where the interval excludes 0, on either scale; a one-sided one has one end."""
    levels = (0.8, 0.9, 0.95, 0.99)
    hits = 0
    for seed in range(8):
        arms = drawn(test, lift=0.2 * (-1) ** seed, seed=seed)
        for level in levels:
            pair = judged(test, *arms, replace(OPTIONS, alternative=alternative, level=level))
            for effect in (pair.absolute, pair.relative):
                low, high = float(effect.low), float(effect.high)
                assert (float(effect.p) <= 1 - level) == (low > 0 or high < 0), (seed, level, effect)
                assert np.isinf([low, high]).tolist() == [alternative == "less", alternative == "greater"]
                assert low <= float(effect.value) <= high
                hits += low > 0 or high < 0
    assert 0 < hits < 8 * len(levels) * 2


@every
def test_signs_swap_and_a_metric_below_zero_goes_up_when_it_rises(test):
    if test.of_shares:
        return
    control, treatment = (y - 9 for y in drawn(test, n=(200, 200), lift=0.5))  # about −6 to −4.5
    pair = judged(test, control, treatment)
    assert 0 < float(pair.relative.value) < 0.5
    assert float(pair.relative.low) < float(pair.relative.value) < float(pair.relative.high)
    turned = judged(test, -control, -treatment)
    for one, two in zip(pair[:2], turned[:2]):
        width = float(one.high - one.low)
        assert float(two.value) == pytest.approx(-float(one.value), abs=0.1 * width)
        assert (float(two.low), float(two.high)) == pytest.approx((-float(one.high), -float(one.low)), abs=0.1 * width)
        assert float(two.p) == pytest.approx(float(one.p), abs=DRAWN)
    assert direction(pair) > 0 > direction(turned)
    assert decides(turned) == pytest.approx(decides(pair), abs=DRAWN)


@planned
def test_false_alarms_are_as_many_as_alpha_says(test):
    """In arms of one law, within binomial error; a test of few possible tables may keep its alpha by saying less."""
    of_counts = trial(test.name).change is not None
    cell = Cell(law="conversion" if of_counts else "before", n=150, runs=400, resamples=499)
    (found,) = run(cell, [test.name])
    low, high = band(cell.alpha, cell.runs, rows=len(TESTS))
    assert found.rejected / cell.runs <= high
    assert of_counts or found.rejected / cell.runs >= low
    assert 0.2 < found.below / max(found.rejected, 1) < 0.8


@planned
def test_it_goes_through_plan_analysis_and_sizing(test):
    control, treatment = drawn(test, n=(80, 90), lift=0.2)
    frame = units_of(["control", "treatment"], m__y=(control, treatment))
    made = plan({"m": {"kind": "conversion" if test.of_shares else "value", "test": test.name}}, mde=0.1)
    (each,) = analyze_units(frame, made, options=AnalysisOptions(resamples=999)).estimates
    pair = judged(test, control, treatment, ComparisonOptions(resamples=999))
    assert each.test == test.words
    assert each.p == pytest.approx(float(pair.relative.p) if pair.p is None else pair.p)
    assert each.absolute.low == pytest.approx(float(pair.absolute.low))
    assert each.absolute.high == pytest.approx(float(pair.absolute.high))
    assert any(test.words in said for said in each.remedies) == (not test.normal)
    base = Baseline.proportion(0.3) if Design.of(made).of_shares else Baseline.mean(control)
    assert sample_size(base, Design.of(made), effect=0.1) > 0


@planned
def test_a_metric_that_does_not_vary_gets_no_verdict(test):
    frame = units_of(["control", "treatment"], m__y=(np.ones(30), np.ones(30)))
    made = plan({"m": {"kind": "conversion", "test": test.name}})
    (each,) = analyze_units(frame, made, options=AnalysisOptions(resamples=99)).estimates
    assert each.decision == "no verdict"


# -- other people's answers --------------------------------------------------------------------------------------------


def table(a, b):
    return [[b.sum(), b.size - b.sum()], [a.sum(), a.size - a.sum()]]


def welch_statistic(b, a, axis):
    spread = np.sqrt(a.var(axis=axis, ddof=1) / a.shape[axis] + b.var(axis=axis, ddof=1) / b.shape[axis])
    return np.abs(b.mean(axis=axis) - a.mean(axis=axis)) / spread


ORACLES = {
    "welch": lambda a, b: stats.ttest_ind(b, a, equal_var=False).pvalue,
    "student": lambda a, b: stats.ttest_ind(b, a).pvalue,
    "z": lambda a, b: ztest(b, a, usevar="unequal")[1],
    "chi2": lambda a, b: proportions_ztest([b.sum(), a.sum()], [b.size, a.size])[1],
    "fisher": lambda a, b: stats.fisher_exact(table(a, b)).pvalue,
    "mann-whitney": lambda a, b: stats.mannwhitneyu(b, a).pvalue,
    "brunner-munzel": lambda a, b: stats.brunnermunzel(b, a).pvalue,
}


@pytest.mark.parametrize("test", [test for test in TESTS.values() if test.name in ORACLES], ids=lambda test: test.name)
@pytest.mark.parametrize("lift", [0.0, 0.3])
def test_p_is_scipys_or_statsmodels(test, lift):
    control, treatment = drawn(test, lift=lift, seed=3)
    assert decides(judged(test, control, treatment)) == pytest.approx(ORACLES[test.name](control, treatment), rel=1e-9)


def test_permutation_is_scipys_up_to_the_draw():
    control, treatment = drawn(TESTS["permutation"], n=(40, 60), lift=0.3, seed=1)
    found = stats.permutation_test(
        (treatment, control), welch_statistic, vectorized=True, n_resamples=9999, alternative="greater", rng=0
    )
    ours = judged(TESTS["permutation"], control, treatment, ComparisonOptions(resamples=9999))
    assert decides(ours) == pytest.approx(found.pvalue, abs=4 * np.sqrt(found.pvalue / 9999) + 1e-4)


def test_bca_is_scipys_up_to_the_draw():
    control, treatment = drawn(TESTS["bootstrap-bca"], n=(60, 80), lift=0.3, seed=1)
    found = stats.bootstrap(
        (treatment, control), lambda b, a, axis: b.mean(axis=axis) - a.mean(axis=axis), vectorized=True, rng=0
    ).confidence_interval
    ours = judged(TESTS["bootstrap-bca"], control, treatment, ComparisonOptions(resamples=9999)).absolute
    room = 0.03 * (found.high - found.low)
    assert (float(ours.low), float(ours.high)) == pytest.approx((found.low, found.high), abs=room)


def test_arms_and_options_are_given_by_name():
    for cls in (Arms, ComparisonOptions):
        with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
            cls("m")
