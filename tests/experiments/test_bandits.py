"""Bandits: chances that are their integrals, logs that are unbiased (by counting every path), arms that are found."""

import copy
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from suisen.errors import InputError
from suisen.experiments.bandits import BernoulliBandit, LinearBandit
from suisen.experiments.logged import Logged
from suisen.experiments.off_policy import Settings, evaluate_policy

NORMAL = Settings(interval="normal")
counts = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=2, max_size=5)


def known(posterior, **more):
    made = BernoulliBandit(len(posterior), **more)
    made.posterior = np.array(posterior, dtype=float).T
    return made


@given(counts)
@settings(max_examples=30, deadline=None)
def test_chances_of_being_the_best_are_their_integrals(posterior):
    x = np.linspace(0, 1, 20_001)
    density, below = (np.stack([getattr(stats.beta(a, b), part)(x) for a, b in posterior]) for part in ("pdf", "cdf"))
    for arm, found in enumerate(known(posterior).best()):
        rest = np.prod(np.delete(below, arm, axis=0), axis=0)
        assert found == pytest.approx(integrate.trapezoid(density[arm] * rest, x), abs=1e-6)


def test_two_arms_are_their_closed_form():
    """P(Beta(a, b) < Beta(c, d)) as a sum (Cook 2005), for whole numbers: 8 of 18 against 12 of 22."""
    from scipy.special import betaln

    a, b, c, d = 9, 11, 13, 11
    total = sum(np.exp(betaln(a + i, b + d) - np.log(d + i) - betaln(1 + i, d) - betaln(a, b)) for i in range(c))
    assert known([(a, b), (c, d)]).best()[1] == pytest.approx(total, abs=1e-7)


@pytest.mark.parametrize("posterior", [[(1e7, 1e7), (1.001e7, 1e7), (2, 3)], [(0.5, 0.5), (0.5, 0.5), (40, 60)]])
def test_narrow_and_open_laws_are_integrated_too(posterior):
    rng = np.random.default_rng(0)
    drawn = np.stack([rng.beta(a, b, size=400_000) for a, b in posterior]).argmax(0)
    assert known(posterior).best() == pytest.approx(np.bincount(drawn, minlength=3) / 400_000, abs=0.004)


@given(counts, st.floats(0.1, 1))
@settings(max_examples=30, deadline=None)
def test_top_two_is_its_definition(posterior, top):
    """Draw the best with ``top``, else again until it is another arm."""
    bandit = known(posterior, top=top, floor=0.02)
    best = bandit.best()
    plain = [
        top * best[k]
        + (1 - top) * sum(best[j] * best[k] / np.delete(best, j).sum() for j in range(len(best)) if j != k)
        for k in range(len(best))
    ]
    chances = bandit.chances()
    assert chances == pytest.approx(0.02 + (1 - 0.02 * len(best)) * np.array(plain), abs=1e-6)
    assert chances.sum() == pytest.approx(1)
    assert chances.min() >= 0.02


def test_a_sure_winner_leaves_the_rest_to_the_others():
    chances = known([(1, 10**6), (10**6, 1), (1, 10**6)], floor=0.01, top=0.5).chances()
    assert chances == pytest.approx([0.2525, 0.495, 0.2525], abs=1e-6)


def test_arms_are_drawn_as_often_as_is_logged():
    made = known([(3, 7), (5, 5), (4, 5)]).decide(20_000)
    found = np.bincount(made.arm, minlength=3)
    assert stats.chisquare(found, 20_000 * made.chances[0]).pvalue > 1e-3
    assert (made.propensity == made.chances[np.arange(20_000), made.arm]).all()


def test_weights_make_the_log_unbiased_and_plain_means_are_too_low():
    """Every path of four decisions of two arms, with its probability: nothing is left to chance."""
    means = (0.7, 0.4)
    ips, plain, taken = np.zeros(2), np.zeros(2), np.zeros(2)

    def walk(bandit, path, chance):
        nonlocal ips, plain, taken
        if len(path) == 4:
            arm, reward, p = (np.array(column) for column in zip(*path))
            for k in range(2):
                if (arm == k).any():  # else its value is 0, and Logged says that there is no overlap
                    log = Logged.of(reward, p, (arm == k).astype(float))
                    ips[k] += chance * evaluate_policy(log, ["ips"], NORMAL)["ips"].value
                    plain[k] += chance * reward[arm == k].mean()
                    taken[k] += chance
            return
        chances = bandit.chances()
        for k, reward in itertools.product(range(2), range(2)):
            after = copy.deepcopy(bandit)
            after.learn([k], [reward])
            law = means[k] if reward else 1 - means[k]
            walk(after, [*path, (k, reward, chances[k])], chance * chances[k] * law)

    walk(BernoulliBandit(2, floor=0.05, top=0.9), [], 1.0)
    assert ips == pytest.approx(means, abs=1e-9)
    assert (plain / taken < np.array(means) - 0.01).all()


@pytest.mark.parametrize(("top", "of_uniform"), [(1.0, 0.4), (0.5, 0.8)])
def test_the_best_arm_is_found_and_costs_less_than_chance(top, of_uniform):
    means, rng, won, lost = np.array([0.3, 0.35, 0.5]), np.random.default_rng(1), [], []
    for seed in range(30):
        bandit = BernoulliBandit(3, seed=seed, top=top)
        for _ in range(50):
            made = bandit.decide(20)
            bandit.learn(made.arm, rng.random(20) < means[made.arm])
            lost.append((0.5 - means[made.arm]).mean())
        won.append(bandit.best().argmax() == 2)
    assert np.mean(won) >= 0.95
    assert np.mean(lost) < of_uniform * (0.5 - means.mean())


