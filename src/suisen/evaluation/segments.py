"""``segments``: a report's metrics by group of users, such as guests, new users and heavy ones."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from suisen.arguments import listed, shown
from suisen.data.batch import Queries
from suisen.display import Shown, Table, notes_of
from suisen.errors import InputError, unknown
from suisen.evaluation.report import Report, interval, number

HEAD = ("segment", "metric", "value", "95 % interval", "n")
OF_ALL = ("coverage", "auc")
"""Metrics of all lists or clicks together: a part of their values is not the metric of that part."""
MISSING = "(missing)"
MANY = 20
"""Numbers of more different values are grouped."""


@dataclass(frozen=True, repr=False)
class Segments(Shown):
    """A report per group; prints itself.  The same group of two models can be given to ``compare``."""

    by: str
    """What the groups differ in."""
    reports: Mapping[str, Report]
    """Group → the report of its queries alone."""
    notes: tuple[str, ...] = ()

    def __getitem__(self, segment: str) -> Report:
        if segment not in self.reports:
            raise unknown("segment", segment, self.reports)
        return self.reports[segment]

    def _parts(self) -> list[str | Table]:
        scores = [(name, score) for name, report in self.reports.items() for score in report.scores]
        rows = [[name, s.metric, number(s.value), interval(s.low, s.high), f"{s.n:,}"] for name, s in scores]
        return [Table(HEAD, rows), *notes_of(self.notes)]

    def to_frame(self) -> pl.DataFrame:
        """One row per group and metric: segment, queries, and the columns of ``Report.to_frame``."""
        parts = [
            report.to_frame().select(pl.lit(name).alias("segment"), pl.lit(len(report)).alias("queries"), pl.all())
            for name, report in self.reports.items()
        ]
        return pl.concat(parts)


def segments(report: Report, queries: Queries, by: str | Mapping[Any, Any] | Sequence[Any] = "history") -> Segments:
    """The report's metrics for each group of its queries, each with its interval and its number of queries.

    ``by``: ``"history"`` (guest: no user id; new: nothing is known before the query; light and heavy: at most, and more
    than, the median length of the other histories); the name of a column of the log's table of users; a mapping of user
    id → group; or one group per query.  A small group is shown with its n; without an interval where n is 1.

    Raises InputError for queries that are not those of the report and for an unknown column.
    """
    for name, given, kind in (("report", report, Report), ("queries", queries, Queries)):
        if not isinstance(given, kind):
            raise InputError(f"{name} = {shown(given)}: segments(report, split.test) takes a report and its queries")
    by = by if isinstance(by, str | Mapping) else listed("by", by) or ()
    if len(queries) != len(report):
        raise InputError(f"the report has {len(report):,} queries and these are {len(queries):,}; give the same ones")
    what = by if isinstance(by, str) else "groups"
    groups = _groups(queries, by)
    if len(groups) != len(queries):
        raise InputError(f"by has {len(groups):,} groups for {len(queries):,} queries; give one per query")
    labels = np.array([MISSING if label is None else str(label) for label in groups], dtype=object)
    left_out = [name for name in report.values if name.partition("@")[0] in OF_ALL]
    values = {name: column for name, column in report.values.items() if name not in left_out}
    if not values:
        raise InputError(f"{', '.join(left_out)} have no value by segment; measure ndcg@10 or hr@10 too")
    out = {}
    for label in _order(labels.tolist()):
        rows = labels == label
        part = {name: column[rows] for name, column in values.items()}
        out[label] = replace(report, values=part, fingerprint=f"{report.fingerprint} {what} = {label}", notes=())
    said = (f"{', '.join(left_out)}: of all lists together, not shown by segment",) if left_out else ()
    return Segments(what, out, said)


def _order(labels: list[str]) -> list[str]:
    """The groups: those of ``history`` from guest to heavy, others by size, the missing one last."""
    counts, stages = Counter(labels), {"guest": 0, "new": 1, "light": 2, "heavy": 3}
    return sorted(
        counts, key=lambda name: (name == MISSING, stages.get(name.partition(" ")[0], 4), -counts[name], name)
    )


def _groups(queries: Queries, by: str | Mapping[Any, Any] | Sequence[Any]) -> Sequence[Any]:
    if by == "history":
        return _by_history(queries)
    if isinstance(by, str):
        return _by_mapping(queries, _column(queries, by))
    return _by_mapping(queries, by) if isinstance(by, Mapping) else by


def _by_history(queries: Queries) -> list[str]:
    lengths = queries.contexts.history.lengths.numpy()
    named = (queries.contexts.user if queries.asked is None else queries.asked.user).numpy() > 0
    some = lengths[named & (lengths > 0)]
    middle = int(np.median(some)) if some.size else 0
    light, heavy = f"light (1 to {middle:,} events)", f"heavy (more than {middle:,})"
    kinds = np.where(lengths == 0, "new", np.where(lengths <= middle, light, heavy))
    out: list[str] = np.where(named, kinds, "guest").tolist()
    return out


def _column(queries: Queries, name: str) -> dict[Any, Any]:
    """User → value of a column of the log's table; numbers of many values in four groups of about as many users."""
    table = None if queries.asked is None else queries.asked.user_table
    if table is None:
        raise InputError(f"by = {name!r}: the log has no table of users; give a mapping of user id → group")
    if name not in table.columns[1:]:
        raise unknown("by", name, ["history", *table.columns[1:]])
    column, users = table[name], table[table.columns[0]].to_list()
    if column.dtype.is_nested():
        raise InputError(f"by = {name!r} holds lists; give a column of one value per user, or a mapping")
    values = column.to_list()
    if column.dtype.is_numeric() and column.n_unique() > MANY:
        cuts = sorted({float(column.quantile(share) or 0.0) for share in (0.25, 0.5, 0.75)})
        names = [f"up to {cuts[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(cuts)), f"over {cuts[-1]:g}"]
        values = [None if value is None else names[bisect_left(cuts, value)] for value in values]
    return dict(zip(users, values, strict=True))


def _by_mapping(queries: Queries, groups: Mapping[Any, Any]) -> list[Any]:
    asked = queries.asked
    if asked is None:
        raise InputError("these queries do not know their users' ids; give one group per query")
    raw = [None, *asked.users.raw_ids.to_list()]
    text = {str(user): group for user, group in groups.items()}
    users = [raw[at] for at in asked.user.tolist()]
    found = [None if user is None else text.get(str(user)) for user in users]
    if groups and all(group is None for group in found):
        raise InputError(
            f"none of the mapping's {len(groups):,} users asks, like {next(iter(groups))!r}; give user ids"
        )
    return found
