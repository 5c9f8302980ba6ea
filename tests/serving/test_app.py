from __future__ import annotations

import json

import pytest

from suisen.errors import BundleError, InputError
from suisen.serving.settings import Settings
from tests.serving.client import JSON
from tests.serving.events import read_events

PROBLEM = {"type", "title", "status", "detail", "code", "request_id"}


def refused(response, status, code):
    """The detail of a refusal whose form is checked."""
    assert (response.status, response.json["code"]) == (status, code), response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert set(response.json) == PROBLEM
    assert response.json["status"] == status
    assert response.json["request_id"] == response.headers["x-request-id"]
    return response.json["detail"]


def lists(response):
    assert response.status == 200, response.body
    return [[item["item_id"] for item in answer["items"]] for answer in response.json["answers"]]


def recommended(recommender, **options):
    frame = recommender.recommend(**options)
    return frame["item_id"].to_list(), frame["score"].to_list()


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_user_gets_what_the_recommender_recommends(client, recommender):
    response = client.get("/v1/recommend/7?k=5")
    items, scores = recommended(recommender, users=[7], k=5)
    (answer,) = response.json["answers"]
    assert [item["item_id"] for item in answer["items"]] == items
    assert [item["score"] for item in answer["items"]] == pytest.approx(scores, rel=1e-5)
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3, 4, 5]
    assert answer["items"][0]["title"] == f"Item {items[0]} of taste" + answer["items"][0]["title"][-2:]
    assert (answer["user_id"], answer["answered_by"]) == ("7", "model")
    assert set(response.json) == {"request_id", "version", "took_ms", "answers"}
    assert response.json["version"] == "ease-unsaved"
    assert response.json["took_ms"] > 0


def test_queries_of_every_kind_are_answered_in_their_order(client, recommender):
    queries = [
        {"user_id": 7},
        {"history": [3, 5]},
        {"user_id": "nobody"},
        {"user_features": {"age": 30, "segment": "2"}},
        {"user_id": 8, "history": ["3"]},
        {},
    ]
    response = client.post("/v1/recommend", {"queries": queries, "k": 4})
    found = lists(response)
    assert found[0] == recommended(recommender, users=[7], k=4)[0]
    assert found[1] == recommended(recommender, history=[3, 5], k=4)[0]
    assert found[4] == recommended(recommender, users=[8], history=[[3]], k=4)[0]
    popular = recommended(recommender, users=["nobody"], k=4, unknown="popular")[0]
    assert found[2] == found[3] == found[5] == popular
    by = [answer["answered_by"] for answer in response.json["answers"]]
    assert by == ["model", "model", "popular", "popular", "model", "popular"]
    assert [answer["user_id"] for answer in response.json["answers"]] == [7, None, "nobody", None, 8, None]


def test_wishes_reach_the_recommender(client, recommender):
    wanted = {"k": 6, "exclude": [1, 2, "3"], "among": list(range(1, 20)), "exclude_seen": False, "diversity": 0.5}
    found = lists(client.post("/v1/recommend", {"queries": [{"user_id": 7}], **wanted, "at": "2026-01-31T12:00:00Z"}))
    assert found[0] == recommended(recommender, users=[7], **{**wanted, "exclude": [1, 2, 3]})[0]
    assert set(found[0]) <= set(range(4, 20))
    by_path = lists(client.get("/v1/recommend/7?k=6&exclude_seen=false&diversity=0.5"))
    assert by_path[0] == recommended(recommender, users=[7], k=6, exclude_seen=False, diversity=0.5)[0]


def test_more_than_there_is_returns_what_there_is(client):
    (found,) = lists(client.get("/v1/recommend/nobody?k=10000"))
    assert sorted(found) == list(range(1, 41))


def test_the_policy_for_unknowns_is_the_callers(client):
    wanted = {"queries": [{"user_id": 7}, {"user_id": "nobody"}]}
    skipped = client.post("/v1/recommend", {**wanted, "unknown": "skip"})
    assert [len(found) for found in lists(skipped)] == [10, 0]
    assert skipped.json["answers"][1]["answered_by"] == "nobody"
    detail = refused(client.post("/v1/recommend", {**wanted, "unknown": "error"}), 422, "unanswerable")
    assert detail.startswith("queries[1]: user 'nobody' is unknown to train and brings neither")
    assert detail.endswith('or send "unknown": "popular" or "skip"')
    assert refused(client.get("/v1/recommend/nobody?unknown=error"), 422, "unanswerable").startswith("user 'nobody'")


