"""The pictures of the report: inline SVG whose colours are CSS variables, so that one picture serves light and dark.

Matplotlib draws with placeholder colours; ``_svg`` replaces them by ``var(--…)`` and strips what a page must not hold:
the document type, metadata, fonts, a style sheet that would reach the whole page, and ids that another picture uses.
Sizes are in points of the picture's own box; the page scales the box to its column.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from markupsafe import Markup, escape

from suisen.evaluation.report import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from suisen.evaluation import Score
    from suisen.training.options import Curve

INK, MUTED, GRID, ACCENT, SECOND, SOFT = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", ACCENT: "accent", SECOND: "second", SOFT: "soft"}
WIDTH = 360
FONT = 12
POINTS = 200
"""Most points of a line: a catalogue of millions must not make a page of megabytes."""
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: the page's own font, selectable, searchable
    "svg.hashsalt": "suisen",  # same picture, same bytes
    "text.parse_math": False,
    "font.size": FONT,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}


class Stage(NamedTuple):
    """One bar of the funnel."""

    name: str
    items: float
    """Items a list, on average."""
    hits: int
    lost: int
    """Hits that the stage before still had."""


def share(part: float) -> str:
    """A share in per cent, three significant digits.

    >>> [" ".join(share(part).split()) for part in (0.0630467, 1.0, 0.000123)]  # the space does not break
    ['6.3 %', '100 %', '0.0123 %']
    """
    return f"{float(f'{100 * part:.3g}'):.10g}\N{NO-BREAK SPACE}%"


# -- training ----------------------------------------------------------------------------------------------------------


def training(curve: Curve, name: str, watched: str) -> Markup:
    """Loss above, validation metric below (where anything validated), by epoch; the epoch that was kept is marked."""
    rows = curve.rows
    validated = [(row.epoch, row.metric) for row in rows if row.metric is not None]
    with _style():
        figure = _figure(330 if validated else 200)
        panels = list(figure.subplots(2 if validated else 1, 1, sharex=True, squeeze=False)[:, 0])
        _line(panels[0], [row.epoch for row in rows], [row.loss for row in rows], MUTED, "loss")
        if validated:
            _line(panels[1], [epoch for epoch, _ in validated], [metric for _, metric in validated], ACCENT, watched)
        _whole_epochs(panels[-1], len(rows))
        _mark_best(panels, curve)
        told = f"Loss from {number(rows[0].loss)} to {number(rows[-1].loss)}, {epochs(len(rows))}."
        best = _best(curve)
        return _svg(figure, f"Training of {name}", f"{told} {watched}, {best}." if best else told)


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str, label: str) -> None:
    dots = "o" if len(x) <= 40 else ""
    axes.plot(x, y, color=colour, linewidth=1.8, marker=dots, markersize=3.5)
    axes.set_title(label, loc="left", fontsize=FONT, color=INK)


def _whole_epochs(axes: Axes, count: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_xlim(max(0.2, 1 - 0.04 * count), count + 0.04 * count)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))


def epochs(count: int) -> str:
    """1 epoch, 2 epochs, …"""
    return f"{count:,} epoch{'s' if count > 1 else ''}"


def _best(curve: Curve) -> str:
    """The epoch that was kept, in words; "" where nothing validated."""
    if curve.best_metric is None or not curve.best_epoch:
        return ""
    return f"best: epoch {curve.best_epoch:,}, {number(curve.best_metric)}"


def _mark_best(panels: Sequence[Axes], curve: Curve) -> None:
    if not _best(curve):
        return
    for axes in panels:
        axes.axvline(curve.best_epoch, color=SECOND, linewidth=1.4, linestyle=(0, (4, 3)))
    panels[-1].plot(curve.best_epoch, curve.best_metric or 0.0, color=SECOND, marker="o", markersize=7, clip_on=False)
    panels[-1].set_title(_best(curve), loc="right", fontsize=FONT, color=SECOND)


# -- data --------------------------------------------------------------------------------------------------------------


def tail_share(counts: npt.ArrayLike, of_items: float = 0.1) -> float:
    """Share of all events that the most popular tenth (by default) of the items takes."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    return float(ordered[: max(1, round(of_items * ordered.size))].sum() / ordered.sum())


