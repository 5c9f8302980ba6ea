import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.moments import Moments, aggregate, moments
from tests.experiments.made import of_sums


def drawn(seed, n=60, shift=0.0):
    rng = np.random.default_rng(seed)
    d = rng.integers(1, 9, n).astype(float)
    x = rng.gamma(2.0, size=n) + shift
    return {"y": rng.gamma(1.0, size=n) + x, "d": d, "x": x, "w": rng.integers(1, 5, n).astype(float)}


def slow(parts):
    table = np.stack(list(parts.values()))
    return len(table[0]), table.mean(1), np.cov(table, ddof=0) * len(table[0])


@given(st.integers(0, 10_000), st.floats(-1e6, 1e6))
@settings(max_examples=30)
def test_moments_of_a_frame_are_those_of_its_definition(seed, shift):
    parts = [drawn(seed, 40, shift), drawn(seed + 1, 25, shift)]
    frame = pl.concat(
        pl.DataFrame({"arm": [arm] * len(p["y"])} | {f"m__{k}": v for k, v in p.items()}) for arm, p in zip("ab", parts)
    )
    table = aggregate(frame, ["m"])
    found = moments(table, "m")
    assert table["arm"].to_list() == ["a", "b"]
    for i, p in enumerate(parts):
        n, mean, products = slow(p)
        assert found.n[i] == n
        assert found.mean[i] == pytest.approx(mean, rel=1e-12)
        assert found.products[i] == pytest.approx(products, rel=1e-7, abs=1e-7)
        assert found[i].skewness == pytest.approx(scipy_stats.skew(p["y"]), rel=1e-6, abs=1e-6)


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_moments_of_arrays_are_those_of_a_frame_and_pool(seed):
    a, b = drawn(seed, 30), drawn(seed + 1, 50)
    both = {k: np.concatenate([a[k], b[k]]) for k in a}
    parts = [Moments.of(**a), Moments.of(**b)]
    stacked = Moments(*(np.stack([getattr(m, f) for m in parts]) for f in ("n", "mean", "products", "cubes")))
    whole, pooled = Moments.of(**both), stacked.pooled()
    for field in ("n", "mean", "products", "cubes"):
        assert getattr(pooled, field) == pytest.approx(getattr(whole, field), rel=1e-9, abs=1e-9)
    assert stacked.within().products == pytest.approx(slow(a)[2] + slow(b)[2])
    frame = pl.DataFrame({"arm": ["z"] * 30} | {f"m__{k}": v for k, v in a.items()})
    again = moments(aggregate(frame.lazy(), ["m"]), "m")
    assert again.products[0] == pytest.approx(parts[0].products, rel=1e-9, abs=1e-9)


def test_a_mean_needs_one_column_and_units_without_a_value_do_not_count():
    frame = pl.DataFrame({"arm": ["a", "a", "a", "b"], "m__y": [1, None, 3, 5], "m__x": [2.0, 99.0, 4.0, 1.0]})
    table = aggregate(frame, ["m"])
    found = moments(table, "m")
    assert table["units"].to_list() == [3, 1]
    assert found.n.tolist() == [2, 1]
    assert found.mean.tolist() == [[2, 1, 3, 1], [5, 1, 1, 1]]
    assert found.products[0].tolist() == [[2, 0, 2, 0], [0, 0, 0, 0], [2, 0, 2, 0], [0, 0, 0, 0]]


def test_leading_axes_are_independent_groups():
    y = np.random.default_rng(0).random((3, 2, 17))
    found = Moments.of(y)
    assert found.n.shape == (3, 2)
    alone = Moments.of(y[2, 1])
    assert found[2, 1].products == pytest.approx(alone.products)
    assert found[2, 1].cubes == pytest.approx(alone.cubes)


def test_rounding_is_no_variance_and_small_variance_is_no_rounding():
    frame = pl.DataFrame({"arm": ["a"] * 1000 + ["b"] * 1000, "m__y": [0.1] * 1000 + [7.3] * 1000})
    assert moments(aggregate(frame, ["m"]), "m").products[:, 0, 0].tolist() == [0.0, 0.0]
    small = 1e6 + 0.01 * np.random.default_rng(1).standard_normal(1000)
    found = moments(aggregate(pl.DataFrame({"arm": ["a"] * 1000, "m__y": small}), ["m"]), "m")
    assert found.products[0, 0, 0] / 999 == pytest.approx(np.var(small, ddof=1), rel=1e-6)


def test_a_metric_that_is_not_there_is_named():
    with pytest.raises(InputError, match="metric 'ctr' has no column ctr__y; known columns: arm"):
        aggregate(pl.DataFrame({"arm": ["a"]}), ["ctr"])


def test_published_sums_are_moments_of_a_mean():
    y = np.random.default_rng(2).random(50)
    found, true = of_sums(50, y.sum(), (y**2).sum()), Moments.of(y)
    assert found.mean == pytest.approx(true.mean)
    assert found.products == pytest.approx(true.products)
    assert np.isnan(found.cubes[0])
