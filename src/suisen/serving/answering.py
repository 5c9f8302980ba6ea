"""The computation behind the answers: the queries of a batch of jobs are answered in as few calls as possible.

``Answering.took`` runs in the event loop, ``work`` there (quick jobs) and in the worker thread of a lane, also at once.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from time import perf_counter
from typing import Any, TypeVar, cast

import numpy as np
import torch
from msgspec import structs

from suisen.data.ids import RawId
from suisen.errors import InputError, UnknownName, UnsupportedQuery
from suisen.recommending.answering import AnsweredBy, Answers, answer, answer_planned, planned, rank, similar
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.requests import only_for_rules
from suisen.recommending.stages import ended, listening
from suisen.recommending.states import VisitorRows
from suisen.recommending.system import System
from suisen.recommending.users import RecentEvents
from suisen.serving.event_log import LoggedEvent
from suisen.serving.features import check, placed
from suisen.serving.messages import LIST_ITEMS, Answer, Item, Query, Ranked, RankQuery, microseconds
from suisen.serving.meter import Meter
from suisen.serving.pricing import Prices
from suisen.serving.problems import Refusal
from suisen.serving.settings import ROW_BYTES, STATE_BYTES

G = TypeVar("G")
QUICK_QUERIES, QUICK_UNITS = 60, 20_000.0
"""Most queries, and the highest price, of a job that is computed in the event loop: what one call of the kernels takes
together, and 20 ms."""
LESS = "ask for fewer queries or items in one request, for shorter histories, or without diversity"
POLICY_MEND = "or pass unknown='popular' or unknown='skip'", 'or send "unknown": "popular" or "skip"'
"""The library's mend, and how it is written over HTTP."""


@dataclass(frozen=True)
class Recommend:
    """Queries of one request."""

    queries: Sequence[Query]
    options: RecommendOptions
    first: int = 0
    """Number of the first of them in the request, of which they may be a part."""
    large: bool = False
    """Whether the request is a batch, which small ones never wait for."""

    def __post_init__(self) -> None:
        check_items(len(self.queries), self.options.k)

    def __len__(self) -> int:
        return len(self.queries)


def check_items(queries: int, k: int) -> None:
    """Refuses more items in one answer than ``LIST_ITEMS``."""
    if queries * k > LIST_ITEMS:
        size = f"k = {k:,} for {queries:,} queries"
        raise Refusal(
            "invalid_value", f"{size} is more than {LIST_ITEMS:,} items; ask for fewer in one request", reason="limit"
        )


@dataclass(frozen=True)
class Rank:
    """Queries of one request, each with the items to rank."""

    queries: Sequence[RankQuery]
    options: RecommendOptions
    first: int = 0

    def __len__(self) -> int:
        return len(self.queries)


@dataclass(frozen=True)
class Similar:
    """One item."""

    item: RawId
    k: int

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class Look:
    """What an operator asks of a version beside its answers: computed among the large jobs, counted as no answer, not
    recorded, not shadowed.  Its result is a list of what ``look`` returns.
    """

    look: Callable[["Answering"], Any]
    units: float
    """Its price."""
    queries: Sequence[Query] = ()
    """Of visitors whose events it needs."""

    def __len__(self) -> int:
        return 1


Job = Recommend | Rank | Similar | Look
Asked = tuple[Query, RecommendOptions]
Result = Sequence[Answer] | list[Item] | list[Any]


class Degraded(list[Any]):
    """Answers that were made without what the shared store of users knows: from what is at hand."""


def degraded(result: Sequence[Any]) -> list[str]:
    """What was missing where a job was computed: nothing, or ``users``.  0.1 µs."""
    return ["users"] if type(result) is Degraded else []