def test_similar_items(client, recommender):
    response = client.get("/v1/similar/7?k=3")
    frame = recommender.similar_items([7], 3)
    assert [item["item_id"] for item in response.json["items"]] == frame["similar_id"].to_list()
    assert [item["score"] for item in response.json["items"]] == pytest.approx(frame["score"].to_list(), rel=1e-5)
    assert response.json["item_id"] == "7"
    assert set(response.json) == {"request_id", "version", "took_ms", "item_id", "items"}
    assert "item = 'x/y' is unknown" in refused(client.get("/v1/similar/x%2Fy"), 404, "unknown_item")
    assert len(client.get("/v1/similar/7?k=10000").json["items"]) == 39


def test_ids_may_hold_any_character(client):
    for raw in (True, False):
        response = (
            client.get("/v1/recommend/a%20%E6%B0%B4", raw=raw) if raw else client.get("/v1/recommend/a 水", raw=raw)
        )
        assert response.json["answers"][0]["user_id"] == "a 水"
    assert client.get("/v1/recommend/a%2Fb").json["answers"][0]["user_id"] == "a/b"
    assert client.get("/v1/recommend/{user}").json["answers"][0]["user_id"] == "{user}"
    assert "not UTF-8" in refused(client.get("/v1/recommend/%FF"), 400, "malformed_request")
    assert "at most 256" in refused(client.get("/v1/recommend/" + "x" * 257), 422, "invalid_value")


def test_the_request_id_is_the_callers_or_a_new_one(client):
    named = client.get("/v1/recommend/7", headers={"x-request-id": "abc-1"})
    assert named.json["request_id"] == named.headers["x-request-id"] == "abc-1"
    first, second = (client.get("/v1/recommend/7").json["request_id"] for _ in range(2))
    assert first != second
    odd = client.get("/v1/recommend/7", headers={"x-request-id": 'a "b"'})
    assert "x-request-id = 'a \"b\"' must be" in refused(odd, 400, "malformed_request")


# -- health, metrics, description --------------------------------------------------------------------------------------


def test_health(client):
    assert client.get("/health/live").json == {"status": "alive", "version": "ease-unsaved"}
    assert client.get("/health/ready").json == {"status": "ready", "version": "ease-unsaved"}


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/v1/recommend/7", "/v1/similar/7", "/openapi.json"])
def test_head_is_get_without_the_body(client, path):
    head, get = client.ask("HEAD", path), client.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert int(head.headers["content-length"]) == pytest.approx(len(get.body), abs=4)  # took_ms differs in digits


def test_a_bundle_that_fails_keeps_the_server_unready(served):
    def broken():
        raise BundleError("parity: user 1: it gets other items")

    with served(broken) as client:
        assert client.get("/health/live").status == 200
        assert "parity: user 1" in refused(client.get("/health/ready"), 503, "not_ready")
        assert "parity: user 1" in refused(client.get("/v1/recommend/7"), 503, "not_ready")
        assert "parity: user 1" in refused(client.post("/v1/events", {"events": []}), 503, "not_ready")
        assert isinstance(client.app.service.failure, BundleError)


def test_draining_is_not_ready_but_still_answers(served, recommender):
    with served(lambda: recommender.system, Settings(deadline_s=60)) as client:
        assert "suisen_ready 1.0" in client.get("/metrics").body.decode()
        client.app.drain()
        response = client.get("/health/ready")
        assert "closing" in refused(response, 503, "not_ready")
        assert response.headers["retry-after"] == "1"
        assert client.get("/v1/recommend/7").status == 200
        assert "suisen_ready 0.0" in client.get("/metrics").body.decode()


