"""The parity fixture: some requests with the answers they must get, computed by brute force.

The expected answers use neither an index, nor precomputed item states, nor batches: every allowed item is scored one
request at a time with the whole networks.  A server replays the fixture before it is ready, so that a wrong library, a
damaged index or a broken optimisation cannot serve.  Scores agree to a tolerance, order agrees up to ties; where the
index is approximate, a stated share of the expected items must be there.  Where the system has a plan, the fixture is
replayed by it too, and a share of the expected items must be there in any case: a plan may round.
"""

from typing import Any

import torch
from torch import Tensor

from suisen.data.batch import Candidates
from suisen.errors import BundleError
from suisen.recommending.answering import answer, to_frame
from suisen.recommending.engine import pair_features
from suisen.recommending.queries import RawQueries, RecommendOptions, answerable, dense_queries
from suisen.recommending.system import System

K = 10
TOLERANCE = 1e-3
"""Largest difference of a score, relative to the largest score of the expected list (at least 1)."""

MARGIN = 0.2
"""Share of the expected items that may be missing beside those that are when the fixture is made."""


def make(system: System, users: int = 6) -> list[dict[str, Any]]:
    """Users with events, spread over the table; a history alone, where the model can read one; nobody at all.

    All are asked at one moment behind the last event, which is kept: answers must not depend on when they are replayed.
    An approximate index may miss some of the nearest, which also moves the pair features of the others: how much of an
    answer must be there, and how near its scores must come, is what is found now, with a margin.
    """
    store = system.store
    known = store.trained_users.nonzero().squeeze(1)
    spread = known[torch.linspace(0, max(0, known.numel() - 1), min(users, known.numel())).long()]
    asked: list[dict[str, Any]] = [{"user": raw} for raw in store.users.raw(spread.numpy()).to_list()]
    if "history" in system.abilities:
        asked.append({"history": store.items.raw(store.popular[1:4].numpy()).to_list()})
    asked.append({"user": None})
    at = int(store.history_times.max()) + 1 if store.history_times.numel() else 0
    fixture = [{**request, "at": at, **_expected(system, request, at)} for request in asked]
    bounds = _bounds(system, fixture, precise=True)
    if system.engine.plan is not None:
        bounds["fast"] = _bounds(system, fixture, precise=False)
    return [{**row, **bounds} for row in fixture]


def _bounds(system: System, fixture: list[dict[str, Any]], precise: bool) -> dict[str, Any]:
    """How much of each expected answer one way finds, and how near its scores come, with a margin."""
    compared = [_compare(row, *_answer(system, row, precise)) for row in fixture]
    found = min(found for found, _ in compared)
    apart = max(apart for _, apart in compared)
    least = 1.0 if found == 1.0 and precise else round(max(0.0, found - MARGIN), 2)
    return {"least_found": least, "tolerance": TOLERANCE if apart <= TOLERANCE else round(2 * apart, 6)}


def check(system: System, fixture: list[dict[str, Any]]) -> None:
    """Replays the fixture, by the plan too where there is one.  Raises BundleError naming the first request whose
    answer differs, and how.
    """
    for row in fixture:
        _check(system, row, row, precise=True)
        if "fast" in row and system.engine.plan is not None:
            _check(system, row, row["fast"], precise=False)


def _check(system: System, row: dict[str, Any], bounds: dict[str, Any], precise: bool) -> None:
    items, scores = _answer(system, row, precise)
    found, apart = _compare(row, items, scores)
    way = "" if precise else "by the plan "
    if len(items) != len(row["items"]) or found < bounds["least_found"]:
        raise _mismatch(row, f"{way}it gets {items}, expected {row['items']}")
    if apart > bounds["tolerance"]:
        most = bounds["tolerance"]
        raise _mismatch(row, f"{way}scores differ by {apart:.2g} of the largest, at most {most:g} is expected")


def _compare(row: dict[str, Any], items: list[Any], scores: list[float]) -> tuple[float, float]:
    """The share of the expected items that is there, and the largest relative difference of a score.

    Only where a score ties with the last of the expected list may another item take the place of one.
    """
    expected = dict(zip(row["items"], row["scores"], strict=True))
    answered = dict(zip(items, scores, strict=True))
    size = max([1.0, *(abs(score) for score in row["scores"])])
    slack, last = TOLERANCE * size, min(row["scores"], default=0.0)
    apart = max((abs(answered[item] - expected[item]) / size for item in answered.keys() & expected), default=0.0)
    lost = sum(expected[item] > last + slack for item in expected.keys() - answered)
    strange = sum(abs(answered[item] - last) > slack for item in answered.keys() - expected)
    return 1.0 - max(lost, strange) / max(1, len(expected)), apart


def _mismatch(row: dict[str, Any], what: str) -> BundleError:
    who = f"history {row['history']}" if "history" in row else f"user {row['user']!r}"
    return BundleError(f"parity: {who}: {what}; the bundle or the libraries changed since it was saved: save it again")


def _queries(row: dict[str, Any]) -> RawQueries:
    return RawQueries(history=[row["history"]]) if "history" in row else RawQueries([row["user"]])


def _answer(system: System, row: dict[str, Any], precise: bool) -> tuple[list[Any], list[float]]:
    queries = _queries(row)
    options = RecommendOptions(k=K, unknown="popular", exclude_seen=True, precise=precise, at=row["at"])
    answers = answer(system, queries, options)
    frame = to_frame(system, queries, answers)
    return frame["item_id"].to_list(), frame["score"].to_list()


@torch.no_grad()
def _expected(system: System, request: dict[str, Any], at: int) -> dict[str, Any]:
    """The answer by brute force: every allowed item, one request, the whole networks."""
    store, engine = system.store, system.engine
    dense = dense_queries(store, _queries(request), at)
    allowed = engine.allowed.clone()
    allowed[dense.seen.values] = False
    if not bool(answerable(dense, system.abilities)[0]):
        pool = store.popular[~torch.isin(store.popular, dense.seen.values)][:K]
        return _named(system, pool, store.item_counts[pool].float())
    pool = allowed.nonzero().squeeze(1)
    device = engine.first.device
    contexts = dense.contexts.to(device)
    pool, scores = _sorted(pool, engine.first.net.score(contexts, Candidates(pool[None]).to(device))[0].cpu())
    if engine.states is not None and engine.ranker is not None:
        depth = max(K, engine.candidates)
        pool, scores = pool[:depth], scores[:depth]
        pair = pair_features(scores[None], torch.ones((1, len(pool)), dtype=torch.bool))
        ranked = engine.ranker.score(contexts, Candidates(pool[None], pair).to(device))[0].cpu()
        pool, scores = _sorted(pool, ranked)
    return _named(system, pool[:K], scores[:K])


def _sorted(pool: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """The pool and its scores, best first."""
    order = scores.argsort(descending=True, stable=True)
    return pool[order], scores[order]


def _named(system: System, pool: Tensor, scores: Tensor) -> dict[str, Any]:
    return {
        "items": system.store.items.raw(pool.numpy()).to_list(),
        "scores": [round(float(score), 6) for score in scores],
    }
