"""``--pair-features``: from the flag into the run, its file and its report."""

import suisen as su
from tests.cli.conftest import call, data_flags, refused


def test_a_run_takes_them_from_flags_and_from_its_file(shop, tmp_path):
    models = ["--retriever", "ease", "--retriever.l2", "1", "--ranker", "fm", "--ranker.dim", "4", "--epochs", "2"]
    words = ["--pair-features", "all,-session_position"]
    call("train", *data_flags(shop), *models, *words, "--out", tmp_path / "a", "--quiet")
    config = (tmp_path / "a" / "config.toml").read_text(encoding="utf-8")
    assert '"-session_position"' in config
    report = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert "It reads of each pair, beside the retrieval&#39;s: covisit_1" in report
    made = su.load(tmp_path / "a")
    assert "covisit_20" in made.engine.pairs.names
    assert "session_position" not in made.engine.pairs.names
    call("train", "--config", tmp_path / "a" / "config.toml", "--out", tmp_path / "b", "--quiet")
    same = [su.load(tmp_path / name).recommend(['user "3", é'], k=5, at="2030-01-01") for name in "ab"]
    assert same[0].equals(same[1])


def test_the_command_line_refuses_a_feature_that_is_not_there(shop, tmp_path):
    models = ["--retriever", "ease", "--ranker", "fm", "--out", tmp_path / "x"]
    said = refused("train", *data_flags(shop), *models, "--pair-features", "covisits")
    assert "--pair-features = 'covisits' is unknown; did you mean 'covisit_" in said
    said = refused("train", *data_flags(shop), "--retriever", "ease", "--pair-features", "all", "--out", tmp_path / "y")
    assert "needs a retriever and a ranker" in said
