from __future__ import annotations

import math

import pytest

from suisen.recommending.queries import RecommendOptions
from suisen.serving import answering as room
from suisen.serving.answering import QUICK_QUERIES, Answering, Rank, Recommend, Similar
from suisen.serving.messages import Query, RankQuery
from suisen.serving.problems import Refusal
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.events import logged


def job(*users, **options):
    return Recommend([Query(user_id=user) for user in users], RecommendOptions(**options))


@pytest.fixture
def asked(recommender, monkeypatch):
    """(Answering, the sizes of the calls that it makes)."""
    sizes, answer = [], room.answer

    def counted(system, queries, *others):
        sizes.append(len(queries))
        return answer(system, queries, *others)

    monkeypatch.setattr(room, "answer", counted)
    return Answering(recommender.system), sizes


def items(answers):
    return [[item.item_id for item in answer.items] for answer in answers]


def test_equal_wishes_are_computed_together(asked, recommender):
    answering, sizes = asked
    jobs = [job(1, 2, k=3), job(3, k=4), job(4, k=3), Similar(7, 2), job(5, k=4, exclude=(1,))]
    found = answering.work(jobs)
    assert sorted(sizes) == [1, 1, 3]
    for one, answers in zip(jobs, found):
        if isinstance(one, Similar):
            assert [item.item_id for item in answers] == recommender.similar_items([7], 2)["similar_id"].to_list()
            continue
        for query, got in zip(one.queries, items(answers)):
            exclude = list(one.options.exclude)
            assert got == recommender.recommend([query.user_id], one.options.k, exclude=exclude)["item_id"].to_list()


def test_a_refused_query_spoils_no_other_request(asked):
    answering, sizes = asked
    jobs = [job(user) for user in range(1, 33)]
    jobs[20] = job("nobody")
    found = answering.work(jobs)
    assert isinstance(found[20], Refusal)
    assert found[20].code == "unanswerable"
    assert all(len(items(answers)[0]) == 10 for place, answers in enumerate(found) if place != 20)
    assert len(sizes) == 11  # halved five times, not asked one by one


def test_ranked_items_and_lists_are_computed_apart(recommender):
    answering, options = Answering(recommender.system), RecommendOptions(3)
    jobs = [Rank([RankQuery(user_id=1, items=[5, 6])], options), Recommend([Query(user_id=1)], options)]
    ranked, listed = answering.work(jobs)
    assert {item.item_id for item in ranked[0].items} == {5, 6}
    assert items(listed)[0] == recommender.recommend([1], 3)["item_id"].to_list()
    assert answering.work(jobs[::-1]) == [listed, ranked]


def test_faults_of_ours_stay_what_they_are(recommender, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(room, "answer", broken)
    monkeypatch.setattr(room, "similar", broken)
    found = Answering(recommender.system).work([job(1), Similar(7, 2)])
    assert [type(error) for error in found] == [ZeroDivisionError, ZeroDivisionError]


def test_ids_are_known_whatever_their_type(recommender):
    answering = Answering(recommender.system)
    events = [logged(item, "1") for item in ("7", "x", "7")]
    assert answering.took(events) == 1
    assert len(answering.recent) == 1


# -- by a plan ------------------------------------------------------------------------------------------------------


def fast(*users, **options):
    return job(*users, precise=False, **options)


def test_quick_jobs_are_short_and_the_plans():
    planned, plain = Answering(with_plan(fitted("ease").system)), Answering(fitted("ease").system)

    def quick(job, answering=planned):
        return answering.quick(job, answering.price(job, math.inf))

    assert quick(fast("u0001", exclude=("i001",), among=("i002",), exclude_seen=False))
    assert quick(fast(*["u0001"] * QUICK_QUERIES))
    assert not quick(fast(*["u0001"] * (QUICK_QUERIES + 1)))
    assert not quick(fast(*["u0001"] * QUICK_QUERIES, k=1_000))  # so long that others would wait for it
    assert not quick(Recommend([Query(user_id="u0001")], fast("u0001").options, large=True))
    assert not quick(job("u0001"))
    assert not quick(fast("u0001", diversity=0.5))
    assert not quick(Similar("i001", 2))
    assert not quick(fast("u0001"), plain)
    planned.system.engine.plan.quick = False
    assert not quick(fast("u0001"))


@pytest.mark.parametrize("name", ["mf", "ease", "two-tower + deepfm", "ease + fm"])
def test_jobs_of_all_kinds_in_one_call_get_what_each_gets_alone(name):
    """Planned jobs beside precise and diverse ones, with options and parts of their own, one of them refused."""
    system = with_plan(fitted(name).system)
    answering, alone = Answering(system), Answering(fitted(name).system)
    jobs = [
        fast("u0001", "ghost", None, unknown="popular"),
        job("u0001", "u0002"),
        fast("u0003", exclude=("i001", "no such", "i005"), exclude_seen=False),
        fast("u0004", among=("i001", "i002", "i003", "no such")),
        fast("u0001", diversity=0.5),
        fast("no such user", unknown="error"),
        fast("u0005", k=3),
        Recommend([Query("u0006", user_features={"no such": 1})], RecommendOptions(precise=False)),
        Recommend([Query("u0006", user_features={"age": 33})], RecommendOptions(precise=False)),
        Recommend([Query(history=["i001", "i004"]), Query("u0002")], RecommendOptions(precise=False, unknown="skip")),
        Similar("i001", 3),
        fast("u0007", unknown="skip", at=1),
        fast(*[f"u{one:04}" for one in range(1, 41)], k=80),
    ]
    events = [logged("i002", "u0001")]
    for _ in range(2):
        for one, got in zip(jobs, answering.work(jobs)):
            (want,) = alone.work([one])
            if isinstance(want, Exception):
                assert (got.code, got.detail) == (want.code, want.detail)
                continue
            if isinstance(one, Similar):
                assert got == want
                continue
            assert [(answer.user_id, answer.answered_by) for answer in got] == [
                (a.user_id, a.answered_by) for a in want
            ]
            for mine, theirs in zip(got, want):
                assert [item.score for item in mine.items] == pytest.approx([i.score for i in theirs.items], abs=1e-4)
                unlike = [a for a, b in zip(mine.items, theirs.items) if a.item_id != b.item_id]
                assert all([abs(a.score - b.score) < 1e-4 for b in theirs.items].count(True) > 1 for a in unlike)
                assert [item.rank for item in mine.items] == [item.rank for item in theirs.items]
                titles = dict(zip(answering._raw, answering._titles))
                assert all(item.title == titles[item.item_id] for item in mine.items)
        answering.took(events)
        alone.took(events)
    assert answering.visitors.hits > 40


def test_planned_queries_of_one_k_are_one_call_whatever_else_they_wish(monkeypatch):
    system = with_plan(fitted("mf").system)
    plan, sizes = system.engine.plan, []
    lists = plan.lists
    monkeypatch.setattr(
        plan, "lists", lambda states, *others: sizes.append(len(states.queries)) or lists(states, *others)
    )
    jobs = [fast("u0001"), fast("u0002", exclude=("i001",)), fast("u0003", exclude_seen=False), fast("u0004", k=3)]
    Answering(system).work(jobs)
    assert sorted(sizes) == [1, 3]
