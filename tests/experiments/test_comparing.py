import numpy as np
import polars as pl
import pytest
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.analysis import AnalysisOptions, analyze_units
from suisen.experiments.comparing import _Metric, with_stratum
from suisen.experiments.means import compare, cuped_of, estimate, shares_of
from suisen.experiments.moments import Moments
from suisen.experiments.proportions import Counts, newcombe
from suisen.experiments.resampling import Sample, bootstrap, permutation, quantile
from suisen.experiments.sequential import confidence_sequence, repeated_p, spending_bounds
from tests.experiments.made import plan, units_of
from tests.experiments.oracles import tt

ARMS = ["control", "treatment"]
QUICK = AnalysisOptions(resamples=199)


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    x = rng.gamma(2, 1, 500), rng.gamma(2, 1, 450)
    y = x[0] + rng.gamma(2, 1, 500), x[1] + rng.gamma(2, 1.2, 450)
    d = rng.integers(1, 9, 500).astype(float), rng.integers(1, 9, 450).astype(float)
    return {"y": y, "x": x, "d": d}


def found(metric, columns, **more):
    frame = units_of(ARMS, **{f"m__{part}": values for part, values in columns.items()})
    if "country" in more:
        frame = frame.with_columns(pl.Series("country", more.pop("country")))
    result = analyze_units(frame, plan({"m": metric}, start="", end="", **more), options=QUICK)
    return result.estimates[0]


def same(shown, effect):
    expected = [float(each) for each in (effect.value, effect.low, effect.high, effect.p)]
    assert [shown.value, shown.low, shown.high, shown.p] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("test", ["auto", "welch", "student", "z"])
@pytest.mark.parametrize("parts", ["y", "yd"])
def test_means_and_ratios_by_moments(samples, test, parts):
    columns = {part: samples[part] for part in parts}
    each = found({"kind": "value", "test": test}, columns)
    a, b = (estimate(Moments.of(*(samples[part][i] for part in parts))) for i in (0, 1))
    name = "welch" if test == "auto" else test
    same(each.absolute, compare(a, b, test=name))
    same(each.relative, compare(a, b, test=name, scale="relative"))
    assert (each.control, each.n_control, each.n_treatment) == (pytest.approx(float(a.value)), 500, 450)
    assert each.p == each.relative.p
    assert found({"kind": "value", "test": test}, columns, scale="absolute").p == each.absolute.p
    assert ("delta method" in each.how) == (parts == "yd")


def test_cuped_is_tea_tastings_from_end_to_end():
    frame = tt.make_users_data(rng=42, covariates=True, return_type="polars").with_columns(
        pl.col("variant").replace_strict({0: "control", 1: "treatment"}).alias("arm")
    )
    columns = {"orders": "y", "sessions": "d", "orders_covariate": "x", "sessions_covariate": "w"}
    frame = frame.rename({name: f"m__{part}" for name, part in columns.items()})
    metrics = {"m": {"kind": "ratio", "numerator": "a", "denominator": "a", "covariate": True}, "a": {"kind": "count"}}
    frame = frame.with_columns(pl.col("m__y").alias("a__y"))
    each = analyze_units(frame, plan(metrics, start="", end="", scale="absolute")).estimates[0]
    assert each.p == pytest.approx(0.002292943842523407, rel=1e-9)
    assert "CUPED with rho" in each.how


def test_strata_are_weighted_and_small_ones_joined(samples):
    rng = np.random.default_rng(1)
    country = rng.choice(["JP", "FI"], 950, p=[0.7, 0.3]).tolist()
    country[0] = "DE"
    each = found({"kind": "value", "covariate": True}, {"y": samples["y"], "x": samples["x"]}, country=country,
                 strata=["country"])  # fmt: skip
    where = np.array(["JP" if c == "DE" else c for c in country])
    arm = np.repeat([0, 1], [500, 450])
    y, x = np.concatenate(samples["y"]), np.concatenate(samples["x"])
    cells = [[Moments.of(y[(arm == a) & (where == c)], None, x[(arm == a) & (where == c)]) for c in ("FI", "JP")]
             for a in (0, 1)]  # fmt: skip
    fields = ("n", "mean", "products", "cubes")
    both = Moments(*(np.array([[getattr(m, f) for m in row] for row in cells]) for f in fields))
    cuped, shares = cuped_of(both, strata=True), shares_of(both)
    same(each.absolute, compare(*(estimate(both[i], cuped=cuped, shares=shares) for i in (0, 1))))
    assert "post-stratified by country" in each.how
    assert not any("strata" in said for said in each.warnings)
    ranked = found({"kind": "value", "test": "mann-whitney"}, {"y": samples["y"]}, country=country, strata=["country"])
    assert "strata are not used by Mann-Whitney U" in ranked.warnings
    assert "post-stratified" not in ranked.how
    frame = pl.DataFrame({"arm": ARMS * 3, "country": ["JP"] * 4 + ["DE"] * 2})
    joined, said = with_stratum(frame, plan({"m": {"kind": "count"}}, strata=["country"]))
    assert joined["__stratum"].unique().to_list() == ["JP"]
    assert said == "1 strata with fewer than 2 units in an arm are in 'JP'"


