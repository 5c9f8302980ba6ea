"""The report of a run: plain data in, one self-contained HTML page out.  It asks the network for nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from suisen.display import stage_title
from suisen.evaluation.metrics import METRICS
from suisen.evaluation.report import Comparison, Score, interval, number, probability
from suisen.files import write_text
from suisen.pages import report_charts as charts
from suisen.pages.charts import Figure
from suisen.pages.render import render
from suisen.pages.words import day, share, span

if TYPE_CHECKING:
    from suisen.pipeline.funnel import Funnel
    from suisen.training.options import Curve

ALPHA = 0.05
ONCE, NEVER, REPEATED, FEW_QUERIES, OLDEST = 0.3, 0.5, 0.05, 200, "1990"
"""What the data's table warns of: users with one event, items with none, repeats (shares above these), few queries in
test, times before this year."""


# -- what a report is made of ------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What the log holds."""

    name: str
    users: int
    items: int
    events: int
    guests: int = 0
    """Sessions of nobody."""
    first: str = ""
    """When the first event was, in words; "" where the log has no time."""
    last: str = ""
    timeline: tuple[int, ...] = ()
    """Events in equal stretches from first to last; empty where the log has no time."""
    item_counts: Sequence[int] = ()
    """Events of each item, catalogue items without any included."""
    history_lengths: Sequence[int] = ()
    """Events of each user that has any."""
    repeats: int = 0
    """Events that repeat an earlier one of the same user and item."""
    seen_excluded: bool = True
    """Whether lists leave out what a user has."""
    losses: tuple[str, ...] = ()
    """Sentences on rows that reading dropped, or that repeat others."""
    parts: Mapping[str, int] = field(default_factory=dict)
    """What the split made of it, like {"events to learn from": 98_114, "test queries": 943}."""

    @property
    def density(self) -> float:
        """Events over cells of the users × items table."""
        return self.events / max(1, self.users * self.items)


@dataclass(frozen=True)
class ModelScores:
    """One model's row of numbers."""

    name: str
    scores: tuple[Score, ...]


@dataclass(frozen=True)
class Listed:
    """An item of an example's list."""

    title: str
    hit: bool = False
    """Whether the user took it afterwards."""


@dataclass(frozen=True)
class Example:
    """A user with lists side by side: history, recommendations of one model or of several."""

    user: str
    """The id; "" = a guest."""
    lists: Mapping[str, Sequence[Listed]]
    """Heading → items, the newest or the best first."""
    about: str = ""
    """The user's features, in words."""
    taken: tuple[str, ...] = ()
    """Titles that the user took afterwards: what the lists tried to foresee."""


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """A run, as plain data.  What is empty has no section in the page."""

    title: str
    command: str
    """Repeats the run."""
    when: str = ""
    remarks: tuple[str, ...] = ()
    """Sentences for the head of the page: how this run compares with the last one."""
    data: DataFacts | None = None
    models: tuple[ModelScores, ...] = ()
    """The last one is the model of the run; the others are what it is measured against."""
    valid: tuple[Score, ...] = ()
    """The run's own model on valid: what it was chosen by, beside test."""
    recalls: Mapping[int, Score] = field(default_factory=dict)
    """Number of candidates → recall of the first stage with so many."""
    comparisons: tuple[Comparison, ...] = ()
    primary: str = "ndcg@10"
    """The metric of the verdict."""
    curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    """Stage → its phases, as ``Recommender.curves`` has them."""
    watched: str = "validation metric"
    """What the curves' metric is."""
    funnel: Funnel | None = None
    examples: tuple[Example, ...] = ()
    hyper_parameters: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Stage → name → value."""
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Where (reading, training, evaluation) → what was dropped, merged, assumed."""


# -- what is said ------------------------------------------------------------------------------------------------------


def outcome(row: Comparison) -> str:
    """better, worse, higher, lower or no difference, at 5 % after Holm's correction.

    higher and lower: of metrics such as coverage, of which more is neither good nor bad in itself.
    """
    if not row.p_holm < ALPHA or row.difference == 0:
        return "no difference"
    metric = METRICS.get(row.metric.partition("@")[0])
    said = "higher" if row.difference > 0 else "lower"
    if metric is None or metric.better == "neither":
        return said
    return "better" if said == metric.better else "worse"


def verdict(row: Comparison) -> str:
    """One sentence on a paired difference, with its numbers."""
    said = f"{row.model} is {outcome(row)} than {row.baseline}"
    if outcome(row) == "no difference":
        said = f"No significant difference between {row.model} and {row.baseline}"
    numbers = f"{number(row.difference, signed=True)} {interval(row.low, row.high, signed=True)}"
    queries = f"n = {row.n:,}".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{said} on {row.metric}: {numbers}, p (Holm) {probability(row.p_holm)}, {queries}."


def verdicts(comparisons: Sequence[Comparison], primary: str) -> list[tuple[str, str]]:
    """(outcome, sentence) of each comparison on the primary metric, or on the first where that was not measured."""
    metrics = [row.metric for row in comparisons]
    chosen = primary if primary in metrics else next(iter(metrics), "")
    return [(outcome(row), verdict(row)) for row in comparisons if row.metric == chosen]


