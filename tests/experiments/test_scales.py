"""Values at and below 0: which scale decides, what a margin is of, and that a plan of one side finds one side alone."""

import re

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from suisen.experiments.analysis import AnalysisOptions, analyze_units
from suisen.experiments.means import Estimate
from suisen.experiments.proportions import Counts, z_test
from suisen.experiments.record import Record
from suisen.experiments.result import told
from suisen.experiments.scales import clear
from suisen.experiments.statistical_tests import TESTS
from suisen.pages import charts
from suisen.pages.draw import SIDE, WIDTH
from suisen.pages.experiment import render_record
from tests.experiments.made import plan, units_of

ARMS = ["control", "treatment"]
OF_SHARES = ["z", "chi2", "fisher", "welch", "student", "permutation", "bootstrap-t", "bootstrap-bca", "mann-whitney"]


def analysed(metric, y, options=None, d=None, **more):
    columns = {"m__y": y} | ({} if d is None else {"m__d": d})
    frame = units_of(ARMS, **columns)
    options = options or AnalysisOptions(resamples=999)
    return analyze_units(frame, plan({"m": metric}, start="", end="", **more), options=options)


def spread(mean, n=400, seed=0):
    y = np.random.default_rng(seed).normal(0, 1, n)
    return mean + (y - y.mean()) / y.std()


def buyers(successes, n):
    return np.repeat([1.0, 0.0], [successes, n - successes])


# -- below zero --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [name for name, test in TESTS.items() if not test.of_shares])
@pytest.mark.parametrize(("before", "after", "share"), [(-10, -5, 0.5), (-4, -6, -0.5)])
def test_a_metric_below_zero_is_raised_where_it_rises(test, before, after, share):
    result = analysed({"kind": "value", "test": test}, (spread(before), spread(after, seed=1)))
    each = result.estimates[0]
    assert each.relative.value == pytest.approx(share)
    assert each.relative.low < share < each.relative.high
    assert each.decision == ("raises" if share > 0 else "lowers")
    assert each.scale == "relative"
    if not each.ranks:
        assert result.verdict.startswith(f"Treatment {each.decision} m by 50 % [")


@pytest.mark.parametrize(
    ("before", "after", "better", "state"),
    [
        (-10, -15, "higher", "fails"), (-10, -10, "higher", "holds"), (-10, -5, "higher", "holds"),
        (-10, -5, "lower", "fails"), (-10, -15, "lower", "holds"), (10, 5, "higher", "fails"),
        (10, 15, "lower", "fails"), (10, 9.5, "higher", "undecided"), (-10, -10.5, "higher", "undecided"),
    ],
)  # fmt: skip
def test_guardrails_of_a_metric_below_zero(before, after, better, state):
    """5 % of the control's size: −10 must not fall below −10.5.  It did, to −15, and held."""
    y = (spread(before), spread(after, seed=1))
    each = analysed({"kind": "value", "better": better}, y, guardrails={"m": {"margin": 0.05}}).estimates[0]
    assert (each.guard.state, each.guard.scale, each.guard.why) == (state, "relative", "")
    assert (each.guard.p <= 0.025) == (state == "holds")


@pytest.mark.parametrize(("before", "after"), [(0.0, -1.0), (0.05, -0.5), (-0.05, -0.5), (1e-9, -0.2)])
def test_a_guardrail_of_a_control_that_may_be_zero_is_judged_on_the_absolute_scale(before, after):
    y = (spread(before), spread(after, seed=1))
    each = analysed({"kind": "value"}, y, guardrails={"m": {"margin": 0.05}}).estimates[0]
    assert (each.guard.state, each.guard.scale) == ("fails", "absolute")
    assert each.guard.margin == pytest.approx(0.05 * abs(before), abs=1e-12)
    assert each.guard.why in each.warnings
    assert each.guard.why.startswith("guardrail: the control's value is ")
    assert "its margin of 5 % is judged as a difference of " in each.guard.why


def test_an_equivalence_of_a_control_that_may_be_zero():
    y = (spread(0.01), spread(0.011, seed=1))
    for margin, state in ((0.1, "undecided"), (50.0, "holds")):
        result = analysed({"kind": "value"}, y, equivalence={"m": {"margin": margin}})
        each = result.estimates[0]
        assert (each.equality.state, each.equality.scale) == (state, "absolute")
        assert each.equality.margin == pytest.approx(0.01 * margin)
        assert each.equality.why in result.text()


