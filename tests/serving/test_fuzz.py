"""Whatever is sent, the answer is an answer or a refusal that names its reason: never a 500."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.client import JSON

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=6),
        st.sampled_from(["popular", "skip", "error", "7", "nobody", "2026-01-31T12:00:00Z", "", " ", "1e3", "a|b"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FEATURES = st.dictionaries(st.sampled_from(["age", "segment", "x"]), VALUES, max_size=2)
QUERY = st.dictionaries(
    st.sampled_from(["user_id", "history", "user_features", "context", "userid"]), VALUES | FEATURES, max_size=3
)
GOOD_QUERY = st.fixed_dictionaries(
    {},
    optional={
        "user_id": st.integers(0, 80) | st.text(max_size=4) | st.none(),
        "history": st.lists(st.integers(-1, 45) | st.text(max_size=3), max_size=5),
        "user_features": FEATURES,
    },
)
WISHES = st.dictionaries(
    st.sampled_from(["k", "exclude", "among", "exclude_seen", "unknown", "diversity", "at", "kk"]), VALUES, max_size=2
)
GOOD_WISHES = st.fixed_dictionaries(
    {},
    optional={
        "k": st.integers(1, 60),
        "exclude": st.lists(st.integers(-5, 50), max_size=50),
        "among": st.lists(st.integers(-5, 50), max_size=50),
        "exclude_seen": st.booleans(),
        "unknown": st.sampled_from(["popular", "skip", "error"]),
        "diversity": st.floats(0, 1),
    },
)
QUIET = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


def judged(response):
    assert response.status in (200, 202, 400, 404, 415, 422), response.body
    if response.status >= 400:
        assert len(response.json["detail"].splitlines()) == 1
        assert response.json["code"] != "internal"


@given(st.dictionaries(st.just("queries"), st.lists(QUERY, max_size=3) | VALUES, max_size=1), WISHES)
@QUIET
def test_almost_requests(client, queries, wishes):
    judged(client.post("/v1/recommend", json.dumps({**queries, **wishes}).encode()))


@given(st.lists(GOOD_QUERY, min_size=1, max_size=4), GOOD_WISHES)
@QUIET
def test_nearly_good_requests(client, queries, wishes):
    response = client.post("/v1/recommend", json.dumps({"queries": queries, **wishes}).encode())
    judged(response)
    if response.status == 200:
        k, exclude = wishes.get("k", 10), set(wishes.get("exclude", []))
        for answer in response.json["answers"]:
            items = [item["item_id"] for item in answer["items"]]
            assert len(items) == len(set(items)) <= k
            assert not exclude & set(items)
            assert set(items) <= set(wishes.get("among", items))
            assert [item["rank"] for item in answer["items"]] == list(range(1, len(items) + 1))


@given(st.one_of(st.binary(max_size=60), VALUES.map(lambda value: json.dumps(value).encode())))
@QUIET
def test_bodies_of_anything(client, body):
    judged(client.ask("POST", "/v1/recommend", body, JSON))
    judged(client.ask("POST", "/v1/events", body, JSON))


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["user_id", "session_id", "item_id", "event", "time", "position"]), VALUES, max_size=6
        ),
        max_size=3,
    )
)
@QUIET
def test_almost_events(client, events):
    judged(client.post("/v1/events", json.dumps({"events": events}).encode()))


@given(st.binary(max_size=20), st.sampled_from(["/v1/recommend/", "/v1/similar/", "/v1/", "/"]), st.binary(max_size=12))
@QUIET
def test_paths_of_anything(client, path, prefix, query):
    def call():
        scope = {"type": "http", "method": "GET", "path": prefix, "raw_path": prefix.encode() + path}
        return {**scope, "query_string": query, "headers": []}

    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.disconnect"}

    client.runner.run(client.app(call(), receive, send))
    assert sent[0]["status"] in (200, 400, 404, 405, 422), sent


def test_a_name_that_breaks_lines_is_escaped(client):
    response = client.post("/v1/recommend", b'{"queries": [{"user_features": {"\\u001e\\n": [null]}}]}')
    judged(response)
    assert "\\x1e\\n" in response.json["detail"]