# -- tables ------------------------------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """A value with its interval."""

    value: str
    interval: str
    best: bool = False
    """Whether no other model has a better one."""


class MetricRow(NamedTuple):
    """One metric of all models."""

    metric: str
    cells: list[Cell | None]
    """None: this model was not measured by it."""
    n: str
    protocol: str
    valid: Cell | None = None


def metric_rows(models: Sequence[ModelScores], valid: Sequence[Score] = ()) -> list[MetricRow]:
    """Metrics down, models across, the best of each row marked (all of them, where several show the same number)."""
    on_valid = {score.metric: cell_of(score) for score in valid}
    tables = [{score.metric: score for score in model.scores} for model in models]
    rows = []
    for metric in dict.fromkeys(metric for table in tables for metric in table):
        found = [table.get(metric) for table in tables]
        there = [score for score in found if score is not None]
        best = best_of(metric, [score.value for score in there])
        cells = [None if s is None else cell_of(s, best) for s in found]
        n = " / ".join(dict.fromkeys(f"{s.n:,}" for s in there))
        protocol = " / ".join(dict.fromkeys(s.protocol for s in there))
        rows.append(MetricRow(metric, cells, n, protocol, on_valid.get(metric)))
    return rows


def cell_of(score: Score, best: str = "") -> Cell:
    """A score as it is shown; ``best``: the number that is marked."""
    said = number(score.value)
    return Cell(said, interval(score.low, score.high), said == best)


def best_of(metric: str, values: Sequence[float]) -> str:
    """The best of several values, as it is shown; "" where one is no better than another or stands alone."""
    known = METRICS.get(metric.partition("@")[0])
    there = [value for value in values if isfinite(value)]
    if known is None or known.better == "neither" or len({number(value) for value in there}) < 2:
        return ""
    return number(max(there) if known.better == "higher" else min(there))


def one_protocol(rows: Sequence[MetricRow] | Sequence[Comparison]) -> str:
    """The protocol that all rows share; "" where they differ and each row must say its own."""
    found = {row.protocol for row in rows}
    return found.pop() if len(found) == 1 else ""


class Fact(NamedTuple):
    """A line of the data's table."""

    name: str
    value: str
    look: str = ""
    """What to look at, and what to do about it."""
    level: Literal["", "warn", "bad"] = ""


def data_table(data: DataFacts, today: str = "") -> list[Fact]:
    """What the log holds, and beside it what looks wrong: ``warn`` limits what can be learnt, ``bad`` is a mistake."""
    rows = [_users_row(data)]
    if data.guests:
        rows.append(Fact("guest sessions", f"{data.guests:,}"))
    rows += [_items_row(data), Fact("events", f"{data.events:,}"), _repeats_row(data), _times_row(data, today)]
    if len(data.history_lengths):
        lengths = np.sort(data.history_lengths)
        rows.append(Fact("events per user", f"median {lengths[len(lengths) // 2]:,}, most {lengths[-1]:,}"))
    rows.append(Fact("density", share(data.density)))
    rows += [Fact("reading", "", said, "warn") for said in data.losses]
    return rows + split_rows(data.parts)


def split_rows(parts: Mapping[str, int]) -> list[Fact]:
    """What the split made of the log: a line per part, and those of its counts that a reader must know of."""
    rows = [Fact("learnt from", f"{parts['train events']:,} events")] if "train events" in parts else []
    for part in ("valid", "test"):
        unit = "queries" if f"{part} queries" in parts else "events"
        count, asked = parts.get(f"{part} {unit}"), max(1, parts.get(f"{part} truth", 0))
        if count is not None:
            unknown, seen = (share(parts.get(f"{part} truth {what}", 0) / asked) for what in ("unknown", "seen"))
            looks = [f"fewer than {FEW_QUERIES}: intervals are wide"] if count < FEW_QUERIES else []
            if parts.get(f"{part} truth unknown", 0) > REPEATED * asked:
                looks.append(f"{unknown} of what it asks for is unknown to train and always missed")
            if parts.get(f"{part} truth seen", 0) > REPEATED * asked:
                looks.append(f"{seen} of what it asks for was taken before")
            rows.append(Fact(part, f"{count:,} {unit}", "; ".join(looks), "warn" if looks else ""))
    known = ("train ", "valid ", "test ")
    return rows + [Fact(name, f"{value:,}") for name, value in parts.items() if not name.startswith(known)]


def _users_row(data: DataFacts) -> Fact:
    once = sum(1 for length in data.history_lengths if length == 1)
    if once <= ONCE * len(data.history_lengths):
        return Fact("users", f"{data.users:,}")
    said = share(once / len(data.history_lengths))
    return Fact("users", f"{data.users:,}", f"{said} have one event: nothing to predict the next one from", "warn")


def _items_row(data: DataFacts) -> Fact:
    never = sum(1 for count in data.item_counts if not count)
    if not never:
        return Fact("items", f"{data.items:,}")
    many = never > NEVER * len(data.item_counts)
    look = f"{never:,} more have no event; only models that read item features can offer them"
    return Fact("items", f"{data.items:,}", look, "warn" if many else "")


