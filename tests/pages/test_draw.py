"""The chart engine: every value is drawn where the scale says, nothing leaves the box, no words meet."""

import re
import xml.etree.ElementTree as ET
from itertools import combinations, pairwise
from math import inf, nan

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from suisen.pages import report_charts
from suisen.pages.charts import Bar, Point, course, intervals
from suisen.pages.draw import (
    FONT,
    WIDTH,
    Axis,
    Band,
    Bars,
    Line,
    Panel,
    Rule,
    Scale,
    cut,
    picture,
    spelt,
    svg,
    text,
    ticks,
    width_of,
)
from suisen.training.options import Curve, EpochRow

COORDINATES = {"line": ("x1", "y1", "x2", "y2"), "circle": ("cx", "cy"), "rect": ("x", "y"), "text": ("x", "y")}
numbers = st.floats(-1e9, 1e9).map(lambda x: 0.0 if abs(x) < 1e-9 else x)
names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60)


def shapes(drawn, tag):
    """The elements of a picture with this name; the picture is well-formed."""
    return [each for each in ET.fromstring(drawn).iter() if each.tag.rpartition("}")[2] == tag]


def at(drawn, tag, *attributes):
    """The numbers of these attributes of each such element."""
    return [tuple(float(each.attrib[name]) for name in attributes) for each in shapes(drawn, tag)]


def boxes(drawn):
    """(left, top, right, bottom, words) of every text, by the estimate that the engine places them with."""
    out = []
    for each in shapes(drawn, "text"):
        style, words = each.attrib["style"], each.text or ""
        width = width_of(words, bold="600" in style)
        x, y = float(each.attrib["x"]), float(each.attrib["y"])
        left = x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[re.search(r"anchor: (\w+)", style)[1]]
        if words.strip():
            out.append((left, y - 0.75 * FONT, left + width, y + 0.2 * FONT, words))
    return out


def check(drawn, width=WIDTH):
    """Everything lies in the box and no two texts overlap."""
    root = ET.fromstring(drawn)
    left, top, wide, high = map(float, root.attrib["viewBox"].split())
    assert (left, top, wide) == (0, 0, width)
    assert "nan" not in re.sub(r"<(title|desc|text)[^>]*>[^<]*", "", drawn)
    places = [(a, b) for tag, (x, y, *_) in COORDINATES.items() for a, b in at(drawn, tag, x, y)]
    places += at(drawn, "line", "x2", "y2")
    places += [(x + w, y + h) for x, y, w, h in at(drawn, "rect", "x", "y", "width", "height")]
    for each in shapes(drawn, "polygon") + shapes(drawn, "polyline"):
        places += [tuple(map(float, pair.split(","))) for pair in each.attrib["points"].split()]
    assert places
    assert all(-0.1 <= x <= wide + 0.1 and -0.1 <= y <= high + 0.1 for x, y in places), places
    words = boxes(drawn)
    assert all(a >= -0.1 and c <= wide + 0.1 and b >= 0 and d <= high for a, b, c, d, _ in words), words
    for one, other in combinations(words, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)


# -- scales and ticks --------------------------------------------------------------------------------------------------


@given(numbers, numbers, st.integers(2, 10))
def test_ticks_are_round_and_few_and_between_the_ends(one, other, most):
    low, high = sorted((one, other))
    assume(high - low > 1e-6 * max(1.0, abs(low), abs(high)))
    step, found = ticks(low, high, most)
    assert most // 2.5 <= len(found) <= most + 1
    assert f"{step:e}"[0] in "125"
    assert float(f"{step:.3e}") == pytest.approx(step)
    air = 1e-8 * step
    assert all(low - air <= x <= high + air for x in found)
    assert all(b - a == pytest.approx(step, rel=1e-6) for a, b in pairwise(found))
    assert all(x / step == pytest.approx(round(x / step), abs=1e-6) for x in found)


@given(st.floats(0, 1e6), st.floats(0.1, 1e6), st.integers(1, 8))
def test_whole_ticks_are_whole(low, width, most):
    step, found = ticks(low, low + width, most, whole=True)
    assert step >= 1
    assert all(x == round(x) for x in found)


@given(st.integers(-300, 300), st.sampled_from([1, 2, 5]), st.integers(-8, 8), st.booleans(), st.booleans())
def test_a_tick_is_read_back(n, m, power, percent, signed):
    step = m * 10.0**power
    words = spelt(n * step, step, percent=percent, signed=signed)
    units = {"k": 1e3, "M": 1e6, "G": 1e9}
    number, letter, sign = re.fullmatch(r"([^kMG%\s]*)([kMG]?)(\s%)?", words.replace("−", "-")).groups()
    assert bool(sign) == percent
    value = float(number.replace(",", "")) * units.get(letter, 1) / (100 if percent else 1)
    assert value == pytest.approx(n * step, abs=0.01 * step, rel=0.01 if 100**percent * step < 1e-6 else 1e-9)
    assert words.startswith("+") == (signed and n > 0)


