"""What is kept of a log before it is split, and whether a split keeps its promise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import torch

from suisen.data.batch import Queries
from suisen.data.cut import Split
from suisen.data.dataset import Col, Dataset, Log
from suisen.data.when import spelt
from suisen.errors import InputError


def k_core(source: Dataset | Log, users: int = 5, items: int = 5) -> Dataset:
    """The largest part in which each visitor has ``users`` and each item ``items`` positives or more.

    Found by dropping what has fewer until nothing falls any more.  Events of label 0 stay where their visitor and item
    do; what falls out of the events falls out of the tables too.  A note says what went.  Fails where nothing is left.
    """
    data = source if isinstance(source, Dataset) else Dataset.of(source)
    visitor, item = data.events.visitor.numpy(), data.events.item.numpy()
    keep, positive = np.ones(len(visitor), dtype=bool), data.positive.numpy()
    while True:
        of_visitor = np.bincount(visitor[keep & positive], minlength=int(data.events.offsets.numel()) - 1)
        of_item = np.bincount(item[keep & positive], minlength=data.schema.n_items)
        left = keep & (of_visitor[visitor] >= users) & (of_item[item] >= items)
        if (left == keep).all():
            break
        keep = left
    if not keep.any():
        raise InputError(f"k_core(users={users}, items={items}) leaves nothing; ask for fewer events a user and item")
    return Dataset.of(_core(data, keep, f"k-core (users {users}, items {items})"))


def _core(data: Dataset, keep: np.ndarray[tuple[int], np.dtype[np.bool_]], name: str) -> Log:
    """The log of the events kept, its tables cut to them, with a note."""
    log = data.log
    events = log.events.filter(pl.Series(keep))
    users, items = _within(log.users, events[Col.USER]), _within(log.items, events[Col.ITEM])
    before = (log.events.height, _distinct(log.events, Col.USER), _distinct(log.events, Col.ITEM))
    after = (events.height, _distinct(events, Col.USER), _distinct(events, Col.ITEM))
    lost = [f"{b - a:,} {what}" for b, a, what in zip(before, after, ("events", "users", "items"), strict=True)]
    notes = (*log.notes, f"{name} dropped {', '.join(lost)}")
    return replace(log, events=events, users=users, items=items, notes=notes)


def _distinct(events: pl.DataFrame, name: Col) -> int:
    return events[name].drop_nulls().n_unique()


def _within(table: pl.DataFrame | None, ids: pl.Series) -> pl.DataFrame | None:
    """The table's rows whose first column is among ``ids``."""
    if table is None:
        return None
    key = table.columns[0]
    return table.join(ids.unique().alias(key).to_frame(), on=key, how="semi", maintain_order="left")


def check_no_future(split: Split) -> None:
    """Raises InputError where train holds what lies in the future of a question, by the split's own promise.

    Per user: no event of train later than the first truth of the same user (guests cannot be matched).  Global time:
    none at or after the cut.  Sessions: none that began at or after it.  Always: ids, vocabularies and means are those
    that train's log alone gives.  Splits at random or without time promise nothing and are refused.
    """
    if split.order == "random":
        raise InputError("the split is random: train holds the future of what is asked; split by time to measure that")
    if split.order == "place":
        raise InputError("the log has no time, so the future cannot be told from the past; name the time column")
    train = split.train
    if split.order == "user":
        for name, queries in (("valid", split.valid), ("test", split.test)):
            if queries is not None:
                _check_users(train, name, queries)
    else:
        _check_cut(split)
    alone = Dataset.of(train.log)
    same_ids = alone.users.raw_ids.equals(train.users.raw_ids) and alone.items.raw_ids.equals(train.items.raw_ids)
    if not same_ids or alone.encoders != train.encoders:
        raise InputError("train's ids or feature statistics come from more than train; build it with Dataset.of")


def _check_users(train: Dataset, name: str, queries: Queries) -> None:
    known = (queries.contexts.user > 0) & train.trained_users[queries.contexts.user]
    user, time = queries.contexts.user[known], queries.contexts.time[known]
    latest = train.events.time[train.events.offsets[user + 1] - 1]
    late = torch.nonzero(latest > time).squeeze(1)
    if late.numel():
        who = train.users.raw(user[late[:1]].numpy())[0]
        raise InputError(
            f"train holds events later than the {name} truth of {late.numel():,} users "
            f"(the first: {who!r}, {spelt(int(latest[late[0]]))} after {spelt(int(time[late[0]]))}); split by time"
        )


def _check_cut(split: Split) -> None:
    events, cut = split.train.events, split.cut or 0
    time = events.time
    if split.order == "session":
        time = time[events.offsets[:-1][events.offsets.diff() > 0]]
    late = int((time >= cut).sum())
    if late:
        what = "sessions" if split.order == "session" else "events"
        raise InputError(f"train holds {late:,} {what} at or after the cut ({spelt(cut)}); move them to valid or test")
