"""What the server tells of itself: Prometheus metrics in a registry of its own, and log lines for programs."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from suisen.serving.counts import Count, Counts, Histogram, read

if TYPE_CHECKING:  # the supervisor of several workers loads no models
    from suisen.recommending.engine import Engine
    from suisen.recommending.states import VisitorRows
    from suisen.recommending.users import RecentEvents
    from suisen.serving.lane import Lane
    from suisen.serving.siblings import Group

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
C = TypeVar("C", bound=Count | Histogram)
Kind = Literal["counter", "gauge", "histogram", "info"]
Rows = Mapping[str, Sequence[float]]
RESTARTS = "suisen_worker_restarts"
SUFFIXES = {"counter": "_total", "info": "_info"}
WHOLE: dict[str, Callable[[Sequence[float]], float]] = {"sum": sum, "min": min, "max": max}
"""How the gauges of several workers become one."""


def key_of(kind: Kind, name: str, *labels: object) -> str:
    """What a row of ``Counts`` is called: the kind first, so that a dead worker's gauges are found."""
    return json.dumps([kind, name, *map(str, labels)])


GAUGES = key_of("gauge", "")[:-2]
"""How the keys of all gauges begin."""


@dataclass(frozen=True)
class _Definition:
    """What all children of a metric share."""

    kind: Kind
    name: str
    help: str
    labels: Sequence[str] = ()
    whole: str = "sum"
    bounds: Sequence[float] = ()


class Family(Generic[C]):
    """A metric with labels: ``labels(…)`` gives the child that counts; keep it where every request needs it."""

    def __init__(self, make: Callable[..., C]) -> None:
        self._make = make
        self._children: dict[tuple[object, ...], C] = {}

    def labels(self, *values: object) -> C:
        """The child of these values, which stand in the order of the labels' names."""
        child = self._children.get(values)
        if child is None:
            child = self._children[values] = self._make(*values)
        return child


class Info:
    """Words about what serves, as the labels of a metric that is 1."""

    def __init__(self, counts: Counts, name: str) -> None:
        self._counts, self._name = counts, name

    def info(self, values: Mapping[str, str]) -> None:
        """Puts these in the place of the former."""
        self._counts.zero(key_of("info", self._name)[:-1])
        words = [word for pair in values.items() for word in pair]
        Count(self._counts, key_of("info", self._name, *words)).set(1)