def test_nothing_is_answered_before_the_bundle_is_loaded(served, recommender):
    import threading

    go = threading.Event()

    def slow():
        go.wait(60)
        return recommender.system

    with served(slow, wait=False) as client:
        assert client.get("/health/live").json["status"] == "alive"
        assert "being loaded" in refused(client.get("/health/ready"), 503, "not_ready")
        assert "being loaded" in refused(client.get("/v1/recommend/7"), 503, "not_ready")
        go.set()
        client.run(client.app.opened.wait())
        assert client.get("/health/ready").status == 200


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("/v1/recomend", "/v1/recommend"),
        ("/metric", "/metrics"),
        ("/v1/similar/", "/v1/similar/{item}"),
        ("/v1/event", "/v1/events"),
    ],
)
def test_unknown_paths_name_the_nearest(client, path, near):
    assert refused(client.get(path), 404, "not_found") == f"path = {path!r} is unknown; did you mean {near!r}?"


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("DELETE", "/v1/recommend", "POST"),
        ("POST", "/health/live", "GET, HEAD"),
        ("PUT", "/v1/recommend/7", "GET, HEAD"),
        ("HEAD", "/v1/events", "POST"),
    ],
)
def test_wrong_methods_name_the_right_ones(client, method, path, allow):
    response = client.ask(method, path)
    assert response.status == 405
    assert response.headers["allow"] == allow
    if method != "HEAD":
        assert f"takes {allow}" in refused(response, 405, "method_not_allowed")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=latin-1"},
        {"content-type": "application/json", "content-encoding": "gzip"},
    ],
)
def test_other_media_types_are_refused(client, headers):
    response = client.post("/v1/recommend", {"queries": [{}]}, headers=headers)
    detail = refused(response, 415, "unsupported_media_type")
    assert "content-type" in detail or "content-encoding = 'gzip'" in detail


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_json_may_be_named_in_several_ways(client, kind):
    assert client.post("/v1/recommend", {"queries": [{}]}, headers={"content-type": kind}).status == 200


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b'{"queries":[{}}', r"expected ',' or ']' at byte 14"),
        (b'{"queries":[{}]', "it ends at byte 15 before it is complete"),
        (b"", "it ends at byte 0"),
        (b'{"queries":[{}]} x', "trailing characters at byte 18"),
        (b'{"queries":[{"user_id":"\xff"}]}', "not UTF-8 (byte 24 is 0xff)"),
        (b'{"queries":[{"user_id":"\\ud800"}]}', "half of a surrogate pair"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_json_names_the_position(client, body, detail):
    assert detail in refused(client.post("/v1/recommend", body), 400, "malformed_json")


ONE = {"queries": [{}]}


@pytest.mark.parametrize(
    ("message", "code", "detail"),
    [
        ({**ONE, "kk": 1}, "unknown_field", "field = 'kk' is unknown; did you mean 'k'?"),
        ({"queries": [{"userid": 1}]}, "unknown_field", "field of queries[0] = 'userid' is unknown; did you mean"),
        ({"k": 3}, "invalid_value", "queries is missing; it is required"),
        ([], "invalid_value", "the body = [] must be an object"),
        ({"queries": []}, "invalid_value", "queries = [] must be a list of at least 1 entries"),
        ({"queries": [{}] * 257}, "invalid_value", "must be a list of at most 256 entries"),
        ({**ONE, "k": 0}, "invalid_value", "k = 0 must be a whole number at least 1"),
        ({**ONE, "k": 10_001}, "invalid_value", "k = 10001 must be a whole number at most 10000"),
        ({**ONE, "k": 2.5}, "invalid_value", "k = 2.5 must be a whole number"),
        ({"queries": [{}] * 11, "k": 10_000}, "invalid_value", "k = 10,000 for 11 queries is more than 100,000 items"),
        ({"queries": [{"user_id": True}]}, "invalid_value", "queries[0].user_id = true must be a whole number or text"),
        ({"queries": [{"user_id": 2**63}]}, "invalid_value", "queries[0].user_id = 9223372036854775808 must be"),
        ({"queries": [{"user_id": ""}]}, "invalid_value", 'user_id = "" must be text of at least 1 characters'),
        ({"queries": [{}, {"history": [1, None]}]}, "invalid_value", "queries[1].history[1] = null must be"),
        ({"queries": [{"history": [1] * 10_001}]}, "invalid_value", "at most 10000 entries"),
        ({**ONE, "unknown": "populr"}, "invalid_value", "unknown = 'populr' is unknown; did you mean 'popular'?"),
        ({**ONE, "diversity": 2}, "invalid_value", "diversity = 2 must be a number at most 1.0"),
        ({**ONE, "at": "2026"}, "invalid_value", 'at = "2026" must be an ISO 8601 time with its zone, like 2026-'),
        ({**ONE, "at": "2026-01-31T12:00:00"}, "invalid_value", "must be an ISO 8601 time with its zone"),
        ({**ONE, "at": "1969-01-31T12:00:00Z"}, "invalid_value", "at = 1969-01-31T12:00:00+00:00 must be 1970"),
        ({"queries": [{"user_features": {"aged": 1}}]}, "unknown_field", "'aged' is unknown; did you mean 'age'?"),
        ({"queries": [{"user_features": {"age": "old"}}]}, "invalid_value", "feature 'age' is declared numeric"),
        ({"queries": [{"user_features": {"age": [1]}}]}, "invalid_value", "user_features.age = [1] is a list"),
        ({"queries": [{"user_features": {"age": {}}}]}, "invalid_value", "queries[0].user_features.age = {} must be"),
        ({"queries": [{"context": {"hour": 1}}]}, "unknown_field", "'hour' is unknown; known: none"),
    ],
)  # fmt: skip
def test_messages_that_are_not_allowed_name_field_value_and_mend(client, message, code, detail):
    assert detail in refused(client.post("/v1/recommend", message), 422, code)


def test_numbers_beyond_floats_are_refused(client):
    detail = refused(client.post("/v1/recommend", b'{"queries":[{}],"diversity":1e999}'), 422, "invalid_value")
    assert "diversity = Infinity must be a number within" in detail


@pytest.mark.parametrize(
    ("query", "status", "code", "detail"),
    [
        ("k=0", 422, "invalid_value", 'k = "0" must be a whole number at least 1'),
        ("k=ten", 422, "invalid_value", 'k = "ten" must be a whole number'),
        ("k=1&k=2", 422, "invalid_value", 'k = "2" is given a second time'),
        ("kk=1", 422, "unknown_field", "field = 'kk' is unknown; did you mean 'k'?"),
        ("unknown=x", 422, "invalid_value", "unknown = 'x' is unknown; known: error, popular, skip"),
        ("diversity=nan", 422, "invalid_value", "diversity"),
        ("k=%ff", 400, "malformed_request", "percent-encode UTF-8"),
    ],
)
def test_query_strings_follow_the_same_rules(client, query, status, code, detail):
    assert detail in refused(client.get(f"/v1/recommend/7?{query}"), status, code)


def test_a_query_string_where_none_belongs_is_refused(client):
    response = client.post("/v1/recommend?k=3", {"queries": [{}]})
    assert "field = 'k' is unknown" in refused(response, 422, "unknown_field")


def test_large_bodies_are_refused_before_they_are_read(served, recommender):
    with served(lambda: recommender.system, Settings(max_body_bytes=100, deadline_s=60)) as client:
        announced = client.ask("POST", "/v1/recommend", b"{}", {**JSON, "content-length": "101"})
        assert "101 bytes is above 100" in refused(announced, 413, "too_large")
        streamed = client.ask("POST", "/v1/recommend", [b" " * 60, b" " * 60, b" " * 60], JSON)
        assert " bytes is above 100" in refused(streamed, 413, "too_large")
        whole = json.dumps({"queries": [{}]}).encode()
        assert client.ask("POST", "/v1/recommend", [whole[:5], whole[5:]], JSON).status == 200


def test_a_body_that_never_ends_is_refused(client):
    async def gone():
        return {"type": "http.disconnect"}

    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/v1/recommend", "query_string": b""}
    client.run(client.app({**scope, "headers": [(b"content-type", b"application/json")]}, gone, send))
    assert sent[0]["status"] == 400


def test_what_nobody_foresaw_is_a_problem_without_insides(served, recommender, monkeypatch, caplog):
    with served(lambda: recommender.system, Settings(deadline_s=60)) as client:
        monkeypatch.setattr("suisen.serving.answering.answer", lambda *_: 1 / 0)
        detail = refused(client.get("/v1/recommend/7"), 500, "internal")
        assert "division" not in detail
        assert "ZeroDivisionError" in caplog.text


# -- events ------------------------------------------------------------------------------------------------------------


def test_events_are_in_the_log_when_they_are_accepted(client):
    log = client.app.service.settings.log_dir / "events.jsonl"
    before = read_events(log).height
    event = {
        "user_id": 7,
        "item_id": 3,
        "event": "click",
        "time": "2026-01-31T21:00:00+09:00",
        "request_id": "r",
        "position": 2,
        "event_id": "shop:7/1",
        "value": 4,
        "price": 0.5,
        "quantity": 8,
    }
    response = client.post("/v1/events", {"events": [event, {"session_id": "s", "item_id": "new", "event": "view"}]})
    assert response.status == 202
    answer = {"request_id": "", "accepted": 2, "unknown_items": 1, "repeats": 0}
    assert {**response.json, "request_id": ""} == answer
    rows = read_events(log)[before:].to_dicts()
    time = rows[0].pop("time")
    assert time.isoformat() == "2026-01-31T12:00:00+00:00"
    text = {"user_id": "7", "session_id": None, "item_id": "3", "event": "click"}
    sent = {"request_id": "r", "position": 2, "event_id": "shop:7/1", "value": 4.0, "price": 0.5, "quantity": 8}
    assert rows[0] == {**text, **sent}
    assert rows[1]["event_id"].startswith("~")
    assert (rows[1]["user_id"], rows[1]["session_id"], rows[1]["item_id"]) == (None, "s", "new")


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        ({"user_id": None}, "invalid_value", "events[1] names neither user_id nor session_id; give one of them"),
        ({"time": "1969-12-31T00:00:00Z"}, "invalid_value", "events[1].time = 1969-12-31T00:00:00+00:00 must be"),
        ({"time": "9999-12-31T23:59:59-12:00"}, "invalid_value", "must be from 1970 to now"),
        ({"item_id": " "}, "invalid_value", 'events[1].item_id = " " must be text that is not blank'),
        ({"position": 0}, "invalid_value", "events[1].position = 0 must be a whole number at least 1"),
        ({"event_id": "a b"}, "invalid_value", 'event_id = "a b" must be text of letters, digits and ._:+/=- alone'),
        ({"event_id": "a\n"}, "invalid_value", "events[1].event_id"),
        ({"event_id": "~1"}, "invalid_value", "events[1].event_id"),
        ({"event_id": "x" * 129}, "invalid_value", "events[1].event_id"),
        ({"event_id": 7}, "invalid_value", "events[1].event_id = 7 must be text"),
        ({"price": -0.01}, "invalid_value", "events[1].price = -0.01 must be a number at least 0"),
        ({"value": 1e16}, "invalid_value", "events[1].value = 1e+16 must be a number at most"),
        ({"quantity": 1.5}, "invalid_value", "events[1].quantity = 1.5 must be a whole number"),
        ({"quantity": -1}, "invalid_value", "events[1].quantity = -1 must be a whole number at least 0"),
        ({"item": 1}, "unknown_field", "field of events[1] = 'item' is unknown; did you mean 'item_id'?"),
    ],
)  # fmt: skip
def test_one_bad_event_refuses_all(client, change, code, detail):
    good = {"user_id": 7, "item_id": 3, "event": "click"}
    log = client.app.service.settings.log_dir / "events.jsonl"
    before = log.read_bytes() if log.exists() else b""
    assert detail in refused(client.post("/v1/events", {"events": [good, {**good, **change}]}), 422, code)
    assert log.read_bytes() == before


