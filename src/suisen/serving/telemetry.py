"""What the server tells of itself: Prometheus metrics in a registry of its own, and log lines for programs."""

import logging
import sys
from datetime import UTC, datetime
from functools import partial
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from suisen.recommending.engine import Engine
from suisen.recommending.states import VisitorRows
from suisen.recommending.users import RecentEvents
from suisen.serving.lane import Lane

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Telemetry:
    """The metrics of one app; several apps in one process do not mix."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        self.requests = counter("suisen_requests", "Requests by route and status.", ["route", "status"])
        self.seconds = histogram("suisen_request_seconds", "Time to an answer.", ["route"], buckets=SECONDS)
        self.in_flight = gauge("suisen_requests_in_flight", "Requests being answered.")
        self._waiting = gauge("suisen_queue_length", "Jobs that no worker has taken yet.", ["lane"])
        self.batch_rows = histogram("suisen_batch_rows", "Queries per call of the model.", buckets=ROWS)
        self.answers = counter("suisen_answers", "Lists by what answered them.", ["answered_by"])
        self.events = counter("suisen_events_written", "Events in the log.")
        self.unknown_items = counter(
            "suisen_events_unknown_items", "Logged events of items that the bundle does not know."
        )
        self._users = gauge("suisen_users_with_events", "Users whose events since the bundle was made count.")
        self._user_bytes = gauge("suisen_users_bytes", "Memory of their events.")
        self._rows = gauge("suisen_rows", "Users whose query vectors and context rows are kept.")
        self._row_bytes = gauge("suisen_rows_bytes", "Memory of those rows.")
        self._row_queries = gauge("suisen_rows_queries", "Queries by whether a kept row answered them.", ["row"])
        self.impressions = counter("suisen_impressions_written", "Lists in the impression log.")
        self.impressions_lost = counter("suisen_impressions_lost", "Lists that the impression log could not take.")
        self.ready = gauge("suisen_ready", "1 while the server takes requests.")
        self._plan = Info("suisen_plan", "What runs for requests that are not precise.", registry=registry)
        self._agreement = gauge("suisen_plan_agreement", "How its lists agree with the precise ones.", ["figure"])
        self.bundle = Info("suisen_bundle", "The bundle that answers.", registry=registry)

    def watch(self, lane: Lane[Any, Any]) -> None:
        """Reads a lane's length whenever metrics are collected."""
        self._waiting.labels(lane.name).set_function(lambda: lane.waiting)

    def watch_users(self, recent: RecentEvents) -> None:
        """Reads how many users' events are held, and in how many bytes, whenever metrics are collected."""
        self._users.set_function(lambda: len(recent))
        self._user_bytes.set_function(lambda: recent.nbytes)

    def watch_rows(self, visitors: VisitorRows | None) -> None:
        """Reads how many rows are kept, in how many bytes, and how often they were of use; without a plan there are
        none.
        """
        if visitors is not None:
            self._rows.set_function(lambda: len(visitors))
            self._row_bytes.set_function(lambda: visitors.nbytes)
            self._row_queries.labels("kept").set_function(lambda: visitors.hits)
            self._row_queries.labels("computed").set_function(lambda: visitors.misses)

    def tell_plan(self, engine: Engine) -> None:
        """Tells of an engine's plan, or why everything runs on torch."""
        told: dict[str, Any] = {"torch": engine.on_torch} if engine.plan is None else engine.plan.describe()
        for figure, value in (told.pop("agreement", None) or {}).items():
            self._agreement.labels(figure).set(value)
        self._plan.info({name: str(value) for name, value in told.items()})

    def render(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self.registry)


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the fields that ``extra={"fields": {…}}`` brought."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback is one of its fields."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line, enc_hook=str).decode()


def configure_logging(level: int = logging.INFO) -> None:
    """Sends the lines of Suisen and of its HTTP server to standard error, once."""
    for name in ("suisen", "uvicorn"):
        logger = logging.getLogger(name)
        logger.setLevel(level if name == "suisen" else max(level, logging.WARNING))
        logger.propagate = False
        if not any(isinstance(handler.formatter, JsonLines) for handler in logger.handlers):
            handler = logging.StreamHandler(sys.stderr)
            handler.setFormatter(JsonLines())
            logger.addHandler(handler)
