import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.ranks import hodges_lehmann, mann_whitney, mann_whitney_p

X = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
Y = [1.15, 0.88, 0.90, 0.74, 1.21]
samples = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)


def test_r9_exact_and_asymptotic():
    males, females = [19, 22, 16, 29, 24], [20, 11, 17, 12]
    u, p = mann_whitney_p(females, males, method="exact")
    assert (u, p) == (17, pytest.approx(0.111111, abs=5e-7))
    assert mann_whitney_p(females, males)[1] == pytest.approx(0.111347, abs=5e-7)
    assert mann_whitney(females, males).p == pytest.approx(0.111111, abs=5e-7)  # few units without ties: exact
    found = mann_whitney(Y, X, alternative="greater")
    assert (found.u, found.p) == (35, pytest.approx(0.127206, abs=5e-7))


@given(samples, samples, st.integers(0, 3))
@settings(max_examples=60)
def test_effects_are_their_slow_definitions(a, b, scale):
    a, b = (np.array(v) * 10.0**scale / 3 for v in (a, b))
    found = mann_whitney(a, b, method="asymptotic")
    gaps = np.sort((b[:, None] - a).ravel())
    assert found.superiority == pytest.approx((gaps > 0).mean() + (gaps == 0).mean() / 2)
    assert found.ties == pytest.approx((gaps == 0).mean())
    assert found.shift == pytest.approx(np.median(gaps), rel=1e-9, abs=1e-9)
    assert found.low <= found.superiority <= found.high
    assert found.shift_low <= found.shift <= found.shift_high
    n, m = len(a), len(b)
    k = max(1, int(np.floor(n * m / 2 - 1.959963984540054 * np.sqrt(n * m * (n + m + 1) / 12))))
    assert found.shift_low == pytest.approx(gaps[k - 1], rel=1e-9, abs=1e-9)
    assert found.shift_high == pytest.approx(gaps[-k], rel=1e-9, abs=1e-9)


def test_superiority_covers_and_shift_covers():
    rng = np.random.default_rng(0)
    theta, shift = scipy_stats.norm.cdf(0.5 / np.sqrt(5)), 0.5
    hit, moved = [], []
    for _ in range(300):
        a, b = rng.normal(0, 1, 40), rng.normal(0.5, 2, 25)
        found = mann_whitney(a, b)
        hit.append(found.low <= theta <= found.high)
        _, low, high = hodges_lehmann(a, rng.normal(0.5, 1, 25))
        moved.append(low <= shift <= high)
    assert 0.92 <= np.mean(hit) <= 0.98
    assert 0.92 <= np.mean(moved) <= 0.98


def test_brunner_and_munzels_variance():
    rng = np.random.default_rng(1)
    a, b = rng.poisson(3, 60), rng.poisson(5, 40)
    found = mann_whitney(a, b, level=0.9)
    peer = scipy_stats.brunnermunzel(b, a)
    se = (found.superiority - 0.5) / -peer.statistic  # the peer's statistic counts the second sample
    logit = np.log(found.superiority / (1 - found.superiority))
    width = (np.log(found.high / (1 - found.high)) - logit) * found.superiority * (1 - found.superiority)
    assert 1.6 < abs(width / se) < 1.7


def test_arms_apart_constant_arms_and_ties():
    apart = mann_whitney([1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 11, 12])
    assert (apart.superiority, apart.high) == (1, 1)
    assert 0.55 < apart.low < 0.95
    same = mann_whitney([2.0] * 4, [2.0] * 5)
    assert (same.p, same.superiority, same.low, same.high, same.ties) == (1, 0.5, 0.5, 0.5, 1)
    zeros = mann_whitney([0.0] * 95 + [3.0] * 5, [0.0] * 90 + [3.0] * 10)
    assert zeros.shift == 0
    assert zeros.ties > 0.8
    assert "says nothing about means" in " ".join(zeros.says.split()).replace("it says", "says")


@pytest.mark.parametrize(("n", "m", "level"), [(5, 7, 0.95), (20, 12, 0.9), (60, 60, 0.99)])
def test_where_all_pairs_point_one_way_the_interval_is_newcombes(n, m, level):
    """The root of |1 − θ| = z √var(θ), var by Newcombe 2006, method 5, from another solver."""
    found = mann_whitney(np.arange(n), 1000 + np.arange(m), level=level)
    z = scipy_stats.norm.ppf((1 + level) / 2)

    def gap(theta):
        extra = (n + m) / 2 - 1
        var = theta * (1 - theta) * (1 + extra * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (n * m)
        return (1 - theta) - z * np.sqrt(var)

    assert found.superiority == found.high == 1
    assert found.low == pytest.approx(optimize.brentq(gap, 1e-9, 1 - 1e-12), abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_the_shift_is_a_difference_of_the_units_themselves(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0, 1e6, 31), rng.normal(0, 1e-6, 27)
    found = mann_whitney(a, b)
    pairs = (b[None, :] - a[:, None]).ravel().tolist()
    assert found.shift in pairs
    assert found.shift_low in pairs
    assert found.shift_high in pairs


def test_single_units_and_none():
    one = mann_whitney([1.0], [2.0])
    assert 0 <= one.low < 0.5
    with pytest.raises(InputError, match="at least one unit in each arm"):
        mann_whitney([], [1.0])


def test_many_experiments_at_once_and_large_samples_quickly():
    y = np.random.default_rng(2).random((2, 6, 30))
    _, p = mann_whitney_p(y[0], y[1])
    assert p.shape == (6,)
    assert p[3] == pytest.approx(scipy_stats.mannwhitneyu(y[1, 3], y[0, 3], method="asymptotic").pvalue)
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=60_000), rng.normal(0.1, 1, size=40_000)  # 2.4e9 pairs are never made
    shift, low, high = hodges_lehmann(a, b)
    standard = np.sqrt(np.pi / 3 * (1 / 60_000 + 1 / 40_000))  # of the shift between normal samples
    assert shift == pytest.approx(0.1, abs=3 * standard)
    assert (high - low) / (2 * 1.96 * standard) == pytest.approx(1, abs=0.05)
