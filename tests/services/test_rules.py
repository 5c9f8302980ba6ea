"""promtool on what the server says and on the rules: names, syntax, and each alert firing, silent and over."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from suisen.serving.counts import Count, Histogram
from suisen.serving.metrics import key_of
from suisen.serving.settings import Settings
from tests.fitted import fitted
from tests.services.programs import program
from tests.serving.client import Client

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"


def promtool(*words, given=None):
    done = subprocess.run([program("promtool"), *map(str, words)], input=given, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()[-4000:]
    return (done.stdout + done.stderr).decode()


def test_the_names_of_all_metrics_keep_the_rules(tmp_path):
    with Client(lambda: fitted("ease").system, Settings(deadline_s=60, log_dir=tmp_path, impressions=True)) as client:
        client.post("/v1/recommend", {"queries": [{"user_id": "u0001"}, {"user_id": "nobody"}, {}]})
        client.post("/v1/events", {"events": [{"user_id": 1, "item_id": 2, "event": "view"}]})
        everything(client.app.service.telemetry)
        text = client.get("/metrics").body
    assert promtool("check", "metrics", given=text) == ""


def everything(telemetry):
    """A child of each metric, so that none is missing in the text."""
    for one in telemetry.definitions.values():
        key = key_of(one.kind, one.name, *["x"] * len(one.labels))
        if one.kind == "histogram":
            Histogram(telemetry._counts, key, one.bounds)
        elif one.kind != "info":
            Count(telemetry._counts, key)
    telemetry.slots.info({"version": "v1", "state": "serving"})


def test_the_configuration_and_the_rules_are_read():
    said = promtool("check", "config", FOLDER / "prometheus.yml")
    assert "3 rule files found" in said
    assert said.count("SUCCESS") == 5


def test_the_routes_of_alerts_are_read():
    words = [program("amtool"), "check-config", str(FOLDER / "alertmanager.yml")]
    done = subprocess.run(words, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@pytest.mark.parametrize("path", sorted((FOLDER / "tests").glob("*.yml")), ids=lambda path: path.stem)
def test_alerts_fire_and_end_as_they_should(path):
    assert "SUCCESS" in promtool("test", "rules", path)
