"""Events that are sent again are taken once, whoever they are sent to."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.serving import repeats as module
from suisen.serving.event_log import FileLog
from suisen.serving.problems import Refusal
from suisen.serving.repeats import Repeats, Sent
from suisen.serving.segments import Rotation, segments
from suisen.serving.settings import Settings
from suisen.serving.siblings import Group, Siblings
from tests.serving.client import JSON, Client
from tests.serving.events import logged, read_events
from tests.serving.test_workers import one_of_each, place, served, until  # noqa: F401 - a fixture

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def sent(*events, timed=False):
    return Sent(events, [timed] * len(events))


def event(name, item="i", **more):
    return logged(item, **{"event_id": name, "time": NOON, **more})


class Worker:
    """A log and what it remembers, as a worker has them."""

    def __init__(self, folder, number=0, since=0, most=1000, rotation=None):
        self.log = FileLog(folder / "events.jsonl", rotation)
        siblings = Siblings(Group(folder, number, 2, since), self.log.path)
        self.log.on_append, self.log.guard = siblings.wrote, siblings.ends.guard
        self.repeats = Repeats(self.log.path, most, 3600.0, siblings.reader)

    def post(self, *events, timed=False):
        """How many were new; a refusal."""
        self.repeats.read_back()
        with self.log.alone():
            (new,) = self.repeats.sort_out([sent(*events, timed=timed)])
            if isinstance(new, Refusal):
                return new.code
            self.log.write(new)
            self.repeats.wrote()
        return len(new)


STEPS = st.lists(
    st.tuples(st.sampled_from(["post", "die"]), st.integers(0, 1), st.lists(st.integers(0, 6), max_size=4))
)


@given(STEPS, st.integers(1, 4))
@settings(max_examples=80, deadline=None)
def test_each_id_is_in_the_log_once(steps, lines):
    """Property: whoever it is sent to, in whichever order, and whoever is started again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rotation = Rotation(max_bytes=250 * lines)
        workers = [Worker(folder, number, rotation=rotation) for number in range(2)]
        known: set[int] = set()
        for what, number, ids in steps:
            if what == "die":
                workers[number].log.close()
                workers[number] = Worker(folder, number, rotation=rotation)
            else:
                assert workers[number].post(*[event(f"e{one}") for one in ids]) == len(set(ids) - known)
                known |= set(ids)
        found = [one for path in segments(folder / "events.jsonl") for one in read_events(path)["event_id"].to_list()]
        assert sorted(found) == sorted(f"e{one}" for one in known)


@pytest.mark.parametrize(
    "other",
    [{"item": "j"}, {"user": "v"}, {"session_id": "s"}, {"event": "buy"}, {"request_id": "r"}, {"position": 1},
     {"value": 1.0}, {"value": -1.0}, {"price": 2.0}, {"quantity": 3}],
)  # fmt: skip
def test_an_id_that_was_used_for_something_else_is_refused(tmp_path, other):
    one, two = Worker(tmp_path, 0), Worker(tmp_path, 1)
    assert one.post(event("a", value=-2.0) if "value" in other else event("a")) == 1
    for worker in (one, two, Worker(tmp_path, 1)):
        assert worker.post(event("new"), event("a", **other)) == "id_reused"
        assert worker.post(event("a", **other), event("b")) == "id_reused"
    assert read_events(tmp_path / "events.jsonl")["event_id"].to_list() == ["a"]
    assert one.post(event("c"), event("c", **other)) == "id_reused"


def test_an_id_that_another_bundle_spells_otherwise_is_the_same(tmp_path):
    """Between a request and its repeat, a bundle may have come that knows the user as 7."""
    one = Worker(tmp_path)
    assert one.post(event("a", "007", user="0.50"), event("b", "+7", user="x.0")) == 2
    assert one.post(event("a", "7", user="0.50"), event("b", "7.0", user="x.0")) == 0
    assert one.post(event("a", "7.5", user="0.50")) == one.post(event("b", "7", user="x")) == "id_reused"


def test_a_time_that_was_told_has_to_be_the_same(tmp_path):
    one = Worker(tmp_path)
    assert one.post(event("a")) == 1
    later = event("a", time=NOON + timedelta(microseconds=1))
    assert one.post(later) == 0  # its time is that of arrival
    assert one.post(later, timed=True) == "id_reused"
    assert one.post(event("a"), timed=True) == 0


def test_ids_that_clients_did_not_give_are_not_kept(tmp_path):
    one = Worker(tmp_path)
    assert one.post(event("~1"), event(None), event(None), event("a")) == 4
    assert list(one.repeats._known) == ["a"]
    again = Worker(tmp_path, 1)
    again.repeats.read_back()
    assert list(again.repeats._known) == ["a"]


