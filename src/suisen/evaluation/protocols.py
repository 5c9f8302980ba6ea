"""``evaluate``: which protocol the queries ask for, and the report of a scorer under it.

* **Clicks**: labels are given (C = 1): AUC and logloss of the scores.
* **Given candidates**: those are ranked.
* **Full ranking**: everything that the model may recommend, less ``queries.seen``; by tiles where the scorer has them,
  else by the lists it makes.  A relevant item that is also a seen one is therefore a miss for every model; where people
  take things again, ``repeats=True`` leaves the seen items that are relevant among the candidates (and only those: a
  gift to models that repeat; better, ask for queries whose ``seen`` is empty).

Ties count against the model everywhere but in the AUC of clicks, where they count one half.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from suisen.data.batch import Candidates, Queries
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.evaluation.contract import Scorer, TileScorer
from suisen.evaluation.metrics import BY_LABELS, BY_LISTS, Facts, Metric, needed, of_ranking, parse_all
from suisen.evaluation.ranks import NAN, Ranking, distinct, from_candidates, from_lists, without
from suisen.evaluation.report import Report
from suisen.evaluation.tiles import Wanted, from_tiles

DEFAULT = ("ndcg@10", "hr@10", "recall@100", "mrr@10")
DEFAULT_CLICKS = ("auc", "logloss")
BUDGET = 512 * 2**20
CLICKS_AT_ONCE = 2**14


@torch.no_grad()
def evaluate(
    scorer: Scorer,
    queries: Queries,
    metrics: Sequence[str] | None = None,
    *,
    name: str = "",
    facts: Facts | None = None,
    repeats: bool = False,
    memory_bytes: int = BUDGET,
) -> Report:
    """Measures a scorer on queries with known answers.

    ``metrics``: names such as ``ndcg@10`` (see ``suisen.evaluation.metrics``); by default what fits the queries.
    ``facts``: what novelty, popularity bias and diversity need of the items.  ``memory_bytes``: how many bytes of
    scores may be held at once.  Raises InputError for unknown metrics, scores that are NaN, and lists that break the
    contract.
    """
    started = time.perf_counter()
    if len(queries) == 0:
        raise InputError("queries hold no row; split with a larger test part")
    clicks = queries.labels is not None
    asked = parse_all(metrics if metrics is not None else DEFAULT_CLICKS if clicks else DEFAULT)
    if not asked:
        raise InputError("metrics = []; name at least one, like ['ndcg@10']")
    measured = (
        _clicks(scorer, queries, asked)
        if clicks
        else _ranked(scorer, queries, asked, _Options(facts, repeats, memory_bytes))
    )
    return Report(
        name=name or type(scorer).__name__,
        protocol="; ".join(part for part in (queries.protocol, _protocol(queries, repeats)) if part),
        fingerprint=fingerprint(queries),
        values={str(metric): values.numpy().astype(np.float32) for metric, values in measured.values.items()},
        notes=measured.notes,
        seconds=time.perf_counter() - started,
        peak_bytes=measured.peak_bytes,
    )


@dataclass(frozen=True)
class _Options:
    facts: Facts | None
    repeats: bool
    budget: int


@dataclass(frozen=True)
class _Measured:
    values: dict[Metric, Tensor]
    notes: tuple[str, ...]
    peak_bytes: int


def _ranked(scorer: Scorer, queries: Queries, asked: list[Metric], options: _Options) -> _Measured:
    for metric in asked:
        if metric.base == "logloss":
            raise InputError("metric = 'logloss' needs labels; these queries ask for a ranking: use ndcg@10")
        if metric.base in BY_LISTS and metric.base != "coverage":
            needed(metric, options.facts)
    n_items = _n_items(scorer, asked, options.facts)
    truth = distinct(queries.truth)
    ranking = _ranking(scorer, queries, truth, asked, options)
    values = {metric: of_ranking(metric, ranking, n_items, options.facts) for metric in asked}
    return _Measured(values, _notes(scorer, queries, ranking, asked, options), ranking.peak_bytes)


def _ranking(scorer: Scorer, queries: Queries, truth: Ragged, asked: list[Metric], options: _Options) -> Ranking:
    """By the narrowest way that answers all that is asked."""
    longest = max((metric.k or 0 for metric in asked if metric.base in BY_LISTS), default=0)
    if queries.candidates is not None:
        return from_candidates(scorer, queries, truth, longest, options.budget)
    exclude = without(queries.seen, truth) if options.repeats else queries.seen
    if isinstance(scorer, TileScorer):
        rivals = any(metric.base == "auc" for metric in asked)
        return from_tiles(scorer, queries, truth, exclude, Wanted(options.budget, longest, rivals))
    for metric in asked:
        if metric.k is None:
            raise InputError(
                f"metric = {str(metric)!r} needs the whole ranking, and {type(scorer).__name__} gives lists; "
                "write a cut-off, like mrr@10"
            )
    return from_lists(scorer, queries, truth, exclude, max(metric.k or 0 for metric in asked))


def _clicks(scorer: Scorer, queries: Queries, asked: list[Metric]) -> _Measured:
    for metric in asked:
        if metric.base not in BY_LABELS:
            raise InputError(f"metric = {str(metric)!r} ranks, and these queries are labelled clicks: use auc, logloss")
    labels, items = queries.labels, queries.candidates
    if labels is None or items is None or labels.shape != items.shape or items.shape[1] != 1:
        raise InputError("labelled queries need candidates and labels of shape (B, 1); give one item and label a row")
    parts = torch.split(torch.arange(len(queries)), CLICKS_AT_ONCE)
    scores = torch.cat([scorer.score(queries.contexts.take(p), Candidates(items[p])).float().cpu() for p in parts])[
        :, 0
    ]
    if bool(scores.isnan().any()):
        raise InputError(NAN)
    values = {metric: BY_LABELS[metric.base](scores, labels[:, 0]) for metric in asked}
    return _Measured(values, (), min(len(queries), CLICKS_AT_ONCE) * 4)


def _n_items(scorer: Scorer, asked: list[Metric], facts: Facts | None) -> int:
    if isinstance(scorer, TileScorer):
        return scorer.n_items
    if facts is not None:
        return facts.item_counts.numel()
    if any(metric.base == "coverage" for metric in asked):
        raise InputError("metric = 'coverage' needs the catalogue's size; give facts=Facts(train.item_counts)")
    return 0


def _protocol(queries: Queries, repeats: bool) -> str:
    """What is the same for every scorer: two reports that differ in it are not comparable."""
    if queries.labels is not None:
        return "labelled clicks, ties count one half"
    if queries.candidates is not None:
        return f"{queries.candidates.shape[1]:,} given candidates, ties count against the model"
    out = "nothing excluded" if queries.seen.values.numel() == 0 else "seen items excluded"
    out += " unless relevant" if repeats and queries.seen.values.numel() else ""
    return f"full ranking, {out}, ties count against the model"


def _notes(
    scorer: Scorer, queries: Queries, ranking: Ranking, asked: list[Metric], options: _Options
) -> tuple[str, ...]:
    """All that was counted on the way, in words."""
    relevant = ranking.ranks.values.numel()
    unknown = int((queries.truth.values == 0).sum())
    empty = int((ranking.ranks.lengths == 0).sum())
    repeated = queries.truth.values.numel() - relevant
    notes = [
        (unknown, f"{unknown:,} of {relevant:,} relevant items are unknown to train: misses"),
        (ranking.not_allowed, f"{ranking.not_allowed:,} of {relevant:,} relevant items may not be recommended: misses"),
        (repeated, f"{repeated:,} relevant items were named twice in a query and count once"),
        (empty, f"{empty:,} queries have no relevant item and are left out of accuracy"),
        (
            any(m.base == "diversity" for m in asked) and options.facts is not None,
            f"diversity compares {options.facts.vectors if options.facts else ''}",
        ),
    ]
    return tuple(note for count, note in notes if count)


def fingerprint(queries: Queries) -> str:
    """BLAKE2 of what makes queries the same: users, truth, seen items, candidates and labels."""
    digest = hashlib.blake2b(digest_size=16)
    parts = (queries.contexts.user, queries.contexts.time, queries.truth.values, queries.truth.offsets)
    for part in (*parts, queries.seen.values, queries.seen.offsets, queries.candidates, queries.labels):
        digest.update(b"-" if part is None else part.contiguous().numpy().tobytes() + str(tuple(part.shape)).encode())
    return digest.hexdigest()
