"""The pictures of a run's report: metrics, training, the log, the funnel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from suisen.display import stage_title
from suisen.evaluation.report import Score, interval, number
from suisen.pages import draw
from suisen.pages.charts import Bar, Figure, intervals
from suisen.pages.draw import DASHES, WIDTH, Axis, Band, Bars, Line, Mark, Panel, Rule, Svg
from suisen.pages.words import share

if TYPE_CHECKING:
    from suisen.pipeline.funnel import Funnel
    from suisen.training.options import Curve

PICTURES = 3
"""Most metrics drawn beside the table that holds them all."""
POINTS = 200
"""Most points of a line: a catalogue of millions must not make a page of megabytes."""
STAGE = 58
"""Height of a stage of the funnel."""


# -- results -----------------------------------------------------------------------------------------------------------


def metric_figures(models: Mapping[str, Sequence[Score]], primary: str) -> list[Figure]:
    """Dots with their 95 % intervals, the primary metric first; the last model, which is the run's own, stands out.

    Metrics that show the same number for all models have no picture.
    """
    names = dict.fromkeys(score.metric for scores in models.values() for score in scores)
    figures: list[Figure] = []
    for metric in sorted(names, key=lambda name: name != primary):
        measured = {name: s for name, scores in models.items() for s in scores if s.metric == metric}
        found = {name: s for name, s in measured.items() if s.low <= s.value <= s.high}
        if len({number(s.value) for s in found.values()}) > 1 and len(figures) < PICTURES:
            said = {name: f"{number(s.value)} {interval(s.low, s.high)}" for name, s in found.items()}
            rows = [Bar(name, s.value, s.low, s.high, said[name]) for name, s in found.items()]
            rows[-1] = rows[-1]._replace(colour="accent")
            figures.append(Figure(metric, intervals(metric, rows, effects=False), ""))
    return figures


# -- training ----------------------------------------------------------------------------------------------------------


def curve_figures(curves: Mapping[str, Sequence[Curve]], watched: str) -> list[Figure]:
    """One picture per phase of more than one epoch."""
    found = [(name, curve) for name, curve in _phases(curves) if len(curve.rows) > 1]
    return [Figure(name, training(curve, name, watched), _speed(curve)) for name, curve in found]


def curve_words(curves: Mapping[str, Sequence[Curve]], watched: str) -> list[str]:
    """One sentence per phase of a single epoch, of which a picture would show a dot."""
    said = []
    for name, curve in _phases(curves):
        if len(curve.rows) == 1:
            row = curve.rows[0]
            metric = "" if row.metric is None else f", {watched} {number(row.metric)}"
            said.append(f"{name}: loss {number(row.loss)}{metric}; {_speed(curve)}.")
    return said


def _phases(curves: Mapping[str, Sequence[Curve]]) -> Iterator[tuple[str, Curve]]:
    """Each phase's name in words, and its curve."""
    for stage, phases in curves.items():
        for place, curve in enumerate(phases, 1):
            title = stage_title(stage)
            yield (f"{title}, phase {place} of {len(phases)}" if len(phases) > 1 else title), curve


def _seconds(seconds: float) -> str:
    return f"{seconds:.2g}" if seconds < 1 else f"{seconds:,.1f}"


def _speed(curve: Curve) -> str:
    seconds = sum(row.seconds for row in curve.rows)
    validation = sum(row.validation_seconds for row in curve.rows)
    speed = sum(row.examples_per_second * row.seconds for row in curve.rows) / seconds if seconds else 0.0
    with_it = f" ({_seconds(seconds + validation)} s with validation)" if validation else ""
    parts = [f"{_epochs(len(curve.rows))} in {_seconds(seconds)} s{with_it}", f"{speed:,.0f} examples/s", curve.stopped]
    return "; ".join(part for part in parts if part)


def training(curve: Curve, name: str, watched: str) -> Svg:
    """Loss above, validation metric below (where anything validated), by epoch; the epoch that was kept is marked."""
    rows = curve.rows
    validated = [(row.epoch, row.metric) for row in rows if row.metric is not None]
    told = f"Loss from {number(rows[0].loss)} to {number(rows[-1].loss)}, {_epochs(len(rows))}."
    kept: list[Mark] = []
    best = ""
    if curve.best_metric is not None and curve.best_epoch:
        best = f"best: epoch {curve.best_epoch:,}, {number(curve.best_metric)}"
        told += f" {watched}, {best}."
        kept = [Rule(x=curve.best_epoch, colour="second", dashes=DASHES)]
    air = 0.04 * len(rows)
    level = Axis(label="epoch", low=max(0.2, 1 - air), high=len(rows) + air, whole=True)
    loss = Line([row.epoch for row in rows], [row.loss for row in rows], colour="muted")
    panels = [Panel(marks=[*kept, loss], x=level, y=Axis(label="loss"), note="" if validated else best, height=190)]
    if validated:
        epochs, metrics = zip(*validated, strict=True)
        marks: list[Mark] = [*kept, Line(epochs, metrics)]
        if best:
            marks.append(Line([curve.best_epoch], [curve.best_metric or 0.0], colour="second", radius=4.5))
        panels.append(Panel(marks=marks, x=level, y=Axis(label=watched), note=best, height=190))
    return draw.picture(f"Training of {name}", told, panels)


def _epochs(count: int) -> str:
    """1 epoch, 2 epochs, …"""
    return f"{count:,} epoch{'s' if count > 1 else ''}"


# -- data --------------------------------------------------------------------------------------------------------------


