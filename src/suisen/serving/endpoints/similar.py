"""``GET /v1/similar/{item}``."""

from msgspec import Struct

from suisen.serving.answering import Result, Similar
from suisen.serving.contract import COMPUTING, Endpoint, Pending
from suisen.serving.exchange import Exchange
from suisen.serving.messages import DEFAULTS, Item, K, Message
from suisen.serving.service import Service


class SimilarParams(Message, frozen=True):
    """The query string."""

    k: K = DEFAULTS.k


class SimilarAnswer(Struct, frozen=True):
    """The items most alike, by what the model compares."""

    request_id: str
    version: str
    took_ms: float
    item_id: str | int
    items: list[Item]


def similar(service: Service, exchange: Exchange, message: SimilarParams) -> Pending:
    """The items most alike to one."""
    item = exchange.id_in_path()

    def answer(found: Result) -> SimilarAnswer:
        items = [one for one in found if isinstance(one, Item)]
        return SimilarAnswer(exchange.request_id, exchange.slot.version, exchange.took_ms, item, items)

    return Pending(Similar(item, message.k), answer)


ENDPOINT = Endpoint(
    "GET",
    "/v1/similar/{item}",
    similar,
    takes=SimilarParams,
    answers=SimilarAnswer,
    codes=(*COMPUTING, "unknown_item", "unanswerable"),
    notes="An item that the bundle does not know is 404, and a model that cannot tell which items are alike refuses "
    "all (code unanswerable).",
)
