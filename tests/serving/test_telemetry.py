from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import weakref
from dataclasses import fields, replace
from datetime import datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from suisen.recommending import bundle
from suisen.recommending.plan import Agreement
from suisen.recommending.queries import RawQueries
from suisen.recommending.states import VisitorRows
from suisen.recommending.users import RecentEvents
from suisen.serving.journal import SHOWN_S
from suisen.serving.settings import Settings
from suisen.serving.telemetry import FIGURES, JsonLines, Telemetry, configure_logging
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.client import Client
from tests.serving.test_counts import parsed

AGE, FIGURE = "suisen_bundle_age_seconds", "suisen_plan_agreement"


def value(telemetry, name):
    return parsed(telemetry)[name, ()]


def samples(client):
    """{(name, labels): value} of /metrics."""
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = text_string_to_metric_families(response.body.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_metrics_count_what_happened(recommender, tmp_path):
    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path)) as client:
        client.post("/v1/recommend", {"queries": [{"user_id": 7}, {"user_id": "nobody"}, {}]})
        client.get("/v1/recommend/8")
        client.get("/v1/recommend/8?k=0")
        client.get("/nowhere")
        client.post("/v1/events", {"events": [{"user_id": 1, "item_id": i, "event": "view"} for i in (1, 2, "x")]})
        found = samples(client)
    by_route = {labels: value for (name, labels), value in found.items() if name == "suisen_requests_total"}
    assert by_route == {
        (("route", "/v1/recommend"), ("status", "200")): 1,
        (("route", "/v1/recommend/{user}"), ("status", "200")): 1,
        (("route", "/v1/recommend/{user}"), ("status", "422")): 1,
        (("route", "unmatched"), ("status", "404")): 1,
        (("route", "/v1/events"), ("status", "202")): 1,
    }
    assert found["suisen_request_seconds_count", (("route", "/v1/recommend/{user}"),)] == 2
    assert found["suisen_answers_total", (("answered_by", "model"),)] == 2
    assert found["suisen_answers_total", (("answered_by", "popular"),)] == 2
    assert found["suisen_batch_rows_sum", ()] == 4
    assert found["suisen_batch_rows_count", ()] == 2
    assert found["suisen_events_written_total", ()] == 3
    assert found["suisen_events_unknown_items_total", ()] == 1
    assert found["suisen_requests_in_flight", ()] == 1  # the one that asks
    assert found["suisen_queue_length", (("lane", "recommend"),)] == 0
    assert found["suisen_queue_length", (("lane", "events"),)] == 0
    assert found["suisen_bundle_info", (("model", "ease"), ("version", "ease-unsaved"))] == 1
    assert found["suisen_ready", ()] == 1


def test_apps_do_not_share_their_metrics(recommender):
    with (
        Client(lambda: recommender.system, Settings(deadline_s=60)) as one,
        Client(lambda: recommender.system) as other,
    ):
        one.get("/nowhere")
        assert ("suisen_requests_total", (("route", "unmatched"), ("status", "404"))) in samples(one)
        assert not any(name == "suisen_requests_total" for name, _ in samples(other))


def test_impressions_of_the_last_requests_are_written(recommender, tmp_path):
    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path, impressions=True)) as client:
        client.get("/v1/recommend/7")
    (row,) = (tmp_path / "impressions.jsonl").read_text().splitlines()
    assert json.loads(row)["user_id"] == "7"


def test_lost_impressions_are_counted(recommender, tmp_path, monkeypatch):
    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path, impressions=True)) as client:
        journal = client.app.service.journal
        client.get("/v1/recommend/7")
        client.run(asyncio.sleep(3 * SHOWN_S))
        client.run(journal._lanes["impressions"].stop())  # a lane that takes nothing any more
        assert client.get("/v1/recommend/7").status == 200
        client.run(asyncio.sleep(3 * SHOWN_S))
        found = samples(client)
    assert found["suisen_impressions_written_total", ()] == 1
    assert found["suisen_impressions_lost_total", ()] == 1


