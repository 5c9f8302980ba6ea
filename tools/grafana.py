"""Writes deploy/grafana/suisen.json, the dashboard of Grafana 10 and 11, from the panels below.

python tools/grafana.py           # writes the file
python tools/grafana.py --check   # only says whether it is up to date

A panel is its title, what it asks Prometheus for, and its unit.  ``tests/services/test_prometheus.py`` runs every query
against a real Prometheus that scraped a loaded server; what is only there with an option says which (``needs``).
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "deploy" / "grafana" / "suisen.json"
WIDTH, HEIGHT, PER_ROW = 24, 8, 3
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
JOB = 'job=~"$job"'
HERE = f'{JOB}, instance=~"$instance"'
RANGE = "$__rate_interval"


@dataclass(frozen=True)
class Panel:
    """One picture."""

    title: str
    queries: tuple[tuple[str, str], ...]
    """PromQL and the legend of its lines, ``{{label}}`` for a label's value."""
    unit: str = "short"
    """Grafana's name of it: s, bytes, percentunit, reqps, short."""
    kind: str = "timeseries"
    """``timeseries``, ``stat`` or ``table``."""
    needs: str = ""
    """The option without which it is empty."""
    about: str = ""


def rate(metric: str, by: str, where: str = HERE) -> str:
    """A counter per second, by labels."""
    return f"sum by ({by}) (rate({metric}{{{where}}}[{RANGE}]))"


def quantile(q: float, metric: str, by: str = "", where: str = HERE) -> str:
    """A quantile of a histogram, by labels."""
    labels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{{{where}}}[{RANGE}])))"


def quantiles(metric: str, where: str = HERE) -> tuple[tuple[str, str], ...]:
    """The middle, the slowest of ten, of a hundred."""
    return tuple((quantile(q, metric, where=where), f"p{100 * q:g}") for q in (0.5, 0.9, 0.99))


def bound(name: str) -> tuple[str, str]:
    """A line at what is still good."""
    return f'suisen:bound{{of="{name}"}}', "bound"


