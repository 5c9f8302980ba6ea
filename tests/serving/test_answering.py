from __future__ import annotations

from datetime import UTC, datetime

import pytest

from suisen.recommending.queries import RecommendOptions
from suisen.serving import answering as room
from suisen.serving.answering import Answering, Recommend, Similar
from suisen.serving.event_log import LoggedEvent
from suisen.serving.messages import Query
from suisen.serving.problems import Refusal


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


def test_faults_of_ours_stay_what_they_are(recommender, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(room, "answer", broken)
    monkeypatch.setattr(room, "similar", broken)
    found = Answering(recommender.system).work([job(1), Similar(7, 2)])
    assert [type(error) for error in found] == [ZeroDivisionError, ZeroDivisionError]


def test_ids_are_known_whatever_their_type(recommender):
    answering = Answering(recommender.system)
    events = [LoggedEvent("1", None, item, "view", datetime.now(UTC), None, None) for item in ("7", "x", "7")]
    assert answering.took(events) == 1
    assert len(answering.recent) == 1
