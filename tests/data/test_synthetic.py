"""The world's promises: counts follow the true probabilities, features the latent vectors, seeds the events."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from suisen.data.synthetic import Truth, World, _drawn, _within
from suisen.errors import InputError

SMALL = World(users=3, items=6, groups=2, sessions=3_000, events=3, seed=5)


@pytest.fixture(scope="module")
def small():
    return SMALL.generate()


def all_pairs(truth):
    users, items = np.arange(1, len(truth.taste) + 1), np.arange(1, truth.offer.shape[1] + 1)
    return users, np.broadcast_to(items, (users.size, items.size))


def test_events_follow_the_true_probabilities(small):
    users, items = all_pairs(small.truth)
    p = small.truth.probability(users, items)
    counts = small.log.events.group_by("user", "item").len()
    found = np.zeros(p.shape)
    found[counts["user"].to_numpy() - 1, counts["item"].to_numpy() - 1] = counts["len"].to_numpy()
    n = found.sum(axis=1, keepdims=True)
    # events of one session share a taste: at most (1 + coherence² · mean length) times the variance of free draws
    spread = np.sqrt(4 * p * (1 - p) / n)
    assert np.abs(found / n - p).max() < 4 * spread.max()
    assert (np.abs(found / n - p) < 5 * spread).all()


def test_probabilities_sum_to_1_and_preferences_are_their_logarithms(small):
    users, items = all_pairs(small.truth)
    p = small.truth.probability(users, items)
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_allclose(p, small.truth.taste @ small.truth.offer)
    np.testing.assert_allclose(np.exp(small.truth.preference(users, items)), p)
    np.testing.assert_allclose(small.truth.probability(users, items[:, 2]), p[:, 2])


@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 30), st.integers(1, 40))
def test_best_is_the_order_of_the_preferences(seed, users, items, k):
    rng = np.random.default_rng(seed)
    truth = Truth(rng.dirichlet(np.ones(3), size=users), rng.dirichlet(np.ones(items), size=3))
    slow = np.argsort(-(truth.taste @ truth.offer), axis=1, kind="stable")[:, :k] + 1
    np.testing.assert_array_equal(truth.best(np.arange(1, users + 1), k), slow)


def test_best_of_nobody(small):
    assert small.truth.best([], 3).shape == (0, 3)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 2), min_size=1))
def test_draws_come_from_the_row_that_was_named(seed, rows):
    cumulative = np.cumsum([[1.0, 0, 0], [0, 1.0, 0], [0, 0.5, 0.5]], axis=1)
    drawn = _drawn(cumulative, np.array(rows), np.random.default_rng(seed))
    assert all((code == row) if row < 2 else code > 0 for row, code in zip(rows, drawn.tolist(), strict=True))


@given(st.lists(st.lists(st.integers(1, 9), min_size=1), min_size=1))
def test_times_begin_anew_in_each_session(sessions):
    gaps, lengths = np.concatenate(sessions), np.array([len(session) for session in sessions])
    assert _within(gaps, lengths).tolist() == np.concatenate([np.cumsum(session) for session in sessions]).tolist()


def test_the_same_seed_gives_the_same_world_and_another_one_another():
    world = World(users=50, items=20)
    first, again, other = world.generate(), world.generate(), World(users=50, items=20, seed=1).generate()
    assert first.log.events.equals(again.log.events)
    assert first.log.items.equals(again.log.items)
    assert not first.log.events.equals(other.log.events)


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 4), st.booleans(), st.integers(0, 9))
def test_logs_are_clean_in_every_size(users, items, groups, repeats, seed):
    world = World(users=users, items=items, groups=groups, dim=3, sessions=2, repeats=repeats, seed=seed)
    log = world.generate().log
    assert log.events.columns == ["user", "item", "time", "session", "row"]
    assert log.events["user"].n_unique() == users
    assert log.events["item"].is_between(1, items).all()
    assert log.events["row"].to_list() == list(range(log.events.height))
    assert log.events["time"].is_sorted()
    assert (log.events.group_by("session").agg(pl.col("user").n_unique())["user"] == 1).all()
    assert log.users.height == users
    assert log.items.height == items
    if not repeats:
        assert not log.events.select("user", "item").is_duplicated().any()
    data = Dataset.of(log)
    assert (data.schema.n_users, data.schema.n_items) == (users + 1, items + 1)


def test_popularity_is_skewed_as_asked():
    shares = []
    for skew in (0.0, 1.2):
        world = World(users=300, items=200, sharpness=0, skew=skew)
        counts = world.generate().log.events.group_by("item").len()["len"].sort(descending=True)
        shares.append(counts.head(20).sum() / counts.sum())
    assert shares[0] < 0.25
    assert shares[1] > 0.5


def test_sessions_are_coherent_as_asked():
    found = []
    for coherence in (0.0, 1.0):
        world = World(users=200, items=100, sharpness=4, coherence=coherence, events=6)
        log = world.generate().log
        taste = log.items.select("item", pl.col("title").str.extract(r"taste (\d+)").alias("taste"))
        joined = log.events.join(taste, on="item").group_by("session").agg(pl.col("taste").n_unique())
        found.append(joined["taste"].mean())
    assert found[1] < 0.85 * found[0]


def test_features_tell_of_the_latent_vectors_less_the_more_noise():
    agree = []
    for noise in (0.0, 1.0):
        log = World(users=400, items=400, groups=5, feature_noise=noise).generate().log
        made = log.items["title"].str.extract(r"taste (\d+)")
        agree.append((made == log.items["category"].str.strip_prefix("category-")).mean())
    assert agree[0] == 1.0
    assert agree[1] < 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": 0}, "users = 0 must be at least 1"),
        ({"events": 0.5}, r"events = 0\.5 must be at least 1: it is a mean of counts from 1"),
        ({"coherence": 2}, "coherence = 2 must be between 0 and 1"),
        ({"skew": -1}, "skew = -1 must be at least 0"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(InputError, match=message):
        World(**options)
