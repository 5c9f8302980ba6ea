"""Gowalla in the split of LightGCN and NGCF: check-ins as lines ``user item item …``, train and test, without times.

The split has no validation part: ``validation`` holds a tenth of each user's train out; what is picked there is trained
again on all of train.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import polars as pl
from common import place

from suisen.data.dataset import Dataset, Split
from suisen.data.log import Col, Log
from suisen.data.splits import Ratio, given_split

METRICS = ["recall@20", "ndcg@20"]


def gowalla(folder: Path) -> Split:
    """Train and test as published; full ranking, train's items excluded, several truths a user."""
    home = place(folder, "gowalla")
    split = given_split(_check_ins(home / "train.txt.gz"), _check_ins(home / "test.txt.gz"), order="random")
    return replace(split, test=replace(split.test, protocol="split of He et al. 2020"))


def validation(train: Dataset, seed: int = 0) -> Split:
    """A tenth of each user's train, drawn, as the test of a smaller train: for picking, never from test."""
    return Ratio(test=0.1, valid=0, by="random", seed=seed).split(train)


def _check_ins(path: Path) -> Log:
    """One event an item of each line; a user without items has none."""
    with gzip.open(path, "rt") as file:
        rows = pl.Series("line", file.read().splitlines()).str.strip_chars().str.split(" ").cast(pl.List(pl.Int64))
    frame = pl.DataFrame({Col.USER: rows.list.first(), Col.ITEM: rows.list.slice(1)}).filter(
        pl.col(Col.ITEM).list.len() > 0
    )
    events = frame.explode(Col.ITEM)
    return Log(events.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(Col.ROW)))
