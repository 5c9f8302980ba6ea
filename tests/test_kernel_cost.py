"""benchmarks/kernel_cost.py at a size that takes a second."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks")]

import common  # noqa: E402
import kernel_cost  # noqa: E402

from suisen.recommending.kernels import paths_here  # noqa: E402


def test_a_run_leaves_a_line_per_path_number_of_queries_and_round(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    words = ["--items", "700", "--dim", "8", "--calls", "2", "--rounds", "2", "--no-first"]
    assert kernel_cost.main(words) == 0
    lines = common.records(tmp_path / kernel_cost.FILE)
    assert {line["path"] for line in lines} == {*paths_here(), "exact"}
    keys = {(line["path"], line["side"], line["together"], line["round"]) for line in lines}
    compiled = len(paths_here()) - 1
    assert len(keys) == len(lines) == 2 * 3 * (compiled * (2 + len(kernel_cost.SPEEDS)) + 2)
    assert all(line["us_cpu"] > 0 and line["load"] >= 0 for line in lines)
    assert all(line["agreement"]["queries"] == 200 for line in lines)
