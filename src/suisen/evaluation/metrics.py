"""Metrics: each is a formula over the ranks of a query's relevant items, over its list, or over labelled clicks.

Notation: R = number of relevant items of the query, r₁ < r₂ < … their pessimistic ranks, k the cut-off.  Every
function returns one value a query, NaN where the query has none (no relevant item, an empty list): such queries are
left out of the mean and out of n.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from suisen.data.ragged import Ragged
from suisen.errors import InputError, unknown
from suisen.evaluation.ranks import UNRANKED, Ranking


@dataclass(frozen=True)
class Facts:
    """What metrics beyond accuracy need to know of the items."""

    item_counts: Tensor
    """(n_items,): events of each item in train; row 0 counts for nothing."""
    item_vectors: Tensor | None = None
    """(n_items, d): what ``diversity`` compares: a model's vectors, or 0/1 rows of item features."""
    vectors: str = "item vectors"
    """What ``item_vectors`` are, in words: printed beside the figure."""


# -- accuracy: of the ranks --------------------------------------------------------------------------------------------


def hit_rate(ranks: Ragged, k: int) -> Tensor:
    """HR@k = 1 if r₁ ≤ k else 0: whether anything relevant is in the list."""
    return _of(ranks, (_sum(ranks, _within(ranks, k)) > 0).double())


def recall(ranks: Ragged, k: int) -> Tensor:
    """Recall@k = |{j : rⱼ ≤ k}| / R."""
    return _sum(ranks, _within(ranks, k)) / ranks.lengths


def precision(ranks: Ragged, k: int) -> Tensor:
    """Precision@k = |{j : rⱼ ≤ k}| / k, also where the list is shorter than k."""
    return _of(ranks, _sum(ranks, _within(ranks, k)) / k)


def ndcg(ranks: Ragged, k: int) -> Tensor:
    """NDCG@k = Σ_{rⱼ ≤ k} 1 / log₂(1 + rⱼ)  ÷  Σ_{i = 1}^{min(k, R)} 1 / log₂(1 + i)  (binary gains).

    Järvelin and Kekäläinen 2002.
    """
    gains = _within(ranks, k) / torch.log2(1 + ranks.values.double())
    longest = min(k, int(ranks.lengths.max())) if len(ranks) else 0
    ideal = torch.cat([torch.zeros(1).double(), (1 / torch.log2(torch.arange(2, longest + 2).double())).cumsum(0)])
    return _sum(ranks, gains) / ideal[ranks.lengths.clamp(max=k)]


def average_precision(ranks: Ragged, k: int) -> Tensor:
    """AP@k = 1/R · Σ_{rⱼ ≤ k} j / rⱼ; its mean over queries is MAP@k.  Divided by R, not by min(k, R)."""
    place = torch.arange(1, ranks.values.numel() + 1) - ranks.offsets[ranks.rows()]
    return _sum(ranks, _within(ranks, k) * place / ranks.values.double()) / ranks.lengths


def reciprocal_rank(ranks: Ragged, k: int = UNRANKED - 1) -> Tensor:
    """RR@k = 1 / r₁ if r₁ ≤ k else 0; its mean over queries is MRR@k.  Without k the whole ranking counts."""
    out = torch.zeros(len(ranks), dtype=torch.float64)
    some = ranks.lengths > 0
    first = ranks.values[ranks.offsets[:-1][some]]
    out[some] = torch.where(first <= k, 1 / first.double(), 0)
    return _of(ranks, out)


def query_auc(ranks: Ragged, rivals: Tensor) -> Tensor:
    """AUC of a query = 1 − 1/(R·S) Σⱼ (rⱼ − j), S the candidates that are not relevant (Rendle et al. 2009).

    The share of (relevant, not relevant) pairs in the right order; ties are in the wrong one; an item that cannot be
    found loses to all.
    """
    place = torch.arange(1, ranks.values.numel() + 1) - ranks.offsets[ranks.rows()]
    ahead = torch.minimum(ranks.values - place, rivals[ranks.rows()]).double()
    return 1 - _sum(ranks, ahead) / (ranks.lengths * rivals)


# -- beyond accuracy: of the lists -------------------------------------------------------------------------------------


