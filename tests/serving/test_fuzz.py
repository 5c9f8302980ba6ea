"""Whatever is sent, the answer is an answer or a refusal that names its reason: never a 500."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suisen.serving.endpoints import ENDPOINTS
from tests.serving.client import JSON

POSTS = [endpoint for endpoint in ENDPOINTS if endpoint.method == "POST"]
GETS = [endpoint for endpoint in ENDPOINTS if endpoint.method == "GET"]

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


@given(st.sampled_from(POSTS), st.one_of(st.binary(max_size=60), VALUES.map(lambda value: json.dumps(value).encode())))
@QUIET
def test_bodies_of_anything(client, endpoint, body):
    judged(client.ask("POST", endpoint.path, body, JSON))


@given(st.sampled_from(POSTS), st.data())
@QUIET
def test_almost_messages_of_every_endpoint(client, endpoint, data):
    """The example of an endpoint, some of its fields, wherever they stand, changed, added or left out."""
    message = json.loads(msgspec.json.encode(endpoint.takes() if endpoint.example is None else endpoint.example))
    names = [name for name in _names(message) for _ in range(2)] + ["x"]

    def changed(value):
        if isinstance(value, list):
            return [changed(part) for part in value]
        if not isinstance(value, dict):
            return value
        left = {name: changed(part) for name, part in value.items() if data.draw(st.integers(0, 4)) > 0}
        return left | data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=1))

    judged(client.post(endpoint.path, json.dumps(changed(message)).encode()))


def _names(value):
    if isinstance(value, list):
        return [name for part in value for name in _names(part)]
    if isinstance(value, dict):
        return [*value, *(name for part in value.values() for name in _names(part))]
    return []


@given(st.sampled_from(GETS), st.data())
@QUIET
def test_almost_query_strings_of_every_endpoint(client, endpoint, data):
    names = [*endpoint.takes.__struct_fields__, "x"]
    texts = VALUES.map(lambda value: value if isinstance(value, str) else json.dumps(value))
    given = data.draw(st.dictionaries(st.sampled_from(names), texts, max_size=3))
    segment = data.draw(st.sampled_from(["7", "nobody", "%E6%B0%B4", "%FF", " "])) if endpoint.variable else ""
    judged(client.get(f"{endpoint.prefix}{segment}?{urlencode(given, errors='replace')}"))


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


@given(
    st.binary(max_size=20),
    st.sampled_from([*(endpoint.prefix for endpoint in GETS), "/v1/", "/"]),
    st.binary(max_size=12),
)
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

    client.run(client.app(call(), receive, send))
    assert sent[0]["status"] in (200, 400, 404, 405, 422), sent


def test_a_name_that_breaks_lines_is_escaped(client):
    response = client.post("/v1/recommend", b'{"queries": [{"user_features": {"\\u001e\\n": [null]}}]}')
    judged(response)
    assert "\\x1e\\n" in response.json["detail"]
