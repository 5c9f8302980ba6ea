"""From a run to the data of its report: facts of the log, models, curves, funnel and some users with their lists."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from suisen.data.batch import Queries
from suisen.evaluation import Report
from suisen.evaluation.protocols import AGAIN
from suisen.evaluation.report import Score
from suisen.pages.report import Example, Listed, ModelScores, ReportData, verdicts
from suisen.recommending.engine import Filters
from suisen.recommending.store import Store
from suisen.runs import folder as place
from suisen.runs.facts import advice, facts_of
from suisen.runs.run import Run, report_on
from suisen.runs.settings import plain

EXAMPLES, LISTED, HISTORY = 3, 10, 12
DEPTHS = (10, 20, 50, 100, 200, 500)
"""Numbers of candidates whose recall is shown, as far as the catalogue goes."""
QUERIES = 2_000
"""Most queries that this recall is measured on."""


def page_of(run: Run, test: Report) -> ReportData:
    """Everything that the page shows; ``test`` is the run's report."""
    rec = run.recommender
    again = [note for note in test.notes if AGAIN in note]
    tables = _flat(run.config.tables())
    sections = ("retriever", "ranker", "index", "lists", "split", "run")
    shown = [name for one in sections for name in tables if name.partition(".")[0] == one]
    return ReportData(
        title=f"{rec.name} on {name_of(run)}",
        command=f"suisen train --config {run.folder / place.CONFIG}",
        when=place.now()[:19].replace("T", " ") + " UTC",
        remarks=(*again, run.said, *remarks(run, next(iter(test.values)))),
        data=facts_of(name_of(run), run.data, run.split.facts, run.config.run.exclude_seen),
        valid=run.reports["valid"].scores if "valid" in run.reports else (),
        recalls=recalls(run),
        models=tuple(ModelScores(report.name, report.scores) for report in (*run.baselines, test)),
        comparisons=run.comparisons.rows if run.comparisons is not None else (),
        primary=next(iter(test.values)),
        curves=rec.curves,
        watched=f"{run.config.run.stop_on or ('ndcg@10' if run.split.test.labels is None else 'auc')} on valid",
        funnel=run.funnel,
        examples=tuple(examples(run)) if run.split.test.labels is None else (),
        hyper_parameters={name: _texts(tables[name]) for name in shown},
        environment=_texts({**run.environment, **run.environment["libraries"]}, ("libraries",)),
        notes=dict(
            reading=run.data.log.notes,
            split=run.split.notes,
            training=[*rec.system.notes, *advice(rec)],
            evaluation=test.notes,
        ),
    )


def remarks(run: Run, primary: str) -> tuple[str, ...]:
    """The run's remarks, in place of a table of differences to the last run the sentence on the primary metric."""
    if run.earlier is None:
        return tuple(run.remarks)
    return tuple(f"Against the last run on these data: {said}" for _, said in verdicts(run.earlier.rows, primary))


def _flat(tables: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The sections of a configuration, those of several retrievers apart, as ``retriever.ease``."""
    own = dict(tables.get("retriever", {}))
    inner = {f"retriever.{key}": own.pop(key) for key in list(own) if isinstance(own[key], dict)}
    return {**tables, **({"retriever": own} if own else {}), **inner}


def _texts(values: dict[str, Any], without: Sequence[str] = ()) -> dict[str, str]:
    shown = {name: plain(value) for name, value in values.items() if name not in without and value is not None}
    return {name: ", ".join(map(str, v)) if isinstance(v, list) else str(v) for name, v in shown.items()}


def name_of(run: Run) -> str:
    """The data set's name, or its file's without the folders."""
    where = run.config.place
    return where.name or Path(str(where.events)).name


def recalls(run: Run) -> dict[int, Score]:
    """Number of candidates → the first stage's recall with so many, on some queries of test."""
    rec, test = run.recommender, run.split.test
    if test.labels is not None or test.candidates is not None:
        return {}
    most = min(len(rec.store.items) - 1, max(rec.engine.candidates, DEPTHS[-1]))
    depths = [*(depth for depth in DEPTHS if depth < most), most]
    some = test.take(torch.linspace(0, len(test) - 1, min(QUERIES, len(test))).long())
    first = rec.engine.alone
    found = report_on(rec, some, [f"recall@{depth}" for depth in depths], rec.name, first)
    return dict(zip(depths, found.scores, strict=True))


def examples(run: Run) -> list[Example]:
    """Some users of test, spread over it: their history, what the model says, what they took."""
    queries, rec = run.split.test, run.recommender
    known = (queries.contexts.history.lengths > 0).nonzero().squeeze(1)
    if not known.numel() or queries.candidates is not None:
        return []
    picked = known[torch.linspace(0, known.numel() - 1, min(EXAMPLES, known.numel())).long()]
    some = queries.take(picked)
    lists: dict[str, Tensor] = {}
    if rec.engine.states is not None:
        alone = f"{rec.name.partition(' + ')[0]} alone"
        lists[alone] = rec.engine.alone.rank(some.contexts, LISTED, some.seen)[0]
    lists[rec.name] = rec.engine.lists(some.contexts, LISTED, Filters(some.seen))[0]
    return [_example(rec.store, some, row, {name: ids[row] for name, ids in lists.items()}) for row in range(len(some))]


def _example(store: Store, queries: Queries, row: int, lists: dict[str, Tensor]) -> Example:
    truth = _row(queries.truth, row)
    past = _row(queries.contexts.history, row).flip(0)[:HISTORY]
    user = int(queries.contexts.user[row])
    shown: dict[str, list[Listed]] = {"history, newest first": [Listed(title) for title in store.titles(past)]}
    for name, ids in lists.items():
        ids = ids[ids > 0]  # noqa: PLW2901 - padding is not shown
        hits = torch.isin(ids, truth).tolist()
        shown[name] = [Listed(title, hit) for title, hit in zip(store.titles(ids), hits, strict=True)]
    name = str(store.users.raw_ids[user - 1]) if user else ""
    features = store.user_frame.row(user, named=True) if user and store.user_frame.width else {}
    about = ", ".join(f"{key} {value}" for key, value in features.items() if value is not None)
    return Example(name, shown, about, tuple(store.titles(truth[truth > 0])))


def _row(ragged: Any, row: int) -> Tensor:
    values: Tensor = ragged.values[ragged.offsets[row] : ragged.offsets[row + 1]]
    return values
