"""Inspecting one answer: what each stage made, what each rule kept out, what makes up the scores.

The query is answered as ``answer`` answers it, the precise way, while ``stages`` are listened to and watched: the list
that is inspected is the list that is given.  What is shown beside it is computed for the one query alone.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import polars as pl
import torch
from torch import Tensor

from suisen.data.ids import RawId
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.recommending.answering import AnsweredBy, answer, resolved
from suisen.recommending.attributes import items_where
from suisen.recommending.explaining import WHO, Stage, contributions, of_last, place_of
from suisen.recommending.queries import (
    DenseQueries,
    RawQueries,
    RecommendOptions,
    dense_queries,
    filters_of,
    known_items,
)
from suisen.recommending.requests import asked_of
from suisen.recommending.sources import Found
from suisen.recommending.stages import listening, watching
from suisen.recommending.system import System
from suisen.recommending.users import RecentEvents
from suisen.retrieval.select import top_of

Rule = Literal["untrained", "blocked", "seen", "excluded", "among", "where", "required"]
FURTHER, SHOWN = 1_000, 200
"""Most items beyond the candidates that are looked at for those kept out, and most of those that are named."""


class StageList(NamedTuple):
    """What one stage made: ``retrieve``, ``rank``, ``diversify``, or ``popular`` where no model answers."""

    name: str
    items: Tensor
    """(n,) dense ids, in the stage's order."""
    scores: Tensor
    """(n,) float32."""


class KeptOut(NamedTuple):
    """An item that would stand before the last candidate of the first stage, and that a rule keeps out."""

    item: int
    rank: int
    """Its place, from 1, in the whole catalogue as the first stage orders it."""
    score: float
    """The first stage's; of a popular list the item's events in train."""
    rules: tuple[Rule, ...]
    """All that keep it out."""


class Why(NamedTuple):
    """What makes up the score of one item."""

    item: int
    stage: Stage | None
    """Whose score it is: the last stage's, or the first one's where the last gives no reasons; None: none does."""
    parts: pl.DataFrame | None
    """As ``Recommender.explain`` gives them; the contributions add up to the stage's score."""
    said: str
    """What is to be said of that."""


@dataclass(frozen=True)
class Inspection:
    """One answer, taken apart."""

    by: AnsweredBy
    known: bool
    """Whether the query names a user of whom train has events."""
    history: Tensor
    """(h,) dense items of the history that the answer goes by, oldest first."""
    stages: Sequence[StageList]
    """In the order in which they ran."""
    seconds: Mapping[str, float]
    """Of each stage; ``rows`` is the look-up of who asks."""
    items: Tensor
    """(m,) dense items of the list, best first: at most k."""
    scores: Tensor
    """(m,) float32."""
    kept_out: Sequence[KeptOut]
    """By rank, at most ``SHOWN``."""
    rules: Mapping[Rule, int]
    """Rules in force and how many items of the catalogue each keeps out; an item may be kept out by several.
    ``among`` and ``where`` keep out what they do not name, ``required`` what an expression refuses."""
    sources: Mapping[int, Mapping[str, int]]
    """Candidate → source → its rank in that source's list, from 1, where there are several sources."""
    why: Sequence[Why]
    """In the order in which items were asked for."""


@torch.no_grad()
def inspect(
    system: System,
    query: RawQueries,
    options: RecommendOptions,
    recent: RecentEvents | None = None,
    explain: Sequence[RawId] = (),
) -> Inspection:
    """One answer with what led to it, and what makes up the scores of the items to ``explain``.

    Cost: two first stages, one without the rules (three where items are to explain or there are several sources), and
    the later stages once; for each rule a byte per item of the catalogue; for each item to explain the parts of its
    score.  Raises as ``answer`` does, and InputError for several queries and for items to explain that nobody knows.
    """
    if len(query) != 1:
        raise InputError(f"inspect() was given {len(query)} queries; give one user or one history")
    asked = system.store.items.dense(list(explain)).tolist()
    for item, dense in zip(explain, asked, strict=True):
        if not dense:
            raise InputError(f"explain: item {item!r} is unknown; items are those of train and of the item table")
    options = replace(resolved(system, options), precise=True)
    stages: list[StageList] = []
    seconds: dict[str, float] = {}

    def told(stage: str, took: float) -> None:
        seconds[stage] = seconds.get(stage, 0.0) + took

    def seen(stage: str, ids: Tensor, scores: Tensor) -> None:
        stages.append(StageList(stage, *_real(ids[0], scores[0])))

    with listening(told), watching(seen):
        answers = answer(system, query, options, recent)
    rules = system.rules_for(options.rules)
    brought, query = asked_of(rules, system.store, query)
    queries = dense_queries(system.store, query, options.at, recent)
    by, masks = answers.by[0], _rules(system, options, queries)
    if rules.required:
        opened = rules.opened(rules.key(brought[0] if brought else {}), system.engine.open)
        masks["required"] = system.engine.open.mask & ~opened.open.mask
    items, scores = _real(answers.items[0], answers.scores[0])
    found = None
    if by == "model" and (system.engine.union is not None or (asked and system.engine.listed)):
        n = max(options.k, system.engine.candidates)
        found = system.engine.find(queries.contexts, n, filters_of(system.store, options, queries))
    return Inspection(
        by=by,
        known=bool(queries.known[0]),
        history=queries.contexts.history.values,
        stages=stages,
        seconds=seconds,
        items=items,
        scores=scores,
        kept_out=_kept_out(system, queries, by, stages[0], masks) if stages else [],
        rules={rule: int(mask.sum()) for rule, mask in masks.items()},
        sources=_sources(system, found),
        why=[_why(system, queries, by, found, item) for item in asked],
    )


