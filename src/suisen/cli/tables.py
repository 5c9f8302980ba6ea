"""Event tables of an experiment as lazy frames: files are read as a stream, ids stay the text that they are."""

import contextlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import polars as pl

from suisen.errors import InputError
from suisen.files import replacing

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".parquet", ".jsonl", ".arrow")
"""Files that are read; of these .csv and .parquet are written."""


def read_table(field: str, path: str | Path, texts: Collection[str] = ()) -> pl.LazyFrame:
    """A file as a lazy frame.  Columns named in ``texts`` stay text in files that have no types, as 007 is no 7.

    ``field`` is what messages call it.  Raises InputError for a file that is not there, empty or no table.
    """
    place = Path(path)
    if not place.is_file():
        raise InputError(f"{field} = {place} is {'a folder' if place.is_dir() else 'no file'}; give a table of events")
    with broken(field, place):
        frame = _scanned(field, place, texts)
        columns = frame.collect_schema().names()
        if frame.head(1).collect().is_empty():
            raise InputError(f"{field} = {place} has a header and no rows; give at least one")
    twice = [name.removesuffix("_duplicated_0") for name in columns if name.endswith("_duplicated_0")]
    if twice:
        raise InputError(f"{field} = {place} has the column {twice[0]!r} twice; rename one")
    return frame


def _scanned(field: str, place: Path, texts: Collection[str]) -> pl.LazyFrame:
    name = place.name.lower()
    if name.endswith((".csv", ".csv.gz", ".tsv")):
        separator = "\t" if name.endswith(".tsv") else ","
        overrides = dict.fromkeys(texts, pl.String)
        return pl.scan_csv(place, separator=separator, infer_schema_length=None, schema_overrides=overrides)
    if name.endswith((".parquet", ".pq")):
        return pl.scan_parquet(place)
    if name.endswith((".jsonl", ".ndjson")):
        return pl.scan_ndjson(place, infer_schema_length=None)
    if name.endswith((".arrow", ".feather", ".ipc")):
        return pl.scan_ipc(place)
    raise InputError(f"{field} = {place} is of no known format; give {', '.join(SUFFIXES)}")


@contextlib.contextmanager
def broken(field: str, place: str | Path) -> Iterator[None]:
    """Turns what Polars says of a damaged file into one line that names it."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{field} = {place} cannot be read ({first}); mend the file or write it again") from None


def same_ids(unit: str, frames: Mapping[str, pl.LazyFrame]) -> dict[str, pl.LazyFrame]:
    """The frames with the unit's column of one type: text everywhere where it is text anywhere."""
    dtypes = {name: frame.collect_schema().get(unit) for name, frame in frames.items()}
    if pl.String not in dtypes.values():
        return dict(frames)
    return {
        name: frame if dtypes[name] in (None, pl.String) else frame.with_columns(pl.col(unit).cast(pl.String))
        for name, frame in frames.items()
    }


def write_table(place: Path, frame: pl.DataFrame) -> None:
    """A .csv or .parquet file; ``check_table`` came before."""
    with replacing(place) as part:
        (frame.write_parquet if place.suffix.lower() == ".parquet" else frame.write_csv)(part)


def check_table(field: str, path: str | Path) -> None:
    """Raises InputError where ``write_table`` would, before any work."""
    place = Path(path)
    if place.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"{field} = {place} has no known suffix; give a .csv or .parquet file")
    if not place.parent.is_dir():
        raise InputError(f"{field} = {place}: the folder {place.parent} does not exist; make it first")
