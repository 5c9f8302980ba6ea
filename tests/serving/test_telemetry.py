from __future__ import annotations

import asyncio
import json
import logging

import pytest
from prometheus_client.parser import text_string_to_metric_families

from suisen.serving.journal import SHOWN_S
from suisen.serving.settings import Settings
from suisen.serving.telemetry import JsonLines, configure_logging
from tests.serving.client import Client


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


def test_a_log_that_cannot_be_written_is_a_problem_and_loses_nothing_in_silence(recommender, tmp_path):
    class Full:
        def append(self, batch):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    with Client(lambda: recommender.system, Settings(deadline_s=60, log_dir=tmp_path)) as client:
        lane = client.app.service.journal._lanes["events"]
        from functools import partial

        from suisen.serving.journal import _write

        lane._work = partial(_write, Full())
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