def test_a_log_that_cannot_be_written_is_a_problem_and_loses_nothing_in_silence(recommender, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path)) as client:
        monkeypatch.setattr(client.app.service.journal._logs["events"], "write", full)
        response = client.post("/v1/events", {"events": [{"user_id": 1, "item_id": 1, "event": "view"}]})
        assert (response.status, response.json["code"]) == (503, "log_unavailable")
        assert response.json["detail"] == "the log cannot be written (No space left on device); nothing was kept"
        assert samples(client)["suisen_events_written_total", ()] == 0


def test_log_lines_are_json():
    record = logging.LogRecord("suisen.serving", logging.INFO, "", 0, "request %d", (7,), None)
    record.fields = {"path": "/v1/水", "status": 200}
    line = json.loads(JsonLines().format(record))
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "suisen.serving",
        "message": "request 7",
        "path": "/v1/水",
        "status": 200,
    }


def test_tracebacks_are_a_field():
    try:
        raise ValueError("why")
    except ValueError as error:
        record = logging.LogRecord("s", logging.ERROR, "", 0, "failed", (), (ValueError, error, error.__traceback__))
    text = JsonLines().format(record)
    assert "\n" not in text
    assert "ValueError: why" in json.loads(text)["traceback"]


@pytest.fixture
def loggers():
    """The two loggers, put back as they were."""
    kept = [logging.getLogger(name) for name in ("suisen", "uvicorn")]
    before = [(logger.level, logger.propagate, list(logger.handlers)) for logger in kept]
    yield kept
    for logger, (level, propagate, handlers) in zip(kept, before):
        logger.setLevel(level)
        logger.propagate, logger.handlers = propagate, handlers


def test_logging_is_configured_once(loggers):
    before = [len(logger.handlers) for logger in loggers]
    configure_logging()
    configure_logging()
    assert [len(logger.handlers) for logger in loggers] == [count + 1 for count in before]


def test_access_lines_name_the_request(recommender, caplog):
    caplog.set_level(logging.INFO, "suisen.serving")
    with Client(lambda: recommender.system, Settings(deadline_s=60, access_log=True)) as client:
        client.get("/nowhere?x=1", headers={"x-request-id": "r1"})
    (record,) = [record for record in caplog.records if record.message == "request"]
    assert {**record.fields, "took_ms": 0} == {
        "request_id": "r1",
        "method": "GET",
        "path": "/nowhere",
        "status": 404,
        "took_ms": 0,
    }


NAMES = re.compile(r"suisen(_[a-z0-9]+)+")
UNITS = ("_seconds", "_bytes", "_ratio")


def test_every_metric_keeps_the_rules_of_prometheus():
    for one in Telemetry().definitions.values():
        assert NAMES.fullmatch(one.name), one.name
        assert not one.name.endswith(("_total", "_info", "_count", "_sum", "_bucket")), one.name  # put behind it
        assert one.help.endswith("."), one.name
        assert not re.search(r"_(ms|us|kb|mb|percent|milliseconds|counter|gauge|histogram)(_|$)", one.name), one.name
        assert list(one.bounds) == sorted(set(one.bounds)), one.name
        if one.kind == "histogram":
            assert one.name.endswith(UNITS) or one.name == "suisen_batch_rows"
        if one.name.endswith("_seconds") and one.kind == "histogram":
            assert {0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1} <= set(one.bounds), one.name
            assert one.bounds[0] < 0.001
            assert one.bounds[-1] > 0.1


def test_names_that_people_use_stay():
    """A name that is in dashboards is not renamed: what it broke a rule by is kept beside its heir."""
    kept = """suisen_requests suisen_request_seconds suisen_requests_in_flight suisen_queue_length suisen_batch_rows
        suisen_answers suisen_events_written suisen_events_unknown_items suisen_users_with_events suisen_users_bytes
        suisen_rows suisen_rows_bytes suisen_rows_queries suisen_impressions_written suisen_impressions_lost
        suisen_ready suisen_plan suisen_plan_agreement suisen_bundle suisen_worker_restarts"""
    assert set(kept.split()) <= set(Telemetry().definitions)
    old = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5}
    assert old <= set(Telemetry().definitions["suisen_request_seconds"].bounds)


def test_a_followed_value_takes_the_place_of_the_former():
    telemetry, values = Telemetry(), [1.0, 2.0]
    telemetry.follow(telemetry.connections, lambda: values[0])
    telemetry.follow(telemetry.connections, lambda: values[1])
    assert value(telemetry, "suisen_connections") == 2


