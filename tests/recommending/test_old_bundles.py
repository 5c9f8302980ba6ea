"""Bundles saved by the version before (format 1, commit 6c8df1c, ``bundles_of_format_1/made_by.txt``) still load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import suisen as su
from suisen.data.batch import Field, Schema
from suisen.models import MODELS

OLD = Path(__file__).parent / "bundles_of_format_1"
BUNDLES = ["ease-deepfm", "two-tower-hnsw", "ials-sasrec", "wide-deep"]
WEIGHTS = json.loads((OLD / "weights.json").read_text(encoding="utf-8"))
"""Name of each model of that version → its hyper-parameters and the shapes of its weights."""
AT = 1_800_000_000_000_000
SCHEMA = Schema(
    n_users=25,
    n_items=41,
    user=(Field("age", "numeric"), Field("segment", "categorical", 4)),
    item=(Field("price", "numeric"), Field("category", "categorical", 4), Field("tags", "multi", 4)),
    context=(Field("device", "categorical", 3),),
)


def near(rows):
    """Rows of a frame with their scores to a tolerance: machines round differently."""
    return [{**row, "score": pytest.approx(row["score"], rel=1e-3, abs=1e-4)} for row in rows]


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_of_the_version_before_answers_as_it_did(name):
    rec = su.load(OLD / name)
    for said in json.loads((OLD / f"{name}.json").read_text(encoding="utf-8")):
        if name.startswith("ease") and ("similar" in said or said["ask"].get("diversity")):
            continue  # it compared rows of weights whose diagonal is 0, so that what is most alike came out as unlike
        if "similar" in said:
            found = rec.similar_items([said["similar"]], 4)
        else:
            found = rec.recommend(k=5, unknown="popular", at=AT, **said["ask"])
        assert found.to_dicts() == near(said["rows"])


@pytest.mark.parametrize("name", BUNDLES)
def test_saved_again_it_is_of_this_format_and_answers_the_same(name, tmp_path):
    rec = su.load(OLD / name)
    again = su.load(rec.save(tmp_path / name))
    one, two = (r.recommend(users=["u0003"], k=5, at=AT) for r in (rec, again))
    assert one.equals(two)


@pytest.mark.parametrize("name", WEIGHTS)
def test_hyper_parameters_and_weights_keep_their_names_and_shapes(name):
    """What any bundle of the version before holds of a model: its fields, their defaults, its weights."""
    old = WEIGHTS[name]
    lists = {key: tuple(value) if isinstance(value, list) else value for key, value in old["hyper"].items()}
    made = MODELS[name](**lists)
    torch.manual_seed(0)
    weights = made.build(SCHEMA).state_dict()
    assert {key: list(value.shape) for key, value in weights.items()} == old["weights"]
