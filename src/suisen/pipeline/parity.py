"""The parity fixture: some requests with the answers they must get, computed by brute force.

The expected answers use neither an index, nor precomputed item states, nor batches: every allowed item is scored one
request at a time with the whole networks.  A server replays the fixture before it is ready, so that a wrong library, a
damaged index or a broken optimisation cannot serve.  Scores agree to a tolerance, order agrees up to ties; where the
index is approximate, a stated share of the expected items must be there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suisen.data.batch import Candidates, Contexts
from suisen.errors import BundleError
from suisen.models.contract import CatalogueScorer
from suisen.pipeline.engine import pair_features
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.requests import Ask, Who, answerable, questions_of

K = 10
TOLERANCE = 1e-3
"""Largest difference of a score, relative to the spread of the expected list's scores (at least 1)."""
AT = 0
"""The fixture's requests are asked at the epoch's start: answers must not depend on when they are replayed."""


def make(recommender: Recommender, requests: int = 6) -> list[dict[str, Any]]:
    """Users with events, spread over the table; a history alone, where the model can read one; nobody at all."""
    store = recommender.store
    known = store.trained_users.nonzero().squeeze(1)
    spread = known[torch.linspace(0, max(0, known.numel() - 1), min(requests, known.numel())).long()]
    asked: list[dict[str, Any]] = [{"user": raw} for raw in store.users.raw(spread.numpy()).to_list()]
    if "history" in recommender.abilities:
        asked.append({"history": store.items.raw(store.popular[1:4].numpy()).to_list()})
    fixture = [{**request, **_expected(recommender, request)} for request in asked]
    overlap = min([_overlap(recommender, row) for row in fixture], default=1.0)
    return [{**row, "least_overlap": 1.0 if overlap == 1.0 else round(max(0.0, overlap - 0.2), 2)} for row in fixture]


def check(recommender: Recommender, fixture: list[dict[str, Any]]) -> None:
    """Replays the fixture.  Raises BundleError naming the first request whose answer differs, and how."""
    for row in fixture:
        items, scores = _answer(recommender, row)
        expected = dict(zip(row["items"], row["scores"], strict=True))
        spread = max(1.0, *(abs(score) for score in row["scores"])) if row["scores"] else 1.0
        for item, score in zip(items, scores, strict=True):
            if item in expected and abs(score - expected[item]) > TOLERANCE * spread:
                raise _mismatch(row, f"item {item!r} scores {score:.6g}, expected {expected[item]:.6g}")
        strangers = [i for i in items if i not in expected]
        lowest = min(row["scores"], default=0.0)
        tied = [i for i in strangers if abs(scores[items.index(i)] - lowest) <= TOLERANCE * spread]
        share = 1.0 - (len(strangers) - len(tied)) / max(1, len(expected))
        if len(items) != len(expected) or share < row["least_overlap"]:
            raise _mismatch(row, f"it gets {items}, expected {row['items']}")


def _mismatch(row: dict[str, Any], what: str) -> BundleError:
    who = f"user {row['user']!r}" if "user" in row else f"history {row['history']}"
    return BundleError(f"parity: {who}: {what}; the bundle or the libraries changed since it was saved: save it again")


def _answer(recommender: Recommender, row: dict[str, Any]) -> tuple[list[Any], list[float]]:
    frame = recommender.recommend(
        [row["user"]] if "user" in row else None, K, history=row.get("history"), unknown="popular", at=AT
    )
    return frame["item_id"].to_list(), frame["score"].to_list()


def _overlap(recommender: Recommender, row: dict[str, Any]) -> float:
    items, _ = _answer(recommender, row)
    return len(set(items) & set(row["items"])) / max(1, len(row["items"]))


@torch.no_grad()
def _expected(recommender: Recommender, request: dict[str, Any]) -> dict[str, Any]:
    """The answer by brute force: every allowed item, one request, the whole networks."""
    store, engine = recommender.store, recommender.engine
    who = Who([request["user"]] if "user" in request else None, [request["history"]] if "history" in request else None)
    questions = questions_of(store, who, AT)
    allowed = engine.allowed.clone()
    allowed[questions.seen.values] = False
    if not bool(answerable(questions, recommender.abilities)[0]):
        pool = torch.tensor([i for i in store.popular.tolist() if i not in set(questions.seen.values.tolist())])[:K]
        return _named(recommender, pool, store.item_counts[pool].float())
    pool = allowed.nonzero().squeeze(1)
    pool, scores = _first_stage(engine.first.net, questions.contexts, pool)
    if engine.states is not None and engine.ranker is not None:
        depth = max(Ask(k=K).k, engine.candidates)
        pool, scores = pool[:depth], scores[:depth]
        pair = pair_features(scores[None], torch.ones((1, len(pool)), dtype=torch.bool))
        device = engine.first.device
        ranked = engine.ranker.score(questions.contexts.to(device), Candidates(pool[None], pair).to(device))[0].cpu()
        pool, scores = _sorted(pool, ranked)
    return _named(recommender, pool[:K], scores[:K])


def _first_stage(net: Any, contexts: Contexts, pool: Tensor) -> tuple[Tensor, Tensor]:
    """All of the pool, best first."""
    device = net.items.trained.device
    if isinstance(net, CatalogueScorer):
        scores = net.score_all(contexts.to(device))[0].cpu()[pool]
    else:
        scores = net.score(contexts.to(device), Candidates(pool[None]).to(device))[0].cpu()
    return _sorted(pool, scores)


def _sorted(pool: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    order = scores.argsort(descending=True, stable=True)
    return pool[order], scores[order]


def _named(recommender: Recommender, pool: Tensor, scores: Tensor) -> dict[str, Any]:
    return {
        "items": recommender.store.items.raw(pool.numpy()).to_list(),
        "scores": [round(float(score), 6) for score in scores],
    }
