"""Bayesian read-out: Bayes' rule by numerical integration, calibration, and what is printed where it is planned."""

import html
import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from suisen.errors import InputError
from suisen.experiments.analysis import analyze_units
from suisen.experiments.bayes import posterior
from suisen.experiments.frozen import changes
from suisen.experiments.plan import Plan
from suisen.experiments.record import Record
from suisen.experiments.result import believed
from suisen.pages.experiment import render_record

numbers = st.floats(-3, 3)


@given(numbers, st.floats(0.2, 2), st.floats(0.2, 2), numbers, st.floats(0.5, 0.99))
def test_it_is_bayes_rule_integrated(value, se, prior_sd, prior_mean, level):
    x = np.linspace(-15, 15, 60_001)
    log = -0.5 * ((x - prior_mean) / prior_sd) ** 2 - 0.5 * ((value - x) / se) ** 2
    mass = np.exp(log - log.max())
    mass /= mass.sum()
    found = posterior(value, se, prior_sd=prior_sd, prior_mean=prior_mean, level=level)
    assert found.mean == pytest.approx((mass * x).sum(), abs=1e-6)
    assert found.sd == pytest.approx(np.sqrt((mass * (x - found.mean) ** 2).sum()), abs=1e-6)
    assert found.positive == pytest.approx(mass[x > 0].sum() + mass[x == 0].sum() / 2, abs=1e-4)
    assert found.loss_if_kept == pytest.approx((mass * np.maximum(x, 0)).sum(), abs=1e-5)
    assert found.loss_if_shipped == pytest.approx((mass * np.maximum(-x, 0)).sum(), abs=1e-5)
    assert mass[(x > found.low) & (x < found.high)].sum() == pytest.approx(level, abs=2e-3)


@given(numbers, st.floats(0.05, 3), st.floats(0.05, 3))
def test_where_lower_is_better_losses_change_places_and_signs_mirror(value, se, prior_sd):
    up, down = (posterior(value, se, prior_sd=prior_sd, better=each) for each in ("higher", "lower"))
    assert (up.loss_if_kept, up.loss_if_shipped) == (down.loss_if_shipped, down.loss_if_kept)
    mirrored = posterior(-value, se, prior_sd=prior_sd)
    assert mirrored.positive == pytest.approx(1 - up.positive)
    assert mirrored.loss_if_shipped == pytest.approx(up.loss_if_kept)
    assert abs(up.mean) <= abs(value)