@given(st.floats(-1e6, 1e6), st.floats(1, 1e6), st.lists(st.floats(-1, 2), min_size=2, max_size=5), st.booleans())
def test_a_scale_keeps_order_and_stays_between_its_ends(low, width, shares, turned):
    start, end = (200.0, 10.0) if turned else (10.0, 200.0)
    scale = Scale(low, low + width, start, end)
    assert scale(low) == pytest.approx(start)
    assert scale(low + width / 2) == pytest.approx((start + end) / 2, abs=0.01)
    places = [scale(low + share * width) for share in sorted(shares)]
    assert places == sorted(places, reverse=turned)
    assert all(9.99 <= place <= 200.01 for place in [*places, scale(inf), scale(-inf)])
    assert scale(inf) == pytest.approx(end)


def test_a_log_scale_goes_by_powers():
    scale = Scale(1, 1000, 0, 90, log=True)
    assert [scale(x) for x in (1, 10, 100, 1000, 1e9)] == pytest.approx([0, 30, 60, 90, 90])


def test_an_axis_holds_its_values_with_air_and_keeps_given_ends():
    assert Axis().span([1.0, 2.0, nan, inf]) == pytest.approx((0.94, 2.06))
    assert Axis(low=0).span([1.0, 2.0]) == (0, pytest.approx(2.06))
    low, high = Axis(log=True).span([10.0, 1000.0, 0.0])
    assert 5 < low < 10
    assert 1000 < high < 2000
    for values in ([], [3.0], [0.0], [-5.0], [1e9, 1e9 + 1e-7]):
        low, high = Axis().span(values)
        assert low < high


# -- panels ------------------------------------------------------------------------------------------------------------


def read_off(drawn):
    """A function from a height in the picture to the value that the ticks beside it say, as a reader finds it."""
    labels = [each for each in shapes(drawn, "text") if "anchor: end; fill: var(--muted)" in each.attrib["style"]]
    low, *_, high = ((float(each.text.replace("−", "-").replace(",", "")), float(each.attrib["y"]) - 4)
                     for each in labels)  # fmt: skip
    return lambda y: low[0] + (y - low[1]) * (high[0] - low[0]) / (high[1] - low[1])


@given(st.lists(st.integers(-5000, 5000), min_size=2, max_size=30).filter(lambda ys: max(ys) - min(ys) > 20))
def test_points_lie_where_the_ticks_say(ys):
    drawn = picture("t", "told", [Panel(marks=[Line(range(len(ys)), ys)])])
    value = read_off(drawn)
    dots = at(drawn, "circle", "cx", "cy")
    tolerance = 0.003 * (max(ys) - min(ys))
    assert [value(y) for _, y in dots] == pytest.approx(ys, abs=tolerance)
    steps = [b[0] - a[0] for a, b in pairwise(dots)]
    assert steps == pytest.approx([steps[0]] * len(steps), abs=0.21)
    (line,) = shapes(drawn, "polyline")
    assert [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()] == dots


@given(st.lists(st.integers(0, 100_000), min_size=1, max_size=60).filter(any))
def test_bars_stand_on_zero_and_reach_their_height(heights):
    drawn = picture("t", "told", [Panel(marks=[Bars(range(len(heights) + 1), heights)], y=Axis(low=0, whole=True))])
    rects = at(drawn, "rect", "x", "y", "width", "height")
    assert len(rects) == sum(height > 0 for height in heights)
    floor = max(y + height for _, y, _, height in rects)
    scale = max(height for *_, height in rects) / max(heights)
    assert [h for *_, h in rects] == pytest.approx([scale * h for h in heights if h], abs=0.11)
    assert all(y + height == pytest.approx(floor, abs=0.11) for _, y, _, height in rects)
    assert all(b[0] >= a[0] + a[2] - 0.11 for a, b in pairwise(rects))


def test_bars_on_a_log_axis_have_their_edges_there():
    drawn = picture("t", "told", [Panel(marks=[Bars([1, 2, 4, 8], [3, 2, 1])], x=Axis(low=1, high=8, log=True))])
    widths = [width for (width,) in at(drawn, "rect", "width")]
    assert widths == pytest.approx([widths[0]] * 3, abs=0.11)  # each is one octave