def test_what_is_clear_of_zero():
    def of(value, var):
        return Estimate(np.float64(value), np.float64(var), np.float64(9), np.float64(10))

    assert [clear(of(value, var)) for value, var in ((3.1, 1), (-3.1, 1), (1e-9, 0))] == [True] * 3
    assert [clear(of(value, var)) for value, var in ((2.9, 1), (-2.9, 1), (0, 0), (0, 1))] == [False] * 4
    assert not clear(of(3.1, 1)._replace(shared=np.float64(0.5)))  # the covariate's mean is not known either


# -- nothing in the control --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", OF_SHARES)
def test_nobody_in_the_control(test):
    """0 of 1,000 against 50 of 1,000: today "does not vary"."""
    result = analysed({"kind": "conversion", "test": test}, (buyers(0, 1000), buyers(50, 1000)))
    each = result.estimates[0]
    assert each.decision == "raises"
    assert np.isnan(each.relative.value)
    assert each.relative.percent() == "not defined"
    assert each.scale == "absolute"
    assert any("the control's value is 0, so a share of it is not defined; the absolute effect decides" in said
               for said in each.warnings)  # fmt: skip
    if test == "z":
        assert each.p == pytest.approx(float(z_test(Counts.of(0, 1000, 50, 1000)).p))
        assert each.p == pytest.approx(8e-13, rel=0.1)
        assert result.verdict.startswith("Treatment raises m by 0.05 [0.03649, 0.06351]; ")
    if test == "fisher":
        assert each.p == pytest.approx(stats.fisher_exact([[50, 950], [0, 1000]]).pvalue)
    assert "not defined" in result.text()


@pytest.mark.parametrize("few", [1, 2, 5])
def test_hardly_anybody_in_the_control(few):
    """One buyer more must not turn a finding into none: the share of a value that may be 0 does not decide."""
    each = analysed({"kind": "conversion"}, (buyers(few, 1000), buyers(50, 1000))).estimates[0]
    assert (each.scale, each.decision) == ("absolute", "raises")
    assert each.p == each.absolute.p < 1e-8 < each.relative.p


@pytest.mark.parametrize("looks", [{"kind": "always-valid", "tune": 2000}, {"kind": "group", "looks": [0.5, 1.0]}])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_nobody_in_the_control_with_looks(looks, alternative):
    y = (buyers(0, 1000), buyers(50, 1000))
    each = analysed({"kind": "conversion"}, y, sequential=looks, sample=2000, alternative=alternative).estimates[0]
    assert each.scale == "absolute"
    assert np.isnan(each.relative.p)
    assert each.decision == ("not shown" if alternative == "less" else "raises")
    assert (each.absolute.p <= 0.05) == (each.absolute.low > 0)


def test_an_effect_that_is_ruled_out_is_on_the_scale_of_the_plan():
    """0.05 as a share is no difference of 0.05."""
    result = analysed({"kind": "value"}, (spread(0.001, 4000), spread(0.001, 4000, 1)), mde=0.05)
    assert result.estimates[0].scale == "absolute"
    assert "ruled out" not in result.verdict


@pytest.mark.parametrize("test", [name for name, test in TESTS.items() if not test.of_shares])
def test_arms_without_spread_that_differ(test):
    """20 units of 2 and 20 of 3: p is that of the one way in 1.4e11 of dealing them so, and not 0."""
    result = analysed({"kind": "value", "test": test}, ([2.0] * 20, [3.0] * 20))
    each = result.estimates[0]
    exact = stats.fisher_exact([[20, 0], [0, 20]]).pvalue
    assert each.absolute.p == pytest.approx(exact, rel=1e-6)
    assert each.decision == "raises"
    assert (each.absolute.low, each.absolute.value, each.absolute.high) == (1, 1, 1)
    assert each.relative.value == 0.5
    assert "p is the share of the ways to deal the units that part them so" in each.how
    few = analysed({"kind": "value", "test": test}, ([2.0] * 3, [3.0] * 3)).estimates[0]
    assert few.absolute.p == pytest.approx(0.1)
    assert few.decision == "not shown"
    assert (few.absolute.low, few.absolute.high) == (-np.inf, np.inf)