def coverage(lists: Tensor, n_items: int) -> Tensor:
    """Coverage@k = |items in at least one of the lists| / (n_items − 1).

    A property of all lists together.  One value a query whose mean is the coverage and whose spread is the jackknife's:
    coverage + (Q − 1)·(uₐ − ū) / (n_items − 1), where uₐ counts the items that query q alone was given.
    """
    counts = torch.bincount(lists.flatten(), minlength=n_items)
    counts[0] = 0
    alone = (counts[lists] == 1).sum(1).double()
    value = float((counts > 0).sum())
    return (value + (len(lists) - 1) * (alone - alone.mean())) / max(1, n_items - 1)


def novelty(lists: Tensor, facts: Facts) -> Tensor:
    """Novelty@k = mean over the list of −log₂(cᵢ / Σc), cᵢ the item's events in train, at least 1 (bits).

    Zhou et al. 2010: the self-information of what is recommended.
    """
    counts = _counts(facts)
    return _list_mean(lists, -torch.log2(counts.clamp(min=1) / counts.sum().clamp(min=1)))


def popularity_bias(lists: Tensor, facts: Facts) -> Tensor:
    """PopularityBias@k = mean over the list of the item's popularity percentile in the catalogue.

    The percentile of item i is the share of items with fewer events plus half the share of those with as many; over
    the whole catalogue it averages 0.5, which is no bias; 1 is nothing but the most popular.
    """
    counts = _counts(facts)
    percentile = torch.zeros_like(counts)
    percentile[1:] = torch.from_numpy(rankdata(counts[1:].numpy()) - 0.5) / max(1, counts.numel() - 1)
    return _list_mean(lists, percentile)


def diversity(lists: Tensor, facts: Facts) -> Tensor:
    """Diversity@k = 1 − mean cosine of the list's pairs of items (intra-list diversity; Ziegler et al. 2005).

    With v̂ the normalised vectors and m the list's length, the mean is (‖Σv̂‖² − Σ‖v̂‖²) / m(m − 1): no pair is formed.
    A zero vector is orthogonal to all.  Lists of fewer than two items have no value.
    """
    vectors = torch.nn.functional.normalize(facts.item_vectors.float(), dim=1)  # type: ignore[union-attr]
    vectors[0] = 0
    out = []
    for part in torch.split(lists, 1024):
        chosen = vectors[part]  # (B, k, d)
        length = (part > 0).sum(1).double()
        pairs = chosen.sum(1).square().sum(1).double() - chosen.square().sum((1, 2)).double()
        out.append(torch.where(length > 1, 1 - pairs / (length * (length - 1)), torch.nan))
    return torch.cat(out) if out else torch.zeros(0).double()


