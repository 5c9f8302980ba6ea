"""Logs of check-ins, clicks, plays, purchases and news."""

from typing import Any

import polars as pl

from suisen.data.layouts.nested import mind
from suisen.data.layouts.sequences import sequences
from suisen.data.log import Col
from suisen.data.raw import FileOptions
from suisen.data.sources.contract import Files, Tables
from suisen.data.sources.published import published
from suisen.data.sources.text import MICROSECONDS, headed, table

CLICKS = {"session": pl.Int64, "time": pl.String, "item": pl.Int64, "category": pl.String}
VIEWS = {"sessionId": "session", "userId": "user", "itemId": "item", "timeframe": "ms", "eventdate": "day"}
PLAYS, PROFILE = "userid-timestamp-artid-artname-traid-traname.tsv", "userid-profile.tsv"
ARTICLE = {
    "prod_name": "title", "product_type_name": "product_type", "product_group_name": "product_group",
    "graphical_appearance_name": "appearance", "colour_group_name": "colour", "department_name": "department",
    "index_name": "index", "section_name": "section", "garment_group_name": "garment_group",
}  # fmt: skip
CUSTOMER = {"club_member_status": "club", "fashion_news_frequency": "news", "age": "age"}
PURCHASE = {
    "t_dat": "time", "customer_id": "user", "article_id": "item", "price": "price", "sales_channel_id": "channel",
}  # fmt: skip


def _graph(files: Files) -> Tables:
    """train.txt and test.txt of NGCF and LightGCN, ``user item item …``: a line is a set; there is no valid part."""
    parts = [sequences(name, files(name), FileOptions()).frame.cast(pl.Int64) for name in ("train.txt", "test.txt")]
    if not all(part.height for part in parts):
        raise ValueError("a part holds no events")
    return Tables(pl.concat(parts), parts=(parts[0].height, parts[0].height))


def _yoochoose(files: Files) -> Tables:
    """yoochoose-clicks.dat: session, time (ISO 8601), item, category (S: special offer; 0: none; 1-12; a brand)."""
    clicks = table(files("yoochoose-clicks.dat"), ",", CLICKS)
    time = pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%S%.fZ", time_unit="us").cast(pl.Int64)
    nobody = pl.lit(None, pl.Int64).alias(Col.USER)
    return Tables(clicks.select(nobody, "item", time.alias(Col.TIME), "session", "category"))


def _diginetica(files: Files) -> Tables:
    """train-item-views.csv (semicolons): the time is the day plus the milliseconds since the session's begin."""
    views = headed(files("train-item-views.csv"), ";", VIEWS, null_values=["NA", ""])
    number: dict[Any, Any] = dict.fromkeys(("session", "user", "item", "ms"), pl.Int64)
    day = pl.col("day").str.to_date("%Y-%m-%d").cast(pl.Datetime("us")).cast(pl.Int64)
    views = views.cast(number).with_columns((day + pl.col("ms") * (MICROSECONDS // 1000)).alias(Col.TIME))
    note = "a session's clock is that of its day plus the milliseconds since it began"
    return Tables(views.select("user", "item", Col.TIME, "session"), notes=(note,))


def _lastfm_1k(files: Files) -> Tables:
    """A play per line; the item is the artist: its MusicBrainz id, or its name where it has none."""
    names = ("user", "time", "artist_id", "artist", "track_id", "track")
    plays = table(files(PLAYS), "\t", dict.fromkeys(names, pl.String))
    time = pl.col("time").str.to_datetime("%Y-%m-%dT%H:%M:%SZ", time_unit="us").cast(pl.Int64)
    known = pl.when(pl.col("artist_id") != "").then("artist_id")
    plays = plays.select("user", pl.coalesce(known, "artist").alias(Col.ITEM), time.alias(Col.TIME), "artist")
    items = plays.select(Col.ITEM, "artist").unique(Col.ITEM, keep="first", maintain_order=True)
    profile = {"#id": "user", "gender": "gender", "age": "age", "country": "country"}
    users = headed(files(PROFILE), "\t", profile, quote_char=None).cast({"age": pl.Int64})
    return Tables(plays.drop("artist"), users, items, notes=("items are artists; what is played is a track of theirs",))


def _hetrec(files: Files) -> Tables:
    """user_artists.dat and artists.dat (tabs): how often a user listened to an artist, without times."""
    plays = headed(files("user_artists.dat"), "\t", {"userID": "user", "artistID": "item", "weight": "weight"})
    artists = headed(files("artists.dat"), "\t", {"id": "item", "name": "artist"}, quote_char=None)
    events = plays.cast({"user": pl.Int64, "item": pl.Int64, "weight": pl.Float64})
    return Tables(events, items=artists.cast({"item": pl.Int64}), notes=("no times; weights are plays",))


def _hm(files: Files) -> Tables:
    """transactions_train.csv, articles.csv, customers.csv; a purchase's time is its day."""
    events = headed(files("transactions_train.csv"), ",", PURCHASE)
    time = pl.col("time").str.to_date("%Y-%m-%d").cast(pl.Datetime("us")).cast(pl.Int64)
    events = events.select("user", "item", time, pl.col("price").cast(pl.Float64), "channel")
    users = headed(files("customers.csv"), ",", {"customer_id": "user", **CUSTOMER})
    items = headed(files("articles.csv"), ",", {"article_id": "item", **ARTICLE})
    return Tables(events, users.cast({"age": pl.Int64}), items)


def _mind(files: Files) -> Tables:
    """behaviors.tsv and news.tsv; the news that were shown and not clicked have label 0."""
    raw = mind("behaviors.tsv", files("behaviors.tsv"), FileOptions())
    if raw.malformed:
        raise ValueError(raw.malformed[0].first)
    events = raw.frame.select("user", "item", pl.col("time").cast(pl.Int64), "label", session="impression")
    names = ("item", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
    news = table(files("news.tsv"), "\t", dict.fromkeys(names, pl.String))
    items = news.select("item", "category", "subcategory", "title").unique("item", keep="first", maintain_order=True)
    return Tables(events, items=items, notes=tuple(note.partition(": ")[2] for note in raw.notes))


LOGS = (
    *(published(name, _graph) for name in ("gowalla", "yelp2018", "amazon-book")),
    published("yoochoose", _yoochoose),
    published("diginetica", _diginetica),
    published("lastfm-1k", _lastfm_1k),
    published("hetrec-lastfm", _hetrec),
    published("hm", _hm),
    published("mind", _mind),
)
