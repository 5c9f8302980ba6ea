"""The pictures of an experiment's page: inline SVG whose colours are CSS variables, so that one serves light and dark.

Sizes are in points of the picture's own box, which the page scales to its column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import ceil, floor, isfinite, log10
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

Colour = Literal["accent", "bad", "muted"]
WIDTH, ROW, FOOT, FONT = 360, 46, 26, 12
LABEL = 21
"""Of a row, how much its words take."""
SIDE = 6
"""Left and right of what is drawn."""
LEFT = 54
"""Room for the numbers beside a course."""
TALL = 230


class Bar(NamedTuple):
    """An effect with its interval; not finite: it goes to the edge."""

    label: str
    value: float
    low: float
    high: float
    said: str
    """The numbers, as the page writes them."""
    colour: Colour = "muted"
    truth: float | None = None
    margin: float | None = None
    """Where a guardrail's margin lies."""


class Point(NamedTuple):
    """A moment of a course."""

    label: str
    value: float
    low: float
    high: float


def intervals(title: str, bars: Sequence[Bar], *, percent: bool, edge: float | None = None) -> Markup:
    """One row an effect, all on one axis that holds 0.  ``edge``: the axis goes no further than this on either side."""
    low, high = _span((x for bar in bars for x in (bar.value, bar.low, bar.high, bar.truth, bar.margin)), edge)
    height = ROW * len(bars) + FOOT
    axis = _Axis(low, high, SIDE, WIDTH - SIDE)
    parts = [*_ticks_below(axis, height - FOOT + 4, percent), *_upright(axis(0), height - FOOT + 4, "muted")]
    for place, bar in enumerate(bars):
        parts += _bar(axis, bar, ROW * place)
    told = "; ".join(f"{bar.label}: {bar.said}" for bar in bars)
    return _svg(title, told, height, parts)


def _bar(axis: _Axis, bar: Bar, top: float) -> list[str]:
    y = top + 32
    words = bar.label if len(bar.label) <= 24 else bar.label[:23] + "…"
    out = [_text(SIDE, top + 16, words, bold=True), _text(WIDTH - SIDE, top + 16, bar.said, "muted", "end")]
    if bar.margin is not None and axis.holds(bar.margin):
        out.append(_line(axis(bar.margin), y - 9, axis(bar.margin), y + 9, "second", 2, dashes="3 2"))
    ends = [axis(max(axis.low, min(axis.high, _edge(x, axis)))) for x in (bar.low, bar.high)]
    out.append(_line(ends[0], y, ends[1], y, bar.colour, 2.4))
    if axis.holds(bar.value):
        out.append(f'<circle cx="{axis(bar.value):.1f}" cy="{y}" r="4.5" style="fill: var(--{bar.colour})"/>')
    if bar.truth is not None and axis.holds(bar.truth):
        x = axis(bar.truth)
        points = f"{x:.1f},{y - 7} {x + 6:.1f},{y} {x:.1f},{y + 7} {x - 6:.1f},{y}"
        out.append(f'<polygon points="{points}" style="fill: none; stroke: var(--second); stroke-width: 2"/>')
    return out


def course(title: str, points: Sequence[Point], *, percent: bool, below: str) -> Markup:
    """Effects one after another, with the band of their intervals, on an axis that holds 0."""
    shown = [point for point in points if isfinite(point.value)]
    low, high = _span(x for point in shown for x in (point.value, point.low, point.high))
    bottom = TALL - 44
    up = _Axis(low, high, bottom, 10)
    step = (WIDTH - LEFT - 2 * SIDE) / max(1, len(shown) - 1)
    xs = [LEFT + SIDE + step * place for place in range(len(shown))]
    parts = []
    for tick in _ticks(low, high):
        parts += [_line(LEFT, up(tick), WIDTH, up(tick), "grid", 1)]
        parts += [_text(LEFT - 6, up(tick) + 4, _number(tick, percent, high - low), "muted", "end")]
    tops, ends = ([up(_edge(x, up)) for x in side] for side in zip(*((p.high, p.low) for p in shown), strict=True))
    around = [*zip(xs, tops, strict=True), *reversed(list(zip(xs, ends, strict=True)))]
    parts.append(f'<polygon points="{_path(around)}" style="fill: var(--soft)"/>')
    parts.append(_line(LEFT, up(0), WIDTH, up(0), "muted", 1))
    middle = _path(zip(xs, (up(point.value) for point in shown), strict=True))
    parts.append(f'<polyline points="{middle}" style="fill: none; stroke: var(--accent); stroke-width: 2.2"/>')
    parts += [f'<circle cx="{x:.1f}" cy="{up(p.value):.1f}" r="3" style="fill: var(--accent)"/>'
              for x, p in zip(xs, shown, strict=True)]  # fmt: skip
    parts += [*_places(xs, shown, bottom), _text((LEFT + WIDTH) / 2, TALL - 6, below, "muted", "middle")]
    last = shown[-1]
    told = f"{len(shown)} points; the last, {last.label}: " + " ".join(
        _number(x, percent, high - low) for x in (last.value, last.low, last.high)
    )
    return _svg(title, told, TALL, parts)


