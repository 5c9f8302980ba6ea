"""Small logs by hand."""

from __future__ import annotations

import polars as pl

from suisen.data.dataset import Dataset, Log

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