class Telemetry:
    """The metrics of one app; several apps in one process do not mix, several workers of one server add up.

    A new metric is one line here.  ``whole`` says what a gauge is for a server of several workers.
    """

    def __init__(self, group: Group | None = None) -> None:
        """``group``: the worker's place among its siblings, whose numbers ``render`` adds to its own."""
        self._group = group
        self._counts = Counts(None if group is None else group.counts(group.number))
        self._metrics: dict[str, _Definition] = {}
        self._watched: list[tuple[Count, Callable[[], float]]] = []
        counter, counters, gauge = self.counter, self.counters, self.gauge
        self.requests = counters("suisen_requests", "Requests by route and status.", ["route", "status"])
        self.seconds = self.histograms("suisen_request_seconds", "Time to an answer.", ["route"], SECONDS)
        self.in_flight = gauge("suisen_requests_in_flight", "Requests being answered.")
        self._waiting = self.gauges("suisen_queue_length", "Jobs that no worker has taken yet.", ["lane"])
        self.batch_rows = self.histograms("suisen_batch_rows", "Queries per call of the model.", [], ROWS).labels()
        self.answers = counters("suisen_answers", "Lists by what answered them.", ["answered_by"])
        self.events = counter("suisen_events_written", "Events in the log.")
        self.unknown_items = counter(
            "suisen_events_unknown_items", "Logged events of items that the bundle does not know."
        )
        self._users = gauge("suisen_users_with_events", "Users whose events since the bundle was made count.", "max")
        self._user_bytes = gauge("suisen_users_bytes", "Memory of their events.")
        self._rows = gauge("suisen_rows", "Users whose query vectors and context rows are kept.")
        self._row_bytes = gauge("suisen_rows_bytes", "Memory of those rows.")
        self._row_queries = self.gauges("suisen_rows_queries", "Queries by whether a kept row answered them.", ["row"])
        self.impressions = counter("suisen_impressions_written", "Lists in the impression log.")
        self.impressions_lost = counter("suisen_impressions_lost", "Lists that the impression log could not take.")
        self.ready = gauge("suisen_ready", "1 while the server, with all its workers, takes requests.", "min")
        self._plan = self.info("suisen_plan", "What runs for requests that are not precise.")
        self._agreement = self.gauges(
            "suisen_plan_agreement", "How its lists agree with the precise ones.", ["figure"], "min"
        )
        self.bundle = self.info("suisen_bundle", "The bundle that answers.")
        counters(RESTARTS, "Workers started again, by the number of the worker.", ["worker"])
        if group is not None:
            gauge("suisen_worker_pid", "Process of each worker.", "worker").set(os.getpid())
        self.registry = CollectorRegistry()
        self.registry.register(self)

    # -- kinds of metrics -------------------------------------------------------------------------------------------

    def counters(self, name: str, text: str, labels: Sequence[str]) -> Family[Count]:
        """Counters by labels; ``_total`` is put behind the name."""
        return self._family(_Definition("counter", name, text, labels))

    def counter(self, name: str, text: str) -> Count:
        """A counter."""
        return self.counters(name, text, []).labels()

    def gauges(self, name: str, text: str, labels: Sequence[str], whole: str = "sum") -> Family[Count]:
        """Gauges by labels; ``whole``: sum, min or max of all workers, or ``worker``: each by itself."""
        return self._family(_Definition("gauge", name, text, labels, whole))

    def gauge(self, name: str, text: str, whole: str = "sum") -> Count:
        """A gauge."""
        return self.gauges(name, text, [], whole).labels()

    def histograms(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> Family[Histogram]:
        """Histograms by labels; ``bounds``: ascending."""
        self._metrics[name] = _Definition("histogram", name, text, labels, bounds=bounds)
        return Family(lambda *values: Histogram(self._counts, key_of("histogram", name, *values), bounds))

    def info(self, name: str, text: str) -> Info:
        """Words; ``_info`` is put behind the name."""
        self._metrics[name] = _Definition("info", name, text, whole="max")
        return Info(self._counts, name)

    def _family(self, one: _Definition) -> Family[Count]:
        self._metrics[one.name] = one
        return Family(lambda *values: Count(self._counts, key_of(one.kind, one.name, *values)))

    # -- what is told -----------------------------------------------------------------------------------------------

    def watch(self, lane: Lane[Any, Any]) -> None:
        """Reads a lane's length whenever metrics are collected."""
        self._watched.append((self._waiting.labels(lane.name), lambda: lane.waiting))

    def watch_users(self, recent: RecentEvents) -> None:
        """Reads how many users' events are held, and in how many bytes, whenever metrics are collected."""
        self._watched += [(self._users, lambda: len(recent)), (self._user_bytes, lambda: recent.nbytes)]

    def refresh(self) -> None:
        """Takes the values that are watched; of other workers ``render`` sees what they took last."""
        for gauge, value in self._watched:
            gauge.set(value())

    def watch_rows(self, visitors: VisitorRows | None) -> None:
        """Reads how many rows are kept, in how many bytes, and how often they were of use; without a plan there are
        none.
        """
        if visitors is not None:
            self._watched += [
                (self._rows, lambda: len(visitors)),
                (self._row_bytes, lambda: visitors.nbytes),
                (self._row_queries.labels("kept"), lambda: visitors.hits),
                (self._row_queries.labels("computed"), lambda: visitors.misses),
            ]

    def tell_plan(self, engine: Engine) -> None:
        """Tells of an engine's plan, or why everything runs on torch."""
        told: dict[str, Any] = {"torch": engine.on_torch} if engine.plan is None else engine.plan.describe()
        for figure, value in (told.pop("agreement", None) or {}).items():
            self._agreement.labels(figure).set(value)
        self._plan.info({name: str(value) for name, value in told.items()})

    def render(self) -> bytes:
        """Prometheus text format."""
        self.refresh()
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Every metric, over all workers; what prometheus_client asks of a collector."""
        group = self._group
        if group is None:
            rows = [self._counts.all()]
            yield from ProcessCollector(registry=None).collect()
        else:
            rows = [read(group.counts(number)) for number in range(group.workers)]
            yield from _by_worker(rows)
            rows.append(read(group.restarts))
        children: dict[str, dict[tuple[str, ...], dict[int, Sequence[float]]]] = defaultdict(lambda: defaultdict(dict))
        for number, of_worker in enumerate(rows):
            for key, values in of_worker.items():
                _, name, *labels = json.loads(key)
                children[name][tuple(labels)][number] = values
        for name, definition in self._metrics.items():
            yield _metric(definition, children[name])


def _metric(one: _Definition, children: Mapping[tuple[str, ...], Mapping[int, Sequence[float]]]) -> Metric:
    """A metric from its rows by labels and worker."""
    metric = Metric(one.name, one.help, one.kind)
    for values, by_worker in children.items():
        pairs = (values[::2], values[1::2]) if one.kind == "info" else (one.labels, values)
        labels = dict(zip(*pairs, strict=True))
        if one.kind == "histogram":
            *cells, total = map(sum, zip(*by_worker.values(), strict=True))
            for bound, count in zip([*map(float, one.bounds), "+Inf"], accumulate(cells), strict=True):
                metric.add_sample(f"{one.name}_bucket", {**labels, "le": str(bound)}, count)
            metric.add_sample(f"{one.name}_count", labels, sum(cells))
            metric.add_sample(f"{one.name}_sum", labels, total)
        elif one.whole == "worker":
            for number, (value,) in by_worker.items():
                metric.add_sample(one.name, {**labels, "worker": str(number)}, value)
        else:
            value = WHOLE[one.whole]([value for (value,) in by_worker.values()])
            if value or one.kind != "info":  # else former words
                metric.add_sample(one.name + SUFFIXES.get(one.kind, ""), labels, value)
    return metric


def _by_worker(rows: Sequence[Rows]) -> Iterator[Metric]:
    """What the system knows of each worker's process, and how many requests each of them answered."""
    metrics: dict[str, Metric] = {}
    requests = metrics["requests"] = Metric(
        "suisen_worker_requests", "Requests by the worker that answered.", "counter"
    )
    for number, of_worker in enumerate(rows):
        worker = {"worker": str(number)}
        answered = sum(
            values[0] for key, values in of_worker.items() if key.startswith('["counter", "suisen_requests"')
        )
        requests.add_sample("suisen_worker_requests_total", worker, answered)
        pid = int(of_worker.get(key_of("gauge", "suisen_worker_pid"), [0])[0])
        for metric in ProcessCollector(pid=partial(int, pid), registry=None).collect() if pid else ():
            kept = metrics.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                kept.add_sample(sample.name, worker, sample.value)
    yield from metrics.values()


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
