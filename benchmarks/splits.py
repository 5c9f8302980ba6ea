"""Published splits in their official layouts, as Datasets and queries of the package."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import polars as pl
from common import place

from suisen.data.candidates import given_negatives, with_negatives
from suisen.data.dataset import Dataset, Split
from suisen.data.log import Col, Log
from suisen.data.ordered import OrderedLog
from suisen.data.splits import LeaveLast, given_split

NCF_ITEMS = 3706
"""Items of the split of He et al. 2017; two of them stand in test or its negatives alone."""
VALID_USERS = 1024
MICROSECONDS = 1_000_000


def ncf(folder: Path) -> Split:
    """The split of He et al. 2017 with its 99 negatives per user.

    The item table names all items, so that those two are candidates like any other; the copy of the target among its
    own negatives (156 users) is padding.
    """
    home = place(folder, "ncf-ml-1m")
    catalogue = pl.DataFrame({Col.ITEM: range(NCF_ITEMS)}, schema={Col.ITEM: pl.Int64})
    train = _ratings(home / "ml-1m.train.rating.gz", catalogue)
    test = _ratings(home / "ml-1m.test.rating", catalogue)
    split = given_split(train, test, order="user")
    queries = given_negatives(split.test, _negatives(home / "ml-1m.test.negative.gz"), split.train)
    return replace(split, test=replace(queries, protocol=f"latest out (He et al. 2017); {_after(queries.protocol)}"))


def ncf_validation(train: Dataset, seed: int = 0) -> Split:
    """Each user's last event of train held out, among 99 negatives drawn once: for picking, never from test."""
    split = LeaveLast(test=1, valid=0).split(train)
    return replace(split, test=with_negatives(split.test, split.train, n=99, seed=seed))


def sasrec(folder: Path) -> Split:
    """ML-1M of Kang & McAuley 2018: lines in time order; a user's last item is test.  Validation asks 1,024 drawn users
    for the item before it (as Petrov & Macdonald 2023 ask some users): all others learn from theirs.
    """
    home = place(folder, "sasrec")
    with gzip.open(home / "ml-1m.txt.gz") as file:
        frame = pl.read_csv(file.read(), separator=" ", has_header=False, new_columns=[Col.USER, Col.ITEM])
    return LeaveLast(test=1, valid=1, valid_users=VALID_USERS).split(OrderedLog.of(Log(_placed(frame), ordered=True)))


def _ratings(path: Path, catalogue: pl.DataFrame) -> Log:
    frame = pl.read_csv(path.read_bytes(), separator="\t", has_header=False, new_columns=["user", "item", "r", "time"])
    return Log(_placed(frame.select(Col.USER, Col.ITEM, pl.col(Col.TIME) * MICROSECONDS)), items=catalogue)


def _placed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(Col.ROW))


def _negatives(path: Path) -> pl.DataFrame:
    """Lines ``(user,item) TAB negative TAB negative …`` as user and negatives."""
    with gzip.open(path) as file:
        lines = pl.Series("line", file.read().decode().splitlines())
    parts = lines.str.split("\t")
    user = parts.list.first().str.extract(r"\((\d+),").cast(pl.Int64).alias(Col.USER)
    negatives = parts.list.slice(1).cast(pl.List(pl.Int64)).alias("negatives")
    return pl.DataFrame([user, negatives])


def _after(protocol: str) -> str:
    return protocol.partition("; ")[2]
