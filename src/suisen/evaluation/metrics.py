"""Metrics: each is a formula over the ranks of a query's relevant items, over its list, or over labelled clicks.

Notation: R = number of relevant items of the query, r₁ < r₂ < … their pessimistic ranks, k the cut-off.  Every
function returns one value per query, NaN where the query has none: see ``suisen.evaluation.metric.Metric``.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor

from suisen.arguments import shown
from suisen.data.ragged import Ragged
from suisen.errors import InputError, unknown
from suisen.evaluation.metric import Facts, Metric, MetricAtK, mean_per_list, sum_per_query, where_relevant, within
from suisen.evaluation.ranks import UNRANKED

# -- accuracy: of the ranks --------------------------------------------------------------------------------------------


def hit_rate(ranks: Ragged, k: int) -> Tensor:
    """HR@k = 1 if r₁ ≤ k else 0: whether anything relevant is in the list."""
    return where_relevant(ranks, (sum_per_query(ranks, within(ranks, k)) > 0).double())


def recall(ranks: Ragged, k: int) -> Tensor:
    """Recall@k = |{j : rⱼ ≤ k}| / R."""
    return sum_per_query(ranks, within(ranks, k)) / ranks.lengths


def precision(ranks: Ragged, k: int) -> Tensor:
    """Precision@k = |{j : rⱼ ≤ k}| / k, also where the list is shorter than k."""
    return where_relevant(ranks, sum_per_query(ranks, within(ranks, k)) / k)


def ndcg(ranks: Ragged, k: int) -> Tensor:
    """NDCG@k = Σ_{rⱼ ≤ k} 1 / log₂(1 + rⱼ)  ÷  Σ_{i = 1}^{min(k, R)} 1 / log₂(1 + i)  (binary gains).

    Järvelin and Kekäläinen 2002.
    """
    gained = sum_per_query(ranks, within(ranks, k) * _discount(ranks.values.double()))
    return where_relevant(ranks, gained / _ideal_gain(ranks.lengths, k, gained.dtype))


def ndcg_of_hits(hits: Tensor, relevant: Tensor, k: int) -> Tensor:
    """NDCG@k of lists whose hits are marked: (B, W) floats, 1 = relevant, best first; the result has their type.

    ``relevant`` (B,): relevant items of each query, retrieved or not; 0 of them gives 0.
    """
    found = hits[:, :k]  # (B, at most k)
    discount = _discount(torch.arange(1, found.shape[1] + 1, dtype=hits.dtype))
    return (found * discount).sum(1) / _ideal_gain(relevant, k, hits.dtype)


def _discount(ranks: Tensor) -> Tensor:
    """What a hit at each rank is worth."""
    return 1 / torch.log2(1 + ranks)


def _ideal_gain(relevant: Tensor, k: int, dtype: torch.dtype) -> Tensor:
    """(B,): the gain of a list that starts with all relevant items; where there is none, with one."""
    longest = min(k, int(relevant.max())) if relevant.numel() else 0
    totals = _discount(torch.arange(1, max(1, longest) + 1, dtype=dtype)).cumsum(0)
    return totals[relevant.clamp(1, k) - 1]


def average_precision(ranks: Ragged, k: int) -> Tensor:
    """AP@k = 1/R · Σ_{rⱼ ≤ k} j / rⱼ; its mean over queries is MAP@k.  Divided by R, not by min(k, R)."""
    place = 1 + ranks.places()
    return sum_per_query(ranks, within(ranks, k) * place / ranks.values.double()) / ranks.lengths


def reciprocal_rank(ranks: Ragged, k: int = UNRANKED - 1) -> Tensor:
    """RR@k = 1 / r₁ if r₁ ≤ k else 0; its mean over queries is MRR@k.  Without k the whole ranking counts."""
    out = torch.zeros(len(ranks), dtype=torch.float64)
    some = ranks.lengths > 0
    first = ranks.values[ranks.offsets[:-1][some]]
    out[some] = torch.where(first <= k, 1 / first.double(), 0)
    return where_relevant(ranks, out)


def query_auc(ranks: Ragged, rivals: Tensor) -> Tensor:
    """AUC of a query = 1 − 1/(R·S) Σⱼ (rⱼ − j), S the candidates that are not relevant (Rendle et al. 2009).

    The share of (relevant, not relevant) pairs in the right order; ties are in the wrong one; an item that cannot be
    found loses to all.
    """
    place = 1 + ranks.places()
    ahead = torch.minimum(ranks.values - place, rivals[ranks.rows()]).double()
    return 1 - sum_per_query(ranks, ahead) / (ranks.lengths * rivals)


# -- beyond accuracy: of the lists -------------------------------------------------------------------------------------


def coverage(lists: Tensor, n_items: int) -> Tensor:
    """Coverage@k = |items in at least one of the lists| / (n_items − 1).

    A property of all lists together.  The values per query have the coverage as their mean and the jackknife's spread:
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
    return mean_per_list(lists, -torch.log2(counts.clamp(min=1) / counts.sum().clamp(min=1)))


def popularity_bias(lists: Tensor, facts: Facts) -> Tensor:
    """PopularityBias@k = mean over the list of the item's popularity percentile in the catalogue.

    The percentile of item i is the share of items with fewer events plus half the share of those with as many; over
    the whole catalogue it averages 0.5, which is no bias; 1 is nothing but the most popular.
    """
    counts = _counts(facts)
    percentile = torch.zeros_like(counts)
    percentile[1:] = torch.from_numpy(rankdata(counts[1:].numpy()) - 0.5) / max(1, counts.numel() - 1)
    return mean_per_list(lists, percentile)