@pytest.mark.parametrize("test", ["auto", "chi2", "fisher"])
def test_shares(test):
    y = np.repeat([1.0, 0.0], [30, 470]), np.repeat([1.0, 0.0], [45, 405])
    each = found({"kind": "conversion", "test": test}, {"y": y})
    table = [[45, 405], [30, 470]]
    if test == "fisher":
        p = scipy_stats.fisher_exact(table).pvalue
        assert (each.absolute.low, each.absolute.high) == pytest.approx(newcombe(Counts.of(30, 500, 45, 450)))
        assert "Fisher's exact in place of a normal test" in each.remedies
    else:
        p = scipy_stats.chi2_contingency(table, correction=False).pvalue
    assert each.absolute.p == pytest.approx(p)
    assert each.p == pytest.approx(p) if test != "auto" else each.p == each.relative.p
    assert each.test == {"auto": "z", "chi2": "chi-square", "fisher": "Fisher's exact"}[test]
    assert not any(warning.startswith("few events") for warning in each.warnings)


def test_ranks_go_with_the_means_and_say_so(samples):
    each = found({"kind": "value", "test": "mann-whitney"}, {"y": samples["y"]})
    true = scipy_stats.mannwhitneyu(samples["y"][1], samples["y"][0])
    assert (each.p, each.ranks.u) == (pytest.approx(true.pvalue), true.statistic)
    same(each.absolute, compare(*(estimate(Moments.of(y)) for y in samples["y"])))
    assert "those of the means, by Welch's t" in each.how
    ratio = found({"kind": "value", "test": "mann-whitney"}, {"y": samples["y"], "d": samples["d"]})
    own = [y / d for y, d in zip(samples["y"], samples["d"])]
    assert ratio.p == pytest.approx(scipy_stats.mannwhitneyu(own[1], own[0]).pvalue)


def test_resampling_and_quantiles(samples):
    a, b = Sample.of(samples["y"][0]), Sample.of(samples["y"][1])
    few = {"resamples": 199, "seed": 0}
    for name, test in (("bootstrap-t", lambda s: bootstrap(a, b, scale=s, **few)),
                       ("bootstrap-bca", lambda s: bootstrap(a, b, scale=s, method="bca", **few)),
                       ("permutation", lambda s: permutation(a, b, scale=s, **few))):  # fmt: skip
        each = found({"kind": "value", "test": name}, {"y": samples["y"]})
        same(each.absolute, test("absolute"))
        same(each.relative, test("relative"))
    each = found({"kind": "value", "quantile": 0.9}, {"y": samples["y"]})
    same(each.absolute, quantile(samples["y"][0], samples["y"][1], 0.9))
    assert each.how.startswith("quantile 0.9 of units; bootstrap of the quantile")
    assert ", 95 % intervals" in each.how


def test_resampling_is_adjusted_by_the_covariate(samples):
    columns = {"y": samples["y"], "x": samples["x"]}
    plain, adjusted = (found({"kind": "value", "test": "permutation", "covariate": c}, columns) for c in (False, True))
    welch = found({"kind": "value", "covariate": True}, columns)
    assert adjusted.absolute.value == pytest.approx(welch.absolute.value, rel=1e-9)
    width = adjusted.absolute.high - adjusted.absolute.low
    assert width == pytest.approx(welch.absolute.high - welch.absolute.low, rel=0.15)
    assert width < 0.9 * (plain.absolute.high - plain.absolute.low)


