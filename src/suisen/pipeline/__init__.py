"""The Recommender: retrieve, filter, rank, diversify; bundles and the funnel."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from suisen.data.batch import Queries
from suisen.evaluation import Report
from suisen.evaluation import evaluate as evaluate_scorer
from suisen.evaluation.contract import Scorer
from suisen.evaluation.metrics import facts_needed
from suisen.pipeline.recommender import Recommender


def evaluate(
    recommender: Recommender | Scorer, queries: Queries, metrics: Sequence[str] | None = None, **options: Any
) -> Report:
    """Measures a Recommender (or any scorer of dense ids) on queries with known answers.

    The options are those of ``suisen.evaluation.evaluate``; a Recommender brings its name and what metrics beyond
    accuracy need to know of its items, and refuses queries that are not in its own dense ids.
    """
    if isinstance(recommender, Recommender):
        recommender.check_queries(queries)
        options.setdefault("name", recommender.name)
        options.setdefault("facts", recommender.facts("item_vectors" in facts_needed(metrics or ())))
        return evaluate_scorer(recommender.scorer(), queries, metrics, **options)
    return evaluate_scorer(recommender, queries, metrics, **options)


def load(folder: str | Path) -> Recommender:
    """The Recommender saved in a bundle or in a run folder.  Raises BundleError naming a missing or damaged file."""
    return Recommender.load(folder)


__all__ = ["Recommender", "evaluate", "load"]