def test_the_newest_are_kept_and_not_for_ever(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    one = Worker(tmp_path, most=3)
    for name in "abcd":
        assert one.post(event(name)) == 1
    assert list(one.repeats._known) == ["b", "c", "d"]
    assert one.post(event("b")) == 0
    now[0] += 1800
    assert one.post(event("e")) == 1
    now[0] += 1799
    assert one.post(event("d"), event("c")) == 0
    now[0] += 3
    assert one.post(event("d"), event("e")) == 1
    now[0] += 10_000
    assert one.post(event("f")) == 1
    assert list(one.repeats._known) == ["f"]
    assert Worker(tmp_path / "none", most=0).post(event("a"), event("a")) == 1


def test_nothing_is_known_of_what_could_not_be_written(tmp_path, monkeypatch):
    one = Worker(tmp_path)

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr(one.log, "write", full)
    with pytest.raises(OSError, match="space"):
        one.post(event("a"))
    monkeypatch.undo()
    assert one.post(event("a")) == 1


def test_a_start_reads_the_newest_part_of_all_files(tmp_path, monkeypatch):
    one = Worker(tmp_path, rotation=Rotation(max_bytes=500))
    for number in range(30):
        one.post(event(f"e{number:02}"), event(f"f{number:02}", "水" * number))
    assert len(segments(tmp_path / "events.jsonl")) > 10
    for most in (200, 1_000, 3_333):
        monkeypatch.setattr(module, "READ_BACK", most)
        again = Repeats(tmp_path / "events.jsonl", 1000, 60.0)
        again.read_back()
        known = list(again._known)
        every = [f"{letter}{number:02}" for number in range(30) for letter in "ef"]
        assert known == every[len(every) - len(known) :]
        assert len(known) >= most // 500 - 1


@pytest.mark.parametrize("how", ["renamed", "deleted"])
def test_a_file_that_is_renamed_while_it_is_read_back_is_read(tmp_path, monkeypatch, how):
    """Another worker rotates between the look at the files and their opening."""
    one = Worker(tmp_path, rotation=Rotation(max_bytes=1, keep=2 if how == "deleted" else None))
    for name in "abc":
        one.post(event(name))
    found = []

    def meanwhile(path):
        found.append(segments(path))
        if len(found) == 1:
            one.post(event("d"))
        return found[-1] if len(found) == 1 else segments(path)

    monkeypatch.setattr(module, "segments", meanwhile)
    again = Repeats(tmp_path / "events.jsonl", 1000, 60.0)
    again.read_back()
    assert set("bcd") <= set(again._known)
    assert len(found) > 1


def test_what_cannot_be_read_back_stops_nothing(tmp_path, caplog):
    (tmp_path / "events-20260101T000000Z-000001.jsonl").mkdir()
    one = Worker(tmp_path)
    assert one.post(event("a")) == 1
    assert "the ids of earlier events cannot be read" in caplog.text


# -- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def client(recommender, tmp_path):
    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path)) as made:
        yield made


def posted(client, events, key=None):
    headers = JSON if key is None else {**JSON, "idempotency-key": key}
    response = client.post("/v1/events", {"events": events}, headers)
    if response.status != 202:
        return response.json["code"]
    return tuple(response.json[name] for name in ("accepted", "repeats", "unknown_items"))


ONE, NEW = {"user_id": 7, "item_id": 3, "event": "view"}, {"user_id": "x", "item_id": "none", "event": "buy"}


def test_a_repeat_has_the_answer_of_the_first_and_counts_nowhere(client, tmp_path):
    body = [{**ONE, "event_id": "a"}, {**NEW, "event_id": "b"}, ONE]
    assert posted(client, body) == (3, 0, 1)
    assert posted(client, body) == (3, 2, 1)
    assert posted(client, [{**ONE, "event_id": "a", "user_id": "007"}]) == (1, 1, 0)
    assert read_events(tmp_path / "events.jsonl").height == 4
    metrics = client.get("/metrics").body.decode()
    assert "suisen_events_written_total 4.0" in metrics
    assert "suisen_events_repeated_total 3.0" in metrics
    assert "suisen_events_unknown_items_total 1.0" in metrics
    assert 'suisen_stage_seconds_count{stage="log"} 3.0' in metrics


