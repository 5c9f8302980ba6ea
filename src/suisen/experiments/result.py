"""What an analysis found: frozen values that print themselves as text, Markdown and a Polars frame."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isinf, isnan
from typing import Literal

import polars as pl

from suisen.experiments.bayes import Posterior
from suisen.experiments.frozen import Change
from suisen.experiments.means import Effect
from suisen.experiments.outlook import Outlook
from suisen.experiments.plan import Equivalence, Guardrail, Plan, Scale
from suisen.experiments.ranks import RankEffect
from suisen.experiments.srm import Part, Ratio
from suisen.experiments.standing import Block, Look, Taken

Role = Literal["primary", "secondary", "guardrail"]
State = Literal["holds", "fails", "undecided", "not judged"]
Decision = Literal["raises", "lowers", "not shown", "no verdict"]


@dataclass(frozen=True)
class Range:
    """An effect on one scale."""

    value: float
    low: float
    high: float
    p: float
    """Of "there is no effect" by the test of this scale."""

    @classmethod
    def of(cls, effect: Effect) -> "Range":
        """Of one comparison."""
        return cls(float(effect.value), float(effect.low), float(effect.high), float(effect.p))

    def percent(self) -> str:
        """As a share of the control's value: ``+3.1 % [1.2, 5.0]``, one-sided ``+3.1 %, at least 1.2 %``."""
        return told(self.value, self.low, self.high, "relative")

    def plain(self) -> str:
        """In the metric's own unit: ``+0.0031 [0.0012, 0.005]``, one-sided ``+0.0031, at least 0.0012``."""
        return told(self.value, self.low, self.high, "absolute")

    def shown(self, scale: Scale) -> str:
        """On the scale that decides."""
        return self.percent() if scale == "relative" else self.plain()


def told(value: float, low: float, high: float, scale: Scale, *, sign: Literal["+", "-"] = "+") -> str:
    """An effect with its interval in words; ``sign``: + before values above 0, - before those below 0 alone.

    >>> from math import inf, nan
    >>> told(0.031, 0.012, inf, "relative"), told(-2, -inf, -0.5, "absolute"), told(nan, nan, nan, "relative")
    ('+3.1 %, at least 1.2 %', '-2, at most -0.5', 'not defined')
    """
    if isnan(value):
        return "not defined"
    factor, digits, unit = (100, ".3g", " %") if scale == "relative" else (1, ".4g", "")
    said = f"{factor * value:{sign}{digits}}{unit}"
    bound = bounded(low, high, scale)
    return f"{said}, {bound}" if bound else f"{said} [{factor * low:{digits}}, {factor * high:{digits}}]"


def chance(p: float) -> str:
    """A p-value with three digits; doubles end at 1e-300, and where there is none stands a dash.

    >>> chance(0.04213), chance(3e-9), chance(0.0), chance(float("nan"))
    ('0.0421', '3e-09', '<1e-300', '–')
    """
    return "–" if isnan(p) else f"{p:.3g}" if p > 0 else "<1e-300"


def bounded(low: float, high: float, scale: Scale) -> str:
    """The one end of an interval in words; empty: it has both."""
    factor, digits, unit = (100, ".3g", " %") if scale == "relative" else (1, ".4g", "")
    if isinf(low) and isinf(high):
        return "without bounds"
    if isinf(high):
        return f"at least {factor * low:{digits}}{unit}"
    return f"at most {factor * high:{digits}}{unit}" if isinf(low) else ""


@dataclass(frozen=True)
class Guard:
    """A guardrail: whether the metric is not worse by the margin."""

    margin: float
    scale: Scale
    p: float
    """One-sided, of "it is worse by the margin or more", at one look, held to alpha / 2; ``state`` allows for looks."""
    state: State
    """holds: the interval is on the good side of the margin; fails: on the bad one; undecided: the margin is in it; not
    judged: the result is blocked."""
    why: str = ""
    """Why it is judged on another scale than planned, with another margin."""
    effect: Range | None = None
    """With the two-sided interval that decides, also where the plan looks one way; None: records of before."""


@dataclass(frozen=True)
class Equality:
    """An equivalence: whether the metric is equal within the margin, by two one-sided tests."""

    margin: float
    scale: Scale
    effect: Range
    """With the interval that decides, of level 1 − 2 alpha (it allows for the planned looks); p: of "it differs by the
    margin or more", at one look, held to alpha."""
    state: State
    """holds: the interval is between the margins; fails: beyond one of them; undecided: a margin is in it; not judged:
    the result is blocked."""
    why: str = ""
    """Why it is judged on another scale than planned, with another margin."""


