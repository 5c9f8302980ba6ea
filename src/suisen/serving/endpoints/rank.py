"""``POST /v1/rank``: items that are given, in the order of the last stage's scores."""

from typing import Annotated

from msgspec import Meta, Struct, field

from suisen.recommending.queries import RecommendOptions
from suisen.serving.answering import Rank, Result, degraded
from suisen.serving.contract import Endpoint, Pending
from suisen.serving.endpoints.recommend import CODES, NOTES, QUERIES, counted, time_of
from suisen.serving.exchange import Exchange
from suisen.serving.messages import LIST_ITEMS, Message, Policy, Ranked, RankQuery, Zoned
from suisen.serving.problems import Refusal
from suisen.serving.service import Service


class RankRequest(Message, frozen=True):
    """``POST /v1/rank``."""

    queries: Annotated[list[RankQuery], Meta(min_length=1, max_length=QUERIES)]
    unknown: Policy = "popular"
    at: Zoned | None = None
    """Time of the request; now where it is missing."""


class RankAnswer(Struct, frozen=True, omit_defaults=True):
    """Answers in the order of the queries."""

    request_id: str
    version: str
    """The bundle that answered."""
    took_ms: float
    answers: list[Ranked]
    degraded: list[str] = field(default_factory=list)
    """``users`` where the answers were made without what servers that share users know of them."""


def rank(service: Service, exchange: Exchange, message: RankRequest) -> Pending:
    """The items given with each query, the best first; what the user has seen is ranked too."""
    size = sum(len(query.items) for query in message.queries)
    if size > LIST_ITEMS:
        raise Refusal(
            "invalid_value", f"{size:,} items are more than {LIST_ITEMS:,}; give fewer in one request", reason="limit"
        )

    def answer(found: Result) -> RankAnswer:
        answers = [one for one in counted(service, exchange, message.queries, found) if isinstance(one, Ranked)]
        return RankAnswer(exchange.request_id, exchange.slot.version, exchange.took_ms, answers, degraded(found))

    return Pending(Rank(message.queries, RecommendOptions(unknown=message.unknown, at=time_of(message.at))), answer)


ENDPOINT = Endpoint(
    "POST",
    "/v1/rank",
    rank,
    takes=RankRequest,
    answers=RankAnswer,
    codes=CODES,
    notes=NOTES,
    example=RankRequest([RankQuery(user_id="7", items=["3", "5", "9"])]),
)
