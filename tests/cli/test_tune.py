"""``suisen tune``: a folder with the best settings, which ``suisen train`` takes; test is never looked at."""

import json
import sys
import tomllib
from dataclasses import replace

import pytest

from suisen.models import MF
from suisen.pipeline import tuning as room
from suisen.runs.config import Config
from tests.cli.conftest import call, data_flags, refused

MODEL = ["--retriever", "mf", "--retriever.batch-size", "128", "--epochs", "2"]
HOW = ["--trials", "4", "--startup", "2", "--prune-after", "0"]


class Poison:
    """A test part that nobody may touch."""

    def __getattribute__(self, name):
        raise AssertionError(f"test was looked at: {name}")


@pytest.fixture(scope="module")
def tuned(shop, tmp_path_factory):
    """A finished tuning whose split had a poisoned test part, and what it said."""
    folder, cut = tmp_path_factory.mktemp("tuned") / "t", Config.cut
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Config, "cut", lambda self, data: replace(cut(self, data), test=Poison()))
        result = call("tune", *data_flags(shop), *MODEL, *HOW, "--metric", "hr@5", "--out", folder)
    return folder, result


def test_a_tuning_never_looks_at_test(tuned):
    folder, result = tuned
    trials = json.loads((folder / "trials.json").read_text())
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4]
    assert trials[0]["settings"]["retriever.dim"] == 64
    done = [trial["value"] for trial in trials if trial["state"] == "done"]
    assert f"with hr@5 {max(done):.4f} on valid" in result.stdout
    assert f"next: suisen train --config {folder / 'best.toml'}" in result.stdout
    assert result.stderr.count("\ntrial ") == 3
    assert result.stderr.startswith("trial 1: done")


def test_the_best_settings_are_a_file_for_train(tuned, tmp_path):
    folder, _ = tuned
    trials = json.loads((folder / "trials.json").read_text())
    best = max((t for t in trials if t["state"] == "done"), key=lambda t: t["value"])
    settings = tomllib.loads((folder / "best.toml").read_text())["retriever"]
    assert settings["batch_size"] == 128
    assert {f"retriever.{key}": settings[key] for key in ("dim", "l2", "negatives", "learning_rate")}.items() <= (
        best["settings"].items()
    )
    call("train", "--config", folder / "best.toml", "--metrics", "hr@5", "--out", tmp_path / "run", "--quiet")
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())["reports"]["valid"]["scores"]
    assert scores[0]["value"] == pytest.approx(best["value"])


def test_a_tuning_goes_on(tuned):
    folder, _ = tuned
    assert call("tune", "--resume", folder, "--trials", "5", "--quiet").stdout.strip() == str(folder / "best.toml")
    assert len(json.loads((folder / "trials.json").read_text())) == 5
    assert "trial 5" not in call("tune", "--resume", folder).stderr
    assert "--seed does not go with --resume: a tuning goes on" in refused("tune", "--resume", folder, "--seed", "3")
    assert "--out does not go with --resume" in refused("tune", "--resume", folder, "--out", "x")
    assert "--metric does not go with --resume" in refused("tune", "--resume", folder, "--metric", "hr@10")
    assert "is not empty; go on with --resume" in refused(
        "tune", "--retriever", "ease", "--events", "x", "--out", folder
    )


def test_a_flag_keeps_its_value(shop, tmp_path):
    words = ["--retriever.dim", "4", "--fixed", "retriever.l2", "--trials", "2", "--out", tmp_path / "t", "--quiet"]
    call("tune", *data_flags(shop), *MODEL, *words)
    for trial in json.loads((tmp_path / "t" / "trials.json").read_text()):
        assert not {"retriever.dim", "retriever.l2"} & trial["settings"].keys()
        assert "retriever.negatives" in trial["settings"]
    best = tomllib.loads((tmp_path / "t" / "best.toml").read_text())["retriever"]
    assert (best["dim"], best["l2"]) == (4, MF().l2)
    kept = tomllib.loads((tmp_path / "t" / "tuning.toml").read_text())["tune"]["fixed"]
    assert set(kept) == {"retriever.l2", "retriever.dim", "retriever.batch_size"}


def test_a_ranker_behind_a_retriever_from_a_file(shop, run_folder, tmp_path):
    call("tune", "--config", run_folder / "config.toml", "--trials", "2", "--out", tmp_path / "t", "--overwrite", "-q")
    best = tomllib.loads((tmp_path / "t" / "best.toml").read_text())
    assert best["retriever"] == {"name": "ease", "l2": 1.0}
    assert best["ranker"]["epochs"] == 2
    trials = json.loads((tmp_path / "t" / "trials.json").read_text())
    assert "ranker.dim" in trials[1]["settings"]
    assert not any(name.startswith("retriever.") for name in trials[1]["settings"])


