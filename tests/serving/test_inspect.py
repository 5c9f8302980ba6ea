"""``/admin/inspect`` and ``/admin/items`` of a real server: clients get the same list, and nothing counts a look."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from suisen.recommending import bundle
from suisen.serving.answering import Look
from tests.fitted import fitted, seen_by
from tests.serving.test_admin import served

QUERIES = [
    {"user_id": "u0003"},
    {"user_id": "u0004", "history": ["i003", "i010"]},
    {"history": ["i007"]},
    {"user_id": "ghost"},
    {},
]
ADMIN_KEY = "a" * 30


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    with_plan = bundle.save(fitted("mf").system, folder / "mf")
    return [with_plan, bundle.save(fitted("ease + fm").system, folder / "two", plan=False)]


@pytest.fixture(scope="module", params=[("fast", 0), ("asgi", 1)], ids=["a plan, fast front", "torch, asgi front"])
def open_server(request, bundles, tmp_path_factory):
    """(caller, admin, name of the model) behind both fronts, with a plan and without."""
    front, at = request.param
    with served(bundles[at], front=front, log_dir=tmp_path_factory.mktemp("log")) as (_, caller, admin):
        yield caller, admin, ("mf", "ease + fm")[at]


def listed(caller, **body):
    status, answer = caller.call("POST", "/v1/recommend", body)
    assert status == 200, answer
    return answer["answers"][0]


def ids(items):
    return [item["item_id"] for item in items]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize(
    "options",
    [
        {"k": 5},
        {"k": 200, "exclude_seen": False},
        {"k": 4, "precise": True},
        {"k": 6, "diversity": 0.5, "exclude": ["i001"]},
    ],
)
def test_the_list_is_the_one_that_clients_get(open_server, query, options):
    caller, admin, name = open_server
    expected = listed(caller, queries=[query], **options)
    found = admin.asked("inspect", queries=[query], **options)
    assert found["items"] == expected["items"]
    assert found["answered_by"] == expected["answered_by"]
    planned = name == "mf" and not options.get("precise") and "diversity" not in options
    assert found["way"] == ("plan" if planned else "precise")
    precise = {one["stage"] for one in found["precise_stages"]}
    assert {one["stage"] for one in found["stages"]} >= ({"rows"} if planned else precise)
    assert all(one["ms"] >= 0 for one in found["stages"])
    assert found["degraded"] == []
    assert found["known"] is (query.get("user_id") in ("u0003", "u0004"))


def test_candidates_carry_their_place_in_every_stage(open_server):
    _, admin, name = open_server
    found = admin.asked("inspect", queries=[{"user_id": "u0003"}], k=5, precise=True)
    candidates = found["candidates"]
    assert [one["first_rank"] for one in candidates] == list(range(1, found["n_candidates"] + 1))
    scores = [one["first_score"] for one in candidates]
    assert scores == sorted(scores, reverse=True)
    by_place = {one["place"]: one["item_id"] for one in candidates if one["place"]}
    assert [by_place[place] for place in range(1, 6)] == ids(found["items"])
    if name == "mf":
        assert {one["second_rank"] for one in candidates} == {None}
        assert len(candidates) == 5
    else:
        assert len(candidates) == 30
        assert sorted(one["second_rank"] for one in candidates) == list(range(1, 31))
        assert all(one["place"] == one["second_rank"] for one in candidates if one["place"])
    assert all(one["title"].startswith("日本") for one in candidates)


def test_each_rule_is_named(open_server):
    caller, admin, name = open_server
    first = ids(listed(caller, queries=[{"user_id": "u0003"}], k=4)["items"])
    seen = seen_by(fitted(name), "u0003")
    admin.asked("blocklist", block=[first[0]])
    try:
        found = admin.asked("inspect", queries=[{"user_id": "u0003"}], k=80, exclude=[first[1]])
    finally:
        admin.asked("blocklist", unblock=[first[0]])
    rules = {one["item_id"]: one["rules"] for one in found["kept_out"]}
    assert rules[first[0]] == ["blocked"]
    assert rules[first[1]] == ["excluded"]
    assert {item for item, its in rules.items() if its == ["seen"]} == seen
    assert {one["rule"]: one["items"] for one in found["rules"]}.items() >= {
        "blocked": 1, "excluded": 1, "seen": len(seen),
    }.items()  # fmt: skip
    assert not {first[0], first[1]} & set(ids(found["items"]))
    found = admin.asked("inspect", queries=[{"user_id": "u0003"}], k=2, among=first[2:])
    assert [one["rules"] for one in found["kept_out"] if one["item_id"] in first[:2]] == [["among"], ["among"]]


def test_reasons_add_up_to_the_score(open_server):
    _, admin, name = open_server
    query = [{"user_id": "u0003"}]
    first = admin.asked("inspect", queries=query, k=3, precise=True)
    found = admin.asked("inspect", queries=query, k=3, precise=True, explain=ids(first["items"]))
    assert [one["item_id"] for one in found["why"]] == ids(first["items"])
    for one, item in zip(found["why"], first["items"]):
        if name == "mf":
            assert (one["stage"], one["parts"]) == (None, [])
            assert "cannot explain a score" in one["said"]
        else:
            assert one["stage"] == "last"
            assert one["score"] == pytest.approx(item["score"], abs=1e-4)
            assert sum(part["contribution"] for part in one["parts"]) + one["rest"] == pytest.approx(one["score"])
            sizes = [abs(part["contribution"]) for part in one["parts"]]
            assert sizes == sorted(sizes, reverse=True)


def test_events_count_and_the_history_is_newest_first(open_server):
    caller, admin, _ = open_server
    query = [{"user_id": "u0011"}]
    before = admin.asked("inspect", queries=query, k=3)
    item = before["items"][0]["item_id"]
    event = {"event": "view", "item_id": item, "user_id": "u0011"}
    assert caller.call("POST", "/v1/events", {"events": [event]})[0] == 202
    after = admin.asked("inspect", queries=query, k=3)
    assert after["history"][0]["item_id"] == item
    assert after["history_length"] == before["history_length"] + 1
    assert item not in ids(after["items"])
    assert {one["item_id"]: one["rules"] for one in after["kept_out"]}.get(item, ["seen"]) == ["seen"]


def counted(admin):
    """What the server says that it answered."""
    text = urllib.request.urlopen(f"http://{admin.connection.host}:{admin.connection.port}/metrics").read().decode()
    return re.findall(r"^(suisen_(?:answers|queries|stage_seconds_count).*)$", text, re.MULTILINE)


def test_a_look_is_counted_as_no_answer(open_server):
    caller, admin, _ = open_server
    listed(caller, queries=[{"user_id": "u0003"}])
    before = [line for line in counted(admin) if "encode" not in line]
    assert any("suisen_queries_total" in line for line in before)
    admin.asked("inspect", queries=[{"user_id": "u0003"}], k=5, explain=["i001"])
    assert admin.call("GET", "/admin/items?q=i")[0] == 200
    assert [line for line in counted(admin) if "encode" not in line] == before


def test_every_loaded_version_can_be_asked(bundles):
    with served(bundles[0]) as (server, caller, admin):
        body = {"queries": [{"user_id": "u0003"}], "k": 5}
        serving = admin.asked("inspect", **body)
        code, detail = admin.refused("inspect", **body, role="candidate")
        assert code == "conflict"
        assert detail == "role = 'candidate': none is loaded; GET /admin/slots lists the versions that are"
        admin.asked("load", bundle=str(bundles[1]))
        admin.asked("shadow", share=1.0)
        candidate = admin.asked("inspect", **body, role="candidate")
        assert (serving["model"], candidate["model"]) == ("mf", "ease + fm")
        assert ids(admin.asked("inspect", **body)["items"]) == ids(serving["items"])
        service = server.app.service
        listed(caller, **body)
        until = time.monotonic() + 20
        while not service.shadow.report.requests:  # they come in order: looks would be there before the list
            assert time.monotonic() < until
            time.sleep(0.05)
        assert service.shadow.report.requests == 1  # a look is no live request
        assert not [job for job in service._recorded if isinstance(job, Look)]
        admin.asked("switch")
        assert ids(listed(caller, **body)["items"]) == ids(candidate["items"])
        former = admin.asked("inspect", **body, role="former")
        assert (former["version"], ids(former["items"])) == (serving["version"], ids(serving["items"]))
        assert admin.call("GET", "/admin/items?q=i001&role=former")[1]["version"] == serving["version"]
        assert admin.call("GET", "/admin/items?q=i001&role=candidate")[0] == 409


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ({"queries": []}, "invalid_value", "queries"),
        ({"queries": [{}, {}]}, "invalid_value", "queries"),
        ({"queries": [{}], "k": 201}, "invalid_value", "k = 201"),
        ({"queries": [{}], "role": "staged"}, "invalid_value", "role = 'staged'"),
        ({"queries": [{}], "explain": ["nothing"]}, "invalid_value", "explain: item 'nothing' is unknown"),
        ({"queries": [{}], "no_such": 1}, "unknown_field", "no_such"),
        ({"queries": [{"context": {"colour": 1}}]}, "unknown_field", "colour"),
        ({"queries": [{"user_id": "ghost"}], "unknown": "error"}, "unanswerable", '"unknown": "popular"'),
    ],
)
def test_what_cannot_be_inspected_is_refused(open_server, body, code, says):
    _, admin, _ = open_server
    if "popular" in says and open_server[2] == "ease + fm":
        body = {**body, "queries": [{"history": ["nothing"]}]}
    found, detail = admin.refused("inspect", **body)
    assert (found, says in detail) == (code, True), detail


def test_it_needs_a_key_that_is_allowed_admin(bundles):
    with served(bundles[0], insecure=False, admin_key=ADMIN_KEY, api_key="k" * 30) as (_, caller, admin):
        body = {"queries": [{"user_id": "u0003"}]}
        assert admin.refused("inspect", **body)[0] == "unauthorized"
        assert admin.call("GET", "/admin/items?q=i")[0] == 401
        caller.headers["x-api-key"] = "k" * 30
        assert caller.call("POST", "/admin/inspect", body)[0] == 404
        admin.headers["authorization"] = f"Bearer {ADMIN_KEY}"
        assert admin.asked("inspect", **body)["items"]


def found_by(admin, query):
    status, answer = admin.call("GET", f"/admin/items?{query}")
    assert status == 200, answer
    return answer["items"]


def test_items_are_found_by_id_and_by_title(open_server):
    _, admin, name = open_server
    (first, *others) = found_by(admin, "q=i007&limit=50")
    assert first["item_id"] == "i007"
    assert first["events"] == int(fitted(name).store.item_counts[fitted(name).store.items.dense_one("i007")])
    assert others == []
    some = found_by(admin, "q=%E6%97%A5%E6%9C%AC&limit=50")  # all titles begin so
    assert len(some) == 50
    assert [one["events"] for one in some] == sorted((one["events"] for one in some), reverse=True)
    word = some[0]["title"].split("«")[1].split("»")[0]
    assert found_by(admin, f"q={word.upper().replace(' ', '%20')}")[0]["title"] == some[0]["title"]
    assert found_by(admin, "q=no%20such%20title") == []
    assert len(found_by(admin, "q=%E6%97%A5&limit=3")) == 3
    assert admin.call("GET", "/admin/items")[0] == 422
    assert admin.call("GET", "/admin/items?q=")[0] == 422
    assert admin.call("GET", "/admin/items?q=a&limit=51")[0] == 422


def test_several_sources_are_named():
    with served(fitted("ease, mf").system) as (_, caller, admin):
        body = {"queries": [{"user_id": "u0003"}], "k": 5}
        items = ids(listed(caller, **body)["items"])
        found = admin.asked("inspect", **body, explain=items[:1])
        assert ids(found["items"]) == items
        assert {name for one in found["candidates"] for name in one["sources"]} == {"ease", "mf"}
        (why,) = found["why"]
        assert why["score"] == pytest.approx(found["items"][0]["score"], abs=1e-5)
        assert all(re.fullmatch(r"(ease|mf)(, rank \d+)?", part["name"]) for part in why["parts"])
        assert {part["beside"] for part in why["parts"]} == {""}