def lifted(lift, ratio, seed=8):
    """Units whose covariate has a mean far from 0, which a covariate that is not centred would move the effect by."""
    rng = np.random.default_rng(seed)
    taste = rng.gamma(4, 3, 900)
    d = rng.integers(2, 9, 900).astype(float) if ratio else np.ones(900)
    w = rng.integers(2, 9, 900).astype(float) if ratio else np.ones(900)
    treated = np.arange(900) >= 400
    y = d * (taste + rng.normal(0, 1, 900)) * (1 + lift * treated)
    columns = {"y": y, "x": w * (taste + rng.normal(0, 1, 900))} | ({"d": d, "w": w} if ratio else {})
    return {name: (values[:400], values[400:]) for name, values in columns.items()}


@pytest.mark.parametrize(
    ("how", "ratio"),
    [
        ({"test": test}, ratio) for test in ("bootstrap-t", "bootstrap-bca", "permutation") for ratio in (False, True)
    ],
)  # fmt: skip
def test_effects_with_a_covariate_are_the_true_ones_by_every_resampling_test(how, ratio):
    """+9.4 %: the covariate takes noise away and moves no effect, neither the absolute one nor the relative one."""
    columns = lifted(0.094, ratio)
    each = found({"kind": "value", "covariate": True, **how}, columns)
    plain = found({"kind": "value", **how}, {name: columns[name] for name in columns if name in "yd"})
    assert each.relative.low < 0.094 < each.relative.high
    assert each.relative.value == pytest.approx(0.094, abs=0.03)
    assert each.absolute.value == pytest.approx(0.094 * 12, abs=0.4)
    assert each.control == pytest.approx(12, abs=0.4)
    welch = found({"kind": "value", "covariate": True}, columns)
    assert each.relative.value == pytest.approx(welch.relative.value, abs=0.004)
    for scale in ("absolute", "relative"):
        ours, theirs, wide = (getattr(one, scale) for one in (each, welch, plain))
        assert ours.high - ours.low == pytest.approx(theirs.high - theirs.low, rel=0.25)
        assert ours.high - ours.low < 0.7 * (wide.high - wide.low)


@pytest.mark.parametrize("ratio", [False, True])
@pytest.mark.parametrize("test", ["bootstrap-t", "bootstrap-bca", "permutation"])
@pytest.mark.parametrize("added", [True, False])
def test_a_large_relative_effect_is_as_sure_by_resampling_as_by_the_delta_method(test, ratio, added):
    """The covariate's mean moves both arms in every resample, too: without that the interval is a third too narrow."""
    columns = lifted(0.0 if added else 0.8, ratio)
    if added:
        columns["y"] = (columns["y"][0], columns["y"][1] + 10 * columns["d"][1] if ratio else columns["y"][1] + 10)
    each, welch = (
        found({"kind": "value", "covariate": True, "test": name}, columns).relative for name in (test, "welch")
    )
    assert each.value == pytest.approx(welch.value, rel=0.02)
    assert each.high - each.low == pytest.approx(welch.high - welch.low, rel=0.2)


@pytest.mark.parametrize("how", [{"quantile": 0.5}, {"test": "mann-whitney"}])
def test_a_test_without_a_covariate_says_so_and_compares_plain_values(how):
    """The quantile of values that a covariate adjusted is that of nothing."""
    columns = lifted(0.094, ratio=False)
    each = found({"kind": "value", "covariate": True, **how}, columns)
    plain = found({"kind": "value", **how}, {"y": columns["y"]})
    assert (each.absolute, each.relative, each.p) == (plain.absolute, plain.relative, plain.p)
    assert each.rho is None
    assert any(said.startswith("the covariate is not used by ") for said in each.warnings)


# -- looks ------------------------------------------------------------------------------------------------------------


def test_always_valid_intervals(samples):
    each = found({"kind": "value"}, {"y": samples["y"]}, sequential={"kind": "always-valid", "tune": 800})
    effect = compare(*(estimate(Moments.of(y)) for y in samples["y"]), scale="relative")
    same(each.relative, confidence_sequence(effect, 950, tune=800))
    assert each.p == each.relative.p


