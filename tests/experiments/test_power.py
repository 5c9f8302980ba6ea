"""Sample size, power and effect: published numbers, statsmodels, tea-tasting, simulation, each other's inverse."""

import warnings

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import integrate, optimize, stats
from statsmodels.stats.power import TTestIndPower, normal_power_het
from statsmodels.stats.proportion import power_proportions_2indep

from suisen.errors import InputError
from suisen.experiments.means import Estimate, compare
from suisen.experiments.plan import Plan
from suisen.experiments.power import (
    Baseline,
    Design,
    arms_of,
    margin_power,
    margin_size,
    mde,
    power,
    sample_size,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import tea_tasting as tt

UNIT = Baseline(0.0, 1.0)
ALTERNATIVES = {"two-sided": "two-sided", "greater": "larger", "less": "smaller"}


def test_r_power_t_test():  # R10: R's help of power.t.test, n = 20, delta = 1 (R leaves out the far tail, 2e-7)
    student = Design(test="student", power=0.9)
    assert power(UNIT, student, units=40, effect=1) == pytest.approx(0.8689530, abs=5e-8)
    assert sample_size(UNIT, student, effect=1) / 2 == pytest.approx(22.02109, abs=5e-6)


def test_tea_tastings_ratio_of_means():  # R13: its guide on power, RatioOfMeans, 10 % of 4,000 users: 52 %
    options = {"sessions_uplift": 0, "orders_uplift": 0, "revenue_uplift": 0}
    data = tt.make_users_data(rng=42, covariates=True, **options)
    theirs = tt.RatioOfMeans("orders", "sessions", rel_effect_size=0.1)
    ours = Baseline.ratio(data["orders"].to_numpy(), data["sessions"].to_numpy())
    found = power(ours, Design(), units=4000, effect=0.1 * ours.value)
    assert round(found, 2) == 0.52
    assert found == pytest.approx(theirs.solve_power(data, "power")[0].power, rel=1e-9)
    size = sample_size(ours, Design(), effect=0.1 * ours.value)
    assert int(np.ceil(size)) == theirs.solve_power(data, "n_obs")[0].n_obs
    least = tt.RatioOfMeans("orders", "sessions", n_obs=4000).solve_power(data, "rel_effect_size")[0].rel_effect_size
    assert mde(ours, Design(), units=4000) / ours.value == pytest.approx(least, rel=1e-9)


@given(
    effect=st.floats(0.01, 0.6), units=st.integers(12, 800), share=st.floats(0.2, 0.8),
    alpha=st.floats(0.001, 0.3), alternative=st.sampled_from(list(ALTERNATIVES)),
)  # fmt: skip
def test_student_is_statsmodels(effect, units, share, alpha, alternative):
    design = Design(test="student", alpha=alpha, power=0.99, alternative=alternative, shares=(share, 1 - share))
    n_a = units * share
    theirs = TTestIndPower().power(effect, n_a, alpha, (1 - share) / share, alternative=ALTERNATIVES[alternative])
    assume(np.isfinite(theirs))  # it has no value where the far tail has none
    found = power(Baseline(0.0, 4.0), design, units=units, effect=2 * effect)
    assert found == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@given(p=st.floats(0.02, 0.9), diff=st.floats(-0.015, 0.09), units=st.integers(50, 10**6), share=st.floats(0.1, 0.9))
def test_proportions_are_statsmodels(p, diff, units, share):
    n_b = units * (1 - share)
    theirs = power_proportions_2indep(diff, p, n_b, ratio=share / (1 - share), return_results=False)
    ours = power(
        Baseline.proportion(p), Design(test="proportions", shares=(share, 1 - share)), units=units, effect=diff
    )
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@given(effect=st.floats(-0.5, 0.5), units=st.integers(50, 10**5), alternative=st.sampled_from(list(ALTERNATIVES)))
def test_z_is_statsmodels(effect, units, alternative):
    theirs = normal_power_het(effect, units / 2, 0.05, 2**0.5, alternative=ALTERNATIVES[alternative])
    ours = power(UNIT, Design(test="z", alternative=alternative), units=units, effect=effect)
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@given(
    test=st.sampled_from(["welch", "student", "z", "proportions"]), scale=st.sampled_from(["absolute", "relative"]),
    alternative=st.sampled_from(list(ALTERNATIVES)), wanted=st.floats(0.35, 0.99), share=st.floats(0.1, 0.9),
    effect=st.floats(0.02, 0.1), comparisons=st.integers(1, 4),
)  # fmt: skip
def test_size_effect_and_power_are_each_others_inverse(test, scale, alternative, wanted, share, effect, comparisons):
    baseline = Baseline.proportion(0.4)
    design = Design(
        test=test,
        scale=scale,
        alternative=alternative,
        power=wanted,
        shares=(share, 1 - share),
        comparisons=comparisons,
    )
    signed = -effect if alternative == "less" else effect
    size = sample_size(baseline, design, effect=signed)
    assert power(baseline, design, units=size, effect=signed) == pytest.approx(wanted, abs=1e-9)
    assert mde(baseline, design, units=size) == pytest.approx(signed, rel=1e-8)


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.8, 0.2)])
@pytest.mark.parametrize("effect", [-0.2, 0.1])
def test_power_is_what_the_test_reaches(scale, shares, effect):
    rng = np.random.default_rng(0)
    runs, units = 8000, 400
    deviation = abs(effect) * (units * shares[0] * shares[1]) ** 0.5 / 2.8  # so that the power is about 80 %
    n_a, n_b = (round(units * share) for share in shares)
    a = estimate_of(rng.normal(1, deviation, (runs, n_a)))
    b = estimate_of(rng.normal(1 + effect, deviation, (runs, n_b)))
    found = (compare(a, b, scale=scale).p < 0.05).mean()
    planned = power(Baseline(1.0, deviation**2), Design(scale=scale, shares=shares), units=units, effect=effect)
    assert found == pytest.approx(planned, abs=0.015)  # three standard errors of 8,000 runs


