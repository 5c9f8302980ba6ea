"""benchmarks/request_cost.py at a size that takes a second, and its table."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks")]

import common  # noqa: E402
import report  # noqa: E402
import request_cost  # noqa: E402

from suisen.recommending.answering import answer  # noqa: E402


def test_a_run_leaves_a_line_per_size_case_and_round(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    assert request_cost.main(["--sizes", "1200", "2400", "--rounds", "2", "--requests", "2"]) == 0
    lines = common.records(tmp_path / request_cost.FILE)
    assert len({(line["users"], line["case"], line["round"]) for line in lines}) == len(lines) == 8
    assert all(line["table_bytes_per_id"] == pytest.approx(12, abs=0.1) for line in lines)
    text = report.request_cost(lines)
    assert "| 1,200 |" in text and "| 2,400 |" in text and "| largest / smallest |" in text  # noqa: PT018


@pytest.mark.parametrize("case", request_cost.CASES)
def test_requests_are_answered_by_the_model_among_what_is_left(case):
    rng = np.random.default_rng(0)
    store = request_cost.store_of(2_000, rng)
    queries, options = request_cost.request_of(store, case, rng)
    answers = answer(request_cost.system_of(store, case), queries, options)
    assert answers.by == ["model"]
    found = set(store.items.raw(answers.items[answers.items > 0].numpy()))
    assert len(found) == (request_cost.K if case == "popularity" else 1)
    if options.among is not None:
        assert found <= set(options.among) - set(options.exclude) - set(queries.history[0])


@pytest.mark.parametrize(("largest", "said"), [(1.4, "1.40x (1.00x), reached"), (1.6, "1.60x (1.00x), **missed**")])
def test_the_target_is_judged_by_the_medians_of_the_newest_run(largest, said):
    place = {"machine": "a machine", "commit": "abc", "threads": 1, "table_bytes_per_id": 8, "text_bytes_per_id": 16}
    place |= {"table_seconds": 1.0, "ms_cpu": 1.0, "params": {"history": 1, "excluded": 2, "among": 3, "k": 4}}
    lines = [
        {**place, "case": "popularity", "users": users, "ms_wall": ms, "run": run}
        for run, users, ms in (("1", 10, 1), ("1", 20, 9), ("2", 10, 1), ("2", 10, 1), ("2", 10, 9), ("2", 20, largest))
    ]
    assert said in report.request_cost(lines)
    assert report.request_cost([]) == ""