def test_arms_without_spread_one_sided_in_strata_and_with_looks():
    y = ([0.0] * 30, [4.0] * 30)
    up, down = (analysed({"kind": "value"}, y, alternative=way).estimates[0] for way in ("greater", "less"))
    assert (up.decision, down.decision, down.p) == ("raises", "not shown", 1)
    assert up.p == pytest.approx(stats.fisher_exact([[30, 0], [0, 30]], alternative="greater").pvalue, rel=1e-6)
    assert (up.absolute.low, up.absolute.high) == (4, np.inf)
    assert np.isnan(up.relative.value)  # of a control of 0
    frame = units_of(ARMS, m__y=y).with_columns(country=pl.Series(["JP", "FI"] * 30))
    each = analyze_units(frame, plan({"m": {"kind": "value"}}, strata=["country"])).estimates[0]
    one = 1 / stats.fisher_exact([[15, 0], [0, 15]], alternative="greater").pvalue
    assert each.p == pytest.approx(2 / one**2, rel=1e-6)
    looks = analysed({"kind": "value"}, y, sequential={"kind": "always-valid"}).estimates[0]
    assert looks.how.endswith(", for one look")
    many = analysed({"kind": "value"}, ([1.0] * 4000, [2.0] * 4000)).estimates[0]
    assert many.p == 1e-300


@pytest.mark.parametrize("test", [*(name for name, test in TESTS.items() if not test.of_shares)])
@pytest.mark.parametrize("empty", [0, 1])
def test_a_ratio_without_a_denominator_has_no_value_and_no_verdict(test, empty):
    y, d = (spread(3, 50), spread(3, 60, 1)), [np.ones(50), np.ones(60)]
    d[empty] = np.zeros_like(d[empty])
    result = analysed({"kind": "value", "test": test}, y, d=d, guardrails={"m": {"margin": 0.1}})
    each = result.estimates[0]
    said = f"m has no value in {ARMS[empty]}: its denominator is 0 in all units"
    assert each.decision == "no verdict"
    assert each.guard.state == "undecided"
    assert each.warnings == (f"{said}; check its definition",)
    assert result.verdict.startswith(f"No verdict: {said}")
    assert "not defined" in result.text()
    pytest.importorskip("jinja2")
    page = render_record(Record(result))
    assert "not defined" in page
    assert ">nan" not in page
    assert " nan" not in result.text()


# -- properties --------------------------------------------------------------------------------------------------------


@given(
    st.integers(0, 10_000), st.floats(-30, 30), st.floats(0.01, 100), st.sampled_from(["two-sided", "greater", "less"]),
    st.sampled_from([{}, {"test": "z"}, {"test": "mann-whitney"}]),
)  # fmt: skip
@settings(max_examples=25)
def test_shifts_factors_and_signs_of_a_whole_analysis(seed, shift, factor, alternative, how):
    """A shift changes no absolute effect, a positive factor no relative one; a sign swaps "raises" and "lowers"."""
    rng = np.random.default_rng(seed)
    y = (rng.normal(3, 1, 60), rng.normal(3.3, 1, 50))
    swapped = {"greater": "less", "less": "greater", "two-sided": "two-sided"}

    def found(change, way=alternative, scale="absolute"):
        return analysed({"kind": "value", **how}, tuple(map(change, y)), alternative=way, scale=scale).estimates[0]

    def numbers(effect, sign=1):
        low, high = sorted((sign * effect.low, sign * effect.high))
        return [sign * effect.value, low, high, effect.p]

    one = found(lambda v: v)
    moved, scaled, turned = (
        found(lambda v: v + shift),
        found(lambda v: v * factor),
        found(np.negative, swapped[alternative]),
    )
    assert numbers(moved.absolute) == pytest.approx(numbers(one.absolute), rel=1e-6, abs=1e-9)
    assert numbers(scaled.relative) == pytest.approx(numbers(one.relative), rel=1e-6, abs=1e-9)
    for scale in ("absolute", "relative"):
        assert numbers(getattr(turned, scale), -1) == pytest.approx(numbers(getattr(one, scale)), rel=1e-6, abs=1e-9)
    assert turned.p == pytest.approx(one.p, rel=1e-6)
    if abs(one.p - 0.05) > 1e-6:
        opposite = {"raises": "lowers", "lowers": "raises"}
        assert turned.decision == opposite.get(one.decision, one.decision)
        assert found(lambda v: v * factor, scale="relative").decision == found(lambda v: v, scale="relative").decision


