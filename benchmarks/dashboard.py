"""A picture of the dashboard: panels of deploy/grafana/suisen.json, from a Prometheus that scraped a loaded server.

    python benchmarks/dashboard.py            # two and a half minutes; needs the program prometheus
    python benchmarks/dashboard.py --draw     # the picture anew from the newest record
    python benchmarks/dashboard.py --check    # whether the picture is that of the newest record

No Grafana is asked: the panels' own queries (``tools/grafana.py``) are run over the whole time, and our chart engine
draws what came.  The load: steady requests of known users, three times as many in the middle, a version that is loaded
and switched to, strangers at the end.  A run is a line of results/dashboard.jsonl and the picture
docs/images/dashboard.svg.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common import IMAGES, RESULTS, ROOT, append, draw_picture, parser, records, stamp

import suisen as su
from suisen.pages.draw import Axis, Line, Panel

sys.path.append(str(ROOT / "tools"))
import grafana

SHOWN = (
    "Requests", "Replies", "Requests of one caller", "Stages, p99", "Wait", "Queries per call", "Queries by version",
    "Query vectors that were kept", "Items blocked", "Live beside precise lists, an hour", "Processor", "Memory",
)  # fmt: skip
"""Titles of the panels in the picture."""
SECONDS, STEP_S, RATE = 140.0, 2, 60.0
"""Of the load; between two points; requests a second in quiet times."""
CLIENTS = 4
UNITS = {"s": (1e3, "ms"), "bytes": (1 / (1 << 20), "MiB"), "reqps": (1.0, "per second")}
"""What values are multiplied by, and the unit that they have then."""
COURSES = [(colour, dashes) for dashes in ("", "6 3", "2 3") for colour in ("accent", "second", "muted", "bad", "ink")]
"""How a panel's lines differ."""
PICTURE = IMAGES / "dashboard.svg"
RECORDS = "dashboard.jsonl"
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [bounds.yml, recording.yml, alerts.yml]
scrape_configs: [{{job_name: suisen, static_configs: [{{targets: ["127.0.0.1:{port}"]}}]}}]
"""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(words: list[str], ready: str, log: Path) -> Iterator[None]:
    """A program until the end of the block; returns once ``ready`` answers."""
    with log.open("wb") as out, subprocess.Popen(words, stdout=out, stderr=out, cwd=ROOT) as process:
        try:
            until = time.monotonic() + 60
            while not answers(ready):
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"{words[0]} is not ready: {log.read_text(errors='replace')[-1500:]}")
                time.sleep(0.1)
            yield
        finally:
            process.terminate()


def answers(url: str) -> bool:
    """Whether it answers with 200."""
    with contextlib.suppress(OSError):
        urllib.request.urlopen(url, timeout=5).close()
        return True
    return False


def bundles(folder: Path) -> list[Path]:
    """Two versions, by two models of one world."""
    data = su.Dataset.of(su.World(users=2000, items=600, seed=1).generate().log)
    places = []
    for model in (su.IALS(dim=32), su.MF(dim=32, epochs=3)):
        su.Recommender(model).fit(data).save(folder / type(model).__name__)
        places.append(folder / type(model).__name__)
    return places


class Load:
    """Clients that ask until they are told to stop."""

    def __init__(self, port: int) -> None:
        self.port, self.rate, self.strangers = port, RATE, 0.02
        self.over = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for thread in self._threads:
            thread.join()

    def _client(self, number: int) -> None:
        rng = random.Random(number)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while not self.over.wait(rng.expovariate(self.rate / CLIENTS)):
            method, path, message = self._request(rng)
            body = None if message is None else json.dumps(message)
            try:
                connection.request(method, path, body, {"content-type": "application/json"})
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection.close()
        connection.close()

    def _request(self, rng: random.Random) -> tuple[str, str, dict[str, Any] | None]:
        user = f"stranger-{rng.random()}" if rng.random() < self.strangers else str(rng.randrange(1, 2000))
        dice = rng.random()
        if dice < 0.6:
            return "GET", f"/v1/recommend/{user}", None
        if dice < 0.75:
            queries = [{"user_id": str(rng.randrange(1, 2000))} for _ in range(20)]
            return "POST", "/v1/recommend", {"queries": queries}
        if dice < 0.85:
            return "GET", f"/v1/similar/{rng.randrange(1, 600)}", None
        if dice < 0.98:
            event = {"user_id": user, "item_id": str(rng.randrange(1, 600)), "event": "view"}
            return "POST", "/v1/events", {"events": [event]}
        return "GET", f"/v1/recommend/{user}?k=0", None


def change(port: int, verb: str, message: dict[str, Any]) -> None:
    """A change by the admin listener."""
    body = json.dumps(message).encode()
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/admin/{verb}", body, {"content-type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=60).close()


def asked(port: int, query: str, start: float, end: float) -> list[dict[str, Any]]:
    """The courses of a query over a time."""
    for name, value in {"$__rate_interval": "15s", "$job": ".*", "$instance": ".*"}.items():
        query = query.replace(name, value)
    given = urllib.parse.urlencode({"query": query, "start": start, "end": end, "step": STEP_S})
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/query_range?{given}", timeout=20) as reply:
        found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    return found


def measured(prometheus: str) -> dict[str, Any]:
    """title → courses, (legend, seconds, values)."""
    panels = {panel.title: panel for row in grafana.ROWS.values() for panel in row}
    with tempfile.TemporaryDirectory() as made, contextlib.ExitStack() as stack:
        folder, (port, admin, watcher) = Path(made), (free_port(), free_port(), free_port())
        first, second = bundles(folder)
        words = [sys.executable, "-m", "suisen.cli.main", "serve", str(first), "--port", str(port), "--workers", "2"]
        words += [
            "--admin-port",
            str(admin),
            "--insecure",
            "true",
            "--log-dir",
            str(folder / "events"),
            "--drain-s",
            "0",
        ]
        stack.enter_context(running(words, f"http://127.0.0.1:{port}/health/ready", folder / "server.log"))
        (folder / "prometheus.yml").write_text(CONFIGURATION.format(port=port))
        for rules in ("bounds.yml", "recording.yml", "alerts.yml"):
            text = (ROOT / "deploy" / "prometheus" / rules).read_text()
            (folder / rules).write_text(re.sub(r"interval: \w+", "interval: 1s", text))
        words = [prometheus, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        words += [f"--web.listen-address=127.0.0.1:{watcher}"]
        stack.enter_context(running(words, f"http://127.0.0.1:{watcher}/-/ready", folder / "prometheus.log"))
        start = time.time()
        with Load(port) as load:
            time.sleep(0.3 * SECONDS)
            load.rate = 3 * RATE
            time.sleep(0.2 * SECONDS)
            load.rate = RATE
            change(admin, "load", {"bundle": str(second), "switch": True})
            time.sleep(0.2 * SECONDS)
            change(admin, "blocklist", {"block": [str(item) for item in range(1, 26)]})
            load.strangers = 0.4
            time.sleep(0.3 * SECONDS)
        end = time.time()
        courses: dict[str, Any] = {}
        for title in SHOWN:
            courses[title] = []
            for query, legend in panels[title].queries:
                for found in asked(watcher, query, start, end):
                    name = re.sub(r"\{\{(\w+)\}\}", lambda match, of=found: of["metric"].get(match[1], ""), legend)
                    points = [(round(at - start, 1), round(float(value), 6)) for at, value in found["values"]]
                    courses[title].append({"legend": name.strip(), "points": [p for p in points if p[1] == p[1]]})
    return {"seconds": SECONDS, "panels": courses}


def drawn(record: dict[str, Any], path: Path) -> None:
    """The picture of a record."""
    units = {panel.title: panel.unit for row in grafana.ROWS.values() for panel in row}
    made = []
    for title in SHOWN:
        by, unit = UNITS.get(units[title], (1.0, ""))
        marks = []
        courses = record["panels"][title]
        for course, (colour, dashes) in zip(courses, COURSES[: len(courses)], strict=True):
            at, values = zip(*course["points"], strict=True) if course["points"] else ((), ())
            label = re.sub(r"127\.0\.0\.1:\d+", "server", course["legend"])
            marks.append(
                Line(at, [by * value for value in values], colour=colour, label=label, dashes=dashes, dots=False)  # type: ignore[arg-type]
            )
        label = f"{title}, {unit}" if unit else title
        level = Axis(label="seconds", low=0, high=record["seconds"])
        made.append(Panel(marks=marks, x=level, y=Axis(label=label, low=0, percent=units[title] == "percentunit")))
    draw_picture(path, "Twelve panels of the dashboard while a server is loaded and its version changed", made, 3)


def main() -> int:
    """Measures and draws, or only draws, or checks."""
    made = parser(__doc__ or "")
    made.add_argument("--draw", action="store_true", help="only draw the newest record")
    made.add_argument("--check", action="store_true", help="only say whether the picture is that of the newest record")
    options = made.parse_args()
    if options.check:
        with tempfile.TemporaryDirectory() as folder:
            drawn(records(RESULTS / RECORDS)[-1], Path(folder) / "now.svg")
            same = (Path(folder) / "now.svg").read_text() == PICTURE.read_text()
        print(
            "the picture is up to date" if same else "docs/images/dashboard.svg is old: benchmarks/dashboard.py --draw"
        )
        return int(not same)
    if not options.draw:
        prometheus = shutil.which("prometheus")
        if prometheus is None:
            print("prometheus is not installed: make services", file=sys.stderr)
            return 2
        append(RECORDS, {"what": "dashboard", **measured(prometheus), **stamp()})
    drawn(records(RESULTS / RECORDS)[-1], PICTURE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
