"""Several retrievers on the command line and in a file: their own flags, tables, curves, and what is refused."""

from __future__ import annotations

import json
import tomllib

from tests.cli.conftest import call, data_flags, refused

TWO = ("--retriever", "ease", "--retriever", "mf", "--retriever.mf.dim", "8", "--retriever.ease.l2", "20")


def test_two_retrievers_and_a_ranker_from_flags_and_again_from_the_file(shop, tmp_path):
    run = tmp_path / "a"
    flags = (*TWO, "--ranker", "fm", "--epochs", "2", "--candidates", "20", "--quotas", "ease=5")
    said = call("train", *data_flags(shop), *flags, "--out", run).stdout
    assert "recall that it alone adds" in said
    assert "ease alone" in said
    assert "mf alone" in said
    told = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    assert told["retriever"]["name"] == ["ease", "mf"]
    assert (told["retriever"]["mf"]["dim"], told["retriever"]["ease"]["l2"]) == (8, 20.0)
    assert (told["retriever"]["mf"]["epochs"], told["run"]["quotas"]) == (2, {"ease": 5})
    stages = json.loads((run / "curves.json").read_text())
    names = ["retriever-ease-inner1", "retriever-mf-inner1", "ranker", "retriever-ease", "retriever-mf"]
    assert list(stages) == names
    metrics = json.loads((run / "metrics.json").read_text())
    assert [one["source"] for one in metrics["funnel"]["sources"]] == ["ease", "mf", "union"]
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What each source finds by itself" in page
    assert "retriever.mf" in page
    call("train", "--config", run / "config.toml", "--out", tmp_path / "b", "--quiet")
    digests = [json.loads((tmp_path / name / "bundle" / "manifest.json").read_text())["files"] for name in "ab"]
    weights = [{name: of for name, of in files.items() if name.endswith(".safetensors")} for files in digests]
    assert weights[0] == weights[1]
    assert set(weights[0]) >= {"sources/ease/retriever.safetensors", "sources/mf/retriever.safetensors"}
    answer = json.loads(call("recommend", run, "--user", 'user "3", é', "-k", "4", "--json").stdout)["answers"][0]
    assert len(answer["items"]) == 4


def test_flags_win_over_the_file_source_by_source(shop, tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('[retriever]\nname = ["ease", "mf"]\n[retriever.mf]\ndim = 4\nl2 = 0.5\n', encoding="utf-8")
    call("train", "--config", file, *data_flags(shop), "--retriever.mf.dim", "6", "--epochs", "1", "--quiet",
         "--no-final", "--out", tmp_path / "a")  # fmt: skip
    told = tomllib.loads((tmp_path / "a" / "config.toml").read_text(encoding="utf-8"))["retriever"]
    assert (told["mf"]["dim"], told["mf"]["l2"], told["mf"]["epochs"]) == (6, 0.5, 1)


def test_what_is_refused(shop, tmp_path):
    base = ("train", *data_flags(shop), "--out", tmp_path / "x")
    assert "of which one, ease or mf? write --retriever.NAME.dim" in refused(*base, "--config", one_table(tmp_path))
    assert "did you mean 'ease'?" in refused(*base, *TWO, "--quotas", "eas=5")
    assert "sources 1 and 2 are both EASE" in refused(*base, "--retriever", "ease", "--retriever", "ease")
    assert "retriever = 'eese' is unknown" in refused(*base, "--retriever", "ease", "--retriever", "eese")
    assert "needs --retriever NAME" in refused(*base, "--retriever.mf.dim", "4")
    assert "did you mean '--retriever.mf.dim'?" in refused(*base, *TWO[:4], "--retriever.mf.dimm", "4")
    assert "only retrievers may be several" in refused(*base, *TWO[:4], "--config", two_rankers(tmp_path))
    assert not (tmp_path / "x").exists()


def one_table(folder):
    """A file whose hyper-parameter is of neither of its two retrievers."""
    path = folder / "one.toml"
    path.write_text('[retriever]\nname = ["ease", "mf"]\ndim = 4\n', encoding="utf-8")
    return path


def two_rankers(folder):
    """A file with two rankers."""
    path = folder / "two.toml"
    path.write_text('[ranker]\nname = ["fm", "mlp"]\n', encoding="utf-8")
    return path


def test_two_of_a_kind_have_names_of_their_own(shop, tmp_path):
    flags = ("--retriever", "ease", "--retriever", "ease", "--retriever.ease.l2", "5", "--retriever.ease-2.l2", "50")
    run = tmp_path / "a"
    call("train", *data_flags(shop), *flags, "--quiet", "--no-final", "--out", run)
    told = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["retriever"]
    assert (told["ease"]["l2"], told["ease-2"]["l2"]) == (5.0, 50.0)
    assert "--retriever.ease-2.l2" in call("train", *flags[:4], "--help").stdout


def test_several_retrievers_are_tuned_each_over_its_own_space(shop, tmp_path):
    folder = tmp_path / "t"
    words = ("--retriever", "ease", "--retriever", "item-knn", "--trials", "2", "--metric", "ndcg@10", "--quiet")
    call("tune", *data_flags(shop), *words, "--retriever.ease.l2", "30", "--out", folder)
    trials = json.loads((folder / "trials.json").read_text())
    assert all(name.startswith("retriever.item-knn.") for trial in trials for name in trial["settings"])
    best = tomllib.loads((folder / "best.toml").read_text(encoding="utf-8"))["retriever"]
    assert best["ease"]["l2"] == 30.0
    call("tune", "--resume", folder, "--trials", "3", "--quiet")
    assert len(json.loads((folder / "trials.json").read_text())) == 3