def _real(ids: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) ids and scores without padding."""
    real = ids > 0
    return ids[real], scores[real]


def _sources(system: System, found: Found | None) -> dict[int, dict[str, int]]:
    """What ``Inspection.sources`` says."""
    if found is None or found.ranks is None:
        return {}
    names = [source.name for source in system.engine.sources]
    placed = {}
    for item, ranks in zip(found.ids[0].tolist(), found.ranks[0].tolist(), strict=True):
        if item:
            placed[item] = {name: rank for name, rank in zip(names, ranks, strict=True) if rank}
    return placed


def _rules(system: System, options: RecommendOptions, queries: DenseQueries) -> dict[Rule, Tensor]:
    """(n_items,) bool per rule in force: the items that it keeps out; row 0 stands in none of them."""
    store, engine = system.store, system.engine

    def these(items: Tensor) -> Tensor:
        mask = torch.zeros_like(engine.allowed)
        mask[items] = True
        return mask

    found: dict[Rule, Tensor] = {"untrained": ~engine.allowed, "blocked": engine.allowed & ~engine.open.mask}
    if options.exclude_seen is not False:
        found["seen"] = these(queries.seen.values)
    if options.exclude:
        found["excluded"] = these(known_items(store, options.exclude))
    if options.among is not None:
        found["among"] = ~these(known_items(store, options.among))
    if options.where:
        found["where"] = ~these(items_where(store, options.where))
    for mask in found.values():
        mask[0] = False
    return found


def _kept_out(
    system: System, queries: DenseQueries, by: AnsweredBy, first: StageList, masks: Mapping[Rule, Tensor]
) -> list[KeptOut]:
    """The items kept out that stand before the last candidate where no rule holds; without candidates, the best."""
    barred = torch.stack(list(masks.values())).any(0)  # (n_items,)
    n = min(len(first.items) + min(int(barred.sum()), FURTHER), len(barred) - 1)
    items, scores = _unruled(system, queries, by, n)
    passed = (~barred[items]).cumsum(0)  # candidates up to each place
    places = (barred[items] & (passed < max(1, len(first.items)))).nonzero().squeeze(1)[:SHOWN].tolist()
    found = []
    for at in places:
        item = int(items[at])
        rules = tuple(rule for rule, mask in masks.items() if mask[item])
        found.append(KeptOut(item, at + 1, float(scores[at]), rules))
    return found


def _unruled(system: System, queries: DenseQueries, by: AnsweredBy, n: int) -> tuple[Tensor, Tensor]:
    """(n,) items of the whole catalogue and their scores, as the first stage orders them where no rule holds."""
    store, engine = system.store, system.engine
    if by == "popular":
        popular = store.popular[:n]
        return popular, store.item_counts[popular].float()
    if engine.union is not None:
        every = torch.ones_like(engine.allowed)
        every[0] = False
        union = engine.union.find(queries.contexts, n, Ragged.empty(1), every)
        return _real(union.ids[0], union.scores[0])
    state = engine.first.prepare(queries.contexts)
    if engine.index is not None:
        found, products = engine.index.search(state.float().cpu().numpy(), n)
        return _real(torch.from_numpy(found[0]) + 1, torch.from_numpy(products[0]))
    tile = engine.first.tile(state, 0, engine.first.n_items).float().cpu()  # (1, n_items)
    tile[:, 0] = -torch.inf
    ids, scores = top_of(tile, n)
    return _real(ids[0], scores[0])


def _why(system: System, queries: DenseQueries, by: AnsweredBy, found: Found | None, item: int) -> Why:
    """The parts of an item's score: the last stage's, or else the first one's."""
    if by != "model":
        return Why(item, None, None, "no model answered: the popular list goes by the events of each item in train")
    said = ""
    if found is not None:
        place = place_of(found, item)
        parts = None if place is None else of_last(system, queries.contexts, found, place)
        if parts is not None:
            return Why(item, "last", parts, "")
        why = "is not among the candidates" if place is None else "is no sum of parts in the second stage"
        said = f"its score {why}; this is the first stage's"
    parts = contributions(system, queries.contexts, item)
    if parts is None:
        return Why(item, None, None, f"{system.name} cannot explain a score: {WHO}")
    return Why(item, "retriever" if said else "last", parts, said)


__all__ = ["Inspection", "KeptOut", "Rule", "StageList", "Why", "inspect"]
