"""A run: from a configuration to a trained and measured recommender; ``runs.keep`` writes it into its folder."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from suisen.data.batch import Queries
from suisen.data.dataset import Split
from suisen.data.ordered import OrderedLog
from suisen.display import silent
from suisen.evaluation import Comparisons, Report, compare, evaluate
from suisen.evaluation.metrics import facts_needed
from suisen.evaluation.protocols import DEFAULT, DEFAULT_CLICKS
from suisen.files import write_text
from suisen.models import Popularity
from suisen.pipeline.funnel import Funnel, funnel
from suisen.pipeline.recommender import Recommender
from suisen.runs import folder as place
from suisen.runs.config import Config
from suisen.training.options import Callback

BESIDE = ("coverage@10", "novelty@10")
"""What a run measures beside hits: how much of the catalogue its lists show, and how little known that is."""
Callbacks = Callable[[], Sequence[Callback]]


@dataclass
class Run:
    """What a run knows when it is over."""

    config: Config
    folder: Path
    environment: dict[str, Any]
    data: OrderedLog
    """The whole log; features are fitted on train alone."""
    split: Split
    recommender: Recommender
    reports: dict[str, Report] = field(default_factory=dict)
    """test and, where the split has it, valid."""
    baselines: list[Report] = field(default_factory=list)
    """On test."""
    comparisons: Comparisons | None = None
    """The model less each baseline on the first metric."""
    funnel: Funnel | None = None
    remarks: list[str] = field(default_factory=list)
    """How it compares with the last run."""
    earlier: Comparisons | None = None
    """The model less the last run's on the same data and protocol."""
    seconds: dict[str, float] = field(default_factory=dict)
    final: Recommender | None = None
    """The same models learnt anew on the whole log; None where that is not wanted, or was done already."""

    @property
    def served(self) -> Recommender:
        """What the bundle holds."""
        return self.final or self.recommender

    @property
    def report(self) -> Report | None:
        """On test; None where the split holds nothing out for it."""
        return self.reports.get("test")

    @property
    def whole(self) -> bool:
        """Whether train is the whole log."""
        return len(self.split.train.events) == len(self.data.events)

    @property
    def said(self) -> str:
        """What the bundle holds beside what was measured, in words."""
        if self.final is not None:
            figures = "; the figures are from before that" if self.reports else ""
            return f"the bundle holds these models {self.final.system.refitted}{figures}"
        if self.whole:
            return f"the bundle holds models of the whole log, {len(self.data.events):,} events"
        return (
            "the bundle holds the models as measured: they know nothing of valid and test; --final refits them on all"
        )


@silent()  # who launched the run gives its callbacks and prints its summary
def execute(
    config: Config, folder: Path, *, callbacks: Callbacks = tuple, overwrite: bool = False, resume: bool = False
) -> Run:
    """Trains, measures and, where that is wanted, refits on the whole log; ``runs.keep.save`` comes next.

    The data are read before the folder is made, so that a mistake in them leaves nothing behind.  ``callbacks`` are
    made when the folder is there.  ``resume``: goes on from the checkpoints of the folder.
    """
    config.check()
    if not resume:
        place.check_folder(folder, overwrite)
    torch.set_num_threads(config.run.threads)
    clock = time.perf_counter()
    data = config.data()
    split = config.cut(data)
    read = time.perf_counter()
    environment = place.environment(config.run.threads)
    if not resume:
        write_text(place.new_folder(folder) / place.CONFIG, config.toml())
    place.write_json(folder / place.ENVIRONMENT, environment)
    options = replace(config.run, checkpoint=folder / place.CHECKPOINTS, resume=resume, callbacks=tuple(callbacks()))
    recommender = config.recommender().fit(split.train, split.valid, options)
    fitted = time.perf_counter()
    run = Run(config, folder, environment, data, split, recommender)
    measure(run)
    measured = time.perf_counter()
    run.seconds = {"read": read - clock, "train": fitted - read, "evaluate": measured - fitted}
    if config.run.final and not run.whole:
        again = replace(options, checkpoint=folder / place.CHECKPOINTS / "final", prefix="final ")
        run.final = recommender.refit(config.everything(data), again)
        run.seconds["refit"] = time.perf_counter() - measured
    return run


# -- measuring ---------------------------------------------------------------------------------------------------------


def metrics_for(queries: Queries, given: Sequence[str]) -> list[str]:
    """The given metrics, or those that fit the queries."""
    return list(given or ((*DEFAULT, *BESIDE) if queries.labels is None else DEFAULT_CLICKS))


def report_on(
    recommender: Recommender, queries: Queries, metrics: Sequence[str], name: str, scorer: Any = None
) -> Report:
    """One model on one set of queries; the items' vectors are computed only for metrics that need them."""
    facts = recommender.facts("item_vectors" in facts_needed(metrics))
    return evaluate(scorer or recommender.scorer(), queries, metrics, name=name, facts=facts)


def measure(run: Run) -> None:
    """Reports on valid and test, the baselines, the paired differences and the funnel."""
    rec, split = run.recommender, run.split
    metrics = metrics_for(split.valid or split.test, run.config.run.metrics)
    if split.valid is not None:
        run.reports["valid"] = report_on(rec, split.valid, metrics, rec.name)
    if not len(split.test):
        return
    run.reports["test"] = report_on(rec, split.test, metrics, rec.name)
    run.baselines = baselines(rec, split, metrics)
    if run.baselines:
        run.comparisons = against(run.reports["test"], run.baselines, metrics[0])
    if rec.engine.listed and split.test.candidates is None:
        run.funnel = funnel(rec.engine, split.test, system=rec.system)


def baselines(recommender: Recommender, split: Split, metrics: Sequence[str]) -> list[Report]:
    """Popularity, the first stage alone where a ranker stands behind it, and each of several sources alone; on test."""
    out = []
    if split.test.labels is None and recommender.name != "popularity":
        popular = Recommender(Popularity()).fit(split.train)
        out.append(report_on(recommender, split.test, metrics, "popularity", popular.scorer()))
    if recommender.engine.states is not None:
        name = f"{recommender.name.partition(' + ')[0]} alone"
        out.append(report_on(recommender, split.test, metrics, name, recommender.engine.alone))
    if recommender.engine.union is not None and split.test.labels is None:
        sources = [source for source in recommender.engine.sources if source.name != "popularity"]
        out += [report_on(recommender, split.test, metrics, f"{each.name} alone", each.scorer) for each in sources]
    return out


def against(report: Report, others: Sequence[Report], metric: str) -> Comparisons:
    """``report`` less each of the others on one metric, corrected over all of them."""
    found = compare(report, *others, metrics=[metric])
    named = [row._replace(model=row.baseline, baseline=row.model) for row in found.rows]
    rows = (row._replace(difference=-row.difference, low=-row.high, high=-row.low) for row in named)
    return Comparisons(tuple(rows), found.notes)
