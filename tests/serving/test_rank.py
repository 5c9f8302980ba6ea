"""Items that are given, ranked."""

from __future__ import annotations

import pytest
import torch

from suisen.data.batch import Candidates
from suisen.recommending.queries import RawQueries, dense_queries
from suisen.serving.settings import Settings
from tests.fitted import NEW_ITEM, fitted
from tests.serving.client import Client

GIVEN = ["i003", "no such", "i001", "i001", "i012", NEW_ITEM, "i040", "x"]


def served(recommender, tmp_path):
    return Client(lambda: recommender.system, Settings(deadline_s=60.0, log_dir=tmp_path, impressions=True))


def asked(client, *queries, status=200, **options):
    response = client.post("/v1/rank", {"queries": list(queries), **options})
    assert response.status == status, response.body
    return response.json["answers"] if status == 200 else response.json


@pytest.mark.parametrize("name", ["popularity", "ease", "mf", "two-tower + deepfm", "ease + fm", "fm"])
def test_given_items_come_back_by_the_last_stages_scores(name, tmp_path):
    recommender = fitted(name)
    store, engine = recommender.store, recommender.engine
    with served(recommender, tmp_path) as client:
        queries = [{"user_id": "u0001", "items": GIVEN}, {"history": ["i005"], "items": ["i007", "i003"]}]
        answers = asked(client, *queries)
    for query, answer in zip(queries, answers):
        raw = RawQueries([query.get("user_id")], history=[query.get("history")])
        given = list(dict.fromkeys(store.items.dense(query["items"]).tolist()))
        given = [item for item in given if item]
        if answer["answered_by"] == "popular":
            taken = store.item_counts[given].tolist()
            scores = [count if store.trained_items[item] else -float("inf") for item, count in zip(given, taken)]
        else:
            contexts = dense_queries(store, raw, None).contexts
            scores = engine.score(contexts, Candidates(torch.tensor([given])))[0].tolist()
        order = sorted(range(len(given)), key=lambda at: -scores[at])
        order = [at for at in order if scores[at] > -float("inf")]
        best = store.items.raw_ids.gather([given[at] - 1 for at in order]).to_list()
        assert [item["item_id"] for item in answer["items"]] == best
        assert [item["score"] for item in answer["items"]] == pytest.approx([scores[at] for at in order], abs=1e-5)
        assert [item["rank"] for item in answer["items"]] == list(range(1, len(order) + 1))
        shown = {item["item_id"] for item in answer["items"]}
        assert answer["left_out"] == [item for item in query["items"] if item not in shown]
    assert {"no such", "x"} <= set(answers[0]["left_out"])
    assert (NEW_ITEM in answers[0]["left_out"]) == ("new items" not in recommender.system.abilities)


def test_who_cannot_be_answered_gets_what_is_wished(tmp_path):
    with served(fitted("mf"), tmp_path) as client:
        query = {"user_id": "ghost", "items": ["i003", "i001", NEW_ITEM]}
        (popular,) = asked(client, query)
        assert popular["answered_by"] == "popular"
        counts = [item["score"] for item in popular["items"]]
        assert counts == sorted(counts, reverse=True)
        assert popular["left_out"] == [NEW_ITEM]
        (nobody,) = asked(client, query, unknown="skip")
        assert (nobody["answered_by"], nobody["items"], nobody["left_out"]) == ("nobody", [], query["items"])
        good = {"user_id": "u0001", "items": ["i003"]}
        refused = asked(client, good, query, status=422, unknown="error")
        assert refused["code"] == "unanswerable"
        assert refused["detail"].startswith("queries[1]: user 'ghost'")
        assert asked(client, {**good, "context": {"no such": 1}}, status=422)["code"] == "unknown_field"


def test_events_and_the_time_count(tmp_path):
    with served(fitted("ease"), tmp_path) as client:
        query = {"user_id": "u0001", "items": ["i003", "i001", "i012", "i040"]}
        before = asked(client, query)
        client.post("/v1/events", {"events": [{"user_id": "u0001", "item_id": "i005", "event": "view"}]})
        after = asked(client, query)
        assert after != before
        assert {item["item_id"] for item in after[0]["items"]} == set(query["items"])
        (first,) = asked(client, query, at="1990-01-01T00:00:00Z")
        assert first["answered_by"] == "popular"
        assert asked(client, query, status=422, at="1960-01-01T00:00:00Z")["code"] == "invalid_value"


def test_bounds_and_logs(tmp_path):
    with served(fitted("ease"), tmp_path) as client:
        assert asked(client, {"user_id": "u0001"}, status=422)["code"] == "invalid_value"
        assert asked(client, {"user_id": "u0001", "items": []}, status=422)["code"] == "invalid_value"
        assert asked(client, {"user_id": "u0001", "items": ["i001"] * 1001}, status=422)["code"] == "invalid_value"
        many = [{"user_id": "u0001", "items": ["i001"] * 1000}] * 101
        assert "101,000 items are more than 100,000" in asked(client, *many, status=422)["detail"]
        (one,) = asked(client, {"user_id": "u0001", "items": ["i001"] * 1000})
        assert len(one["items"]) == 1
        (none,) = asked(client, {"items": ["x"]})
        assert (none["items"], none["left_out"]) == ([], ["x"])
    assert len((tmp_path / "impressions.jsonl").read_text().splitlines()) == 2
