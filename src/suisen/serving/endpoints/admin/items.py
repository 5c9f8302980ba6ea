"""``GET /admin/items``: items that a person looks for by title or id."""

from functools import partial
from typing import Annotated

from msgspec import Meta, Struct

from suisen.serving.answering import Answering, Look
from suisen.serving.board import Role
from suisen.serving.contract import COMPUTING, Endpoint
from suisen.serving.endpoints.admin.slots import control_of
from suisen.serving.exchange import Exchange
from suisen.serving.messages import Message, Text
from suisen.serving.service import Service

TITLE = 0.1
"""Units of price per title that is read."""


class ItemsParams(Message, frozen=True):
    """The query string."""

    q: Text
    """An id, or a part of a title; capitals do not matter."""
    limit: Annotated[int, Meta(ge=1, le=50)] = 10
    role: Role = "serving"
    """The version that is asked."""


class FoundItem(Struct, frozen=True):
    """An item that fits."""

    item_id: str | int
    title: str
    events: int
    """Of the item in train."""


class ItemsAnswer(Struct, frozen=True):
    """The item of that id, then titles that begin with the text, then those that hold it; each by events in train."""

    request_id: str
    version: str
    items: list[FoundItem]


async def admin_items(service: Service, exchange: Exchange, message: ItemsParams) -> ItemsAnswer:
    """Items by a part of their title, or by id."""
    slot = control_of(service).slot(message.role)
    look = Look(partial(_found, message), TITLE * len(slot.answering.system.store.items))
    items, _ = await service.examine(slot, look, exchange)
    return ItemsAnswer(exchange.request_id, slot.version, items)


def _found(message: ItemsParams, answering: Answering) -> list[FoundItem]:
    """In the lane of large jobs."""
    store = answering.system.store
    found = store.search(message.q, message.limit).tolist()
    return [FoundItem(*answering.name(item), int(store.item_counts[item])) for item in found]


ENDPOINT = Endpoint(
    "GET",
    "/admin/items",
    admin_items,
    takes=ItemsParams,
    answers=ItemsAnswer,
    scope="admin",
    codes=(*COMPUTING, "conflict"),
    example=ItemsParams(q="a"),
)
