"""``suisen data from-log``, from what a server logged to a trained model."""

from __future__ import annotations

import httpx
import polars as pl
import pytest

import suisen as su
from suisen.serving.server import running
from suisen.serving.settings import Settings
from tests.cli.conftest import call, refused
from tests.data.test_from_log import event, shown, write


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """What a server logged of lists and of events that answer them."""
    folder = tmp_path_factory.mktemp("served")
    recommender = su.Recommender(su.EASE()).fit(su.Dataset.of(su.World(users=60, items=40).generate().log))
    settings = Settings(deadline_s=60, log_dir=folder, impressions=True)
    with running(recommender.system, settings) as server, httpx.Client(base_url=server.url) as client:
        for user in range(40):
            request = {"queries": [{"user_id": user}, {"user_id": user + 1}], "k": 5}
            answer = client.post("/v1/recommend", json=request).json()
            taken = [(0, 0), (0, 3), (1, 1)] if user % 2 else [(1, 2)]
            events = [
                {"user_id": user + of, "item_id": answer["answers"][of]["items"][place]["item_id"], "event": "click",
                 "request_id": answer["request_id"], "event_id": f"{user}-{of}-{place}"}
                for of, place in taken
            ]  # fmt: skip
            for _ in range(2):
                assert client.post("/v1/events", json={"events": events}).status_code == 202
    return folder


def test_what_was_served_is_learnt_from(log, tmp_path):
    said = call("data", "from-log", log, "-o", tmp_path / "t.parquet")
    assert said.stdout == f"{tmp_path / 't.parquet'}\n"
    assert "note: 80 of 80 events answer an item of a list" in said.stderr
    table = pl.read_parquet(tmp_path / "t.parquet")
    assert table["shown"].all()
    places = {0: 1, 1: 2, 2: 3, 3: 4}
    assert [places[int(name.rpartition("-")[2])] for name in table["event_id"]] == table["position"].to_list()
    data = su.Dataset.from_path(tmp_path / "t.parquet")
    learnt = su.Recommender(su.EASE()).fit(data)
    assert learnt.recommend(users=["3"], k=3).height == 3


def test_what_was_shown_is_learnt_from(log, tmp_path):
    call("data", "from-log", log, "-o", tmp_path / "parts", "--rows", "impressions", "--wait", "0s", "--label", "click")
    data = su.Dataset.from_path(tmp_path / "parts", label="label")
    assert len(data.events) == 40 * 2 * 5
    assert int(data.events.label.sum()) == 80


def test_mistakes_are_told_in_one_line(tmp_path):
    assert "is no file and no folder" in refused("data", "from-log", tmp_path / "no", "-o", tmp_path / "t.parquet")
    assert "--follow adds parts" in refused("data", "from-log", tmp_path, "-o", tmp_path / "t.parquet", "--follow")
    assert "wait = 'soon' is no duration" in refused("data", "from-log", tmp_path, "-o", "t", "--wait", "soon")
    assert "SOURCE: 'a/b' is no topic" in refused("data", "from-log", "kafka://h/a/b", "-o", tmp_path / "t.parquet")


def test_follow_adds_part_after_part(tmp_path, monkeypatch):
    write(tmp_path / "log" / "events.jsonl", event(1, event_id="a"))
    write(tmp_path / "log" / "impressions.jsonl", shown("r", ["1"]))
    pauses = iter([lambda: write(tmp_path / "log" / "events.jsonl", event(2, event_id="b")), lambda: 1 / 0])
    waited = []
    monkeypatch.setattr("suisen.cli.from_log.time.sleep", lambda seconds: (waited.append(seconds), next(pauses)()))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        call("data", "from-log", tmp_path / "log", "-o", tmp_path / "out", "--follow", "--every", "5s")
    assert waited == [5.0, 5.0]
    assert [path.name for path in sorted((tmp_path / "out").glob("*.parquet"))] == [
        f"part-00000{n}.parquet" for n in (1, 2)
    ]
