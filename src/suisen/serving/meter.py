"""What one version's answers are counted by: a call of the model at a time, so that a query costs next to nothing.

Of each call one query is kept for a while, in turn each place of it: ``quality`` answers it again by the precise way
and compares its scores with the bundle's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from suisen.recommending.queries import RecommendOptions
from suisen.recommending.rules.ruling import Marks, tally
from suisen.serving.messages import Query, RankQuery

if TYPE_CHECKING:
    from suisen.recommending.answering import AnsweredBy
    from suisen.serving.telemetry import Telemetry

SAMPLES = 64
"""Live queries that wait to be looked at; of more the newest."""
FIRST = 10
"""Items of a list that are compared."""


class Sample(NamedTuple):
    """A query as it was answered."""

    query: Query
    options: RecommendOptions
    scores: Sequence[float]
    """Of the first ten items."""


class Meter:
    """Counts for one version.  3 µs a call of the model and 0.05 µs a query."""

    def __init__(self, telemetry: Telemetry, version: str) -> None:
        self._stages = telemetry.stages
        self._known, self._unknown, self._nobody = (
            telemetry.queries.labels(version, user) for user in ("known", "unknown", "none")
        )
        self._telemetry = telemetry
        self._turn = 0
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)

    def stage(self, name: str, seconds: float) -> None:
        """Takes the time of a stage."""
        self._stages.labels(name).observe(seconds)

    def ruled(self, marks: Marks) -> None:
        """Counts what rules did to the lists of a call: 1 µs per rule."""
        items, lists = marks.items.sum(0).tolist(), (marks.items > 0).sum(0).tolist()
        for name, count, touched in zip(marks.names, items, lists, strict=True):
            if touched:
                label = self._telemetry.label_of(name)
                self._telemetry.rule_items.labels(label).inc(count)
                self._telemetry.rule_lists.labels(label).inc(touched)
        for (name, why), count in tally(marks.unmet).items():
            self._telemetry.rules_unmet.labels(self._telemetry.label_of(name), why).inc(count)

    def answered(
        self,
        asked: Sequence[tuple[Query, RecommendOptions]],
        known: int,
        by: Sequence[AnsweredBy],
        scores: Sequence[list[float]],
    ) -> None:
        """Counts a call's queries, of which so many are of known users, and keeps one of them."""
        named = sum(query.user_id is not None for query, _ in asked)
        for count, many in ((self._known, known), (self._unknown, named - known), (self._nobody, len(asked) - named)):
            if many:
                count.inc(many)
        self._turn += 1
        place = self._turn % len(asked)
        query, options = asked[place]
        if by[place] == "model" and _plain(query, options):
            self.samples.append(Sample(query, options, scores[place][:FIRST]))


def _plain(query: Query, options: RecommendOptions) -> bool:
    """Whether a list's scores are those of the whole catalogue, best first."""
    if isinstance(query, RankQuery) or options.k < FIRST or options.diversity > 0 or options.at is not None:
        return False
    return options.among is None and not options.where and options.exclude_seen is None
