"""What the server tells of itself: its metrics, each defined once, and log lines for programs.

Names keep the rules of Prometheus: seconds and bytes, ``_total`` for what only grows, two counters for a share.  No
name changes its meaning; one that breaks a rule is kept beside its heir and said to be deprecated.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from suisen.serving.metrics import RESTARTS, Metrics

if TYPE_CHECKING:  # the supervisor of several workers loads no models
    from suisen.recommending.engine import Engine
    from suisen.recommending.states import VisitorRows
    from suisen.recommending.system import System
    from suisen.recommending.users import RecentEvents
    from suisen.serving.lane import Lane
    from suisen.serving.siblings import Group

SECONDS = (
    *(0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.0025, 0.005, 0.01, 0.02),
    *(0.025, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.5, 5.0),
)
"""Bounds of times that a caller waits; the goals of ``deploy/prometheus`` are among them."""
STAGE_SECONDS = (
    *(0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005),
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
"""Bounds of the parts of an answer."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FIGURES = ("identical", "overlap", "ndcg", "precise_ndcg", "queries")
"""Of a plan's agreement."""
RULE_NAMES = 128
"""Most names of rules that are told apart over the life of a server: four versions with as many as may be."""
TENTHS = 10
"""Bins of the scores' distribution."""


class Telemetry(Metrics):
    """The metrics of one app.  A new one is one line here; ``whole`` says what a gauge is for several workers.

    What is counted per request costs 1 µs, per query nothing: queries are counted a call of the model at a time.
    """

    def __init__(self, group: Group | None = None) -> None:
        """``group``: the worker's place among its siblings, whose numbers ``render`` adds to its own."""
        super().__init__(group)
        self._of_requests()
        self._of_answers()
        self._of_the_bundle()
        self._of_users_and_logs()
        self._of_quality()
        self.counters(RESTARTS, "Workers started again, by the number of the worker.", ["worker"])
        if group is not None:
            self.gauge("suisen_worker_pid", "Process of each worker.", "worker").set(os.getpid())
        self.registry.register(self)

    # -- definitions ------------------------------------------------------------------------------------------------

    def _of_requests(self) -> None:
        counter, counters, gauge = self.counter, self.counters, self.gauge
        self.requests = counters("suisen_requests", "Requests by route and status.", ["route", "status"])
        self.seconds = self.histograms("suisen_request_seconds", "Time to an answer.", ["route"], SECONDS)
        self.in_flight = gauge("suisen_requests_in_flight", "Requests being answered.")
        self.connections = gauge("suisen_connections", "Open connections.")
        self.connections_refused = counters("suisen_connections_refused", "Connections closed, by reason.", ["reason"])
        self.refused = counters(
            "suisen_refused",
            "Requests not computed: queue (too much waits), deadline (too late), price (too dear), limit (too large).",
            ["reason"],
        )
        for reason in ("queue", "deadline", "price", "limit"):  # what is not there before it happens has no rate then
            self.refused.labels(reason)
        self.unauthorized = counter("suisen_unauthorized", "Requests without a key that is known and may do this.")
        self.rate_limited = counters("suisen_rate_limited", "Requests above their key's rate, by its name.", ["key"])
        self.disconnected = counter("suisen_disconnected", "Clients that went before their answer.")

    def _of_answers(self) -> None:
        counters = self.counters
        self._waiting = self.gauges("suisen_queue_length", "Jobs that no worker has taken yet.", ["lane"])
        self.queue_wait = self.histograms(
            "suisen_queue_wait_seconds",
            "Time from a job's arrival to its computation; in the event loop (turn) of the first job of each call.",
            ["lane"],
            STAGE_SECONDS,
        )
        self.batch_rows = self.histograms("suisen_batch_rows", "Queries per call of the model.", [], ROWS).labels()
        self.stages = self.histograms(
            "suisen_stage_seconds",
            "Time of a stage, for all queries of a call: rows (who asks), plan (compiled: candidates, ranking), or "
            "retrieve, rank, diversify (torch), popular, items (ids, titles); encode (one reply in 16); log (a write).",
            ["stage"],
            STAGE_SECONDS,
        )
        self.answers = counters("suisen_answers", "Lists by what answered them.", ["answered_by"])
        self.queries = counters(
            "suisen_queries", "Queries by the version that answered and whether it knows the user.", ["version", "user"]
        )
        self.degraded = counters("suisen_degraded", "Answers made without a part of what they need.", ["what"])
        self.rule_items = counters(
            "suisen_rule_items",
            "Items that a rule touched: refused of all (require), moved up (boost), passed over (cap), put in (pin).",
            ["rule"],
        )
        self.rule_lists = counters("suisen_rule_lists", "Lists that a rule touched.", ["rule"])
        self.rules_unmet = counters(
            "suisen_rules_unmet",
            "Lists that do not meet a rule: relaxed (a cap gave way), short (fewer items were left), barred (a pin).",
            ["rule", "why"],
        )
        self._rule_names: set[str] = set()

    def _of_the_bundle(self) -> None:
        self.ready = self.gauge("suisen_ready", "1 while the server, with all its workers, takes requests.", "min")
        self._plan = self.info("suisen_plan", "What runs for requests that are not precise.")
        self._agreement = self.gauges(
            "suisen_plan_agreement", "How its lists agree with the precise ones.", ["figure"], "min"
        )
        self.bundle = self.info("suisen_bundle", "The bundle that answers.")
        self._age = self.gauges(
            "suisen_bundle_age_seconds",
            "Age of the bundle that answers, since it was created or loaded.",
            ["since"],
            "max",
        )
        self.slots = self.info("suisen_slot", "The versions that are loaded, and what each is for.")
        self.swaps = self.counters("suisen_swaps", "Changes of the version that answers, by outcome.", ["outcome"])
        for outcome in ("switched", "refused", "rolled_back"):
            self.swaps.labels(outcome)
        self.blocked_items = self.gauge("suisen_blocked_items", "Items that no list may hold.", "max")

    def _of_users_and_logs(self) -> None:
        counter, counters, gauge = self.counter, self.counters, self.gauge
        self._users = gauge("suisen_users_with_events", "Users whose events since the bundle was made count.", "max")
        self._user_bytes = gauge("suisen_users_bytes", "Memory of their events.")
        self._rows = gauge("suisen_rows", "Users whose query vectors and context rows are kept.")
        self._row_bytes = gauge("suisen_rows_bytes", "Memory of those rows.")
        self._row_queries = counters("suisen_row_queries", "Queries by whether a kept row answered them.", ["row"])
        self._old_row_queries = self.gauges(
            "suisen_rows_queries", "Deprecated: suisen_row_queries_total of this run.", ["row"]
        )
        self.store_requests = counters("suisen_store_requests", "Requests to a store.", ["store", "outcome"])
        self.store_seconds = self.histograms("suisen_store_seconds", "Time of a request.", ["store"], STAGE_SECONDS)
        self.store_keys = counters("suisen_store_keys", "Keys asked of a store, by what it held.", ["store", "outcome"])
        self.unsent = self.gauges("suisen_store_unsent", "Events that wait for a store.", ["store"])
        self.breaker_open = self.gauges("suisen_breaker_open", "1 while a store is not asked.", ["store"], "max")
        self.events = counter("suisen_events_written", "Events in the log.")
        self.repeated = counter("suisen_events_repeated", "Events that had been taken before.")
        self.unknown_items = counter(
            "suisen_events_unknown_items", "Logged events of items that the bundle does not know."
        )
        self.impressions = counter("suisen_impressions_written", "Lists in the impression log.")
        self.impressions_lost = counter("suisen_impressions_lost", "Lists that the impression log could not take.")
        self.log_failures = counters("suisen_log_failures", "Writes to a log that failed.", ["log"])
        for log in ("events", "impressions"):
            self.log_failures.labels(log)
        self.log_reopened = counters(
            "suisen_log_reopened", "Times a log was opened anew, by reason.", ["log", "reason"]
        )
        self.spool_bytes = gauge("suisen_broker_spool_bytes", "Log that the broker has not yet.", "max")
        self.broker_lag = gauge("suisen_broker_lag_seconds", "Age of the oldest of it.", "max")
        self.delivered = counters("suisen_broker_delivered", "Messages the broker has acknowledged.", ["topic"])
        self.undelivered = counters("suisen_broker_failed", "Deliveries that failed and are tried again.", ["topic"])

    def _of_quality(self) -> None:
        counter, counters = self.counter, self.counters
        self.probes = counter("suisen_probes", "Live queries answered again by the precise way.")
        self.probes_identical = counter(
            "suisen_probes_identical", "Probes whose first ten are the precise ones, in order."
        )
        self.probe_items = counter("suisen_probe_items", "Items of the precise first tens.")
        self.probe_items_found = counter("suisen_probe_items_found", "Those of them that the live first tens hold.")
        self.probe_failures = counter("suisen_probe_failures", "Probes that came to no comparison.")
        self.scores = counters(
            "suisen_scores",
            "Scores of a sample of lists, by tenth of the bundle's own scores, 1 the lowest.",
            ["tenth"],
        )
        self.scores_expected = self.gauges(
            "suisen_scores_expected_ratio", "Share of the bundle's own scores in each tenth.", ["tenth"], "max"
        )

    # -- what is told -----------------------------------------------------------------------------------------------

    def label_of(self, rule: str) -> str:
        """What a rule is called in metrics: its name, or ``other`` where as many names were there before."""
        if rule not in self._rule_names and len(self._rule_names) >= RULE_NAMES:
            return "other"
        self._rule_names.add(rule)
        return rule

    def watch(self, lane: Lane[Any, Any]) -> None:
        """Follows a lane's length."""
        self.follow(self._waiting.labels(lane.name), lambda: lane.waiting)

    def watch_users(self, recent: RecentEvents) -> None:
        """Follows how many users' events are held, and in how many bytes."""
        self.follow(self._users, lambda: len(recent))
        self.follow(self._user_bytes, lambda: recent.nbytes)

    def watch_rows(self, visitors: VisitorRows | None) -> None:
        """Follows how many rows are kept, in how many bytes, and how often they were of use; without a plan there are
        none, and those of the former version are forgotten.
        """

        def told(value: Callable[[VisitorRows], float]) -> Callable[[], float]:
            return lambda: 0.0 if visitors is None else value(visitors)

        self.follow(self._rows, told(len))
        self.follow(self._row_bytes, told(lambda rows: rows.nbytes))
        for row, asked in (("kept", told(lambda rows: rows.hits)), ("computed", told(lambda rows: rows.misses))):
            self.follow(self._old_row_queries.labels(row), asked)
            self.follow_total(self._row_queries.labels(row), asked)

    def tell_plan(self, engine: Engine) -> None:
        """Tells of an engine's plan, or why everything runs on torch."""
        told: dict[str, Any] = {"torch": engine.on_torch} if engine.plan is None else engine.plan.describe()
        agreement = told.pop("agreement", None) or {}
        for figure in {*FIGURES, *agreement}:  # a plan without figures, or none, takes those of the former away
            self._agreement.labels(figure).set(agreement.get(figure, math.nan))
        self._plan.info({name: str(value) for name, value in told.items()})

    def tell_bundle(self, system: System, version: str) -> None:
        """Tells which bundle answers from now on, and follows its age."""
        self.bundle.info({"version": version, "model": system.name})
        self.tell_plan(system.engine)
        loaded = time.time()
        self.follow(self._age.labels("loaded"), lambda: time.time() - loaded)
        if system.created:
            created = datetime.fromisoformat(system.created).timestamp()
            self.follow(self._age.labels("created"), lambda: time.time() - created)

    def tell_scores(self, shares: Sequence[float]) -> None:
        """Tells which share of the bundle's own scores falls in each tenth; live ones are compared with it."""
        for tenth, share in enumerate(shares, 1):
            self.scores_expected.labels(tenth).set(share)
            self.scores.labels(tenth)  # there from now on: what appears later has no rate before


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
