import json

from suisen.cli import demo
from tests.cli.conftest import call


def test_the_demo_goes_all_the_way_and_again(tiny_100k, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "RETRIEVER", {"name": "ease", "l2": 1.0})
    monkeypatch.setattr(demo, "RANKER", {"name": "deepfm", "dim": 4, "hidden": [8]})
    out = tmp_path / "runs" / "demo"
    words = ["demo", "--data-dir", tiny_100k, "--epochs", "2", "--threads", "1", "--out", out, "--quiet"]
    said = call(*words).stdout
    assert all(name in said for name in ("popularity", "ease alone", "random ranker", "ease + deepfm"))
    assert "verdict: " in said
    assert "Against random weights" in said
    titles = said.partition("POST /v1/recommend for user 196")[2].splitlines()[1:11]
    assert all("Film nº" in title for title in titles)
    assert "ms over HTTP" in said
    assert "server stopped" in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert list(metrics["baselines"]) == ["popularity", "ease alone", "random ranker"]
    assert (out / "report.html").stat().st_size > 10_000
    assert "verdict: " in call(*words).stdout
    assert "Film nº" in call("recommend", out, "--user", "196", "-k", "3").stdout