def test_probabilities_hold_where_effects_come_from_the_prior():
    """100,000 effects from N(0.01, 0.05²), each estimated once: of those said to be above 0 with 0.8, 0.8 are."""
    rng = np.random.default_rng(0)
    true = rng.normal(0.01, 0.05, size=100_000)
    se = rng.uniform(0.02, 0.1, size=100_000)
    value = rng.normal(true, se)
    found = [posterior(v, s, prior_sd=0.05, prior_mean=0.01) for v, s in zip(value.tolist(), se.tolist(), strict=True)]
    said = np.array([each.positive for each in found])
    for low in np.arange(0.1, 0.9, 0.1):
        some = (said >= low) & (said < low + 0.1)
        assert (true[some] > 0).mean() == pytest.approx(said[some].mean(), abs=4 * 0.5 / some.sum() ** 0.5)
    ends = np.array([[each.low, each.high] for each in found])
    assert ((ends[:, 0] < true) & (true < ends[:, 1])).mean() == pytest.approx(0.95, abs=0.003)
    shipped = said > 0.9  # the expected loss of those that one would ship is what is lost
    expected = np.mean([each.loss_if_shipped for each in found if each.positive > 0.9])
    assert np.maximum(-true[shipped], 0).mean() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prior_sd": 0.0}, "prior_sd = 0.0 should be a number above 0"),
        ({"prior_sd": float("inf")}, "prior_sd = inf should be a number above 0"),
        ({"prior_sd": 1.0, "se": 0.0}, "se = 0.0 should be a number above 0"),
        ({"prior_sd": 1.0, "level": 95}, "level = 95"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(InputError, match=message):
        posterior(0.1, **{"se": 0.1, **given})


# -- in an analysis ----------------------------------------------------------------------------------------------------


TABLES = {
    "name": "beliefs", "primary": "spent", "arms": {"control": 0.5, "treatment": 0.5},
    "metrics": {"spent": {"kind": "value"}, "other": {"kind": "value"}},
}  # fmt: skip


@pytest.fixture(scope="module")
def units():
    rng = np.random.default_rng(1)
    arm = np.repeat(["control", "treatment"], 400)
    return pl.DataFrame(
        {"arm": arm, "spent__y": rng.normal(10, 3, 800) + (arm == "treatment"), "other__y": rng.random(800)}
    )


@pytest.mark.parametrize("scale", ["relative", "absolute"])
def test_a_planned_prior_is_read_out_beside_the_verdict(units, scale, tmp_path):
    without = analyze_units(units, Plan.of({**TABLES, "scale": scale}))
    plan = Plan.of({**TABLES, "scale": scale, "bayes": {"prior_sd": 0.02}})
    result = analyze_units(units, plan)
    assert result.verdict == without.verdict
    assert result.of("primary")[0].p == without.of("primary")[0].p
    each = result.of("primary")[0]
    half = (each.effect.high - each.effect.low) / 2
    found = posterior(each.effect.value, half / stats.t.ppf(0.975, 797), prior_sd=0.02)
    assert each.posterior == pytest.approx(found, rel=1e-3)
    assert result.of("secondary")[0].posterior is None
    assert "Bayesian read-out:\n  spent, treatment: with a prior of 0 ± " in result.text()
    assert "Bayesian" not in without.text()
    assert believed(each) in html.unescape(render_record(Record(result)))
    Record(result).save(tmp_path / "result.json")
    assert Record.load(tmp_path / "result.json").result.text() == result.text()


def test_looks_widen_the_interval_and_leave_the_belief(units):
    tables = {**TABLES, "bayes": {"prior_sd": 0.02}}
    looked = analyze_units(units, Plan.of({**tables, "sequential": {"kind": "always-valid"}}))
    once = analyze_units(units, Plan.of(tables))
    assert looked.of("primary")[0].posterior == once.of("primary")[0].posterior
    assert looked.of("primary")[0].effect.low < once.of("primary")[0].effect.low


def test_what_is_no_normal_test_has_no_read_out(units):
    tables = {**TABLES, "bayes": {"prior_sd": 0.02}, "metrics": {"spent": {"kind": "value", "test": "mann-whitney"}}}
    assert analyze_units(units.drop("other__y"), Plan.of(tables)).of("primary")[0].posterior is None
    flat = units.with_columns(spent__y=1.0)
    assert analyze_units(flat, Plan.of({**TABLES, "bayes": {"prior_sd": 0.02}})).of("primary")[0].posterior is None


def test_what_blocks_the_verdict_blocks_the_belief(units):
    broken = units.filter((pl.col("arm") == "control") | (pl.int_range(pl.len()) % 2 == 0))
    result = analyze_units(broken, Plan.of({**TABLES, "bayes": {"prior_sd": 0.02}}))
    assert result.verdict.startswith("NO VERDICT") or "mismatch" in result.verdict
    assert "with a prior" not in result.text()
    assert "with a prior" not in render_record(Record(result))


def test_a_prior_is_part_of_the_plan():
    old = Plan.of(TABLES)
    kept = json.loads(json.dumps({name: value for name, value in old.as_dict().items() if name != "bayes"}))
    assert changes(Plan.of(kept), old) == ()  # frozen before there were priors
    planned = Plan.of({**TABLES, "bayes": {"prior_sd": 0.02}})
    assert [change.field for change in changes(old, planned)] == ["bayes"]
    wider = replace(planned, bayes=replace(planned.bayes, prior_sd=0.04))
    assert [str(change) for change in changes(planned, wider)] == ["bayes.prior_sd: planned 0.02, now 0.04"]
    with pytest.raises(InputError, match="prior_sd"):
        Plan.of({**TABLES, "bayes": {"prior_sd": 0}})
