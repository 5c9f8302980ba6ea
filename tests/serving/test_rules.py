"""Rules of a server: served as offline, refused with the mend, said in the answer, counted."""

from __future__ import annotations

import pytest

from suisen.errors import BundleError, InputError
from suisen.recommending import bundle
from suisen.recommending.answering import answer
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.rules.declared import Rules
from suisen.serving.server import start_in_thread
from suisen.serving.settings import Settings
from suisen.serving.telemetry import RULE_NAMES, Telemetry
from tests.fitted import fitted
from tests.serving.client import Client
from tests.serving.test_admin import served as admin_served

USERS = [f"u{n:04}" for n in range(1, 21)]
RULES = {
    "require": [{"name": "affordable", "expression": "price < request.budget or request.budget is null"}],
    "cap": [{"name": "two per category", "column": "category", "most": 2, "first": 5}],
    "pin": [{"name": "campaign", "item": "i007", "position": 2}],
}
SETTINGS = {"deadline_s": 60.0, "warm_s": 0.0}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return bundle.save(fitted("two-tower").with_rules(RULES).system, tmp_path_factory.mktemp("b") / "two-tower")


@pytest.fixture(scope="module", params=["system", "plan"])
def client(request, saved):
    """Over a system that has no plan, and over a bundle that has one."""
    system = fitted("two-tower").with_rules(RULES).system if request.param == "system" else bundle.load(saved)
    with Client(lambda: system, Settings(**SETTINGS)) as made:
        yield made


def ask(client, queries, **more):
    response = client.post("/v1/recommend", {"queries": queries, **more})
    assert response.status == 200, response.body
    return response.json["answers"]


def offline(queries, k):
    system = fitted("two-tower").with_rules(RULES).system
    raw = RawQueries([query["user_id"] for query in queries], context=[query.get("context") for query in queries])
    answers = answer(system, raw, RecommendOptions(k=k, unknown="popular"))
    lists = [system.store.items.raw(row[row > 0].numpy()).to_list() for row in answers.items]
    return lists, answers.unmet


def test_what_is_served_is_what_the_library_answers(client):
    contexts = [None, {"budget": 20}, {"budget": 1e9}, {"budget": None}, {"budget": 35.5}]
    queries = [{"user_id": user, **({"context": contexts[n % 5]} if contexts[n % 5] else {})}
               for n, user in enumerate([*USERS, "nobody"])]  # fmt: skip
    lists, unmet = offline(queries, 5)
    for precise in (True, False):
        answers = ask(client, queries, k=5, precise=precise)
        assert [[item["item_id"] for item in one["items"]] for one in answers] == lists
        assert [one.get("unmet", {}) for one in answers] == [dict(unmet.get(row, {})) for row in range(len(queries))]
    assert (
        client.get("/v1/recommend/u0001?k=5").json["answers"][0]["items"] == ask(client, queries[:1], k=5)[0]["items"]
    )


def test_an_empty_list_and_a_pin_that_is_barred_are_said(client):
    (one,) = ask(client, [{"user_id": "u0001", "context": {"budget": -1}}], k=5)
    assert one["items"] == []
    assert one["unmet"] == {"affordable": "short", "campaign": "barred"}


def test_what_a_rule_cannot_read_is_refused_and_names_the_query(client):
    queries = [{"user_id": "u0001"}, {"user_id": "u0002", "context": {"budget": "much"}}]
    response = client.post("/v1/recommend", {"queries": queries})
    assert response.status == 422
    assert response.json["code"] == "invalid_value"
    assert response.json["detail"].startswith("queries[1]: rule 'affordable': request.budget = 'much', and price holds")
    response = client.post("/v1/recommend", {"queries": [{"user_id": "u0001", "context": {"budgett": 1}}]})
    assert response.json["code"] == "unknown_field"


