import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.proportions import (
    Counts,
    chi_square,
    chi_square_table,
    few_warning,
    fisher,
    newcombe,
    score_bounds,
    wilson,
    z_test,
)
from tests.experiments.oracles import proportion

cells = st.integers(1, 40)


@st.composite
def counts(draw):
    n, m = draw(cells), draw(cells)
    return draw(st.integers(0, n)), n, draw(st.integers(0, m)), m


def test_r3_pooled_z():
    found = z_test(Counts.of(14, 28, 16, 30))
    assert -found.statistic == pytest.approx(-0.253859, abs=5e-7)  # theirs counts the control first
    assert found.p == pytest.approx(0.799604, abs=5e-7)


@given(counts())
@settings(max_examples=40)
def test_z_and_intervals_are_those_of_statsmodels(four):
    x, n, y, m = four
    found, made = z_test(Counts.of(*four)), Counts.of(*four)
    if 0 < x + y < n + m:
        statistic, p = proportion.proportions_ztest([y, x], [m, n])
        assert (found.statistic, found.p) == (pytest.approx(statistic, rel=1e-9), pytest.approx(p, rel=1e-9))
    else:
        assert (found.statistic, found.p) == (0, 1)
    for method, (low, high) in {"wald": (found.low, found.high), "newcomb": newcombe(made)}.items():
        ends = proportion.confint_proportions_2indep(y, m, x, n, method=method, compare="diff")
        assert (low, high) == (pytest.approx(ends[0], abs=1e-9), pytest.approx(ends[1], abs=1e-9))
    low, high = wilson(x, n, level=0.9)
    assert (low, high) == pytest.approx(proportion.proportion_confint(x, n, alpha=0.1, method="wilson"), abs=1e-12)


@given(counts(), st.sampled_from(["two-sided", "greater", "less"]))
@settings(max_examples=60)
def test_fisher_is_scipys(four, alternative):
    x, n, y, m = four
    true = scipy_stats.fisher_exact([[y, m - y], [x, n - x]], alternative=alternative).pvalue
    assert fisher(Counts.of(*four), alternative=alternative) == pytest.approx(true, rel=1e-9)


def test_fisher_of_many_experiments_and_of_large_counts():
    rng = np.random.default_rng(0)
    made = Counts.of(rng.binomial(50, 0.1, (3, 40)), 50, rng.binomial(30, 0.1, (3, 40)), 30)
    many = fisher(made)
    assert many.shape == (3, 40)
    assert many[2, 5] == fisher(Counts.of(made.control[2, 5], 50, made.treatment[2, 5], 30))
    true = scipy_stats.fisher_exact([[5200, 94_800], [5000, 95_000]]).pvalue
    assert fisher(Counts.of(5000, 100_000, 5200, 100_000)) == pytest.approx(true, rel=1e-7)


@given(counts(), st.booleans())
@settings(max_examples=40)
def test_chi_square_is_scipys_and_the_square_of_z(four, continuity):
    x, n, y, m = four
    found = chi_square(Counts.of(*four), continuity=continuity)
    if 0 < x + y < n + m:
        true = scipy_stats.chi2_contingency([[x, n - x], [y, m - y]], correction=continuity)
        assert (found.statistic, found.p) == (
            pytest.approx(true.statistic, rel=1e-9, abs=1e-12),
            pytest.approx(true.pvalue),
        )
    else:
        assert (found.statistic, found.p) == (0, 1)
    if not continuity:
        assert found.p == pytest.approx(z_test(Counts.of(*four)).p, rel=1e-9)


def test_chi_square_of_a_larger_table():
    table = [[10, 20, 30], [15, 15, 40]]
    true = scipy_stats.chi2_contingency(table)
    found = chi_square_table([table, table])
    assert found.df == true.dof
    assert found.p.tolist() == pytest.approx([true.pvalue] * 2)


def test_one_sided_z_and_newcombe_as_the_interval():
    made = Counts.of(10, 100, 20, 100)
    assert z_test(made, alternative="greater").p == pytest.approx(z_test(made).p / 2)
    assert z_test(made, alternative="less").p == pytest.approx(1 - z_test(made).p / 2)
    found = z_test(made, interval="newcombe")
    assert (found.low, found.high) == newcombe(made)
    one = z_test(made, interval="newcombe", alternative="less")
    assert (one.low, one.high) == (-np.inf, pytest.approx(newcombe(made, level=0.9)[1]))