def test_impressions_hold_what_was_shown(client):
    queries = [{"user_id": "007", "session_id": 5}, {"user_id": "nobody"}]
    asked = client.post("/v1/recommend", {"queries": queries, "k": 3}).json
    log = client.app.service.settings.log_dir / "impressions.jsonl"
    client.run(_until(lambda: asked["request_id"] in log.read_text()))
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    rows = [row for row in rows if row["request_id"] == asked["request_id"]]
    assert [row["user_id"] for row in rows] == ["7", "nobody"]
    assert [row["session_id"] for row in rows] == ["5", None]
    assert [(row["arm"], row["propensity"]) for row in rows] == [(None, None)] * 2
    assert [row["answered_by"] for row in rows] == ["model", "popular"]
    assert [row["item_id"] for row in rows] == [[str(item["item_id"]) for item in a["items"]] for a in asked["answers"]]
    assert rows[0]["position"] == [1, 2, 3]
    assert rows[0]["score"] == [item["score"] for item in asked["answers"][0]["items"]]
    assert rows[0]["version"] == asked["version"]


async def _until(there, seconds=30.0):
    import asyncio

    async with asyncio.timeout(seconds):
        while not there():
            await asyncio.sleep(0.01)


def test_without_a_folder_events_are_refused(served, recommender):
    with served(lambda: recommender.system) as client:
        response = client.post("/v1/events", {"events": [{"user_id": 1, "item_id": 1, "event": "view"}]})
        assert "keeps no event log" in refused(response, 503, "log_unavailable")
    with pytest.raises(InputError, match="impressions = True needs log_dir"):
        served(lambda: recommender.system, Settings(impressions=True))