def test_totals_of_one_version_after_the_other_add_up():
    """What the former had counted since the last look is not lost, and what it counted before is not counted again when
    it is followed again; a total that falls takes nothing away."""
    telemetry, first, second = Telemetry(), [7.0], [0.0]
    counter = telemetry.disconnected
    telemetry.follow_total(counter, lambda: first[0] - 7.0)
    first[0] += 3.0
    assert value(telemetry, "suisen_disconnected_total") == 3
    first[0] += 2.0
    telemetry.follow_total(counter, lambda: second[0])
    assert value(telemetry, "suisen_disconnected_total") == 5
    for total, expected in ((4.0, 9), (1.0, 9), (2.0, 10)):
        second[0] = total
        assert value(telemetry, "suisen_disconnected_total") == expected
    telemetry.follow_total(counter, lambda: first[0])
    assert value(telemetry, "suisen_disconnected_total") == 10


def test_the_age_of_a_bundle_is_told(recommender, tmp_path):
    recommender.save(tmp_path / "bundle")
    system = bundle.load(tmp_path / "bundle")
    telemetry = Telemetry()
    telemetry.tell_bundle(replace(system, created="2020-01-01T00:00:00Z"), "v1")
    found = {dict(labels)["since"]: v for (name, labels), v in parsed(telemetry).items() if name == AGE}
    assert found["created"] == pytest.approx(time.time() - 1577836800, abs=60)
    assert 0 <= found["loaded"] < 60
    assert abs(time.time() - datetime.fromisoformat(system.created).timestamp()) < 3600
    unsaved = Telemetry()
    unsaved.tell_bundle(recommender.system, "v1")
    assert [dict(labels) for name, labels in parsed(unsaved) if name == AGE] == [{"since": "loaded"}]


def test_several_words_at_once_take_the_place_of_the_former():
    telemetry = Telemetry()
    telemetry.slots.info({"version": "a", "state": "serving"}, {"version": "b", "state": "shadow"})
    telemetry.slots.info({"version": "b", "state": "serving"}, {"version": "c", "state": "loading"})
    rows = [dict(labels) for name, labels in parsed(telemetry) if name == "suisen_slot_info"]
    assert rows == [{"version": "b", "state": "serving"}, {"version": "c", "state": "loading"}]


def test_parts_of_an_answer_are_timed(recommender, tmp_path):
    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path)) as client:
        for user in range(1, 17):
            client.get(f"/v1/recommend/{user}")
        client.post("/v1/events", {"events": [{"user_id": 1, "item_id": 2, "event": "view"}]})
        found = samples(client)
    stages = {dict(labels)["stage"]: v for (name, labels), v in found.items() if name == "suisen_stage_seconds_count"}
    assert stages == {"rows": 16, "retrieve": 16, "items": 16, "encode": 2, "log": 1}
    assert found["suisen_queries_total", (("user", "known"), ("version", "ease-unsaved"))] == 16


def test_the_figures_of_a_plan_are_all_known():
    assert tuple(field.name for field in fields(Agreement)) == FIGURES


def test_a_version_without_a_plan_takes_the_figures_of_the_former_away():
    telemetry, system = Telemetry(), with_plan(fitted("mf").system)
    agreement = {"identical": 0.99, "overlap": 1.0}
    system.engine.plan.describe = lambda: {"candidates": "torch", "agreement": dict(agreement)}
    visitors = VisitorRows(system, RecentEvents(system.store, 1 << 20), 1 << 20)
    telemetry.tell_plan(system.engine)
    telemetry.watch_rows(visitors)
    visitors.of(RawQueries(["u0001"]))
    assert {dict(labels)["figure"]: v for (name, labels), v in parsed(telemetry).items() if name == FIGURE} == agreement
    assert value(telemetry, "suisen_rows") == 1
    there = weakref.ref(visitors)
    telemetry.tell_plan(fitted("mf").system.engine)
    telemetry.watch_rows(None)
    del visitors
    found = parsed(telemetry)
    assert there() is None
    assert not [name for name, _ in found if name == FIGURE]
    assert found["suisen_rows", ()] == found["suisen_rows_bytes", ()] == 0
    assert found["suisen_row_queries_total", (("row", "computed"),)] == 1
