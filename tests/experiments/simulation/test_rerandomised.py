import numpy as np
import pytest

from suisen.errors import InputError
from suisen.experiments.simulation.rerandomised import rerandomise
from tests.experiments.made import plan, units_of

SPLIT = {"arms": {"control": 0.9, "treatment": 0.1}}


def test_deals_find_tests_that_cannot_be_trusted():
    rng = np.random.default_rng(0)
    d = rng.integers(1, 9, 400).astype(float)
    frame = units_of(["all"], tame__y=[rng.normal(5, 1, 400)], wild__y=[rng.lognormal(0, 2, 400)],
                     rate__y=[rng.binomial(d.astype(int), 0.3)], rate__d=[d])  # fmt: skip
    kinds = {"tame": {"kind": "value"}, "wild": {"kind": "value"}, "rate": {"kind": "ctr"}}
    tame, wild, rate = rerandomise(frame, plan(kinds, **SPLIT), repeats=1000)
    assert tame.holds
    assert rate.holds
    assert not wild.holds
    assert wild.alarms > 0.08
    assert str(tame).startswith("tame: ")
    assert "as it should be ([3.30, 6.90] %)" in str(tame)
    assert "NOT AS IT SHOULD BE" in str(wild)
    assert rerandomise(frame, plan(kinds, **SPLIT), repeats=100, seed=1)[0].repeats == 100


def test_what_cannot_be_dealt_is_refused():
    frame = units_of(["all"], m__y=[[1.0, 2.0, 3.0]])
    with pytest.raises(InputError, match="repeats = 10 must be at least 100"):
        rerandomise(frame, plan({"m": {"kind": "value"}}), repeats=10)
    with pytest.raises(InputError, match="metric 'm': 3 units cannot be dealt to two arms"):
        rerandomise(frame, plan({"m": {"kind": "value"}}, **SPLIT))
