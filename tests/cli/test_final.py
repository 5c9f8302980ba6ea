"""What serves has seen every event; what was measured stays beside it; ``--split.test 0`` measures nothing."""

import json
import os
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

import suisen as su
from tests.cli.conftest import USERS, call, data_flags, refused, taste_rows
from tests.cli.test_train import same_weights

MF = ["--retriever", "mf", "--retriever.dim", "4", "--retriever.epochs", "3", "--patience", "1"]


@pytest.fixture(scope="module")
def plain(shop, tmp_path_factory):
    """A run whose bundle is what was measured."""
    out = tmp_path_factory.mktemp("plain") / "a"
    call("train", *data_flags(shop), "--retriever", "ease", "--retriever.l2", "1", "--no-final", "--out", out, "-q")
    return out


@pytest.fixture(scope="module")
def final(shop, tmp_path_factory):
    """The same run as it is trained by default, and what it said."""
    out = tmp_path_factory.mktemp("final") / "a"
    said = call("train", *data_flags(shop), "--retriever", "ease", "--retriever.l2", "1", "--out", out).stdout
    return out, said


def taken():
    return {(user, item) for _, user, item in taste_rows()}


def offered(run):
    lists = pl.concat(list(su.load(run).recommend_all(k=3)))
    return set(lists.select("user_id", "item_id").iter_rows())


