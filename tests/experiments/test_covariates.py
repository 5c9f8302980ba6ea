"""Several covariates: equal to adjusting by all of them, honest in small samples, and never silent."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.experiments import analyze
from suisen.experiments.analysis import analyze_units
from suisen.experiments.covariates import combined, with_past
from suisen.experiments.sizing import size
from tests.experiments.made import made, plan, units_of

NAMES = ["age", "guess"]


def lives(n, seed=0, lift=0.0, new=0.4):
    """Units whose value follows their age, a model's guess and, for those with a past, what they did before."""
    rng = np.random.default_rng(seed)
    fresh = rng.random((2, n)) < new
    age, guess, before = rng.normal(0, 1, (3, 2, n))
    y = 5 + age + 0.5 * guess + np.where(fresh, 2.0, before) + rng.normal(0, 1, (2, n))
    y[1] *= 1 + lift
    x = np.where(fresh, 0.0, 3 + before)
    return units_of(
        ["control", "treatment"], m__y=y, m__x=x, age=age, guess=guess, __past=np.where(fresh, 0, 1)
    )  # fmt: skip


def by_all(frame, names, name="m"):
    """The effect and its standard error by least squares on every covariate, written out."""
    y, z = frame[f"{name}__y"].to_numpy(), np.stack([frame[each].to_numpy() for each in names], -1)
    z = z - z.mean(0)
    beta, *_ = np.linalg.lstsq(z, y - y.mean(), rcond=None)
    left, treated = y - z @ beta, (frame["arm"] == "treatment").to_numpy()
    a, b = left[~treated], left[treated]
    return b.mean() - a.mean(), np.sqrt(a.var(ddof=1) / a.size + b.var(ddof=1) / b.size), 1 - left.var() / y.var()


def test_it_is_the_adjustment_by_all_of_them():
    frame = lives(1000)
    metrics = {"m": {"kind": "value", "covariates": ["m", *NAMES]}}
    found = analyze_units(frame, plan(metrics, scale="absolute")).estimates[0]
    whole = frame.with_columns(new=(pl.col("__past") == 0).cast(pl.Float64))
    effect, error, share = by_all(whole, ["m__x", *NAMES, "new"])
    assert found.absolute.value == pytest.approx(effect, rel=1e-9)
    assert (found.absolute.high - found.absolute.low) / 2 == pytest.approx(1.961 * error, rel=1e-3)
    assert found.rho**2 == pytest.approx(share, rel=1e-9)
    assert "CUPED" in found.how


def test_units_without_a_past_are_told_from_those_who_did_nothing():
    frame, metrics = lives(2000), {"m": {"kind": "value", "covariates": ["m"]}}
    known = analyze_units(frame, plan(metrics)).estimates[0]
    blind = analyze_units(frame.drop("__past"), plan(metrics)).estimates[0]
    assert known.rho**2 > blind.rho**2 + 0.05


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.01, 100), st.floats(-50, 50))
def test_scale_and_origin_of_a_covariate_do_not_matter(seed, scale, shift):
    frame = lives(200, seed)
    rule = plan({"m": {"kind": "value", "covariates": NAMES}})
    moved = frame.with_columns(age=pl.col("age") * scale + shift, guess=-pl.col("guess") / scale)
    one, other = (analyze_units(each, rule).estimates[0] for each in (frame, moved))
    assert one.absolute.value == pytest.approx(other.absolute.value, rel=1e-7, abs=1e-9)
    assert one.absolute.low == pytest.approx(other.absolute.low, rel=1e-7, abs=1e-9)


def test_one_covariate_is_cuped():
    frame = lives(300, new=0.0)
    one = analyze_units(frame, plan({"m": {"kind": "value", "covariate": True}})).estimates[0]
    list_of_one = analyze_units(frame, plan({"m": {"kind": "value", "covariates": ["m"]}})).estimates[0]
    assert list_of_one.absolute.value == pytest.approx(one.absolute.value, rel=1e-9)
    assert list_of_one.absolute.high == pytest.approx(one.absolute.high, rel=1e-9)


def test_intervals_cover_with_several_covariates_and_few_units():
    metrics = {"m": {"kind": "value", "covariates": ["m", *NAMES]}}
    held = [analyze_units(lives(150, seed, 0.1), plan(metrics, scale="absolute")).estimates[0].absolute
            for seed in range(400)]  # fmt: skip
    truth = 0.1 * (5 + 2 * 0.4)
    assert 0.92 <= np.mean([each.low <= truth <= each.high for each in held]) <= 0.98


