"""New users, new items and new events folded into a trained system, without training."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Candidates, Schema
from suisen.data.ids import IdMap
from suisen.data.log import Col, Log
from suisen.data.ordered import tensor_of
from suisen.data.ragged import Ragged, offsets_of
from suisen.errors import InputError
from suisen.models import name_of
from suisen.models.contract import ItemTable, Model
from suisen.recommending.engine import Engine
from suisen.recommending.sources import models_of
from suisen.recommending.standin import Undrawn, build_ranker
from suisen.recommending.store import Store
from suisen.recommending.system import System, first_of
from suisen.retrieval import Exact, IndexSettings

SAMPLE = 64
"""Users and items whose scores must be what they were."""


@torch.no_grad()
def fold_in(system: System, log: Log, settings: IndexSettings | None) -> System:
    """The system with the log's events behind its histories; see ``Recommender.partial_fit``."""
    engine, notes = system.engine, list(system.notes)
    sources = list(zip(models_of(system.retriever), [source.net for source in engine.sources], strict=False))
    second = (system.ranker, engine.ranker)
    stages = [(model, net) for model, net in (*sources, second) if model is not None and net is not None]
    closed = [name_of(model) for model, net in stages if "new items" not in model.abilities and not net.learns_items]
    # a source that goes by ids alone must not take a new user for one whom it learnt
    apart = all({"history", "new users"} & model.abilities for model in first_of(system.retriever, system.ranker))
    known = "history" in system.abilities and apart
    store, learnt = _extended(system.store, log, known, " and ".join(closed), notes)
    if "history" not in system.abilities:
        notes.append(f"partial_fit: {system.name} reads no history: its answers change by what was seen alone")
    nets = [_grown(system, model, net, store, learnt, ()) for model, net in sources]
    ranker = _grown(system, *second, store, learnt, engine.pair_names)
    same = store.schema.n_items == system.store.schema.n_items
    indexes = [source.index for source in engine.sources] if same else settings or Exact()
    pairs = None if engine.pairs is None else engine.pairs.grown(store)
    if pairs is not None:
        notes.append("partial_fit: co-visits and counts of takes stay those of train until the next fit")
    models, quotas = (system.retriever, system.ranker), engine.union.quotas if engine.union is not None else None
    made = Engine.of(models, (nets, ranker), store.trained_items, engine.candidates, indexes, quotas, pairs)
    return replace(system, store=store, engine=made, notes=tuple(notes), version="")


# -- what is known -----------------------------------------------------------------------------------------------------


def _extended(store: Store, log: Log, become_known: bool, closed: str, notes: list[str]) -> tuple[Store, Tensor]:
    """The store with the log's ids, features and positives, and (n_items,) which items are new and have events.

    ``become_known``: whether new users with events count as known.  ``closed``: names of the models because of which no
    new item is taken in.
    """
    events = log.events.filter(pl.col(Col.LABEL) == 1) if Col.LABEL in log.events.columns else log.events
    if store.has_time and Col.TIME not in events.columns:
        raise InputError("partial_fit: the events have no time, and those of train do; pass time=")
    users = _longer(store.users, events[Col.USER], log.users)
    items = _longer(store.items, events[Col.ITEM], log.items) if not closed else store.items
    times = events[Col.TIME] if store.has_time else pl.repeat(0, events.height, dtype=pl.Int64, eager=True)
    new = pl.DataFrame({"user": users.dense(events[Col.USER]), "item": items.dense(events[Col.ITEM]), "time": times})
    lost = int((new["item"] == 0).sum())
    old = pl.DataFrame(
        {"user": store.histories.rows().numpy(), "item": store.histories.values.numpy(),
         "time": store.history_times.numpy()}
    )  # fmt: skip
    new = new.filter(pl.col("item") > 0)
    fresh = new.join(old, on=["user", "item", "time"], how="anti", maintain_order="left") if store.has_time else new
    both = pl.concat([old, fresh.filter(pl.col("user") > 0)]).sort("user", "time", maintain_order=True)
    added, again = len(users) - len(store.users), new.height - fresh.height
    said = f"{fresh.height:,} events, {added:,} new users and {len(items) - len(store.items):,} new items folded in"
    more = [f"{lost:,} events of new items left out: {closed} cannot take items in without training"] if lost else []
    more += [f"{again:,} events were known already"] if again else []
    more += ["weights are not read: folded events count alike"] if Col.WEIGHT in events.columns else []
    for what, ids, table in (("users", store.users, log.users), ("items", store.items, log.items)):
        known = 0 if table is None else int((ids.dense(table[table.columns[0]]) > 0).sum())
        more += [f"{known:,} {what} of the table were known and keep their features"] if known else []
    notes.append("; ".join([f"partial_fit: {said}", *more]))
    counts = torch.bincount(tensor_of(fresh["item"]), minlength=len(items))
    asked = torch.bincount(tensor_of(both["user"]), minlength=len(users))
    active = torch.bincount(tensor_of(fresh["user"]), minlength=len(users)) > 0
    active[0] = False
    trained = _padded(store.trained_users, len(users))
    learnt = (counts > 0) & (torch.arange(len(items)) >= len(store.items))
    return replace(
        store,
        users=users,
        items=items,
        schema=replace(store.schema, n_users=len(users), n_items=len(items)),
        user_frame=_table(store.user_frame, users, len(store.users), log.users),
        item_frame=_table(store.item_frame, items, len(store.items), log.items),
        trained_users=trained | active if become_known else trained,
        trained_items=_padded(store.trained_items, len(items)),
        item_counts=_padded(store.item_counts, len(items)) + counts,
        histories=Ragged(tensor_of(both["item"]), offsets_of(asked)),
        history_times=tensor_of(both["time"]),
    ), learnt


