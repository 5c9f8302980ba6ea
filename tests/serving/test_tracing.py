"""Spans of requests: under the caller's, with stages below, through the SDK's own exporter in memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from suisen.serving import tracing
from suisen.serving.settings import Settings
from tests.serving.test_contract import refused

export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def traced(served, recommender, monkeypatch, tmp_path):
    kept = export.InMemorySpanExporter()
    monkeypatch.setattr(tracing, "exporter", lambda: kept)
    with served(lambda: recommender.system, Settings(deadline_s=60, otel=True, log_dir=tmp_path)) as made:
        yield made, kept


def spans(traced):
    client, kept = traced
    client.app.service.tracing.provider.force_flush()
    return {span.name: span for span in kept.get_finished_spans()}


def test_a_request_is_a_span_of_the_callers_trace_with_its_stages(traced):
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "r1"}
    assert traced[0].get("/v1/recommend/7", headers=headers).headers["x-request-id"] == "r1"
    found = spans(traced)
    server = found.pop("GET /v1/recommend/{user}")
    assert (f"{server.context.trace_id:032x}", f"{server.parent.span_id:016x}") == (TRACE, SPAN)
    assert server.kind.name == "SERVER"
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["http.route"] == "/v1/recommend/{user}"
    assert server.attributes["suisen.request_id"] == "r1"
    assert list(found) == ["read", "decode", "compute", "encode"]
    before = server.start_time
    for span in found.values():
        assert span.parent.span_id == server.context.span_id
        assert before <= span.start_time + 1000
        assert span.start_time <= span.end_time <= server.end_time + 1000
        before = span.end_time


def test_refusals_are_spans_too(traced):
    traced[0].get("/nowhere")
    traced[0].post("/v1/recommend", b"{")
    traced[0].post("/v1/events", {"events": [{"user_id": 7, "item_id": 1, "event": "click"}]})
    found = spans(traced)
    assert found["GET unmatched"].attributes["http.response.status_code"] == 404
    assert found["POST /v1/recommend"].attributes["http.response.status_code"] == 400
    assert found["POST /v1/events"].attributes["http.response.status_code"] == 202
    assert found["GET unmatched"].parent is None


def test_what_the_caller_does_not_sample_is_not_recorded(traced):
    traced[0].get("/v1/recommend/7", headers={"traceparent": f"00-{TRACE}-{SPAN}-00"})
    assert spans(traced) == {}


@pytest.mark.parametrize(
    "given",
    ["", "x",
     f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-",
     f"00-{TRACE.upper()}-{SPAN}-01", f"00-{TRACE}-{SPAN}", f"00-{TRACE}-{SPAN}-0g"],
)  # fmt: skip
def test_a_traceparent_that_cannot_be_read_begins_a_trace_of_its_own(traced, given):
    assert traced[0].get("/v1/recommend/7", headers={"traceparent": given}).status == 200
    server = spans(traced)["GET /v1/recommend/{user}"]
    assert server.parent is None


def test_a_traceparent_of_a_later_version_is_read(traced):
    traced[0].get("/v1/recommend/7", headers={"traceparent": f"01-{TRACE}-{SPAN}-01-more"})
    assert f"{spans(traced)['GET /v1/recommend/{user}'].context.trace_id:032x}" == TRACE


def test_nothing_is_imported_or_kept_where_it_is_off(client):
    assert client.app.service.tracing is None
    code = "import suisen.serving.server, sys; assert not [m for m in sys.modules if 'opentelemetry' in m]"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    refused(client.get("/nowhere"), 404, "not_found")