def long_tail(counts: npt.ArrayLike) -> Markup:
    """Share of events against share of items, the most popular first."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    events = np.concatenate([[0.0], ordered.cumsum() / ordered.sum()])
    items = np.linspace(0, 1, events.size)
    kept = np.unique(np.linspace(0, events.size - 1, min(POINTS, events.size)).round().astype(int))
    head = max(1, round(0.1 * ordered.size)) / ordered.size
    with _style():
        figure = _figure(270)
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.fill_between(100 * items[kept], 100 * events[kept], color=SOFT, linewidth=0)
        axes.plot(100 * items[kept], 100 * events[kept], color=ACCENT, linewidth=2)
        axes.plot([100 * head], [100 * tail_share(counts)], color=SECOND, marker="o", markersize=7)
        axes.set(xlim=(0, 100), ylim=(0, 101), xlabel="% of items, most popular first", ylabel="% of events")
        told = (
            f"The most popular {share(head)} of {ordered.size:,} items take {share(tail_share(counts))} of the events."
        )
        return _svg(figure, "Long tail", told)


def history_lengths(lengths: npt.ArrayLike) -> Markup:
    """How many users have a history of 1, 2–3, 4–7, … events."""
    values = np.asarray(lengths, dtype=np.int64)
    octave = np.floor(np.log2(values)).astype(int)
    first, last = int(octave.min()), int(octave.max())
    users = np.bincount(octave - first, minlength=last - first + 1)
    edges = [2**power for power in range(first, last + 2)]
    spans = ["1 event" if low == 1 else f"{low:,} to {2 * low - 1:,} events" for low in edges[:-1]]
    told = "; ".join(f"{span}: {count:,}" for span, count in zip(spans, users, strict=True))
    with _style():
        figure = _figure(270)
        axes = figure.subplots()
        axes.bar(range(users.size), users, color=ACCENT, width=0.82)
        every = -(-len(edges) // 8)
        axes.set_xticks([place - 0.5 for place in range(0, len(edges), every)], [_short(e) for e in edges[::every]])
        axes.grid(visible=False, axis="x")
        axes.set(xlabel="events a user", ylabel="users", xlim=(-0.6, users.size - 0.35))
        _thousands(axes)
        return _svg(figure, "Length of histories", f"Users by their number of events. {told}.")


def _short(value: int) -> str:
    return f"{value:,}" if value < 10_000 else f"{value // 1000:,}k"


def timeline(counts: Sequence[int], first: str, last: str) -> Markup:
    """Events in equal stretches of time."""
    told = (
        f"{sum(counts):,} events from {first} to {last}, in {len(counts):,} equal stretches; at most {max(counts):,}."
    )
    with _style():
        figure = _figure(270)
        axes = figure.subplots()
        axes.bar(np.arange(len(counts)) + 0.5, counts, color=ACCENT, width=0.82)
        axes.set_xticks([0, len(counts)], [first, last])
        start, end = axes.get_xticklabels()
        start.set_horizontalalignment("left")
        end.set_horizontalalignment("right")
        axes.grid(visible=False, axis="x")
        axes.set(xlim=(0, len(counts)), ylabel="events", xlabel="time (UTC)")
        _thousands(axes)
        return _svg(figure, "Events over time", told)


def _thousands(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


# -- results -----------------------------------------------------------------------------------------------------------


def intervals(metric: str, scores: Sequence[tuple[str, Score]]) -> Markup:
    """One metric of several models: dots with their 95 % intervals."""
    from matplotlib.ticker import MaxNLocator

    told = "; ".join(f"{name}: {number(s.value)} [{number(s.low)}, {number(s.high)}]" for name, s in scores)
    with _style():
        figure = _figure(64 + 44 * len(scores))
        axes = figure.subplots()
        axes.margins(x=0.08)
        for place, (_, score) in enumerate(scores):
            colour = ACCENT if place == len(scores) - 1 else MUTED
            axes.plot([score.low, score.high], [place, place], color=colour, linewidth=2.2)
            axes.plot([score.value], [place], color=colour, marker="o", markersize=7)
        left, right = axes.get_xlim()
        for place, (name, score) in enumerate(scores):
            early = score.value < (left + right) / 2
            at, side = (max(left, score.low), "left") if early else (min(right, score.high), "right")
            words = f"{_cut(name, 30)}  {number(score.value)}"
            axes.annotate(words, (at, place), (0, 9), textcoords="offset points", ha=side)
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set(ylim=(len(scores) - 0.5, -0.85), yticks=[])
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
        return _svg(figure, metric, told + ".")


def funnel(stages: Sequence[Stage], total: int) -> Markup:
    """What each stage keeps of the relevant items, and what it loses."""
    told = "; ".join(f"{s.name}: {s.hits:,} of {total:,} kept, {s.lost:,} lost" for s in stages)
    with _style():
        figure = _figure(58 * len(stages) + 4, layout=None)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.axis("off")
        axes.set(xlim=(0, 1), ylim=(len(stages), -0.02))
        for place, stage in enumerate(stages):
            _bar(axes, place, stage, max(1, total))
        return _svg(figure, "Funnel", told + ".")


def _bar(axes: Axes, place: int, stage: Stage, total: int) -> None:
    kept, lost = stage.hits / total, stage.lost / total
    axes.text(0, place + 0.32, _cut(stage.name, 24), fontsize=FONT + 1, fontweight="bold")
    axes.text(1, place + 0.32, f"{stage.hits:,} hits, {share(kept)}", ha="right")
    axes.barh(place + 0.56, 1, height=0.3, color=GRID)
    axes.barh(place + 0.56, kept, height=0.3, color=ACCENT)
    axes.barh(place + 0.56, lost, left=kept, height=0.3, color=SECOND, alpha=0.5)
    if stage.lost:
        axes.text(1, place + 0.92, f"lost here: {stage.lost:,}", ha="right", fontsize=FONT - 1, color=SECOND)
    axes.text(0, place + 0.92, f"{stage.items:,.0f} items a list", fontsize=FONT - 1, color=MUTED)


# -- from matplotlib to the page ---------------------------------------------------------------------------------------


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _style() -> AbstractContextManager[Any]:
    import matplotlib as mpl

    return mpl.rc_context(STYLE)


def _figure(height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH / 72, height / 72), layout=layout)


def _svg(figure: Figure, title: str, description: str) -> Markup:
    """The figure as one ``<svg>`` element for a page."""
    out = io.StringIO()
    facts = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with warnings.catch_warnings():  # names may be in any script: its font only measures, the page's own font draws
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        figure.savefig(out, format="svg", transparent=True, metadata=facts)
    drawn = out.getvalue()
    box = re.search(r'viewBox="([^"]+)"', drawn)
    body = drawn[drawn.index(">", drawn.index("<svg")) + 1 : drawn.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"\s*font-family: [^;\"]*;?", "", body)
    body = re.sub(r"font: (?:[^;\"]*? )?([\d.]+px)[^;\"]*", r"font-size: \1", body)  # as older releases write it
    for colour, name in VARIABLES.items():
        body = body.replace(colour, f"var(--{name})")
    key = f"p{blake2b((title + body).encode(), digest_size=5).hexdigest()}"
    body = re.sub(r"\s*<defs>\s*</defs>|\n\s*", lambda found: "" if "defs" in found[0] else "\n", _own_ids(body, key))
    return Markup(  # noqa: S704 - words are escaped, the rest is what matplotlib drew
        f'<svg class="plot" role="img" viewBox="{box[1] if box else ""}" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>{body}</svg>'
    )


def _own_ids(body: str, key: str) -> str:
    """Ids that something refers to get the picture's own prefix; the others go."""
    body = body.replace("xlink:href", "href")
    used = set(re.findall(r"(?:url\(#|href=\"#)([^)\"]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{key}-{found[1]}"' if found[1] in used else "", body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{key}-", body)
