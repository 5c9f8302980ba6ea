"""What a run has to say when it is over, as text; who launched it prints it."""

from collections.abc import Sequence

from suisen.display import seconds, text_table
from suisen.evaluation import Comparisons, Report
from suisen.evaluation.report import SCORE_HEAD, interval, number
from suisen.runs import folder as place
from suisen.runs.earlier import NOTHING
from suisen.runs.facts import advice
from suisen.runs.run import Run


def summary(run: Run) -> str:
    """The data, the metric table, the paired differences, the funnel, the remarks, the seconds; paragraphs."""
    took = ", ".join(f"{name} {seconds(spent)}" for name, spent in run.seconds.items())
    page = run.folder / place.REPORT
    look = f" (look at {page})" if page.exists() else ""
    parts = [
        data_lines(run),
        NOTHING if run.report is None else results([*run.baselines, run.report], run.comparisons),
        "" if run.funnel is None else str(run.funnel),
        run.said,
        "\n".join(run.remarks),
        f"{took}; all of it in {run.folder}/{look}",
    ]
    return "\n\n".join(part for part in parts if part)


def data_lines(run: Run) -> str:
    """What was read, how it was cut, and the notes of both and of training."""
    first = f"{run.data.size}; train {len(run.split.train.events):,} events, test {len(run.split.test):,} queries"
    trained = (*run.recommender.system.notes, *advice(run.recommender))
    notes = (*run.data.log.notes, *run.split.notes, *trained)
    return "\n".join([first, *(f"note: {note}" for note in notes)])


def results(reports: Sequence[Report], comparisons: Comparisons | None) -> str:
    """The metric table of all models with their notes, then the paired differences."""
    notes = dict.fromkeys(note for report in reports for note in report.notes)
    table = "\n".join([metric_table(reports), *(f"note: {note}" for note in notes)])
    return table if comparisons is None else f"{table}\n\n{comparisons}"


def metric_table(reports: Sequence[Report]) -> str:
    """One row per metric and model; the protocol is that of the first report."""
    rows = [
        [score.metric, report.name, number(score.value), interval(score.low, score.high), f"{score.n:,}"]
        for metric in reports[0].values
        for report in reports
        for score in report.scores
        if score.metric == metric
    ]
    head = (SCORE_HEAD[0], "model", *SCORE_HEAD[1:])
    return f"protocol: {reports[0].protocol}\n{text_table(head, rows)}"