def estimate_of(values):
    n = np.full(len(values), float(values.shape[1]))
    return Estimate(values.mean(1), values.var(1, ddof=1) / n, n - 1, n)


def test_a_relative_test_needs_more_for_a_rise_and_less_for_a_fall():
    baseline = Baseline(2.0, 9.0)
    needs = {
        (scale, sign): sample_size(baseline, Design(scale=scale), effect=sign * size)
        for scale, size in (("absolute", 0.2), ("relative", 0.1))
        for sign in (1, -1)
    }
    assert needs["absolute", 1] == needs["absolute", -1]
    assert 1.02 < needs["relative", 1] / needs["absolute", 1] < 1.1
    assert 0.9 < needs["relative", -1] / needs["absolute", 1] < 0.98


def test_a_metric_that_falls_to_nothing_is_found():
    design = Design(test="proportions", scale="relative")
    assert power(Baseline.proportion(0.1), design, units=1000, effect=-1.0) == 1


def test_baselines_are_their_definitions():
    rng = np.random.default_rng(1)
    y, d = rng.poisson(2, 50).astype(float), 1 + rng.poisson(3, 50).astype(float)
    assert Baseline.mean(y) == Baseline(y.mean(), y.var(ddof=1), 50)
    assert Baseline.proportion(0.2) == Baseline(0.2, 0.16000000000000003)
    ratio = Baseline.ratio(y, d)
    cov = np.cov(y, d)
    r = y.mean() / d.mean()
    assert ratio.variance == pytest.approx((cov[0, 0] - 2 * r * cov[0, 1] + r**2 * cov[1, 1]) / d.mean() ** 2)
    assert ratio.adjusted(0.6).variance == pytest.approx(ratio.variance * 0.64)
    assert Baseline.ratio(y, np.ones(50)).variance == pytest.approx(Baseline.mean(y).variance)


def test_an_estimate_is_a_baseline():
    one = Estimate(*(each[0] for each in estimate_of(np.arange(20.0)[None])[:4]))
    made = Baseline.of(one)
    assert (made.value, made.n) == (9.5, 20)
    assert made.variance == pytest.approx(np.arange(20).var(ddof=1))


def plan(**changed):
    values = {"name": "x", "arms": {"control": 0.5, "t": 0.5}, "primary": "m", "metrics": {"m": {"kind": "count"}}}
    return Plan.of(values | changed)


def test_a_plan_is_a_design():
    assert Design.of(plan()) == Design(scale="relative")
    three = plan(
        arms={"control": 0.6, "a": 0.3, "b": 0.1}, alpha=0.1, power=0.9, alternative="greater", scale="absolute"
    )
    wanted = Design(alpha=0.1, power=0.9, alternative="greater", shares=(0.6, 0.1), comparisons=2)
    assert Design.of(three) == wanted
    assert wanted.level == 0.05
    assert Design.of(plan(correction="none", arms={"control": 0.4, "a": 0.3, "b": 0.3})).comparisons == 1
    tests = [Design.of(plan(metrics={"m": metric})).test for metric in (
        {"kind": "conversion"}, {"kind": "conversion", "test": "welch"}, {"kind": "retention"},
        {"kind": "ctr"}, {"kind": "value", "test": "student"}, {"kind": "conversion", "covariate": True},
        {"kind": "value", "test": "z"}, {"kind": "conversion", "test": "fisher"},
        {"kind": "value", "test": "mann-whitney"},
    )]  # fmt: skip
    assert tests == ["proportions", "welch", "proportions", "welch", "student", "welch", "z", "proportions", "welch"]


