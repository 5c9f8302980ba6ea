"""Events joined to the lists that they answer: a log to learn from, with positions, arms and propensities.

    events       a row per event, with the columns of the list that it answers where it answers one
    impressions  a row per item that was shown, with the events that answer it; label 1 where there is one

An event answers the list that its ``request_id`` names, where the item stands in that list.  One request may have had
several lists (a batch): of those, the one of the event's user or session.  A list of another user is never answered.

The same event is counted once: by its id; without one, as older servers wrote, by who, what, which item and when.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import polars as pl

Rows = Literal["events", "impressions"]
EVENT_COLUMNS = (
    "event_id", "user_id", "session_id", "item_id", "event", "time", "value", "price", "quantity", "request_id",
    "shown", "position", "score", "arm", "propensity", "version", "answered_by", "shown_at",
)  # fmt: skip
IMPRESSION_COLUMNS = (
    "request_id", "user_id", "session_id", "item_id", "time", "position", "score", "arm", "propensity", "version",
    "answered_by", "label", "events", "event_id", "event", "answered_at", "value", "price", "quantity",
)  # fmt: skip
WITHOUT_ID = ("user_id", "session_id", "item_id", "event", "time")
"""What tells two events without ids apart."""
LIST = ("request_id", "time", "version", "user_id", "session_id")
"""What tells two lists apart, with their items."""


@dataclass(frozen=True)
class Made:
    """A training log, and what cannot be decided yet."""

    rows: pl.DataFrame
    events: pl.DataFrame
    """Events whose list may still come, or may still be given more events."""
    shown: pl.DataFrame
    """Lists that may still be answered."""
    notes: list[str]


def key() -> pl.Expr:
    """What names an event: its id, else who, what, which item and when."""
    parts = [pl.col(name).cast(pl.String).fill_null("\0") for name in WITHOUT_ID]
    return pl.coalesce(pl.concat_str([pl.lit("id"), pl.col("event_id")]), pl.concat_str(parts, separator="\x1f"))


def distinct(events: pl.DataFrame) -> pl.DataFrame:
    """Each event once, the first of its kind."""
    return events.unique(subset=[key().alias("_key")], keep="first", maintain_order=True)


def distinct_lists(shown: pl.DataFrame) -> pl.DataFrame:
    """Each list once."""
    keyed = shown.with_columns(pl.col("item_id").list.join("\x1f").alias("_items"))
    return keyed.unique(subset=[*LIST, "_items"], keep="first", maintain_order=True).drop("_items")


def join(
    events: pl.DataFrame,
    shown: pl.DataFrame,
    rows: Rows = "events",
    labels: Sequence[str] = (),
    closed: datetime | None = None,
) -> Made:
    """The training log of distinct events and lists.

    ``labels``: types of events that make label 1; all where there are none.  ``closed``: lists shown before it are
    answered by no later event, and what is newer waits; None: nothing waits.
    """
    events, shown = events.with_row_index("_event"), shown.with_row_index("_list")
    items = shown.explode("item_id", "position", "score", "propensity").filter(pl.col("item_id").is_not_null())
    items = items.with_row_index("_item")
    pairs = _pairs(events, items)
    joined = events.join(pairs, on="_event", how="left")
    waiting, open_lists = _waiting(joined, shown, rows, closed)
    notes = _notes(joined.filter(~waiting), shown, labels)
    if rows == "events":
        done = joined.filter(~waiting)
        made = done.join(_as_shown(items), on="_item", how="left").with_columns(
            shown=pl.col("_item").is_not_null(), position=pl.coalesce("position_shown", "position")
        )
        made = made.select(EVENT_COLUMNS)
    else:
        closed_items = items.filter(~pl.col("_list").is_in(open_lists["_list"].implode()))
        made = _labelled(closed_items, joined.filter(pl.col("_item").is_not_null()), labels)
    return Made(made, events.filter(waiting).drop("_event"), open_lists.drop("_list"), notes)


def _pairs(events: pl.DataFrame, items: pl.DataFrame) -> pl.DataFrame:
    """(_event, _item, _list) of each event that answers a shown item; the best of several lists of one request."""
    told = events.filter(pl.col("request_id").is_not_null())
    both = told.join(
        items.select("request_id", "item_id", "user_id", "session_id", "_item", "_list", shown_at="time"),
        on=["request_id", "item_id"],
        suffix="_shown",
    )
    same_user = pl.col("user_id") == pl.col("user_id_shown")
    same_session = pl.col("session_id") == pl.col("session_id_shown")
    rank = 2 * same_user.fill_null(False).cast(pl.Int8) + same_session.fill_null(False).cast(pl.Int8)
    fits = both.filter(same_user.fill_null(True)).with_columns(_rank=rank)
    best = fits.sort("_event", -pl.col("_rank"), "_item").unique("_event", keep="first", maintain_order=True)
    return best.select("_event", "_item", "_list", early=pl.col("time") < pl.col("shown_at"))


def _as_shown(items: pl.DataFrame) -> pl.DataFrame:
    kept = items.select("_item", "position", "score", "arm", "propensity", "version", "answered_by", shown_at="time")
    return kept.rename({"position": "position_shown"})


def _waiting(
    joined: pl.DataFrame, shown: pl.DataFrame, rows: Rows, closed: datetime | None
) -> tuple[pl.Series, pl.DataFrame]:
    """Which events wait, and the lists that do."""
    if closed is None:
        return pl.repeat(False, joined.height, dtype=pl.Boolean, eager=True), shown.clear()
    open_lists = shown.filter(pl.col("time") >= closed)
    answered = pl.col("_list").is_in(open_lists["_list"].implode()).fill_null(False) & (rows == "impressions")
    unmet = pl.col("_list").is_null() & pl.col("request_id").is_not_null() & (pl.col("time") >= closed)
    return joined.select((answered | unmet).alias("waits")).to_series(), open_lists


def _labelled(items: pl.DataFrame, answers: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    """A row per shown item.  Of several events on one the first that counts for the label is told, else the first."""
    counts = pl.col("event").is_in(list(labels)) if labels else pl.lit(True)
    first = (
        answers.with_columns(counts.alias("_counts"))
        .sort("_item", ~pl.col("_counts"), "time", "_event")
        .group_by("_item", maintain_order=True)
        .agg(
            pl.first("_counts", "event_id", "event", "value", "price", "quantity"),
            pl.first("time").alias("answered_at"),
            pl.len().cast(pl.Int64).alias("events"),
        )
    )
    label = pl.col("_counts").fill_null(False).cast(pl.Int8)
    made = items.join(first, on="_item", how="left").sort("_item")
    return made.with_columns(label=label, events=pl.col("events").fill_null(0)).select(IMPRESSION_COLUMNS)


def _notes(joined: pl.DataFrame, shown: pl.DataFrame, labels: Sequence[str]) -> list[str]:
    """How many events answer a list, and why the others do not."""
    told, met = pl.col("request_id").is_not_null(), pl.col("_item").is_not_null()
    known = pl.col("request_id").is_in(shown["request_id"].implode())
    counts = joined.select(
        met.sum().alias("answer an item of a list"),
        (~told).sum().alias("name no request"),
        (told & ~known).sum().alias("name a request whose list is not there"),
        (told & known & ~met).sum().alias("name an item that the list did not show, or another user's list"),
        (pl.col("early").fill_null(False)).sum().alias("are earlier than the list that they answer"),
        (met.sum() - pl.col("_item").drop_nulls().n_unique()).alias("answer an item that another event answered"),
    )
    said = [
        f"{count:,} of {joined.height:,} events {what}" for what, count in counts.row(0, named=True).items() if count
    ]
    none = set(labels) - set(joined["event"].unique())
    return [*said, *(f"no event is of the type {name!r} (--label)" for name in sorted(none))]
