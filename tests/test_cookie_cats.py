"""Cookie Cats without its file: the published counts give the published reading, with the sample ratio beside it."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "benchmarks")]

import common  # noqa: E402
import cookie_cats  # noqa: E402

COUNTS = {"gate_30": (44_700, 20_034, 8_502), "gate_40": (45_489, 20_119, 8_279)}
"""Players, those who came back after 1 day and after 7."""


def players():
    """The published counts; rounds are drawn, with one player as far out as the real one."""
    rng = np.random.default_rng(0)
    gate, day_1, day_7 = [], [], []
    for name, (n, after_1, after_7) in COUNTS.items():
        gate += [name] * n
        day_1 += [True] * after_1 + [False] * (n - after_1)
        day_7 += [True] * after_7 + [False] * (n - after_7)
    rounds = np.floor(rng.lognormal(2.7, 1.6, len(gate)))
    rounds[0] = 49_854
    return pl.DataFrame({"version": gate, "sum_gamerounds": rounds, "retention_1": day_1, "retention_7": day_7})


@pytest.fixture(scope="module")
def record():
    table = players()
    columns = (table[name] for name in ("version", "retention_1", "retention_7", "sum_gamerounds"))
    return cookie_cats.measured(cookie_cats.units(*columns))


def test_the_published_reading(record):
    of = {line["metric"]: line for line in record["metrics"]}
    week, day = of["retention_7"], of["retention_1"]
    assert (week["test"], day["test"]) == ("z", "z")
    assert week["difference"] == pytest.approx(-0.00820, abs=5e-6)
    assert week["p"] == pytest.approx(0.001554, abs=5e-7)  # the pooled z of the published counts
    assert day["p"] == pytest.approx(0.07441, abs=5e-6)
    assert day["corrected"] > day["p"]
    assert week["high"] < 0 < day["high"]
    assert any(said.startswith("heavy tail") for said in of["rounds"]["warnings"])
    assert of["rounds, winsorised"]["warnings"] == []
    assert of["rounds, ranks"]["ranks"][0] == pytest.approx(0.5, abs=0.01)


def test_the_threshold_decides_about_the_sample_ratio_and_is_shown(record):
    ours, strict = record["ratios"]
    assert (ours["threshold"], ours["holds"], strict["threshold"], strict["holds"]) == (0.001, True, 0.01, False)
    assert ours["p"] == strict["p"] == pytest.approx(0.0086, abs=5e-5)
    assert ours["said"].endswith("p = 0.00861 >= threshold 0.001")
    assert ours["verdict"].startswith("gate_40 lowers retention_7 by 0.008201 [")
    assert "sample ratio p = 0.0086 passes at 0.001 and would fail at 0.01" in ours["verdict"]
    assert strict["verdict"].startswith("No verdict: sample ratio mismatch (44,700 : 45,489 units, p = 0.0086 < 0.01)")


def test_the_file_becomes_a_line_and_other_counts_are_refused(tmp_path, monkeypatch):
    folder = tmp_path / "cookie-cats"
    folder.mkdir()
    table = players()
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["cookie_cats.py", "--data-dir", str(tmp_path)])
    with gzip.open(folder / "cookie_cats.csv.gz", "wb") as out:
        table.write_csv(out)
    assert cookie_cats.main() == 0
    (line,) = (tmp_path / cookie_cats.FILE).read_text().splitlines()
    assert len(json.loads(line)["metrics"]) == len(cookie_cats.METRICS)
    with gzip.open(folder / "cookie_cats.csv.gz", "wb") as out:
        table[1:].write_csv(out)
    with pytest.raises(SystemExit, match="players of gate_30: 44699, published 44700"):
        cookie_cats.main()


def test_without_the_file_it_says_where_it_is_from(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cookie_cats.read(tmp_path)
    assert "cookie-cats is absent; get it from https://www.kaggle.com/" in capsys.readouterr().err