def test_units_are_rounded_up_in_every_arm():
    assert arms_of(100.0, plan(arms={"control": 0.9, "t": 0.1})) == {"control": 90, "t": 10}
    assert arms_of(100.2, plan()) == {"control": 51, "t": 51}


def test_a_sequential_bound_costs_power():
    baseline, effect = Baseline(0.0, 1.0), 0.3
    fixed = sample_size(baseline, Design(test="z"), effect=effect)
    same = sample_size(baseline, Design(critical=lambda _: stats.norm.isf(0.025)), effect=effect)
    wider = sample_size(baseline, Design(critical=lambda _: 2.5), effect=effect)
    assert same == pytest.approx(fixed, rel=1e-9)
    assert wider > 1.3 * fixed


def test_few_units_find_no_relative_effect_however_large():
    with pytest.raises(InputError, match=r"units = 8 find no effect, however large, with power 0.8; plan for more"):
        mde(Baseline(1.0, 100.0), Design(scale="relative"), units=8)


def test_no_effect_is_found_with_alpha():
    for test in ("welch", "student", "z"):
        assert power(UNIT, Design(test=test, alpha=0.07), units=50, effect=0) == pytest.approx(0.07)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"alpha": 0.0}, "alpha = 0.0 should be greater than 0"),
        ({"alpha": 1.0}, "alpha = 1.0 should be less than 1"),
        ({"power": 1.2}, "power = 1.2 should be less than 1"),
        ({"power": 0.04}, "power = 0.04 should be above alpha = 0.05"),
        ({"alternative": "both"}, "alternative = 'both' should be 'two-sided', 'greater' or 'less'"),
        ({"scale": "log"}, "scale = 'log' should be 'relative' or 'absolute'"),
        ({"test": "t"}, "test = 't' should be 'welch', 'student', 'z' or 'proportions'"),
        ({"shares": (0.5, 0.6)}, "shares = .*; give the control's and the treatment's part"),
        ({"shares": (0.5,)}, r"shares.1 = .* Field required"),
        ({"comparisons": 0}, "comparisons = 0 should be greater than or equal to 1"),
    ],
)
def test_designs_are_refused_where_they_are_none(values, said):
    with pytest.raises(InputError, match=said):
        Design(**values)


# -- margins -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["welch", "student", "z"])
def test_not_worse_by_a_margin_is_a_one_sided_test_of_that_effect(test):
    design = Design(alpha=0.025, alternative="greater", test=test, shares=(0.6, 0.4))
    found = margin_power(UNIT, design, units=300, margin=0.25)
    assert found == pytest.approx(power(UNIT, design, units=300, effect=0.25), rel=1e-9)


def tost(units, margin, alpha=0.05):
    """Power of two one-sided t tests of equal arms, by integrating over the variance that is seen."""
    df, se = units - 2, np.sqrt(4 / units)
    bound = stats.t.ppf(1 - alpha, df)

    def held(square):
        room = (margin - bound * se * np.sqrt(square / df)) / se
        return np.where(room > 0, 2 * stats.norm.cdf(room) - 1, 0) * stats.chi2.pdf(square, df)

    return integrate.quad(held, *stats.chi2.ppf([1e-13, 1 - 1e-13], df), limit=200)[0]


@pytest.mark.parametrize("units", [60, 200, 1000])
@pytest.mark.parametrize("planned", [0.6, 0.8, 0.95])
def test_equal_within_a_margin_is_two_one_sided_tests(units, planned):
    design = Design(alternative="greater", test="student", power=planned)
    margin = optimize.brentq(lambda margin: tost(units, margin) - planned, 0.05, 3)
    assert margin_power(UNIT, design, units=units, margin=margin, both=True) == pytest.approx(planned, abs=1e-4)
    assert margin_size(UNIT, design, margin=margin, both=True) == pytest.approx(units, rel=1e-3)


def test_a_relative_margin_is_a_share_of_the_value():
    plain, share = (Design(alternative="greater", scale=scale) for scale in ("absolute", "relative"))
    base = Baseline(5.0, 4.0)
    wanted = margin_power(base, plain, units=500, margin=0.5)
    assert margin_power(base, share, units=500, margin=0.1) == pytest.approx(wanted, rel=1e-12)


