"""``POST /v1/recommend/batch``: the lists of many queries, for mailings and tests."""

from typing import Annotated

from msgspec import Meta

from suisen.serving.answering import QUICK_QUERIES, Recommend, check_items, degraded
from suisen.serving.contract import Endpoint
from suisen.serving.endpoints.recommend import CODES, NOTES, RecommendAnswer, RecommendRequest, counted, options_of
from suisen.serving.exchange import Exchange
from suisen.serving.messages import Answer, Query
from suisen.serving.service import LARGE_UNITS, Service
from suisen.serving.settings import BATCHED

QUERIES = 10_000
"""Most queries of one request."""


class BatchRequest(RecommendRequest, frozen=True, kw_only=True):
    """``POST /v1/recommend/batch``."""

    queries: Annotated[list[Query], Meta(min_length=1, max_length=QUERIES)]


async def recommend_batch(service: Service, exchange: Exchange, message: BatchRequest) -> RecommendAnswer:
    """Lists of many queries, a part after the other, so that single requests are answered between the parts.

    Each part has the time that a request has, and costs about as much as a batch of the model may.  A part that is
    refused refuses the request.
    """
    options = options_of(message)
    check_items(len(message.queries), options.k)
    answers: list[Answer] = []
    missing: list[str] = []
    queries = message.queries
    most = service.settings.max_price * BATCHED
    each = exchange.slot.answering.price(Recommend(queries, options), most) / len(queries)
    size = max(1, min(QUICK_QUERIES, int(LARGE_UNITS / each)))
    for first in range(0, len(queries), size):
        part = Recommend(queries[first : first + size], options, first, large=True)
        found = await service.compute(exchange.slot, part, exchange)
        answers += counted(service, exchange, part.queries, found)
        missing = missing or degraded(found)
    return RecommendAnswer(exchange.request_id, exchange.slot.version, exchange.took_ms, answers, missing)


ENDPOINT = Endpoint(
    "POST",
    "/v1/recommend/batch",
    recommend_batch,
    takes=BatchRequest,
    answers=RecommendAnswer,
    codes=CODES,
    notes=NOTES,
    example=BatchRequest(queries=[Query(user_id="7"), Query(user_id="8")], k=5),
)