@dataclass(frozen=True)
class Joint:
    """An interval that holds together with those of the other arms (Bonferroni), as p is corrected over them."""

    effect: Range
    """On the deciding scale; of a test of ranks: the share of pairs in which the arm is above."""
    level: float
    """Of this interval; all of them together hold with the plan's."""
    arms: int
    none: float = 0.0
    """What stands for "no effect": 0, or half of the pairs."""

    @property
    def reaches(self) -> bool:
        """Whether no effect is inside."""
        return self.effect.low <= self.none <= self.effect.high

    def shown(self, scale: Scale) -> str:
        """The interval in words, with its level."""
        low, high = self.effect.low, self.effect.high
        ends = (
            f"[{100 * low:.3g}, {100 * high:.3g}] %" if self.none or scale == "relative" else f"[{low:.4g}, {high:.4g}]"
        )
        return f"{bounded(low, high, scale) or ends} at {100 * self.level:.4g} %"


@dataclass(frozen=True)
class Estimated:
    """One metric of one treatment against the control."""

    metric: str
    arm: str
    role: Role
    test: str
    """Which test, in words."""
    scale: Scale
    """The scale whose test decides: the planned one, but absolute where shares of the control's value say nothing."""
    control: float
    treatment: float
    n_control: int
    n_treatment: int
    absolute: Range
    relative: Range
    p: float
    """Of the test that decides."""
    corrected: float
    """The same, corrected as ``correction`` says."""
    correction: str
    alpha: float
    better: Literal["higher", "lower"]
    how: str
    """How the numbers were computed, in one or two sentences."""
    rho: float | None = None
    """Correlation with the covariate; the variance falls to 1 − ρ² of itself."""
    ranks: RankEffect | None = None
    guard: Guard | None = None
    equality: Equality | None = None
    warnings: tuple[str, ...] = ()
    """Where the theory does not hold, with the remedy."""
    remedies: tuple[str, ...] = ()
    """Remedies that were planned and applied."""
    immature: tuple[int, int] = (0, 0)
    """Units of control and arm whose follow-up (a window, days of retention) is not over; they do not count."""
    judged: bool = True
    """False: something blocks the verdict, so no decision follows from the numbers."""
    joint: Joint | None = None
    """Where p is corrected over the arms of the primary metric."""
    posterior: Posterior | None = None
    """Of the primary metric on the scale that decides, where the plan has a prior and the test is a normal one."""

    @property
    def significant(self) -> bool:
        """Whether the corrected p-value is at or below alpha, in a result that may be judged."""
        return self.judged and self.corrected <= self.alpha

    @property
    def effect(self) -> Range:
        """On the scale that decides."""
        return self.on(self.scale)

    def on(self, scale: Scale) -> Range:
        """The effect on a scale."""
        return self.relative if scale == "relative" else self.absolute

    @property
    def claimed(self) -> Range:
        """The effect with the interval that a verdict names: the one of all arms together, where p is corrected so."""
        return self.effect if self.joint is None or self.ranks is not None else self.joint.effect

    @property
    def decision(self) -> Decision:
        """What the test says, in words."""
        if isnan(self.p) or not self.judged:
            return "no verdict"
        if not self.significant:
            return "not shown"
        value, found = self.ranks.superiority - 0.5 if self.ranks is not None else self.effect.value, self.effect
        if isinf(found.low) != isinf(found.high):  # a one-sided test finds one way alone
            return "raises" if isinf(found.high) else "lowers"
        return "raises" if value > 0 else "lowers"

    @property
    def good(self) -> bool | None:
        """Whether a significant effect is an improvement; None: there is none."""
        if self.decision not in ("raises", "lowers"):
            return None
        return (self.decision == "raises") == (self.better == "higher")


@dataclass(frozen=True)
class Segment:
    """The primary metric among the units that have one value of a column."""

    column: str
    value: str
    estimate: Estimated
    differ_p: float
    """Of "the effect is the same in all values of this column" (Cochran's Q), for this arm."""


@dataclass(frozen=True)
class Day:
    """The primary metric on one day since exposure, among units that were seen for as long."""

    day: int
    arm: str
    control: float
    treatment: float
    n: int
    effect: Range
    """Absolute."""
    relative: Range
    corrected: float
    """p of ``effect``, corrected over days and arms."""


@dataclass(frozen=True)
class Trend:
    """Whether the effect changes with time since exposure: later days less earlier ones, treatment against control."""

    arm: str
    early: str
    """Days taken as early, like ``0-3``."""
    late: str
    change: Range

    def __str__(self) -> str:
        said = f"{self.arm}: effect on days {self.late} less that on days {self.early}"
        return f"{said}: {self.change.plain()}, p = {self.change.p:.3g}"


