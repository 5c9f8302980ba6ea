"""The page of an experiment: one self-contained HTML file whose first line is the verdict.  It asks no network."""

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from suisen.data.durations import spelt
from suisen.experiments.plan import Plan, Scale
from suisen.experiments.record import About, Record, Truth
from suisen.experiments.result import UNJUDGED, Estimated, Range, Result, believed, chance, margin_of, told
from suisen.files import write_text
from suisen.pages import charts
from suisen.pages.charts import Bar, Figure, Point
from suisen.pages.draw import Colour
from suisen.pages.render import render
from suisen.pages.words import day

COLOURS: dict[str, Colour] = {"better": "accent", "worse": "bad", "": "muted"}
"""Of a tone."""
WIDE = 4.0
"""Intervals of other metrics are cut where they reach further than so many times the median one."""


class Row(NamedTuple):
    """One estimate as the table shows it."""

    of: Estimated
    relative: str
    absolute: str
    said: str
    """What the test decided, in words."""
    tone: str
    """better, worse or empty."""
    truth: str
    """The true effect on the deciding scale; empty: it is not known."""
    held: str
    """Whether the interval holds it, in words."""


# -- words -------------------------------------------------------------------------------------------------------------


def probability(p: float) -> str:
    """A p-value with three digits; nothing where there is none.

    >>> probability(0.04213), probability(3e-9), probability(float("nan"))
    ('0.0421', '3e-09', '–')
    """
    return chance(p)


def number(x: float) -> str:
    """Five digits and thousands apart; nothing where there is none.

    >>> number(1234.5678), number(0.0312345), number(12), number(float("nan"))
    ('1,234.6', '0.031234', '12', '–')
    """
    if not isfinite(x):
        return "–"
    return f"{x:,.5g}" if abs(x) < 1e5 else f"{x:,.0f}"


def effect(found: Range, scale: Scale) -> str:
    """An effect with its interval; in words where it has none."""
    return found.shown(scale)


def decided(each: Estimated) -> str:
    """What the test of an estimate says."""
    if not each.judged:
        return "not judged"
    if each.guard is not None:
        return f"guardrail {'is undecided' if each.guard.state == 'undecided' else each.guard.state}"
    if each.equality is not None:
        said = {"holds": "equal within", "fails": "not equal within", "undecided": "not shown to be equal within"}
        return f"{said[each.equality.state]} {margin_of(each.equality)}"
    if each.decision == "no verdict":
        return "cannot be tested"
    return {"raises": "raised", "lowers": "lowered", "not shown": "no effect shown"}[each.decision]


def tone(each: Estimated) -> str:
    """Whether a row is good or bad news; empty: neither is shown."""
    if each.guard is not None and each.guard.state == "fails":
        return "worse"
    if each.equality is not None and each.equality.state == "holds":
        return "better"
    return {True: "better", False: "worse", None: ""}[each.good]


def outcome(result: Result) -> str:
    """The tone of the whole page."""
    if result.blocked is not None:
        return "worse" if result.blocked.why in ("sample ratio", "contamination") else ""
    tones = [tone(each) for each in result.estimates if each.role == "primary" or each.guard is not None]
    return "worse" if "worse" in tones else "better" if "better" in tones else ""


# -- tables ------------------------------------------------------------------------------------------------------------


def rows(result: Result, truth: Sequence[Truth] = ()) -> list[Row]:
    """The estimates, primary first."""
    known = _by_place(truth)
    out = []
    for each in result.estimates:
        true = _true_on(each.scale, known.get((each.metric, each.arm)))
        shown = held = ""
        if true is not None:
            shown = f"{100 * true:+.3g} %" if each.scale == "relative" else f"{true:+.4g}"
            held = "in the interval" if each.effect.low <= true <= each.effect.high else "not in the interval"
        relative, absolute = effect(each.relative, "relative"), effect(each.absolute, "absolute")
        out.append(Row(each, relative, absolute, decided(each), tone(each), shown, held))
    return out


def _by_place(truth: Sequence[Truth]) -> dict[tuple[str, str], Truth]:
    return {(each.metric, each.arm): each for each in truth}


def _true_on(scale: Scale, truth: Truth | None) -> float | None:
    if truth is None:
        return None
    return truth.relative if scale == "relative" else truth.absolute


def computed(result: Result) -> dict[str, list[str]]:
    """Metric → how its numbers were made, each sentence once."""
    out: dict[str, list[str]] = {}
    for each in result.estimates:
        said = out.setdefault(each.metric, [])
        corrected = f"p corrected by {each.correction}" if each.correction != "none" else ""
        ranked = each.ranks.says if each.ranks is not None else ""
        said += [part for part in (each.how, corrected, ranked, believed(each)) if part and part not in said]
    return out


