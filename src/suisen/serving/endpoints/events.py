"""``POST /v1/events``."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct, field
from msgspec.structs import asdict

from suisen.recommending.queries import MAX_ITEMS
from suisen.recommending.store import Store
from suisen.serving.contract import Endpoint
from suisen.serving.event_log import LoggedEvent, as_text
from suisen.serving.exchange import Exchange
from suisen.serving.messages import EPOCH, Message, Text, Whole, Zoned
from suisen.serving.problems import Refusal
from suisen.serving.repeats import Sent, derived
from suisen.serving.service import Service

EVENTS = 1_000
"""Most events of one request."""
AHEAD = timedelta(days=1)
"""Clocks may be this far ahead; a log with events of the future could not be split by time."""
LoggedText = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"\S")]
"""Not blank: the log would be refused when it is read back."""
LoggedId = LoggedText | Whole
EventId = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9._:+/=-]+$(?!\n)")]
"""As a request's id; ``$`` alone would let a line's end through."""
MOST = 1e15
"""Largest value and price: a float holds every cent below it."""


class Event(Message, frozen=True):
    """Something that happened: a user or a session, an item, what was done."""

    item_id: LoggedId
    event: Annotated[LoggedText, Meta(examples=["view", "click", "purchase"])]
    user_id: LoggedId | None = None
    session_id: LoggedId | None = None
    time: Zoned | None = None
    """When it happened; the time of arrival where it is missing."""
    request_id: Text | None = None
    """Of the recommendation that it followed."""
    position: Annotated[int, Meta(ge=1, le=MAX_ITEMS)] | None = None
    """Rank in that recommendation, from 1."""
    event_id: EventId | None = None
    """Names this event, so that it is taken once however often it is sent."""
    value: Annotated[float, Meta(ge=-MOST, le=MOST)] | None = None
    """What it was worth: a rating, seconds watched, the revenue."""
    price: Annotated[float, Meta(ge=0, le=MOST)] | None = None
    """Of one piece."""
    quantity: Annotated[int, Meta(ge=0, le=10**9)] | None = None
    """Pieces."""


class EventsRequest(Message, frozen=True):
    """``POST /v1/events``."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=EVENTS)]


class EventsAnswer(Struct, frozen=True, omit_defaults=True):
    """All events of the request are in the log, or none is.  ``log.durable`` of ``GET /v1/bundle`` says where they are
    by now: with the operating system, on the disk, or in Kafka.
    """

    request_id: str
    accepted: int
    unknown_items: int
    """Accepted events whose item the bundle does not know: new in the catalogue, or misspelt."""
    repeats: int
    """Accepted events that had been taken before; they are neither logged nor counted again."""
    degraded: list[str] = field(default_factory=list)
    """``users`` where servers that share users with this one will hear of the events later."""


async def events(service: Service, exchange: Exchange, message: EventsRequest) -> EventsAnswer:
    """Takes events into the log, all of a request or none, and counts them in answers from now on.

    Whatever its name, an event says that its user took the item, or its session where it names no user, as it will when
    a model learns from the log.
    """
    now = datetime.now(UTC)
    store = exchange.slot.answering.system.store
    rows = _logged(message.events, store, now, _ids(exchange, len(message.events), service.journal.new_ids))
    unknown_items = int((store.items.dense([row.item_id for row in rows]) == 0).sum())
    taken = await service.journal.take(Sent(rows, [event.time is not None for event in message.events]))
    degraded: list[str] = []
    if taken.new:
        unknown, degraded = await service.took(taken.new)
        service.telemetry.unknown_items.inc(unknown)
    await service.journal.settled(taken)
    return EventsAnswer(exchange.request_id, len(rows), unknown_items, len(rows) - len(taken.new), degraded)


def _ids(exchange: Exchange, events: int, new: Iterator[str]) -> Iterator[str]:
    """Ids for events without one: those that the request's key gives, or new ones."""
    key = exchange.idempotency_key()
    return new if key is None else (derived(key, place, events) for place in range(events))


def _logged(events: Sequence[Event], store: Store, now: datetime, ids: Iterator[str]) -> list[LoggedEvent]:
    """The lines of events; ``ids``: for those that bring none."""
    users = store.users.texts([event.user_id for event in events])
    items = store.items.texts([event.item_id for event in events])
    rows = []
    for place, (event, user, item) in enumerate(zip(events, users, items, strict=True)):
        known = {"event_id": event.event_id or next(ids), "user_id": user, "item_id": item}
        more = {"session_id": as_text(event.session_id), "time": _time_of(place, event, now)}
        rows.append(LoggedEvent(**{**asdict(event), **known, **more}))
    return rows


def _time_of(place: int, event: Event, now: datetime) -> datetime:
    """When an event happened.  Refuses one without user and session, and a time that no log may hold."""
    if event.user_id is None and event.session_id is None:
        raise Refusal("invalid_value", f"events[{place}] names neither user_id nor session_id; give one of them")
    time = now if event.time is None else event.time
    if not EPOCH <= time <= now + AHEAD:
        raise Refusal(
            "invalid_value",
            f"events[{place}].time = {time.isoformat()} must be from 1970 to now; leave it out for the time of arrival",
        )
    return time.astimezone(UTC)


ENDPOINT = Endpoint(
    "POST",
    "/v1/events",
    events,
    takes=EventsRequest,
    answers=EventsAnswer,
    status=202,
    codes=("overloaded", "log_unavailable", "id_reused"),
    repeat_safe=True,
    notes="Refused though the schema allows it: an event that names neither user_id nor session_id; a time before "
    "1970, or more than a day ahead of the server's clock; an event_id or Idempotency-Key that was used for "
    "something else (code id_reused).",
    scope="events",
    example=EventsRequest([Event("3", "click", user_id="7")]),
)