def test_a_band_goes_there_above_and_back_below_and_infinite_ends_to_the_edge():
    band = Band([0, 1], [1.0, -inf], [2.0, inf])
    (shape,) = shapes(picture("t", "told", [Panel(marks=[band])]), "polygon")
    (x0, high0), (x1, high1), (x2, low1), (x3, low0) = (
        tuple(map(float, pair.split(","))) for pair in shape.attrib["points"].split()
    )
    assert (x0, x1) == (x3, x2)
    assert high1 < high0 < low0 < low1


def test_a_rule_is_held_by_its_axis():
    drawn = picture("t", "told", [Panel(marks=[Line([1, 2], [10, 11]), Rule(y=0.0), Rule(x=5, colour="second")])])
    level = [x for x in shapes(drawn, "line") if "muted" in x.attrib["style"]]
    assert len(level) == 1
    assert read_off(drawn)(float(level[0].attrib["y1"])) == pytest.approx(0, abs=0.05)
    check(drawn)


@given(
    st.lists(st.tuples(numbers, st.floats(0, 1e9), st.floats(0, 1e9), names), min_size=1, max_size=45),
    names, names, st.booleans(), st.booleans(), st.integers(1, 3),
)  # fmt: skip
def test_any_panel_stays_in_its_box_and_no_words_meet(points, above, below, percent, signed, columns):
    xs = range(len(points))
    ys = [value for value, *_ in points]
    band = Band(xs, [y - d for y, d, *_ in points], [y + u for y, _, u, _ in points])
    marks = [band, Rule(y=0.0, label=below), Line(xs, ys, label=points[0][3])]
    x = Axis(label=below, marks={i: each[3] for i, each in enumerate(points)})
    panel = Panel(marks=marks, x=x, y=Axis(label=above, percent=percent, signed=signed), note="best: epoch 3")
    bars = Panel(marks=[Bars(range(len(points) + 1), [d for _, d, *_ in points])], y=Axis(low=0))
    check(picture(above, below, [panel, bars, panel], columns), columns * (WIDTH + 16) - 16)


def test_ticks_thin_out_until_they_fit():
    many = {n: f"2024-01-{n:02d}" for n in range(1, 31)}
    drawn = picture("t", "told", [Panel(marks=[Line(list(many), list(many))], x=Axis(marks=many))])
    shown = [words for *_, words in boxes(drawn) if words.startswith("2024")]
    assert shown[0] == "2024-01-01"
    assert 2 <= len(shown) <= 5
    check(drawn)


# -- charts ------------------------------------------------------------------------------------------------------------


def level(drawn):
    """(x1, x2) of the level lines: the intervals."""
    return [line[:2] for line in at(drawn, "line", "x1", "x2", "y1", "y2") if line[2] == line[3]]


def test_an_interval_is_drawn_where_it_lies():
    drawn = intervals("t", [Bar("a", 0.1, 0.0, 0.2, "x"), Bar("b", 0.2, 0.1, 0.2, "y")], percent=True)
    dots, bars = at(drawn, "circle", "cx"), level(drawn)
    assert dots[0][0] == pytest.approx((bars[0][0] + bars[0][1]) / 2, abs=0.1)  # 0.1 is the middle of [0, 0.2]
    assert bars[1][0] == pytest.approx(dots[0][0], abs=0.1)
    assert bars[1][1] == pytest.approx(bars[0][1], abs=0.1)


def test_effects_hold_zero_and_values_need_not():
    bars = [Bar("a", 0.1, 0.09, 0.11, "x"), Bar("b", 0.12, 0.1, 0.13, "y")]
    assert level(intervals("t", bars))[0][0] > 200  # most of the way is from 0 to 0.09
    assert level(intervals("t", bars, effects=False))[0][0] < 50


@given(
    st.lists(st.tuples(numbers, st.floats(0, 1e9), names, st.booleans()), min_size=1, max_size=6),
    st.booleans(), st.none() | st.floats(1e-3, 1e9),
)  # fmt: skip
def test_any_rows_stay_in_the_box_and_no_words_meet(rows, percent, edge):
    bars = [
        Bar(name, value, -inf if endless else value - air, value + air, f"{value:+.3g} [{value - air:.3g}, …]",
            truth=value + air / 2, margin=value - air / 3)
        for value, air, name, endless in rows
    ]  # fmt: skip
    check(intervals("t", bars, percent=percent, edge=edge))


@pytest.mark.parametrize("bar", [Bar("a", 0.1, -inf, inf, "x"), Bar("a", 0.0, 0.0, 0.0, "x"),
                                 Bar("<" * 50, 1e-9, -1e-9, 2e-9, "x", truth=inf)])  # fmt: skip
