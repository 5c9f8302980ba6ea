"""What is said over HTTP: one Struct a message.  Validation and ``/openapi.json`` come from these lines."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from suisen.recommending.requests import MOST

QUERIES = 256
"""Most queries of one request."""
HISTORY = 10_000
"""Most items of a history, of ``exclude`` and of ``among``."""
LIST_ITEMS = 100_000
"""Most items of all lists of an answer together: about 8 MB of JSON."""
EVENTS = 1_000
"""Most events of one request."""

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Id = Text | Whole
"""A raw id as the event log had it; 7 and "7" name the same."""
LoggedText = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"\S")]
"""Not blank: the log would be refused when it is read back."""
LoggedId = LoggedText | Whole
Feature = str | Whole | float | bool | None | list[str | Whole | float]
Ids = Annotated[list[Id], Meta(max_length=HISTORY)]
K = Annotated[int, Meta(ge=1, le=MOST, description="Items a list; fewer come only where fewer are allowed.")]
Zoned = Annotated[datetime, Meta(tz=True)]
Policy = Annotated[
    Literal["error", "popular", "skip"],
    Meta(description="What a query gets that the model cannot answer: a refusal, the popular list, or an empty list."),
]
Diversity = Annotated[float, Meta(ge=0, le=1, description="0: by score alone; towards 1: lists of unlike items.")]


class Query(Struct, forbid_unknown_fields=True, frozen=True):
    """Who is asked for: a user, a history, features, or several of these; nothing at all asks for the popular list."""

    user_id: Id | None = None
    history: Ids | None = None
    """Items, oldest first; takes the place of the stored history."""
    user_features: dict[str, Feature] | None = None
    context: dict[str, Feature] | None = None
    """Features of the request."""


class RecommendRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """``POST /v1/recommend``."""

    queries: Annotated[list[Query], Meta(min_length=1, max_length=QUERIES)]
    k: K = 10
    exclude: Ids = []
    """Items that no list may hold."""
    among: Ids | None = None
    """Only these items, where given."""
    exclude_seen: bool = True
    unknown: Policy = "popular"
    diversity: Diversity = 0.0
    at: Zoned | None = None
    """Time of the request; now where it is missing."""


class RecommendParams(Struct, forbid_unknown_fields=True, frozen=True):
    """The query string of ``GET /v1/recommend/{user}``."""

    k: K = 10
    exclude_seen: bool = True
    unknown: Policy = "popular"
    diversity: Diversity = 0.0


class SimilarParams(Struct, forbid_unknown_fields=True, frozen=True):
    """The query string of ``GET /v1/similar/{item}``."""

    k: K = 10


class NoParams(Struct, forbid_unknown_fields=True, frozen=True):
    """A path without a query string."""


class Item(Struct, frozen=True):
    """One place of a list."""

    item_id: str | int
    score: float
    rank: int
    """From 1."""
    title: str


class Answer(Struct, frozen=True):
    """The list of one query."""

    user_id: str | int | None
    answered_by: Literal["model", "popular", "nobody"]
    """``popular``: the model knows nothing of this query; ``nobody``: it was skipped, as asked for."""
    items: list[Item]


class RecommendAnswer(Struct, frozen=True):
    """Answers in the order of the queries."""

    request_id: str
    version: str
    """The bundle that answered."""
    took_ms: float
    degraded: bool
    """True where a stage was left out to be in time."""
    answers: list[Answer]


class SimilarAnswer(Struct, frozen=True):
    """The items most alike, by cosine."""

    request_id: str
    version: str
    took_ms: float
    degraded: bool
    item_id: str | int
    items: list[Item]


class Event(Struct, forbid_unknown_fields=True, frozen=True):
    """Something that happened: a user or a session, an item, what was done."""

    item_id: LoggedId
    event: Annotated[LoggedText, Meta(examples=["view", "click", "purchase"])]
    user_id: LoggedId | None = None
    session_id: LoggedId | None = None
    time: Zoned | None = None
    """When it happened; the time of arrival where it is missing."""
    request_id: Text | None = None
    """Of the recommendation that it followed."""
    position: Annotated[int, Meta(ge=1, le=MOST)] | None = None
    """Rank in that recommendation, from 1."""


class EventsRequest(Struct, forbid_unknown_fields=True, frozen=True):
    """``POST /v1/events``."""

    events: Annotated[list[Event], Meta(min_length=1, max_length=EVENTS)]


class EventsAnswer(Struct, frozen=True):
    """All events of the request are in the log, or none is."""

    request_id: str
    accepted: int
    unknown_items: int
    """Accepted events whose item the bundle does not know: new in the catalogue, or misspelt."""


class Health(Struct, frozen=True):
    """State of the server."""

    status: Literal["alive", "loading", "ready", "draining", "failed"]
    version: str
