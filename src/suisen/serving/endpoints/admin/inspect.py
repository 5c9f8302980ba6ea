"""``POST /admin/inspect``: one answer of one version, taken apart."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field, structs

from suisen.recommending.answering import AnsweredBy, planned
from suisen.recommending.inspecting import Inspection, KeptOut, Rule, Why, inspect
from suisen.recommending.queries import RecommendOptions
from suisen.recommending.stages import listening
from suisen.serving.answering import Answering, Look
from suisen.serving.board import Role
from suisen.serving.contract import COMPUTING, Endpoint
from suisen.serving.endpoints.admin.slots import control_of
from suisen.serving.endpoints.recommend import NOTES, RecommendRequest, options_of
from suisen.serving.exchange import Exchange
from suisen.serving.messages import DEFAULTS, Id, Item, Query
from suisen.serving.service import Service

LIST, CANDIDATES, HISTORY = 200, 500, 50
"""Most items of the list, candidates and items of the history that are named; of more candidates the first ones and
those in the list."""
EXPLAINED, PARTS = 20, 40
"""Most items that are explained in one request, and most parts that are named of one score, the largest."""
TIMES = 4.0
"""How many lists the work beside the list costs, roughly, and how many each explained item does."""


class InspectRequest(RecommendRequest, frozen=True, kw_only=True):
    """The body of ``POST /v1/recommend`` with one query, and what to look at."""

    queries: Annotated[list[Query], Meta(min_length=1, max_length=1)]
    k: Annotated[int, Meta(ge=1, le=LIST)] = DEFAULTS.k
    role: Role = "serving"
    """The version that is asked."""
    explain: Annotated[list[Id], Meta(max_length=EXPLAINED)] = field(default_factory=list)
    """Items whose scores are taken apart."""


class ItemName(Struct, frozen=True):
    """An item."""

    item_id: str | int
    title: str


class StageTime(Struct, frozen=True):
    """How long a stage took for this query alone."""

    stage: str
    ms: float


class Candidate(ItemName, frozen=True):
    """A candidate as each stage placed it."""

    first_rank: int
    """From 1: by the first stage."""
    first_score: float
    second_rank: int | None
    """By the second stage, where there is one."""
    second_score: float | None
    place: int | None
    """In the list; null where it did not come so far."""
    sources: dict[str, int]
    """Source → its rank there, where there are several."""


class KeptOutItem(ItemName, frozen=True):
    """An item that a rule keeps out, and that would stand among the candidates else."""

    rank: int
    """In the whole catalogue as the first stage orders it."""
    score: float
    rules: list[Rule]


class RuleCount(Struct, frozen=True):
    """A rule in force and how many items of the catalogue it keeps out."""

    rule: Rule
    items: int


class Part(Struct, frozen=True):
    """A part of a score: an item of the history, a field, or two fields that meet."""

    name: str
    beside: str
    """The other field; "" where there is none."""
    contribution: float


class WhyItem(ItemName, frozen=True):
    """What makes up the score of one item."""

    stage: Literal["last", "retriever"] | None
    """Whose score it is; null where no stage gives reasons."""
    score: float | None
    """The sum of all parts."""
    parts: list[Part]
    """The largest, by their size."""
    others: int
    """Parts that are not named."""
    rest: float
    """Their sum."""
    said: str


class InspectAnswer(Struct, frozen=True, kw_only=True):
    """One answer, taken apart.  The list is the one that ``POST /v1/recommend`` gives to the same body."""

    request_id: str
    took_ms: float = 0.0
    role: Role
    version: str
    model: str
    answered_by: AnsweredBy
    known: bool
    """Whether the query names a user of whom train has events."""
    way: Literal["plan", "precise"]
    """How the list was made: compiled, or as when the model was evaluated."""
    as_precise: bool
    """Whether the precise way gives the same items in the same order."""
    items: list[Item]
    stages: list[StageTime]
    """Of the list."""
    precise_stages: list[StageTime]
    """Of the precise way, from which candidates, rules and reasons are."""
    history: list[ItemName]
    """What the answer goes by, newest first."""
    history_length: int
    candidates: list[Candidate]
    """By first rank."""
    n_candidates: int
    kept_out: list[KeptOutItem]
    rules: list[RuleCount]
    why: list[WhyItem]
    degraded: list[str] = field(default_factory=list)


async def admin_inspect(service: Service, exchange: Exchange, message: InspectRequest) -> InspectAnswer:
    """The list of one query, by one version, and what led to it: candidates, rules, reasons, milliseconds."""
    slot, options = control_of(service).slot(message.role), options_of(message)
    price = slot.answering.prices.lists(message.queries, replace(options, precise=True))
    look = Look(
        partial(_inspected, exchange.request_id, message, options),
        price * (TIMES + len(message.explain)),
        message.queries,
    )
    found, missing = await service.examine(slot, look, exchange)
    answer: InspectAnswer = found
    return structs.replace(answer, took_ms=exchange.took_ms, degraded=missing)


def _inspected(
    request_id: str, message: InspectRequest, options: RecommendOptions, answering: Answering
) -> InspectAnswer:
    """In the lane of large jobs."""
    query, system = message.queries[0], answering.system
    times: dict[str, float] = defaultdict(float)
    live = None
    if answering.visitors is not None and planned(system, options):

        def told(stage: str, seconds: float) -> None:
            times[stage] += seconds

        with listening(told):
            live = answering.found([query], [options])
    found = inspect(system, answering.raw_queries([query]), options, answering.recent, message.explain)
    ids, scores = found.items.tolist(), found.scores.tolist()
    if live is not None:
        real = live.items[0] > 0
        ids, scores = live.items[0][real].tolist(), live.scores[0][real].tolist()
    names = [answering.name(item) for item in ids]
    past = found.history.tolist()
    return InspectAnswer(
        request_id=request_id,
        role=message.role,
        version=answering.version,
        model=system.name,
        answered_by=found.by if live is None else live.by[0],
        known=found.known,
        way="precise" if live is None else "plan",
        as_precise=ids == found.items.tolist(),
        items=[Item(raw, scores[at], at + 1, title) for at, (raw, title) in enumerate(names)],
        stages=_times(found.seconds if live is None else times),
        precise_stages=_times(found.seconds),
        history=[ItemName(*answering.name(item)) for item in past[: -HISTORY - 1 : -1]],
        history_length=len(past),
        candidates=_candidates(answering, found, ids),
        n_candidates=len(found.stages[0].items) if found.stages else 0,
        kept_out=[_kept_out(answering, one) for one in found.kept_out],
        rules=[RuleCount(rule, count) for rule, count in found.rules.items()],
        why=[_why(answering, one) for one in found.why],
    )


def _times(seconds: Mapping[str, float]) -> list[StageTime]:
    return [StageTime(stage, round(took * 1000, 3)) for stage, took in seconds.items()]


def _candidates(answering: Answering, found: Inspection, listed: list[int]) -> list[Candidate]:
    """The first stage's candidates with their places in the later stages."""
    if not found.stages:
        return []
    first = found.stages[0]
    places = {item: place for place, item in enumerate(listed, 1)}
    seconds: dict[int, tuple[int | None, float | None]] = {}
    for stage in found.stages:
        if stage.name == "rank":
            pairs = enumerate(zip(stage.items.tolist(), stage.scores.tolist(), strict=True), 1)
            seconds = {item: (rank, score) for rank, (item, score) in pairs}
    candidates = []
    for rank, (item, score) in enumerate(zip(first.items.tolist(), first.scores.tolist(), strict=True), 1):
        if rank <= CANDIDATES or item in places:
            raw, title = answering.name(item)
            by = dict(found.sources.get(item, {}))
            second_rank, second_score = seconds.get(item, (None, None))
            candidates.append(Candidate(raw, title, rank, score, second_rank, second_score, places.get(item), by))
    return candidates


