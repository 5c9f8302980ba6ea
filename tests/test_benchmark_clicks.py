"""Loaders of click data, on made-up copies of the official layouts."""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "benchmarks")]

import clicks  # noqa: E402

from suisen.models import FM  # noqa: E402
from suisen.pipeline import Recommender, evaluate  # noqa: E402

STARTS = list(clicks.OFFSETS.values())


def line(label: int, *codes: int) -> str:
    return " ".join([str(label), *(f"{start + code}:1" for start, code in zip(STARTS, codes))])


@pytest.fixture
def folder(tmp_path):
    train = [line(1 if n % 3 == 0 else -1, n % 5, 10 + n % 7, n % 7, n % 7, n % 2, 0, 0, 1, 79, 200) for n in range(40)]
    valid = [line(1, 0, 10, 0, 0, 0, 0, 0, 1, 79, 200), line(-1, 1, 11, 0, 0, 1, 0, 0, 1, 79, 200)]
    test = [line(-1, 2, 12, 1, 1, 0, 0, 0, 1, 79, 200), line(1, 900, 4000, 0, 0, 0, 2, 0, 8, 3, 4)]
    (tmp_path / "frappe").mkdir()
    for name, lines in (("train.redrawn", train), ("validation", valid), ("test", test)):
        with gzip.open(tmp_path / "frappe" / f"frappe.{name}.libfm.gz", "wt") as file:
            file.write("\n".join(lines) + "\n")
    return tmp_path


def test_frappe_keeps_every_row_and_its_split(folder):
    split = clicks.frappe(folder)
    train = split.train
    assert (len(train.events), len(split.valid), len(split.test)) == (40, 2, 2)
    assert train.events.label.sum() == 14
    assert train.schema.n_users == 6
    assert train.schema.n_items == clicks.FRAPPE_APPS + 1
    assert [field.name for field in train.schema.context] == list(clicks.CONTEXT)
    assert [field.size for field in train.schema.context] == [8, 8, 3, 2, 2, 2, 2, 2]
    assert (train.context_features.categorical > 0).all()
    assert split.valid.labels.tolist() == [[1], [0]]
    assert "re-drawn" in split.test.protocol


def test_frappe_what_train_lacks_is_unknown(folder):
    split = clicks.frappe(folder)
    test, label = split.test, split.test.labels[:, 0]
    stranger = test.contexts.take((label > 0).nonzero().squeeze(1))
    assert stranger.user.tolist() == [0]
    assert stranger.context_features.categorical.tolist()[0][3:] == [0, 1, 0, 0, 0]
    app = int(test.candidates[label > 0])
    assert split.train.items.raw([app]).to_list() == [4000]
    assert not split.train.trained_items[app]


def movies(folder: Path) -> None:
    ratings = [f"{u}::{1 + (u * i) % 4}::{1 + (u + i) % 5}::97{u}{i}" for u in range(1, 9) for i in range(1, 6)]
    users = [f"{u}::{'FM'[u % 2]}::{(1, 18, 25)[u % 3]}::{u}::00000" for u in range(1, 9)]
    films = ["1::A (1995)::Drama|War", "2::B (1999)::Drama", "3::C (2000)::Comedy", "4::D (1971)::War"]
    with zipfile.ZipFile(folder / "ml-1m.zip", "w") as archive:
        for name, lines in (("ratings", ratings), ("users", users), ("movies", films)):
            archive.writestr(f"ml-1m/{name}.dat", "\n".join(lines) + "\n")


def test_movielens_as_clicks_drops_the_threes_alone(tmp_path):
    movies(tmp_path)
    split = clicks.ml1m_clicks(tmp_path, seed=3)
    ratings = [1 + (u + i) % 5 for u in range(1, 9) for i in range(1, 6)]
    kept = [rating for rating in ratings if rating != 3]
    assert len(split.train.events) + len(split.valid) + len(split.test) == len(kept)
    positives = int(split.train.events.label.sum() + split.valid.labels.sum() + split.test.labels.sum())
    assert positives == sum(rating > 3 for rating in kept)
    assert split.notes == (f"{ratings.count(3)} ratings of 3 dropped",)
    assert [field.name for field in split.train.schema.user] == ["gender", "age", "occupation"]
    assert {field.name: field.kind for field in split.train.schema.item} == {"decade": "categorical", "genres": "multi"}
    assert set(split.train.encoders["item"].columns[0].vocabulary) == {"1970", "1990", "2000"}
    assert not split.train.has_time


def test_movielens_parts_go_by_the_seed(tmp_path):
    movies(tmp_path)
    first, again, other = (clicks.ml1m_clicks(tmp_path, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.events.item, again.train.events.item)
    assert not torch.equal(first.train.events.item, other.train.events.item)


def test_a_ranker_alone_is_stopped_and_measured_on_clicks(folder):
    """A Recommender of a ranker alone validates by AUC; an app that train lacks has a score like any other."""
    split = clicks.frappe(folder)
    model = FM(dim=2, history=0, recent=0, hide_ids=0.0, epochs=2)
    found = Recommender(ranker=model).fit(split.train, split.valid)
    (curve,) = found.curves["ranker"]
    assert [row.metric in (0.0, 0.5, 1.0) for row in curve.rows] == [True, True]  # one click, one non-click
    report = evaluate(found, split.test)
    assert [score.metric for score in report.scores] == ["auc", "logloss"]
    assert report.value("logloss") < 10
