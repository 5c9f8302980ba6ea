"""Keeping a run: bundle, metrics, curves and report in its folder."""

from dataclasses import replace
from typing import Any

from suisen.errors import MissingExtra
from suisen.evaluation import Report, compare
from suisen.pages.report import write_report
from suisen.pipeline.recommender import Recommender
from suisen.runs import folder as place
from suisen.runs.earlier import last_run
from suisen.runs.facts import data_facts
from suisen.runs.page import page_of
from suisen.runs.run import Run

FORMAT = 1
"""Of metrics.json."""


def save(run: Run) -> None:
    """Bundle, metrics, curves and report; metrics.json comes last of what is machine-read: it says the run is over.

    Where the bundle was refitted, ``measured`` holds the models that the figures are of, for ``suisen evaluate``.
    Without the extra ``report`` there is no page; a remark of the run says so.
    """
    brief = {part: [score._asdict() for score in report.scores] for part, report in run.reports.items()}
    origin = {"config": run.config.tables(), "environment": run.environment}
    measured = place.finite(brief)
    run.served.save(run.folder / place.BUNDLE, metrics=measured, run={**origin, "bundle": run.said})
    if run.final is not None:
        run.recommender.save(run.folder / place.MEASURED, metrics=measured, run=origin, plan=False)
    facts = data_facts(run.data)
    place.write_json(run.folder / place.CURVES, curves_of(run.recommender))
    if run.report is not None:
        _report(run, run.report, facts["fingerprint"])
    place.write_json(run.folder / place.METRICS, {
        "format": FORMAT,
        "finished": place.now(),
        "name": run.recommender.name,
        "seed": run.config.run.seed,
        "seconds": run.seconds,
        "data": {**facts, "split": dict(run.split.facts), "notes": [*run.data.log.notes, *run.split.notes]},
        "reports": {part: report.to_dict() for part, report in run.reports.items()},
        "baselines": {report.name: report.to_dict() for report in run.baselines},
        "comparisons": [row._asdict() for row in run.comparisons.rows] if run.comparisons else [],
        "funnel": None if run.funnel is None else run.funnel.to_dict(),
        "index_recall": run.recommender.system.index_recall,
        "notes": list(run.recommender.system.notes),
        "bundle": run.said,
    })  # fmt: skip


def _report(run: Run, test: Report, data: str) -> None:
    """The page, and how the run compares with the last one."""
    last = last_run(run.folder, data, test)
    if last is not None:
        found = compare(last[1], replace(test, name=run.folder.name))
        run.earlier = found
        run.remarks = [f"compared with the last run on the same data and protocol, {last[0].name}:", str(found)]
    try:
        write_report(run.folder / place.REPORT, page_of(run, test))
    except MissingExtra as error:
        run.remarks.append(f"{place.REPORT} was not written: {error}")


def curves_of(recommender: Recommender) -> dict[str, Any]:
    """Stage → its phases → their epochs."""
    return {
        stage: [
            {
                "best_epoch": curve.best_epoch,
                "best_metric": curve.best_metric,
                "stopped": curve.stopped,
                "epochs": [row._asdict() for row in curve.rows],
            }
            for curve in phases
        ]
        for stage, phases in recommender.curves.items()
    }
