"""Whoever listens is told of every stage of an answer, and of no other thread's."""

from __future__ import annotations

import threading
from time import perf_counter

import pytest

from suisen.recommending.answering import answer, answer_planned, rank
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.stages import ended, listening
from suisen.recommending.states import VisitorRows
from suisen.recommending.users import RecentEvents
from tests.fitted import fitted
from tests.recommending.planning import with_plan


def stages_of(call):
    heard = []
    with listening(lambda stage, seconds: heard.append((stage, seconds))):
        call()
    assert all(0 <= seconds < 60 for _, seconds in heard)
    return [stage for stage, _ in heard]


@pytest.mark.parametrize(
    ("name", "diversity", "expected"),
    [
        ("ials", 0.0, ["rows", "retrieve"]),
        ("ials", 0.5, ["rows", "retrieve", "diversify"]),
        ("ease + fm", 0.0, ["rows", "retrieve", "rank"]),
    ],
)
def test_stages_on_torch(name, diversity, expected):
    system = fitted(name).system
    options = RecommendOptions(5, diversity=diversity)
    assert stages_of(lambda: answer(system, RawQueries(["u0001", "u0002"]), options)) == expected


def test_stages_of_ranking_given_items():
    system = fitted("ials").system
    assert stages_of(lambda: rank(system, RawQueries(["u0001"]), [["i001"]], RecommendOptions())) == ["rows", "rank"]


def test_stages_of_a_plan():
    system = with_plan(fitted("mf").system)
    visitors = VisitorRows(system, RecentEvents(system.store, 1 << 20), 1 << 20)
    some = RawQueries(["u0001", "ghost"])
    options = [RecommendOptions(5, unknown="popular", precise=False)] * 2
    found = stages_of(lambda: answer_planned(system, visitors, some, options))
    assert [one for one in found if one != "retrieve"] == ["rows", "plan", "popular"]  # this plan runs on the engine


def test_a_listener_hears_its_own_block_and_thread():
    heard = []
    other = threading.Thread(target=lambda: ended("elsewhere", perf_counter()))
    with listening(lambda stage, seconds: heard.append(stage)):
        other.start()
        other.join()
        with listening(None):
            ended("deaf", perf_counter())
        ended("here", perf_counter())
    after = ended("later", perf_counter())
    assert heard == ["here"]
    assert after <= perf_counter()
