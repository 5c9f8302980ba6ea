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
from suisen.recommending.queries import DenseQueries, RawQueries, dense_queries, refusal
from suisen.recommending.sources import Found, K
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
    if not bool(system.answerable(queries).all()):
        raise refusal(query, queries, 0, system.name, system.abilities)
    last = stage == "last" and system.engine.listed
    found = _of_candidate(system, queries, dense) if last else contributions(system, queries.contexts, dense)
    if found is None:
        other = "; or ask for stage='retriever'" if last else ""
        raise UnsupportedQuery(f"{system.name} cannot explain a score: {WHO}{other}")
    return found


def contributions(system: System, contexts: Contexts, item: int) -> pl.DataFrame | None:
    """What each item of the history, or each field, adds to the first stage's score of one item for one context; None
    where that is no such sum.  Of several sources the first one says it that can; a column names it.
    """
    engine = system.engine
    for source in engine.sources:
        parts = _parts(system, source.net, contexts, item, None) if bool(source.allowed[item]) else None
        if parts is not None:
            return parts if engine.union is None else parts.with_columns(pl.lit(source.name).alias("source"))
    return None


def place_of(found: Found, item: int) -> int | None:
    """The place of an item among the candidates of one context; None where it is none of them."""
    place = (found.ids[0] == item).nonzero()
    return int(place[0]) if place.numel() else None


def of_last(system: System, contexts: Contexts, found: Found, place: int) -> pl.DataFrame | None:
    """What makes up the last stage's score of the candidate at a place: by history or fields where that is a ranker,
    by sources where candidates of several are fused; None where it is no such sum.
    """
    engine = system.engine
    if engine.ranker is None or engine.states is None:
        return _by_source(engine, found, place)
    pair = engine.pair(contexts, found)[:, place].unsqueeze(1).to(engine.first.device)  # (1, 1, p)
    return _parts(system, engine.ranker, contexts, int(found.ids[0, place]), pair)


def _parts(system: System, net: Net, contexts: Contexts, item: int, pair: Tensor | None) -> pl.DataFrame | None:
    """What a network says of its score; None where it cannot.  ``pair``: of a second stage, the pair features."""
    device = system.engine.first.device
    contexts, target = contexts.to(device), torch.tensor([item], device=device)
    history = contexts.history.unique().values
    shares = net.shares_of_history(history, item)
    if shares is not None:
        return _by_history(system, history.cpu(), shares.float().cpu())
    fields = net.shares_of_fields(contexts, target, pair)
    if fields is None:
        return None
    parts = [(name, other or None, value) for name, other, value in fields if value != 0]
    frame = pl.DataFrame(parts, {"field": pl.String, "with": pl.String, "contribution": pl.Float64}, orient="row")
    return frame.sort(pl.col("contribution").abs(), descending=True)


def _by_source(engine: Engine, found: Found, place: int) -> pl.DataFrame | None:
    """What each source adds to the fused score: source, rank in its list (null: not there), contribution."""
    if found.ranks is None:
        return None
    ranks: list[int] = found.ranks[0, place].tolist()
    each = (K + 1) / len(ranks)
    rows = [
        (source.name, rank or None, each / (K + rank) if rank else 0.0)
        for source, rank in zip(engine.sources, ranks, strict=True)
    ]
    frame = pl.DataFrame(rows, {"source": pl.String, "rank": pl.Int64, "contribution": pl.Float64}, orient="row")
    return frame.sort("contribution", descending=True, maintain_order=True)


def _by_history(system: System, history: Tensor, shares: Tensor) -> pl.DataFrame:
    ids = system.store.items.raw(history.numpy())
    titles = pl.Series("title", system.store.titles(history), dtype=pl.String)
    frame = pl.DataFrame([ids, titles, pl.Series("contribution", shares.double().numpy())])
    return frame.sort("contribution", descending=True, maintain_order=True)


def _of_candidate(system: System, queries: DenseQueries, item: int) -> pl.DataFrame | None:
    """``of_last`` of an item of the list that the last stage is given."""
    engine, seen = system.engine, queries.seen
    exclude = seen.keep((seen.values != item) & system.exclude_seen)
    found = engine.find(queries.contexts, engine.candidates, Filters(exclude))
    place = place_of(found, item)
    if place is None:
        raw = system.store.items.raw(np.array([item]))[0]
        what = "ranker" if engine.states is not None else "fusion"
        said = f"item {raw!r} is not among the {found.ids.shape[1]:,} candidates that the retriever finds here"
        raise UnsupportedQuery(f"{said}, so the {what} gives it no score; ask for stage='retriever'")
    return of_last(system, queries.contexts, found, place)


@torch.no_grad()
def vectors(system: System, of: Literal["items", "users"]) -> pl.DataFrame:
    """Columns item_id or user_id, and vector (an Array of float32); see ``Recommender.vectors``."""
    if of not in ("items", "users"):
        raise unknown("of", of, ["items", "users"])
    store = system.store
    source = next((each for each in system.engine.sources if isinstance(each.net, Retriever)), None)
    if source is None or not isinstance(source.net, Retriever):
        raise UnsupportedQuery(f"{system.name} has no vectors; models whose score is an inner product have, like IALS")
    if of == "items":
        dense = source.allowed.nonzero().squeeze(1)
        return _frame(store.items.raw(dense.numpy()), source.net.item_vectors().float().cpu()[dense])
    dense = store.trained_users.nonzero().squeeze(1)
    now = time.time_ns() // 1000
    parts = [source.scorer.prepare(store.contexts(some, now)) for some in dense.split(USERS_PER_CHUNK)]  # type: ignore[no-untyped-call]
    return _frame(store.users.raw(dense.numpy()), torch.cat(parts).float().cpu())


def _frame(ids: pl.Series, values: Tensor) -> pl.DataFrame:
    return pl.DataFrame([ids, pl.Series("vector", values.numpy(), dtype=pl.Array(pl.Float32, values.shape[1]))])


__all__ = ["contributions", "explain", "of_last", "place_of", "vectors"]
