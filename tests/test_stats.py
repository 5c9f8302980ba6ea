import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from suisen import stats
from suisen.errors import InputError

with warnings.catch_warnings():  # the oracle's import is not ours to judge
    warnings.simplefilter("ignore")
    from statsmodels.stats.multitest import multipletests

ps = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(ps)
@settings(max_examples=25, deadline=None)  # the oracle collects garbage at every call
def test_holm_is_that_of_statsmodels(values):
    assert stats.holm(values).tolist() == pytest.approx(multipletests(values, method="holm")[1].tolist())


@given(ps)
@settings(max_examples=25, deadline=None)  # the oracle collects garbage at every call
def test_benjamini_hochberg_is_that_of_statsmodels(values):
    assert stats.benjamini_hochberg(values).tolist() == pytest.approx(
        multipletests(values, method="fdr_bh")[1].tolist()
    )


def test_corrections_of_growthbook():
    """Published expectations of another A/B platform's test-suite."""
    assert stats.holm([0.01, 0.04, 0.03, 0.005, 0.55, 0.6]).tolist() == pytest.approx([0.05, 0.12, 0.12, 0.03, 1, 1])
    given_, expected = (
        [0.898, 0.138, 0.007, 0.964, 0.538, 0.006, 0.138],
        [0.964, 0.2415, 0.0245, 0.964, 0.7532, 0.0245, 0.2415],
    )
    assert stats.benjamini_hochberg(given_).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("correct", [stats.holm, stats.benjamini_hochberg])
def test_corrections_of_nothing_and_of_what_is_no_probability(correct):
    assert correct([]).tolist() == []
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="give probabilities between 0 and 1"):
            correct([0.5, bad])


def test_paired_p_is_that_of_scipy():
    rng = np.random.default_rng(0)
    ours, theirs = rng.random((30, 3)), rng.random((30, 3)) + np.array([0, 0.1, 0.4])
    assert stats.paired_p(ours - theirs).tolist() == pytest.approx(scipy_stats.ttest_rel(ours, theirs).pvalue.tolist())


def test_paired_p_of_no_difference_and_of_one_row():
    assert stats.paired_p(np.zeros((5, 1))).tolist() == [1.0]
    assert stats.paired_p([[0.3]]).tolist() == [1.0]
    assert stats.paired_p(np.ones((5, 1))).tolist() == [0.0]


@pytest.mark.parametrize(
    "values", [np.random.default_rng(1).exponential(size=40), np.random.default_rng(5).lognormal(0, 2, size=15)]
)
def test_interval_is_scipys_bca(values):
    low, high = stats.bootstrap_means(values, resamples=200_000)
    peer = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=200_000, method="BCa", vectorized=True, rng=np.random.default_rng(2)
    ).confidence_interval
    width = peer.high - peer.low
    assert low[0] == pytest.approx(peer.low, abs=0.01 * width)
    assert high[0] == pytest.approx(peer.high, abs=0.01 * width)


def test_resampled_means_that_equal_the_mean_count_half():
    """As many 0 as 1 are their own mirror image, and so is their interval; many resampled means tie with theirs."""
    low, high = stats.bootstrap_means(np.arange(20) % 2, resamples=20_000)
    assert low[0] + high[0] == pytest.approx(1.0)
    assert high[0] - low[0] == pytest.approx(0.4, abs=0.051)


def test_an_interval_is_finite_however_few_the_resamples():
    low, high = stats.bootstrap_means([1.0, 2.0, 4.0], resamples=1)
    assert np.isfinite([low[0], high[0]]).all()


def test_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    samples = rng.exponential(size=(60, 600))  # skewed; mean 1; each column an experiment
    low, high = stats.bootstrap_means(samples, resamples=500)
    share = float(((low <= 1) & (high >= 1)).mean())
    assert 0.91 <= share <= 0.98
    narrow_low, narrow_high = stats.bootstrap_means(samples, resamples=500, level=0.5)
    assert 0.43 <= float(((narrow_low <= 1) & (narrow_high >= 1)).mean()) <= 0.57


def test_blocks_and_columns_change_nothing(monkeypatch):
    values = np.random.default_rng(4).random((50, 2))
    low, high = stats.bootstrap_means(values, seed=7)
    monkeypatch.setattr(stats, "DRAWS_PER_CHUNK", 333)
    again = stats.bootstrap_means(values, seed=7)
    assert again[0].tolist() == pytest.approx(low.tolist())
    assert again[1].tolist() == pytest.approx(high.tolist())
    alone = stats.bootstrap_means(values[:, 1], seed=7)
    assert (alone[0][0], alone[1][0]) == pytest.approx((low[1], high[1]))
    assert stats.bootstrap_means(values, seed=8)[0].tolist() != low.tolist()


def test_rows_without_a_value_do_not_count():
    values = np.random.default_rng(5).random(40)
    table = np.column_stack([np.concatenate([values, np.full(10, np.nan)]), np.full(50, np.nan)])
    assert stats.column_means(table)[0] == pytest.approx(values.mean())
    assert np.isnan(stats.column_means(table)[1])
    low, high = stats.bootstrap_means(table, resamples=4000)
    alone_low, alone_high = stats.bootstrap_means(values, resamples=4000)
    assert low[0] == pytest.approx(alone_low[0], abs=0.02)
    assert high[0] == pytest.approx(alone_high[0], abs=0.02)
    assert np.isnan(low[1])


def test_constant_columns_have_no_width_and_single_rows_no_interval():
    low, high = stats.bootstrap_means(np.full((9, 1), 0.1))
    assert (low[0], high[0]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert np.isnan(stats.bootstrap_means([0.5])[0]).all()
    assert np.isnan(stats.bootstrap_means(np.empty((0, 2)))[1]).all()


def test_paired_differences_use_rows_that_both_have():
    ours, theirs = np.array([1.0, 2.0, np.nan, 4.0]), np.array([0.5, np.nan, 1.0, 3.0])
    (row,) = stats.paired_differences(ours, theirs)
    assert (row.value, row.n) == (pytest.approx(0.75), 2)
    assert row.p == pytest.approx(scipy_stats.ttest_1samp([0.5, 1.0], 0).pvalue)
    with pytest.raises(InputError, match="give the same rows and columns"):
        stats.paired_differences(ours, theirs[:2])


def test_a_level_is_a_probability():
    with pytest.raises(InputError, match=r"level = 95; give a probability"):
        stats.bootstrap_means([1.0, 2.0], level=95)
