"""The Arrow tables of a bundle: read, held to what the manifest and the ids say, and made a ``Store``."""

from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Schema
from suisen.data.encode import Encoder
from suisen.data.ids import IdMap
from suisen.data.ragged import Ragged, offsets_of
from suisen.errors import BundleError, one_line
from suisen.recommending.store import Store

USERS, ITEMS = "users.arrow", "items.arrow"
OWN = ("__raw", "__trained", "__history", "__times", "__count")
"""Columns of ours; features and titles keep their names."""
LISTS = pl.List(pl.Int64)
OF_USERS = {"__raw": None, "__trained": pl.Boolean, "__history": LISTS, "__times": LISTS}
OF_ITEMS = {"__raw": None, "__trained": pl.Boolean, "__count": pl.Int64}
"""Column → type; None: an id, text or a whole number."""


def read(place: Path, manifest: dict[str, Any]) -> Store:
    """What the bundle knows of users and items.  Raises BundleError naming the file, the column and what is wrong."""
    users, items = _table(place / USERS, OF_USERS), _table(place / ITEMS, OF_ITEMS)
    encoders = {owner: Encoder.from_json(columns) for owner, columns in manifest["encoders"].items()}
    schema = Schema(
        users.height, items.height, encoders["user"].schema, encoders["item"].schema, encoders["context"].schema
    )
    _check_values(place, users, items)
    store = Store(
        users=IdMap("user", users["__raw"].slice(1).alias("raw")),
        items=IdMap("item", items["__raw"].slice(1).alias("raw")),
        schema=schema,
        encoders=encoders,
        user_frame=users.drop(OWN, strict=False),
        item_frame=items.drop(OWN, strict=False),
        trained_users=_tensor(users["__trained"]),
        trained_items=_tensor(items["__trained"]),
        item_counts=_tensor(items["__count"]),
        histories=Ragged(_flat(users["__history"]), offsets_of(_tensor(users["__history"].list.len()).long())),
        history_times=_flat(users["__times"]),
        has_time=manifest["data"]["has_time"],
    )
    _check_data(place, manifest["data"], store)
    _ = (store.user_features, store.item_features, store.titles(torch.zeros(1, dtype=torch.int64)))  # all are encoded
    return store


def _table(path: Path, columns: dict[str, Any]) -> pl.DataFrame:
    """The table, which has our columns, of their types, without a null but the id of row 0."""
    try:
        frame = pl.read_ipc(path)
    except (OSError, ValueError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = one_line((str(error).strip().splitlines() or [type(error).__name__])[0])
        raise BundleError(f"{path} cannot be read ({why}); save the bundle again") from None
    for name, dtype in columns.items():
        if name not in frame.columns:
            raise _unfit(path, name, "is missing")
        column = frame[name]
        is_id = column.dtype == pl.String or column.dtype.is_integer()
        if not is_id if dtype is None else column.dtype != dtype:
            raise _unfit(path, name, f"is {column.dtype}, {dtype or 'ids are text or whole numbers'}")
        if column.slice(1 if dtype is None else 0).null_count():
            raise _unfit(path, name, "holds a null")
    if not frame.height or frame["__raw"][0] is not None:
        raise _unfit(path, "__raw", "has no first row without an id")
    if frame["__raw"].n_unique() != frame.height:
        raise _unfit(path, "__raw", "holds an id twice")
    return frame


def _check_values(place: Path, users: pl.DataFrame, items: pl.DataFrame) -> None:
    history, times, counts = users["__history"], users["__times"], items["__count"]
    if not history.list.len().equals(times.list.len()):
        raise _unfit(place / USERS, "__times", "has not as many values as __history")
    for column in (history, times):
        if column.explode().null_count() > (column.list.len() == 0).sum():
            raise _unfit(place / USERS, column.name, "holds a null")
    low, high = history.list.min().min(), history.list.max().max()
    if low is not None and not (low >= 1 and high < items.height):  # type: ignore[operator]
        raise _unfit(place / USERS, "__history", f"names items {low!r} to {high!r} of 1 to {items.height - 1}")
    if counts.min() < 0:  # type: ignore[operator]
        raise _unfit(place / ITEMS, "__count", "is negative")


def _check_data(place: Path, said: dict[str, Any], store: Store) -> None:
    """Compares what the manifest says of the data with the tables: one pass over all ids."""
    found = {
        "users": len(store.users) - 1,
        "items": len(store.items) - 1,
        "events": int(store.item_counts.sum()),
        "fingerprint": store.fingerprint(),
    }
    for name, value in found.items():
        if said[name] != value:
            path = place / "manifest.json"
            raise BundleError(f"{path} does not fit its files (data.{name} = {said[name]!r}, the tables say {value!r})")


def _unfit(path: Path, column: str, what: str) -> BundleError:
    return BundleError(f"{path} does not fit the bundle: column {column!r} {what}; save the bundle again")


def _flat(lists: pl.Series) -> Tensor:
    kept = lists.filter(lists.list.len() > 0)
    return _tensor(kept.explode()) if kept.len() else torch.zeros(0, dtype=torch.int64)


def _tensor(column: pl.Series) -> Tensor:
    return torch.from_numpy(column.to_numpy().copy())