def test_a_key_makes_a_request_safe_to_repeat(client, tmp_path):
    assert posted(client, [ONE, NEW], "k/1") == (2, 0, 1)
    assert posted(client, [ONE, NEW], '"k/1"') == (2, 2, 1)  # as a structured field
    for other in ([ONE], [ONE, NEW, ONE], [NEW, ONE], [ONE, {**NEW, "quantity": 1}]):
        assert posted(client, other, "k/1") == "id_reused"
    assert posted(client, [ONE, NEW], "k/2") == (2, 0, 1)
    assert read_events(tmp_path / "events.jsonl")["event_id"].to_list() == ["k/1#0/2", "k/1#1/2", "k/2#0/2", "k/2#1/2"]
    assert posted(client, [{**ONE, "event_id": "own"}, NEW], "k/3") == (2, 0, 1)
    assert posted(client, [{**ONE, "event_id": "own"}, NEW], "k/3") == (2, 2, 1)
    refused = client.post("/v1/events", {"events": [ONE]}, {**JSON, "idempotency-key": "k/1"})
    assert (refused.status, refused.json["detail"]) == (
        422, "idempotency-key = 'k/1' was used for other events; give each request its own key"
    )  # fmt: skip
    assert client.post("/v1/events", {"events": [{**ONE, "event_id": "own", "item_id": 4}]}).json["detail"] == (
        "events[0].event_id = 'own' was used for another event; give each event its own id"
    )


@pytest.mark.parametrize("key", ["", " ", "a b", '"a', "a#0/1", "~1", "é", "x" * 129])
def test_keys_that_cannot_be_are_refused(client, key):
    response = client.post("/v1/events", {"events": [ONE]}, {**JSON, "idempotency-key": key})
    assert (response.status, response.json["code"]) == (400, "malformed_request")
    assert "idempotency-key = " in response.json["detail"]


def test_a_restarted_server_remembers(recommender, tmp_path):
    for repeats in (0, 1, 1):
        with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path)) as client:
            assert posted(client, [{**ONE, "event_id": "a"}]) == (1, repeats, 0)
    assert read_events(tmp_path / "events.jsonl").height == 1


def test_a_broker_has_to_be_there(recommender, tmp_path):
    with pytest.raises(InputError, match=r"durable = 'broker' needs .*give 'os' or 'disk'"):
        Client(lambda: recommender.system, Settings(log_dir=tmp_path, durable="broker"))


def test_the_bundle_tells_what_202_says_and_what_is_remembered(recommender, tmp_path):
    options = {"log_dir": tmp_path, "durable": "disk", "repeat_ids": 5, "repeat_s": 60.0}
    with Client(lambda: recommender.system, Settings(deadline_s=60, **options)) as client:
        told = {"durable": "disk", "repeat_ids": 5, "repeat_s": 60.0, "impressions": False}
        assert client.get("/v1/bundle").json["log"] == told
        assert posted(client, [ONE]) == (1, 0, 0)
    with Client(lambda: recommender.system) as client:
        assert client.get("/v1/bundle").json["log"] is None


# -- two workers -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")
def test_workers_take_an_id_once_in_every_race_and_after_every_death(place):  # noqa: F811
    """Both are sent the same at the same moment; the files are rotated all the time; one is killed meanwhile."""
    with served(place, 2, log_max_bytes=2_000, durable="disk") as server:
        assert server.says.startswith("http://"), server.log()
        by_number = one_of_each(server, 2)
        both, start, taken = list(by_number.values()), threading.Barrier(2), []

        def post(connection, turn):
            start.wait(60)
            event = {"user_id": turn % 50 + 1, "item_id": 3, "event": "view", "event_id": f"e{turn}"}
            status, body = connection.call("POST", "/v1/events", {"events": [event]})
            assert status == 202, body
            taken.append(json.loads(body)["repeats"])

        with ThreadPoolExecutor(2) as pool:
            for turn in range(60):
                for done in [pool.submit(post, connection, turn) for connection in both]:
                    done.result(60)
        assert sorted(taken) == [0] * 60 + [1] * 60
        pids = server.pids()
        os.kill(pids[0], signal.SIGKILL)
        until(lambda: server.pids().get(0, pids[0]) != pids[0])
        until(lambda: server.metrics()["suisen_ready", ()] == 1)
        start, taken = threading.Barrier(1), []
        for connection in one_of_each(server, 2).values():
            for turn in range(60):
                post(connection, turn)
        assert taken == [1] * 120
        assert server.metrics()["suisen_events_written_total", ()] == 60
        found = [one for path in segments(place / "events" / "events.jsonl") for one in read_events(path)["event_id"]]
        assert sorted(found) == sorted(f"e{turn}" for turn in range(60))
        assert len(segments(place / "events" / "events.jsonl")) > 3