def facts_of(run):
    manifest = json.loads((run / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    return manifest, json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def test_nobody_is_offered_what_the_log_says_they_have(final, plain):
    assert offered(plain) & taken()
    assert not offered(final[0]) & taken()
    assert su.load(final[0]).store.histories.lengths.sum() == len(taste_rows())


def test_the_figures_are_those_of_the_measured_models(final, plain):
    manifest, metrics = facts_of(final[0])
    _, before = facts_of(plain)
    assert metrics["reports"]["test"]["values_float32_base64"] == before["reports"]["test"]["values_float32_base64"]
    assert manifest["metrics"]["test"][0]["value"] == metrics["reports"]["test"]["scores"][0]["value"]
    assert manifest["metrics"]["test"][0]["protocol"] == metrics["reports"]["test"]["protocol"]
    assert manifest["refitted"] == f"refitted on all {USERS * 12:,} events"


def test_it_is_said_wherever_figures_are_said(final, plain):
    run, said = final
    line = f"the bundle holds these models refitted on all {USERS * 12:,} events; the figures are from before that"
    assert line in said
    assert facts_of(run)[1]["bundle"] == facts_of(run)[0]["run"]["bundle"] == line
    assert line[1:] in (run / "report.html").read_text(encoding="utf-8")  # a sentence there
    assert line in call("train", "--resume", run).stdout
    assert "they know nothing of valid and test; --final refits them on all" in facts_of(plain)[1]["bundle"]


def test_a_refitted_run_is_measured_by_the_models_that_it_measured(final, plain):
    again = json.loads(call("evaluate", final[0], "--json").stdout)
    assert again["values_float32_base64"] == facts_of(plain)[1]["reports"]["test"]["values_float32_base64"]
    line = refused("evaluate", final[0] / "bundle")
    assert "it has seen what test asks for; name its run folder" in line
    assert json.loads(call("evaluate", final[0] / "measured", "--json").stdout) | {"seconds": 0} == again | {
        "seconds": 0
    }


def test_both_ways_to_write_a_yes_or_no(shop, tmp_path):
    flags = [*data_flags(shop), "--retriever", "popularity", "-q"]
    for number, (words, kept) in enumerate([(["--final", "false"], False), (["--final"], True), (["--final=1"], True)]):
        call("train", *flags, *words, "--out", tmp_path / str(number))
        assert (tmp_path / str(number) / "measured").exists() is kept
    assert "final = 'perhaps' must be true or false" in refused("train", *flags, "--final=perhaps")
    assert "did you mean" in refused("train", *flags, "--no-finals")


def test_models_of_sessions_are_refitted_on_sessions(shop, tmp_path):
    """Users are nobody in such a split: their sessions are the histories, in the final models too."""
    flags = [*data_flags(shop), "--retriever", "item-knn", "--split", "sessions", "--split.gap", "25m", "-q"]
    call("train", *flags, "--out", tmp_path / "a")
    store, measured = su.load(tmp_path / "a").store, su.load(tmp_path / "a" / "measured").store
    assert int(store.item_counts.sum()) == len(taste_rows()) > int(measured.item_counts.sum())
    assert len(store.users) == len(measured.users) == 1


def test_with_nothing_for_test_the_whole_log_is_learnt(shop, tmp_path):
    flags = [*data_flags(shop), *MF]
    said = call("train", *flags, "--split.test", "0", "--out", tmp_path / "a").stdout
    assert "nothing was measured: the split holds nothing out for test" in said
    manifest, metrics = facts_of(tmp_path / "a")
    assert list(metrics["reports"]) == ["valid"]
    assert not (tmp_path / "a" / "report.html").exists()
    assert manifest["refitted"].startswith(f"refitted on all {USERS * 12:,} events with the epochs found (retriever ")
    assert not offered(tmp_path / "a") & taken()
    assert "holds nothing out for it" in refused("evaluate", tmp_path / "a")
    assert "has no report on test" in refused("compare", tmp_path / "a", tmp_path / "a")
    assert "nothing was measured" in call("train", "--resume", tmp_path / "a").stdout


def test_with_nothing_held_out_at_all_there_is_nothing_to_refit(shop, tmp_path):
    flags = [*data_flags(shop), *MF, "--split.test", "0", "--split.valid", "0"]
    said = call("train", *flags, "--out", tmp_path / "a").stdout
    assert f"the bundle holds models of the whole log, {USERS * 12:,} events" in said
    assert not (tmp_path / "a" / "measured").exists()
    assert facts_of(tmp_path / "a")[1]["reports"] == {}
    assert not offered(tmp_path / "a") & taken()


def test_killed_while_it_refits_it_ends_with_the_same_weights(shop, tmp_path):
    words = ["train", *data_flags(shop), *MF, "--retriever.batch-size", "8", "--ranker", "fm", "--ranker.dim", "4",
             "--ranker.batch-size", "2", "--ranker.epochs", "2", "--checkpoint-seconds", "0"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    call(*words, "--out", whole, "--quiet")
    command = [sys.executable, "-m", "suisen.cli.main", *words, "--out", str(killed), "--quiet"]
    child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    checkpoint = killed / "checkpoints" / "final" / "ranker.safetensors"
    deadline = time.monotonic() + 120
    while not checkpoint.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    assert child.poll() is None, "the run was over before it could be killed"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (killed / "bundle").exists()
    call("train", "--resume", killed, "--quiet")
    assert same_weights(whole, killed)
    assert facts_of(whole)[0]["refitted"] == facts_of(killed)[0]["refitted"]


def test_items_of_valid_and_test_alone_can_be_recommended(tmp_path):
    """An item that only the last event of somebody names is no item of train, and one of the final models."""
    rows = [(t, f"u{u}", f"i{(u + t) % 7}") for u in range(20) for t in range(5)]
    rows += [(9, f"u{u}", "new") for u in range(20, 24)] + [
        (t, f"u{u}", f"i{t}") for u in range(20, 24) for t in range(4)
    ]
    pl.DataFrame(rows, schema=["time", "user", "item"], orient="row").write_csv(tmp_path / "log.csv")
    for words, known in ([], True), (["--no-final"], False):
        out = tmp_path / str(known)
        call("train", "--events", tmp_path / "log.csv", "--retriever", "item-knn", *words, "--out", out, "-q")
        store = su.load(out).store
        assert ("new" in store.items.raw_ids.to_list()) is known