@dataclass(frozen=True)
class Cumulative:
    """The primary metric with all data until a moment."""

    until: int
    """Microseconds since 1970 UTC."""
    arm: str
    n: int
    effect: Range
    """On the scale that decides in the end; its interval is the one that the plan's looks allow."""


@dataclass(frozen=True)
class Result:
    """An analysis."""

    plan: Plan
    mode: Literal["A/B", "A/A"]
    fingerprint: str
    changes: tuple[Change, ...]
    """What the plan says otherwise than when it was frozen."""
    ratio: Ratio
    exposed: int
    contaminated: int
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    look: Look
    estimates: tuple[Estimated, ...]
    """Primary first, then guardrails, then the rest; each by arm."""
    segments: tuple[Segment, ...] = ()
    days: tuple[Day, ...] = ()
    trends: tuple[Trend, ...] = ()
    cumulative: tuple[Cumulative, ...] = ()
    verdict: str = ""
    """One line."""
    outlook: Outlook | None = None
    """What the units seen so far can find; None: the plan names no smallest effect."""
    repeated: int = 0
    """Events left out because they repeat another."""
    events: int = 0
    """Events of the units, repeated ones included."""
    blocked: Block | None = None
    """What forbids a verdict; every estimate is then not judged, whatever its numbers are."""
    parts: tuple[Part, ...] = ()
    """Segments and days whose sample ratio does not hold, the one to blame first."""
    late: str = ""
    """Where the plan was frozen after data were seen: how late, in words."""
    looks: tuple[Taken, ...] = ()
    """The looks that were taken before, where they are known."""

    @property
    def contamination(self) -> float:
        """Share of the units that were seen in more than one arm."""
        return self.contaminated / self.exposed if self.exposed else 0.0

    @property
    def split(self) -> str:
        """The sample ratio in words, with what is wrong in a part of the units."""
        if not self.parts or not self.ratio.holds:
            return str(self.ratio)
        whole = str(self.ratio).replace("sample ratio", "sample ratio of all units together", 1)
        return f"SAMPLE RATIO MISMATCH in {self.parts[0]}; {whole}"

    def of(self, role: Role) -> tuple[Estimated, ...]:
        """The estimates of a role."""
        return tuple(each for each in self.estimates if each.role == role)

    def frame(self) -> pl.DataFrame:
        """One row per estimate; ``blocked`` says why none is judged, and is empty where they are."""
        blocked = "" if self.blocked is None else str(self.blocked)
        return pl.DataFrame([_row(each) for each in self.estimates]).with_columns(blocked=pl.lit(blocked))

    def text(self) -> str:
        """For a terminal: the verdict, the sample ratio, a table, warnings, notes."""
        rows = _filled([list(HEAD), *map(_cells, self.estimates)])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
        lines = ["  ".join(row).rstrip() for row in padded]
        return (
            "\n".join([self.verdict, self.split, self.look.said, *self._told(), "", *lines, *self._remarks("")]) + "\n"
        )

    def markdown(self) -> str:
        """The same as Markdown."""
        table = _filled([list(HEAD), *map(_cells, self.estimates)])
        rows = [_line(table[0]), _line(["---"] * len(table[0])), *map(_line, table[1:])]
        head = [f"**{self.verdict}**", "", f"{self.split}.", "", f"{self.look.said}.", ""]
        head += [line for said in self._told() for line in (f"{said}.", "")]
        return "\n".join([*head, *rows, *self._remarks("* ")]) + "\n"

    def _told(self) -> list[str]:
        return [] if self.blocked is None else [UNJUDGED]

    def warned(self) -> list[str]:
        """All warnings; first what blocks the verdict."""
        of_metric = [f"{each.metric}, {each.arm}: {said}" for each in self.estimates for said in each.warnings]
        return [*([] if self.blocked is None else [str(self.blocked)]), *self.warnings, *of_metric]

    def _remarks(self, bullet: str) -> list[str]:
        """Warnings, remedies, other views and notes, each under its heading."""
        applied = [f"{each.metric}, {each.arm}: {said}" for each in self.estimates for said in each.remedies]
        parts = {
            "Warnings": self.warned(),
            "Remedies applied": applied,
            "Bayesian read-out": [believed(each) for each in self.estimates if believed(each)],
            "Ranks": [_ranked(each) for each in self.estimates if each.ranks is not None],
            "Segments (p corrected, intervals not)": [_segment(each) for each in self.segments],
            "Days since exposure (p corrected, intervals not)": [*map(_day, self.days), *map(str, self.trends)],
            "Power so far": [] if self.outlook is None else [str(self.outlook)],
            "Looks before this one": [str(one) for one in self.looks],
            "Changed after the start": [str(change) for change in self.changes],
            "Notes": list(self.notes),
        }
        out: list[str] = []
        for title, lines in parts.items():
            if lines:
                out += ["", f"{title}:", *([""] if bullet else []), *(f"{bullet or '  '}{line}" for line in lines)]
        return out


