"""Small worlds, and every model fitted on one of them once a session."""

from __future__ import annotations

from functools import cache

import polars as pl
import pytest
import torch

from suisen.data.dataset import Dataset
from suisen.data.splits import LeaveLast
from suisen.data.synthetic import World
from suisen.models import EASE, FM, IALS, MF, DeepFM, Popularity, SASRec, TwoTower
from suisen.pipeline.recommender import Recommender

MODELS = {
    "popularity": Popularity(),
    "ease": EASE(l2=20.0),
    "ials": IALS(dim=8, epochs=3),
    "mf": MF(dim=8, epochs=3, batch_size=512),
    "two-tower": TwoTower(dim=8, hidden=(8,), epochs=3, batch_size=256),
    "sasrec": SASRec(dim=8, epochs=2, blocks=1, heads=1, length=10),
}
RANKERS = {
    "fm": FM(dim=4, epochs=3, batch_size=256),
    "deepfm": DeepFM(dim=4, hidden=(8,), epochs=3, batch_size=256),
}
NEW_USER, NEW_ITEM, LONELY = "u0000", "i000", "u9999"
"""In the tables, without events: a user and an item with features, and a user of whom nothing else is known."""


def small_log(ids: str = "text"):
    """60 users, 80 items, with features, titles beyond ASCII, a context column, and ids of either type."""
    log = World(users=60, items=80, dim=4, groups=3, sessions=3, events=4, seed=3).generate().log
    events = log.events.drop("session").with_columns(
        pl.when(pl.col("row") % 3 == 0).then(pl.lit("phone")).otherwise(pl.lit("desk")).alias("device")
    )
    users = pl.concat([log.users, log.users.head(1).with_columns(pl.lit(0, pl.Int64).alias("user"))])
    users = pl.concat([users, pl.DataFrame({"user": [9999]})], how="diagonal")
    items = pl.concat([log.items, log.items.head(1).with_columns(pl.lit(0, pl.Int64).alias("item"))])
    items = items.with_columns(pl.format("日本 «{}»", "title").alias("title"))
    if ids == "text":
        spell = {"user": pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(4)).alias("user")}
        spell["item"] = pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(3)).alias("item")
        events = events.with_columns(spell["user"], spell["item"])
        users, items = users.with_columns(spell["user"]), items.with_columns(spell["item"])
    kinds = {**log.kinds, "device": "categorical"}
    return type(log)(events, users, items, kinds)


@cache
def small_split(ids: str = "text"):
    """The small log, the last two events of each user held out."""
    return Dataset.of(small_log(ids)).split(LeaveLast(test=1, valid=1))


@cache
def fitted(name: str, ids: str = "text") -> Recommender:
    """``ease``, ``fm``, ``ease + fm``, ``ease, mf + fm``, …: fitted on the small train.  Shared: not to be changed."""
    first, _, second = name.partition(" + ")
    retriever = [MODELS[one] for one in first.split(", ")] if ", " in first else MODELS.get(first)
    ranker = (MODELS | RANKERS)[second] if second else RANKERS.get(first)
    return Recommender(retriever, ranker, candidates=30, seed=1).fit(small_split(ids).train)


UNIONS = ["two-tower, ease", "mf, popularity + fm", "ease, ials, popularity + deepfm", "sasrec, mf + ials"]
EVERY = [*MODELS, *RANKERS, "ease + fm", "two-tower + deepfm", "popularity + fm", "ease + sasrec", *UNIONS]


@pytest.fixture(params=EVERY)
def rec(request) -> Recommender:
    return fitted(request.param)


@pytest.fixture
def split():
    return small_split()


def seen_by(rec: Recommender, user) -> set:
    """Raw items of a user's stored history."""
    dense = int(rec.store.users.dense([user])[0])
    row = rec.store.histories.take(torch.tensor([dense]))
    return set(rec.store.items.raw(row.values.numpy()).to_list()) if row.values.numel() else set()


def allowed_of(rec: Recommender) -> set:
    """Raw items that may be recommended to somebody."""
    return set(rec.store.items.raw(rec.engine.allowed.nonzero().squeeze(1).numpy()).to_list())


def lists_of(frame: pl.DataFrame) -> dict:
    """user_id → items, in order."""
    return {user[0]: part["item_id"].to_list() for user, part in frame.group_by(["user_id"], maintain_order=True)}
