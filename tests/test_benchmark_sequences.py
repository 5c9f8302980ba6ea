"""Loaders of published sequences, on made-up copies of their layouts; on the real files where they are."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks")]

import sequences  # noqa: E402

from suisen.data.ragged import Ragged  # noqa: E402
from suisen.evaluation import evaluate  # noqa: E402
from suisen.models import GRU4Rec  # noqa: E402
from suisen.recommending.scorers import NetScorer  # noqa: E402
from suisen.training.trainer import fit  # noqa: E402

DATA = ROOT.parent / "shared" / "data"
TRAIN = [[7, 8], [8, 9, 8], *([[5, 6, 5]] * 16), [5, 7, 1], [6, 5]]
"""Twenty sessions; the last two are validation, where item 1 is new."""


def written(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(line + "\n" for line in lines).encode()))


@pytest.fixture
def folder(tmp_path) -> Path:
    written(tmp_path / "s3rec-beauty" / "Beauty.txt.gz", ["1 3 4 5 6", "2 4 3 6", "3 5 6"])
    home = tmp_path / "yoochoose1_64"
    written(home / "train_sessions.txt.gz", [" ".join(map(str, row)) for row in TRAIN])
    written(home / "test_prefix_target.txt.gz", ["7 99 8\t9", "7\t8", "5\t99", "99\t5"])
    return tmp_path


def raw(data, rows: Ragged) -> list[list[int | None]]:
    names = [None, *data.items.raw_ids.to_list()]
    return [[names[int(i)] for i in row] for row in rows.tolist()]


def test_beauty_leaves_the_last_two_out(folder):
    split = sequences.beauty(folder)
    test, valid = split.test, split.valid
    assert raw(split.train, test.truth) == [[6], [6]]
    assert raw(split.train, test.seen) == [[3, 4, 5], [4, 3]]
    assert raw(split.train, test.contexts.history) == [[3, 4, 5], [4, 3]]
    assert raw(split.train, valid.contexts.history) == [[3, 4], [4]]
    assert len(split.train.events) == 2 + 1 + 2  # who has fewer than three stays whole
    assert test.candidates is None


def test_yoochoose_asks_every_prefix_of_the_file(folder):
    split = sequences.yoochoose(folder)
    train, test = split.train, split.test
    assert train.schema.n_users == 1  # nobody is known
    assert raw(train, train.histories.take(torch.arange(1, 21))) == TRAIN
    assert raw(train, test.contexts.history) == [[7, 8], [7], [5], []]
    assert raw(train, test.truth) == [[9], [8], [None], [5]]
    assert not test.seen.values.numel()
    assert not test.contexts.user.any()
    assert split.facts["test_unknown"] == 1
    assert "every prefix" in test.protocol


def test_yoochoose_validation_is_the_last_tenth_of_the_sessions(folder):
    train = sequences.yoochoose(folder).train
    inner = sequences.yoochoose_validation(train)
    assert raw(inner.train, inner.train.histories.take(torch.arange(1, 19))) == TRAIN[:18]
    assert raw(inner.train, inner.test.contexts.history) == [[5], [5, 7], [6]]
    assert raw(inner.train, inner.test.truth) == [[7], [None], [5]]
    assert inner.facts["test_unknown"] == 1
    assert len(inner.train.events) == len(train.events) - 5


def test_sessions_train_and_are_measured(folder):
    split = sequences.yoochoose(folder)
    net, _ = fit(GRU4Rec(dim=8, epochs=2), split.train)
    report = evaluate(NetScorer(net, split.train.trained_items), split.test, ["hr@2", "mrr@2"])
    assert 0 <= report.value("mrr@2") <= report.value("hr@2") <= 0.75  # one of four targets is nowhere to be found


def test_prefixes_are_all_that_something_follows():
    prefixes, targets = sequences.prefixes_of(Ragged.of([[1, 2, 3], [], [4], [5, 6]]))
    assert prefixes.tolist() == [[1], [1, 2], [5]]
    assert targets.tolist() == [2, 3, 6]


@pytest.mark.skipif(not (DATA / "s3rec-beauty").exists(), reason="the real data are not here")
def test_counts_of_the_real_beauty():
    split = sequences.beauty(DATA)
    assert split.train.schema.n_users - 1 == len(split.test) == len(split.valid) == 22_363
    assert len(split.train.events) == 198_502 - 2 * 22_363
    known = set(split.train.items.raw_ids.to_list())
    assert len(known) <= 12_101


@pytest.mark.skipif(not (DATA / "yoochoose1_64").exists(), reason="the real data are not here")
def test_counts_of_the_real_yoochoose():
    split = sequences.yoochoose(DATA)
    assert split.facts == {"train_events": 486_026, "test_queries": 55_898, "test_unknown": 412}
    assert split.train.schema.n_items - 1 == 17_376
    inner = sequences.yoochoose_validation(split.train)
    assert len(torch.unique(inner.train.events.visitor)) == 116_167 * 9 // 10