UNJUDGED = "nothing below is judged: the numbers are there to find the fault"
HEAD = (
    "metric", "arm", "role", "control", "arm's", "relative", "absolute", "p", "corrected", "all arms together", "test",
    "guardrail", "equality",
)  # fmt: skip


def _cells(each: Estimated) -> list[str]:
    guard = "" if each.guard is None else f"{each.guard.state} (margin {margin_of(each.guard)})"
    equal = each.equality
    same = "" if equal is None else f"{equal.state} (± {margin_of(equal)}: {equal.effect.shown(equal.scale)})"
    mark = {"relative": each.relative.percent(), "absolute": each.absolute.plain()}
    mark[each.scale] += " *"  # the scale that decides
    control, treatment = (f"{x:.5g}".replace("nan", "–") for x in (each.control, each.treatment))
    p, corrected = chance(each.p), chance(each.corrected)
    return [
        each.metric, each.arm, each.role, control, treatment, mark["relative"], mark["absolute"], p, corrected,
        "" if each.joint is None else each.joint.shown(each.scale), each.test, guard, same,
    ]  # fmt: skip


def _filled(rows: list[list[str]]) -> list[list[str]]:
    """The table without the columns that nothing is in."""
    kept = [i for i, column in enumerate(zip(*rows[1:], strict=True)) if any(column)]
    return [[row[i] for i in kept] for row in rows] if kept else rows


def margin_of(rule: Guard | Equality | Guardrail | Equivalence) -> str:
    """A margin on its scale."""
    return f"{100 * rule.margin:g} %" if rule.scale == "relative" else f"{rule.margin:g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def believed(each: Estimated) -> str:
    """The Bayesian read-out in words; empty: none is planned, or nothing may be judged."""
    if each.posterior is None or not each.judged:
        return ""
    return f"{each.metric}, {each.arm}: {each.posterior.says(each.scale)}"


def _ranked(each: Estimated) -> str:
    found = each.ranks
    if found is None:
        return ""
    return (
        f"{each.metric}, {each.arm}: above the control in {100 * found.superiority:.1f} % of pairs "
        f"[{100 * found.low:.1f}, {100 * found.high:.1f}] ({100 * found.ties:.0f} % tied), shift "
        f"{told(found.shift, found.shift_low, found.shift_high, 'absolute', sign='-')}.  {found.says}"
    )


def _segment(each: Segment) -> str:
    found = each.estimate
    return (
        f"{each.column} = {each.value}, {found.arm}: {found.metric} {found.effect.shown(found.scale)}, "
        f"corrected p = {found.corrected:.3g} (the same in all: p = {each.differ_p:.3g})"
    )


def _day(each: Day) -> str:
    return (
        f"day {each.day}, {each.arm}: {each.effect.plain()} among {each.n:,} units, corrected p = {each.corrected:.3g}"
    )


def _row(each: Estimated) -> dict[str, object]:
    out: dict[str, object] = {
        "metric": each.metric, "arm": each.arm, "role": each.role, "test": each.test, "scale": each.scale,
        "control": each.control, "treatment": each.treatment, "n_control": each.n_control,
        "n_treatment": each.n_treatment,
    }  # fmt: skip
    for name, effect in (("absolute", each.absolute), ("relative", each.relative)):
        out |= {name: effect.value, f"{name}_low": effect.low, f"{name}_high": effect.high, f"{name}_p": effect.p}
    out |= {"p": each.p, "corrected": each.corrected, "correction": each.correction, "decision": each.decision}
    ends = (None,) * 3 if each.joint is None else (each.joint.effect.low, each.joint.effect.high, each.joint.level)
    out |= dict(zip(("joint_low", "joint_high", "joint_level"), ends, strict=True))
    out |= {"rho": each.rho, "superiority": None if each.ranks is None else each.ranks.superiority}
    out |= {"guardrail": None if each.guard is None else each.guard.state}
    out |= {"equality": None if each.equality is None else each.equality.state, "warnings": "; ".join(each.warnings)}
    return out | {"immature_control": each.immature[0], "immature_treatment": each.immature[1]}
