"""What the server answers, as the client gives it.  Fields that a newer server adds are passed over."""

from typing import Any

from msgspec import Struct, field


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
    answered_by: str
    """``model``; ``popular``: the model knows nothing of this query; ``nobody``: it was skipped."""
    items: list[Item]
    unmet: dict[str, str] = field(default_factory=dict)
    """Rules that the list does not meet: name → ``relaxed``, ``short`` or ``barred`` (docs/rules.md)."""


class Ranked(Answer, frozen=True):
    """The given items of one query, the best first."""

    left_out: list[str | int] = field(default_factory=list)
    """Those that the bundle does not know, or that the model cannot score."""


class Recommendations(Struct, frozen=True):
    """Lists in the order of the queries."""

    request_id: str
    """Give it with the events that the lists lead to."""
    version: str
    """The bundle that answered."""
    took_ms: float
    answers: list[Answer]
    degraded: list[str] = field(default_factory=list)
    """``users`` where the lists were made without what servers that share users know of them."""

    @property
    def items(self) -> list[Item]:
        """The list of the only query.  Raises ValueError where there are several."""
        (answer,) = self.answers
        return answer.items


class Ranking(Struct, frozen=True):
    """Given items, ranked, in the order of the queries."""

    request_id: str
    version: str
    took_ms: float
    answers: list[Ranked]
    degraded: list[str] = field(default_factory=list)


class SimilarItems(Struct, frozen=True):
    """The items most alike to one."""

    request_id: str
    version: str
    took_ms: float
    item_id: str | int
    items: list[Item]


class EventsTaken(Struct, frozen=True):
    """All events of a call are in the server's log."""

    request_id: str
    accepted: int
    unknown_items: int
    """Those whose item the bundle does not know."""
    repeats: int
    """Those that had been taken before."""
    degraded: list[str] = field(default_factory=list)


class Stage(Struct, frozen=True):
    """A model of the bundle."""

    name: str
    hyper: dict[str, Any]


class Source(Stage, frozen=True):
    """A model of the first stage, of which there may be several."""

    source: str
    quota: int


class Log(Struct, frozen=True):
    """What the server keeps of events: see ``GET /v1/bundle`` in docs/serving.md."""

    durable: str
    repeat_ids: int
    repeat_s: float
    impressions: bool


class Bundle(Struct, frozen=True):
    """What answers."""

    version: str
    retriever: Stage | None
    sources: list[Source]
    ranker: Stage | None
    candidates: int
    abilities: list[str]
    users: int
    items: int
    trained_users: int
    trained_items: int
    features: dict[str, list[str]]
    index_recall: float | None
    notes: list[str]
    plan: dict[str, Any] | None
    on_torch: str | None
    log: Log | None
    rules: dict[str, str] = field(default_factory=dict)
    """Name → kind of the rules of the last stage."""


class Health(Struct, frozen=True):
    """State of the server."""

    status: str
    version: str


class Problem(Struct, frozen=True):
    """Why a request was refused (RFC 9457)."""

    title: str
    status: int
    detail: str
    code: str
    request_id: str
