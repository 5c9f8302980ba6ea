"""The browsing world: expectations by formula against brute enumeration and against drawn lives; its files."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from suisen.data.synthetic import DAY, START, World
from suisen.errors import InputError
from suisen.experiments.plan import Plan
from suisen.experiments.simulation.world import BUY, LOOK, METRICS, Browsing, Chances, Habits
from suisen.experiments.units import units

PLACES = 4


@pytest.fixture(scope="module")
def world():
    generated = World(users=300, items=60, groups=4, seed=3).generate()
    return Browsing.of(generated, places=PLACES, days=9, interest=0.15, buying=0.2)


@pytest.fixture(scope="module")
def arms(world):
    truth = world.generated.truth
    popular = np.argsort(-(truth.taste.mean(0) @ truth.offer))[:PLACES] + 1
    return {"popular": lambda users: np.tile(popular, (len(users), 1)), "own": lambda users: truth.best(users, PLACES)}


def slow_expectation(habits, c, b, worth, retention):
    """All that can happen to one unit, day by day: the state is (will come back, has bought, came on such a day)."""
    k = len(c)
    visits = []  # (probability, clicks, purchases, worth, seconds)
    for clicked in itertools.product((0, 1), repeat=k):
        for bought in itertools.product(*[(0, 1) if click else (0,) for click in clicked]):
            p = np.prod([ci if x else 1 - ci for ci, x in zip(c, clicked)])
            p *= np.prod([bi if y else 1 - bi for bi, x, y in zip(b, clicked, bought) if x])
            last = max((j for j in range(k) if clicked[j]), default=-1)
            seconds = LOOK * (last + 1) + BUY * bought[last] if last >= 0 else 0
            visits.append((p, sum(clicked), sum(bought), float(np.dot(bought, worth)), seconds))
    out = dict.fromkeys(("sessions", "clicks", "purchases", "revenue", "seconds"), 0.0)
    state = {(True, False, False): 1.0}
    for day in range(habits.days):
        new = {}
        for (coming, has_bought, retained), p in state.items():
            comes = p * ((habits.pace if day else 1.0) if coming else 0.0)
            new[coming, has_bought, retained] = new.get((coming, has_bought, retained), 0.0) + p - comes
            out["sessions"] += comes
            here = retained or retention[0] <= day <= retention[1]
            for chance, clicks, purchases, value, seconds in visits:
                for name, part in (("clicks", clicks), ("purchases", purchases), ("revenue", value)):
                    out[name] += comes * chance * part
                out["seconds"] += comes * chance * seconds
                back = habits.pleased if clicks else habits.coming_back
                for again, share in ((True, back), (False, 1 - back)):
                    key = again, has_bought or purchases > 0, here
                    new[key] = new.get(key, 0.0) + comes * chance * share
        state = new
    assert sum(state.values()) == pytest.approx(1)
    out["conversion"] = sum(p for (_, bought, _), p in state.items() if bought)
    out["retention"] = sum(p for (_, _, retained), p in state.items() if retained)
    return out


@pytest.mark.parametrize("retention", [(7, 7), (3, 5), (2, 99), (0, 3), (9, 12)])
def test_expectations_are_those_of_all_that_can_happen(world, retention):
    rng = np.random.default_rng(0)
    c, b, worth = (rng.random((3, 3)) * scale for scale in (0.5, 0.7, 9))
    found = world.expected(Chances(np.ones((3, 3), dtype=np.int64), c, b, worth), retention=retention)
    for row in range(3):
        slow = slow_expectation(world.habits, c[row], b[row], worth[row], retention)
        assert {name: getattr(found, name)[row] for name in slow} == pytest.approx(slow, rel=1e-10)
        assert found.impressions[row] == pytest.approx(3 * slow["sessions"])
        assert found.refunded[row] == pytest.approx(0.05 * slow["revenue"])


def test_drawn_lives_agree_with_the_formulas(world, arms):
    """Every metric of both arms: 40 draws of 300 users; 4.5 standard errors of room."""
    for ranker in arms.values():
        chances = world.chances(ranker)
        expected = world.expected(chances)
        drawn = [world.live(chances, seed) for seed in range(40)]
        for metric in METRICS:
            values = np.array([totals.metric(metric)[0].mean() for totals in drawn])
            error = values.std(ddof=1) / np.sqrt(len(values))
            assert abs(values.mean() - expected.metric(metric)[0].mean()) <= 4.5 * error, metric


def test_truth_is_the_ratio_or_the_mean(world, arms):
    truth = world.truth(arms)
    assert truth["metric"].unique(maintain_order=True).to_list() == list(METRICS)
    popular, own = (world.expected(world.chances(ranker)) for ranker in arms.values())
    row = truth.row(by_predicate=(pl.col("metric") == "ctr") & (pl.col("arm") == "own"), named=True)
    a, b = (each.clicks.sum() / each.impressions.sum() for each in (popular, own))
    assert (row["value"], row["absolute"], row["relative"]) == pytest.approx((b, b - a, b / a - 1))
    assert row["relative"] > 0.05  # their own best is better for them than what is popular
    control = truth.filter(pl.col("arm") == "popular")
    assert control["absolute"].to_list() == [0.0] * len(METRICS)


def test_lower_places_and_worse_items_get_fewer_clicks(world, arms):
    best = world.chances(arms["own"])
    backwards = world.chances(lambda users: arms["own"](users)[:, ::-1])
    assert best.click.sum() > backwards.click.sum()
    same = world.chances(lambda users: np.full((len(users), PLACES), 7))
    assert (np.diff(same.click, axis=1) < 0).all()


def test_empty_places_are_neither_shown_nor_clicked(world, arms):
    chances = world.chances(lambda users: arms["own"](users)[:, :2])
    assert chances.items.shape == (300, PLACES)
    assert not chances.click[:, 2:].any()
    totals = world.live(chances, 0)
    assert totals.impressions.tolist() == (2 * totals.sessions).tolist()


@pytest.fixture(scope="module")
def traffic(world, arms):
    assigned = np.random.default_rng(1).choice(list(arms), size=300)
    return assigned, world.traffic(arms, assigned, seed=5)


def test_files_hold_what_the_totals_say(world, traffic):
    assigned, (exposures, events, totals) = traffic
    counts = events.group_by("user", "event").agg(pl.len(), pl.col("value").sum())
    for event, name in (
        ("impression", "impressions"),
        ("click", "clicks"),
        ("purchase", "purchases"),
        ("return", "returns"),
    ):
        of_user = dict(counts.filter(pl.col("event") == event).select("user", "len").iter_rows())
        assert [of_user.get(user, 0) for user in world.users] == getattr(totals, name).tolist()
    for event, name in (("purchase", "revenue"), ("return", "refunded")):
        of_user = dict(counts.filter(pl.col("event") == event).select("user", "value").iter_rows())
        assert [of_user.get(user, 0.0) for user in world.users] == pytest.approx(getattr(totals, name).tolist())
    visits = dict(exposures.group_by("user").len().iter_rows())
    assert [visits[user] for user in world.users] == totals.sessions.tolist()
    assert dict(exposures.select("user", "arm").unique().iter_rows()) == dict(
        zip(world.users.tolist(), assigned.tolist())
    )
    assert exposures.columns == ["user", "arm", "time", "age", "segment"]
    assert events.columns == ["user", "time", "event", "item", "position", "value", "session"]
    assert events["value"].null_count() == int((totals.impressions + totals.clicks).sum())


def test_times_keep_their_day_and_their_visit(world, traffic):
    _, (exposures, events, totals) = traffic
    first = exposures.group_by("user").agg(pl.col("time").min().alias("first"))
    ages = events.join(first, on="user").with_columns(
        age=(pl.col("time") - pl.col("first")).dt.total_microseconds() // DAY
    )
    assert ages["age"].is_between(0, world.habits.days - 1).all()
    days = ages.group_by("user").agg((pl.col("age") == 7).any().alias("seventh")).sort("user")
    found = dict(days.iter_rows())
    assert [found[user] for user in world.users] == (totals.retention > 0).tolist()
    assert exposures["time"].is_sorted()
    assert events["time"].is_sorted()
    begin, end = world.dates()
    assert begin == START + world.generated.world.days * DAY
    assert events["time"].cast(pl.Int64).is_between(begin, end).all()
    assert world.dates(5) == (5, 5 + (7 + 9) * DAY)
    within = events.filter(pl.col("event") != "return").group_by("session").agg(
        (pl.col("time").max() - pl.col("time").min()).dt.total_seconds().alias("seconds"), pl.col("user").first()
    )  # fmt: skip
    spent = dict(within.group_by("user").agg(pl.col("seconds").sum()).iter_rows())
    assert [spent[user] for user in world.users] == totals.seconds.tolist()


def test_an_analysis_reads_from_the_files_what_happened(world, traffic):
    """The two halves meet: units made of the events are the world's own totals, metric by metric."""
    assigned, (exposures, events, totals) = traffic
    kinds = {
        "ctr": {"kind": "ctr"},
        "conversion": {"kind": "conversion"},
        "revenue": {"kind": "value"},
        "refunded": {"kind": "value", "event": "return"},
        "sessions": {"kind": "sessions", "event": "impression"},
        "retention": {"kind": "retention"},
    }
    plan = Plan.of({
        "name": "world", "primary": "ctr", "arms": {"popular": 0.5, "own": 0.5}, "control": "popular", "unit": "user",
        "metrics": kinds,
    })  # fmt: skip
    found = units(exposures, events, plan)
    frame = found.frame.sort("__unit")
    assert frame["arm"].to_list() == assigned.tolist()
    kept = frame["retention__y"].is_not_null()  # who came on the last days was not seen for a week
    for metric in kinds:
        y, d = totals.metric(metric)
        mine = frame[f"{metric}__y"]
        assert mine.filter(kept).to_list() == pytest.approx(y[kept.to_numpy()].tolist()), metric
        if metric == "ctr":
            assert frame["ctr__d"].to_list() == d.tolist()
    assert kept.sum() > 250


