"""The k-core of a log: what is kept of it, where wanted, before it is split."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.arguments import shown, whole
from suisen.data.dataset import Dataset
from suisen.data.log import Col, Log
from suisen.data.ordered import OrderedLog
from suisen.errors import InputError


def k_core(source: OrderedLog | Log, users: int = 5, items: int = 5) -> Dataset:
    """The largest part in which each visitor has ``users`` positives or more and each item ``items``.

    ``source``: a Dataset or a log.  Raises InputError where nothing is left.
    """
    if not isinstance(source, OrderedLog | Log):
        raise InputError(f"source = {shown(source)} is no Dataset; make one: suisen.Dataset.from_frame(table)")
    users, items = whole("users", users), whole("items", items)
    return Dataset.of(core_of(OrderedLog.of(source) if isinstance(source, Log) else source, users, items))


def core_of(log: OrderedLog, users: int, items: int) -> Log:
    """The log of the k-core, found by dropping what has fewer positives until nothing is dropped any more.

    Events of label 0 stay where their visitor and item do.  What is dropped from the events is dropped from the tables
    too, and a note says how much it was.  Raises InputError where nothing is left.
    """
    visitor, item = log.events.visitor.numpy(), log.events.item.numpy()
    keep, positive = np.ones(len(visitor), dtype=bool), log.positive.numpy()
    while True:
        of_visitor = np.bincount(visitor[keep & positive], minlength=log.n_visitors)
        of_item = np.bincount(item[keep & positive], minlength=len(log.items))
        left = keep & (of_visitor[visitor] >= users) & (of_item[item] >= items)
        if (left == keep).all():
            break
        keep = left
    if not keep.any():
        raise InputError(f"k_core(users={users}, items={items}) leaves nothing; ask for fewer events per user and item")
    return _core(log.log, keep, f"k-core (users {users}, items {items})")


def _core(log: Log, keep: npt.NDArray[np.bool_], name: str) -> Log:
    """The log of the events kept, its tables cut to them, with a note."""
    events = log.events.filter(pl.Series(keep))
    users, items = _within(log.users, events[Col.USER]), _within(log.items, events[Col.ITEM])
    counts = zip(_counts(log.events), _counts(events), ("events", "users", "items"), strict=True)
    lost = [f"{before - after:,} {what}" for before, after, what in counts]
    notes = (*log.notes, f"{name} dropped {', '.join(lost)}")
    return replace(log, events=events, users=users, items=items, notes=notes)


def _counts(events: pl.DataFrame) -> list[int]:
    """Events, users and items."""
    return [events.height, *(events[name].drop_nulls().n_unique() for name in (Col.USER, Col.ITEM))]


def _within(table: pl.DataFrame | None, ids: pl.Series) -> pl.DataFrame | None:
    """The table's rows whose first column is among ``ids``."""
    if table is None:
        return None
    key = table.columns[0]
    return table.join(ids.unique().alias(key).to_frame(), on=key, how="semi", maintain_order="left")