def test_top_two_is_surer_of_the_best_arm_than_plain_draws():
    means, rng, sure = np.array([0.4, 0.45, 0.5]), np.random.default_rng(5), {0.5: [], 1.0: []}
    for top, found in sure.items():
        for seed in range(40):
            bandit = BernoulliBandit(3, seed=seed, top=top)
            for _ in range(30):
                made = bandit.decide(100)
                bandit.learn(made.arm, rng.random(100) < means[made.arm])
            found.append(bandit.best()[2])
    assert np.mean(sure[0.5]) > np.mean(sure[1.0])


def test_a_linear_posterior_is_the_ridge_regression():
    rng = np.random.default_rng(2)
    x, arm, reward = rng.normal(size=(200, 3)), rng.integers(2, size=200), rng.normal(size=200)
    bandit = LinearBandit(2, 3, noise=0.8, prior_sd=0.5)
    for part in np.array_split(np.arange(200), 7):
        bandit.learn(x[part], arm[part], reward[part])
    for k in range(2):
        mine = x[arm == k]
        inverse = np.linalg.inv(mine.T @ mine / 0.64 + np.eye(3) / 0.25)
        assert np.linalg.inv(bandit.precision[k]) == pytest.approx(inverse)
        assert np.linalg.solve(bandit.precision[k], bandit.shift[k]) == pytest.approx(
            inverse @ mine.T @ reward[arm == k] / 0.64
        )
    query = rng.normal(size=(4, 3))
    theta = np.stack([
        rng.multivariate_normal(np.linalg.solve(p, s), np.linalg.inv(p), size=100_000)
        for p, s in zip(bandit.precision, bandit.shift, strict=True)
    ])  # fmt: skip
    drawn = np.einsum("kmd,nd->nkm", theta, query).argmax(1)
    assert bandit.best(query)[:, 1] == pytest.approx(drawn.mean(1), abs=0.006)


def test_contexts_come_to_their_arms_and_their_log_judges_other_policies():
    """Arm 1 is right where x is above 0; the log says what always taking either arm, or the right one, would earn."""
    rng, values = np.random.default_rng(3), []

    def reward(x, arm):
        return np.where(arm == 1, 1, -1) * x[:, 1] + rng.normal(scale=0.5, size=len(x))

    for seed in range(40):
        bandit, rows = LinearBandit(2, 2, noise=0.5, floor=0.05, top=1.0, seed=seed), []
        for _ in range(10):
            x = np.column_stack([np.ones(40), rng.uniform(-1, 1, size=40)])
            made = bandit.decide(x)
            earned = reward(x, made.arm)
            bandit.learn(x, made.arm, earned)
            rows.append((earned, made.propensity, made.arm == (x[:, 1] > 0), made.arm == 1))
        earned, p, right, one = (np.concatenate(column) for column in zip(*rows))
        values.append([
            evaluate_policy(Logged.of(earned, p, each.astype(float)), ["ips"], NORMAL)["ips"].value
            for each in (right, one)
        ])  # fmt: skip
    mean, error = np.mean(values, axis=0), np.std(values, axis=0) / np.sqrt(len(values))
    assert (np.abs(mean - [0.5, 0.0]) < 3.5 * error).all()
    assert bandit.chances([[1, 0.8], [1, -0.8]])[:, 1] == pytest.approx([0.95, 0.05], abs=1e-6)


def test_a_context_of_zeros_says_nothing_of_any_arm():
    assert LinearBandit(4, 2, noise=1.0).best(np.zeros((2, 2))) == pytest.approx(np.full((2, 4), 0.25))
    assert LinearBandit(4, 2, noise=1.0).decide(np.zeros((0, 2))).chances.shape == (0, 4)


def test_chunks_change_nothing(monkeypatch):
    rng = np.random.default_rng(4)
    bandit = LinearBandit(3, 2, noise=1.0)
    bandit.learn(rng.normal(size=(30, 2)), rng.integers(3, size=30), rng.normal(size=30))
    x = rng.normal(size=(10, 2))
    whole = bandit.best(x)
    monkeypatch.setattr("suisen.experiments.bandits.ROWS_PER_CHUNK", 3)
    assert bandit.best(x) == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BernoulliBandit(1), "arms = 1; a bandit chooses between at least 2"),
        (lambda: BernoulliBandit(4, floor=0.25), "floor = 0.25 should be above 0 and below 1/arms = 0.25"),
        (lambda: BernoulliBandit(4, top=0), "top = 0 should be above 0 and at most 1"),
        (lambda: BernoulliBandit(2, prior=(0, 1)), "prior = .0, 1. should be two numbers above 0"),
        (lambda: BernoulliBandit(2).learn([0], [0.5]), "reward should hold 0 or 1"),
        (lambda: BernoulliBandit(2).learn([2], [1]), "arm should hold 1 integers from 0 to 1"),
        (lambda: BernoulliBandit(2).learn([0, 1], [1]), "arm should hold 1 integers"),
        (lambda: LinearBandit(2, 3, noise=0), "noise = 0 should be above 0"),
        (lambda: LinearBandit(2, 3, noise=1).decide([[1, 2]]), r"contexts have shape \(1, 2\); give \(n, 3\)"),
        (lambda: LinearBandit(2, 1, noise=1).learn([[1]], [0], [np.nan]), "reward should hold 1 finite numbers"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
