"""Numbers in mapped files, and the metrics that several workers make of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from suisen.serving.counts import SIZE, Count, Counts, Histogram, read
from suisen.serving.metrics import GAUGES, RESTARTS, key_of
from suisen.serving.siblings import Group
from suisen.serving.telemetry import Telemetry

STEPS = st.lists(st.tuples(st.text(max_size=9), st.integers(0, 5)), max_size=30)


@given(STEPS, STEPS)
@settings(max_examples=60, deadline=None)
def test_a_file_goes_on_where_another_process_left_it(first, second):
    """Property: whatever the keys, a reader and a second writer see exactly what was counted before."""
    with tempfile.TemporaryDirectory() as folder:
        path, expected = Path(folder) / "0.counts", {}
        for steps in (first, second):
            counts = Counts(path)
            for key, amount in steps:
                Count(counts, key).inc(amount)
                expected[key] = [expected.get(key, [0])[0] + amount]
            assert counts.all() == read(path) == expected


@given(st.lists(st.floats(-1, 20), max_size=40))
def test_a_histogram_is_its_definition(values):
    bounds = (0.5, 1.0, 10.0)
    counts = Counts()
    histogram = Histogram(counts, "h", bounds)
    for value in values:
        histogram.observe(value)
    *cells, total = counts.all()["h"]
    below = [sum(value <= bound for value in values) for bound in bounds]
    assert [sum(cells[: place + 1]) for place in range(4)] == [*below, len(values)]
    assert total == pytest.approx(sum(values))


class Slow(float):
    """A number in whose addition the other threads have their turn."""

    def __radd__(self, other):
        time.sleep(0.0001)
        return other + float(self)

    def __rsub__(self, other):
        time.sleep(0.0001)
        return other - float(self)


def test_threads_lose_no_count():
    counts = Counts()
    one, many = Count(counts, "n"), Histogram(counts, "h", [0.5])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: (one.inc(Slow(3)), one.dec(Slow(1)), many.observe(Slow(1))), range(400)))
    assert counts.all() == {"n": [800], "h": [0, 400, 400]}


def test_what_a_killed_process_counted_stays(tmp_path):
    code = """
import os, signal, sys
from pathlib import Path
from suisen.serving.counts import Count, Counts
count = Count(Counts(Path(sys.argv[1])), "n")
for _ in range(1000): count.inc()
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", code, tmp_path / "0.counts"], check=False)
    assert process.returncode == -signal.SIGKILL
    assert read(tmp_path / "0.counts") == {"n": [1000]}


def test_a_label_with_too_many_values_is_named(tmp_path):
    counts = Counts(tmp_path / "0.counts")
    with pytest.raises(RuntimeError, match=r"no room for the metric x+: a label has too many values"):
        Count(counts, "x" * SIZE)
    Count(counts, "y").inc()
    assert read(tmp_path / "0.counts") == {"y": [1]}
    assert read(tmp_path / "no.counts") == {}


def parsed(telemetry):
    families = text_string_to_metric_families(telemetry.render().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def test_any_worker_tells_of_all(tmp_path):
    """Counters and histograms are sums; a gauge is what its line says; processes stand apart."""
    one, two = (Telemetry(Group(tmp_path, number, 2, 0)) for number in range(2))
    for telemetry, times in ((one, 3), (two, 4)):
        telemetry.requests.labels("/a", 200).inc(times)
        for _ in range(times):
            telemetry.seconds.labels("/a").observe(0.003 * times)
        telemetry.in_flight.inc(times)
        telemetry.ready.set(1)
        telemetry.bundle.info({"version": "old", "model": "ease", "more": "yes"})
        telemetry.bundle.info({"version": "new", "model": "ease"})
    two.requests.labels("/b", 503).inc()
    two.ready.set(0)
    supervisor = Counts(Group(tmp_path, -1, 2, 0).restarts)
    Count(supervisor, key_of("counter", RESTARTS, 1)).inc()
    found = parsed(one)
    apart = ("process_", "suisen_worker_pid")
    assert {k: v for k, v in found.items() if not k[0].startswith(apart)} == {
        k: v for k, v in parsed(two).items() if not k[0].startswith(apart)
    }
    assert found["suisen_requests_total", (("route", "/a"), ("status", "200"))] == 7
    assert found["suisen_requests_total", (("route", "/b"), ("status", "503"))] == 1
    assert found["suisen_worker_requests_total", (("worker", "0"),)] == 3
    assert found["suisen_worker_requests_total", (("worker", "1"),)] == 5
    assert found["suisen_request_seconds_bucket", (("le", "0.01"), ("route", "/a"))] == 3
    assert found["suisen_request_seconds_bucket", (("le", "0.025"), ("route", "/a"))] == 7
    assert found["suisen_request_seconds_count", (("route", "/a"),)] == 7
    assert found["suisen_request_seconds_sum", (("route", "/a"),)] == pytest.approx(3 * 0.009 + 4 * 0.012)
    assert found["suisen_requests_in_flight", ()] == 7
    assert found["suisen_ready", ()] == 0
    assert found["suisen_worker_restarts_total", (("worker", "1"),)] == 1
    infos = [labels for name, labels in found if name == "suisen_bundle_info"]
    assert infos == [(("model", "ease"), ("version", "new"))]
    assert found["suisen_worker_pid", (("worker", "0"),)] == os.getpid()
    assert found["process_resident_memory_bytes", (("worker", "1"),)] > 0


def test_the_gauges_of_a_dead_worker_are_nothing_and_its_counts_stay(tmp_path):
    group = Group(tmp_path, 0, 1, 0)
    dead = Telemetry(group)
    dead.in_flight.inc(5)
    dead.events.inc(2)
    Counts(group.counts(0)).zero(GAUGES)
    found = parsed(Telemetry(group))
    assert found["suisen_requests_in_flight", ()] == 0
    assert found["suisen_events_written_total", ()] == 2
