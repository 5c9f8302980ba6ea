import json

import numpy as np
import pytest

from suisen.cli import demo
from tests.cli.conftest import call


@pytest.fixture(scope="module")
def tiny_100k(tmp_path_factory):
    """The official layout of MovieLens-100K with 60 users and 40 films."""
    folder, rng = tmp_path_factory.mktemp("ml-100k"), np.random.default_rng(0)
    users = [*range(1, 60), 196]
    lines = [
        f"{user}\t{item}\t{rng.integers(1, 6)}\t{880_000_000 + 100 * n + user % 7}"
        for user in users
        for n, item in enumerate(rng.permutation(range(1 + 20 * (user % 2), 21 + 20 * (user % 2)))[:12])
    ]
    (folder / "u.data").write_text("\n".join(lines) + "\n")
    (folder / "u.user").write_text("".join(f"{u}|{20 + u % 50}|{'MF'[u % 2]}|writer|{u:05d}\n" for u in users))
    flags = "|".join("1" if n in (5, 8) else "0" for n in range(19))
    films = [f"{i}|Film n\xba {i} (19{50 + i})|01-Jan-1995||http://x/{i}|{flags}\n" for i in range(1, 41)]
    (folder / "u.item").write_bytes("".join(films).encode("latin-1"))
    return folder


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
