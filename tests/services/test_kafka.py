"""Events on their way to a real broker that is late, killed, paused, filled; every acknowledged one is in the topic."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time

import polars as pl
import pytest

import suisen as su
from suisen.data.from_log import from_log
from tests.services.brokers import Served, broker, children, held, lasting_broker, served, until
from tests.services.programs import free_port

pytest.importorskip("confluent_kafka", reason="CONFLUENT-KAFKA IS NOT INSTALLED: nothing is shown about Kafka")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    place = tmp_path_factory.mktemp("bundle") / "bundle"
    su.Recommender(su.EASE()).fit(su.Dataset.of(su.World(users=60, items=40).generate().log)).save(place)
    return place


@pytest.fixture
def one(tmp_path):
    """A broker, not started."""
    made = broker(tmp_path / "broker")
    yield made
    made.kill()


def url(one, topic="shop"):
    return f"kafka://127.0.0.1:{one.port}/{topic}"


def ids(lines):
    return [line["event_id"] for line in lines]


def test_events_and_lists_are_in_their_topics_and_become_a_training_log(bundle, one, tmp_path):
    one.start()
    with served(bundle, tmp_path / "a", "--log", url(one), "--impressions", "true") as server:
        status, said = server.get("/v1/recommend/7?k=5")
        assert status == 200
        answer = json.loads(said)
        second = answer["answers"][0]["items"][1]["item_id"]
        assert server.send("a", user_id=7, item_id=second, request_id=answer["request_id"])[0] == 202
        until(lambda: server.metric("suisen_broker_delivered_total") == 2)
        until(lambda: server.metric("suisen_broker_spool_bytes") == 0)
        (event,), (shown,) = held(one.port, "shop"), held(one.port, "shop-impressions")
        assert (event["event_id"], shown["request_id"]) == ("a", answer["request_id"])
        from_log([url(one)], tmp_path / "t.parquet")
    assert pl.read_parquet(tmp_path / "t.parquet").select("event_id", "position", "shown").rows() == [("a", 2, True)]


def test_a_broker_that_is_away_costs_nothing_but_time(bundle, one, tmp_path):
    with served(bundle, tmp_path / "a", "--log", url(one)) as server:
        assert server.send(*map(str, range(50)))[0] == 202
        until(lambda: server.metric("suisen_broker_spool_bytes") > 0)
        until(lambda: server.metric("suisen_broker_lag_seconds") > 0.5)
        assert server.get("/health/ready")[0] == 200
        one.start()
        until(lambda: server.metric("suisen_broker_spool_bytes") == 0)
        assert sorted(ids(held(one.port, "shop"))) == sorted(map(str, range(50)))


def test_what_waits_at_the_end_is_said_and_shipped_by_the_next_start(bundle, one, tmp_path):
    with served(bundle, tmp_path / "a", "--log", url(one), "--grace-s", "1") as server:
        server.send("a", "b")
        began = time.monotonic()
        server.program.stop()
        assert time.monotonic() - began < 6
        assert "are not with the broker yet; the next start ships them" in server.said()
    one.start()
    with served(bundle, tmp_path / "a", "--log", url(one)) as server:
        server.send("c")
    assert sorted(ids(held(one.port, "shop"))) == ["a", "b", "c"]


def test_the_spool_is_bounded_and_nothing_is_dropped_in_silence(bundle, one, tmp_path):
    flags = ["--log", url(one), "--spool-bytes", "20000", "--impressions", "true"]
    with served(bundle, tmp_path / "a", *flags) as server:
        taken, refused = [], ""
        for number in range(300):
            status, said = server.send(*(f"{number}-{each}" for each in range(10)))
            if status != 202:
                refused = said
                break
            taken += [f"{number}-{each}" for each in range(10)]
            time.sleep(0.02)
        assert json.loads(refused)["code"] == "log_unavailable"
        assert server.get("/health/ready")[0] == 200
        one.start()
        until(lambda: server.metric("suisen_broker_spool_bytes") == 0)
        until(lambda: server.send("later")[0] == 202)
    assert sorted(set(ids(held(one.port, "shop")))) == sorted([*taken, "later"])


def test_durable_broker_answers_202_once_the_broker_has_the_event(bundle, one, tmp_path):
    one.start()
    flags = ["--log", url(one), "--durable", "broker", "--deadline-s", "1"]
    with served(bundle, tmp_path / "a", *flags, workers=2) as server:
        for number in range(6):
            assert server.send(f"{number}")[0] == 202
            assert f"{number}" in ids(held(one.port, "shop"))
        one.pause()
        status, said = server.send("late")
        assert (status, json.loads(said)["code"]) == (503, "log_unavailable")
        one.resume()
        until(lambda: server.send("late")[0] == 202)
    assert sorted(set(ids(held(one.port, "shop")))) == sorted([*map(str, range(6)), "late"])


def test_durable_broker_without_a_broker_is_refused(bundle, tmp_path):
    words = Served(bundle, tmp_path / "a", "--durable", "broker").program.words
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "durable = 'broker' needs log, a topic of Kafka" in done.stderr


def test_every_acknowledged_event_is_there_once_though_broker_and_workers_are_killed(bundle, tmp_path):
    taken, stop = [], threading.Event()
    with lasting_broker(tmp_path / "broker") as one:
        flags = ["--log", url(one), "--log-max-bytes", "20000", "--log-keep", "1"]
        with served(bundle, tmp_path / "a", *flags, workers=2) as server:

            def load(name):
                number = 0
                while not stop.is_set():
                    named = [f"{name}-{number}-{each}" for each in range(5)]
                    if server.send(*named)[0] == 202:
                        taken.extend(named)
                    number += 1
                    time.sleep(0.01)

            loads = [threading.Thread(target=load, args=(name,)) for name in "xyz"]
            for each in loads:
                each.start()
            for trouble in range(6):
                time.sleep(0.7)
                if trouble % 3 == 0:
                    one.kill()
                    time.sleep(0.5)
                    one.start()
                elif trouble % 3 == 1:
                    os.kill(children(server.program.process.pid)[-1], signal.SIGKILL)
                else:
                    one.pause()
                    time.sleep(0.7)
                    one.resume()
            stop.set()
            for each in loads:
                each.join()
            until(lambda: server.metric("suisen_broker_spool_bytes") == 0, 60)
        found = ids(held(one.port, "shop"))
        assert len(taken) > 300
        assert not set(taken) - set(found)
        assert "Traceback" not in server.said()
        from_log([url(one)], tmp_path / "t.parquet")
        assert set(taken) <= set(pl.read_parquet(tmp_path / "t.parquet")["event_id"])
        assert "was deleted: 1 rotated files are kept" in server.said()


def test_the_segments_that_are_not_shipped_are_kept(bundle, one, tmp_path):
    flags = ["--log", url(one), "--log-max-bytes", "2000", "--log-keep", "1", "--grace-s", "1"]
    with served(bundle, tmp_path / "a", *flags) as server:
        named = [f"e{number}" for number in range(100)]
        for each in named:
            assert server.send(each)[0] == 202
        assert len(list((tmp_path / "a" / "events").glob("events-*.jsonl"))) > 3
        one.start()
        until(lambda: server.metric("suisen_broker_spool_bytes") == 0)
    assert sorted(ids(held(one.port, "shop"))) == sorted(named)


def test_a_port_that_nobody_answers_on_does_not_slow_the_start(bundle, tmp_path):
    began = time.monotonic()
    with served(bundle, tmp_path / "a", "--log", f"kafka://127.0.0.1:{free_port()}/t", "--grace-s", "1") as server:
        assert server.get("/v1/recommend/7")[0] == 200
    assert time.monotonic() - began < 40
