"""Many queries in one request."""

from __future__ import annotations

import asyncio
import json

import pytest

from suisen.serving.answering import Answering
from suisen.serving.settings import Settings
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.client import JSON, Client

PATH = "/v1/recommend/batch"
USERS = [f"u{one % 70:04}" for one in range(300)]


@pytest.fixture(params=["planned", "precise"])
def client(request, tmp_path):
    system = fitted("mf").system
    system = with_plan(system) if request.param == "planned" else system
    with Client(lambda: system, Settings(deadline_s=60.0, log_dir=tmp_path, impressions=True)) as made:
        yield made


def lists(answers):
    return [[item["item_id"] for item in answer["items"]] for answer in answers]


def test_the_lists_are_those_of_single_requests(client, tmp_path):
    options = {"k": 4, "exclude": ["i001", "i002"], "exclude_seen": False}
    response = client.post(PATH, {"queries": [{"user_id": user} for user in USERS], **options})
    assert response.status == 200, response.body
    answers = response.json["answers"]
    assert [answer["user_id"] for answer in answers] == USERS
    for user in USERS[:70:9]:
        single = client.post("/v1/recommend", {"queries": [{"user_id": user}], **options}).json["answers"]
        assert lists(single)[0] == lists(answers)[USERS.index(user)]
    client.run(client.app.service.journal.stop())  # which writes what waits
    assert len((tmp_path / "impressions.jsonl").read_text().splitlines()) >= len(USERS)
    told = client.get("/metrics").body.decode()
    assert (
        sum(float(line.rpartition(" ")[2]) for line in told.splitlines() if line.startswith("suisen_answers_total"))
        >= 300
    )


def test_single_requests_are_answered_between_the_parts(client, monkeypatch):
    work, sizes = Answering.work, []

    def counted(self, jobs):
        sizes.append(sum(len(job) for job in jobs))
        return work(self, jobs)

    monkeypatch.setattr(Answering, "work", counted)
    done = []

    async def ask(path, queries, name):
        body = json.dumps({"queries": queries}).encode()
        answer = await client.call("POST", path, body, JSON)
        done.append(name)
        return answer

    async def scene():
        many = [{"user_id": user} for user in USERS] * 10
        batch = asyncio.ensure_future(ask(PATH, many, "batch"))
        while len(sizes) < 2:
            await asyncio.sleep(0)
        return await asyncio.gather(batch, *[ask("/v1/recommend", [{"user_id": "u0001"}], "single") for _ in range(5)])

    answers = client.runner.run(scene())
    assert [answer.status for answer in answers] == [200] * 6
    assert len(answers[0].json["answers"]) == 3000
    assert done[-1] == "batch"
    assert max(sizes) <= 60 + 5


def test_a_query_at_fault_is_named_by_its_number(client):
    queries = [{"user_id": "u0001"}] * 150 + [{"user_id": "u0001", "context": {"no such": 1}}]
    response = client.post(PATH, {"queries": queries})
    assert (response.status, response.json["code"]) == (422, "unknown_field")
    assert response.json["detail"].startswith("queries[150].context")
    response = client.post(PATH, {"queries": [{"user_id": "u0001"}] * 120 + [{"user_id": "ghost"}], "unknown": "error"})
    assert response.json["detail"].startswith("queries[120]: user 'ghost'")


def test_bounds(client):
    response = client.post(PATH, {"queries": [{"user_id": "u0001"}] * 10_000, "k": 11})
    assert "k = 11 for 10,000 queries is more than 100,000 items" in response.json["detail"]
    assert client.post(PATH, {"queries": [{}] * 10_001}).status == 422
    assert client.post(PATH, {"queries": []}).status == 422


def test_a_user_may_be_called_batch(client):
    answer = client.get(PATH)
    assert answer.json["answers"][0]["user_id"] == "batch"
    assert client.ask("DELETE", PATH).headers["allow"].split(", ") == ["GET", "HEAD", "POST"]
