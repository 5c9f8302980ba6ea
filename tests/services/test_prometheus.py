"""A real Prometheus scrapes a loaded server of two workers: every rule is evaluated, every panel shows something."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from tests.fitted import fitted
from tests.services.programs import free_port, program, started

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
sys.path.append(str(ROOT / "tools"))
import grafana  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="several workers need Linux")
LOADED_S = 45.0
"""Most seconds until the slowest, the probes of live lists, have something to tell."""
CONFIGURATION = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [bounds.yml, recording.yml, alerts.yml]
scrape_configs: [{{job_name: suisen, static_configs: [{{targets: ["{target}"]}}]}}]
"""


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port):
        self.url = f"http://127.0.0.1:{port}/api/v1"

    def get(self, path, **query):
        with urllib.request.urlopen(f"{self.url}/{path}?{urllib.parse.urlencode(query)}", timeout=10) as reply:
            found = json.load(reply)
        assert found["status"] == "success"
        return found["data"]

    def ask(self, query):
        return self.get("query", query=query)["result"]

    def told(self, query):
        """Whether it knows something; not while it starts."""
        try:
            return bool(self.ask(query))
        except urllib.error.HTTPError:
            return False


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    fitted("ials").save(folder)
    return folder


def load(url, over):
    """What clients do: known and unknown users, popular lists, given items, events, mistakes."""

    def send(path, message=None):
        body = None if message is None else json.dumps(message).encode()
        request = urllib.request.Request(url + path, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as reply:
                reply.read()
        except urllib.error.HTTPError as error:
            error.read()

    turn = 0
    while not over.is_set():
        turn += 1
        send(f"/v1/recommend/u{1 + turn % 14:04}")
        send("/v1/recommend", {"queries": [{"user_id": "u0002"}, {"user_id": "a stranger"}, {}]})
        send("/v1/recommend", {"queries": [{"user_id": "u0003"}], "diversity": 0.5})
        send("/v1/rank", {"queries": [{"user_id": "u0003", "items": ["i001", "i002"]}]})
        send("/v1/recommend/u0001?k=0")
        send("/v1/events", {"events": [{"user_id": "u0001", "item_id": f"i00{turn % 9}", "event": "view"}]})
        send("/v1/events", {"events": [{"user_id": "u0001", "item_id": "new", "event": "view"}]})
        time.sleep(0.05)


@pytest.fixture(scope="module")
def scraped(place, tmp_path_factory):
    """(Prometheus that scraped a server under load, seconds until it had all)."""
    from tests.serving.test_workers import served

    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    prometheus = program("prometheus")
    with served(place, impressions=True) as server:
        over = threading.Event()
        clients = [threading.Thread(target=load, args=(server.says, over)) for _ in range(4)]
        for client in clients:
            client.start()
        try:
            target = server.says.removeprefix("http://")
            (folder / "prometheus.yml").write_text(CONFIGURATION.format(target=target))
            for rules in ("bounds.yml", "recording.yml", "alerts.yml"):
                often = re.sub(r"interval: \w+", "interval: 1s", (FOLDER / rules).read_text())
                (folder / rules).write_text(often)
            words = [prometheus, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
            with started([*words, f"--web.listen-address=127.0.0.1:{port}"], port, folder / "prometheus.log"):
                found = Prometheus(port)
                until = time.monotonic() + LOADED_S
                while time.monotonic() < until and not found.told("suisen:probe_overlap:ratio_rate1h >= 0"):
                    time.sleep(1)
                time.sleep(3)
                yield found
        finally:
            over.set()
            for client in clients:
                client.join()


def panels():
    return [pytest.param(panel, id=f"{row}: {panel.title}") for row, its in grafana.ROWS.items() for panel in its]


@pytest.mark.parametrize("panel", panels())
def test_every_panel_shows_something(scraped, panel):
    for query, legend in panel.queries:
        asked = query.replace("$__rate_interval", "1m").replace("$job", ".*").replace("$instance", ".*")
        found = scraped.ask(asked)
        if panel.needs in ("", "--workers"):
            values = [sample["value"][1] for sample in found]
            assert values, f"{asked}: nothing"
            assert "NaN" not in values or len(set(values)) > 1, f"{asked}: {values}"
            label = legend.partition("{{")[2].partition("}}")[0]
            if label not in ("", "alertname"):
                assert any(label in sample["metric"] for sample in found), f"{asked}: no {label}"


def test_every_rule_is_evaluated(scraped):
    rules = [rule for group in scraped.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 60
    assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
    absent = {"suisen:degraded:ratio_rate5m"}  # no store is on
    for rule in rules:
        if rule["type"] == "recording" and rule["name"] not in absent:
            assert scraped.ask(rule["name"]), rule["name"]


def test_a_healthy_server_fires_nothing(scraped):
    firing = {one["metric"]["alertname"] for one in scraped.ask('ALERTS{alertstate="firing"}')}
    assert firing <= {"SuisenAgreementLow", "SuisenLatencyFast"}, firing  # a small bundle; a busy machine


def test_live_lists_are_told_to_be_the_precise_ones(scraped):
    (found,) = scraped.ask("suisen:probe_overlap:ratio_rate1h")
    assert float(found["value"][1]) > 0.9
    shares = [float(one["value"][1]) for one in scraped.ask("suisen:scores:ratio_rate1h")]
    assert len(shares) == 10
    assert sum(shares) == pytest.approx(1)


def test_the_dashboard_is_what_the_tool_writes():
    written = json.loads(grafana.PAGE.read_text())
    assert written == json.loads(json.dumps(grafana.dashboard()))
    ids = [panel["id"] for panel in written["panels"]]
    assert len(ids) == len(set(ids))
    places = [tuple(panel["gridPos"].values()) for panel in written["panels"]]
    cells = [(x + dx, y + dy) for h, w, x, y in places for dx in range(w) for dy in range(h)]
    assert len(cells) == len(set(cells)), "panels lie over each other"
    for panel in written["panels"]:
        if "Empty without" in panel.get("description", ""):
            assert any(p.needs and p.needs in panel["description"] for row in grafana.ROWS.values() for p in row)