# -- clicks: of scores and labels --------------------------------------------------------------------------------------


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the ROC curve: P(score of a click > score of a non-click), ties counting one half.

    One value a row whose mean is the AUC and whose spread is DeLong's (1988): AUC + (V − AUC)·n/n₊ for a click, V the
    share of non-clicks below it, and likewise for a non-click.  Raises InputError where there is one label only.
    """
    clicked = labels.numpy() > 0
    positives, negatives = int(clicked.sum()), int((~clicked).sum())
    if not positives or not negatives:
        raise InputError(f"auc needs rows of both labels; all {len(labels):,} have label {int(positives > 0)}")
    values = scores.double().numpy()
    share = rankdata(values)
    share[clicked] = (share[clicked] - rankdata(values[clicked])) / negatives
    share[~clicked] = 1 - (share[~clicked] - rankdata(values[~clicked])) / positives
    area = share[clicked].mean()
    weight = np.where(clicked, len(labels) / positives, len(labels) / negatives)
    return torch.from_numpy(area + (share - area) * weight)


def logloss(scores: Tensor, labels: Tensor) -> Tensor:
    """Logloss = log(1 + eˢ) − y·s: minus the log-probability that sigmoid(score) gave to the label (nats)."""
    scores = scores.double()
    return torch.nn.functional.softplus(scores) - labels.double() * scores


# -- names -------------------------------------------------------------------------------------------------------------

BY_RANKS: Mapping[str, Callable[[Ragged, int], Tensor]] = {
    "hr": hit_rate,
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "map": average_precision,
    "mrr": reciprocal_rank,
}
BY_LISTS = ("coverage", "novelty", "diversity", "popularity_bias")
BY_LABELS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {"auc": auc, "logloss": logloss}
NAMES = (*BY_RANKS, *BY_LISTS, *BY_LABELS)


@dataclass(frozen=True)
class Metric:
    """A parsed name such as ``ndcg@10``."""

    base: str
    k: int | None = None

    def __str__(self) -> str:
        return self.base if self.k is None else f"{self.base}@{self.k}"


def parse(name: str) -> Metric:
    """The metric of a name; raises InputError with the nearest known name or the missing cut-off.

    >>> parse("ndcg@10")
    Metric(base='ndcg', k=10)
    """
    base, at, cut = name.strip().lower().partition("@")
    if base not in NAMES:
        raise unknown("metric", name, [f"{known}@{cut or 10}" if known not in BY_LABELS else known for known in NAMES])
    if base in BY_LABELS and at:
        raise InputError(f"metric = {name!r}: {base} has no cut-off; write {base!r}")
    if not at and base not in BY_LABELS and base != "mrr":
        raise InputError(f"metric = {name!r} needs a cut-off; write {base + '@10'!r}")
    if at and not re.fullmatch(r"[1-9]\d*", cut):
        raise InputError(f"metric = {name!r}: the cut-off must be a whole number from 1; write {base + '@10'!r}")
    return Metric(base, int(cut) if at else None)


def parse_all(names: Sequence[str]) -> list[Metric]:
    """The metrics of several names, a repeated one once."""
    if isinstance(names, str):
        raise InputError(f"metrics = {names!r}; give a list of names, like [{names!r}]")
    return list(dict.fromkeys(parse(name) for name in names))


def of_ranking(metric: Metric, ranking: Ranking, n_items: int, facts: Facts | None) -> Tensor:
    """(B,) float64 values of a metric that is not asked of labels."""
    if metric.base == "auc":
        if ranking.rivals is None:
            raise InputError("metric = 'auc' needs every candidate's score; a scorer of lists gives none: drop it")
        return query_auc(ranking.ranks, ranking.rivals)
    if metric.base in BY_RANKS:
        return BY_RANKS[metric.base](ranking.ranks, metric.k if metric.k is not None else UNRANKED - 1)
    lists = ranking.lists
    if lists is None:
        raise InputError(f"metric = {str(metric)!r} needs lists; ask for them when ranking")
    lists = lists[:, : metric.k]
    if metric.base == "coverage":
        return coverage(lists, n_items)
    known = needed(metric, facts)
    return {"novelty": novelty, "popularity_bias": popularity_bias, "diversity": diversity}[metric.base](lists, known)


def needed(metric: Metric, facts: Facts | None) -> Facts:
    """The facts, if they hold what the metric needs; else an InputError that says what to give."""
    if facts is None:
        raise InputError(f"metric = {str(metric)!r} needs facts about the items; give facts=Facts(train.item_counts)")
    if metric.base == "diversity" and facts.item_vectors is None:
        raise InputError(f"metric = {str(metric)!r} needs facts.item_vectors; give a model's vectors or item features")
    return replace(facts, item_counts=facts.item_counts.cpu(), item_vectors=_cpu(facts.item_vectors))


def _cpu(vectors: Tensor | None) -> Tensor | None:
    return None if vectors is None else vectors.detach().cpu()


def _within(ranks: Ragged, k: int) -> Tensor:
    return (ranks.values <= k).double()


def _sum(ranks: Ragged, values: Tensor) -> Tensor:
    """(B,) float64: sums over each query's relevant items."""
    return torch.zeros(len(ranks), dtype=torch.float64).index_add_(0, ranks.rows(), values)


def _of(ranks: Ragged, values: Tensor) -> Tensor:
    """The values with NaN where the query has nothing relevant."""
    return values.masked_fill(ranks.lengths == 0, torch.nan)


def _counts(facts: Facts) -> Tensor:
    counts = facts.item_counts.double().clone()
    counts[0] = 0
    return counts


def _list_mean(lists: Tensor, of_item: Tensor) -> Tensor:
    """(B,): mean of an item's value over each list, padding left out."""
    given = lists > 0
    return (of_item[lists] * given).sum(1) / given.sum(1)