def _kept_out(answering: Answering, one: KeptOut) -> KeptOutItem:
    return KeptOutItem(*answering.name(one.item), one.rank, one.score, list(one.rules))


def _why(answering: Answering, why: Why) -> WhyItem:
    name = answering.name(why.item)
    if why.parts is None:
        return WhyItem(*name, why.stage, None, [], 0, 0.0, why.said)
    rows = sorted(why.parts.rows(), key=lambda row: -abs(row[2]))
    parts = [_part(why.parts.columns, row) for row in rows]
    total, shown = sum(part.contribution for part in parts), parts[:PARTS]
    rest = sum(part.contribution for part in parts[PARTS:])
    return WhyItem(*name, why.stage, total, shown, len(parts) - len(shown), rest, why.said)


def _part(columns: list[str], row: tuple[Any, ...]) -> Part:
    """Of a row by the history (id, title), by fused sources (source, rank) or by fields (field, the other), and its
    contribution.
    """
    if "title" in columns:
        return Part(row[1], "", row[2])
    if "rank" in columns:
        return Part(row[0] if row[1] is None else f"{row[0]}, rank {row[1]}", "", row[2])
    return Part(row[0], row[1] or "", row[2])


ENDPOINT = Endpoint(
    "POST",
    "/admin/inspect",
    admin_inspect,
    takes=InspectRequest,
    answers=InspectAnswer,
    scope="admin",
    codes=(*COMPUTING, "unanswerable", "conflict"),
    notes=f"{NOTES}  Refused, too: an item in explain that the bundle does not know.",
    example=InspectRequest(queries=[Query(user_id="7")], k=5),
)
