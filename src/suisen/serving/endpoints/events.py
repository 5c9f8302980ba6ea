"""``POST /v1/events``."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from msgspec import Meta, Struct

from suisen.recommending.queries import MAX_ITEMS
from suisen.serving.contract import Endpoint
from suisen.serving.event_log import LoggedEvent, as_text
from suisen.serving.exchange import Exchange
from suisen.serving.messages import EPOCH, Message, Text, Whole, Zoned
from suisen.serving.problems import Refusal
from suisen.serving.service import Service

EVENTS = 1_000
"""Most events of one request."""
AHEAD = timedelta(days=1)
"""Clocks may be this far ahead; a log with events of the future could not be split by time."""
LoggedText = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"\S")]
"""Not blank: the log would be refused when it is read back."""
LoggedId = LoggedText | Whole


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


class EventsRequest(Message, frozen=True):
    """``POST /v1/events``."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=EVENTS)]


class EventsAnswer(Struct, frozen=True):
    """All events of the request are in the log, or none is."""

    request_id: str
    accepted: int
    unknown_items: int
    """Accepted events whose item the bundle does not know: new in the catalogue, or misspelt."""


async def events(service: Service, exchange: Exchange, message: EventsRequest) -> EventsAnswer:
    """Takes events into the log, all of a request or none, and counts them in answers from now on.

    Whatever its name, an event says that its user took the item, or its session where it names no user, as it will when
    a model learns from the log.
    """
    now = datetime.now(UTC)
    rows = [_logged(place, event, now) for place, event in enumerate(message.events)]
    accepted = await service.journal.take(rows)
    unknown_items = service.loaded().took(rows)
    service.telemetry.unknown_items.inc(unknown_items)
    return EventsAnswer(exchange.request_id, accepted, unknown_items)


def _logged(place: int, event: Event, now: datetime) -> LoggedEvent:
    """The line of an event.  Refuses one without user and session, and a time that no log may hold."""
    if event.user_id is None and event.session_id is None:
        raise Refusal("invalid_value", f"events[{place}] names neither user_id nor session_id; give one of them")
    time = now if event.time is None else event.time
    if not EPOCH <= time <= now + AHEAD:
        raise Refusal(
            "invalid_value",
            f"events[{place}].time = {time.isoformat()} must be from 1970 to now; leave it out for the time of arrival",
        )
    return LoggedEvent(
        user_id=as_text(event.user_id),
        session_id=as_text(event.session_id),
        item_id=str(event.item_id),
        event=event.event,
        time=time.astimezone(UTC),
        request_id=event.request_id,
        position=event.position,
    )


ENDPOINT = Endpoint(
    "POST",
    "/v1/events",
    events,
    takes=EventsRequest,
    answers=EventsAnswer,
    status=202,
    codes=("overloaded", "log_unavailable"),
    example=EventsRequest([Event("3", "click", user_id="7")]),
)