def _places(xs: Sequence[float], shown: Sequence[Point], bottom: float) -> list[str]:
    """Labels of some of the points, so that they do not meet."""
    room = max(len(point.label) for point in shown) * 7 + 14
    most = max(2, int((WIDTH - LEFT) / room))
    every = ceil(len(xs) / most)
    out = []
    for place in range(0, len(xs), every):
        last = place == len(xs) - 1 and len(xs) > 1
        anchor = "end" if last else "middle"
        out.append(_text(xs[place], bottom + 18, shown[place].label, "muted", anchor))
    return out


# -- axes --------------------------------------------------------------------------------------------------------------


class _Axis:
    """From numbers to places of the box."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end

    def __call__(self, x: float) -> float:
        return self.start + (x - self.low) / (self.high - self.low) * (self.end - self.start)

    def holds(self, x: float) -> bool:
        """Whether it can be drawn."""
        return isfinite(x) and self.low <= x <= self.high


def _edge(x: float, axis: _Axis) -> float:
    """What is no number goes to the nearer edge."""
    return x if isfinite(x) else axis.high if x > 0 else axis.low


def _span(values: Iterable[float | None], edge: float | None = None) -> tuple[float, float]:
    """Of what is finite, with 0 and some air."""
    there = [x for x in values if x is not None and isfinite(x)]
    if edge is not None:
        there = [max(-edge, min(edge, x)) for x in there]
    low, high = min([0.0, *there]), max([0.0, *there])
    air = 0.06 * (high - low) or 1.0
    return low - air, high + air


def _ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers between the ends."""
    rough = (high - low) / most
    power = 10.0 ** floor(log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = ceil(low / step)
    return [step * n for n in range(first, floor(high / step) + 1)]


def _ticks_below(axis: _Axis, bottom: float, percent: bool) -> list[str]:
    out = []
    for tick in _ticks(axis.low, axis.high):
        x = axis(tick)
        anchor = "start" if x < 24 else "end" if x > WIDTH - 24 else "middle"
        out += _upright(x, bottom, "grid")
        out.append(_text(x, bottom + 15, _number(tick, percent, axis.high - axis.low), "muted", anchor))
    return out


def _upright(x: float, bottom: float, colour: str) -> list[str]:
    """A line from the first row to the bottom, with gaps where the rows' words stand."""
    tops = range(LABEL, floor(bottom), ROW)
    return [_line(x, top, x, bottom if top == tops[-1] else top + ROW - LABEL, colour, 1) for top in tops]


def _number(x: float, percent: bool, span: float) -> str:
    """With as many digits as the axis tells apart."""
    scale = 100 if percent else 1
    digits = max(0, 1 - floor(log10(span * scale / 2)))
    text = f"{scale * x:.{digits}f}"
    text = "0" if float(text) == 0 else text.rstrip("0").rstrip(".") if "." in text else text
    sign = "+" if x > 0 and text != "0" else ""
    return f"{sign}{text.replace('-', '−')}{f'{chr(160)}%' if percent else ''}"


# -- marks -------------------------------------------------------------------------------------------------------------


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, dashes: str = "") -> str:
    dash = f"; stroke-dasharray: {dashes}" if dashes else ""
    style = f"stroke: var(--{colour}); stroke-width: {width:g}{dash}"
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" style="{style}"/>'


def _text(x: float, y: float, words: str, colour: str = "ink", anchor: str = "start", *, bold: bool = False) -> str:
    weight = "; font-weight: 600" if bold else ""
    halo = "paint-order: stroke; stroke: var(--card); stroke-width: 3px"
    style = f"font-size: {FONT}px; text-anchor: {anchor}; fill: var(--{colour}); {halo}{weight}"
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{style}">{escape(words)}</text>'


def _path(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _svg(title: str, description: str, height: float, parts: Sequence[str]) -> Markup:
    body = "\n".join(parts)
    key = f"c{blake2b((title + body).encode(), digest_size=5).hexdigest()}"
    return Markup(  # noqa: S704 - words are escaped, the rest is ours
        f'<svg class="plot" role="img" viewBox="0 0 {WIDTH} {height:g}" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>\n{body}\n</svg>'
    )
