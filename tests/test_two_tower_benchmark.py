"""The benchmark of Two-Tower on small data: its questions, its yardsticks, its records."""

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "benchmarks")]

import common  # noqa: E402
import report  # noqa: E402
import two_tower  # noqa: E402

import suisen as su  # noqa: E402
from suisen.data.splits import LeaveLast  # noqa: E402
from suisen.recommending.scorers import NetScorer  # noqa: E402
from suisen.training.options import RunOptions  # noqa: E402
from suisen.training.trainer import fit  # noqa: E402
from tests.helpers import raw_items  # noqa: E402
from tests.models.toys import checkerboard  # noqa: E402


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    monkeypatch.setattr(two_tower, "RESULTS", tmp_path)
    return tmp_path / "accuracy.jsonl"


def options(**more) -> Namespace:
    return Namespace(
        **{
            "data_dir": Path(),
            "seed": 0,
            "purpose": "table",
            "epochs": 1,
            "threads": 1,
            "only": ["in-batch", "mixed"],
            "set": {"epochs": 1},
            **more,
        }
    )


def test_cold_items_have_no_event_in_train_and_are_the_whole_truth():
    data = checkerboard()
    split, cold = two_tower.without(data, 0)
    assert int(cold.sum()) == round(0.1 * int(data.trained_items.sum()))
    assert not split.train.trained_items[cold].any()
    assert cold[split.test.truth.values].all()
    assert len(split.train.events) + split.test.truth.values.numel() == len(data.events)
    drawn = [sorted(raw_items(one.train, mask.nonzero().squeeze(1).tolist())) for one, mask in
             (two_tower.without(data, seed) for seed in (0, 0, 1))]  # fmt: skip
    assert drawn[0] == drawn[1] != drawn[2]


def test_chance_is_what_random_orders_reach():
    split, _ = two_tower.without(checkerboard(), 0)
    rng, among = torch.Generator().manual_seed(0), 30
    found = []
    for _ in range(300):
        for truth in split.test.truth.lengths.tolist():
            places = torch.randperm(among, generator=rng)[:truth]
            gain = sum(1 / torch.tensor(float(p + 2)).log2() for p in places.tolist() if p < 10)
            found.append(float(gain / sum(1 / torch.tensor(float(p + 2)).log2() for p in range(truth))))
    assert two_tower.of_random(split.test, among) == pytest.approx(sum(found) / len(found), rel=0.05)


def test_ranks_among_all_are_those_of_the_evaluation():
    data = checkerboard()
    split, _ = two_tower.without(data, 0)
    net, _ = fit(su.TwoTower(dim=4, hidden=(4,), epochs=1), split.train, options=RunOptions())
    ranks = two_tower.ranks_among_all(net, split.test)
    everything = torch.ones(split.train.schema.n_items, dtype=torch.bool)
    everything[0] = False
    hits = su.evaluate(NetScorer(net, everything), split.test, ["recall@5"]).values["recall@5"]
    rows = split.test.truth.rows()
    mine = torch.zeros(len(split.test)).index_add_(0, rows, (ranks <= 5).float()) / split.test.truth.lengths
    torch.testing.assert_close(torch.from_numpy(hits), mine)


@pytest.fixture
def small(monkeypatch):
    """The command line's parts on a toy."""
    rule = LeaveLast(test=1, valid=0)
    toy = two_tower.Data(lambda folder: rule.split(checkerboard()), rule.split, {"dim": 4}, ("recall@5",), "recall@5")
    monkeypatch.setattr(two_tower, "DATA", {"ml-1m.zip": toy})
    monkeypatch.setattr(two_tower, "LOSSES", {"in-batch": {"log_q": "none"}, "mixed": {"loss": "mixed"}})
    monkeypatch.setattr(two_tower, "TEMPERATURES", (0.1, 0.5))


def test_a_run_is_left_out_where_its_line_has_its_settings_and_commit(results, small, monkeypatch):
    threads = str(torch.get_num_threads())

    def runs(*words: str) -> int:
        before = len(results.read_text().splitlines()) if results.exists() else 0
        monkeypatch.setattr(sys, "argv", ["two_tower.py", "losses", "temperature", "--threads", threads, *words])
        assert two_tower.main() == 0
        return len(results.read_text().splitlines()) - before

    assert runs("--epochs", "1") == 4
    assert runs("--epochs", "1") == 0
    assert runs("--epochs", "2") == 4
    assert runs("--epochs", "1", "--seeds", "0", "1") == 4
    assert runs("--epochs", "1", "--set", "dim=8", "--purpose", "trial") == 4
    assert runs("--epochs", "1", "--set", "dim=4", "--purpose", "trial") == 4
    monkeypatch.setattr(two_tower, "commit", lambda: "another")
    assert runs("--epochs", "1") == 4


def test_other_settings_are_for_trials(results, small, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["two_tower.py", "losses", "--set", "dim=8"])
    with pytest.raises(SystemExit, match="2"):
        two_tower.main()
    assert "--purpose trial" in capsys.readouterr().err
    assert not results.exists()


def test_every_part_leaves_its_records_and_is_not_run_twice(results, small, monkeypatch, tmp_path):
    monkeypatch.setattr(two_tower, "IALS_GRID", ({"dim": 4, "epochs": 2},))
    monkeypatch.setattr(two_tower, "PICTURE", tmp_path / "temperature.svg")
    monkeypatch.setattr(two_tower, "load", lambda *a: checkerboard().log)
    for part in (two_tower.losses, two_tower.losses, two_tower.temperature, two_tower.warm, two_tower.cold):
        part(options(data=["ml-1m.zip"]))
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    found = [(line["what"], line["variant"], line["model"]) for line in lines]
    assert found == [
        ("losses", "in-batch", "two-tower"), ("losses", "mixed", "two-tower"),
        ("temperature", "0.1", "two-tower"), ("temperature", "0.5", "two-tower"),
        ("warm", "ials", "ials"), ("warm", "ease", "ease"), ("warm", "two-tower", "two-tower"),
        ("cold", "two-tower", "two-tower"),
    ]  # fmt: skip
    warm, cold = lines[-2], lines[-1]
    best = max(line["metrics"]["recall@5"] for line in lines if line["model"] in ("ials", "ease"))
    assert warm["floors"]["recall@5"] == pytest.approx(0.97 * best, abs=1e-4)
    assert cold["floors"]["ndcg@10"] == pytest.approx(1.5 * cold["random"]["ndcg@10"], abs=1e-4)
    assert cold["interval"]["ndcg@10"][0] <= cold["metrics"]["ndcg@10"] <= cold["interval"]["ndcg@10"][1]
    assert 1 <= cold["rank_among_all"]["mean"] <= cold["rank_among_all"]["items"]
    trial = {**cold, "purpose": "trial", "random": {"ndcg@10": 1.0}}
    once = lines[0]["metrics"]["recall@5"]
    again = {**lines[0], "seed": 1, "metrics": {"recall@5": once + 0.1}}
    page = report.two_tower([*lines, trial, again])
    assert f"| in-batch | ml-1m.zip | 2 | recall@5 {once + 0.05:.4f} |" in page
    times = cold["metrics"]["ndcg@10"] / cold["random"]["ndcg@10"]
    assert f"{times:.2f} times random's" in page
    assert page.index("### Warm and cold") < page.index("### Losses") < page.index("### Temperature")
    two_tower.plot(options())
    drawn = two_tower.PICTURE.read_text()
    assert drawn.count("<circle") == 2
    assert all(f">{tau}</text>" in drawn for tau in ("0.1", "0.5", "ml-1m.zip, recall@5"))
