"""Small logs by hand."""

from __future__ import annotations

import polars as pl
import torch
from hypothesis import strategies as st

from suisen.data import read
from suisen.data.dataset import Dataset
from suisen.data.log import Log
from suisen.parameters import keywords_of

read_frame = keywords_of(read.ReadOptions)(read.read_frame)
read_path = keywords_of(read.ReadOptions)(read.read_path)

TYPES = {"time": pl.Int64, "row": pl.Int64, "label": pl.Int8, "weight": pl.Float64}


def make_log(users=None, items=None, kinds=None, **columns) -> Log:
    """A log of the columns given, in the order given; ``users`` and ``items`` are tables as dicts."""
    columns.setdefault("row", list(range(len(columns["item"]))))
    types = {name: kind for name, kind in TYPES.items() if name in columns}
    if all(value is None for value in columns["user"]):
        types["user"] = pl.String
    table = [None if t is None else pl.DataFrame(t, strict=False) for t in (users, items)]
    return Log(pl.DataFrame(columns, schema_overrides=types), *table, kinds=kinds or {})


def make_data(**columns) -> Dataset:
    """The data set of such a log."""
    return Dataset.of(make_log(**columns))


def raw_items(data: Dataset, dense) -> list:
    """Raw items of dense ones, None for 0."""
    names = [None, *data.items.raw_ids.to_list()]
    return [names[i] for i in dense]


@st.composite
def logs(draw, labels=None, times=None):
    """Up to 25 events of a few users and items, with or without labels and times, ties in time among them."""
    n = draw(st.integers(1, 25))
    column = lambda values: draw(st.lists(values, min_size=n, max_size=n))  # noqa: E731
    columns = {"user": column(st.sampled_from("abc")), "item": column(st.integers(1, 6))}
    if draw(st.booleans()) if times is None else times:
        columns["time"] = column(st.integers(1, 10))
    if draw(st.booleans()) if labels is None else labels:
        columns["label"] = column(st.integers(0, 1))
    columns["row"] = draw(st.permutations(range(n)))
    return make_log(**columns)


def in_order(log):
    """The log's events as dicts, in the order of time, then place."""
    return sorted(log.events.to_dicts(), key=lambda e: (e.get("time", 0), e["row"]))


def same(a, b) -> bool:
    """Equality of datasets, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, pl.DataFrame | pl.Series):
        return a.equals(b)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if hasattr(a, "__dataclass_fields__"):
        return type(a) is type(b) and all(same(getattr(a, name), getattr(b, name)) for name in a.__dataclass_fields__)
    return a == b
