"""benchmarks/accuracy.py: rows are read from both folders, run, resumed where they were cut off, and recorded."""

import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tools")]

import accuracy  # noqa: E402
import common  # noqa: E402
import smoke  # noqa: E402

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


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A small data set called tiny; results and checkpoints go to a folder of the test's own."""
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(accuracy, "CHECKPOINTS", tmp_path / "checkpoints")
    data = su.Dataset.of(su.World(users=40, items=30, sessions=4, seed=3).generate().log)
    split = LeaveLast(test=1, valid=0).split(data)
    monkeypatch.setitem(accuracy.DATA, "tiny", accuracy.Data(lambda *a: split, lambda train, seed: split, "a part"))
    return Namespace(data_dir=tmp_path, threads=1, purpose="trial", model=None, data=None, rows="accuracy", seeds=[0])


def lines(tmp_path):
    return common.records(tmp_path / "accuracy.jsonl")


@pytest.mark.parametrize(("floor", "reached"), [({}, True), ({"hr@5": 0.0}, True), ({"hr@5": 1.1}, False)])
def test_a_run_is_recorded_with_what_it_measured(tmp_path, tiny, capsys, floor, reached):
    row = accuracy.Row("gmf", "tiny", floor, name="gmf, small", also=("hr@5",), settings={"dim": 4, "epochs": 2})
    assert accuracy.run(row, 0, tiny) is reached
    (line,) = lines(tmp_path)
    assert line["row"] == "gmf, small"
    assert list(line["metrics"]) == ["hr@5"]
    assert line["picked_on"] == "validation hr@5: a part"
    said = capsys.readouterr().out
    assert ("(no floor)" in said) is (not floor)
    assert ("MISSED" in said) is (not reached)


@pytest.mark.parametrize("cut", [2, 5])
def test_a_run_that_was_cut_off_goes_on_and_ends_like_one_that_was_not(tmp_path, tiny, monkeypatch, cut):
    row = accuracy.Row("gmf", "tiny", also=("hr@5",), patience=9, settings={"dim": 4, "epochs": 4})
    accuracy.run(row, 0, tiny)
    ended, seen = accuracy.Clock.on_epoch, []

    def cut_off(self, epoch):
        ended(self, epoch)
        seen.append(epoch.epoch)
        if len(seen) == cut:
            raise KeyboardInterrupt

    monkeypatch.setattr(accuracy.su, "RunOptions", partial(accuracy.su.RunOptions, checkpoint_seconds=0))
    monkeypatch.setattr(accuracy.Clock, "on_epoch", cut_off)
    with pytest.raises(KeyboardInterrupt):
        accuracy.run(row, 0, tiny)
    accuracy.run(row, 0, tiny)
    whole, resumed = lines(tmp_path)
    assert resumed["metrics"] == whole["metrics"]
    assert resumed["epochs"] == whole["epochs"]
    assert len(seen) == 4 + whole["epochs"] + 1  # the end of the epoch that was cut off is told again, no other
    assert not any((tmp_path / "checkpoints").iterdir())


def test_two_towers_rows_are_run_by_the_models_name(tiny, monkeypatch):
    ran = []
    monkeypatch.setattr(accuracy, "run", lambda row, seed, options: ran.append(row.name or row.model) or True)
    for part, reached in (("warm", True), ("cold", False)):
        keep = lambda options, part=part, reached=reached: ran.append((part, options.seed)) or reached  # noqa: E731
        monkeypatch.setattr(accuracy.two_tower, part, keep)
    for words, code, what in (
        (["--model", "two-tower"], 1, [("warm", 0), ("cold", 0)]),
        (["--model", "two-tower", "--rows", "textbook"], 0, ["two-tower, textbook"]),
        (["--data", "gowalla"], 0, ["lightgcn"]),
        (["--model", "two-tower", "--data", "frappe"], 2, []),
    ):
        monkeypatch.setattr(sys, "argv", ["accuracy.py", *words])
        ran.clear()
        assert accuracy.main() == code
        assert ran == what


def test_bfloat16_is_left_out_where_it_is_emulated(tmp_path, tiny, monkeypatch):
    row = accuracy.Row("gmf", "tiny", also=("hr@5",), epochs=(1,), precision="bf16", settings={"dim": 4})
    for emulated in (True, False):
        monkeypatch.setattr(accuracy, "emulates_bf16", lambda device, emulated=emulated: emulated)
        monkeypatch.setattr("suisen.training.options.emulates_bf16", lambda device, emulated=emulated: emulated)
        accuracy.run(row, 0, tiny)
    assert [line["precision"] for line in lines(tmp_path)] == ["fp32", "bf16"]


def test_smoke_runs_rows_of_the_table_and_picks_eases_l2(tiny, monkeypatch):
    ran = []
    monkeypatch.setattr(accuracy, "run", lambda row, seed, options: ran.append(row) or row.model != "sasrec")
    monkeypatch.setattr(smoke, "picked_l2", lambda options: 7.0)
    monkeypatch.setattr(sys, "argv", ["smoke.py"])
    assert smoke.main() == 1
    assert [(row.model, row.data) for row in ran] == list(smoke.ROWS.items())
    assert [row.settings.get("l2") for row in ran] == [0.007, 7.0, None]