ONE = f'{HERE}, route!="/v1/recommend/batch"'
ROWS: dict[str, tuple[Panel, ...]] = {
    "Traffic": (
        Panel("Requests", ((rate("suisen_requests_total", "route"), "{{route}}"),), "reqps"),
        Panel("Replies", ((rate("suisen_requests_total", "status"), "{{status}}"),), "reqps"),
        Panel("Lists by what answered", ((rate("suisen_answers_total", "answered_by"), "{{answered_by}}"),), "reqps"),
        Panel(
            "Error budget, how many times too fast",
            tuple(
                (f'suisen:requests_failed:ratio_rate{w}{{{JOB}}} / (1 - scalar(suisen:bound{{of="availability"}}))', w)
                for w in ("5m", "1h", "6h")
            ),
            about="1 burns a month's budget in a month; 14.4 pages.",
        ),
        Panel("Events", (
            (f"sum(rate(suisen_events_written_total{{{HERE}}}[{RANGE}]))", "written"),
            (f"sum(rate(suisen_events_unknown_items_total{{{HERE}}}[{RANGE}]))", "of unknown items"),
        ), "reqps"),
        Panel("Connections", (
            (f"sum by (instance) (suisen_connections{{{HERE}}})", "{{instance}}"),
            (f"sum by (instance) (suisen_requests_in_flight{{{HERE}}})", "in flight, {{instance}}"),
        )),
    ),
    "Latency": (
        Panel("Requests of one caller", quantiles("suisen_request_seconds", ONE), "s"),
        Panel("By route, p99", ((quantile(0.99, "suisen_request_seconds", "route"), "{{route}}"),), "s"),
        Panel(
            "Slower than 100 ms",
            tuple((f"suisen:requests_slow:ratio_rate{w}{{{JOB}}}", w) for w in ("5m", "1h")),
            "percentunit",
        ),
        Panel("Stages, p50", ((quantile(0.5, "suisen_stage_seconds", "stage"), "{{stage}}"),), "s"),
        Panel("Stages, p99", ((quantile(0.99, "suisen_stage_seconds", "stage"), "{{stage}}"),), "s"),
        Panel(
            "Where the time goes",
            ((f"sum by (stage) (rate(suisen_stage_seconds_sum{{{HERE}}}[{RANGE}]))", "{{stage}}"),),
            about="Seconds of each stage per second; of encode a sixteenth.",
        ),
    ),
    "Queue": (
        Panel("Wait", (*quantiles("suisen_queue_wait_seconds"), bound("queue_wait")), "s"),
        Panel("Queries per call", (
            *quantiles("suisen_batch_rows"),
            (f"{rate('suisen_batch_rows_sum', 'job')} / {rate('suisen_batch_rows_count', 'job')}", "mean, {{job}}"),
        )),
        Panel("Jobs that wait", ((f"sum by (lane) (suisen_queue_length{{{HERE}}})", "{{lane}}"),)),
        Panel("Refused", ((rate("suisen_refused_total", "reason"), "{{reason}}"),), "reqps"),
    ),
    "Versions": (
        Panel("Queries by version", ((rate("suisen_queries_total", "version"), "{{version}}"),), "reqps"),
        Panel("What answers", ((f"suisen_bundle_info{{{HERE}}}", "{{version}} {{model}}"),), kind="table"),
        Panel("Age of the bundle", ((f"suisen_bundle_age_seconds{{{HERE}}}", "since {{since}}, {{instance}}"),), "s"),
        Panel("Swaps", ((f"sum by (outcome) (increase(suisen_swaps_total{{{HERE}}}[1h]))", "{{outcome}}"),)),
        Panel("Items blocked", ((f"max by (instance) (suisen_blocked_items{{{HERE}}})", "{{instance}}"),)),
        Panel("Ready", ((f"suisen_ready{{{HERE}}}", "{{instance}}"),), kind="stat"),
    ),
    "Users": (
        Panel("Query vectors that were kept", ((f"suisen:kept_rows:ratio_rate5m{{{JOB}}}", "{{job}}"),), "percentunit"),
        Panel("Users held", (
            (f"sum(suisen_rows{{{HERE}}})", "vectors"),
            (f"max(suisen_users_with_events{{{HERE}}})", "with events"),
        )),
        Panel("Their memory", (
            (f"sum(suisen_rows_bytes{{{HERE}}})", "vectors"),
            (f"sum(suisen_users_bytes{{{HERE}}})", "events"),
        ), "bytes"),
        Panel("Store: requests", (
            (rate("suisen_store_requests_total", "store, outcome"), "{{store}} {{outcome}}"),
        ), "reqps", needs="--users"),
        Panel("Store: time", quantiles("suisen_store_seconds"), "s", needs="--users"),
        Panel("Store: breaker, degraded lists", (
            (f"max by (store) (suisen_breaker_open{{{HERE}}})", "{{store}} open"),
            (f"suisen:degraded:ratio_rate5m{{{JOB}}}", "lists without {{what}}"),
        ), needs="--users"),
    ),
    "Logs and broker": (
        Panel("Lists in the impression log", (
            (f"sum(rate(suisen_impressions_written_total{{{HERE}}}[{RANGE}]))", "written"),
            (f"sum(rate(suisen_impressions_lost_total{{{HERE}}}[{RANGE}]))", "lost"),
        ), "reqps"),
        Panel("Failed writes", ((f"sum by (log) (increase(suisen_log_failures_total{{{HERE}}}[5m]))", "{{log}}"),)),
        Panel("Broker: waits on disk", (
            (f"max by (instance) (suisen_broker_spool_bytes{{{HERE}}})", "{{instance}}"), bound("spool_bytes"),
        ), "bytes"),
        Panel("Broker: behind", (
            (f"max by (instance) (suisen_broker_lag_seconds{{{HERE}}})", "{{instance}}"), bound("broker_lag"),
        ), "s"),
        Panel("Broker: delivered", (
            (rate("suisen_broker_delivered_total", "topic"), "{{topic}}"),
        ), "reqps", needs="--log kafka://"),
    ),
    "Recall and drift": (
        Panel("Live beside precise lists, an hour", (
            (f"suisen:probe_overlap:ratio_rate1h{{{JOB}}}", "items of the first ten"),
            (f"suisen:probe_identical:ratio_rate1h{{{JOB}}}", "identical first tens"),
            bound("probe_overlap"),
        ), "percentunit"),
        Panel("Probes in an hour", (
            (f"suisen:probes:increase1h{{{JOB}}}", "compared"),
            (f"sum(increase(suisen_probe_failures_total{{{HERE}}}[1h]))", "not compared"),
        )),
        Panel("When it was saved", ((f"suisen_plan_agreement{{{HERE}, figure=~\"identical|overlap\"}}", "{{figure}}"),),
              "percentunit"),
        Panel("Score drift (population stability index)", (
            (f"suisen:score_drift:psi1h{{{JOB}}}", "{{job}}"), bound("score_psi"),
        )),
        Panel("Live scores by tenth of the bundle's own", (
            (f"suisen:scores:ratio_rate1h{{{JOB}}}", "{{tenth}}"),
        ), "percentunit"),
        Panel("Unknown", (
            (f"suisen:unknown_users:ratio_rate1h{{{JOB}}}", "users"),
            (f"suisen:unknown_items:ratio_rate1h{{{JOB}}}", "items of events"),
            (f"suisen:popular_answers:ratio_rate1h{{{JOB}}}", "popular lists"),
        ), "percentunit"),
    ),
    "Processes": (
        Panel("Processor", ((f"sum by (instance, worker) (rate(process_cpu_seconds_total{{{HERE}}}[{RANGE}]))",
                             "{{instance}} {{worker}}"),)),
        Panel("Memory", ((f"process_resident_memory_bytes{{{HERE}}}", "{{instance}} {{worker}}"),), "bytes"),
        Panel("Open files", ((f"process_open_fds{{{HERE}}}", "{{instance}} {{worker}}"),)),
        Panel("Requests by worker", ((rate("suisen_worker_requests_total", "instance, worker"),
                                      "{{instance}} {{worker}}"),), "reqps", needs="--workers"),
        Panel("Workers started again", ((f"sum by (instance) (increase(suisen_worker_restarts_total{{{HERE}}}[15m]))",
                                         "{{instance}}"),), needs="--workers"),
        Panel("Alerts", (('count by (alertname) (ALERTS{alertname=~"Suisen.+", alertstate="firing"}) or vector(0)',
                          "{{alertname}}"),), kind="stat"),
    ),
}  # fmt: skip


def drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    """A panel as Grafana has it."""
    about = " ".join(part for part in (panel.about, f"Empty without {panel.needs}." if panel.needs else "") if part)
    table = panel.kind == "table"
    targets = [
        {
            "datasource": SOURCE, "refId": chr(65 + at), "expr": query, "legendFormat": legend,
            **({"format": "table", "instant": True} if table else {}),
        }
        for at, (query, legend) in enumerate(panel.queries)
    ]  # fmt: skip
    return {
        "id": number, "type": panel.kind, "title": panel.title, "description": about, "datasource": SOURCE,
        "gridPos": place, "targets": targets,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {} if table else {"legend": {"showLegend": True, "displayMode": "list", "placement": "bottom"}},
    }  # fmt: skip


def panels() -> list[dict[str, Any]]:
    """All rows with their panels, three beside each other."""
    found: list[dict[str, Any]] = []
    y = 0
    width = WIDTH // PER_ROW
    for title, row in ROWS.items():
        place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
        found.append(
            {"id": len(found) + 1, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}
        )
        y += 1
        for at, panel in enumerate(row):
            place = {"h": HEIGHT, "w": width, "x": at % PER_ROW * width, "y": y + at // PER_ROW * HEIGHT}
            found.append(drawn(panel, len(found) + 1, place))
        y += -(-len(row) // PER_ROW) * HEIGHT
    return found


def variable(name: str, query: str) -> dict[str, Any]:
    """A choice at the top of the page."""
    return {
        "name": name, "label": name, "type": "query", "datasource": SOURCE, "query": {"query": query, "refId": name},
        "definition": query, "includeAll": True, "multi": True, "refresh": 2, "sort": 1,
        "current": {"text": ["All"], "value": ["$__all"]}, "options": [],
    }  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The whole file."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "current": {}}
    choices = [
        variable("job", "label_values(suisen_ready, job)"),
        variable("instance", 'label_values(suisen_ready{job=~"$job"}, instance)'),
    ]
    return {
        "uid": "suisen", "title": "Suisen", "tags": ["suisen"], "schemaVersion": 38, "version": 1, "editable": True,
        "graphTooltip": 1, "refresh": "30s", "time": {"from": "now-3h", "to": "now"}, "timezone": "",
        "templating": {"list": [source, *choices]}, "annotations": {"list": []}, "panels": panels(),
    }  # fmt: skip


def main() -> int:
    """Writes or checks the file; the exit status says whether it was up to date."""
    wanted = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" not in sys.argv:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(wanted, encoding="utf-8")
        return 0
    same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == wanted
    print("the dashboard is up to date" if same else "deploy/grafana/suisen.json is old: python tools/grafana.py")
    return int(not same)


if __name__ == "__main__":
    sys.exit(main())
