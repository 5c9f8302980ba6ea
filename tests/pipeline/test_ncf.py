"""The NCF family in a pipeline: several phases as either stage, trained, saved and loaded."""

from __future__ import annotations

import pytest
import torch

import suisen as su
from suisen.models import EASE, GMF, MF, MLP, ItemKNN, NeuMF
from suisen.recommending.engine import Filters
from tests.fitted import small_split

HIDDEN = {"hidden": (8, 4), "epochs": 2, "batch_size": 128}
STAGES = {
    "item-knn + neumf": (ItemKNN(neighbours=20), NeuMF(gmf_dim=4, mlp_dim=4, **HIDDEN)),
    "gmf + mlp": (GMF(dim=8, epochs=2, batch_size=256), MLP(dim=4, **HIDDEN)),
    "ease + gmf": (EASE(l2=20.0), GMF(dim=8, epochs=2, batch_size=256)),
    "neumf": (None, NeuMF(gmf_dim=4, mlp_dim=4, **HIDDEN)),
}


@pytest.fixture(params=list(STAGES), scope="module")
def rec(request) -> su.Recommender:
    retriever, ranker = STAGES[request.param]
    split = small_split()
    return su.Recommender(retriever, ranker, candidates=30, seed=1).fit(split.train, split.valid)


def test_names_and_phases(rec):
    assert rec.name in STAGES
    assert len(rec.curves["ranker"]) == (3 if "neumf" in rec.name else 1)
    for curve in rec.curves["ranker"]:
        assert curve.best_metric is not None


def test_saved_and_loaded_it_recommends_the_same(rec, tmp_path):
    rec.save(tmp_path / "bundle")
    again = su.load(tmp_path / "bundle")
    users = small_split().train.users.raw_ids.to_list()[:20]
    frames = [one.recommend(users, k=7) for one in (rec, again)]
    assert frames[0].equals(frames[1])
    assert frames[0].height == 140


def test_the_second_stage_reads_the_retrieval_score():
    """A ranker that has learnt next to nothing keeps the order of the first stage."""
    split = small_split()
    for ranker in (MLP(dim=4, **{**HIDDEN, "epochs": 1}, learning_rate=1e-30), NeuMF(gmf_dim=4, mlp_dim=4, **HIDDEN)):
        plain = su.Recommender(MF(dim=8, epochs=3, batch_size=512), candidates=30, seed=1).fit(split.train)
        two = su.Recommender(MF(dim=8, epochs=3, batch_size=512), ranker, candidates=30, seed=1).fit(split.train)
        filters = Filters(split.test.seen)
        first, _ = plain.engine.lists(split.test.contexts, 10, filters)
        second, _ = two.engine.lists(split.test.contexts, 10, filters)
        both = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(first, second)]
        assert torch.tensor(both).float().mean() > 7
