"""Moments summed in one pass are those read one by one."""

import polars as pl
import pytest

from suisen.experiments.earlier import by_reading, by_summing, moments_of, summable
from suisen.experiments.units import events_of, units
from tests.experiments.made import made, plan

PARTS = {"a": {"kind": "value", "covariate": True}, "b": {"kind": "count", "covariate": True}}


@pytest.fixture(scope="module")
def tables():
    return made(400, lift=0.1)


@pytest.mark.parametrize(
    "metrics",
    [
        {"m": {"kind": "ctr", "covariate": True}},
        {"m": {"kind": "conversion", "covariate": True}},
        {"m": {"kind": "value", "winsorize": 0.95, "covariate": True}},
        {"m": {"kind": "count", "event": "click", "transform": "log"}},
        {"m": {"kind": "count", "window": "2d"}},
        {"m": {"kind": "retention", "first_day": 1, "last_day": 2}},
        {"m": {"kind": "ratio", "numerator": "a", "denominator": "b", "covariate": True}, **PARTS},
    ],
)
@pytest.mark.parametrize("apart", [False, True])
def test_one_pass_is_every_moment_read_anew(tables, metrics, apart):
    shown, events = tables
    events, pre = pl.concat([events, events[:20]]), None
    if apart:
        first = pl.col("time") < shown["time"].min()
        events, pre = events.filter(~first), events.filter(first).with_columns(page=pl.lit("home"))
    planned = plan(metrics, segments=["country"])
    found = units(shown, events, planned, pre=pre)
    assert summable(found, planned)
    untils = moments_of(found, planned, 5)
    assert len(untils) == 5
    slow = list(by_reading(planned, untils, lambda one: units(shown, events, one, pre=pre)))
    fast = list(by_summing(events_of(found, events, planned, pre=pre), found, planned, untils))
    assert [then.until for then in fast] == [then.until for then in slow]
    assert len(slow) >= 3
    assert slow[0].frame.height < slow[-1].frame.height == found.frame.height
    for one, other in zip(slow, fast, strict=True):
        assert one.plan == other.plan
        columns = [name for name in one.frame.columns if name != "country"]
        mine, theirs = (each.frame.select(columns).sort("__unit") for each in (one, other))
        for name in columns:
            values, others = (each[name].fill_null(-9).to_list() for each in (mine, theirs))
            if mine[name].dtype.is_float():
                assert others == pytest.approx(values, rel=1e-12)
            else:
                assert others == values


def test_visits_and_dropped_units_are_read_anew(tables):
    shown, events = tables
    visits = plan({"m": {"kind": "sessions"}})
    assert not summable(units(shown, events, visits), visits)
    both = pl.concat([shown, shown[:3].with_columns(arm=pl.when(pl.col("arm") == "control")
                     .then(pl.lit("treatment")).otherwise(pl.lit("control")))])  # fmt: skip
    for rule, fast in (("drop", False), ("first", True)):
        planned = plan(contamination=rule)
        assert summable(units(both, events, planned), planned) == fast