def test_one_sided_chi_square_is_the_signed_root():
    """150 of 1,000 to 100 of 1,000 with "greater": p was 0.0007 and read "lowers"; it is that of z."""
    made = Counts.of(150, 1000, 100, 1000)
    root = np.sqrt(float(chi_square(made).statistic))
    for alternative, p in (("greater", scipy_stats.norm.sf(-root)), ("less", scipy_stats.norm.sf(root))):
        found = z_test(made, alternative=alternative)
        assert found.p == pytest.approx(p)
        assert np.isinf([found.low, found.high]).tolist() == [alternative == "less", alternative == "greater"]
    assert z_test(made, alternative="greater").low < 0
    assert z_test(made, alternative="less").high < 0


def slow_score(x, n, y, m, gap):
    """z of "the shares are ``gap`` apart", with the likeliest such shares found by search."""
    low, high = max(0.0, -gap), min(1.0, 1 - gap)

    def loss(p):
        parts = ((x, p), (n - x, 1 - p), (y, p + gap), (m - y, 1 - p - gap))
        return -sum(count * np.log(max(part, 1e-300)) for count, part in parts if count)

    p = optimize.minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    return (y / m - x / n - gap) / np.sqrt(p * (1 - p) / n + (p + gap) * (1 - p - gap) / m)


@given(counts(), st.floats(0.6, 0.99))
@settings(max_examples=40)
def test_score_bounds_are_where_the_score_test_rejects_and_decide_as_z_does(four, level):
    made = Counts.of(*four)
    low, high = (float(end) for end in score_bounds(made, level=level))
    assert -1 <= low <= high <= 1
    for end, sign in ((low, 1), (high, -1)):
        if -0.999 < end < 0.999 and end != float(four[2] / four[3] - four[0] / four[1]):
            assert slow_score(*four, end) == pytest.approx(sign * scipy_stats.norm.ppf(level), abs=1e-3)
    z = z_test(made).statistic
    if abs(abs(z) - scipy_stats.norm.ppf(level)) > 1e-9:
        assert (low > 0) == (z_test(made, alternative="greater").p <= 1 - level)
        assert (high < 0) == (z_test(made, alternative="less").p <= 1 - level)


def test_score_bounds_cover_few_successes():
    rng = np.random.default_rng(1)
    a, b = rng.binomial(60, 0.1, 4000), rng.binomial(40, 0.25, 4000)
    low, high = score_bounds(Counts.of(a, 60, b, 40))
    assert np.mean(low <= 0.15) == pytest.approx(0.95, abs=0.015)
    assert np.mean(high >= 0.15) == pytest.approx(0.95, abs=0.015)


def test_counts_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="treatment: a share needs at least one trial"):
        Counts.of(1, 2, 0, 0)
    with pytest.raises(InputError, match="control: successes must be from 0 to the trials"):
        Counts.of(3, 2, 0, 1)
    with pytest.raises(InputError, match="control: successes must be from 0 to the trials"):
        Counts.of(float("nan"), 2, 0, 1)
    with pytest.raises(InputError, match="interval = 'exact' is unknown"):
        z_test(Counts.of(1, 2, 1, 2), interval="exact")
    with pytest.raises(InputError, match="alternative = 'larger' is unknown"):
        fisher(Counts.of(1, 2, 1, 2), alternative="larger")


def test_few_events_are_warned_of():
    assert few_warning(Counts.of(50, 1000, 50, 1000)) == ""
    assert "an arm has 1.8 expected" in few_warning(Counts.of(20, 1000, 0, 100))
    assert "use Fisher's exact test" in few_warning(Counts.of(999, 1000, 998, 1000))


def test_intervals_of_shares_are_of_95_percent_where_no_level_is_given():
    assert wilson(8, 20)[0] == pytest.approx(wilson(8, 20, level=0.95)[0])
    counts = Counts.of(8, 20, 12, 22)
    assert newcombe(counts)[0] == pytest.approx(newcombe(counts, level=0.95)[0])
    assert z_test(counts).low == pytest.approx(z_test(counts, level=0.95).low)