def test_ratios_are_adjusted_by_their_linear_parts():
    rng = np.random.default_rng(3)
    skill = rng.beta(4, 16, (2, 3000))
    shown, before = rng.poisson(9, (2, 3000)) + 1, rng.poisson(9, (2, 3000)) + 1
    frame = units_of(
        ["control", "treatment"], m__y=rng.binomial(shown, skill), m__d=shown, m__x=rng.binomial(before, skill),
        m__w=before, guess=skill + rng.normal(0, 0.05, skill.shape), __past=np.ones(skill.shape),
    )  # fmt: skip
    alone, several, none = (
        analyze_units(frame, plan({"m": {"kind": "ctr", **more}})).estimates[0]
        for more in ({"covariate": True}, {"covariates": ["m", "guess"]}, {})
    )
    widths = [each.absolute.high - each.absolute.low for each in (several, alone, none)]
    assert widths[0] < 0.97 * widths[1] < 0.97 * widths[2]
    assert several.absolute.value == pytest.approx(none.absolute.value, abs=3 * widths[2])


def test_missing_values_of_a_column_have_an_indicator():
    frame = lives(1000).with_columns(guess=pl.when(pl.col("age") > 0.5).then(None).otherwise(pl.col("guess")))
    notes: list[str] = []
    rule = plan({"m": {"kind": "value", "covariates": ["guess"]}})
    combined(frame, rule, notes)
    assert notes == ["m: adjusted by guess, no guess"]


def test_what_cannot_be_used_is_said_and_what_is_wrong_is_refused():
    frame, notes = lives(60), []
    few = combined(frame, plan({"m": {"kind": "value", "covariates": ["m", *NAMES]}}), notes)
    assert few["m__x"].unique().to_list() == [0.0]
    assert notes == ["m: 120 units are too few for 4 covariates (50 each), which are not used"]
    same = combined(frame.with_columns(age=1.0), plan({"m": {"kind": "value", "covariates": ["age"]}}), notes)
    assert same["m__x"].unique().to_list() == [0.0]
    assert "the same for all units" in notes[-1]
    with pytest.raises(InputError, match="covariates: 'height' is neither a metric of the plan nor a column"):
        combined(frame, plan({"m": {"kind": "value", "covariates": ["height"]}}), [])
    with pytest.raises(InputError, match="covariates: 'age' holds String, not numbers"):
        combined(
            frame.with_columns(pl.col("age").cast(pl.String)), plan({"m": {"kind": "value", "covariates": ["age"]}}), []
        )
    with pytest.raises(
        InputError, match=r"metrics.m.covariates: 'age' is a stratum or a segment, whose values are names"
    ):
        plan({"m": {"kind": "value", "covariates": ["age"]}}, strata=["age"])
    with pytest.raises(InputError, match="both adjust; keep covariates"):
        plan({"m": {"kind": "value", "covariate": True, "covariates": ["m"]}})


def test_the_past_of_other_metrics_is_measured_with_their_parts():
    rule = plan({"m": {"kind": "count", "covariates": ["r"]}, "a": {"kind": "count"}, "b": {"kind": "count"},
                 "r": {"kind": "ratio", "numerator": "a", "denominator": "b"}, "c": {"kind": "count"}})  # fmt: skip
    assert [name for name, each in with_past(rule).metrics.items() if each.covariate] == ["a", "b", "r"]


def test_from_events_to_a_narrower_interval():
    shown, log = made(3000, lift=0.1, seed=1)
    shown = shown.with_columns(guess=pl.Series(np.random.default_rng(0).random(shown.height)))
    metrics = {"ctr": {"kind": "ctr", "covariates": ["ctr", "clicks", "guess"]},
               "clicks": {"kind": "count", "event": "click"}}  # fmt: skip
    with_several = analyze(shown, log, plan(metrics))
    without = analyze(shown, log, plan({**metrics, "ctr": {"kind": "ctr"}}))
    one, other = with_several.estimates[0].absolute, without.estimates[0].absolute
    assert one.high - one.low < 0.99 * (other.high - other.low)
    assert any(note.startswith("ctr: adjusted by ctr before, clicks before") for note in with_several.notes)
    assert with_several.of("secondary")[0].absolute == without.of("secondary")[0].absolute


def test_sizing_uses_what_is_known_before():
    _, log = made(2000, seed=2)
    rule = {"ctr": {"kind": "ctr", "covariates": ["ctr", "guess"]}}
    found = size(plan(rule, mde=0.1, pre="4d"), log, days=[3], exposed_by="impression")
    alone = size(plan({"ctr": {"kind": "ctr"}}, mde=0.1), log, days=[3], exposed_by="impression")
    assert found.runs[0].needed < alone.runs[0].needed
