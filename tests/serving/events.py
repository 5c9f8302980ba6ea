"""Reads an event log back, line by line where something is wrong: what the log is held to."""

import logging
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import polars as pl

from suisen.errors import InputError
from suisen.serving.event_log import LoggedEvent

logger = logging.getLogger("suisen.serving")
NUMBERS = {"position": pl.Int64, "value": pl.Float64, "price": pl.Float64, "quantity": pl.Int64}
SCHEMA = {name: NUMBERS.get(name, pl.String) for name in LoggedEvent.__struct_fields__}
"""Columns of the log as Polars reads them; times are still text."""


def logged(item, user="u", **more):
    """A line of the log."""
    fields = {"session_id": None, "event": "view", "time": datetime.now(UTC), "request_id": None, "position": None}
    return LoggedEvent(user_id=user, item_id=item, **{**fields, **more})


def read_events(path: Path) -> pl.DataFrame:
    """Events in the order of arrival: the columns of ``LoggedEvent``, the time as Datetime in UTC.

    A half-written last line is left out and counted in a warning of the logger ``suisen.serving``.  Raises InputError
    naming the first line that is no event.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); give the path of an event log") from None
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        logger.warning("%s: 1 half-written last line was skipped", path)
        data = data[:whole]
    _check_lines(path, data)
    frame = pl.read_ndjson(data, schema=SCHEMA) if data else pl.DataFrame(schema=SCHEMA)
    return frame.with_columns(pl.col("time").str.to_datetime(time_unit="us", time_zone="UTC"))


def _check_lines(path: Path, data: bytes) -> None:
    decoder = msgspec.json.Decoder(LoggedEvent)
    try:
        decoder.decode_lines(data)
        return
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: line {number} is no event ({error}); take it out") from None
