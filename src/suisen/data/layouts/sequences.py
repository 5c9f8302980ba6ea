"""Lines of items in the order in which they were taken, without times.

``sequences``: ``user item item …``, a line per user.  ``sessions``: ``item item …``, a line per session of a guest.
``pairs``: ``user item``, a line per event.  Between the words stands white space, or ``delimiter``.
"""

import numpy as np
import polars as pl

from suisen.data.clean import Fault
from suisen.data.encodings import as_utf8, decoded
from suisen.data.raw import FileOptions, Raw
from suisen.errors import InputError


def words_of(name: str, data: bytes, options: FileOptions) -> tuple[pl.Series, pl.Series]:
    """(words, lines): lists of text and Int64 line numbers (first = 1) of the lines that are not blank."""
    text = decoded(name, as_utf8(name, data, options.encoding))
    lines = pl.Series("words", text.split("\n"), dtype=pl.String)
    if options.delimiter is None:
        words = lines.str.extract_all(r"\S+")
    else:
        words = lines.str.strip_chars_end("\r").str.split(options.delimiter).list.eval(pl.element().str.strip_chars())
        words = words.list.eval(pl.element().filter(pl.element() != ""))
    filled = words.list.len() > 0
    if not filled.any():
        raise InputError(f"{name} holds no line with words; give at least one")
    return words.filter(filled), pl.Series("line", np.flatnonzero(filled.to_numpy()) + 1, dtype=pl.Int64)


def sequences(name: str, data: bytes, options: FileOptions) -> Raw:
    """A line per user, the user in front."""
    words, lines = words_of(name, data, options)
    frame = pl.DataFrame([words.list.first().alias("user"), words.list.slice(1).alias("item"), lines])
    alone = int((words.list.len() == 1).sum())
    notes = (f"{name}: {alone:,} users without items have no events",) if alone else ()
    return _ordered(name, frame.filter(pl.col("item").list.len() > 0).explode("item"), notes)


def sessions(name: str, data: bytes, options: FileOptions) -> Raw:
    """A line per session of a guest; its number is that of its line."""
    words, lines = words_of(name, data, options)
    frame = pl.DataFrame([lines.cast(pl.String).alias("session"), words.alias("item"), lines])
    return _ordered(name, frame.explode("item"), (), {"user": None, "session": "session"})


def pairs(name: str, data: bytes, options: FileOptions) -> Raw:
    """A line per event: user and item."""
    words, lines = words_of(name, data, options)
    two = words.list.len() == 2
    fault = Fault("lines that are no pair", "the line is not: user item", lines.filter(~two))
    pair = words.filter(two)
    frame = pl.DataFrame([pair.list.first().alias("user"), pair.list.last().alias("item"), lines.filter(two)])
    raw = _ordered(name, frame, ())
    return raw if two.all() else Raw(**{**vars(raw), "malformed": (fault,)})


def _ordered(name: str, frame: pl.DataFrame, notes: tuple[str, ...], roles: dict[str, str | None] | None = None) -> Raw:
    said = f"{name}: no times; each user's events stand in the order of the file"
    return Raw(
        name=name,
        frame=frame.drop("line"),
        places=frame["line"],
        unit="line",
        text=True,
        notes=(*notes, said),
        roles=roles or {},
        ordered=True,
    )
