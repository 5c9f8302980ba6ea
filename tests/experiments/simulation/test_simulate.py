"""Repetitions: each vectorised test is that of one experiment; known rates are found again; bands are binomial."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.simulation.laws import Units, law
from suisen.experiments.simulation.simulate import (
    TRIALS,
    Cell,
    Experiments,
    Tally,
    _by_stratum,
    _capped,
    _strata,
    band,
    blocks,
    fitting,
    run,
)


def arms_of(name, *, n=60, runs=5, share=0.3, lift=0.2):
    (arms,) = blocks(Cell(law=name, n=n, share=share, lift=lift, runs=runs))
    return arms


def judged(test, arms, cell):
    return TRIALS[test].judge(arms if TRIALS[test].change is None else TRIALS[test].change(arms), cell)


@pytest.mark.parametrize(
    ("test", "name", "oracle"),
    [
        ("welch", "lognormal-1", lambda a, b: scipy_stats.ttest_ind(b, a, equal_var=False).pvalue),
        ("student", "pareto", lambda a, b: scipy_stats.ttest_ind(b, a).pvalue),
        ("log", "buyers", lambda a, b: scipy_stats.ttest_ind(np.log1p(b), np.log1p(a), equal_var=False).pvalue),
        ("mann-whitney", "counts", lambda a, b: scipy_stats.mannwhitneyu(b, a, method="asymptotic").pvalue),
        ("fisher", "conversion", lambda a, b: scipy_stats.fisher_exact(table(a, b)).pvalue),
        ("chi-square", "conversion", lambda a, b: scipy_stats.chi2_contingency(table(a, b), correction=False).pvalue),
        ("z", "conversion", lambda a, b: scipy_stats.chi2_contingency(table(a, b), correction=False).pvalue),
    ],
)
def test_each_row_is_the_test_of_that_experiment(test, name, oracle):
    arms = arms_of(name)
    found = judged(test, arms, Cell(law=name, n=60, runs=5))
    slow = [oracle(a, b) for a, b in zip(arms.control.y, arms.treatment.y)]
    assert found.p.tolist() == pytest.approx(slow, rel=1e-9)


def table(a, b):
    return [[a.sum(), len(a) - a.sum()], [b.sum(), len(b) - b.sum()]]


def test_winsorising_cuts_at_the_quantile_of_both_arms():
    arms = arms_of("lognormal-2")
    cut = _capped(arms)
    for row in range(5):
        cap = np.quantile([*arms.control.y[row], *arms.treatment.y[row]], 0.99)
        assert cut.treatment.y[row].tolist() == np.minimum(arms.treatment.y[row], cap).tolist()
        assert cut.control.y[row].max() <= cap


def test_strata_are_those_of_one_experiment():
    control, treatment = (law("before").draw(np.random.default_rng(seed), (6, 80), 0.0) for seed in (0, 1))
    lone = np.where(np.arange(80) == 0, 3.0, -np.abs(control.x[0]))  # above the median: one unit
    control.x[0] = lone
    codes = _strata(control, treatment)
    found = _by_stratum(control, codes[0])
    for row in range(6):
        slow = [np.digitize(units.x[row], [-0.6745, 0, 0.6745]) for units in (control, treatment)]
        counts = np.array([[(code == h).sum() for h in range(4)] for code in slow])
        small = [h for h in range(4) if counts[:, h].min() < 2]
        slow = [np.where(np.isin(code, small), counts.sum(0).argmax(), code) for code in slow]
        assert codes[1][row].tolist() == slow[1].tolist()
        parts = [control.y[row][slow[0] == h] for h in range(4)]
        assert found.n[row].tolist() == [len(part) for part in parts]
        assert found.mean[row, :, 0].tolist() == pytest.approx([part.mean() if len(part) else 0 for part in parts])
        assert found.products[row, :, 0, 0].tolist() == pytest.approx(
            [part.var() * len(part) if len(part) else 0 for part in parts]
        )
    assert found.n[0, 2] == found.n[0, 3] == 0
    effect = judged("post-stratified", Experiments(control, treatment), Cell(law="before", n=80, runs=6))
    assert np.isfinite(effect.p).all()
    with pytest.raises(InputError, match="needs a covariate"):
        _strata(Units(control.y), treatment)


@pytest.mark.parametrize("test", ["bootstrap-t", "bootstrap-bca", "permutation"])
def test_resampling_goes_experiment_by_experiment(test):
    found = run(Cell(law="ctr", n=40, runs=8, resamples=99), [test])[0]
    assert found.runs == 8
    assert 0 <= found.rejected <= 3
    assert found.covered == 8 - found.rejected or abs(found.covered + found.rejected - 8) <= 2
    assert (found.warned is None) == (test == "permutation")


def test_what_the_reference_simulation_says():
    """Rates of the reference tables (10,000 runs), found again in 4,000: within 4.5 standard errors of both."""
    reference = [
        (Cell(law="lognormal-2", n=200, share=0.1, runs=4000), "welch", 0.1608),
        (Cell(law="buyers", n=200, share=0.1, runs=4000), "welch", 0.2367),
        (Cell(law="lognormal-2", n=200, runs=4000), "welch", 0.0327),
        (Cell(law="ctr", n=1000, runs=2000), "z of impressions", 0.152),
        (Cell(law="ctr", n=1000, runs=2000), "delta", 0.050),
    ]
    for cell, test, rate in reference:
        found = run(cell, [test])[0]
        room = 4.5 * np.sqrt(rate * (1 - rate) * (1 / cell.runs + 1 / 10_000))
        assert abs(found.rejected / cell.runs - rate) <= room, (cell, test, found)
        assert found.covered is not None


def test_false_alarms_of_a_small_arm_say_that_it_is_worse_and_are_warned_of():
    welch = run(Cell(law="lognormal-2", n=200, share=0.1, runs=1000), ["welch"])[0]
    assert welch.below > 0.95 * welch.rejected
    assert welch.warned == 1.0
    few = run(Cell(law="conversion", n=30, share=0.5, runs=300), ["z", "fisher"])
    assert few[0].warned > 0.5
    assert few[1].warned is None
    calm = run(Cell(law="before", n=200, runs=300), ["cuped"])[0]
    assert calm.warned == 0.0


def test_intervals_hold_the_effect_that_is_there():
    """A lift of 20 %: absolute and relative intervals of 1,500 runs, in the band of 95 % for two rows."""
    cell = Cell(law="ctr", n=500, lift=0.2, runs=1500)
    for found in run(cell, ["delta", "delta, relative"]):
        low, high = band(0.95, cell.runs, rows=4)
        assert low <= found.covered / cell.runs <= high
        assert found.rejected > 0.3 * cell.runs
    own = run(Cell(law="counts", n=50, lift=0.2, runs=20), ["log", "mann-whitney", "welch"])
    assert [tally.covered is None for tally in own] == [True, True, False]


def test_post_stratification_and_cuped_gain_power():
    welch, cuped, strata = run(Cell(law="before", n=300, lift=0.15, runs=400))
    assert welch.rejected < strata.rejected < cuped.rejected


def test_the_same_cell_draws_the_same_and_another_does_not():
    one, two = (run(Cell(law="counts", n=50, runs=200), ["welch"]) for _ in range(2))
    assert one == two
    kinds = ({}, {"seed": 1}, {"share": 0.1})
    first = [next(iter(blocks(Cell(law="counts", n=50, runs=2, **more)))).control.y[0, :9].tolist() for more in kinds]
    assert len({str(each) for each in first}) == 3


def test_blocks_hold_all_runs(monkeypatch):
    monkeypatch.setattr("suisen.experiments.simulation.simulate.UNITS_PER_CHUNK", 4 * 50)
    sizes = [len(arms.control.y) for arms in blocks(Cell(law="counts", n=50, runs=5))]
    assert sizes == [2, 2, 1]
    assert run(Cell(law="counts", n=50, runs=5), ["welch"])[0].runs == 5


@pytest.mark.parametrize("rows", [1, 40])
def test_bands_hold_what_they_say(rows):
    low, high = band(0.05, 2000, rows)
    inside = scipy_stats.binom(2000, 0.05).cdf(high * 2000) - scipy_stats.binom(2000, 0.05).cdf(low * 2000 - 1)
    assert 1 - 0.01 / rows <= inside < 1 - 0.5 * 0.01 / rows


def test_the_fast_tests_fit_the_law():
    assert fitting("conversion") == ("z", "chi-square", "fisher", "welch")
    assert fitting("ctr")[0] == "delta"
    assert fitting("before") == ("welch", "cuped", "post-stratified")
    assert isinstance(run(Cell(law="pareto", n=20, runs=3))[0], Tally)
    assert {tally.test for tally in run(Cell(law="conversion", n=20, runs=3))} == set(fitting("conversion"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Cell(law="normal"), "law = 'normal' is unknown"),
        (lambda: Cell(law="ctr", n=1), "n = 1 should be greater than or equal to 2"),
        (lambda: Cell(law="ctr", share=1.0), "share = 1.0 should be less than 1"),
        (lambda: Cell(law="ctr", n=20, share=0.01), "share = 0.01 leaves an arm with 0 of 40 units"),
        (lambda: Cell(law="ctr", resamples=9), "resamples = 9"),
        (lambda: run(Cell(law="ctr", runs=1), ["welsh"]), "did you mean 'welch'"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_arms_keep_their_moments():
    arms = Experiments(Units(np.ones((2, 3))), Units(np.zeros((2, 3))))
    assert arms.moments is arms.moments


def test_relative_effects_of_a_doubtful_control_are_warned_of():
    plain, relative = run(Cell(law="buyers", n=2_000, runs=30), ["welch", "welch, relative"])
    assert plain.warned < 0.8
    assert relative.warned > 0.9
    assert run(Cell(law="ctr", n=400, runs=30), ["delta, relative"])[0].warned == 0
