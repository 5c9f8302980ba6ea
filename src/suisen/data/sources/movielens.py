"""MovieLens in its official layouts, and MovieLens-100K as RecBole keeps it.

Every rating is an event, in the order of the file (which breaks ties in time); the rating itself is not a feature,
because it is not known before the item was seen: ``positive_from=4`` makes a label of it.  User features are age,
gender, occupation and zip_code (100K, 1M); item features are title, year (from the title) and genres.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import polars as pl

from suisen.data.delimited import STAND_IN
from suisen.data.log import Col, Kind
from suisen.data.sources.contract import Files, Layout, Source, Tables
from suisen.data.sources.download import WebFile, WheelFile

SERVER = "https://files.grouplens.org/datasets/movielens/"
LICENCE = "GroupLens, University of Minnesota: research use; no redistribution, no commercial use without permission"
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
MICROSECONDS = 10**6


def _table(data: bytes, separator: str, columns: Mapping[str, Any], encoding: str = "utf-8") -> pl.DataFrame:
    """Text without a header and without quotes, of exactly these columns."""
    text = data if encoding == "utf-8" else data.decode(encoding).encode()
    if len(separator) > 1:
        text, separator = text.replace(separator.encode(), STAND_IN), STAND_IN.decode()
    frame = pl.read_csv(BytesIO(text), has_header=False, separator=separator, quote_char=None, schema=columns)
    if frame.height == 0 or frame[frame.columns[-1]].null_count() == frame.height:
        raise pl.exceptions.ShapeError(f"lines of {len(columns)} fields were expected")
    return frame


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
    ratings = _table(files("u.data"), "\t", RATINGS)
    user = {"user": pl.Int64, "age": pl.Int64, "gender": pl.String, "occupation": pl.String, "zip_code": pl.String}
    users = _table(files("u.user"), "|", user)
    head = {"item": pl.Int64, "title": pl.String, "released": pl.String, "video": pl.String, "url": pl.String}
    wide = _table(files("u.item"), "|", {**head, **dict.fromkeys(GENRES, pl.Int64)}, "latin-1")
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
    users = _table(files("users.dat"), "::", user, "latin-1").with_columns(occupation)
    order = ("user", "age", "gender", "occupation", "zip_code")
    ratings = _table(files("ratings.dat"), "::", RATINGS)
    return _tables(ratings, _movies_dat(files, "latin-1"), users.select(order))


def _movies_dat(files: Files, encoding: str) -> pl.DataFrame:
    movies = _table(files("movies.dat"), "::", MOVIES, encoding)
    return movies.with_columns(_genre_list(pl.col("genres")))


def _ml_10m(files: Files) -> Tables:
    """ratings.dat and movies.dat (``::``, UTF-8); nothing of the users."""
    return _tables(_table(files("ratings.dat"), "::", RATINGS), _movies_dat(files, "utf-8"))


def _ml_csv(files: Files) -> Tables:
    """ratings.csv and movies.csv (commas, quotes, UTF-8); nothing of the users."""
    ratings = pl.read_csv(BytesIO(files("ratings.csv")), has_header=False, skip_rows=1, schema=RATINGS)
    movies = pl.read_csv(BytesIO(files("movies.csv")), has_header=False, skip_rows=1, schema=MOVIES)
    return _tables(ratings, movies.with_columns(_genre_list(pl.col("genres"))))


U_LAYOUT = Layout(
    sample={
        "u.data": b"1\t10\t5\t881250949\n2\t10\t3\t881250950\n2\t20\t4\t881250951\n",
        "u.user": b"1|24|M|technician|85711\n2|53|F|other|94043\n",
        "u.item": b"10|Toy Tale (1995)|01-Jan-1995||http://x|0|0|0|1|1|1" + 13 * b"|0" + b"\n"
        b"20|unknown||||1" + 18 * b"|0" + b"\n",
    },
    read=_ml_100k,
    inside="ml-100k/",
)
ATOMIC_LAYOUT = Layout(
    sample={
        "ml-100k.inter": b"user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        b"1\t10\t5\t881250949\n2\t10\t3\t881250950\n2\t20\t4\t881250951\n",
        "ml-100k.user": b"user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token\n"
        b"1\t24\tM\ttechnician\t85711\n2\t53\tF\tother\t94043\n",
        "ml-100k.item": b"item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        b"10\tToy Tale\t1995\tChildren's Comedy Animation\n20\tunkonwn\tunkonwn\tunknown\n",
    },
    read=_atomic,
    inside="recbole/dataset_example/ml-100k/",
)
DAT_SAMPLE = {
    "ratings.dat": b"1::10::5::978300760\n2::10::3::978300761\n2::20::4::978300762\n",
    "movies.dat": b"10::Toy Tale (1995)::Animation|Comedy\n20::Heat (1995)::Action\n",
}
ML_1M_LAYOUT = Layout({**DAT_SAMPLE, "users.dat": b"1::F::1::10::48067\n2::M::56::16::70072\n"}, _ml_1m, "ml-1m/")
ML_10M_LAYOUT = Layout(DAT_SAMPLE, _ml_10m, "ml-10M100K/")
CSV_SAMPLE = {
    "ratings.csv": b"userId,movieId,rating,timestamp\n1,10,5.0,964982703\n2,10,3.0,964982704\n2,20,4.0,964982705\n",
    "movies.csv": b'movieId,title,genres\n10,"Tale, A (1995)",Animation|Comedy\n20,Heat,(no genres listed)\n',
}


def _source(name: str, description: str, *layouts: Layout, copies: tuple[WheelFile, ...] = ()) -> Source:
    """MovieLens ``name``: GroupLens publishes the archive and, beside it, its MD5."""
    official = WebFile(f"{SERVER}{name}.zip", f"{SERVER}{name}.zip.md5", "GroupLens")
    layouts = layouts or (Layout(CSV_SAMPLE, _ml_csv, f"{name}/"),)
    return Source(
        name=name, description=description, licence=LICENCE, downloads=(official, *copies), layouts=layouts, kinds=KINDS
    )


WHEEL = WheelFile("recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407")
MOVIELENS = (
    _source("ml-100k", "100,000 ratings, 943 users, 1,682 films, 1998", U_LAYOUT, ATOMIC_LAYOUT, copies=(WHEEL,)),
    _source("ml-1m", "1,000,209 ratings, 6,040 users, 3,883 films, 2003", ML_1M_LAYOUT),
    _source("ml-10m", "10,000,054 ratings, 69,878 users, 10,681 films, 2009", ML_10M_LAYOUT),
    _source("ml-20m", "20,000,263 ratings, 138,493 users, 27,278 films, 2015"),
    _source("ml-25m", "25,000,095 ratings, 162,541 users, 62,423 films, 2019"),
    _source("ml-32m", "32,000,204 ratings, 200,948 users, 87,585 films, 2023"),
    _source("ml-latest-small", "100,836 ratings, 610 users, 9,742 films, 2018"),
)
