"""Reports and paired comparisons: numbers with their protocol, their count of queries and their intervals."""

import base64
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from suisen.arguments import listed, shown
from suisen.display import Shown, Table, markdown_table, notes_of, seconds
from suisen.errors import InputError, unknown
from suisen.stats import bootstrap_means, column_means, holm, paired_differences

LEVEL = 0.95
RESAMPLES = 1000
SEED = 0


class Score(NamedTuple):
    """One metric of one model: the mean over n queries; ``low``, ``high``: 95 % BCa bootstrap over queries."""

    metric: str
    value: float
    low: float
    high: float
    n: int
    protocol: str


@dataclass(frozen=True, eq=False, repr=False)
class Report(Shown):
    """One model on one set of queries.  Prints itself; ``scores`` has the numbers, ``values`` each query's own."""

    name: str
    protocol: str
    """How the queries came to be, what was ranked, what was excluded, how ties count."""
    fingerprint: str
    """Of the queries: reports of the same queries can be paired."""
    values: Mapping[str, npt.NDArray[np.float32]]
    """Metric → (Q,) one value per query; NaN = the query has none."""
    notes: tuple[str, ...] = ()
    """What was counted on the way: unknown items, queries left out."""
    seconds: float = 0.0
    peak_bytes: int = 0
    """Most bytes of scores held at once."""

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))

    @cached_property
    def scores(self) -> tuple[Score, ...]:
        """The metrics with their intervals (computed at first use)."""
        table = _columns(self, list(self.values))
        low, high = bootstrap_means(table, level=LEVEL, resamples=RESAMPLES, seed=SEED)
        counts = (~np.isnan(table)).sum(0)
        columns = zip(self.values, column_means(table), low, high, counts, strict=True)
        return tuple(Score(m, float(v), float(a), float(b), int(n), self.protocol) for m, v, a, b, n in columns)

    def value(self, metric: str) -> float:
        """One metric's mean, without its interval: what a trainer reads after every epoch."""
        if metric not in self.values:
            raise unknown("metric", metric, self.values)
        return float(column_means(self.values[metric])[0])

    def __getitem__(self, metric: str) -> Score:
        self.value(metric)
        return next(score for score in self.scores if score.metric == metric)

    def _rows(self) -> list[list[str]]:
        return [[s.metric, number(s.value), interval(s.low, s.high), f"{s.n:,}"] for s in self.scores]

    def _parts(self) -> list[str | Table]:
        held = f", {memory(self.peak_bytes)} of scores at once" if self.peak_bytes else ""
        head = f"{self.name}: {len(self):,} queries in {seconds(self.seconds)}{held}"
        return [head, f"protocol: {self.protocol}", Table(SCORE_HEAD, self._rows()), *notes_of(self.notes)]

    def to_markdown(self) -> str:
        """A table for a README or an issue: rows that may be taken out of it, so each says its protocol."""
        rows = [[self.name, *row, self.protocol] for row in self._rows()]
        return markdown_table(("model", *SCORE_HEAD, "protocol"), rows)

    def to_frame(self) -> pl.DataFrame:
        """One row per metric: model, metric, value, low, high, n, protocol."""
        rows = [{"model": self.name, **score._asdict()} for score in self.scores]
        return pl.DataFrame(rows, schema_overrides={"n": pl.Int64})

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the numbers for people, the queries' values for later pairing."""
        packed = {m: base64.b64encode(v.astype("<f4").tobytes()).decode() for m, v in self.values.items()}
        return {
            "name": self.name,
            "protocol": self.protocol,
            "fingerprint": self.fingerprint,
            "queries": len(self),
            "scores": [{k: _plain(v) for k, v in s._asdict().items() if k != "protocol"} for s in self.scores],
            "notes": list(self.notes),
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "values_float32_base64": packed,
        }

    def to_json(self) -> str:
        """The inverse of ``from_json``."""
        return json.dumps(self.to_dict(), indent=1, allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The report that ``to_dict`` described."""
        try:
            packed = data["values_float32_base64"]
            values = {m: np.frombuffer(base64.b64decode(v), dtype="<f4").astype(np.float32) for m, v in packed.items()}
            plain = {key: data[key] for key in ("name", "protocol", "fingerprint", "seconds", "peak_bytes")}
            return cls(**plain, values=values, notes=tuple(data["notes"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"this is not a report that Suisen wrote ({error!r}); evaluate again") from None

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The report that ``to_json`` wrote."""
        try:
            return cls.from_dict(json.loads(text))
        except json.JSONDecodeError as error:
            raise InputError(f"this is not a report that Suisen wrote ({error}); evaluate again") from None


class Comparison(NamedTuple):
    """A paired difference: ``model`` less ``baseline`` on the same queries."""

    metric: str
    model: str
    baseline: str
    difference: float
    low: float
    high: float
    p: float
    """Paired t-test."""
    p_holm: float
    """Corrected for all the comparisons of the table."""
    n: int
    protocol: str


@dataclass(frozen=True, repr=False)
class Comparisons(Shown):
    """Paired differences with intervals and corrected p-values; prints itself."""

    rows: tuple[Comparison, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Comparison:
        return self.rows[index]

    def row(self, metric: str, model: str | None = None) -> Comparison:
        """The row of a metric, of the model named or of the first."""
        for row in self.rows:
            if row.metric == metric and model in (None, row.model):
                return row
        raise unknown("comparison", f"{metric} of {model}" if model else metric, [row.metric for row in self.rows])

    def _cells(self) -> list[list[str]]:
        cells = []
        for row in self.rows:
            difference = (number(row.difference, signed=True), interval(row.low, row.high, signed=True))
            ps = (probability(row.p), probability(row.p_holm))
            cells.append([row.metric, f"{row.model} − {row.baseline}", *difference, *ps, f"{row.n:,}"])
        return cells

    def _parts(self) -> list[str | Table]:
        protocols = [f"protocol: {protocol}" for protocol in dict.fromkeys(row.protocol for row in self.rows)]
        return [*protocols, Table(COMPARISON_HEAD, self._cells()), *notes_of(self.notes)]

    def to_markdown(self) -> str:
        """A table for a README or an issue: rows that may be taken out of it, so each says its protocol."""
        rows = [[*cells, row.protocol] for cells, row in zip(self._cells(), self.rows, strict=True)]
        return markdown_table((*COMPARISON_HEAD, "protocol"), rows)

    def to_frame(self) -> pl.DataFrame:
        """One row per comparison, the columns of ``Comparison``."""
        return pl.DataFrame([row._asdict() for row in self.rows])


def compare(baseline: Report, *others: Report, metrics: Sequence[str] | None = None) -> Comparisons:
    """Paired differences of each other report from the baseline, Holm-corrected over the whole table.

    Intervals: BCa bootstrap of the per-query differences; p: paired t-test (``stats.paired_differences``).
    Without ``metrics``: those that all reports have.  Raises InputError for reports of different queries.
    """
    _check_reports((baseline, *others))
    if not others:
        raise InputError("compare() was given one report; give the baseline and at least one other")
    for other in others:
        _same_queries(baseline, other)
    common = [metric for metric in baseline.values if all(metric in other.values for other in others)]
    chosen = common if metrics is None else list(listed("metrics", metrics))
    for metric in chosen:
        if metric not in common:
            raise unknown("metric of all reports", metric, common)
    if not chosen:
        raise InputError("the reports have no metric in common; evaluate them with the same metrics")
    left_out = sorted({metric for report in (baseline, *others) for metric in report.values} - set(common))
    names = _names([baseline, *others])
    found = []
    for name, other in zip(names[1:], others, strict=True):
        pairs = (_columns(other, chosen), _columns(baseline, chosen))
        rows = paired_differences(*pairs, level=LEVEL, resamples=RESAMPLES, seed=SEED)
        found += [(metric, name, row) for metric, row in zip(chosen, rows, strict=True)]
    adjusted = holm([row.p for _, _, row in found])
    table = tuple(
        Comparison(metric, name, names[0], row.value, row.low, row.high, row.p, float(p), row.n, baseline.protocol)
        for (metric, name, row), p in zip(found, adjusted, strict=True)
    )
    notes = (f"not in all reports and left out: {', '.join(left_out)}",) if left_out and metrics is None else ()
    return Comparisons(table, notes)


def _check_reports(given: Sequence[object]) -> None:
    """Raises InputError for what is no report."""
    for each in given:
        if not isinstance(each, Report):
            several = isinstance(each, list | tuple)
            mend = "give them one by one: compare(*reports)" if several else "give what evaluate returned"
            raise InputError(f"compare() was given {shown(each)}, no report; {mend}")


def _same_queries(baseline: Report, other: Report) -> None:
    for what, ours, theirs in (
        ("number of queries", len(baseline), len(other)),
        ("protocol", baseline.protocol, other.protocol),
        ("truth", baseline.fingerprint, other.fingerprint),
    ):
        if ours != theirs:
            pair = f"{other.name!r} cannot be paired with {baseline.name!r}"
            raise InputError(f"{pair}: {what} {theirs!r} is not {ours!r}; evaluate both on the same queries")


def _names(reports: Sequence[Report]) -> list[str]:
    """The reports' names, a repeated one with its number."""
    names: list[str] = []
    for report in reports:
        again = sum(1 for other in reports[: len(names)] if other.name == report.name)
        names.append(f"{report.name} ({again + 1})" if again else report.name)
    return names


def _columns(report: Report, metrics: Sequence[str]) -> npt.NDArray[np.float64]:
    """(Q, m) values."""
    return np.stack([report.values[metric] for metric in metrics], axis=1).astype(np.float64)


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- rounding: here and nowhere else -----------------------------------------------------------------------------------

SCORE_HEAD = ("metric", "value", "95 % interval", "n")
COMPARISON_HEAD = ("metric", "models", "difference", "95 % interval", "p", "p (Holm)", "n")


def number(value: float, *, signed: bool = False) -> str:
    """Four digits behind the point for shares, four significant ones for what is larger; – for none.

    >>> number(0.72912), number(12.3456), number(float("nan"))
    ('0.7291', '12.35', '–')
    """
    if math.isnan(value):
        return "–"
    digits = 4 if abs(value) < 2 else max(0, 3 - math.floor(math.log10(abs(value))))
    return f"{value:{'+' if signed else ''}.{digits}f}"


def interval(low: float, high: float, *, signed: bool = False) -> str:
    """``[low, high]``; – where there is none."""
    if math.isnan(low) or math.isnan(high):
        return "–"
    return f"[{number(low, signed=signed)}, {number(high, signed=signed)}]"


def probability(p: float) -> str:
    """Four digits; what is smaller says so."""
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def memory(size: int) -> str:
    """Bytes for people, in the unit that leaves a digit in front of the point.

    >>> memory(25 * 2**20), memory(2_000), memory(12)
    ('25.0 MiB', '2.0 KiB', '12 bytes')
    """
    units = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
    return next((f"{size / unit:,.1f} {name}" for unit, name in units if size >= unit), f"{size} bytes")
