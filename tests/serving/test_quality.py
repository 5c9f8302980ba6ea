"""Live answers are counted, looked at and compared: what is told equals what can be computed beside it."""

from __future__ import annotations

import gc
import logging
import math
import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.recommending.answering import answer
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.serving.answering import Answering, Rank, Recommend
from suisen.serving.messages import Query, RankQuery
from suisen.serving.meter import FIRST, SAMPLES, Meter, Sample
from suisen.serving.quality import ASKERS, AT_A_TIME, OwnScores, Quality
from suisen.serving.telemetry import TENTHS, Telemetry
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.test_counts import parsed


def metered(name="mf", plan=True):
    system = fitted(name).system
    answering = Answering(with_plan(system) if plan else system)
    telemetry = Telemetry()
    answering.meter = Meter(telemetry, "v1")
    return answering, telemetry


def asking(*users, k=FIRST, **options):
    given = {"precise": False, "unknown": "popular", **options}
    return Recommend([Query(user_id=user) for user in users], RecommendOptions(k, **given))


def queries(telemetry):
    found = parsed(telemetry)
    return {
        dict(labels)["user"]: value
        for (name, labels), value in found.items()
        if name == "suisen_queries_total" and value
    }


@given(st.lists(st.sampled_from(["u0001", "u0002", "ghost", "nobody such", None]), min_size=1, max_size=9))
def test_users_are_counted_by_whether_they_are_known(users):
    for plan in (True, False):
        answering, telemetry = metered(plan=plan)
        for _ in range(2):  # computed, then kept
            answering.work([asking(*users)])
        known = sum(user in ("u0001", "u0002") for user in users)
        none = sum(user is None for user in users)
        expected = {"known": 2 * known, "unknown": 2 * (len(users) - known - none), "none": 2 * none}
        assert queries(telemetry) == {name: count for name, count in expected.items() if count}


