"""The raw log: events and tables with the caller's own ids, clean but not yet encoded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

import polars as pl

Kind = Literal["categorical", "numeric", "multi", "text"]
"""What a feature column holds.  ``multi``: several categories per row; ``text``: titles for people, which never reach a
model."""


class Col(StrEnum):
    """Column names of the log's events: the one place where they are written."""

    USER = "user"
    ITEM = "item"
    TIME = "time"
    LABEL = "label"
    WEIGHT = "weight"
    SESSION = "session"
    TARGET = "is_target"
    ROW = "row"


@dataclass(frozen=True)
class Log:
    """Clean events and tables with the caller's own ids: what reading yields and what splits cut."""

    events: pl.DataFrame
    """Columns of ``Col``: user (null: a guest) and item; where the source has them time (Int64, microseconds since 1970
    UTC), label (0 or 1), weight (> 0) and session; is_target (bool) where only some
    event types are asked for; row (the place in the source); then the context columns."""
    users: pl.DataFrame | None = None
    """Column ``user`` first, then features; one row per user."""
    items: pl.DataFrame | None = None
    """Column ``item`` first, then features and titles; one row per item, with events or without."""
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    """Declared kinds of feature columns; the others are inferred."""
    notes: tuple[str, ...] = ()
    """What reading dropped, merged or assumed, in words."""
    ordered: bool = False
    """Whether the rows of each user stand in the order in which they happened though they have no times, as the lines
    of a file of sequences do."""
    parts: tuple[int, int] | None = None
    """Where the log holds a split that somebody else made: the rows at which valid and test begin (none are valid
    where both are the same)."""
    targets: tuple[str, ...] = ()
    """The event types that valid and test ask for; none are named: every positive."""
    separator: str = "|"
    """Between the categories of one row, where a multi-valued column is text."""

    @property
    def context_columns(self) -> list[str]:
        """Names of the columns that describe the moment of the event (device, shelf, …)."""
        return [name for name in self.events.columns if name not in set(Col)]