def test_odd_intervals_stay_in_the_box(bar):
    check(intervals("t", [bar]))


def test_a_wide_interval_is_cut_and_does_not_flatten_the_others():
    drawn = intervals("t", [Bar("a", 0.1, 0.0, 0.2, "x"), Bar("b", 50, -99, 99, "y")], percent=True, edge=0.4)
    first, *_ = level(drawn)
    assert first[1] - first[0] > 50
    assert len(at(drawn, "circle", "cx")) == 1  # 50 is beyond the edge


def test_a_course_goes_through_its_points():
    points = [Point(str(i), value, value - 1, value + 1) for i, value in enumerate([0.0, 2.0, -1.0])]
    drawn = course("t", [*points, Point("3", nan, nan, nan)], percent=False, below="day")
    xs, ys = zip(*at(drawn, "circle", "cx", "cy"), strict=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[0] - ys[1] == pytest.approx(2 * (ys[2] - ys[0]), abs=0.3)
    assert "3 points; the last, 2: -1 [-2, +0]" in drawn
    check(drawn)


@pytest.mark.parametrize("epochs", [1, 2, 7, 100])
@pytest.mark.parametrize("validated", [True, False])
def test_training_marks_the_epoch_that_was_kept(epochs, validated):
    rows = [EpochRow(e, 7 / e, 0.1 + 0.01 * e if validated else None, 0.5, 2000.0) for e in range(1, epochs + 1)]
    best = max(1, epochs - 1) if validated else 0
    drawn = report_charts.training(Curve(rows, best, 0.2 if validated else None), "ranker", "ndcg@10")
    check(drawn)
    rules = [each for each in shapes(drawn, "line") if "dasharray" in each.attrib["style"]]
    assert len(rules) == (2 if validated else 0)  # through the loss and through the metric
    if 1 < epochs <= 40 and validated:
        dots = at(drawn, "circle", "cx", "cy")
        assert all(float(each.attrib["x1"]) == dots[best - 1][0] for each in rules)


def test_the_pictures_of_a_log_stay_in_their_boxes():
    for counts in ([1], [583, 12, 1, 1, 0, 3], list(range(1, 3000))):
        check(report_charts.long_tail(counts))
    for lengths in ([1], [5] * 3, [1, 100_000, 2**20], list(range(1, 2000))):
        check(report_charts.history_lengths(lengths))
    for timeline in ((5,), (3, 0, 7, 2), tuple(range(60))):
        check(report_charts.timeline(timeline, "1997-09-20", "1998-04-22"))


def test_the_long_tail_is_the_share_of_the_events():
    drawn = report_charts.long_tail([6, 3, 1, 0, 0, 0, 0, 0, 0, 0])
    (dot,) = at(drawn, "circle", "cx", "cy")
    area = [tuple(map(float, p.split(","))) for p in shapes(drawn, "polygon")[0].attrib["points"].split()]
    assert dot in area  # a tenth of the items, six tenths of the events
    bottom, top = max(y for _, y in area), min(y for _, y in area)
    assert (bottom - dot[1]) / (bottom - top) == pytest.approx(0.6, abs=0.01)


# -- words and the element ---------------------------------------------------------------------------------------------


@given(names, st.floats(20, 400))
def test_cut_words_fit_and_are_the_beginning(words, width):
    short = cut(words, width)
    assert width_of(short) <= width or short == "…"
    assert short == words or (short.endswith("…") and words.startswith(short[:-1]))


def test_widths_are_those_of_a_wide_font():
    assert width_of("水仙") == pytest.approx(2 * width_of("水"))
    assert width_of("W") > width_of("a") > width_of("i")
    assert width_of("0.0432 [0.0334, 0.0537]") > 22 * FONT * 0.52


@given(names)
def test_words_are_escaped(words):
    drawn = svg(words, words, 20, [text(0, 10, words)])
    root = ET.fromstring(drawn)
    assert [each.text for each in root] == [words] * 3
    assert drawn.__html__() is drawn  # a template leaves it as it is


def test_the_same_picture_has_the_same_bytes_and_ids_of_its_own():
    def drawn(title, y):
        return picture(title, "told", [Panel(marks=[Line([0, 1], y)])])

    assert drawn("t", [1, 2]) == drawn("t", [1, 2])
    ids = [re.findall(r' id="([^"]+)"', one) for one in (drawn("t", [1, 2]), drawn("t", [1, 3]), drawn("u", [1, 2]))]
    assert len({each for found in ids for each in found}) == 6
    assert all(f'aria-labelledby="{a} {b}"' in drawn("t", [1, 2]) for a, b in ids[:1])
