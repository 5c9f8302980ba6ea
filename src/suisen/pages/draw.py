"""The drawing engine of all pages: scales, ticks, marks and panels, as inline SVG.

Colours are CSS variables (``colours.css``), so that one picture serves light and dark.  Sizes are in points of the
picture's own box, which the page scales to its column.  Widths of words are estimated on the safe side, because which
font a reader has is not known.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from html import escape
from itertools import pairwise
from math import ceil, floor, isfinite, log10
from typing import Literal, NamedTuple
from unicodedata import east_asian_width

Colour = Literal["ink", "muted", "grid", "accent", "second", "bad", "soft"]
Pair = tuple[float, float]
"""A place (x, y), or two ends (low, high)."""
WIDTH = 360
"""Of a panel and of the pages' pictures."""
FONT = 12
SIDE = 6
"""Free on the left and on the right."""
GAP = 8
"""Least distance between two words."""
WORD = 15
"""Height of a line of words."""
DASHES = "4 3"
MANY = 40
"""Lines of more points are drawn without dots."""
NARROW, BROAD = frozenset("\N{NO-BREAK SPACE} !'()*,-./:;I[]fijlrt|"), frozenset("%@MWmw&+−–…")


class Svg(str):
    """Markup of ours, which templates take as it is."""

    __slots__ = ()

    def __html__(self) -> str:
        return self


# -- scales and ticks --------------------------------------------------------------------------------------------------


class Scale(NamedTuple):
    """From values to places of the picture's box, linear or by powers."""

    low: float
    high: float
    start: float
    """Place of ``low``."""
    end: float
    log: bool = False

    def __call__(self, x: float) -> float:
        """The place of a value; what lies beyond an end, as infinities do, gets the place of that end."""
        low, at, high = (log10(v) if self.log else v for v in (self.low, min(self.high, max(self.low, x)), self.high))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def holds(self, x: float) -> bool:
        """Whether a value lies between the ends."""
        return self.low <= x <= self.high


