"""The Recommender: retrieve, filter, rank, diversify; bundles and the funnel."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from suisen.arguments import listed
from suisen.data.batch import Queries
from suisen.data.dataset import Dataset, Split, Splitter
from suisen.errors import unknown
from suisen.evaluation import Report
from suisen.evaluation import evaluate as evaluate_scorer
from suisen.evaluation.contract import Scorer
from suisen.evaluation.metrics import facts_needed
from suisen.pipeline.folds import CrossValidation, Folds, Rolling, cross_validation
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.slips import check_queries, check_scorer
from suisen.training.options import RunOptions

OPTIONS = tuple(signature(evaluate_scorer).parameters)[3:]
"""Names of ``evaluate``'s options."""


def evaluate(
    recommender: Recommender | Scorer, queries: Queries, metrics: Sequence[str] | None = None, **options: Any
) -> Report:
    """Measures a Recommender (or any scorer of dense ids) on queries with known answers.

    The options are those of ``suisen.evaluation.evaluate``; a Recommender brings its name and what metrics beyond
    accuracy need to know of its items, and refuses queries that are not in its own dense ids.
    """
    check_scorer(recommender)
    check_queries("queries", queries)
    metrics = listed("metrics", metrics)
    for name in options:
        if name not in OPTIONS:
            raise unknown("evaluate: option", name, OPTIONS)
    if isinstance(recommender, Recommender):
        recommender.check_queries(queries)
        options.setdefault("name", recommender.name)
        options.setdefault("exclude_seen", recommender.exclude_seen)
        options.setdefault("facts", recommender.facts("item_vectors" in facts_needed(metrics or ())))
        report = evaluate_scorer(recommender.scorer(), queries, metrics, **options)
        refitted = recommender.system.refitted
        notes = (f"the model was {refitted}: it may have seen what is asked for",) if refitted else ()
        return replace(report, notes=(*notes, *report.notes))
    return evaluate_scorer(recommender, queries, metrics, **options)


def cross_validate(
    recommender: Any,
    data: Dataset,
    rule: Folds | Iterable[Splitter | Split],
    metrics: Sequence[str] | None = None,
    *,
    fit_options: RunOptions | None = None,
    **options: Any,
) -> CrossValidation:
    """A report per fold, and each metric's mean with its interval over the folds.

    ``recommender``: one that is not changed, for a copy is fitted on each fold's train; or a function that makes one.
    ``rule``: ``Rolling(folds=3, test="7d")``, a list of rules such as ``[Ratio(by="random", seed=s) for s in
    range(5)]``, or of splits.  ``options``: those of ``evaluate``.  Raises InputError for a rule of one split.
    """
    return cross_validation(
        recommender, data, rule, lambda fitted, split: evaluate(fitted, split.test, metrics, **options), fit_options
    )


def load(folder: str | Path, trusted_keys: str | Path | None = None) -> Recommender:
    """The Recommender saved in a bundle or in a run folder.  Raises BundleError naming a missing or damaged file.

    ``trusted_keys``: a public key's file or a folder of them, of which one must have signed the bundle.
    """
    return Recommender.load(folder, trusted_keys)


__all__ = ["CrossValidation", "Recommender", "Rolling", "cross_validate", "evaluate", "load"]
