"""Reviews and ratings: Amazon's 5-core of 2014, Steam, Book-Crossing."""

import polars as pl

from suisen.data.json_files import json_lines
from suisen.data.log import Col
from suisen.data.raw import FileOptions
from suisen.data.sources.contract import Files, Layout, Source, Tables
from suisen.data.sources.published import published, sample_of
from suisen.data.sources.text import MICROSECONDS, headed

SAMPLE = sample_of("amazon")


def _amazon(name: str, category: str) -> Source:
    """Reviews with the metadata of their products, or alone."""
    reviews, meta = f"reviews_{category}_5.json", f"meta_{category}.json"

    def read(files: Files) -> Tables:
        rows = json_lines(reviews, files(reviews), FileOptions()).frame
        time = (pl.col("unixReviewTime").cast(pl.Int64) * MICROSECONDS).alias(Col.TIME)
        return Tables(rows.select(time, user="reviewerID", item="asin", rating="overall"))

    def read_both(files: Files) -> Tables:
        events = read(files).events
        rows = json_lines(meta, files(meta), FileOptions()).frame
        features = [name for name in ("title", "brand", "price", "categories") if name in rows.columns]
        items = rows.select(pl.col("asin").alias(Col.ITEM), *features)
        items = items.unique(Col.ITEM, keep="first", maintain_order=True)
        return Tables(events, items=items.filter(pl.col(Col.ITEM).is_in(events[Col.ITEM].unique().implode())))

    alone = {reviews: SAMPLE["reviews.json"]}
    return published(name, read_both, Layout(alone, read), sample={**alone, meta: SAMPLE["meta.json"]})


def _steam(files: Files) -> Tables:
    """steam_reviews.json.gz: Python's literals; the user is the name that wrote, the time is a day.

    Only three fields are looked for in each line: reading its literals whole takes minutes.
    """
    lines = pl.Series("line", files("steam_reviews.json").decode().splitlines(), dtype=pl.String).to_frame()
    lines = lines.filter(pl.col("line").str.strip_chars() != "")
    quoted = r"""'username': u?(?:'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)")"""
    user = pl.coalesce(pl.col("line").str.extract(quoted, 1), pl.col("line").str.extract(quoted, 2))
    day = pl.col("line").str.extract(r"'date': u?'(\d{4}-\d{2}-\d{2})'").str.to_date("%Y-%m-%d")
    item = pl.col("line").str.extract(r"'product_id': u?'(\d+)'").cast(pl.Int64)
    time = day.cast(pl.Datetime("us")).cast(pl.Int64)
    user = user.str.replace_all(r"\\(['\"])", "$1")
    return Tables(lines.select(user.alias(Col.USER), item.alias(Col.ITEM), time.alias(Col.TIME)))


def _book_crossing(files: Files) -> Tables:
    """Three tables (semicolons, quotes, backslashes before quotes, Latin-1); a rating of 0 is an implicit one."""
    rating = {"User-ID": "user", "ISBN": "item", "Book-Rating": "rating"}
    ratings = _books(files, "BX-Book-Ratings.csv", rating).cast({"user": pl.Int64, "rating": pl.Float64})
    users = _books(files, "BX-Users.csv", {"User-ID": "user", "Location": "location", "Age": "age"})
    book = {"ISBN": "item", "Book-Title": "title", "Book-Author": "author", "Year-Of-Publication": "year"}
    items = _books(files, "BX-Books.csv", {**book, "Publisher": "publisher"})
    items = items.unique("item", keep="first", maintain_order=True)
    country = pl.col("location").str.split(",").list.last().str.strip_chars().alias("country")
    users = users.select(pl.col("user").cast(pl.Int64), country, pl.col("age").cast(pl.Int64, strict=False))
    items = items.with_columns(pl.col("year").cast(pl.Int64, strict=False))
    return Tables(ratings, users, items, notes=("ratings of 0 are implicit ones",))


def _books(files: Files, name: str, columns: dict[str, str]) -> pl.DataFrame:
    text = files(name).decode("latin-1").replace("\\\\", "\\").replace('\\"', '""')
    return headed(text.encode(), ";", columns, null_values=["NULL"])


REVIEWS = (
    _amazon("amazon-beauty", "Beauty"),
    _amazon("amazon-sports", "Sports_and_Outdoors"),
    _amazon("amazon-toys", "Toys_and_Games"),
    _amazon("amazon-games", "Video_Games"),
    published("steam", _steam),
    published("book-crossing", _book_crossing),
)
