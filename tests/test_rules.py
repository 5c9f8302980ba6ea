"""The alerts, their tests, their pages and their bounds name each other; ``tests/services`` runs them by promtool."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "deploy" / "prometheus"
ALERTS = (FOLDER / "alerts.yml").read_text()
NAMES = re.findall(r"alert: (\w+)", ALERTS)
RULES = {path.stem: path.read_text() for path in FOLDER.glob("*.yml")}
TESTS = "\n".join(path.read_text() for path in sorted((FOLDER / "tests").glob("*.yml")))
CHECK = re.compile(r'ALERTS\{alertname="(\w+)", alertstate="firing"\}\)\', eval_time: (\w+), exp_samples: \[(.*)\]')


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_is_shown_to_fire_and_to_be_silent(name):
    cases = [case for case in TESTS.split("  - name: ")[1:] if case.split("\n")[0] == name]
    checks = [[bool(found) for one, _, found in CHECK.findall(case) if one == name] for case in cases]
    assert any(True in one and False in one for one in checks), "no test in which it fires, and not before"
    if name != "SuisenBoundsMissing":
        assert any(True in one and one[-1] is False for one in checks), "no test in which it ends"
    if name not in ("SuisenDown", "SuisenAbsent", "SuisenNotReady", "SuisenBreakerOpen"):  # no number to be just below
        assert any(True not in one for one in checks), "no test in which it is silent throughout"


def test_no_test_is_of_an_alert_that_is_gone():
    assert {name for name, _, _ in CHECK.findall(TESTS)} == set(NAMES)
    assert len(NAMES) == len(set(NAMES))


def test_each_alert_has_a_page_that_it_links_to():
    headings = re.findall(r"^### (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(NAMES)
    links = re.findall(r'runbook: "docs/runbook.md#(\w+)"', ALERTS)
    assert links == [name.lower() for name in NAMES]


def test_what_is_silenced_exists():
    silenced = re.findall(r"Suisen(?:\w|\(|\||\))+", RULES["alertmanager"])
    for one in silenced:
        assert any(re.fullmatch(one, name) for name in NAMES), one


def test_each_bound_is_there_and_used():
    made = re.findall(r"labels: \{of: (\w+)\}", RULES["bounds"])
    assert set(made) == set(re.findall(r'suisen:bound\{of="(\w+)"\}', ALERTS))
    assert len(made) == len(set(made))


def test_rules_read_metrics_that_exist():
    from suisen.serving.metrics import _by_worker
    from suisen.serving.telemetry import Telemetry

    known = {metric.name for metric in _by_worker([{}])}
    for one in Telemetry().definitions.values():
        endings = ("_bucket", "_count", "_sum") if one.kind == "histogram" else ("",)
        known |= {one.shown + ending for ending in endings}
    records = re.findall(r"record: (\S+)", RULES["recording"])
    for text in (RULES["recording"], ALERTS):
        assert set(re.findall(r"\bsuisen_\w+", text)) <= known
        assert set(re.findall(r"\bsuisen:\w+:\w+", text)) <= set(records)


def test_alerts_pick_outcomes_that_are_counted():
    """An alert on a word that nobody counts by would never fire."""
    from suisen.serving.telemetry import Telemetry

    control = (ROOT / "src" / "suisen" / "serving" / "control.py").read_text()
    counted = set(re.findall(r'swaps\.labels\("(\w+)"\)', control)) | set(
        re.findall(r'_serve\(change, "(\w+)"', control)
    )
    text = Telemetry().render().decode()
    assert set(re.findall(r'suisen_swaps_total\{outcome="(\w+)"\}', text)) == counted  # there before the first happens
    assert set(re.findall(r'suisen_swaps_total\{outcome="(\w+)"\}', ALERTS)) <= counted