def test_group_sequential_intervals_and_the_p_that_goes_with_them(samples):
    looks = [0.25, 0.5, 0.75, 1.0]
    each = found({"kind": "value"}, {"y": samples["y"]}, sample=1600, scale="absolute",
                 sequential={"kind": "group", "looks": looks})  # fmt: skip
    effect = compare(*(estimate(Moments.of(y)) for y in samples["y"]))
    times = [0.25, 950 / 1600]
    bound = spending_bounds(times).bounds[-1]
    far = -scipy_stats.t.ppf(scipy_stats.norm.cdf(-bound), float(effect.df))  # as rare as the bound, which p is held to
    assert each.absolute.low == pytest.approx(float(effect.value - far * effect.se))
    z = scipy_stats.norm.isf(float(effect.p) / 2)
    assert each.p == pytest.approx(repeated_p(z, times), rel=1e-6)
    assert (each.p <= 0.05) == (z >= bound)
    assert "at look 2" in each.how
    before = found({"kind": "value"}, {"y": samples["y"]}, sample=10_000, sequential={"kind": "group", "looks": looks})
    assert (before.p, before.relative.low) == (1, -np.inf)


def test_one_sided_looks(samples):
    more = {"sample": 1600, "sequential": {"kind": "group", "looks": [0.5, 1.0]}}
    two, up, down = (found({"kind": "value"}, {"y": samples["y"]}, alternative=way, **more)
                     for way in ("two-sided", "greater", "less"))  # fmt: skip
    assert up.p == pytest.approx(two.p / 2)
    assert down.p == pytest.approx(1 - two.p / 2)
    assert (up.relative.high, down.relative.low) == (np.inf, -np.inf)
    assert up.relative.low > two.relative.low
    for alpha in (0.2, 0.05, 0.01, 0.001, 1e-4):
        for kind in ({"kind": "group", "looks": [0.5, 1.0]}, {"kind": "always-valid", "tune": 800}):
            for way in ("two-sided", "greater", "less"):
                each = found({"kind": "value"}, {"y": samples["y"]}, alternative=way, alpha=alpha, sample=1600,
                             sequential=kind)  # fmt: skip
                for effect in (each.absolute, each.relative):
                    assert (effect.p <= alpha) == (effect.low > 0 or effect.high < 0)


def test_looks_need_a_test_that_knows_them(samples):
    sequential = {"kind": "always-valid"}
    with pytest.raises(InputError, match=r"metrics.m.test = 'permutation' knows no looks; use welch"):
        found({"kind": "value", "test": "permutation"}, {"y": samples["y"]}, sequential=sequential)
    frame = units_of(ARMS, m__y=samples["y"], k__y=samples["y"])
    metrics = {"m": {"kind": "value"}, "k": {"kind": "value", "test": "permutation"}}
    result = analyze_units(frame, plan(metrics, sequential=sequential), options=QUICK)
    assert result.estimates[1].how.endswith("holds for one look only")


# -- guardrails, warnings, refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "better", "scale", "state"),
    [
        (0.0, "higher", "relative", "holds"), (0.0, "higher", "absolute", "holds"),
        (-2.0, "higher", "relative", "fails"), (-1.0, "higher", "absolute", "undecided"),
        (2.0, "higher", "relative", "holds"), (2.0, "lower", "relative", "fails"), (-2.0, "lower", "absolute", "holds"),
    ],
)  # fmt: skip
def test_guardrails(shift, better, scale, state):
    y = np.random.default_rng(2).normal(10, 1, 400)
    margin = 0.1 if scale == "relative" else 1.0
    each = found({"kind": "value", "better": better}, {"y": (y, y + shift)}, scale="absolute",
                 guardrails={"m": {"margin": margin, "scale": scale}})  # fmt: skip
    assert each.guard.state == state
    assert (each.guard.p <= 0.025) == (state == "holds")


def test_warnings_name_the_remedy():
    rng = np.random.default_rng(3)
    tail = {"y": (rng.lognormal(0, 2, 900), rng.lognormal(0, 2, 100))}
    heavy = found({"kind": "value"}, tail)
    assert "heavy tail and unequal split" in heavy.warnings[0]
    mended = found({"kind": "value", "test": "permutation"}, tail)
    assert mended.warnings == ()
    (said,) = found({"kind": "value", "test": "bootstrap-t"}, tail).warnings
    assert "so bootstrap intervals do not cover as they say; use a permutation test" in said
    assert mended.remedies == ("permutation of t in place of a normal test",)
    spread = {"y": (rng.lognormal(0, 1, 300) - 1.3, rng.lognormal(0, 1, 300) - 1.3)}
    assert any(
        said.startswith("relative effect: the control's value is") for said in found({"kind": "value"}, spread).warnings
    )
    rare = np.repeat([1.0, 0.0], [2, 98])
    few = found({"kind": "conversion"}, {"y": (rare, rare)})
    assert "few events: an arm has 2.0 expected" in few.warnings[0]
    clicks = found({"kind": "ctr"}, {"y": (rare, rare), "d": (np.full(100, 5.0), np.full(100, 5.0))})
    assert any("2 units of an arm have any click" in warning for warning in clicks.warnings)


