"""Logs whose rows are lists: OTTO's sessions and MIND's impressions."""

from dataclasses import replace

import polars as pl

from suisen.data.clean import Fault
from suisen.data.delimited import read_delimited
from suisen.data.encodings import as_utf8
from suisen.data.json_files import json_lines
from suisen.data.raw import FileOptions, Raw
from suisen.errors import InputError

MIND = ("impression", "user", "time", "history", "impressions")
MIND_TIME = "%m/%d/%Y %I:%M:%S %p"


def otto(name: str, data: bytes, options: FileOptions) -> Raw:
    """JSON lines ``{"session": 1, "events": [{"aid": 7, "ts": 1661724000278, "type": "clicks"}, …]}``: a row per event.

    Each session is a guest's.  ``event="type"`` with ``event_weights`` weighs clicks, carts and orders.
    """
    raw = json_lines(name, data, options)
    columns = raw.frame.schema
    events = columns.get("events")
    if "session" not in columns or not isinstance(events, pl.List) or not isinstance(events.inner, pl.Struct):
        raise InputError(f"{name} has no sessions with a list of events; columns: {', '.join(columns)}; see format=")
    frame = raw.frame.select("session", "events", raw.places.alias("line"))
    empty = int((frame["events"].list.len().fill_null(0) == 0).sum())
    frame = frame.filter(pl.col("events").list.len() > 0).explode("events").unnest("events")
    lost = [each for each in ("aid", "ts") if each not in frame.columns]
    if lost:
        raise InputError(
            f"{name}: the events have no {' and no '.join(lost)}; they have {', '.join(frame.columns[1:-1])}"
        )
    notes = (*raw.notes, *((f"{name}: {empty:,} sessions without events",) if empty else ()))
    roles = {"user": None, "session": "session", "item": "aid", "time": "ts"}
    return replace(raw, frame=frame.drop("line"), places=frame["line"], notes=notes, roles=roles)


def mind(name: str, data: bytes, options: FileOptions) -> Raw:
    """``behaviors.tsv``: impression, user, time, history, and the news shown (``N1-0 N2-1``): a row per news shown.

    Its label says whether it was clicked; its session is the impression.  The history says what the user clicked
    before, without times: those rows stand in front, with label 1 and the time of the user's first impression.
    """
    frame, malformed = _behaviours(name, as_utf8(name, data, options.encoding))
    shown = frame.with_columns(pl.col("impressions").str.extract_all(r"\S+").alias("item")).explode("item")
    shown = shown.filter(pl.col("item").is_not_null())
    label = pl.col("item").str.extract(r"-([01])$").cast(pl.Int8).alias("label")
    shown = shown.select("line", "impression", "user", "time", label, pl.col("item").str.replace(r"-[01]$", ""))
    unlabelled = shown["label"].null_count()
    if unlabelled:
        raise InputError(f"{name}: {unlabelled:,} shown news have no -0 or -1 behind them; the test part has no labels")
    past = frame.group_by("user", maintain_order=True).agg(
        pl.col("line").first(), pl.col("time").min(), pl.col("history").drop_nulls().first()
    )
    past = past.with_columns(pl.col("history").str.extract_all(r"\S+").alias("item")).explode("item")
    past = past.filter(pl.col("item").is_not_null()).select(
        "line", pl.lit(None, pl.Int64).alias("impression"), "user", "time", pl.lit(1, pl.Int8).alias("label"), "item"
    )
    rows = pl.concat([past, shown])
    note = f"{name}: {past.height:,} clicks of the histories have no times: they stand at the user's first impression"
    roles = {"session": "impression", "label": "label", "user": "user", "item": "item", "time": "time"}
    return Raw(name, rows.drop("line"), rows["line"], "line", False, malformed, notes=(note,), roles=roles)


def _behaviours(name: str, data: bytes) -> tuple[pl.DataFrame, tuple[Fault, ...]]:
    """The five columns with their lines; lines of another width are faults."""
    text = read_delimited(name, "\t".join(MIND).encode() + b"\n" + data, "\t", "none")
    frame = text.frame.with_columns(
        (text.lines - 1).alias("line"),
        pl.col("impression").cast(pl.Int64, strict=False),
        pl.col("time").str.to_datetime(MIND_TIME, strict=False, time_unit="us"),
    )
    return frame, tuple(replace(fault, lines=fault.lines - 1) for fault in text.malformed)
