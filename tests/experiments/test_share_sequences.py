"""Shares at every look: the ends by their definition, coverage at all times together from the first unit on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.experiments.share_sequences import share_difference_sequence, share_sequence


def mixture_over_likelihood(wins, n, p, a=0.5, b=0.5):
    """The martingale by its definition; the integral over q is done numerically, q = sin², where the prior is flat."""
    q = np.sin(np.linspace(0, np.pi / 2, 20_001)[1:-1]) ** 2
    law = q ** (a - 0.5) * (1 - q) ** (b - 0.5)
    log = wins * np.log(q / p) + (n - wins) * np.log((1 - q) / (1 - p))
    return (np.exp(log) * law).sum() / law.sum()


@given(st.integers(1, 200), st.floats(0.05, 0.95), st.sampled_from([0.01, 0.05, 0.2]))
def test_ends_of_a_share_are_where_the_mixture_is_one_over_alpha(n, share, alpha):
    wins = round(n * share)
    low, high = (float(end) for end in share_sequence(wins, n, alpha=alpha))
    assert 0 <= low <= wins / n <= high <= 1
    for end in (low, high):
        if 0 < end < 1:
            assert mixture_over_likelihood(wins, n, end) == pytest.approx(1 / alpha, rel=1e-3)
    mirrored = share_sequence(n - wins, n, alpha=alpha)
    assert (1 - float(mirrored[1]), 1 - float(mirrored[0])) == pytest.approx((low, high), abs=1e-9)


def test_before_and_beside_the_data_a_share_may_be_anything():
    assert [float(end) for end in share_sequence(0, 0)] == [0, 1]
    assert [float(end) for end in share_sequence([0, 9], [9, 9])[0]] == pytest.approx([0, 0.5], abs=0.1)
    assert float(share_sequence(0, 9)[0]) == 0
    assert float(share_sequence(9, 9)[1]) == 1
    wide, narrow = (np.subtract(*share_sequence(30 * k, 100 * k)[::-1]) for k in (1, 100))
    assert narrow < wide / 6


@pytest.mark.parametrize("p", [0.005, 0.1, 0.5])
def test_a_share_is_held_at_all_looks_together(p):
    """2,000 sequences, looked at after every one of 1,000 units, from the first on."""
    rng, alpha, out = np.random.default_rng(3), 0.1, np.zeros(2_000, dtype=bool)
    wins = np.zeros(2_000)
    for n in range(1, 1_001):
        wins += rng.random(2_000) < p
        counts, place = np.unique(wins, return_inverse=True)
        low, high = share_sequence(counts, n, alpha=alpha)
        out |= ((p < low) | (p > high))[place]
    assert out.mean() <= alpha + 3 * (alpha * (1 - alpha) / 2_000) ** 0.5
    assert out.mean() > alpha / 8  # not idle


def test_values_between_0_and_1_are_held_too():
    rng, alpha, out = np.random.default_rng(4), 0.1, np.zeros(1_000, dtype=bool)
    sums = np.zeros(1_000)
    for n in range(1, 301):
        sums += rng.beta(0.3, 0.7, size=1_000)
        low, high = share_sequence(sums, n, alpha=alpha)
        out |= (low > 0.3) | (high < 0.3)
    assert out.mean() <= alpha


def test_a_difference_of_shares_is_held_and_found():
    rng, out = np.random.default_rng(5), np.zeros(500, dtype=bool)
    a, b = np.zeros(500), np.zeros(500)
    for n in range(20, 1_001, 20):
        a += rng.binomial(20, 0.1, size=500)
        b += rng.binomial(20, 0.2, size=500)
        low, high = share_difference_sequence((a, n), (b, n))
        out |= (low > 0.1) | (high < 0.1)
    assert out.mean() <= 0.05
    assert (low > 0).mean() > 0.75
    for end, (upper, lower) in ((low, (0, 1)), (high, (1, 0))):  # each share errs with half of alpha
        parts = share_sequence(b, n, alpha=0.025)[upper], share_sequence(a, n, alpha=0.025)[lower]
        assert end == pytest.approx(parts[0] - parts[1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: share_sequence(3, 2), "wins should be at least 0 and at most n"),
        (lambda: share_sequence([1, float("nan")], 2), "wins should be at least 0 and at most n"),
        (lambda: share_sequence(1, 2, alpha=5), "alpha = 5"),
        (lambda: share_sequence(1, 2, prior=(0, 1)), "prior = .0, 1."),
    ],
)
def test_impossible_shares_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()