def test_same_seed_same_files(world, arms):
    assigned = ["own"] * 300
    one, two, other = (world.traffic(arms, assigned, seed=seed, start=0) for seed in (1, 1, 2))
    assert one.events.equals(two.events)
    assert not one.events.equals(other.events)
    assert one.exposures["time"].min().year == 1970


def test_every_ranker_is_asked_for_its_own_users_alone(world, arms):
    asked = []

    def listening(users):
        asked.extend(users.tolist())
        return arms["own"](users)

    world.traffic({"a": arms["popular"], "b": listening}, np.array(["a", "b", "b"]), [5, 9, 11])
    assert asked == [9, 11]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w, a: w.traffic(a, ["own"]), r"assigned has shape \(1,\)"),
        (lambda w, a: w.traffic(a, ["own", "own"], [3, 3]), "an id stands in it twice"),
        (lambda w, a: w.traffic(a, ["none"], [3]), "assigned names the arm 'none'; known: popular, own"),
        (lambda w, a: w.chances(a["own"], [301]), "user 301 is not of this world"),
        (lambda w, a: w.chances(a["own"], [0.5]), "give .users,. raw ids"),
        (lambda w, a: w.chances(lambda u: [[61]], [1]), "a ranker gave item 61; the world has items 1…60"),
        (lambda w, a: w.chances(lambda u: [[0.5]], [1]), "a ranker gave float64"),
        (lambda w, a: w.chances(lambda u: [[1]], [1, 2]), r"of shape \(1, 1\); give integers \(2, places\)"),
        (lambda w, a: Habits(pleased=0.2), "pleased = 0.2 is below coming_back"),
        (lambda w, a: Habits(placs=3), "did you mean 'places'"),
        (lambda w, a: Habits(pace=0), "pace = 0"),
    ],
)
def test_mistakes_are_named(world, arms, call, message):
    with pytest.raises(InputError, match=message):
        call(world, arms)


def test_a_log_without_prices_is_refused(world, arms):
    bare = replace(world.generated, log=replace(world.generated.log, items=None))
    with pytest.raises(InputError, match="no item table with a column 'price'"):
        Browsing(bare, world.habits).chances(arms["own"])


@pytest.mark.parametrize("users", [6, 7])
def test_every_user_of_the_world_is_one(users):
    assert Browsing.of(World(users=users, items=20, seed=0).generate()).users.tolist() == list(range(1, users + 1))
