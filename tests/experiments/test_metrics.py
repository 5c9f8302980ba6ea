"""Caps of a unit's value: what is cut, what is refused, what is said."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.experiments.families import Metric
from suisen.experiments.metrics import transformed
from suisen.experiments.units import units
from tests.experiments.test_units import at, events, exposures, plan


def spent(baskets, n=1000):
    """A log in which the first units spend what ``baskets`` says and the others nothing."""
    rows = [(f"u{i:04}", ("control", "treatment")[i % 2], at(0)) for i in range(n)]
    log = events(*((f"u{i:04}", at(0, 1), "purchase", float(value)) for i, value in enumerate(baskets)))
    return exposures(*rows), log


@pytest.mark.parametrize(("buyers", "winsorize"), [(40, 0.95), (30, 0.95), (7, 0.9), (300, 0.6)])
def test_a_cap_looks_at_what_was_spent_and_not_at_those_who_did_not_buy(buyers, winsorize):
    baskets = np.arange(1, buyers + 1) ** 2
    metrics = {"m": {"kind": "value", "winsorize": winsorize}}
    found = units(*spent(baskets), plan(metrics))
    top = np.quantile(baskets, winsorize, method="higher")
    assert found.frame["m__y"].to_list() == [*np.minimum(baskets, top), *[0] * (1000 - buyers)]
    assert any(f"above the quantile {winsorize:g} of those other than 0, {top:,.6g}, count as that" in note
               for note in found.notes)  # fmt: skip


def test_a_cap_that_leaves_nothing_is_refused_by_name():
    with pytest.raises(
        InputError, match=r"metrics.m: the quantile 0.95, 0 is all that is left .* raise it, or give cap"
    ):
        units(*spent([5, 9, 12]), plan({"m": {"kind": "value", "winsorize": 0.95, "winsorize_zeros": True}}))
    baskets = [3.0, 4.0] * 500
    with pytest.raises(InputError, match=r"metrics.m: the cap 2.5 is all that is left .* does not vary; raise it$"):
        units(*spent(baskets), plan({"m": {"kind": "value", "cap": 2.5}}))
    same = units(*spent([]), plan({"m": {"kind": "value", "winsorize": 0.95}}))
    assert same.frame["m__y"].n_unique() == 1  # nothing varied before: that is not the cap's doing


def test_an_absolute_cap_cuts_at_its_own_value_and_is_said():
    found = units(*spent([5, 90, 12]), plan({"m": {"kind": "value", "cap": 12.0}}))
    assert found.frame["m__y"].to_list()[:4] == [5, 12, 12, 0]
    assert "m: 1 values above the cap 12, count as that" in found.notes
    with pytest.raises(InputError, match=r"cap = 12 and winsorize = 0.9 both cut large values; keep one"):
        plan({"m": {"kind": "value", "cap": 12.0, "winsorize": 0.9}})
    with pytest.raises(InputError, match=r"winsorize_zeros says which values winsorize looks at"):
        plan({"m": {"kind": "value", "winsorize_zeros": True}})


@given(values=st.lists(st.integers(-5, 50), min_size=2, max_size=60), q=st.sampled_from([0.6, 0.9, 0.99]))
def test_a_cap_keeps_zeros_order_and_sign(values, q):
    rule = Metric(kind="value", winsorize=q)
    frame = pl.DataFrame({"m__y": [float(each) for each in values]})
    try:
        cut = transformed(frame, "m", rule, [])["m__y"].to_list()
    except InputError:
        return
    assert all(after == before or (before != 0 and after < before) for before, after in zip(values, cut))
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(cut)[order]) >= 0).all()
    assert np.sign(cut).tolist() == np.sign(values).tolist() or min(values) < 0