# -- plans of one side -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", [*OF_SHARES, "quantile"])
@pytest.mark.parametrize("scale", ["absolute", "relative"])
def test_a_plan_of_one_side_never_finds_the_other(test, scale):
    """150 of 1,000 to 100 of 1,000, with "greater"."""
    how = {"kind": "value", "quantile": 0.8} if test == "quantile" else {"kind": "conversion", "test": test}
    y = (spread(9), spread(8, seed=1)) if test == "quantile" else (buyers(150, 1000), buyers(100, 1000))
    up = analysed(how, y, alternative="greater", scale=scale)
    down = analysed(how, y, alternative="less", scale=scale)
    (one,), (two,) = up.estimates, down.estimates
    assert (one.decision, two.decision) == ("not shown", "lowers")
    assert one.p > 0.99
    assert two.p <= 0.005
    assert (one.effect.high, two.effect.low) == (np.inf, -np.inf)
    assert one.effect.low < 0
    assert two.effect.high < 0
    if not one.ranks:
        assert f"No effect of treatment on m is shown: {one.effect.shown(scale)}" in up.verdict
        assert one.effect.shown(scale).split(", ")[1].startswith("at least -")
        assert down.verdict.startswith(
            f"Treatment lowers m by {told(-two.effect.value, np.nan, np.nan, scale, sign='-').split(' [')[0]}"
        )
        assert ", at least " in down.verdict.split(";")[0]
    assert "inf" not in up.text() + up.markdown() + down.verdict
    assert f"95 % {'lower' if one is up.estimates[0] else ''} bounds" in one.how


def test_chi_square_of_one_side_is_the_signed_z():
    y = (buyers(150, 1000), buyers(100, 1000))
    for way in ("greater", "less"):
        chi, z = (analysed({"kind": "conversion", "test": test}, y, alternative=way, scale="absolute").estimates[0]
                  for test in ("chi2", "z"))  # fmt: skip
        assert chi.p == z.p
    assert chi.p == pytest.approx(stats.chi2_contingency([[150, 850], [100, 900]], correction=False).pvalue / 2)


@pytest.mark.parametrize("test", ["chi2", "fisher"])
@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_share_of_a_tests_own_p_says_what_that_p_says(test, alternative):
    """One p decides on either scale, so the interval of either excludes 0 where it rejects, and nowhere else."""
    seen = set()
    for successes in range(20, 61, 2):
        y = (buyers(40, 400), buyers(successes, 400))
        each = analysed({"kind": "conversion", "test": test}, y, alternative=alternative).estimates[0]
        assert each.p == each.relative.p == each.absolute.p
        for effect in (each.absolute, each.relative):
            assert (each.p <= 0.05) == (effect.low > 0 or effect.high < 0)
            assert effect.low <= effect.value <= effect.high
        seen.add(each.decision)
    assert seen == {"two-sided": {"raises", "lowers", "not shown"}, "greater": {"raises", "not shown"},
                    "less": {"lowers", "not shown"}}[alternative]  # fmt: skip


def test_guardrails_and_other_metrics_stay_two_sided():
    frame = units_of(ARMS, m__y=(spread(9), spread(9.2, seed=1)), k__y=(spread(5), spread(5, seed=2)))
    one = plan({"m": {"kind": "value"}, "k": {"kind": "value"}}, alternative="greater",
               guardrails={"m": {"margin": 0.01}, "k": {"margin": 0.05}})  # fmt: skip
    two = plan(
        {"m": {"kind": "value"}, "k": {"kind": "value"}}, guardrails={"m": {"margin": 0.01}, "k": {"margin": 0.05}}
    )
    found, usual = (analyze_units(frame, each).estimates for each in (one, two))
    assert [each.guard for each in found] == [each.guard for each in usual]
    assert found[0].relative.high == np.inf
    assert found[1].relative == usual[1].relative


def test_a_guardrail_on_the_metric_of_a_one_sided_plan_has_both_ends():
    """1.4 % is 1.78 standard errors: within a one-sided bound of 95 %, beyond a two-sided one."""
    y, rule = (spread(9), spread(9, seed=1)), {"m": {"margin": 0.014}}
    result = analysed({"kind": "value"}, y, alternative="greater", guardrails=rule)
    guard = result.estimates[0].guard
    assert guard.state == "undecided"
    assert f"guardrail m is undecided ({guard.effect.percent()}, margin 1.4 %)" in result.verdict
    assert guard.effect.low < -0.014 < 0.014 < guard.effect.high
    assert analysed({"kind": "value"}, y, alternative="greater").estimates[0].relative.low > -0.014


@pytest.mark.parametrize("test", ["welch", "mann-whitney", "bootstrap-bca"])
@pytest.mark.parametrize(("alternative", "after"), [("greater", 8.97), ("less", 9.03)])
def test_not_even_an_alpha_of_nine_tenths_finds_the_other_side(test, alternative, after):
    each = analysed({"kind": "value", "test": test}, (spread(9), spread(after, seed=1)), alternative=alternative,
                    alpha=0.9).estimates[0]  # fmt: skip
    assert each.p > 0.5
    assert each.decision != {"greater": "lowers", "less": "raises"}[alternative]


