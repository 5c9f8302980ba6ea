"""Explanations add up to the score that ``recommend`` gives; vectors are those that scores are made of."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

import suisen as su
from suisen.errors import InputError, UnsupportedQuery
from suisen.models import FM, ItemKNN
from suisen.pipeline import Recommender
from tests.fitted import LONELY, allowed_of, fitted, small_split

HISTORIES = [["i003", "i010", "i044"], ["i007"], ["i001", "i002", "i003", "i004", "i005", "i001", "i060"]]


@pytest.fixture(scope="module")
def knn():
    return Recommender(ItemKNN(neighbours=10)).fit(small_split().train)


@pytest.mark.parametrize("name", ["ease", "ials", "item-knn"])
@pytest.mark.parametrize("history", HISTORIES)
def test_contributions_of_the_history_add_up_to_the_score(name, history, knn):
    rec = knn if name == "item-knn" else fitted(name)
    top = rec.recommend(history=[history], k=5)
    for item, score in zip(top["item_id"], top["score"]):
        why = rec.explain(item, history=[history])
        assert why.columns == ["item_id", "title", "contribution"]
        assert sorted(why["item_id"]) == sorted(set(history))
        assert why["contribution"].sum() == pytest.approx(score, abs=1e-5)
        assert why["contribution"].to_list() == sorted(why["contribution"], reverse=True)


@pytest.mark.parametrize("name", ["ease", "ials"])
def test_a_known_user_is_explained_by_what_is_stored_of_it(name):
    rec = fitted(name)
    user = small_split().train.users.raw_ids[3]
    top = rec.recommend([user], k=2)
    assert rec.explain(top["item_id"][0], user)["contribution"].sum() == pytest.approx(top["score"][0], abs=1e-5)


def test_ease_and_knn_say_what_each_item_alone_would_give(knn):
    for rec in (fitted("ease"), knn):
        why = rec.explain("i020", history=HISTORIES[0])
        for item, share in zip(why["item_id"], why["contribution"]):
            alone = rec.recommend(history=[[item]], k=80, exclude_seen=False)
            assert alone.filter(pl.col("item_id") == "i020")["score"].to_list() == pytest.approx([share], abs=1e-6)


@pytest.mark.parametrize("name", ["fm", "deepfm", "ease + fm", "two-tower + deepfm"])
def test_contributions_of_fields_add_up_to_the_score(name):
    rec = fitted(name)
    user = small_split().train.users.raw_ids[5]
    top = rec.recommend([user], k=4)
    fields = set()
    for item, score in zip(top["item_id"], top["score"]):
        why = rec.explain(item, user)
        fields |= set(why["field"]) | set(why["with"].drop_nulls())
        assert why.columns == ["field", "with", "contribution"]
        assert why["contribution"].sum() == pytest.approx(score, abs=1e-5)
        assert ("deep net" in why["field"]) == ("deepfm" in name)
        assert ("retrieval_score" in why["field"]) == ("+" in name)
    assert {"user", "item", "bias"} <= fields
    assert any(field.startswith("item.") for field in fields)


def test_a_field_that_alone_differs_gets_all_of_the_difference():
    """FM: two users' features that differ in one field differ in that field's rows alone."""
    rec = fitted("fm")
    name = next(c.name for c in rec.store.encoders["user"].columns if c.kind == "categorical")
    values = [v for c in rec.store.encoders["user"].columns if c.name == name for v in c.vocabulary][:2]
    frames = [rec.explain("i020", history=HISTORIES[0], user_features={name: value}) for value in values]
    shares = [
        {(row["field"], row["with"]): row["contribution"] for row in frame.iter_rows(named=True)} for frame in frames
    ]
    moved = {key for key in shares[0] | shares[1] if shares[0].get(key) != shares[1].get(key)}
    assert moved
    assert all(f"user.{name}" in key for key in moved)


@pytest.mark.parametrize("name", ["fm", "deepfm"])
def test_the_rows_of_a_field_are_what_the_score_loses_without_it(name):
    rec, train = fitted(name), small_split().train
    user = train.users.raw_ids[5]
    dense = int(train.users.dense([user])[0])
    past = rec.store.items.raw(rec.store.histories.take(torch.tensor([dense])).values.numpy()).to_list()
    features = {c: v for c, v in rec.store.user_frame.row(dense, named=True).items() if v is not None}
    whole, without = (
        {row["item_id"]: row["score"] for row in rec.recommend(k=80, **query).iter_rows(named=True)}
        for query in ({"users": [user]}, {"history": [past], "user_features": features})
    )
    for item in list(whole)[:3]:
        why = rec.explain(item, user).filter((pl.col("field") == "user") | (pl.col("with") == "user"))
        assert why["contribution"].sum() == pytest.approx(whole[item] - without[item], abs=1e-5)


def test_the_retriever_of_two_stages_can_be_asked():
    rec, alone = fitted("ease + fm"), fitted("ease")
    why = rec.explain("i020", history=HISTORIES[0], stage="retriever")
    assert why["contribution"].to_list() == pytest.approx(
        alone.explain("i020", history=HISTORIES[0])["contribution"].to_list(), abs=1e-5
    )
    shown = rec.recommend(history=[HISTORIES[0]], k=30)["item_id"]
    outside = next(i for i in sorted(allowed_of(rec)) if i not in shown and i not in HISTORIES[0])
    with pytest.raises(UnsupportedQuery, match="not among the 30 candidates"):
        rec.explain(outside, history=HISTORIES[0])


@pytest.mark.parametrize(
    ("name", "item", "query", "message"),
    [
        ("mf", "i020", {"user": "u0001"}, "mf cannot explain a score: EASE, ItemKNN and IALS"),
        ("sasrec", "i020", {"history": ["i001"]}, "FM and DeepFM by fields"),
        ("ease + sasrec", "i020", {"history": HISTORIES[0]}, "stage='retriever'|not among"),
        ("ease", "i999", {"history": ["i001"]}, "item 'i999' is unknown"),
        ("ease", "i020", {"user": LONELY}, "brings neither a history"),
        ("ease", "i020", {"history": [["i001"], ["i002"]]}, "give one user or one history"),
        ("ease", "i020", {"history": ["i001"], "stage": "first"}, "stage = 'first' is unknown"),
    ],
)
def test_what_cannot_be_explained_says_who_can(name, item, query, message):
    with pytest.raises(InputError, match=message):
        fitted(name).explain(item, **query)


@pytest.mark.parametrize("name", ["ials", "mf", "two-tower", "sasrec", "two-tower + deepfm"])
def test_vectors_are_those_that_scores_are_made_of(name):
    rec = fitted(name)
    items, users = rec.vectors("items"), rec.vectors("users")
    assert items.columns == ["item_id", "vector"]
    assert users.columns == ["user_id", "vector"]
    assert items["vector"].dtype.inner == pl.Float32
    if "+" in name:
        return
    user = small_split().train.users.raw_ids[4]
    top = rec.recommend([user], k=5)
    own = users.filter(pl.col("user_id") == user)["vector"][0].to_numpy()
    for item, score in zip(top["item_id"], top["score"]):
        theirs = items.filter(pl.col("item_id") == item)["vector"][0].to_numpy()
        assert float(np.dot(own, theirs)) == pytest.approx(score, rel=1e-4, abs=1e-5)
    assert items.height == rec.engine.n_allowed


def test_models_without_vectors_say_so():
    for name in ("ease", "fm"):
        with pytest.raises(UnsupportedQuery, match="has no vectors"):
            fitted(name).vectors("items")
    with pytest.raises(InputError, match="of = 'item' is unknown; did you mean 'items'"):
        fitted("ials").vectors("item")


def test_explanations_survive_saving(tmp_path):
    rec = Recommender(ranker=FM(dim=4, epochs=1)).fit(small_split().train)
    again = su.load(rec.save(tmp_path / "b"))
    first, second = (each.explain("i020", history=HISTORIES[0]) for each in (rec, again))
    assert first.equals(second)
