"""Kinds of metrics over ``Counts``, and their Prometheus text over all workers of a server.

A metric is defined once, with its labels, its help and ``whole``: what it is for a server of several workers.  A share
is two counters, which add up over workers, hosts and time; a mean of shares would not.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric

from suisen.serving.counts import Count, Counts, Histogram, read

if TYPE_CHECKING:  # the supervisor of several workers loads no models
    from suisen.serving.siblings import Group

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
C = TypeVar("C", bound=Count | Histogram)
Kind = Literal["counter", "gauge", "histogram", "info"]
Whole = Literal["sum", "min", "max", "worker"]
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
class Definition:
    """What all children of a metric share."""

    kind: Kind
    name: str
    help: str
    labels: Sequence[str] = ()
    whole: Whole = "sum"
    bounds: Sequence[float] = ()

    @property
    def shown(self) -> str:
        """Its name in the text."""
        return self.name + SUFFIXES.get(self.kind, "")


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

    def info(self, *rows: Mapping[str, str]) -> None:
        """Puts these in the place of the former."""
        self._counts.zero(key_of("info", self._name)[:-1])
        for values in rows:
            words = [word for pair in values.items() for word in pair]
            Count(self._counts, key_of("info", self._name, *words)).set(1)


class Metrics:
    """The metrics of one app; several apps in one process do not mix, several workers of one server add up."""

    def __init__(self, group: Group | None = None) -> None:
        """``group``: the worker's place among its siblings, whose numbers ``render`` adds to its own."""
        self._group = group
        self._counts = Counts(None if group is None else group.counts(group.number))
        self._watched: dict[Count, Callable[[], object]] = {}
        self.definitions: dict[str, Definition] = {}
        """Every metric by its name, in the order of the text."""
        self.registry = CollectorRegistry()

    # -- kinds of metrics -------------------------------------------------------------------------------------------

    def counters(self, name: str, text: str, labels: Sequence[str]) -> Family[Count]:
        """Counters by labels; ``_total`` is put behind the name."""
        return self._family(Definition("counter", name, text, labels))

    def counter(self, name: str, text: str) -> Count:
        """A counter."""
        return self.counters(name, text, []).labels()

    def gauges(self, name: str, text: str, labels: Sequence[str], whole: Whole = "sum") -> Family[Count]:
        """Gauges by labels; ``whole``: sum, min or max of all workers, or ``worker``: each by itself."""
        return self._family(Definition("gauge", name, text, labels, whole))

    def gauge(self, name: str, text: str, whole: Whole = "sum") -> Count:
        """A gauge."""
        return self.gauges(name, text, [], whole).labels()

    def histograms(self, name: str, text: str, labels: Sequence[str], bounds: Sequence[float]) -> Family[Histogram]:
        """Histograms by labels; ``bounds``: ascending."""
        self.definitions[name] = Definition("histogram", name, text, labels, bounds=bounds)
        return Family(lambda *values: Histogram(self._counts, key_of("histogram", name, *values), bounds))

    def info(self, name: str, text: str) -> Info:
        """Words; ``_info`` is put behind the name."""
        self.definitions[name] = Definition("info", name, text, whole="max")
        return Info(self._counts, name)

    def _family(self, one: Definition) -> Family[Count]:
        self.definitions[one.name] = one
        return Family(lambda *values: Count(self._counts, key_of(one.kind, one.name, *values)))

    # -- values that are asked for when metrics are collected --------------------------------------------------------

    def follow(self, gauge: Count, value: Callable[[], float]) -> None:
        """Sets a gauge to ``value()`` whenever metrics are collected; a former ``value`` is forgotten."""
        self._watched[gauge] = lambda: gauge.set(value())

    def follow_total(self, counter: Count, total: Callable[[], float]) -> None:
        """Adds to a counter what a total grows by from now on."""
        if counter in self._watched:
            self._watched[counter]()
        before = total()

        def take() -> None:
            nonlocal before
            now = total()
            counter.inc(max(0.0, now - before))
            before = now

        self._watched[counter] = take

    def refresh(self) -> None:
        """Takes the values that are followed; of other workers ``render`` sees what they took last."""
        for take in self._watched.values():
            take()

    # -- the text ---------------------------------------------------------------------------------------------------

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
        for name, definition in self.definitions.items():
            yield _metric(definition, children[name])


def _metric(one: Definition, children: Mapping[tuple[str, ...], Mapping[int, Sequence[float]]]) -> Metric:
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
            told = [value for (value,) in by_worker.values() if not math.isnan(value)]  # NaN: there is none any more
            if any(told) or (told and one.kind != "info"):  # else former words
                metric.add_sample(one.shown, labels, WHOLE[one.whole](told))
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
