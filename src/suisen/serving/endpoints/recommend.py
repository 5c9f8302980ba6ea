"""``POST /v1/recommend``."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any

from msgspec import Meta, Struct, field

from suisen.recommending.queries import RecommendOptions
from suisen.serving.answering import Recommend, Result, degraded
from suisen.serving.contract import COMPUTING, Endpoint, Pending
from suisen.serving.exchange import Exchange
from suisen.serving.messages import EPOCH, Answer, Condition, Ids, ListOptions, Query, Range, Zoned, microseconds
from suisen.serving.problems import Refusal
from suisen.serving.service import Service

QUERIES = 256
"""Most queries of one request."""
NOTES = (
    "Refused though the schema allows it: features and context that the bundle does not have (GET /v1/bundle lists "
    "them), and values that are not of their kind; conditions of where on columns and values that the item table does "
    "not have; a time before 1970; with unknown = error, a query that the model cannot answer (code unanswerable).  "
    "The message names the field, like queries[3].context.device."
)
CODES = (*COMPUTING, "unanswerable")
"""Problems of a handler that recommends."""


class RecommendRequest(ListOptions, frozen=True, kw_only=True):
    """``POST /v1/recommend``."""

    queries: Annotated[list[Query], Meta(min_length=1, max_length=QUERIES)]
    exclude: Ids = field(default_factory=list)
    """Items that no list may hold."""
    among: Ids | None = None
    """Only these items, where given."""
    where: dict[str, Condition] | None = None
    """Only items with these attributes, all of them: a value, a list of values (any of them), or a range."""
    at: Zoned | None = None
    """Time of the request; now where it is missing."""


class RecommendAnswer(Struct, frozen=True, omit_defaults=True):
    """Answers in the order of the queries."""

    request_id: str
    version: str
    """The bundle that answered."""
    took_ms: float
    answers: list[Answer]
    degraded: list[str] = field(default_factory=list)
    """``users`` where the answers were made without what servers that share users know of them."""


def recommend(service: Service, exchange: Exchange, message: RecommendRequest) -> Pending:
    """Lists for users, histories, features or nobody in particular."""
    return listed(service, exchange, message.queries, options_of(message))


def options_of(message: RecommendRequest) -> RecommendOptions:
    """What is asked for, as the recommender takes it."""
    others: dict[str, Any] = {}
    if message.exclude:
        others["exclude"] = tuple(message.exclude)
    if message.among is not None:
        others["among"] = tuple(message.among)
    if message.where:
        wanted = message.where.items()
        others["where"] = {k: (v.least, v.most) if isinstance(v, Range) else v for k, v in wanted}
    if message.at is not None:
        others["at"] = time_of(message.at)
    return message.options(**others)


def listed(service: Service, exchange: Exchange, queries: Sequence[Query], options: RecommendOptions) -> Pending:
    """The lists of some queries."""
    return Pending(Recommend(queries, options), partial(_answer, service, exchange, queries))


def _answer(service: Service, exchange: Exchange, queries: Sequence[Query], found: Result) -> RecommendAnswer:
    answers = counted(service, exchange, queries, found)
    return RecommendAnswer(exchange.request_id, exchange.slot.version, exchange.took_ms, answers, degraded(found))


def counted(service: Service, exchange: Exchange, queries: Sequence[Query], found: Result) -> list[Answer]:
    """The answers of a job, counted and, where that is wanted, logged as impressions."""
    answers = [answer for answer in found if isinstance(answer, Answer)]
    for answer in answers:
        service.answers(answer.answered_by).inc()
    service.journal.shown(exchange.request_id, exchange.slot.answering, queries, answers)
    return answers


def time_of(at: datetime | None) -> int | None:
    """Microseconds since 1970 UTC, None for now.  Refuses what is earlier."""
    if at is None:
        return None
    if at < EPOCH:
        raise Refusal("invalid_value", f"at = {at.isoformat()} must be 1970 or later; leave it out for now")
    return microseconds(at)


ENDPOINT = Endpoint(
    "POST",
    "/v1/recommend",
    recommend,
    takes=RecommendRequest,
    answers=RecommendAnswer,
    codes=CODES,
    notes=NOTES,
    example=RecommendRequest(queries=[Query(user_id="7"), Query(history=["3", "5"])], k=5),
)