def test_who_only_did_something_lately_is_unknown_whether_computed_or_kept():
    answering, telemetry = metered("ease")
    answering.recent.add(["stranger"], ["i001"], [2**60 // 1000], [None])
    for _ in range(2):
        (found,) = answering.work([asking("stranger")])
        assert found[0].answered_by == "model"
    assert answering.visitors.hits == 1
    assert queries(telemetry) == {"unknown": 2}


def test_ranked_users_are_counted_and_not_sampled():
    answering, telemetry = metered()
    answering.work([Rank([RankQuery("u0001", items=["i001", "i002"])], RecommendOptions())])
    assert queries(telemetry) == {"known": 1}
    assert not answering.meter.samples


@pytest.mark.parametrize(
    "options",
    [{"k": 9}, {"diversity": 0.5}, {"at": 10**15}, {"among": ("i001",)}, {"exclude_seen": False}],
    ids=str,
)
def test_lists_that_are_not_the_best_of_all_are_not_sampled(options):
    answering, _ = metered()
    answering.work([asking("u0001", **options)])
    assert not answering.meter.samples
    answering.work([asking("u0001", k=12)])
    (sample,) = answering.meter.samples
    assert len(sample.scores) == FIRST


def test_a_query_of_each_call_is_kept_and_the_newest_of_all():
    answering, _ = metered()
    for _ in range(SAMPLES + 3):
        answering.work([asking("u0001", "u0002", "ghost")])
    users = [sample.query.user_id for sample in answering.meter.samples]
    assert set(users) == {"u0001", "u0002"}  # ghost got the popular list


def test_stages_are_observed_and_batches_not_queries():
    answering, telemetry = metered()
    answering.work([asking("u0001", "u0002"), asking("u0003")])
    found = parsed(telemetry)
    counts = {dict(labels)["stage"]: v for (name, labels), v in found.items() if name == "suisen_stage_seconds_count"}
    assert counts["rows"] == counts["plan"] == counts["items"] == 1


# -- probes -----------------------------------------------------------------------------------------------------------


def looked(answering, telemetry, times=1 + ASKERS // AT_A_TIME):
    quality = Quality(telemetry, lambda: answering, 0.01)
    for _ in range(times):
        quality.look()
    return quality


def probes(telemetry):
    found = parsed(telemetry)
    names = ("probes", "probes_identical", "probe_items", "probe_items_found", "probe_failures")
    return [found[f"suisen_{name}_total", ()] for name in names]


def test_a_probe_finds_equal_lists_equal():
    answering, telemetry = metered()
    quality = looked(answering, telemetry)
    for user in ("u0001", "u0002"):
        answering.work([asking(user)])
        quality.look()
    assert probes(telemetry) == [2, 2, 20, 20, 0]


def test_a_probe_tells_how_much_is_lost(monkeypatch):
    answering, telemetry = metered()
    quality = looked(answering, telemetry)
    plan = answering.system.engine.plan
    lists = plan.lists

    def worse(states, k, exclude, among=None, open_=None):
        found, scores = lists(states, k, exclude, among, open_)
        found[:, 7:] = found[:, :1]  # three items are lost
        return found, scores

    monkeypatch.setattr(plan, "lists", worse)
    answering.work([asking("u0001")])
    quality.look()
    assert probes(telemetry) == [1, 0, 10, 7, 0]


def test_an_event_in_between_is_no_loss(monkeypatch):
    answering, telemetry = metered()
    quality = looked(answering, telemetry)
    answering.work([asking("u0001")])
    found, calls = answering.found, []

    def with_an_event(queries, options):
        made = found(queries, options)
        if not calls:
            first = int(made.items[0, 0])
            raw = answering.system.store.items.raw(np.array([first]))[0]
            answering.recent.add(["u0001"], [raw], [2**60 // 1000], [None])
        calls.append(options)
        return made

    monkeypatch.setattr(answering, "found", with_an_event)
    quality.look()
    assert len(calls) == 3
    assert probes(telemetry) == [0, 0, 0, 0, 1]


def test_nothing_is_probed_that_was_precise():
    answering, telemetry = metered()
    quality = looked(answering, telemetry)
    answering.work([asking("u0001", precise=True)])
    quality.look()
    assert probes(telemetry) == [0, 0, 0, 0, 0]


# -- scores -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mf", "popularity", "ease + fm"])
def test_own_scores_are_those_of_users_of_events_spread_over_the_log(name):
    answering, _ = metered(name, plan=False)
    own = OwnScores(answering.system.store)
    looks = 1
    while not own.learn(answering):
        looks += 1
    assert looks <= ASKERS / AT_A_TIME
    assert sum(own.shares) == pytest.approx(1)
    assert len(own.shares) == TENTHS
    store = answering.system.store
    lengths = store.histories.lengths.numpy()
    askers = [user for user, many in enumerate(lengths) for _ in range(many)]
    spread = np.array(askers)[np.linspace(0, len(askers) - 1, min(ASKERS, len(askers))).astype(int)]
    lists = answer(
        answering.system, RawQueries(store.users.raw(spread).to_list()), RecommendOptions(FIRST, unknown="popular")
    )
    scores = lists.scores.flatten().numpy()
    assert own.edges == pytest.approx(np.quantile(scores[np.isfinite(scores)], np.arange(1, 10) / 10), rel=1e-4)


def psi(telemetry):
    found = parsed(telemetry)
    live = np.array([found["suisen_scores_total", (("tenth", str(t)),)] for t in range(1, TENTHS + 1)])
    own = np.array([found["suisen_scores_expected_ratio", (("tenth", str(t)),)] for t in range(1, TENTHS + 1)])
    p, q = np.maximum(live / live.sum(), 0.001), np.maximum(own, 0.001)
    return float(((p - q) * np.log(p / q)).sum())


def test_scores_of_the_same_users_do_not_drift_and_moved_ones_do():
    answering, telemetry = metered()
    quality = looked(answering, telemetry)
    users = answering.system.store.users
    lengths = answering.system.store.histories.lengths
    some = [users.raw(np.array([u]))[0] for u in range(1, len(users)) for _ in range(int(lengths[u]))]
    for user in some[:: max(1, len(some) // 120)]:
        answering.work([asking(user)])
        quality.look()
    still = psi(telemetry)
    assert still < 0.1
    for _ in range(len(some) // 4):
        answering.meter.samples.append(sample_of(1e6))
        quality.look()
    assert psi(telemetry) > 0.25 > still


def sample_of(score):
    return Sample(Query(user_id="u0001"), RecommendOptions(FIRST), [score] * 9 + [-math.inf])


def test_another_version_has_scores_of_its_own():
    answering, telemetry = metered()
    quality = looked(answering, telemetry)
    other, _ = metered("popularity")
    quality._current = lambda: other
    for _ in range(1 + ASKERS // AT_A_TIME):
        quality.look()
    assert len(quality._own) == 2
    assert quality._own[answering].edges != pytest.approx(quality._own[other].edges)
    for current in (answering, other):  # rolled back, and on again
        quality._current = lambda: current  # noqa: B023
        quality.look()
        found = parsed(telemetry)
        told = [found["suisen_scores_expected_ratio", (("tenth", str(t)),)] for t in range(1, TENTHS + 1)]
        assert told == quality._own[current].shares


def test_a_version_that_is_gone_takes_no_memory():
    answering, telemetry = metered()
    quality = looked(answering, telemetry)
    there = weakref.ref(answering)
    quality._current = lambda: None
    del answering
    gc.collect()
    quality.look()
    assert there() is None
    assert not quality._own


def test_no_bundle_is_no_look():
    quality = Quality(Telemetry(), lambda: None, 0.01)
    quality.look()


def test_a_look_that_fails_is_counted_and_said_and_the_thread_goes_on(monkeypatch, caplog):
    monkeypatch.setattr("suisen.serving.quality.TICK_S", 0.01)
    telemetry, calls = Telemetry(), []

    def broken():
        calls.append(1)
        raise ValueError("why")

    quality = Quality(telemetry, broken, 1.0)
    with caplog.at_level(logging.ERROR, "suisen.serving"):
        quality.start()
        while len(calls) < 3:
            pass
        quality.stop()
    assert not quality._thread.is_alive()
    assert parsed(telemetry)["suisen_probe_failures_total", ()] >= 2
    assert "a look at live answers failed" in caplog.text


def test_a_share_of_zero_starts_nothing():
    quality = Quality(Telemetry(), lambda: None, 0.0)
    quality.start()
    assert not quality._thread.is_alive()
    quality.stop()