def _repeats_row(data: DataFacts) -> Fact:
    part = data.repeats / max(1, data.events)
    value = f"{data.repeats:,} of the events, {share(part)}"
    if part <= REPEATED or not data.seen_excluded:
        return Fact("repeats", value)
    look = "people take things again, and a list leaves out what a user has; exclude_seen=False leaves it in"
    return Fact("repeats", value, look, "warn")


def _times_row(data: DataFacts, today: str) -> Fact:
    if not data.first:
        return Fact(
            "times", "none", "the order of the events is not known: name the time column, if there is one", "warn"
        )
    said = span(data.first, data.last)
    if data.first == data.last:
        return Fact("times", said, "all events are of one moment: is this the right column?", "bad")
    if data.first < OLDEST or (today and data.last[:10] > today[:10]):
        where = "before 1990" if data.first < OLDEST else "in the future"
        return Fact("times", said, f"events lie {where}: is the unit of the times right (time_unit)?", "bad")
    return Fact("times", f"{said} (UTC)")


def funnel_lines(funnel: Funnel) -> list[str]:
    """The funnel in three sentences: what was asked for, what the first stage found of it, what the list shows; and
    which features of pairs the ranker reads, where it reads more than the retrieval's.
    """
    asked, possible, found, shown = (stage.hits for stage in funnel.stages)
    filtered = f"; {asked - possible:,} of them are filtered out and cannot be recommended" if asked > possible else ""
    told = ", ".join(funnel.pair_features)
    return [
        f"Test asks {funnel.queries:,} times, for {asked:,} items in all{filtered}.",
        f"The first stage finds {found:,} of them ({share(found / max(1, asked))}) with "
        f"{funnel.stages[2].items:,.0f} candidates per query.",
        f"The second stage puts {shown:,} of those ({share(shown / max(1, found))}) into the top {funnel.k}: "
        f"{share(shown / max(1, asked))} of all that was asked for.",
        *([f"It reads of each pair, beside the retrieval's: {told}."] if told else []),
    ]


# -- pictures ----------------------------------------------------------------------------------------------------------


def data_figures(data: DataFacts) -> list[Figure]:
    """Long tail, histories and time, where there are any."""
    figures = []
    if sum(data.item_counts):
        taken = share(charts.tail_share(data.item_counts))
        head = f"The most popular tenth of the items takes {taken} of the events"
        never = sum(1 for count in data.item_counts if not count)
        caption = f"{head}; {never:,} items have none." if never else f"{head}."
        figures.append(Figure("Long tail", charts.long_tail(data.item_counts), caption))
    if len(data.history_lengths):
        lengths = np.sort(data.history_lengths)
        median, mean = lengths[len(lengths) // 2], number(lengths.mean())
        caption = f"Events per user: median {median:,}, mean {mean}, from {lengths[0]:,} to {lengths[-1]:,}."
        figures.append(Figure("Length of histories", charts.history_lengths(data.history_lengths), caption))
    if data.timeline:
        picture = charts.timeline(data.timeline, day(data.first), day(data.last))
        figures.append(Figure("Events over time", picture, f"Each bar is 1/{len(data.timeline)} of the time."))
    return figures


def funnel_figures(data: ReportData) -> list[Figure]:
    """What each stage keeps, and what more candidates would bring."""
    figures = [charts.funnel_figure(data.funnel)] if data.funnel else []
    if len(data.recalls) > 1:
        figures.append(charts.recall_figure(data.recalls))
    return figures


# -- the page ----------------------------------------------------------------------------------------------------------


def write_report(path: Path, data: ReportData) -> None:
    """Writes the page.  Raises MissingExtra without the extra ``report``."""
    write_text(path, render_report(data))


def render_report(data: ReportData) -> str:
    """The page as text."""
    return render("report.html", _parts(data), [number, outcome, interval, probability])


def _parts(data: ReportData) -> dict[str, Any]:
    """What the template shows, by section."""
    rows = metric_rows(data.models, data.valid)
    return {
        "run": data,
        "rows": rows,
        "rows_protocol": one_protocol(rows),
        "row_figures": charts.metric_figures({model.name: model.scores for model in data.models}, data.primary),
        "verdicts": verdicts(data.comparisons, data.primary),
        "pairs_protocol": one_protocol(data.comparisons),
        "when": f"{day(data.when, time=True)} UTC" if data.when else "",
        "funnel_lines": funnel_lines(data.funnel) if data.funnel else [],
        "funnel_figures": funnel_figures(data),
        "data_rows": data_table(data.data, data.when) if data.data else [],
        "curve_figures": charts.curve_figures(data.curves, data.watched),
        "curve_words": charts.curve_words(data.curves, data.watched),
        "epochless": [
            stage_title(stage) for stage, phases in data.curves.items() if not any(curve.rows for curve in phases)
        ],
        "data_figures": data_figures(data.data) if data.data else [],
        "hyper_parameters": {stage: values for stage, values in data.hyper_parameters.items() if values},
        "notes": {where: list(dict.fromkeys(lines)) for where, lines in data.notes.items() if lines},
    }
