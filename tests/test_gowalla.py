"""Gowalla's loader on a made-up copy of the layout."""

import gzip
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent.parent / "benchmarks")]

import gowalla  # noqa: E402

from tests.helpers import raw_items  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "gowalla"
    home.mkdir()
    lines = {"train": "7 " + " ".join(map(str, range(20))) + "\n3 5 4\n9 1\n", "test": "3 0 6 \n7 21\n9\n"}
    for name, text in lines.items():
        with gzip.open(home / f"{name}.txt.gz", "wt") as file:
            file.write(text)
    return tmp_path


def test_each_item_of_a_line_is_an_event_and_train_is_taken_out(folder):
    split = gowalla.gowalla(folder)
    assert (split.facts["train_events"], split.facts["test_events"], split.facts["test_truth_unknown"]) == (23, 3, 1)
    users = split.train.users.raw_ids.gather(split.test.contexts.user.numpy() - 1).to_list()
    asked = dict(zip(users, split.test.truth.tolist(), strict=True))
    seen = dict(zip(users, split.test.seen.tolist(), strict=True))
    assert raw_items(split.train, asked[3]) == [0, 6]
    assert asked[7] == [0]  # 21 stands in test alone: a miss for every model
    assert raw_items(split.train, seen[3]) == [5, 4]
    assert split.valid is None


def test_validation_is_a_drawn_tenth_of_train(folder):
    train = gowalla.gowalla(folder).train

    def held(seed: int) -> list[int]:
        inner = gowalla.validation(train, seed)
        assert inner.facts["test_events"] == 2  # two of twenty, none of two and of one
        return sorted(set(raw_items(train, range(1, 21))) - set(raw_items(inner.train, inner.train.events.item)))

    assert held(0) == held(0)
    assert held(0) != held(1)
