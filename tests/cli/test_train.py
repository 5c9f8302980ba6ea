import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib

import polars as pl
import pytest
from safetensors.torch import load_file

from suisen.evaluation import Report
from suisen.runs.folder import finite
from tests.cli.conftest import call, data_flags, refused

SMALL = ["--retriever", "sasrec", "--retriever.dim", "8", "--retriever.blocks", "1", "--retriever.batch-size", "8"]


def weights(run):
    """Every tensor of a run's bundle."""
    return {p.name: load_file(p) for p in sorted((run / "bundle").glob("*.safetensors"))}


def same_weights(one, two):
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys() != set()
    return all(a[file][name].equal(b[file][name]) for file in a for name in a[file])


def test_a_run_folder_holds_all_of_it(run_folder):
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {"config.toml", "metrics.json", "environment.json", "curves.json", "report.html", "bundle"}
    metrics = json.loads((run_folder / "metrics.json").read_text())
    assert metrics["name"] == "ease + deepfm"
    assert list(metrics["baselines"]) == ["popularity", "ease alone"]
    assert [row["baseline"] for row in metrics["comparisons"]] == ["popularity", "ease alone"]
    assert metrics["funnel"]["candidates"] == 500
    assert len(Report.from_dict(metrics["reports"]["test"])) == 40
    assert Report.from_dict(metrics["reports"]["valid"]).value("ndcg@10") >= 0
    environment = json.loads((run_folder / "environment.json").read_text())
    assert environment["threads"] == 1
    assert environment["libraries"]["torch"]
    curves = json.loads((run_folder / "curves.json").read_text())
    assert [len(phase["epochs"]) for phase in curves["ranker"]] == [2]
    assert "映画" in (run_folder / "report.html").read_text(encoding="utf-8")


def test_the_configuration_is_complete_and_repeats_the_run(run_folder, tmp_path):
    config = tomllib.loads((run_folder / "config.toml").read_text(encoding="utf-8"))
    assert config["retriever"] == {"name": "ease", "l2": 1.0}
    assert config["ranker"]["learning_rate"] == 1e-3
    call("train", "--config", run_folder / "config.toml", "--out", tmp_path / "b", "--quiet")
    assert same_weights(run_folder, tmp_path / "b")
    assert (tmp_path / "b" / "config.toml").read_text() == (run_folder / "config.toml").read_text()


def test_a_flag_wins_over_the_file(run_folder, tmp_path):
    call(
        "train",
        "--config",
        run_folder / "config.toml",
        "--ranker.dim",
        "3",
        "--epochs",
        "1",
        "--seed",
        "4",
        "--out",
        tmp_path / "b",
        "--quiet",
    )
    config = tomllib.loads((tmp_path / "b" / "config.toml").read_text(encoding="utf-8"))
    assert (config["ranker"]["dim"], config["ranker"]["epochs"], config["run"]["seed"]) == (3, 1, 4)
    assert not same_weights(run_folder, tmp_path / "b")


def test_planted_groups_of_taste_stay_apart(shop, tmp_path):
    flags = data_flags(shop)
    call("train", *flags, "--retriever", "ease", "--retriever.l2", "1", "--out", tmp_path / "a", "--quiet")
    call("recommend", tmp_path / "a", "--all-users", "--out", tmp_path / "recs.parquet", "-k", "8")
    lists = pl.read_parquet(tmp_path / "recs.parquet")
    own = lists.with_columns(
        even=pl.col("user_id").str.extract(r'user "(\d+)"').cast(int) % 2 == 0,
        a=pl.col("item_id").str.starts_with("A-"),
    )
    stay = own.group_by("user_id").agg((pl.col("even") == pl.col("a")).mean().alias("share"))
    assert stay.height == 40
    assert stay["share"].min() >= 0.9


def test_a_new_run_says_how_it_compares_with_the_last(shop, tmp_path):
    flags = data_flags(shop)
    call("train", *flags, "--retriever", "popularity", "--out", tmp_path / "first", "--quiet")
    call("train", *flags, "--retriever", "popularity", "--split.test", "2", "--out", tmp_path / "other", "--quiet")
    said = call("train", *flags, "--retriever", "ease", "--retriever.l2", "1", "--out", tmp_path / "second").stdout
    assert "compared with the last run on the same data and protocol, first:" in said
    assert "second − first" in said
    assert "popularity" in said
    assert "next: suisen recommend" in said