def test_infinite_ends_come_back_from_disk_and_are_drawn_to_the_edge(tmp_path):
    pytest.importorskip("jinja2")
    rng = np.random.default_rng(3)
    frame = units_of(ARMS, m__y=(rng.normal(5, 1, 300), rng.normal(5.3, 1, 300)), k__y=rng.normal(5, 1, (2, 300)))
    frame = frame.with_columns(country=pl.Series(rng.permutation(["JP", "FI"] * 300)))
    metrics = {"m": {"kind": "value"}, "k": {"kind": "value"}}
    made = analyze_units(frame, plan(metrics, alternative="greater", segments=["country"]))
    Record(made).save(tmp_path / "r.json")
    again = Record.load(tmp_path / "r.json").result
    assert again.estimates[0].relative == made.estimates[0].relative
    assert again.estimates[0].relative.high == np.inf
    page = render_record(Record(again))
    assert not [word for word in (">inf<", "inf]", " inf ", "+inf") if word in page]
    assert ", at least " in page
    low = again.estimates[0].relative.low
    assert (
        again.estimates[0].relative.percent()
        == f"{100 * again.estimates[0].relative.value:+.3g} %, at least {100 * low:.3g} %"
    )


def test_an_end_that_is_not_there_is_drawn_to_the_edge():
    bars = [charts.Bar("a", 0.02, 0.01, np.inf, ""), charts.Bar("b", -0.02, -np.inf, -0.01, "")]
    lines = re.findall(
        r'<line x1="([0-9.]+)" y1="([0-9.]+)" x2="([0-9.]+)"[^>]*stroke-width: 2.4', str(charts.intervals("t", bars))
    )
    assert [float(lines[0][2]), float(lines[1][0])] == [WIDTH - SIDE, SIDE]
    assert float(lines[0][0]) > SIDE
    points = [charts.Point(str(day), 0.02, 0.01 / day, np.inf) for day in (1, 2, 3)]
    drawn = str(charts.course("t", points, percent=True, below="days"))
    assert "nan" not in drawn
    assert "+2 % [+0.333, no end]" in drawn


def test_several_arms_of_one_side_and_with_nobody_in_the_control():
    """What holds for all arms together has one end too, and is on the scale that decides."""
    frame = units_of(["control", "b", "c"], m__y=(buyers(0, 600), buyers(30, 600), buyers(12, 600)))
    three = {"control": 1 / 3, "b": 1 / 3, "c": 1 / 3}
    made = analyze_units(
        frame, plan({"m": {"kind": "conversion"}}, arms=three, alternative="greater", start="", end="")
    )
    for each in made.estimates:
        assert (each.scale, each.decision) == ("absolute", "raises")
        assert each.joint.effect.high == np.inf
        assert 0 < each.joint.effect.low < each.absolute.low
    assert "B raises m by 0.05, at least 0.0" in made.verdict
    assert "at least" in made.estimates[0].joint.shown("absolute")


def test_segments_of_one_side_differ_by_as_much_as_of_two():
    rng = np.random.default_rng(4)
    frame = units_of(ARMS, m__y=(rng.normal(5, 1, 600), rng.normal(5.1, 1, 600)))
    frame = frame.with_columns(country=pl.Series(rng.permutation(["JP", "FI", "DE"] * 400)))
    found = [analyze_units(frame, plan({"m": {"kind": "value"}}, alternative=way, segments=["country"])).segments
             for way in ("two-sided", "greater", "less")]  # fmt: skip
    assert found[1][0].differ_p == pytest.approx(found[0][0].differ_p, rel=0.01)
    assert found[2][0].differ_p == pytest.approx(found[0][0].differ_p, rel=0.01)


def test_segments_are_compared_on_one_scale():
    """The control has nobody in one country: a difference there is not held against shares elsewhere."""
    y = (np.concatenate([buyers(0, 300), buyers(60, 300)]), np.concatenate([buyers(30, 300), buyers(90, 300)]))
    frame = units_of(ARMS, m__y=y).with_columns(country=pl.Series((["FI"] * 300 + ["JP"] * 300) * 2))
    made = analyze_units(frame, plan({"m": {"kind": "conversion"}}, segments=["country"]))
    assert {each.value: each.estimate.scale for each in made.segments} == {"FI": "absolute", "JP": "relative"}
    assert made.segments[0].differ_p > 0.5  # + 0.1 in either
