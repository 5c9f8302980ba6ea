"""docs/two-stage.md: its figures come from the declared features and from records."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import two_stage_page  # noqa: E402
from common import RESULTS  # noqa: E402
from figures import filled  # noqa: E402

from suisen.recommending.pairs.declared import FEATURES  # noqa: E402

PLACE = {"machine": "a machine", "commit": "abc", "threads": 1}
PAIRS = {
    "what": "pairs", "data": "ml-100k", "retriever": "ease", "seed": 0, "alone": {"ndcg@10": 0.0735},
    "without": {"metrics": {"ndcg@10": 0.08}}, "with": {"metrics": {"ndcg@10": 0.1}}, "protocol": "leave last out",
    "difference": [0.02, 0.01, 0.03], "p": 0.0012, **PLACE,
}  # fmt: skip


def write(folder, *lines):
    (folder / "two_stage.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_the_page_is_what_features_and_records_say():
    text = two_stage_page.PAGE.read_text(encoding="utf-8")
    assert filled(text, two_stage_page.FIGURES, RESULTS) == text


def test_without_records_nothing_is_a_number(tmp_path):
    assert two_stage_page.gain(tmp_path) == "*Not measured yet: `python benchmarks/two_stage.py pairs`.*"
    text = two_stage_page.features(tmp_path)
    assert "Not measured yet" in text
    assert all(f"| `{feature.name}` |" in text for feature in FEATURES)


def test_costs_are_those_of_the_last_record(tmp_path):
    names = [*(feature.name for feature in FEATURES), "all", "one list"]
    line = {"what": "cost", "events": 1000, "items": 50, "contexts": 8, "candidates": 100, "history": 7.2, **PLACE}
    old, new = ({**line, "us_per_pair": dict.fromkeys(names, value)} for value in (9.0, 0.25))
    write(tmp_path, old, new)
    text = two_stage_page.features(tmp_path)
    assert text.count("| 0.250 |") == len(FEATURES)
    assert "0.25 µs (0.03 ms) for one list alone: 1,000 events, 50 items, 7 items of history" in text
    assert "9.0" not in text


def test_gains_are_those_of_the_last_record_of_each_run(tmp_path):
    write(tmp_path, {**PAIRS, "p": 0.9}, {**PAIRS, "seed": 1, "p": 1e-7}, PAIRS)
    text = two_stage_page.gain(tmp_path)
    assert "| ease | 0 | 0.0735 | 0.0800 | 0.1000 | +0.0200 [+0.0100, +0.0300] | 0.001 |" in text
    assert text.count("| ease |") == 2
    assert text.count("| < 0.001 |") == 1
    assert "0.900" not in text