def tail_share(counts: npt.ArrayLike, of_items: float = 0.1) -> float:
    """Share of all events that the most popular tenth (by default) of the items takes; 0 where there is none."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    return float(ordered[: max(1, round(of_items * ordered.size))].sum() / max(1.0, ordered.sum()))


def long_tail(counts: npt.ArrayLike) -> Svg:
    """Share of events against share of items, the most popular first."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    events = np.concatenate([[0.0], ordered.cumsum() / ordered.sum()])
    items = np.linspace(0, 1, events.size)
    kept = np.unique(np.linspace(0, events.size - 1, min(POINTS, events.size)).round().astype(int))
    head, taken = max(1, round(0.1 * ordered.size)) / ordered.size, tail_share(counts)
    x, y = items[kept].tolist(), events[kept].tolist()
    marks: list[Mark] = [
        Band(x, [0.0] * len(x), y),
        Line([0, 1], [0, 1], colour="muted", dashes="2 3", dots=False),
        Line(x, y, dots=False),
        Line([head], [taken], colour="second", radius=4.5),
    ]
    told = f"The most popular {share(head)} of {ordered.size:,} items take {share(taken)} of the events."
    level = Axis(label="share of items, most popular first", low=0, high=1, percent=True)
    upright = Axis(label="share of events", low=0, high=1, percent=True)
    return draw.picture("Long tail", told, [Panel(marks=marks, x=level, y=upright, height=250)])


def history_lengths(lengths: npt.ArrayLike) -> Svg:
    """How many users have a history of 1, 2–3, 4–7, … events; each bar is twice as wide as the one before, in logs."""
    values = np.asarray(lengths, dtype=np.int64)
    octave = np.floor(np.log2(values)).astype(int)
    first, last = int(octave.min()), int(octave.max())
    users = np.bincount(octave - first, minlength=last - first + 1).tolist()
    edges = [2**power for power in range(first, last + 2)]
    spans = ["1 event" if low == 1 else f"{low:,} to {2 * low - 1:,} events" for low in edges[:-1]]
    told = "; ".join(f"{span}: {count:,}" for span, count in zip(spans, users, strict=True))
    written = {float(edge): f"{edge:,}" if edge < 10_000 else f"{edge // 1000:,}k" for edge in edges}
    level = Axis(label="events per user", low=edges[0], high=edges[-1], log=True, marks=written)
    panel = Panel(marks=[Bars(edges, users)], x=level, y=Axis(label="users", low=0, whole=True), height=250)
    return draw.picture("Length of histories", f"Users by their number of events. {told}.", [panel])


def timeline(counts: Sequence[int], first: str, last: str) -> Svg:
    """Events in equal stretches of time."""
    between = f"from {first} to {last}, in {len(counts):,} equal stretches"
    told = f"{sum(counts):,} events {between}; at most {max(counts):,}."
    level = Axis(label="time (UTC)", low=0, high=len(counts), marks={0: first, len(counts): last})
    marks = [Bars(range(len(counts) + 1), counts)]
    panel = Panel(marks=marks, x=level, y=Axis(label="events", low=0, whole=True), height=250)
    return draw.picture("Events over time", told, [panel])


# -- the funnel --------------------------------------------------------------------------------------------------------


def recall_figure(recalls: Mapping[int, Score]) -> Figure:
    """Recall against the number of candidates, by powers, with the band of its intervals."""
    counts = sorted(recalls)
    scores = [recalls[count] for count in counts]
    said = "; ".join(f"{count:,}: {number(recalls[count].value)}" for count in counts)
    marks: list[Mark] = [
        Band(counts, [score.low for score in scores], [score.high for score in scores]),
        Line(counts, [score.value for score in scores]),
    ]
    written = {float(count): f"{count:,}" for count in counts}
    level = Axis(label="candidates per query", low=counts[0], high=counts[-1], log=True, marks=written)
    panel = Panel(marks=marks, x=level, y=Axis(label="recall", low=0), height=250)
    more = number(scores[-1].value - scores[-2].value, signed=True)
    caption = f"{counts[-1]:,} in place of {counts[-2]:,} candidates: {more} recall."
    picture = draw.picture(
        "Recall by number of candidates", f"Recall of the first stage by candidates. {said}.", [panel]
    )
    return Figure("Recall by number of candidates", picture, caption)


def funnel_figure(funnel: Funnel) -> Figure:
    """What each stage keeps of the relevant items, and what it loses."""
    total = funnel.relevant
    told = "; ".join(f"{funnel.named(s.stage)}: {s.hits:,} of {total:,} kept, {s.lost:,} lost" for s in funnel.stages)
    parts: list[str] = []
    for place, stage in enumerate(funnel.stages):
        kept, lost = (WIDTH * count / max(1, total) for count in (stage.hits, stage.lost))
        hits = f"{stage.hits:,} hits, {share(stage.hits / max(1, total))}"
        parts += draw.headed(place * STAGE + 15, funnel.named(stage.stage), hits, (0, WIDTH))
        top = place * STAGE + 21
        parts += [draw.bar(0, top, WIDTH, 16, "grid"), draw.bar(0, top, kept, 16, "accent")]
        parts.append(draw.bar(kept, top, lost, 16, "second"))
        parts.append(draw.text(0, top + 29, f"{stage.items:,.0f} items per list", "muted"))
        if stage.lost:
            parts.append(draw.text(WIDTH, top + 29, f"lost here: {stage.lost:,}", "second", "end"))
    return Figure("What each stage keeps", draw.svg("Funnel", f"{told}.", STAGE * len(funnel.stages), parts), "")
