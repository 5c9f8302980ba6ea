"""docs/serving.md: its table of metrics is made from their definitions."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import metrics_page  # noqa: E402


def test_the_table_is_what_the_code_says():
    text = metrics_page.PAGE.read_text(encoding="utf-8")
    assert metrics_page.filled(text) == text, "run: python tools/metrics_page.py"
