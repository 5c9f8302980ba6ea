"""SciPy's sparse matrices as events: a row per user, a column per item, the value is the weight."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from suisen.data.raw import Raw
from suisen.errors import InputError


def is_matrix(table: Any) -> bool:
    """Whether it is one of SciPy's sparse matrices or arrays; SciPy is not imported for it."""
    return type(table).__module__.startswith("scipy.sparse")


def events_of(matrix: Any, users: Sequence[Any] | None = None, items: Sequence[Any] | None = None) -> pl.DataFrame:
    """Columns user, item and weight, in the order of rows and columns; values stored twice are added up, as SciPy does.

    ``users``, ``items``: the ids of rows and columns; default: their numbers, from 0.  Raises InputError where there
    are not as many ids as rows or columns.
    """
    coo = matrix.tocsr().tocoo()  # csr adds up what is stored twice
    places = {"user": np.asarray(coo.row, dtype=np.int64), "item": np.asarray(coo.col, dtype=np.int64)}
    weight = np.asarray(coo.data)
    weight = weight.astype(np.int8) if weight.dtype == bool else weight
    frame = pl.DataFrame({**places, "weight": weight}).sort("user", "item")
    for name, ids, size in (("user", users, matrix.shape[0]), ("item", items, matrix.shape[1])):
        if ids is None:
            continue
        raw = pl.Series(name, list(ids))
        if raw.len() != size or raw.n_unique() != size:
            raise InputError(f"{name}s: {raw.n_unique():,} different ids for {size:,}; give one for each")
        frame = frame.with_columns(raw.gather(frame[name]))
    return frame


def raw_of_matrix(name: str, matrix: Any) -> Raw:
    """Ids are the numbers of rows and columns; stored zeros are left out, for nothing happened there."""
    if len(matrix.shape) != 2:
        raise InputError(
            f"{name}: a sparse array of {len(matrix.shape)} dimensions; give rows of users and columns of items"
        )
    frame = events_of(matrix)
    zeros = int((frame["weight"] == 0).sum())
    doubled = int(matrix.nnz) - frame.height
    notes = [
        f"{name}: a sparse matrix of {matrix.shape[0]:,} users and {matrix.shape[1]:,} items; ids are numbers from 0"
    ]
    notes += [f"{name}: {zeros:,} stored zeros are left out"] if zeros else []
    notes += [f"{name}: {doubled:,} values stored twice were added up"] if doubled > 0 else []
    frame = frame.filter(pl.col("weight") != 0)
    plain = bool((frame["weight"] == 1).all())
    rows = pl.int_range(1, frame.height + 1, dtype=pl.Int64, eager=True)
    return Raw(
        name,
        frame.drop("weight") if plain else frame,
        rows,
        notes=tuple(notes),
        roles={} if plain else {"weight": "weight"},
    )
