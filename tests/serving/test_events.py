"""Events count for the very next request."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import torch

from suisen.models import MODELS
from suisen.serving.answering import Answering
from suisen.serving.settings import Settings
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.client import JSON, Client
from tests.serving.events import logged, read_events

USER, GHOST = "u0007", "somebody new"
STAGES = ["popularity", "ease", "ials", "mf", "two-tower", "sasrec", "fm",
          "ease + fm", "mf + fm", "two-tower + deepfm", "ease + sasrec"]  # fmt: skip


def served(recommender, tmp_path, **options):
    return Client(lambda: recommender.system, Settings(deadline_s=60.0, log_dir=tmp_path, **options))


def list_of(client, user, **options):
    response = client.post("/v1/recommend", {"queries": [{"user_id": user}], **options})
    assert response.status == 200, response.body
    (answer,) = response.json["answers"]
    return [(item["item_id"], item["score"]) for item in answer["items"]], answer["answered_by"]


def send(client, *events):
    response = client.post("/v1/events", {"events": list(events)})
    assert response.status == 202, response.body
    return response.json


def event(user, item, name="click", **more):
    return {"user_id": user, "item_id": item, "event": name, **more}


@pytest.mark.parametrize("way", ["precise", "planned"])
@pytest.mark.parametrize("name", STAGES)
def test_the_next_answer_is_the_offline_one_of_the_whole_history(name, way, tmp_path):
    recommender = fitted(name)
    store = recommender.store
    system = recommender.system if way == "precise" else with_plan(recommender.system)
    stored = store.items.raw(store.histories.take(torch.tensor([store.users.dense_one(USER)])).values.numpy()).to_list()
    with Client(lambda: system, Settings(deadline_s=60.0, log_dir=tmp_path)) as client:
        before, _ = list_of(client, USER)
        new = [item for item, _ in before[:2]]
        assert send(client, *[event(user, item) for user in (USER, GHOST) for item in new])["accepted"] == 4
        for exclude_seen in (True, False):
            for user, history in ((USER, stored + new), (GHOST, new)):
                got, by = list_of(client, user, exclude_seen=exclude_seen)
                want = recommender.recommend([user], history=[history], exclude_seen=exclude_seen, unknown="popular")
                assert [item for item, _ in got] == want["item_id"].to_list()
                assert [score for _, score in got] == pytest.approx(want["score"].to_list(), abs=1e-5)
                able = user == USER or recommender.system.abilities & {"history", "new users"}
                assert by == ("model" if able else "popular")
                assert not (exclude_seen and {item for item, _ in got} & set(history))
        if name == "mf":  # the vector is kept: only what was seen is gone
            assert list_of(client, USER)[0][:8] == before[2:]


UNREAD = (
    "what is left out",
    "what is left out; the user's vector stays that of training",
    "what is left out; the row holds features alone",
)
"""What docs/serving.md says of a model that reads no history."""


def test_the_page_says_of_every_model_what_an_event_updates():
    page = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
    part = page.partition("\n## Events count at once\n")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in part.splitlines() if line.startswith("| `")]
    told = {name.strip("`"): says for names, says, _ in rows for name in names.split()}
    assert told.keys() == MODELS.keys()
    for name, says in told.items():
        reads = "history" in MODELS[name].abilities
        assert reads == (says not in UNREAD)


def test_what_an_event_is_called_does_not_matter(tmp_path):
    with served(fitted("popularity"), tmp_path) as client:
        first, second = (item for item, _ in list_of(client, USER)[0][:2])
        send(client, event(USER, first, "view"), event(USER, second, "anything", position=1))
        assert not {first, second} & {item for item, _ in list_of(client, USER)[0]}


@pytest.mark.parametrize("user", [7, "7", "007", "7.0"])
def test_the_log_holds_the_ids_that_counted(recommender, tmp_path, user):
    """A model that learns from the log sees one user and one item, whatever clients called them."""
    with Client(lambda: recommender.system, Settings(deadline_s=60.0, log_dir=tmp_path)) as client:
        before = list_of(client, 7)[0]
        taken = before[0][0]
        send(client, event(user, f"0{taken}"), event("0x", "0y"))
        assert taken not in [item for item, _ in list_of(client, 7)[0]]
    found = read_events(tmp_path / "events.jsonl")
    assert found["user_id"].to_list() == ["7", "0x"]
    assert found["item_id"].to_list() == [str(taken), "0y"]


def test_unknown_items_and_sessions_named_like_a_user_change_no_list(tmp_path):
    with served(fitted("ease"), tmp_path) as client:
        before = list_of(client, USER)
        taken = before[0][0][0]
        answer = send(client, {"session_id": USER, "item_id": taken, "event": "view"}, event(USER, "no such item"))
        assert (answer["accepted"], answer["unknown_items"]) == (2, 1)
        assert list_of(client, USER) == before
        assert len((tmp_path / "events.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("name", ["ease", "sasrec", "mf", "two-tower + deepfm"])
def test_the_events_of_a_session_count_for_its_queries(name, tmp_path):
    recommender = fitted(name)
    with served(recommender, tmp_path) as client:
        items = [item for item, _ in list_of(client, USER)[0][:2]]
        send(client, *[{"session_id": "s 1", "item_id": item, "event": "view"} for item in items])

        def asked(**query):
            response = client.post("/v1/recommend", {"queries": [query]})
            return [(item["item_id"], item["score"]) for item in response.json["answers"][0]["items"]]

        guest = recommender.recommend(history=[items], unknown="popular")
        assert asked(session_id="s 1") == list(zip(guest["item_id"], guest["score"]))
        assert not {item for item, _ in asked(session_id="s 1")} & set(items)
        store = recommender.store
        dense = torch.tensor([store.users.dense_one(USER)])
        stored = store.items.raw(store.histories.take(dense).values.numpy()).to_list()
        both = recommender.recommend([USER], history=[stored + items])
        assert asked(session_id="s 1", user_id=USER) == list(zip(both["item_id"], both["score"]))
        assert asked(session_id="another", user_id=USER) == asked(user_id=USER) != asked(session_id="s 1", user_id=USER)


def test_refused_events_count_nowhere(tmp_path, monkeypatch):
    def full(_):
        raise OSError("no space left")

    with served(fitted("ease"), tmp_path) as client:
        before = list_of(client, USER)
        bad = event(USER, before[0][1][0], time="1960-01-01T00:00:00Z")
        assert client.post("/v1/events", {"events": [event(USER, before[0][0][0]), bad]}).status == 422
        monkeypatch.setattr(client.app.service.journal._logs["events"], "write", full)
        assert client.post("/v1/events", {"events": [event(USER, before[0][0][0])]}).status == 503
        assert list_of(client, USER) == before


def test_the_short_form_sees_events_and_a_limit_of_0_turns_them_off(tmp_path):
    for limit, seen in ((1 << 20, False), (0, True)):
        with served(fitted("ease"), tmp_path, state_bytes=limit) as client:
            first = client.get(f"/v1/recommend/{USER}").json["answers"][0]["items"][0]["item_id"]
            send(client, event(USER, first))
            items = client.get(f"/v1/recommend/{USER}").json["answers"][0]["items"]
            assert (first in [item["item_id"] for item in items]) is seen


def test_metrics_tell_users_and_bytes(tmp_path):
    with served(fitted("ease"), tmp_path) as client:
        send(client, event(USER, "i001"), event(GHOST, "i001"), event(USER, "i002"))
        lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").body.decode().splitlines())
        assert float(lines["suisen_users_with_events"]) == 2
        assert 600 < float(lines["suisen_users_bytes"]) < 800


def test_metrics_tell_rows_and_whether_they_were_of_use(tmp_path):
    with Client(
        lambda: with_plan(fitted("mf").system), Settings(deadline_s=60.0, log_dir=tmp_path, warm_s=0.0)
    ) as client:
        for user in (USER, USER, GHOST, USER):
            list_of(client, user)
        send(client, event(USER, "i001"))
        list_of(client, USER)
        lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").body.decode().splitlines())
        assert float(lines["suisen_rows"]) == 2
        assert 700 < float(lines["suisen_rows_bytes"]) < 1500
        assert float(lines['suisen_rows_queries{row="kept"}']) == 2
        assert float(lines['suisen_rows_queries{row="computed"}']) == 3


def test_the_clock_of_a_client_may_be_ahead():
    answering = Answering(fitted("ease").system)
    now = datetime.now(UTC)

    assert answering.took([logged("i001", USER, time=now + timedelta(hours=9))]) == 0
    assert answering.took([logged("i002", USER), logged("x", USER, time=now)]) == 1
    store = answering.system.store
    contexts = answering.recent.followed(store.contexts(torch.tensor([store.users.dense_one(USER)]), 0), [USER])
    assert contexts.history.values[-2:].tolist() == store.items.dense(["i001", "i002"]).tolist()
    assert int(contexts.history_time.max()) / 1e6 < datetime.now(UTC).timestamp()


def test_many_at_once_each_see_their_own(tmp_path):
    """Requests and events of several users in flight: what was acknowledged is in no later list of that user."""
    with served(fitted("ease"), tmp_path) as client:

        async def live(user):
            taken = []
            for _ in range(5):
                body = json.dumps({"queries": [{"user_id": user}], "k": 3}).encode()
                answer = await client.call("POST", "/v1/recommend", body, JSON)
                items = [item["item_id"] for item in answer.json["answers"][0]["items"]]
                assert not set(items) & set(taken)
                taken.append(items[0])
                body = json.dumps({"events": [event(user, items[0])]}).encode()
                assert (await client.call("POST", "/v1/events", body, JSON)).status == 202

        async def all_of_them():
            await asyncio.gather(*[live(f"u{one:04}") for one in range(1, 31)])

        client.runner.run(all_of_them())
        assert len(client.app.service.loaded().recent) == 30
