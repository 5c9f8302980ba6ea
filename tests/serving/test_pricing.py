"""Prices: what a small body may ask for is bounded, and no price is far from what the request costs."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.recommending.queries import RecommendOptions
from suisen.serving.answering import Answering, Rank, Recommend, Similar
from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.messages import Query, RankQuery
from suisen.serving.openapi import document
from suisen.serving.settings import Settings
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.client import Client

KINDS = ["mf", "ease", "two-tower + deepfm", "ease + fm"]


@pytest.fixture(scope="module", params=KINDS)
def answering(request):
    return Answering(fitted(request.param).system)


def price(answering, queries=1, history=0, **options):
    asked = [Query(history=["i001"] * history) for _ in range(queries)]
    return answering.price(Recommend(asked, RecommendOptions(**options)), math.inf)


@given(
    st.integers(1, 60),
    st.integers(1, 400),
    st.integers(0, 50),
    st.sampled_from(
        [{"diversity": 0.5}, {"exclude": ("i001",)}, {"among": ("i001",)}, {"where": {"a": 1}}, {"precise": False}]
    ),
)
@settings(deadline=None, max_examples=30)
def test_more_costs_more(answering, queries, k, history, other):
    base = price(answering, queries, history, k=k)
    assert 0 < base < math.inf
    assert price(answering, queries + 1, history, k=k) > base
    assert price(answering, queries, history, k=k + 1) > base
    assert price(answering, queries, history + 1, k=k) > base
    if other != {"precise": False}:
        assert price(answering, queries, history, k=k, **other) > base


@pytest.mark.parametrize("name", KINDS)
def test_the_plan_costs_less_than_torch(name):
    planned = Answering(with_plan(fitted(name).system))
    assert price(planned, precise=False) < price(planned, precise=True)


def test_diversity_is_priced_by_its_pairs(answering):
    def alone(k):
        return price(answering, k=k, diversity=0.5) - price(answering, k=k)

    assert alone(40) > alone(20) > alone(10) > 0


REFUSED = [
    ("/v1/recommend", {"queries": [{}] * 200, "k": 40, "precise": True}, "200 queries, max"),
    ("/v1/recommend", {"queries": [{}] * 200, "diversity": 0.3, "k": 30}, "diversity over k × candidates = 30 × "),
    ("/v1/recommend", {"queries": [{"history": ["i001"] * 9_000}] * 5, "precise": True}, "histories of 45,000 items"),
    ("/v1/recommend", {"queries": [{}] * 200, "where": {"genre": "a"}}, "1 conditions of where"),
    ("/v1/recommend/batch", {"queries": [{}] * 9_000, "precise": True}, "9,000 queries"),
    ("/v1/rank", {"queries": [{"items": ["i001"] * 300}] * 100}, "30,000 items to rank"),
    ("/v1/recommend/u0001?k=9000&precise=true", None, "1 queries, max(k, candidates) = "),
    ("/v1/similar/i001?k=10000", None, "k = 10,000, "),
]


@pytest.mark.parametrize(("path", "message", "said"), REFUSED)
def test_above_the_limit_a_request_is_refused_before_it_is_computed(path, message, said, monkeypatch):
    monkeypatch.setattr(Answering, "work", lambda *given: pytest.fail("it was computed"))
    with Client(lambda: fitted("mf").system, Settings(max_price=300)) as client:
        answer = client.get(path) if message is None else client.post(path, message)
        metrics = client.get("/metrics").body.decode()
    assert (answer.status, answer.json["code"]) == (422, "too_expensive")
    assert answer.json["detail"].startswith(said) or said in answer.json["detail"]
    assert "units of price are above" in answer.json["detail"]
    assert "; ask for fewer queries" in answer.json["detail"]
    assert 'suisen_refused_total{reason="price"} 1.0' in metrics


@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/recommend/batch", "/v1/recommend/u0001?k=501&diversity=0.1"])
def test_lists_with_diversity_are_short(path):
    with Client(lambda: fitted("mf").system) as client:
        if "?" in path:
            answer = client.get(path)
        else:
            answer = client.post(path, {"queries": [{}], "k": 501, "diversity": 0.1})
            assert client.post(path, {"queries": [{}], "k": 501, "diversity": 0}).status == 200
            assert client.post(path, {"queries": [{}], "k": 500, "diversity": 0.1}).status == 200
        metrics = client.get("/metrics").body.decode()
    assert (answer.status, answer.json["code"]) == (422, "invalid_value")
    assert answer.json["detail"] == "k = 501 with diversity = 0.1 must be at most 500; ask for fewer items"
    assert 'suisen_refused_total{reason="limit"} 1.0' in metrics


def test_the_limits_are_said_in_openapi():
    with Client(lambda: fitted("mf").system, Settings(max_price=123_456)) as client:
        told = client.get("/openapi.json").json
    assert "123,456 units" in told["info"]["description"]
    assert "too_expensive" in told["info"]["description"]
    for name in ("RecommendRequest", "BatchRequest"):
        properties = told["components"]["schemas"][name]["properties"]
        assert "at most 500" in json.dumps(properties["diversity"])
        assert "too_expensive" in json.dumps(properties["k"])
    for path, methods in document(ENDPOINTS)["paths"].items():
        if any(part in path for part in ("recommend", "rank", "similar")):
            assert "too_expensive" in json.dumps(methods), path


def test_each_kind_of_job_has_a_price(answering):
    items = [f"i{one:03}" for one in range(30)]
    options = RecommendOptions()
    few, many = (answering.price(Rank([RankQuery(items=items[:n])], options), math.inf) for n in (3, 30))
    assert 0 < few < many
    assert 0 < answering.price(Similar("i001", 5), math.inf) < answering.price(Similar("i001", 500), math.inf)


def test_a_batch_is_computed_in_parts_by_their_price(monkeypatch):
    work, sizes = Answering.work, []

    def counted(self, jobs):
        sizes.extend(len(job) for job in jobs)
        return work(self, jobs)

    monkeypatch.setattr(Answering, "work", counted)
    with Client(lambda: fitted("mf").system, Settings(deadline_s=60.0)) as client:
        answering = client.app.service.slot.answering
        each = price(answering)
        monkeypatch.setattr("suisen.serving.endpoints.recommend_batch.LARGE_UNITS", 7.5 * each)
        answer = client.post("/v1/recommend/batch", {"queries": [{}] * 20, "precise": True})
    assert (answer.status, len(answer.json["answers"])) == (200, 20)
    assert sizes == [7, 7, 6]