def remedied(result: Result) -> list[str]:
    """Planned remedies that were applied."""
    return list(dict.fromkeys(f"{each.metric}: {said}" for each in result.estimates for said in each.remedies))


def sections(plan: Plan) -> dict[str, dict[str, str]]:
    """The plan by its tables, heading → name → value.

    What is left at its default is not repeated but for what decides.
    """
    always = ("name", "unit", "primary", "scale", "alternative", "alpha", "power", "correction", "srm_threshold")
    nested = ("arms", "metrics", "guardrails", "equivalence", "sequential", "assignment", "columns")
    top = {name: value for name, value in _own(plan, always).items() if name not in nested}
    made = {"experiment": top, "arms": {arm: f"{weight:g}" for arm, weight in plan.arms.items()}}
    made |= {f"metric {name}": _own(metric, ("kind", "test")) for name, metric in plan.metrics.items()}
    made |= {f"guardrail {name}": _own(rail, ("margin", "scale")) for name, rail in plan.guardrails.items()}
    made |= {f"equivalence {name}": _own(rule, ("margin", "scale")) for name, rule in plan.equivalence.items()}
    if plan.sequential is not None:
        made["looks"] = _own(plan.sequential, ("kind",))
    made |= {"assignment": _own(plan.assignment, ("hash",)), "columns": _own(plan.columns, ())}
    return {heading: values for heading, values in made.items() if values}


def _own(of: Any, always: Sequence[str]) -> dict[str, str]:
    """Fields that are not at their default, and those that are always shown."""
    out = {}
    for each in fields(of):
        value = getattr(of, each.name)
        empty = value is None or (isinstance(value, Sized) and not len(value))
        if each.name in always or not (empty or value == each.default):
            out[each.name] = _plain(value)
    return out


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} = {_plain(each)}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


# -- pictures ----------------------------------------------------------------------------------------------------------


def _bar(
    label: str,
    each: Estimated,
    scale: Scale,
    truth: Truth | None = None,
    margin: float | None = None,
    found: Range | None = None,
) -> Bar:
    """An estimate on one scale; ``found``: with another interval than its own."""
    found = found or (each.relative if scale == "relative" else each.absolute)
    colour = COLOURS[tone(each)]
    said = effect(found, scale)
    return Bar(label, found.value, found.low, found.high, said, colour, _true_on(scale, truth), margin)


def _finite(bars: Iterable[Bar]) -> list[Bar]:
    return [bar for bar in bars if isfinite(bar.value)]


def _scale(estimates: Iterable[Estimated]) -> Scale:
    """The one scale of a picture: shares only where they decide everywhere."""
    return "relative" if all(each.scale == "relative" for each in estimates) else "absolute"


def primary_figure(result: Result, truth: Sequence[Truth] = ()) -> Figure | None:
    """The metric that decides, one row per arm, on the planned scale; None where nothing was estimated."""
    known, scale, primary = _by_place(truth), _scale(result.of("primary")), result.plan.primary
    found = result.of("primary")
    bars = _finite(
        _bar(e.arm, e, scale, known.get((e.metric, e.arm)), found=e.claimed if e.scale == scale else None)
        for e in found
    )
    if not bars:
        return None
    level, together = 1 - result.plan.alpha, ""
    if found[0].joint is not None and found[0].ranks is None:
        level, together = found[0].joint.level, ", which hold for all arms together"
    of = f"share of {result.plan.control}'s value" if scale == "relative" else "difference"
    said = f"Effect on {primary}, {of}, with {100 * level:.4g} % intervals{together}."
    told = f"{said} Diamonds: the true effect." if truth else said
    return Figure(f"Primary: {primary}", charts.intervals(primary, bars, percent=scale == "relative"), told)


def metric_figures(result: Result, truth: Sequence[Truth] = ()) -> list[Figure]:
    """All metrics of each arm side by side, as shares of the control's value."""
    known, out = _by_place(truth), []
    for arm in result.plan.treatments:
        bars = _finite(
            _bar(each.metric, each, "relative", known.get((each.metric, arm)), _margin_at(each))
            for each in result.estimates
            if each.arm == arm
        )
        if len(bars) < 2:
            continue
        edge = _edge(bars)
        cut = " Intervals that go on are cut at the edge." if edge is not None else ""
        rails = " Dashes: the guardrail's margin." if any(bar.margin is not None for bar in bars) else ""
        caption = f"Effects as shares of {result.plan.control}'s value, each interval by itself.{rails}{cut}"
        picture = charts.intervals(f"All metrics, {arm}", bars, percent=True, edge=edge)
        out.append(Figure(f"All metrics: {arm}", picture, caption))
    return out


def _margin_at(each: Estimated) -> float | None:
    if each.guard is None or each.guard.scale != "relative":
        return None
    return -each.guard.margin if each.better == "higher" else each.guard.margin