def test_an_out_folder_that_is_not_empty_is_refused(run_folder, tmp_path, shop):
    flags = [*data_flags(shop), "--retriever", "popularity", "--quiet"]
    line = refused("train", *flags, "--out", run_folder)
    assert "is not empty; go on with --resume" in line
    (tmp_path / "mine.txt").write_text("keep me")
    assert "holds something else than a run" in refused("train", *flags, "--out", tmp_path, "--overwrite")
    assert (tmp_path / "mine.txt").exists()
    call("train", *flags, "--out", tmp_path / "r")
    call("train", *flags, "--out", tmp_path / "r", "--overwrite")


def test_a_finished_run_has_nothing_to_resume(run_folder):
    assert "is finished; nothing is left to do" in call("train", "--resume", run_folder).stdout
    assert "--seed does not go with --resume" in refused("train", "--resume", run_folder, "--seed", "3")
    assert "--out does not go with --resume" in refused("train", "--resume", run_folder, "--out", "x")
    assert "is no run folder" in refused("train", "--resume", run_folder / "bundle")


def test_killed_and_resumed_ends_with_the_same_weights(shop, tmp_path):
    """Killed while the ranker learns: the inner retriever is done, the last one has not begun."""
    words = ["train", *data_flags(shop), "--retriever", "mf", "--retriever.dim", "4", "--retriever.epochs", "2",
             "--ranker", "deepfm", "--ranker.dim", "4", "--ranker.hidden", "8", "--ranker.batch-size", "16",
             "--ranker.epochs", "3", "--patience", "12", "--checkpoint-seconds", "0"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    call(*words, "--out", whole, "--quiet")
    command = [sys.executable, "-m", "suisen.cli.main", *words, "--out", str(killed), "--quiet"]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = killed / "checkpoints" / "ranker.safetensors"
    seen = set()
    deadline = time.monotonic() + 120
    while len(seen) < 7 and child.poll() is None and time.monotonic() < deadline:
        if checkpoint.exists():
            seen.add(checkpoint.stat().st_mtime_ns)
        time.sleep(0.001)
    assert child.poll() is None, "the run was over before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert (killed / "checkpoints" / "retriever-inner1.safetensors").exists()
    assert not (killed / "checkpoints" / "retriever.safetensors").exists()
    assert not (killed / "metrics.json").exists()
    assert not (killed / "bundle").exists()
    assert "the run is not finished" in refused("compare", whole, killed)
    call("train", "--resume", killed, "--quiet")
    assert same_weights(whole, killed)
    ours, theirs = (json.loads((run / "metrics.json").read_text())["reports"]["test"] for run in (whole, killed))
    assert ours["values_float32_base64"] == theirs["values_float32_base64"]


def test_help_lists_the_hyper_parameters_of_the_model_named():
    said = " ".join(call("train", "--retriever", "sasrec", "--help").stdout.split())
    assert "Retriever: SASRec" in said
    assert "--retriever.heads INT" in said
    assert "Attention heads; must divide ``dim``. [≥ 1; default: 1]" in said
    assert "--retriever.l2" not in said
    assert "--retriever.l2" in call("train", "--retriever=ease", "--help").stdout
    assert "--retriever" in call("train", "--help").stdout


def test_help_follows_the_file(run_folder):
    assert "Ranker: DeepFM" in call("train", "--config", run_folder / "config.toml", "--help").stdout


def test_tensorboard_and_progress(shop, tmp_path):
    said = call("train", *data_flags(shop), *SMALL, "--epochs", "2", "--out", tmp_path / "a", "--tensorboard")
    assert list((tmp_path / "a" / "tensorboard").glob("events.*"))
    assert "retriever: 2 epochs in" in said.stderr


def test_an_index_and_labelled_clicks(shop, tmp_path):
    call(
        "train",
        *data_flags(shop),
        "--retriever",
        "ials",
        "--retriever.dim",
        "4",
        "--epochs",
        "2",
        "--index",
        "hnsw",
        "--index.m",
        "8",
        "--metrics",
        "hr@5,coverage@5",
        "--out",
        tmp_path / "a",
        "--quiet",
    )
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    assert metrics["index_recall"] > 0.9
    assert [score["metric"] for score in metrics["reports"]["test"]["scores"]] == ["hr@5", "coverage@5"]
    clicks = tmp_path / "clicks.csv"
    rows = [f"u{n % 7},i{n % 5},{n},{n % 3 % 2}" for n in range(200)]
    clicks.write_text("\n".join(["user,item,time,clicked", *rows]))
    call(
        "train",
        "--events",
        clicks,
        "--label",
        "clicked",
        "--split",
        "click-ratio",
        "--ranker",
        "fm",
        "--ranker.dim",
        "2",
        "--epochs",
        "1",
        "--threads",
        "1",
        "--out",
        tmp_path / "b",
        "--quiet",
    )
    metrics = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert [score["metric"] for score in metrics["reports"]["test"]["scores"]] == ["auc", "logloss"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_holds_no_infinities(value):
    assert finite({"a": [value, 1.0]}) == {"a": [None, 1.0]}


def test_an_interrupted_run_says_how_to_go_on(shop, tmp_path, monkeypatch):
    from suisen.pipeline.recommender import Recommender

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Recommender, "fit", interrupted)
    words = ["train", *data_flags(shop), "--retriever", "popularity", "--out", tmp_path / "a", "--quiet"]
    assert f"stopped; go on with: suisen train --resume {tmp_path / 'a'}" in call(*words, code=130).stderr
    monkeypatch.undo()
    call("train", "--resume", tmp_path / "a", "--quiet")
    assert (tmp_path / "a" / "bundle" / "manifest.json").exists()


def test_without_out_the_folder_is_named_by_date_and_models(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call("train", *data_flags(shop), "--retriever", "popularity", "--quiet").stdout.strip()
    assert re.fullmatch(r"runs/\d{8}-\d{6}-popularity", said)
    assert (tmp_path / said / "metrics.json").exists()


def test_the_metric_that_stops_is_checked_before_anything_is_read(tmp_path):
    words = ["train", "--events", "none.csv", "--retriever", "mf", "--out", tmp_path / "a", "--stop-on"]
    assert "--stop-on = 'coverage@10' cannot stop training" in refused(*words, "coverage@10").replace(
        "stop_on", "--stop-on"
    )
    assert "did you mean 'ndcg@10'" in refused(*words, "ncdg@10")
    assert not (tmp_path / "a").exists()


def test_a_run_that_its_time_limit_stopped_goes_on_when_it_gets_more(shop, tmp_path):
    """As if the time had been there at once: the retriever, the lists, the ranker, the final models, the figures."""
    words = ["train", *data_flags(shop), "--retriever", "mf", "--retriever.dim", "4", "--retriever.epochs", "3",
             "--ranker", "fm", "--ranker.dim", "4", "--ranker.epochs", "2", "--patience", "12", "--quiet"]  # fmt: skip
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    call(*words, "--out", whole)
    call(*words, "--out", cut, "--max-seconds", "0")
    curves = json.loads((cut / "curves.json").read_text())
    assert curves["ranker"][0]["stopped"] == "max_seconds = 0 reached"
    assert not same_weights(whole, cut)
    assert "is finished; nothing is left to do" in call("train", "--resume", cut).stdout
    call("train", "--resume", cut, "--max-seconds", "600", "-q")
    assert same_weights(whole, cut)
    ours, theirs = (json.loads((run / "metrics.json").read_text())["reports"]["test"] for run in (whole, cut))
    assert ours["values_float32_base64"] == theirs["values_float32_base64"]
    assert tomllib.loads((cut / "config.toml").read_text())["run"]["max_seconds"] == 600
    assert "is finished; nothing is left to do" in call("train", "--resume", cut, "--max-seconds", "none").stdout
    assert "must be a number" in refused("train", "--resume", cut, "--max-seconds", "much")
