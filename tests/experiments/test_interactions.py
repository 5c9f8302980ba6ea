"""Interaction of two experiments: the product's coefficient in a robust regression, false alarms, what is found."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.experiments.interactions import interaction


def assigned(rng, n):
    """(first, second): independent arms."""
    return rng.choice(["control", "new"], n), rng.choice(["control", "red"], n, p=[0.7, 0.3])


def regression(y, a, b):
    """(coefficient of the product, its HC2 error) by ordinary least squares."""
    x = np.column_stack([np.ones(len(y)), a, b, a * b]).astype(float)
    bread = np.linalg.inv(x.T @ x)
    weight = bread @ x.T @ y
    residual, leverage = y - x @ weight, np.einsum("ni,ij,nj->n", x, bread, x)
    meat = (x * (residual**2 / (1 - leverage))[:, None]).T @ x
    return weight[3], np.sqrt((bread @ meat @ bread)[3, 3])


@given(st.integers(0, 10**6), st.floats(-2, 2))
def test_it_is_the_products_coefficient_with_robust_errors(seed, together):
    rng = np.random.default_rng(seed)
    one, two = assigned(rng, 80)
    a, b = one == "new", two == "red"
    y = a + 0.5 * b + together * a * b + rng.normal(size=80) * (1 + a + 2 * b)
    (found,) = interaction(y, one, two)
    coefficient, error = regression(y, a, b)
    assert float(found.effect.value) == pytest.approx(coefficient, rel=1e-9, abs=1e-9)
    assert float(found.effect.se) == pytest.approx(error, rel=1e-9)
    assert float(found.effect.value) == pytest.approx(float(found.beside.value - found.alone.value), abs=1e-12)
    assert (found.first, found.second) == ("new", "red")
    (swapped,) = interaction(y, two, one)
    assert float(swapped.effect.value) == pytest.approx(coefficient, rel=1e-9, abs=1e-9)  # symmetric
    (shifted,) = interaction(y + 5, one, two)
    assert float(shifted.effect.value) == pytest.approx(coefficient, rel=1e-6, abs=1e-9)


def test_a_ratio_is_linearised_cell_by_cell():
    rng = np.random.default_rng(0)
    one, two = assigned(rng, 4_000)
    d = rng.poisson(4, 4_000) + 1.0
    y = rng.binomial(d.astype(int), np.where((one == "new") & (two == "red"), 0.3, 0.2)).astype(float)
    (found,) = interaction(y, one, two, d=d)
    value = var = 0.0
    for a, b in ((0, 0), (0, 1), (1, 0), (1, 1)):
        cell = ((one == "new") == a) & ((two == "red") == b)
        ratio = y[cell].sum() / d[cell].sum()
        value += ratio if a == b else -ratio
        var += np.var(y[cell] - ratio * d[cell], ddof=1) / (cell.sum() * d[cell].mean() ** 2)
    assert float(found.effect.value) == pytest.approx(value)
    assert float(found.effect.se) == pytest.approx(np.sqrt(var))
    assert found.effect.p < 1e-4


@pytest.mark.parametrize(("together", "low", "high"), [(0.0, 0.03, 0.075), (0.8, 0.8, 1.0)])
def test_false_alarms_and_power(together, low, high):
    """600 experiments of 300 units: effects that add up are found at alpha, others often; coverage in both."""
    rng, alarms, held = np.random.default_rng(1), [], []
    for _ in range(600):
        one, two = assigned(rng, 300)
        a, b = one == "new", two == "red"
        y = 2 * a + 3 * b + together * a * b + rng.normal(size=300)
        (found,) = interaction(y, one, two)
        alarms.append(found.effect.p < 0.05)
        held.append(found.effect.low < together < found.effect.high)
    assert low <= np.mean(alarms) <= high
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_every_pair_of_arms_has_its_row():
    rng = np.random.default_rng(2)
    one, two = rng.choice(["off", "a", "b"], 300), rng.choice(["0", "1"], 300)
    found = interaction(rng.normal(size=300), one, two, controls=("off", "0"))
    assert [(each.first, each.second) for each in found] == [("a", "1"), ("b", "1")]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interaction([1, 2], ["control"], ["control", "b"]), "first has shape .1,. and y .2,."),
        (lambda: interaction([1, 2], ["a", "b"], ["control", "b"]), "controls, first = 'control' is unknown"),
        (
            lambda: interaction([1, 2], ["control", "a"], ["control", "b"]),
            "second = '[a-z]*': [01] units; an interaction needs 2",
        ),
        (lambda: interaction([1, np.nan], ["control", "a"], ["control", "b"]), "y holds NaN"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()
