"""What a model knows: why an item is recommended, and the vectors of users and items."""

import time
from typing import Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Contexts
from suisen.data.ids import RawId
from suisen.errors import InputError, UnsupportedQuery, unknown
from suisen.models.contract import Net, Retriever
from suisen.recommending.engine import Engine, Filters
from suisen.recommending.queries import DenseQueries, RawQueries, answerable, dense_queries, refusal
from suisen.recommending.system import System

Stage = Literal["last", "retriever"]
WHO = "EASE, ItemKNN and IALS say it by the history's items, FM and DeepFM by fields"
USERS_PER_CHUNK = 8192


@torch.no_grad()
def explain(system: System, query: RawQueries, item: RawId, stage: Stage = "last") -> pl.DataFrame:
    """What makes up the score of one item for one query, the largest parts first; see ``Recommender.explain``."""
    if len(query) != 1:
        raise InputError(f"explain() was given {len(query)} queries; give one user or one history")
    if stage not in ("last", "retriever"):
        raise unknown("stage", stage, ["last", "retriever"])
    dense = int(system.store.items.dense([item])[0])
    if dense == 0 or not bool(system.engine.allowed[dense]):
        raise InputError(f"item {item!r} is unknown or cannot be recommended; give an item of train")
    queries = dense_queries(system.store, query, None)
    if not bool(answerable(queries, system.abilities).all()):
        raise refusal(query, queries, 0, system.name, system.abilities)
    ranked = stage == "last" and system.engine.states is not None
    found = contributions(system, queries.contexts, dense, _pair(system, queries, dense) if ranked else None)
    if found is None:
        other = "; or ask for stage='retriever'" if ranked else ""
        raise UnsupportedQuery(f"{system.name} cannot explain a score: {WHO}{other}")
    return found


@torch.no_grad()
def contributions(system: System, contexts: Contexts, item: int, pair: Tensor | None) -> pl.DataFrame | None:
    """What each item of the history, or each field, adds to one item's score for one context; None where the model's
    score is no such sum.

    ``pair``: the item's (1, 1, p) pair features, where the last of two stages is asked; None: the first is.
    """
    engine = system.engine
    net: Net = engine.first.net if pair is None or engine.ranker is None else engine.ranker
    contexts, target = contexts.to(engine.first.device), torch.tensor([item], device=engine.first.device)
    history = contexts.history.unique().values
    by_history = net.shares_of_history(history, item)
    if by_history is not None:
        return _by_history(system, history.cpu(), by_history.float().cpu())
    fields = net.shares_of_fields(contexts, target, pair)
    if fields is None:
        return None
    parts = [(name, other or None, value) for name, other, value in fields if value != 0]
    frame = pl.DataFrame(parts, {"field": pl.String, "with": pl.String, "contribution": pl.Float64}, orient="row")
    return frame.sort(pl.col("contribution").abs(), descending=True)


def pair_of(engine: Engine, contexts: Contexts, ids: Tensor, scores: Tensor, item: int) -> Tensor | None:
    """(1, 1, p) the pair features of an item in the (1, n) list that the ranker gets for one context; None where it
    lacks the item.
    """
    place = (ids[0] == item).nonzero()
    if not place.numel():
        return None
    return engine.pair(contexts, ids, scores)[:, int(place[0])].unsqueeze(1).to(engine.first.device)


def _by_history(system: System, history: Tensor, shares: Tensor) -> pl.DataFrame:
    ids = system.store.items.raw(history.numpy())
    titles = pl.Series("title", system.store.titles(history), dtype=pl.String)
    frame = pl.DataFrame([ids, titles, pl.Series("contribution", shares.double().numpy())])
    return frame.sort("contribution", descending=True, maintain_order=True)


def _pair(system: System, queries: DenseQueries, item: int) -> Tensor:
    engine, seen = system.engine, queries.seen
    exclude = seen.keep((seen.values != item) & system.exclude_seen)
    ids, scores = engine.retrieve(queries.contexts, engine.candidates, Filters(exclude))
    found = pair_of(engine, queries.contexts, ids, scores, item)
    if found is None:
        raw = system.store.items.raw(np.array([item]))[0]
        said = f"item {raw!r} is not among the {ids.shape[1]:,} candidates that the retriever finds here"
        raise UnsupportedQuery(f"{said}, so the ranker gives it no score; ask for stage='retriever'")
    return found


@torch.no_grad()
def vectors(system: System, of: Literal["items", "users"]) -> pl.DataFrame:
    """Columns item_id or user_id, and vector (an Array of float32); see ``Recommender.vectors``."""
    if of not in ("items", "users"):
        raise unknown("of", of, ["items", "users"])
    net, store = system.engine.first.net, system.store
    if not isinstance(net, Retriever):
        raise UnsupportedQuery(f"{system.name} has no vectors; models whose score is an inner product have, like IALS")
    if of == "items":
        dense = system.engine.allowed.nonzero().squeeze(1)
        return _frame(store.items.raw(dense.numpy()), net.item_vectors().float().cpu()[dense])
    dense = store.trained_users.nonzero().squeeze(1)
    now = time.time_ns() // 1000
    parts = [system.engine.first.prepare(store.contexts(some, now)) for some in dense.split(USERS_PER_CHUNK)]  # type: ignore[no-untyped-call]
    return _frame(store.users.raw(dense.numpy()), torch.cat(parts).float().cpu())


def _frame(ids: pl.Series, values: Tensor) -> pl.DataFrame:
    return pl.DataFrame([ids, pl.Series("vector", values.numpy(), dtype=pl.Array(pl.Float32, values.shape[1]))])


__all__ = ["contributions", "explain", "pair_of", "vectors"]
