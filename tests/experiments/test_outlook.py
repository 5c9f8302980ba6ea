"""Power in the middle: the plan's effect, the spread that was seen, never the effect that was seen."""

import numpy as np
import pytest

from suisen.experiments import Record, analyze
from suisen.experiments.means import compare, cuped_of, estimate
from suisen.experiments.moments import Moments, aggregate, moments
from suisen.experiments.outlook import outlook
from suisen.experiments.power import Baseline, Design, power
from suisen.experiments.units import units
from suisen.pages.experiment import write_report
from tests.experiments.made import made, plan

METRIC = {"m": {"kind": "value"}}


def of(values):
    return estimate(Moments.of(values))


def test_it_is_the_share_of_experiments_that_find_the_effect():
    rng = np.random.default_rng(0)
    rule = plan(METRIC, mde=0.5, scale="absolute", sample=1600)
    a, b = rng.normal(10, 4, (2, 4000, 400))
    said = outlook(rule, of(rng.normal(10, 4, 100_000)), 800)
    found = compare(of(a), of(b + 0.5)).p < 0.05
    assert said.power == pytest.approx(found.mean(), abs=0.02)
    assert said.planned == pytest.approx(power(Baseline(10, 16), Design(), units=1600, effect=0.5), abs=0.01)
    assert power(Baseline(10, 16), Design(), units=said.needed, effect=0.5) == pytest.approx(0.8, abs=0.01)
    assert str(said).startswith("an effect of 0.5 is found with power 4")
    assert "by 800 units, " in str(said)
    assert str(said).endswith("units reach the planned power")


def test_it_does_not_look_at_the_effect_that_was_seen():
    control = of(np.random.default_rng(1).normal(10, 4, 500))
    rule = plan(METRIC, mde=0.03)
    assert outlook(rule, control, 1000) == outlook(rule, control, 1000)
    assert outlook(rule, control, 2000).power > outlook(rule, control, 1000).power
    assert outlook(rule, control, 2000).needed == outlook(rule, control, 1000).needed


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_one_sided_plans_look_their_way(alternative):
    control = of(np.random.default_rng(1).normal(10, 4, 500))
    one, two = (outlook(plan(METRIC, mde=0.5, scale="absolute", alternative=each), control, 800)
                for each in (alternative, "two-sided"))  # fmt: skip
    assert one.power > two.power
    assert one.effect == {"greater": "0.5", "less": "-0.5"}[alternative]


def test_where_nothing_can_be_said():
    control = of(np.array([1.0, 1.0, 1.0]))
    assert outlook(plan(METRIC), of(np.arange(9.0)), 100) is None  # no mde
    assert outlook(plan(METRIC, mde=0.1), control, 100) is None  # no spread
    assert outlook(plan({"m": {"kind": "value", "quantile": 0.9}}, mde=0.1), of(np.arange(9.0)), 100) is None


def test_an_analysis_says_it_and_remembers_it(tmp_path):
    shown, log = made(2000, lift=0.1, seed=3)
    found = analyze(shown, log, plan({"ctr": {"kind": "ctr", "covariate": True}}, mde=0.05))
    slow = power(
        Baseline.of(of_ctr(found)), Design.of(found.plan), units=2000, effect=0.05
    )  # fmt: skip
    assert found.outlook.power == pytest.approx(slow, rel=1e-6)
    assert found.outlook.units == 2000
    assert "Power so far:\n  an effect of 5 % is found with power" in found.text()
    write_report(tmp_path / "page.html", Record(found))
    assert f"Power so far: {found.outlook}." in (tmp_path / "page.html").read_text(encoding="utf-8")
    Record(found).save(tmp_path / "result.json")
    assert Record.load(tmp_path / "result.json").result.outlook == found.outlook
    assert analyze(shown, log, plan({"ctr": {"kind": "ctr"}})).outlook is None


def of_ctr(found):
    """The control's adjusted estimate, from its units."""
    shown, log = made(2000, lift=0.1, seed=3)
    frame = units(shown, log, found.plan).frame
    table = aggregate(frame, ["ctr"], ("arm",))
    arms = moments(table, "ctr")
    return estimate(arms[table["arm"].to_list().index("control")], cuped=cuped_of(arms))