def _padded(values: Tensor, size: int) -> Tensor:
    return torch.cat([values, values.new_zeros(size - len(values))])


def _as(ids: IdMap, column: pl.Series) -> pl.Series:
    """The column in the type of the ids."""
    out = column.cast(ids.raw_ids.dtype, strict=False)
    bad = (out.is_null() & column.is_not_null()).arg_true()
    if bad.len():
        raise InputError(
            f"partial_fit: {ids.name} = {column[int(bad[0])]!r}: {ids.name} ids of train are whole numbers"
        )
    return out


def _longer(ids: IdMap, column: pl.Series, table: pl.DataFrame | None) -> IdMap:
    """The ids with those of the column and of the table behind them."""
    parts = [_as(ids, part) for part in (column, *([] if table is None else [table[table.columns[0]]]))]
    both = pl.concat([ids.raw_ids.alias("raw"), *(part.alias("raw") for part in parts)])
    return IdMap.of(ids.name, both)


def _table(frame: pl.DataFrame, ids: IdMap, first: int, table: pl.DataFrame | None) -> pl.DataFrame:
    """The raw features with a row for each id from ``first`` on, from the new table where it has one."""
    if not frame.width:
        return pl.DataFrame(height=len(ids))
    rows = ids.raw_ids.slice(first - 1).alias("__id").to_frame()
    if table is not None:
        key = table.columns[0]
        known = table.with_columns(_as(ids, table[key]).alias("__id"))
        rows = rows.join(known, on="__id", how="left", maintain_order="left")
    missing = [pl.lit(None).alias(name) for name in frame.columns if name not in rows.columns]
    return pl.concat([frame, rows.with_columns(missing).select(frame.columns).cast(frame.schema, strict=False)])


# -- networks ----------------------------------------------------------------------------------------------------------


def _grown(system: System, model: Model | None, net: Any, store: Store, learnt: Tensor, pair: tuple[str, ...]) -> Any:
    """The network with rows of zeros for the new ids, which is what an unknown id has; new items are then learnt from
    the histories where the network can, and else known by their features alone.

    Raises InputError where its tables cannot be made longer: known users' scores would change.
    """
    new, old = store.schema, system.store.schema
    if model is None or net is None or (new.n_users, new.n_items) == (old.n_users, old.n_items):
        return net
    ranks = model is system.ranker
    build = partial(build_ranker, model) if ranks else model.build
    shape = replace(old, n_users=new.n_users, pair=pair)
    out = grown = _resized(net, build, shape, old.n_users, net.items)
    if new.n_items > old.n_items:
        grown = _resized(out, build, replace(shape, n_items=new.n_items), old.n_items, store.item_table)
    users = system.store.trained_users.nonzero().squeeze(1)[:SAMPLE]
    items = system.engine.allowed.nonzero().squeeze(1)[:SAMPLE].expand(len(users), -1)
    nothing = torch.zeros((*items.shape, len(pair)))
    contexts, asked = system.store.contexts(users, time.time_ns() // 1000), Candidates(items, nothing)
    before, after = (
        each.score(contexts.to(_device(net)), asked.to(_device(net)))
        for each in (net, out if net.learns_items else grown)
    )
    if not torch.allclose(before, after, 1e-3, 1e-4):
        raise InputError(f"partial_fit: {name_of(model)} cannot take new ids in without training; fit it again")
    if net.learns_items and grown is not out:
        grown.learn_items(out, store.histories)
        store.trained_items.logical_or_(learnt)
    return grown


def _device(net: Any) -> Any:
    return net.items.trained.device


def _resized(net: Any, build: Any, schema: Schema, at: int, items: ItemTable) -> Any:
    """The network built for another schema, each table that has become longer with zeros from row ``at`` on."""
    with Undrawn():
        new = build(schema)
    state = net.state_dict()
    for name, value in new.state_dict().items():
        for dim, size in enumerate(value.shape):
            held = state[name]
            if size != held.shape[dim]:
                head, tail = held.narrow(dim, 0, at), held.narrow(dim, at, held.shape[dim] - at)
                more = [*held.shape[:dim], size - held.shape[dim], *held.shape[dim + 1 :]]
                state[name] = torch.cat([head, held.new_zeros(more), tail], dim)
    new.bind(items)
    new.load_state_dict(state, assign=True)
    return new.requires_grad_(False).eval().to(_device(net))