def test_interrupted_it_says_how_to_go_on(shop, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(room._Task, "measure", interrupted)
    words = ["tune", *data_flags(shop), *MODEL, "--trials", "1", "--out", tmp_path / "t", "--quiet"]
    assert f"stopped; go on with: suisen tune --resume {tmp_path / 't'}" in call(*words, code=130).stderr
    assert "is no run folder" in refused("train", "--resume", tmp_path / "t")
    monkeypatch.setattr(room._Task, "measure", lambda *_: 0.5)
    call("tune", "--resume", tmp_path / "t", "--quiet")
    assert [t["state"] for t in json.loads((tmp_path / "t" / "trials.json").read_text())] == ["given up", "done"]


def test_no_time_for_a_trial_is_an_error(shop, tmp_path):
    words = [*data_flags(shop), *MODEL, "--time-limit", "0.001s", "--out", tmp_path / "t", "--quiet"]
    assert f"no trial was finished; give more time: suisen tune --resume {tmp_path / 't'}" in refused("tune", *words)


def test_failures_and_long_tables_are_said(shop, tmp_path, monkeypatch):
    from suisen.errors import TrainingError

    values = iter(range(1, 100))

    def sometimes(*_):
        if (number := next(values)) == 2:
            raise TrainingError("the loss became nan")
        return 1.0 / number

    monkeypatch.setattr(room._Task, "measure", sometimes)
    said = call("tune", *data_flags(shop), "--retriever", "ease", "--trials", "33", "--out", tmp_path / "t").stdout
    assert "3 more in" in said
    assert "note: trial 2 failed: the loss became nan" in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--retriever", "popularity"], "popularity has nothing to search"),
        (["--retriever", "ease", "--retriever.l2", "3"], "every parameter that ease could search is fixed"),
        (["--retriever", "ease", "--metric", "ncdg@10"], "did you mean 'ndcg@10'"),
        (["--retriever", "ease", "--metric", "coverage@10"], "cannot be tuned on"),
        (["--retriever", "ease", "--stage", "ranker"], "no ranker is named; pass --ranker NAME"),
        (["--retriever", "ease", "--stage", "first"], "--stage = 'first' is unknown"),
        (["--retriever", "ease", "--trials", "many"], "--trials = 'many' must be a whole number"),
        (["--retriever", "ease", "--split.valid", "0"], "valid = None, and settings are picked on it"),
        (["--retriever", "ease", "--fixed", "retriever.l3"], "did you mean 'retriever.l2'"),
        (["--retriever", "ease", "--trails", "3"], "did you mean '--trials'"),
        (["--resume", "{tmp}/none"], "holds no tuning (tuning.toml is missing)"),
        (["--config", "none.toml"], "none.toml does not exist"),
        ([], "no model is named"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing_behind(shop, tmp_path, words, message):
    flags = [] if "--resume" in words or "--config" in words else [*data_flags(shop), "--out", tmp_path / "t"]
    assert message in refused("tune", *flags, *(word.replace("{tmp}", str(tmp_path)) for word in words))
    assert not (tmp_path / "t").exists()


def test_without_optuna_the_extra_is_named_before_anything_is_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert "pip install 'suisen[tune]'" in refused("tune", "--events", "none.csv", "--retriever", "ease")


def test_a_terminal_gets_a_bar(shop, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = call("tune", *data_flags(shop), *MODEL, "--trials", "1", "--out", tmp_path / "t")
    assert "trial 1: done" not in said.stderr
    assert "best: trial 1" in said.stdout


def test_help_lists_tuning_and_the_models_settings():
    said = " ".join(call("tune", "--retriever", "sasrec", "--help").stdout.split())
    assert "--retriever.heads INT" in said
    assert "--trials INT" in said
    assert "retriever|ranker|both" in said


def test_the_file_of_the_best_trial_stops_on_what_was_tuned_for(shop, tmp_path):
    flags = [*data_flags(shop), "--retriever", "mf", "--retriever.dim", "4", "--epochs", "2", "--trials", "1", "-q"]
    call("tune", *flags, "--metric", "recall@20", "--out", tmp_path / "t")
    assert 'stop_on = "recall@20"' in (tmp_path / "t" / "best.toml").read_text()
    call("tune", *flags, "--metric", "recall@20", "--stop-on", "hr@3", "--out", tmp_path / "u")
    assert 'stop_on = "hr@3"' in (tmp_path / "u" / "best.toml").read_text()
