"""``GET /v1/similar/{item}``."""

from msgspec import Struct

from suisen.serving.answering import Similar
from suisen.serving.contract import COMPUTING, Endpoint
from suisen.serving.exchange import Exchange
from suisen.serving.messages import DEFAULTS, Item, K, Message
from suisen.serving.service import Service


class SimilarParams(Message, frozen=True):
    """The query string."""

    k: K = DEFAULTS.k


class SimilarAnswer(Struct, frozen=True):
    """The items most alike, by cosine."""

    request_id: str
    version: str
    took_ms: float
    item_id: str | int
    items: list[Item]


async def similar(service: Service, exchange: Exchange, message: SimilarParams) -> SimilarAnswer:
    """The items most alike to one."""
    item = exchange.id_in_path()
    found = await service.compute(Similar(item, message.k))
    items = [one for one in found if isinstance(one, Item)]
    return SimilarAnswer(exchange.request_id, service.version, exchange.took_ms, item, items)


ENDPOINT = Endpoint(
    "GET", "/v1/similar/{item}", similar, takes=SimilarParams, answers=SimilarAnswer, codes=(*COMPUTING, "unknown_item")
)