class Answering:
    """One System that takes raw ids and answers in messages; events that it is told of count from then on.

    Ids and titles of the whole catalogue are kept as Python's strings: 150 to 200 bytes of an item, in each process.
    With them a list of ten costs 4 µs and its JSON 1.5; encoding each item beforehand would save 1.5 of both.
    """

    def __init__(self, system: System, state_bytes: int = STATE_BYTES, row_bytes: int = ROW_BYTES) -> None:
        system.store.ready()
        self.system = system
        self.recent = RecentEvents(system.store, state_bytes)
        self.visitors: VisitorRows | None = None
        """What the plan needs of those who ask; None without a plan."""
        if system.engine.plan is not None:
            self.visitors = VisitorRows(system, self.recent, row_bytes)
        self._for_rules = only_for_rules(system.bound_rules, system.store)
        self.prices = Prices(system)
        self.meter: Meter | None = None
        """What counts its answers, where they are counted."""
        self.version = system.version or f"{system.name.replace(' ', '')}-unsaved"
        self._raw: list[RawId] = [0, *system.store.items.raw_ids.to_list()]
        self._titles = system.store.title_list

    def took(self, events: Sequence[LoggedEvent], times: Sequence[int] | None = None) -> int:
        """Counts logged events from now on, of whatever kind; returns how many are of items that the bundle lacks.

        ``times``: what ``times_of`` says of them, where it was asked already.  This runs in the event loop.
        """
        return self.recent.add(
            [event.user_id for event in events],
            [event.item_id for event in events],
            times_of(events) if times is None else times,
            [event.session_id for event in events],
        )

    def price(self, job: Job, most: float) -> float:
        """Units that a job costs.  Refuses it (422) where they are above ``most``."""
        if isinstance(job, Recommend):
            units = self.prices.lists(job.queries, job.options)
        elif isinstance(job, Look):
            units = job.units
        else:
            units = self.prices.rank(job.queries) if isinstance(job, Rank) else self.prices.similar(job.k)
        if units > most:
            raise Refusal(
                "too_expensive", f"{self._factors(job)}: {units:,.0f} units of price are above {most:,}; {LESS}"
            )
        return units

    def _factors(self, job: Job) -> str:
        """What a job's price is made of, in words."""
        if isinstance(job, Similar | Look):
            asked = f"k = {job.k:,}" if isinstance(job, Similar) else "a look at a version"
            return f"{asked}, {len(self._raw):,} items"
        said = [f"{len(job.queries):,} queries"]
        if (brought := sum(len(query.history or ()) for query in job.queries)) > 0:
            said.append(f"histories of {brought:,} items")
        if isinstance(job, Rank):
            return ", ".join([*said, f"{sum(len(query.items) for query in job.queries):,} items to rank"])
        options = job.options
        said.append(f"max(k, candidates) = {self.prices.ranked(options):,}")
        if options.diversity > 0:
            said.append(f"diversity over k × candidates = {options.k:,} × {self.prices.ranked(options):,}")
        if options.where:
            said.append(f"{len(options.where)} conditions of where over {len(self._raw):,} items")
        return ", ".join(said)

    def block(self, items: Collection[str]) -> None:
        """No list holds these items from now on, and all others may again; unknown ones do not matter."""
        found = np.unique(self.system.store.items.dense(sorted(items)))
        self.system.block(torch.from_numpy(found[found > 0]))

    def unknown(self, items: Collection[str]) -> list[str]:
        """Those that the bundle does not know."""
        names = sorted(items)
        found = self.system.store.items.dense(names).tolist()
        return [name for name, item in zip(names, found, strict=True) if not item]

    def quick(self, job: Job, units: float) -> bool:
        """Whether a job of a price may be computed in the event loop: the plan answers it, and it is short."""
        plan = self.system.engine.plan
        if plan is None or not plan.quick or not isinstance(job, Recommend) or job.large:
            return False
        short = len(job.queries) <= QUICK_QUERIES and units <= QUICK_UNITS
        return short and planned(self.system, job.options)

    def work(self, jobs: list[Job]) -> list[Result | Exception]:
        """One result or error per job, in any thread.  Queries that can be are one call, whichever jobs they belong to:
        on the plan those of one ``k`` and ``among``, elsewhere those of equal options.
        """
        groups: dict[Hashable, list[tuple[int, Recommend | Rank]]] = defaultdict(list)
        results: list[Result | Exception] = [[]] * len(jobs)
        for place, job in enumerate(jobs):
            if isinstance(job, Similar):
                results[place] = self._similar(job)
            elif isinstance(job, Look):
                results[place] = self._looked(job)
            else:
                groups[self._alike(job)].append((place, job))
        with listening(None if self.meter is None else self.meter.stage):
            for its in groups.values():
                answers = iter(self._answered([(query, job.options) for _, job in its for query in job.queries]))
                for place, job in its:
                    results[place] = _collected(list(islice(answers, len(job.queries))), job.first)
        return results

    def _alike(self, job: Recommend | Rank) -> Hashable:
        """What the queries of one call have in common."""
        options = job.options
        if isinstance(job, Rank):
            return Rank, options
        if options.where:
            return repr(options)  # a mapping has no hash
        return (options.k, options.among) if planned(self.system, options) else options

    def _answered(self, asked: list[Asked]) -> list[Answer | Exception]:
        """An answer per query; a refused group is halved until the query at fault is alone, so that it spoils no
        other.
        """
        try:
            found = self.found([query for query, _ in asked], [options for _, options in asked])
            began, scores = perf_counter(), found.scores.tolist()
            lists = zip(asked, found.by, found.items.tolist(), scores, strict=True)
            answers: list[Answer | Exception] = [
                self._answer(query, by, self._items(ids, values)) for (query, _), by, ids, values in lists
            ]
            for row, unmet in found.unmet.items():
                answers[row] = structs.replace(cast("Answer", answers[row]), unmet=dict(unmet))
            ended("items", began)
        except Exception as error:
            if len(asked) == 1:
                return [_refusal(error)]
        else:
            if self.meter is not None:
                self.meter.answered(asked, found.known, found.by, scores)
                if found.marks is not None:
                    self.meter.ruled(found.marks)
            return answers
        middle = len(asked) // 2
        return self._answered(asked[:middle]) + self._answered(asked[middle:])

    def found(self, queries: list[Query], options: list[RecommendOptions]) -> Answers:
        """The lists of queries that are alike, in dense ids."""
        raw = self.raw_queries(queries)
        items = [query.items for query in queries if isinstance(query, RankQuery)]
        if items:
            return rank(self.system, raw, items, options[0], self.recent)
        if self.visitors is not None and planned(self.system, options[0]):
            return answer_planned(self.system, self.visitors, raw, options)
        return answer(self.system, raw, options[0], self.recent)

    def _answer(self, query: Query, by: AnsweredBy, items: list[Item]) -> Answer:
        if not isinstance(query, RankQuery):
            return Answer(query.user_id, by, items)
        there = {str(item.item_id) for item in items}
        return Ranked(query.user_id, by, items, left_out=[item for item in query.items if str(item) not in there])

    def raw_queries(self, queries: list[Query]) -> RawQueries:
        """The queries as the System takes them.  Raises InputError for features that it does not have."""
        encoders = self.system.store.encoders
        for query in queries:
            if query.user_features is not None:
                check("user_features", encoders["user"], query.user_features)
            if query.context is not None:
                own = self._for_rules
                brought = query.context.items()
                check("context", encoders["context"], {name: one for name, one in brought if name not in own})
        return RawQueries(
            [query.user_id for query in queries],
            history=_where_any([query.history for query in queries]),
            user_features=_where_any([query.user_features for query in queries]),
            context=_where_any([query.context for query in queries]),
            sessions=_where_any([query.session_id for query in queries]),
        )

    def name(self, item: int) -> tuple[RawId, str]:
        """Raw id and title of a dense item."""
        return self._raw[item], self._titles[item]

    def _items(self, ids: list[int], scores: list[float]) -> list[Item]:
        raw, titles = self._raw, self._titles
        return [
            Item(raw[i], score, rank, titles[i])
            for rank, (i, score) in enumerate(zip(ids, scores, strict=True), 1)
            if i
        ]

    def _similar(self, job: Similar) -> list[Item] | Exception:
        item = self.system.store.items.dense_one(job.item)
        if not item:
            return Refusal("unknown_item", f"item = {job.item!r} is unknown; items are those of train and of its table")
        try:
            ids, scores = similar(self.system, torch.tensor([item]), job.k)
        except Exception as error:
            return _refusal(error)
        return self._items(ids[0].tolist(), scores[0].tolist())

    def _looked(self, job: Look) -> list[Any] | Exception:
        try:
            return [job.look(self)]
        except Exception as error:
            return _refusal(error)


def times_of(events: Sequence[LoggedEvent]) -> list[int]:
    """When events count, in microseconds since 1970: an event of the future (a client's clock) is one of now."""
    now = datetime.now(UTC)
    return [microseconds(min(event.time, now)) for event in events]


def _where_any(given: list[G | None]) -> list[G | None] | None:
    """None where no query gives any: nothing is looked up then."""
    return given if any(one is not None for one in given) else None


def _collected(found: list[Answer | Exception], first: int) -> list[Answer] | Exception:
    """The answers of one request, or its first error, which names the query where there are several; the number of the
    first is given.
    """
    answers: list[Answer] = []
    for place, one in enumerate(found):
        if isinstance(one, Refusal):
            return Refusal(one.code, placed(one.detail, first + place, first + len(found) > 1))
        if isinstance(one, Exception):
            return one
        answers.append(one)
    return answers


def _refusal(error: Exception) -> Exception:
    """What the System refuses, as a problem; anything else is a fault of ours and stays what it is."""
    if isinstance(error, UnsupportedQuery):
        return Refusal("unanswerable", str(error).replace(*POLICY_MEND))
    if isinstance(error, InputError):
        return Refusal("unknown_field" if isinstance(error, UnknownName) else "invalid_value", str(error))
    return error