def test_absolute_and_relative_may_disagree_and_that_is_said():
    rng = np.random.default_rng(4)
    a, b = rng.lognormal(0, 2.0, 300), rng.lognormal(0, 2.0, 300)
    a, b = a / a.mean(), b / b.mean()
    for shift in np.linspace(1, 3, 41):
        each = found({"kind": "value"}, {"y": (a, b * shift)})
        if (each.absolute.p <= 0.05) != (each.relative.p <= 0.05):
            break
    assert each.relative.p > 0.05 > each.absolute.p
    assert any("disagree; the plan decides by the relative one" in warning for warning in each.warnings)
    assert not each.significant


def test_a_control_near_zero_has_no_shares():
    rng = np.random.default_rng(5)
    each = found({"kind": "value"}, {"y": (rng.normal(0, 1, 200), rng.normal(0.5, 1, 200))})
    assert any("not clear of 0" in warning for warning in each.warnings)
    assert (each.scale, each.p) == ("absolute", each.absolute.p)
    near = found({"kind": "value"}, {"y": (rng.normal(1, 2, 100), rng.normal(1.5, 2, 100))})
    assert any("decide by the absolute" in warning for warning in near.warnings)  # between 3 and 10 standard errors
    assert near.scale == "relative"


def test_a_metric_without_variance_is_not_tested():
    each = found({"kind": "value"}, {"y": ([2.0] * 50, [2.0] * 50)})
    assert np.isnan(each.p)
    assert each.decision == "no verdict"
    assert each.good is None
    assert each.warnings[0] == "m does not vary, so it cannot be tested; is 'purchase' how its events are called?"


def test_covariates_that_tell_nothing_are_said_to():
    y = np.random.default_rng(6).normal(5, 1, (2, 60))
    each = found({"kind": "value", "covariate": True}, {"y": y, "x": np.zeros((2, 60))})
    assert each.rho is None
    assert "the covariate tells nothing" in each.warnings[0]


@pytest.mark.parametrize(
    ("metric", "columns", "more", "message"),
    [
        ({"kind": "value", "test": "fisher"}, {"y": ([1.0, 2.0, 3.0],) * 2}, {}, "test = 'fisher' is of plain shares"),
        ({"kind": "value", "quantile": 0.5}, {"y": ([1.0, 2.0],) * 2, "d": ([1.0, 2.0],) * 2}, {},
         "it is a ratio; drop"),
        ({"kind": "value"}, {"y": ([1.0], [1.0, 2.0])}, {}, "arm 'control' has 1 units with a value; a test needs 2"),
    ],
)  # fmt: skip
def test_tests_that_cannot_be_are_refused(metric, columns, more, message):
    with pytest.raises(InputError, match=message):
        found(metric, columns, **more)


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_the_columns_of_a_quantile_are_what_is_compared(q):
    rng = np.random.default_rng(2)
    y = rng.lognormal(0, 1, 400), rng.lognormal(0.2, 1, 300)
    each = found({"kind": "value", "quantile": q}, {"y": y}, scale="absolute")
    control, treatment = (np.sort(one)[int(np.ceil(len(one) * q - 1e-9)) - 1] for one in y)
    assert (each.control, each.treatment) == (control, treatment)
    assert each.absolute.value == pytest.approx(treatment - control, rel=1e-12)


def test_units_are_taken_once_for_all_that_is_asked_of_a_metric(monkeypatch):
    taken, sample = [], _Metric.sample
    monkeypatch.setattr(_Metric, "sample", lambda self, arm: taken.append(arm) or sample(self, arm))
    rng = np.random.default_rng(0)
    y = rng.gamma(2, 1, 200), rng.gamma(2, 1, 200)
    rule = {"kind": "value", "test": "bootstrap-t"}
    found(rule, {"y": y}, guardrails={"m": {"margin": 0.2}}, alternative="greater")
    assert sorted(taken) == ["control", "treatment"]
