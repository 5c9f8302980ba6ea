"""Repetitions in the browsing world: intervals hold the true effect; rankers are as good as they should."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from suisen.data.synthetic import World
from suisen.errors import InputError
from suisen.experiments.simulation.repeats import Repeats, browse, noisy
from suisen.experiments.simulation.simulate import band
from suisen.experiments.simulation.world import Browsing


@pytest.fixture(scope="module")
def world():
    return Browsing.of(World(users=1_500, items=80, groups=4, seed=2).generate(), places=6, days=8, temper=1.0)


@pytest.fixture(scope="module")
def arms(world):
    return {"rough": noisy(world, 1.0), "fine": noisy(world, 0.3)}


@pytest.fixture(scope="module")
def repeated(world, arms):
    return browse(world, arms, Repeats(repeat=150, units=800, covariate=True))


def test_intervals_hold_the_true_effect(repeated):
    low, _ = band(0.95, 150, rows=20)
    frame = repeated.frame()
    assert len(frame) == 5 * 2 * 2
    assert (frame["coverage"] >= low).all()
    away = frame.filter(pl.col("scale") == "absolute").select(
        (pl.col("mean") - pl.col("truth")).abs() / pl.col("error")
    )
    assert away.to_series().max() < 4.5


def test_the_truth_is_the_worlds(world, arms, repeated):
    truth = world.truth(arms).filter(pl.col("arm") == "fine")
    for line in repeated.lines:
        row = truth.row(by_predicate=pl.col("metric") == line.metric, named=True)
        assert line.truth == pytest.approx(row[line.scale])
    assert repeated.lines[0].truth > 0


def test_cuped_narrows_what_users_differ_in(repeated):
    spread = {(line.metric, line.adjusted): line.error for line in repeated.lines if line.scale == "absolute"}
    assert spread["ctr", True] < spread["ctr", False]


def test_no_effect_is_found_as_rarely_as_it_should(world, arms):
    found = browse(
        world, {"a": arms["fine"], "b": arms["fine"]}, Repeats(repeat=200, units=400, share=0.3, metrics=("ctr",))
    )
    assert [line.truth for line in found.lines] == [0.0, 0.0]
    assert all(line.found <= band(0.05, 200, rows=2)[1] for line in found.lines)
    assert "200 repetitions of 400 users" in str(found)
    assert len(str(found).splitlines()) == 4


def test_rankers_of_known_quality(world):
    everyone = world.users
    truth = world.generated.truth
    best = noisy(world, 0.0)(everyone)
    scores = np.sort(truth.taste @ truth.offer, axis=1)[:, ::-1][:, :6]
    assert truth.probability(everyone, best) == pytest.approx(scores)
    worth = [
        world.expected(world.chances(ranker)).clicks.sum()
        for ranker in (noisy(world, 0), noisy(world, 1), noisy(world, 3))
    ]
    assert worth[0] > worth[1] > worth[2]
    rough = noisy(world, 1.0)
    assert rough(np.array([7, 3])).tolist() == rough(everyone)[[6, 2]].tolist()
    assert rough(np.array([], dtype=np.int64)).shape == (0, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, a: browse(w, {"a": a["fine"]}), "give two rankers, the first the control"),
        (lambda w, a: browse(w, a, Repeats(metrics=("clickz",))), "did you mean 'clicks'"),
        (lambda w, a: Repeats(repeat=1), "repeat = 1"),
        (lambda w, a: noisy(w, -1), "noise = -1"),
    ],
)
def test_mistakes_are_named(world, arms, call, message):
    with pytest.raises(InputError, match=message):
        call(world, arms)