def _edge(bars: Sequence[Bar]) -> float | None:
    """Where to cut, so that one wide interval does not flatten the others; None: nowhere."""
    reach = sorted(max(abs(bar.low), abs(bar.high)) for bar in bars)
    edge = WIDE * reach[(len(reach) - 1) // 2]
    return edge if reach[-1] > edge > 0 else None


def course_figures(result: Result) -> list[Figure]:
    """The primary metric as it stood at earlier moments, and by day since exposure."""
    out = []
    looks = "intervals allow for the planned looks"
    if result.look.kind == "fixed":
        looks = "intervals hold for one look alone, so this is to see the course, not to stop at"
    if len(result.plan.treatments) > 1:
        looks += "; each arm by itself"
    for arm in result.plan.treatments:
        percent = _scale(each for each in result.of("primary") if each.arm == arm) == "relative"
        stood = [each for each in result.cumulative if each.arm == arm and isfinite(each.effect.value)]
        points = [_point(spelt(each.until)[5:10], each.effect) for each in stood]
        if len(points) > 1:
            picture = charts.course(f"Cumulative, {arm}", points, percent=percent, below="until (month-day, UTC)")
            caption = f"Effect on {result.plan.primary} with all data until then; {looks}."
            out.append(Figure(f"Cumulative effect: {arm}", picture, caption))
        days = [each for each in result.days if each.arm == arm]
        points = _told([_point(str(day.day), day.relative if percent else day.effect) for day in days])
        if len(days) > 1 and points:
            picture = charts.course(f"By day, {arm}", points, percent=percent, below="days since first exposure")
            said = "; ".join(str(trend) for trend in result.trends if trend.arm == arm)
            gone = len(days) - len(points)
            left = f" Not drawn for want of units: {gone} of {len(days)} days." if gone else ""
            by_itself = "without covariate; each interval by itself"
            caption = f"Among units that were seen for so long, {by_itself}.{left}{f' {said}.' if said else ''}"
            out.append(Figure(f"Effect by day: {arm}", picture, caption))
    return out


def _point(label: str, found: Range) -> Point:
    return Point(label, found.value, found.low, found.high)


def _told(points: Sequence[Point]) -> list[Point]:
    """Without those whose interval is so wide that it would flatten the others."""
    points = [point for point in points if isfinite(point.value)]
    widths = sorted(point.high - point.low for point in points)
    most = WIDE * widths[(len(widths) - 1) // 2] if widths else 0.0
    return [point for point in points if not point.high - point.low > most > 0]


def segment_figures(result: Result) -> list[Figure]:
    """The primary metric in each segment."""
    out = []
    for arm in result.plan.treatments:
        for column in dict.fromkeys(each.column for each in result.segments):
            found = [each for each in result.segments if (each.column, each.estimate.arm) == (column, arm)]
            scale = _scale(each.estimate for each in found)
            bars = _finite(_bar(each.value, each.estimate, scale) for each in found)
            if bars:
                picture = charts.intervals(f"{column}, {arm}", bars, percent=scale == "relative")
                same = f"the same in all values of {column}: p = {probability(found[0].differ_p)}"
                caption = f"Each interval by itself; {same}."
                out.append(Figure(f"{column}: {arm}", picture, caption))
    return out


# -- the page ----------------------------------------------------------------------------------------------------------


def render_record(record: Record) -> str:
    """The page as text."""
    return render(
        "experiment.html", _parts(record.result, record.about), [number, probability, margin_of, effect, told, day]
    )


def write_report(path: Path | str, record: Record) -> None:
    """Writes the page.  Raises MissingExtra without the extra ``report``."""
    write_text(Path(path), render_record(record))


def _parts(result: Result, about: About) -> dict[str, Any]:
    """What the template shows, by section."""
    return {
        "result": result,
        "about": about,
        "outcome": outcome(result),
        "rows": rows(result, about.truth),
        "primary": primary_figure(result, about.truth),
        "metrics": metric_figures(result, about.truth),
        "courses": course_figures(result),
        "trends": [str(each) for each in result.trends],
        "segment_figures": segment_figures(result),
        "ranked": [each for each in result.estimates if each.ranks is not None],
        "guarded": [each for each in result.estimates if each.guard is not None],
        "equals": [each for each in result.estimates if each.equality is not None],
        "warnings": result.warned(),
        "unjudged": UNJUDGED,
        "remedies": remedied(result),
        "computed": computed(result),
        "sections": sections(result.plan).items(),
        "once": lambda lines: list(dict.fromkeys(lines)),
        "changed": [(c.field, _said(c.planned), _said(c.now)) for c in result.changes],
    }


def _said(value: Any) -> str:
    return "nothing" if value is None else _plain(value) or "empty"
