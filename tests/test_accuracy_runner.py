"""benchmarks/accuracy.py: rows are read from both folders, and a row without a floor runs."""

import sys
from argparse import Namespace
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import accuracy  # noqa: E402
import common  # noqa: E402

import suisen as su  # noqa: E402
from suisen.data.splits import LeaveLast  # noqa: E402
from suisen.models import model_of  # noqa: E402


def test_every_row_names_a_model_its_settings_and_data_that_can_be_loaded():
    rows = accuracy.rows(None, None, "all")
    assert len(rows) == len(accuracy.rows(None, None)) + len(accuracy.rows(None, None, "textbook"))
    for row in rows:
        model_of(row.model, **row.settings)
        assert row.data in accuracy.DATA
        assert row.picks in row.metrics
    keys = [(row.name or row.model, row.data) for row in rows]
    assert len(set(keys)) == len(keys)


def test_the_textbooks_rows_have_names_of_their_own_and_no_floor():
    rows = accuracy.rows(None, None, "textbook")
    assert {row.model for row in rows} == {"gmf", "mlp", "neumf", "deepfm", "two-tower", "gru4rec", "sasrec"}
    assert all(row.name.startswith(f"{row.model}, textbook") for row in rows)
    assert not any(row.floor for row in rows)


@pytest.mark.parametrize(("floor", "reached"), [({}, True), ({"hr@5": 0.0}, True), ({"hr@5": 1.1}, False)])
def test_a_run_is_recorded_with_what_it_measured(tmp_path, monkeypatch, capsys, floor, reached):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    data = su.Dataset.of(su.World(users=40, items=30, sessions=4, seed=3).generate().log)
    split = LeaveLast(test=1, valid=0).split(data)
    tiny = accuracy.Data(lambda folder, seed: split, lambda train, seed: split, "a part")
    monkeypatch.setitem(accuracy.DATA, "tiny", tiny)
    row = accuracy.Row("gmf", "tiny", floor, name="gmf, small", also=("hr@5",), settings={"dim": 4, "epochs": 2})
    assert accuracy.run(row, 0, Namespace(data_dir=tmp_path, threads=1, purpose="trial")) is reached
    (line,) = common.records(tmp_path / "accuracy.jsonl")
    assert line["row"] == "gmf, small"
    assert list(line["metrics"]) == ["hr@5"]
    assert line["picked_on"] == "validation hr@5: a part"
    said = capsys.readouterr().out
    assert ("(no floor)" in said) is (not floor)
    assert ("MISSED" in said) is (not reached)