def diversity(lists: Tensor, facts: Facts) -> Tensor:
    """Diversity@k = 1 − mean similarity of the list's pairs of items (intra-list diversity; Ziegler et al. 2005), the
    cosine where they have vectors.

    With v̂ the normalised vectors and m the list's length, the mean is (‖Σv̂‖² − Σ‖v̂‖²) / m(m − 1): no pair is formed.
    A zero vector is orthogonal to all.  Lists of fewer than two items have no value.
    """
    sums = _sums_of(facts)
    out = []
    for part in torch.split(lists, 1024):
        length = (part > 0).sum(1).double()
        out.append(torch.where(length > 1, 1 - sums(part) / (length * (length - 1)), torch.nan))
    return torch.cat(out)


def _sums_of(facts: Facts) -> Callable[[Tensor], Tensor]:
    """From lists (B, k) to the sum of the similarities of each two different places of a list, (B,) float64."""
    given = facts.item_vectors
    if not isinstance(given, Tensor):
        return lambda part: _sum_of_pairs(given(part), part > 0)  # type: ignore[misc]
    vectors = torch.nn.functional.normalize(given.float(), dim=1)
    vectors[0] = 0

    def of_vectors(part: Tensor) -> Tensor:
        chosen = vectors[part]  # (B, k, d)
        return chosen.sum(1).square().sum(1).double() - chosen.square().sum((1, 2)).double()

    return of_vectors


def _sum_of_pairs(alike: Tensor, real: Tensor) -> Tensor:
    """(B,): of (B, k, k) similarities, those of two different places that are ``real`` (B, k)."""
    pairs = real[:, :, None] & real[:, None, :] & ~torch.eye(real.shape[1], dtype=torch.bool)
    return torch.where(pairs, alike, 0.0).double().sum((1, 2))


def _counts(facts: Facts) -> Tensor:
    counts = facts.item_counts.double().clone()
    counts[0] = 0
    return counts


# -- clicks: of scores and labels --------------------------------------------------------------------------------------


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the ROC curve: P(score of a click > score of a non-click), ties counting one half.

    One value per row whose mean is the AUC and whose spread is DeLong's (1988): AUC + (V − AUC)·n/n₊ for a click, V the
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

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(name="hr", better="higher", of_ranks=hit_rate),
        Metric(name="recall", better="higher", of_ranks=recall),
        Metric(name="precision", better="higher", of_ranks=precision),
        Metric(name="ndcg", better="higher", of_ranks=ndcg),
        Metric(name="map", better="higher", of_ranks=average_precision),
        Metric(name="mrr", better="higher", cutoff="optional", of_ranks=reciprocal_rank),
        Metric(name="coverage", better="neither", of_lists=lambda lists, facts: coverage(lists, facts.n_items)),
        Metric(name="novelty", better="neither", bounds=(0, np.inf), of_lists=novelty, needs=("item_counts",)),
        Metric(name="diversity", better="neither", bounds=(0, 2), of_lists=diversity, needs=("item_vectors",)),
        Metric(name="popularity_bias", better="neither", of_lists=popularity_bias, needs=("item_counts",)),
        Metric(name="auc", better="higher", cutoff="none", of_labels=auc, of_rivals=query_auc),
        Metric(name="logloss", better="lower", bounds=(0, np.inf), cutoff="none", of_labels=logloss),
    )
}
"""Every metric by its name.  A new one is its formula, its test and one line here."""


def parse(name: str) -> MetricAtK:
    """The metric of a name; raises InputError with the nearest known name or the missing cut-off.

    >>> metric = parse("ndcg@10")
    >>> metric.metric.better, metric.k, str(metric)
    ('higher', 10, 'ndcg@10')
    """
    if not isinstance(name, str):
        raise InputError(f"metric = {shown(name)} is no name; write one like 'ndcg@10'")
    base, at, cut = name.strip().lower().partition("@")
    if base not in METRICS:
        raise unknown("metric", name, [known.example(cut or 10) for known in METRICS.values()])
    cutoff = METRICS[base].cutoff
    if cutoff == "none" and at:
        raise InputError(f"metric = {name!r}: {base} has no cut-off; write {base!r}")
    if cutoff == "required" and not at:
        raise InputError(f"metric = {name!r} needs a cut-off; write {base + '@10'!r}")
    if at and not re.fullmatch(r"[1-9]\d*", cut):
        raise InputError(f"metric = {name!r}: the cut-off must be a whole number from 1; write {base + '@10'!r}")
    return MetricAtK(METRICS[base], int(cut) if at else None)


def parse_all(names: Sequence[str]) -> list[MetricAtK]:
    """The metrics of several names, a repeated one once."""
    if isinstance(names, str):
        raise InputError(f"metrics = {names!r}; give a list of names, like [{names!r}]")
    return list(dict.fromkeys(parse(name) for name in names))


def facts_needed(names: Sequence[str]) -> set[str]:
    """The fields of ``Facts`` that the metrics of these names read."""
    return {field for each in parse_all(names) for field in each.metric.needs}


def check_metric(name: str, field: str = "metric", use: str = "be tuned on") -> str:
    """The metric as it is spelt in reports.

    Raises InputError, naming the ``field`` and the ``use``, for one that does not say how right a model is.
    """
    parsed = parse(name)
    if not parsed.metric.tunable:
        known = ", ".join(metric.example() for metric in METRICS.values() if metric.tunable)
        raise InputError(f"{field} = {name!r} cannot {use}; use one of {known}")
    return str(parsed)
