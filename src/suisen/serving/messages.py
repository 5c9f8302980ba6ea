"""Parts of messages that several endpoints share.  Validation and ``/openapi.json`` come from these lines.

Defaults and bounds of what a caller may choose are those of ``RecommendOptions``.
"""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from suisen.recommending.diversity import By
from suisen.recommending.queries import MAX_ITEMS, RecommendOptions, UnknownPolicy
from suisen.serving.problems import Refusal

HISTORY = 10_000
"""Most items of a history, of ``exclude`` and of ``among``."""
RANKED = 1_000
"""Most items that one query has ranked."""
DIVERSE = 500
"""Most items of a list with diversity."""
LIST_ITEMS = 100_000
"""Most items of all lists of an answer: about 8 MB of JSON."""
DEFAULTS = RecommendOptions()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
"""No time of a message is earlier."""
MICROSECOND = timedelta(microseconds=1)

Text = Annotated[str, Meta(min_length=1, max_length=256)]
Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Id = Text | Whole
"""A raw id as the event log had it; 7 and "7" name the same."""
Feature = str | Whole | float | bool | None | list[str | Whole | float]
Ids = Annotated[list[Id], Meta(max_length=HISTORY)]
K = Annotated[
    int,
    Meta(
        ge=1,
        le=MAX_ITEMS,
        description="Items per list; fewer come only where fewer are allowed.  Queries × k is at most "
        f"{LIST_ITEMS:,}; with diversity above 0, k is at most {DIVERSE}; and what the request costs is at most the "
        "server's max_price (code too_expensive).",
    ),
]
Zoned = Annotated[datetime, Meta(tz=True)]
Policy = Annotated[
    UnknownPolicy,
    Meta(description="What a query gets that the model cannot answer: a refusal, the popular list, or an empty list."),
]
Diversity = Annotated[
    float,
    Meta(
        ge=0,
        le=1,
        description=f"0: by score alone; towards 1: lists of unlike items, for which k is at most {DIVERSE}.",
    ),
]
DiversityBy = Annotated[By, Meta(description="mmr: maximal marginal relevance; dpp: a determinantal point process.")]

Precise = Annotated[
    bool,
    Meta(description="true: computed as when the model was evaluated; false: by the bundle's plan, where it has one."),
]


def microseconds(moment: datetime) -> int:
    """Since 1970 UTC, whole ones."""
    return (moment - EPOCH) // MICROSECOND


class Message(Struct, forbid_unknown_fields=True, omit_defaults=True, frozen=True):
    """Base of what callers send: a field that is unknown is refused."""


class Query(Message, frozen=True):
    """One query: a user, a session, a history, features, or several; an empty one gets the popular list."""

    user_id: Id | None = None
    session_id: Id | None = None
    """Whose events count that named no user: a guest's, or what a user did before they were known."""
    history: Ids | None = None
    """Items, oldest first; takes the place of the stored history."""
    user_features: dict[str, Feature] | None = None
    context: dict[str, Feature] | None = None
    """Context features."""


class Range(Message, frozen=True):
    """Numbers or dates between two ends, both included."""

    least: Whole | float | str | None = None
    most: Whole | float | str | None = None


Condition = str | Whole | float | list[str | Whole | float] | Range
"""What an attribute of an item must be."""


class RankQuery(Query, frozen=True, kw_only=True):
    """A query with the items that are to be ranked for it."""

    items: Annotated[list[Id], Meta(min_length=1, max_length=RANKED)]


class ListOptions(Message, frozen=True, kw_only=True):
    """The fields of ``RecommendOptions`` that fit into a query string.  Only ``unknown`` and ``precise`` have
    defaults of their own.
    """

    k: K = DEFAULTS.k
    exclude_seen: bool | None = DEFAULTS.exclude_seen
    unknown: Policy = "popular"
    diversity: Diversity = DEFAULTS.diversity
    diversity_by: DiversityBy = DEFAULTS.diversity_by
    precise: Precise = False

    def options(self, **others: Any) -> RecommendOptions:
        """These fields and others as the recommender takes them."""
        if self.diversity > 0 and self.k > DIVERSE:
            asked = f"k = {self.k:,} with diversity = {self.diversity:g}"
            raise Refusal("invalid_value", f"{asked} must be at most {DIVERSE}; ask for fewer items", reason="limit")
        mine = _plain(self.k, self.exclude_seen, self.unknown, self.diversity, self.diversity_by, self.precise)
        return replace(mine, **others) if others else mine


@lru_cache(1024)
def _plain(
    k: int, exclude_seen: bool | None, unknown: UnknownPolicy, diversity: float, by: By, precise: bool
) -> RecommendOptions:
    """Most requests want the same options: making them costs more than reading the request."""
    return RecommendOptions(
        k, exclude_seen=exclude_seen, unknown=unknown, diversity=diversity, diversity_by=by, precise=precise
    )


class Item(Struct, frozen=True, gc=False):
    """One place of a list."""

    item_id: str | int
    score: float
    rank: int
    """From 1."""
    title: str


class Answer(Struct, frozen=True, omit_defaults=True, gc=False):
    """The list of one query."""

    user_id: str | int | None
    answered_by: Literal["model", "popular", "nobody"]
    """``popular``: the model knows nothing of this query; ``nobody``: it was skipped, as ``unknown`` wants it."""
    items: list[Item]
    unmet: dict[str, str] = field(default_factory=dict)
    """Rules that this list does not meet, and why: ``relaxed``, a cap gave way, for too few other items were left;
    ``short``, an expression left fewer than k items; ``barred``, a pinned item may not be in this list."""


class Ranked(Answer, frozen=True, kw_only=True, gc=False):
    """The given items of one query, the best first."""

    left_out: list[str | int]
    """Those that the bundle does not know, or that the model cannot score."""
