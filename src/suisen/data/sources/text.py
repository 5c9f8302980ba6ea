"""Text tables of public data sets: exactly these columns, and nothing guessed."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import polars as pl

from suisen.data.delimited import STAND_IN

MICROSECONDS = 10**6


def table(
    data: bytes, separator: str, columns: Mapping[str, Any], encoding: str = "utf-8", **more: Any
) -> pl.DataFrame:
    """Text without a header and without quotes, of exactly these columns; ``more``: options of ``polars.read_csv``.

    Raises what Polars raises, and ShapeError where there is no row or the last column is empty throughout.
    """
    text = data if encoding == "utf-8" else data.decode(encoding).encode()
    if len(separator) > 1:
        text, separator = text.replace(separator.encode(), STAND_IN), STAND_IN.decode()
    options = {"has_header": False, "quote_char": None, "schema": columns} | more
    frame = pl.read_csv(BytesIO(text), separator=separator, **options)
    if frame.height == 0 or frame[frame.columns[-1]].null_count() == frame.height:
        raise pl.exceptions.ShapeError(f"lines of {len(columns)} fields were expected")
    return frame


def headed(data: bytes, separator: str, columns: Mapping[str, str], **more: Any) -> pl.DataFrame:
    """The columns named (name in the file → ours), as text; raises ColumnNotFoundError where one is missing."""
    frame = pl.read_csv(BytesIO(data), separator=separator, infer_schema=False, **more)
    return frame.select(pl.col(theirs).alias(ours) for theirs, ours in columns.items())