def test_margins_take_their_level_from_the_plan():
    plan = Plan.of({
        "name": "x", "arms": {"control": 0.5, "t": 0.5}, "primary": "m",
        "metrics": {name: {"kind": "count"} for name in "mge"} | {"c": {"kind": "conversion"}},
        "guardrails": {"g": {"margin": 0.1}, "c": {"margin": 0.1, "scale": "absolute"}},
        "equivalence": {"e": {"margin": 0.1}},
    })  # fmt: skip
    made = {name: Design.of_margin(plan, name) for name in "gec"}
    assert [made[name].level for name in "gec"] == [0.025, 0.05, 0.025]
    assert [made[name].scale for name in "gec"] == ["relative", "relative", "absolute"]
    assert [made[name].test for name in "gec"] == ["welch", "welch", "proportions"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Baseline(float("nan"), 1.0), "value = nan is no number"),
        (lambda: Baseline(1.0, 0.0), "variance = 0.0 should be above 0"),
        (lambda: Baseline.mean([1.0, 1.0]), "variance = 0.0 should be above 0; a metric that is the same for all"),
        (lambda: Baseline.mean([1.0]), "values has shape"),
        (lambda: Baseline.mean([1.0, float("nan")]), "values holds 1 values that are no numbers"),
        (lambda: Baseline.proportion(0.0), "p = 0.0; give a share of units between 0 and 1"),
        (lambda: Baseline.ratio([1.0, 2.0], [1.0, 1.0, 1.0]), "2 numerators cannot belong to 3 denominators"),
        (lambda: Baseline.ratio([1.0, 2.0], [0.0, 0.0]), "denominator sums to 0"),
        (lambda: UNIT.adjusted(1.0), "rho = 1.0; give a correlation"),
        (lambda: sample_size(UNIT, Design(), effect=0), "effect = 0 is not what"),
        (
            lambda: sample_size(UNIT, Design(alternative="less"), effect=1),
            "effect = 1 is not what alternative = 'less'",
        ),
        (lambda: sample_size(UNIT, Design(), effect=1e-9), "needs more than 1e.15 units"),
        (
            lambda: sample_size(UNIT, Design(scale="relative"), effect=0.1),
            "value = 0: a relative effect has no meaning",
        ),
        (lambda: sample_size(UNIT, Design(test="proportions"), effect=0.1), "value = 0.0 is no share of units"),
        (
            lambda: power(UNIT, Design(), units=3, effect=1),
            "units = 3 leave an arm with fewer than two; give 4 or more",
        ),
        (lambda: mde(Baseline.proportion(0.9), Design(test="proportions"), units=8), "find no effect, however large"),
        (
            lambda: power(Baseline.proportion(0.9), Design(test="proportions"), units=99, effect=0.2),
            "effect = 0.2 puts the treatment at 1.1; a share of units is between 0 and 1",
        ),
        (lambda: power(UNIT, Design(), units=99, effect=float("nan")), "effect = nan is no number"),
        (lambda: margin_power(UNIT, Design(), units=99, margin=0), "margin = 0 must be above 0"),
        (lambda: margin_size(UNIT, Design(), margin=float("nan")), "margin = nan must be above 0"),
        (lambda: margin_size(UNIT, Design(), margin=1e-9), "margin = 1e-09 needs more than 1e.15 units"),
    ],
)
def test_what_cannot_be_planned_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()


@given(
    value=st.floats(0.5, 20), deviation=st.floats(0.1, 5), effect=st.floats(0.02, 0.4), share=st.floats(0.2, 0.8),
    alternative=st.sampled_from(list(ALTERNATIVES)),
)  # fmt: skip
def test_a_metric_below_zero_is_sized_as_its_mirror(value, deviation, effect, share, alternative):
    """Up by a share of |value| from below 0 is what down by it is from above."""
    mirrored = {"greater": "less", "less": "greater", "two-sided": "two-sided"}
    shares = (share, 1 - share)
    above = Design(scale="relative", alternative=alternative, shares=shares)
    below = Design(scale="relative", alternative=mirrored[alternative], shares=shares)
    one, two = Baseline(value, deviation**2), Baseline(-value, deviation**2)
    signed = -effect if alternative == "less" else effect
    size = sample_size(one, above, effect=signed)
    assert sample_size(two, below, effect=-signed) == pytest.approx(size, rel=1e-9)
    assert power(two, below, units=2 * size, effect=-signed) == pytest.approx(
        power(one, above, units=2 * size, effect=signed), rel=1e-9
    )
    if alternative != "two-sided":
        assert mde(two, below, units=size) == pytest.approx(-mde(one, above, units=size), rel=1e-6)


@pytest.mark.parametrize("effect", [0.15, -0.15])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_power_below_zero_is_what_the_test_reaches(effect, alternative):
    rng = np.random.default_rng(1)
    runs, units = 6000, 400
    a, b = (estimate_of(rng.normal(mean, 0.55, (runs, units // 2))) for mean in (-1, -1 + effect))
    found = (compare(a, b, scale="relative", alternative=alternative).p < 0.05).mean()
    design = Design(scale="relative", alternative=alternative)
    assert found == pytest.approx(power(Baseline(-1.0, 0.55**2), design, units=units, effect=effect), abs=0.02)
