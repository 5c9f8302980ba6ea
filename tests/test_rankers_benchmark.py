"""The benchmark of rankers: what runs, and how its records become a table."""

import json
import sys
from argparse import Namespace
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "benchmarks")]

import rankers  # noqa: E402
import report  # noqa: E402

from suisen.models import RANKERS, model_of  # noqa: E402
from tests.fitted import small_split  # noqa: E402


def line(case: str, seed: int, **more) -> dict:
    return {
        "retriever": "ease", "case": case, "seed": seed, "picked": 0.1, "alone": 0.08, "test": 0.09 + 0.02 * seed,
        "p": 0.04, "epochs": 3 + seed, "seconds": 60.0, "protocol": "leave last out", "machine": "m", "commit": "c",
        "threads": 1, **more,
    }  # fmt: skip


def test_every_case_is_a_ranker_with_its_settings():
    assert {name for name, _ in rankers.CASES.values()} <= set(RANKERS)
    for name, settings in rankers.CASES.values():
        model_of(name, **settings)


def test_what_has_a_record_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(rankers, "RESULTS", tmp_path)
    asked = Namespace(retriever="ease", ranker=["fm", "din"], seeds=[0, 1])
    assert list(rankers.wanted(asked)) == [("ease", case, seed) for case in ("fm", "din") for seed in (0, 1)]
    (tmp_path / rankers.FILE).write_text(json.dumps(line("fm", 0)) + "\n")
    assert ("ease", "fm", 0) not in list(rankers.wanted(asked))
    assert len(list(rankers.wanted(Namespace(retriever=None, ranker=None, seeds=[0])))) == 2 * len(rankers.CASES) - 1


def test_a_run_is_measured_beside_the_retriever_alone(monkeypatch):
    monkeypatch.setitem(rankers.CASES, "fm", ("fm", {"epochs": 1}))
    record = rankers.run("ease", "fm", 0, small_split(), 1)
    assert 0 < record["test"] < 1
    assert record["epochs"] == record["ran"] == 1
    assert record["interval"][0] <= record["test"] - record["alone"] <= record["interval"][1]
    json.dumps(record)


def test_the_table_holds_means_over_the_seeds_the_best_on_valid_first():
    lines = [line("fm", 0), line("din", 0, picked=0.2), line("fm", 1), line("fm", 1, test=0.13)]
    rows = [row for row in report.rankers(lines).splitlines() if row.startswith("| ease")]
    assert [row.split(" | ")[0] for row in rows] == ["| ease + din", "| ease + fm"]
    assert "| 2 | 0.1000 | 0.0800 | 0.1100 | +38% |" in rows[1]
    assert report.rankers([]) == ""