def ticks(low: float, high: float, most: int, *, whole: bool = False) -> tuple[float, list[float]]:
    """(step, round values between two ends): multiples of 1, 2 or 5 times a power of ten, at most ``most`` + 1.

    ``whole``: whole numbers alone.
    """
    rough = max((high - low) / most, 1.0 if whole else 0.0)
    power = 10.0 ** floor(log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    return step, [step * n for n in range(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1)]


def spelt(x: float, step: float, *, percent: bool = False, signed: bool = False) -> str:
    """A tick in as many digits as its step needs.

    >>> spelt(0.25, 0.05), spelt(-2, 1), spelt(40_000, 20_000), spelt(3, 1, signed=True)
    ('0.25', '−2', '40k', '+3')
    """
    x, step = (100 * x, 100 * step) if percent else (x, step)
    unit, letter = next(((u, s) for u, s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if step >= 10 * u), (1, ""))
    digits = max(0, -floor(log10(step / unit) + 1e-9))
    text = f"{abs(x):.3g}" if digits > 6 else f"{abs(x) / unit:,.{digits}f}{letter}"
    sign = "" if x == 0 else "−" if x < 0 else "+" if signed else ""
    return sign + ("0" if x == 0 else text) + ("\N{NO-BREAK SPACE}%" if percent else "")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One side of a panel: what it is called, which values it holds and how they are written."""

    label: str = ""
    low: float | None = None
    """Where it begins; None: somewhat before the lowest value that is drawn."""
    high: float | None = None
    log: bool = False
    """By powers; its ticks are given with ``marks``."""
    whole: bool = False
    """Ticks at whole numbers alone."""
    percent: bool = False
    signed: bool = False
    marks: Mapping[float, str] | None = None
    """Ticks with their words; None: round numbers."""

    def span(self, values: Iterable[float]) -> Pair:
        """The ends for these values, of which those count that are finite."""
        there = [x for x in values if isfinite(x) and (x > 0 or not self.log)] or [1.0]
        low, high = min(there), max(there)
        air = (high / low) ** 0.06 if self.log else 0.06 * (high - low)
        if high - low <= max(1e-300, 1e-9 * max(abs(low), abs(high))):
            air = 2.0 if self.log else 0.1 * abs(low) or 1.0
        ends = (low / air, high * air) if self.log else (low - air, high + air)
        return ends[0] if self.low is None else self.low, ends[1] if self.high is None else self.high

    def labels(self, low: float, high: float, most: int) -> list[tuple[float, str]]:
        """At most ``most`` + 1 ticks between two ends, with their words."""
        if self.marks is not None:
            return list(self.marks.items())[:: ceil(len(self.marks) / (most + 1))]
        step, found = ticks(low, high, most, whole=self.whole)
        return [(x, spelt(x, step, percent=self.percent, signed=self.signed)) for x in found]


def fitting(axis: Axis, scale: Scale, box: Pair) -> list[tuple[float, str]]:
    """As many ticks of a level axis, with their words, as stand beside each other in a box."""
    for most in range(8, 0, -1):
        labels = axis.labels(scale.low, scale.high, most)
        spots = [_spot(scale(x), width_of(words), box) for x, words in labels]
        if all(after[0] - before[1] >= GAP / 2 for before, after in pairwise(spots)):
            return labels
    return labels[:1]


# -- words -------------------------------------------------------------------------------------------------------------


def width_of(words: str, *, bold: bool = False) -> float:
    """About the width of a text, rather too much than too little."""
    return FONT * (1.12 if bold else 1.0) * sum(map(_width, words))


def _width(letter: str) -> float:
    if letter in NARROW:
        return 0.4
    return 1.0 if letter in BROAD or east_asian_width(letter) in "WF" else 0.78 if letter.isupper() else 0.64


def cut(words: str, width: float, *, bold: bool = False) -> str:
    """The beginning of a text that is not wider than this, with … where something is left out."""
    if width_of(words, bold=bold) <= width:
        return words
    while words and width_of(words + "…", bold=bold) > width:
        words = words[:-1]
    return words.rstrip() + "…"


def text(x: float, y: float, words: str, colour: Colour = "ink", anchor: str = "start", *, bold: bool = False) -> str:
    """Words with a halo in the card's colour, so that lines behind them do not cross them."""
    weight = "; font-weight: 600" if bold else ""
    halo = "paint-order: stroke; stroke: var(--card); stroke-width: 3px"
    style = f"font-size: {FONT}px; text-anchor: {anchor}; fill: var(--{colour}); {halo}{weight}"
    return f'<text x="{x:.1f}" y="{y:.1f}" style="{style}">{escape(words)}</text>'


def headed(y: float, name: str, said: str, box: Pair, colour: Colour = "ink") -> list[str]:
    """A name in bold on the left, cut to the room that words on the right leave."""
    room = box[1] - box[0] - width_of(said) - GAP
    return [text(box[0], y, cut(name, room, bold=True), bold=True), text(box[1], y, said, colour, "end")]


def text_in(x: float, y: float, words: str, box: Pair, colour: Colour = "muted") -> str:
    """Words whose middle is at x, or as near to it as a box allows."""
    start, end = _spot(x, width_of(words), box)
    if start == box[0]:
        return text(start, y, words, colour)
    return text(end, y, words, colour, "end") if end == box[1] else text(x, y, words, colour, "middle")


def _spot(x: float, width: float, box: Pair) -> Pair:
    start = max(box[0], min(x - width / 2, box[1] - width))
    return (start, box[1]) if start + width > box[1] - 1e-9 else (start, start + width)


# -- shapes ------------------------------------------------------------------------------------------------------------


def line(one: Pair, other: Pair, colour: Colour, width: float = 1.0, dashes: str = "") -> str:
    """A straight line between two places."""
    ends = f'x1="{one[0]:.1f}" y1="{one[1]:.1f}" x2="{other[0]:.1f}" y2="{other[1]:.1f}"'
    return f'<line {ends} style="{_stroke(colour, width, dashes)}"/>'


def bar(x: float, y: float, width: float, height: float, colour: Colour) -> str:
    """A filled rectangle with (x, y) as its upper left corner."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" style="fill: var(--{colour})"/>'


def dot(x: float, y: float, radius: float, colour: Colour) -> str:
    """A filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" style="fill: var(--{colour})"/>'


def diamond(x: float, y: float, colour: Colour) -> str:
    """A hollow diamond."""
    return polygon([(x, y - 7), (x + 6, y), (x, y + 7), (x - 6, y)], f"fill: none; {_stroke(colour, 2)}")


def polygon(points: Iterable[Pair], style: str) -> str:
    """A closed shape."""
    return f'<polygon points="{_path(points)}" style="{style}"/>'


def _stroke(colour: Colour, width: float, dashes: str = "") -> str:
    dash = f"; stroke-dasharray: {dashes}" if dashes else ""
    return f"stroke: var(--{colour}); stroke-width: {width:g}{dash}"


def _path(points: Iterable[Pair]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


# -- marks: what a panel shows, which values its axes must hold for that, and how it is drawn --------------------------


@dataclass(frozen=True)
class Line:
    """Points joined by a line; few of them have dots.  Points that are not finite are left out."""

    x: Sequence[float]
    y: Sequence[float]
    colour: Colour = "accent"
    label: str = ""
    dashes: str = ""
    dots: bool = True
    radius: float = 3.0

    def values(self) -> tuple[Sequence[float], Sequence[float]]:
        """All of both."""
        return self.x, self.y

    def draw(self, x: Scale, y: Scale) -> Iterator[str]:
        """A polyline and dots over it."""
        points = [(x(a), y(b)) for a, b in zip(self.x, self.y, strict=True) if isfinite(a) and isfinite(b)]
        if len(points) > 1:
            style = f"fill: none; {_stroke(self.colour, 2, self.dashes)}"
            yield f'<polyline points="{_path(points)}" style="{style}"/>'
        if len(points) == 1 or (self.dots and len(points) <= MANY):
            yield from (dot(*point, self.radius, self.colour) for point in points)


@dataclass(frozen=True)
class Band:
    """The area between two courses; an end that is infinite goes to the edge."""

    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]

    def values(self) -> tuple[Sequence[float], Sequence[float]]:
        """Both courses."""
        return self.x, [*self.low, *self.high]

    def draw(self, x: Scale, y: Scale) -> Iterator[str]:
        """One polygon: there above, back below."""
        there = [(x(a), y(b)) for a, b in zip(self.x, self.high, strict=True)]
        back = [(x(a), y(b)) for a, b in zip(self.x, self.low, strict=True)]
        yield polygon([*there, *reversed(back)], "fill: var(--soft)")


@dataclass(frozen=True)
class Bars:
    """A histogram: ``height[i]`` between ``edges[i]`` and ``edges[i + 1]``."""

    edges: Sequence[float]
    height: Sequence[float]

    def values(self) -> tuple[Sequence[float], Sequence[float]]:
        """Edges and heights; the upright axis holds 0."""
        return self.edges, [0.0, *self.height]

    def draw(self, x: Scale, y: Scale) -> Iterator[str]:
        """A bar from 0 to each height, the bars apart by a tenth of their width, yet at most two points."""
        places = [x(edge) for edge in self.edges]
        for height, start, end in zip(self.height, places[:-1], places[1:], strict=True):
            air = min(2.0, (end - start) / 10)
            if height:
                yield bar(start + air / 2, y(height), end - start - air, y(0) - y(height), "accent")


@dataclass(frozen=True)
class Rule:
    """A straight line through the whole panel, upright at ``x`` or level at ``y``, which its axis then holds."""

    x: float | None = None
    y: float | None = None
    colour: Colour = "muted"
    dashes: str = ""
    label: str = ""

    def values(self) -> tuple[Sequence[float], Sequence[float]]:
        """Where it stands."""
        return [] if self.x is None else [self.x], [] if self.y is None else [self.y]

    def draw(self, x: Scale, y: Scale) -> Iterator[str]:
        """From edge to edge."""
        if self.x is not None:
            yield line((x(self.x), y.start), (x(self.x), y.end), self.colour, 1.4, self.dashes)
        if self.y is not None:
            yield line((x.start, y(self.y)), (x.end, y(self.y)), self.colour, 1.4, self.dashes)


Mark = Line | Band | Bars | Rule


# -- panels ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Marks on two axes; the upright axis's label stands above them on the left, a note on the right."""

    marks: Sequence[Mark]
    x: Axis = Axis()
    y: Axis = Axis()
    note: str = ""
    height: float = 230

    def spans(self) -> tuple[Pair, Pair]:
        """The ends of both axes."""
        drawn = [mark.values() for mark in self.marks]
        return self.x.span(v for xs, _ in drawn for v in xs), self.y.span(v for _, ys in drawn for v in ys)

    def levels(self) -> list[tuple[float, str]]:
        """Ticks of the upright axis."""
        low, high = self.spans()[1]
        return self.y.labels(low, high, max(2, int(self.height / 38)))


def picture(title: str, told: str, panels: Sequence[Panel], columns: int = 1) -> Svg:
    """Panels under each other, or row by row in so many columns.

    ``told``: what a reader hears who does not see it.
    """
    left = max(width_of(words) for panel in panels for _, words in panel.levels()) + SIDE
    parts: list[str] = []
    top = 0.0
    for first in range(0, len(panels), columns):
        row = panels[first : first + columns]
        for place, panel in enumerate(row):
            parts += _drawn(panel, place * (WIDTH + 2 * GAP), top, left)
        top += max(panel.height for panel in row)
    return svg(title, told, top, parts, columns * (WIDTH + 2 * GAP) - 2 * GAP)


def _drawn(panel: Panel, x0: float, y0: float, left: float) -> Iterator[str]:
    box = (x0, x0 + WIDTH)
    headed, top = _head(panel, box, y0)
    bottom = y0 + panel.height - (2 * WORD + 8 if panel.x.label else WORD + 8)
    spans = panel.spans()
    x = Scale(*spans[0], x0 + left, box[1] - SIDE, panel.x.log)
    y = Scale(*spans[1], bottom, top + 8, panel.y.log)
    for value, words in panel.levels():
        yield line((x.start, y(value)), (x.end, y(value)), "grid")
        yield text(x.start - SIDE, y(value) + 4, words, "muted", "end")
    for value, words in fitting(panel.x, x, box):
        yield line((x(value), y.start), (x(value), y.start + 4), "grid")
        yield text_in(x(value), bottom + WORD + 1, words, box)
    for mark in panel.marks:
        yield from mark.draw(x, y)
    if panel.x.label:
        yield text_in((x.start + x.end) / 2, bottom + 2 * WORD + 1, cut(panel.x.label, WIDTH), box)
    yield from headed


def _head(panel: Panel, box: Pair, y0: float) -> tuple[list[str], float]:
    """Label, note and key with the place below them."""
    out, y = [], y0
    if panel.y.label or panel.note:
        y += WORD
        room = WIDTH - width_of(panel.note) - 2 * GAP
        out += [text(box[0], y, cut(panel.y.label, room)), text(box[1], y, panel.note, "second", "end")]
    x = box[1] + 1
    for mark in panel.marks:
        if isinstance(mark, Line | Rule) and mark.label:
            words = cut(mark.label, WIDTH - 24)
            if x + 24 + width_of(words) > box[1]:
                x, y = box[0], y + WORD + 2
            out.append(line((x, y - 4), (x + 18, y - 4), mark.colour, 2, mark.dashes))
            out.append(text(x + 24, y, words, "muted"))
            x += 24 + width_of(words) + 2 * GAP
    return out, y + 4


# -- the element -------------------------------------------------------------------------------------------------------


def svg(title: str, told: str, height: float, parts: Iterable[str], width: float = WIDTH) -> Svg:
    """One ``<svg>`` element with a title and a description for those who do not see it."""
    body = "\n".join(parts)
    key = f"c{blake2b((title + body).encode(), digest_size=5).hexdigest()}"
    return Svg(
        f'<svg class="plot" role="img" viewBox="0 0 {width:g} {height:g}" aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(told)}</desc>\n{body}\n</svg>'
    )
