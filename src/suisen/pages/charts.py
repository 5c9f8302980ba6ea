"""The charts that the pages share: values with intervals, one row each, and a course with the band of its intervals."""

from collections.abc import Iterator, Sequence
from math import floor, isfinite
from typing import NamedTuple

from suisen.pages import draw
from suisen.pages.draw import SIDE, WIDTH, WORD, Axis, Band, Colour, Line, Panel, Rule, Scale, Svg

ROW, LABEL, FOOT = 46, 21, 26
"""Heights: of a row, of the words in it, of the axis below."""
BOX = (0.0, float(WIDTH))


class Figure(NamedTuple):
    """A picture and what is said under it."""

    heading: str
    picture: Svg
    caption: str


class Bar(NamedTuple):
    """A value with its interval; an end that is infinite goes to the edge."""

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

    def values(self) -> list[float]:
        """Everything that is drawn."""
        return [x for x in (self.value, self.low, self.high, self.truth, self.margin) if x is not None]


class Point(NamedTuple):
    """A moment of a course."""

    label: str
    value: float
    low: float
    high: float


def intervals(
    title: str, bars: Sequence[Bar], *, effects: bool = True, percent: bool = False, edge: float | None = None
) -> Svg:
    """One row per value, all on one axis.

    ``effects``: the axis holds 0 and writes signs.  ``edge``: it goes no further than this on either side.
    """
    axis = Axis(percent=percent, signed=effects)
    values = [x for bar in bars for x in bar.values()] + [0.0] * effects
    low, high = axis.span(values if edge is None else [max(-edge, min(edge, x)) for x in values])
    scale = Scale(low, high, SIDE, WIDTH - SIDE)
    bottom = ROW * len(bars) + 4.0
    parts: list[str] = []
    for value, words in draw.fitting(axis, scale, BOX):
        parts += [*_upright(scale(value), bottom, "grid"), draw.text_in(scale(value), bottom + WORD, words, BOX)]
    if effects:
        parts += _upright(scale(0), bottom, "muted")
    for place, bar in enumerate(bars):
        parts += _row(scale, bar, ROW * place)
    return draw.svg(title, "; ".join(f"{bar.label}: {bar.said}" for bar in bars), bottom + FOOT - 4, parts)


def _upright(x: float, bottom: float, colour: Colour) -> Iterator[str]:
    """A line from the first row to the bottom, with gaps where the rows' words stand."""
    tops = range(LABEL, floor(bottom), ROW)
    return (draw.line((x, top), (x, bottom if top == tops[-1] else top + ROW - LABEL), colour) for top in tops)


def _row(scale: Scale, bar: Bar, top: float) -> Iterator[str]:
    y = top + 32
    yield from draw.headed(top + 16, bar.label, bar.said, (SIDE, WIDTH - SIDE), "muted")
    if bar.margin is not None and scale.holds(bar.margin):
        yield draw.line((scale(bar.margin), y - 9), (scale(bar.margin), y + 9), "second", 2, "3 2")
    yield draw.line((scale(bar.low), y), (scale(bar.high), y), bar.colour, 2.4)
    if scale.holds(bar.value):
        yield draw.dot(scale(bar.value), y, 4.5, bar.colour)
    if bar.truth is not None and scale.holds(bar.truth):
        yield draw.diamond(scale(bar.truth), y, "second")


def course(title: str, points: Sequence[Point], *, percent: bool, below: str) -> Svg:
    """Effects one after another, with the band of their intervals, on an axis that holds 0."""
    shown = [point for point in points if isfinite(point.value)]
    labels, values, lows, highs = zip(*shown, strict=True)
    places = range(len(shown))
    marks = (Band(places, lows, highs), Rule(y=0.0), Line(places, values))
    level = Axis(label=below, marks=dict(zip(places, labels, strict=True)))
    panel = Panel(marks=marks, x=level, y=Axis(percent=percent, signed=True))
    last = shown[-1]
    scale, unit = (100, " %") if percent else (1, "")
    low, high = (f"{scale * end:+.3g}" if isfinite(end) else "no end" for end in (last.low, last.high))
    numbers = f"{scale * last.value:+.3g}{unit} [{low}, {high}]"
    return draw.picture(title, f"{len(shown)} points; the last, {last.label}: {numbers}", [panel])