def test_a_query_that_brings_what_rules_read_alone_keeps_its_row(client):
    answering = client.app.service.loaded()
    if answering.visitors is None:
        pytest.skip("rows are kept where there is a plan")
    ask(client, [{"user_id": "u0005"}], k=5)
    hits = answering.visitors.hits
    ask(client, [{"user_id": "u0005", "context": {"budget": 30}}], k=5)
    assert answering.visitors.hits == hits + 1


def test_rules_are_counted_and_told(client):
    def counted():
        lines = client.get("/metrics").body.decode().splitlines()
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line.startswith("suisen_rule")
        }

    before = counted()
    ask(client, [{"user_id": user, "context": {"budget": -1 if n else 1e9}} for n, user in enumerate(USERS[:4])], k=5)
    after = counted()
    grown = {name: value - before.get(name, 0.0) for name, value in after.items() if value != before.get(name, 0.0)}
    allowed = int(fitted("two-tower").engine.allowed.sum())
    assert grown['suisen_rule_items_total{rule="affordable"}'] == 3 * allowed
    assert grown['suisen_rule_lists_total{rule="affordable"}'] == 3
    assert grown['suisen_rules_unmet_total{rule="affordable",why="short"}'] == 3
    assert grown['suisen_rules_unmet_total{rule="campaign",why="barred"}'] >= 3
    told = client.get("/v1/bundle").json["rules"]
    assert told == {"affordable": "require", "two per category": "cap", "campaign": "pin"}


def test_ranked_items_are_those_that_may_be_shown(client):
    query = {"user_id": "u0001", "items": ["i001", "i002", "i003"], "context": {"budget": -1}}
    answer = client.post("/v1/rank", {"queries": [query]}).json["answers"][0]
    assert answer["items"] == []
    assert sorted(answer["left_out"]) == query["items"]


def test_a_file_takes_the_place_of_the_bundles_rules_and_is_read_with_each_version(saved, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text('[[pin]]\nname = "first"\nitem = "i009"\nposition = 1\n', encoding="utf-8")
    with admin_served(saved, rules=path) as (_, caller, admin):
        assert caller.items("u0001")[1][0] == "i009"
        path.write_text('[[pin]]\nname = "first"\nitem = "i011"\nposition = 1\n', encoding="utf-8")
        assert caller.items("u0001")[1][0] == "i009"
        admin.asked("load", bundle=str(saved), switch=True)
        assert caller.items("u0001")[1][0] == "i011"
        path.write_text('[[pin]]\nname = "first"\nitem = "absent"\nposition = 1\n', encoding="utf-8")
        code, detail = admin.refused("load", bundle=str(saved))
        assert code == "bundle_refused"
        assert "rule 'first': item 'absent' is unknown" in detail
        assert caller.items("u0001")[1][0] == "i011"


def test_rules_that_cannot_be_read_or_do_not_fit_are_said_before_anything_is_served(saved, tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text("[[cap", encoding="utf-8")
    with pytest.raises(InputError, match=r"rules = '.*rules.toml' cannot be read"):
        start_in_thread(saved, settings=Settings(**SETTINGS, rules=path))
    path.write_text('[[cap]]\nname = "c"\ncolumn = "artist"\nmost = 1\n', encoding="utf-8")
    with pytest.raises((InputError, BundleError), match="rule 'c': column = 'artist' is unknown"):
        start_in_thread(saved, settings=Settings(**SETTINGS, rules=path))


def test_the_names_of_rules_are_bounded_as_labels():
    telemetry = Telemetry()
    labels = {telemetry.label_of(f"rule {n}") for n in range(RULE_NAMES + 50)}
    assert len(labels) == RULE_NAMES + 1
    assert telemetry.label_of("rule 0") == "rule 0"
    assert telemetry.label_of("another") == "other"


def test_a_system_without_rules_says_nothing_of_them(saved):
    system = bundle.load(saved)
    assert system.rules == Rules.of(RULES)
    with Client(lambda: fitted("mf").system, Settings(**SETTINGS)) as plain:
        (one,) = ask(plain, [{"user_id": "u0001"}], k=5)
        assert "unmet" not in one
        assert plain.get("/v1/bundle").json["rules"] == {}
