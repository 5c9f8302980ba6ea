"""What a metric is: a name, a formula of what it reads, its direction and its bounds.  ``METRICS`` holds them all."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from torch import Tensor

from suisen.data.ragged import Ragged
from suisen.errors import InputError
from suisen.evaluation.ranks import UNRANKED, Ranking


@dataclass(frozen=True)
class Facts:
    """What metrics beyond accuracy need to know of the items."""

    item_counts: Tensor
    """(n_items,): events of each item in train; row 0 counts for nothing."""
    item_vectors: Tensor | Callable[[Tensor], Tensor] | None = None
    """What ``diversity`` compares: (n_items, d) vectors of a model, 0/1 rows of item features, or a function from lists
    (B, k) of items to how alike each two of a list are, (B, k, k)."""
    vectors: str = "item vectors"
    """What ``item_vectors`` are, in words: printed beside the figure."""

    @property
    def n_items(self) -> int:
        """Rows of the item table, row 0 included."""
        return self.item_counts.numel()

    def cpu(self) -> "Facts":
        """The same on the CPU, where lists are measured."""
        vectors = self.item_vectors.detach().cpu() if isinstance(self.item_vectors, Tensor) else self.item_vectors
        return replace(self, item_counts=self.item_counts.cpu(), item_vectors=vectors)


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric.  Reports, comparisons, tuning and the command line ask it for all that they need to know.

    It has a formula for each input that it can be computed from.  A formula returns (B,) float64: one value per query,
    NaN where the query has none (no relevant item, an empty list); such queries are left out of the mean and of n.
    """

    name: str
    better: Literal["higher", "lower", "neither"]
    """Which direction is an improvement; neither: a difference is no verdict (coverage, say)."""
    bounds: tuple[float, float] = (0.0, 1.0)
    """Least and largest mean over queries."""
    cutoff: Literal["required", "optional", "none"] = "required"
    """Whether a name has ``@k``."""
    of_ranks: Callable[[Ragged, int], Tensor] | None = None
    """(ranks, k): B rows, the rising pessimistic rank of each relevant item, ``UNRANKED`` where it was not found."""
    of_rivals: Callable[[Ragged, Tensor], Tensor] | None = None
    """(ranks, rivals): the same, and (B,) how many candidates of each query are not relevant."""
    of_lists: Callable[[Tensor, Facts], Tensor] | None = None
    """(lists, facts): (B, k) dense item ids, best first, 0 = none."""
    of_labels: Callable[[Tensor, Tensor], Tensor] | None = None
    """(scores, labels): (B,) scores and 0/1 labels of labelled clicks; one value per row."""
    needs: tuple[str, ...] = ()
    """Fields of ``Facts`` that ``of_lists`` reads."""

    def __post_init__(self) -> None:
        known = {field.name for field in fields(Facts)}
        if not any((self.of_ranks, self.of_rivals, self.of_lists, self.of_labels)) or not known >= set(self.needs):
            raise InputError(f"metric = {self.name!r} needs a formula, and facts among {', '.join(sorted(known))}")

    @property
    def tunable(self) -> bool:
        """Whether settings can be picked by it: the more, the better, and no facts about the items are needed."""
        return self.better == "higher" and not self.needs

    def example(self, k: int | str = 10) -> str:
        """A name to write: ``ndcg@10``, or ``auc`` where there is no cut-off."""
        return self.name if self.cutoff == "none" else f"{self.name}@{k}"


@dataclass(frozen=True)
class MetricAtK:
    """A metric with its cut-off, like ``ndcg@10``; ``k`` None = the whole ranking, or a metric without cut-off."""

    metric: Metric
    k: int | None = None

    def __str__(self) -> str:
        return self.metric.name if self.k is None else f"{self.metric.name}@{self.k}"

    def check(self, facts: Facts | None, n_items: int) -> None:
        """Raises InputError, before anything is ranked, where the metric reads what is not given.

        ``n_items``: size of the catalogue with row 0, 0 where nobody knows it.
        """
        metric, said = self.metric, f"metric = {str(self)!r} needs"
        if metric.of_ranks is None and metric.of_lists is None and metric.of_rivals is None:
            raise InputError(f"{said} labels; these queries ask for a ranking: use ndcg@10")
        for field in metric.needs:
            if facts is None:
                raise InputError(f"{said} facts about the items; give facts=Facts(train.item_counts)")
            if getattr(facts, field) is None:
                raise InputError(f"{said} facts.{field}; give a model's vectors or item features")
        if metric.of_lists is not None and not n_items:
            raise InputError(f"{said} the catalogue's size; give facts=Facts(train.item_counts)")

    def of_ranking(self, ranking: Ranking, facts: Facts) -> Tensor:
        """(B,) float64 values; raises InputError where the ranking lacks what the metric reads."""
        metric, k = self.metric, UNRANKED - 1 if self.k is None else self.k
        if metric.of_ranks is not None:
            return metric.of_ranks(ranking.ranks, k)
        if metric.of_lists is not None:
            if ranking.lists is None:
                raise InputError(f"metric = {str(self)!r} needs lists; ask for them when ranking")
            return metric.of_lists(ranking.lists[:, :k], facts)
        if metric.of_rivals is None or ranking.rivals is None:
            said = f"metric = {str(self)!r} needs every candidate's score"
            raise InputError(f"{said}; a scorer of lists gives none: drop it")
        return metric.of_rivals(ranking.ranks, ranking.rivals)


def sum_per_query(ranks: Ragged, values: Tensor) -> Tensor:
    """(B,) float64: sums of (n,) values, one per relevant item, over each query's relevant items."""
    return torch.zeros(len(ranks), dtype=torch.float64).index_add_(0, ranks.rows(), values)


def within(ranks: Ragged, k: int) -> Tensor:
    """(n,) float64: 1 for each relevant item among the first k, else 0."""
    return (ranks.values <= k).double()


def where_relevant(ranks: Ragged, values: Tensor) -> Tensor:
    """(B,) values with NaN where the query has nothing relevant."""
    return values.masked_fill(ranks.lengths == 0, torch.nan)


def mean_per_list(lists: Tensor, of_item: Tensor) -> Tensor:
    """(B,): mean over each of (B, k) lists of (n_items,) an item's value; padding left out, NaN for an empty list."""
    given = lists > 0  # (B, k)
    return (of_item[lists] * given).sum(1) / given.sum(1)
