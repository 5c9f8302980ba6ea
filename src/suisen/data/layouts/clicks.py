"""Labelled rows of features, as rankers are trained on: libFM, libFFM, Criteo.

* ``libffm``: ``label field:feature:value …``.  The columns are ``field0``, ``field1``, …: the numbers of the file.
* ``libfm`` (also LIBSVM): ``label feature:value …``.  Lines name no fields, so a field is a place in the line, the
  first is ``field1``; lines of another length than the first are bad.
* ``criteo``: tabs, no header: ``label``, numbers ``I1`` … ``I13``, categories ``C1`` … ``C26``.

A feature with value 1 is a category; a field of one feature with other values is a number; several features of one
field in a line are a multi-valued field.  Label -1 is read as 0.  Every field is a context column.  Name the fields
that are user and item (``user="field0", item="field1"``).  Where no user is named each row is a guest of its own, and
where no item is named all rows are about one item, ``any``: a ranker then learns from the context alone.
"""

from dataclasses import replace
from typing import Final

import polars as pl

from suisen.data.clean import Fault
from suisen.data.delimited import read_delimited
from suisen.data.encodings import as_utf8
from suisen.data.layouts.sequences import words_of
from suisen.data.log import Kind
from suisen.data.raw import FileOptions, Raw
from suisen.errors import InputError

ROW, ITEM, LABEL = "row", "any_item", "label"
"""Stand-ins for the session and the item of a click log that names neither; the label's column."""
ROLES: Final[dict[str, str | None]] = {"user": None, "session": ROW, "item": ITEM, "label": LABEL}
LIBFM, LIBFFM = r"^(?<feature>[^:]+):(?<value>[^:]+)$", r"^(?<field>[^:]+):(?<feature>[^:]+):(?<value>[^:]+)$"
CRITEO = (LABEL, *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27)))


def libfm(name: str, data: bytes, options: FileOptions) -> Raw:
    """Fields by their places in the line."""
    words, lines = words_of(name, data, options)
    width = int(words.list.len()[0])
    other = Fault(
        "lines of another number of features",
        f"a line has not the {width - 1} features of the first, and libFM names no fields; write it as libFFM",
        lines.filter(words.list.len() != width),
    )
    return _features(name, words, lines, words.list.len() == width, (other,))


def libffm(name: str, data: bytes, options: FileOptions) -> Raw:
    """Fields by their numbers."""
    words, lines = words_of(name, data, options)
    return _features(name, words, lines, pl.repeat(True, len(words), dtype=pl.Boolean, eager=True), (), named=True)


def _features(
    name: str, words: pl.Series, lines: pl.Series, good: pl.Series, faults: tuple[Fault, ...], named: bool = False
) -> Raw:
    frame = pl.DataFrame([words.list.slice(1).alias("word"), lines]).filter(good).with_row_index("row")
    long = frame.explode("word").filter(pl.col("word").is_not_null())
    place = pl.format("field{}", pl.int_range(1, pl.len() + 1).over("row"))
    parts = pl.col("word").str.extract_groups(LIBFFM if named else LIBFM).alias("parts")
    long = long.with_columns(place.alias("place"), parts).unnest("parts")
    long = long.with_columns(pl.format("field{}", "field") if named else pl.col("place").alias("field"))
    value = pl.col("value").cast(pl.Float64, strict=False).alias("number")
    long = long.with_columns(value)
    torn = long.filter(pl.col("number").is_null())["row"].unique()
    shape = "field:feature:value" if named else "feature:value"
    broken = Fault(
        f"words that are not {shape}",
        f"a word is not {shape}",
        frame.filter(pl.col("row").is_in(torn.implode()))["line"],
    )
    whole = ~frame["row"].is_in(torn.implode())
    long = long.filter(~pl.col("row").is_in(torn.implode()))
    labels = words.list.first().filter(good).filter(whole)
    rows = frame.filter(whole).select("row")
    columns, kinds, notes = _columns(name, rows, long)
    label, said = _labels(name, labels)
    made = pl.DataFrame([label, *columns])
    bad = tuple(fault for fault in (*faults, broken) if fault.lines.len())
    raw = Raw(name, made, frame.filter(whole)["line"], "line", malformed=bad, kinds=kinds, notes=(*notes, *said))
    return _as_clicks(raw, tuple(kinds))


def _columns(name: str, rows: pl.DataFrame, long: pl.DataFrame) -> tuple[list[pl.Series], dict[str, Kind], list[str]]:
    """A column per field, in the order in which they first appear."""
    columns: list[pl.Series] = []
    kinds: dict[str, Kind] = {}
    for (field,), part in long.group_by("field", maintain_order=True):
        kind, values = _column(name, str(field), part)
        column = rows.join(values, on="row", how="left", maintain_order="left")["of"]
        columns.append(column.alias(str(field)))
        kinds[str(field)] = kind
    said = [
        f"{kind} {', '.join(field for field in kinds if kinds[field] == kind)}"
        for kind in dict.fromkeys(kinds.values())
    ]
    return columns, kinds, [f"{name}: {len(kinds)} fields: {'; '.join(said)}"]


def _column(name: str, field: str, part: pl.DataFrame) -> tuple[Kind, pl.DataFrame]:
    """(kind, rows with their values ``of`` the field)."""
    ones = bool((part["number"] == 1).all())
    if part["row"].is_unique().all():
        if ones:
            return "categorical", part.select("row", of="feature")
        if part["feature"].n_unique() == 1:
            return "numeric", part.select("row", of="number")
    elif ones:
        return "multi", part.group_by("row", maintain_order=True).agg(pl.col("feature").alias("of"))
    raise InputError(f"{name}: {field} holds several features with values other than 1; give each number its own field")


def _labels(name: str, words: pl.Series) -> tuple[pl.Series, tuple[str, ...]]:
    minus = words.str.strip_chars_start("+").str.contains(r"^-1(\.0+)?$")
    label = words.str.strip_chars_start("+").set(minus, "0").alias(LABEL)
    return label, (f"{name}: label -1 is read as 0",) if minus.any() else ()


def criteo(name: str, data: bytes, options: FileOptions) -> Raw:
    """The 40 columns of the display advertising challenge and of the terabyte logs."""
    head = "\t".join(CRITEO).encode() + b"\n"
    text = read_delimited(name, head + as_utf8(name, data, options.encoding), "\t", "none")
    malformed = tuple(replace(fault, lines=fault.lines - 1) for fault in text.malformed)
    kinds: dict[str, Kind] = {each: "numeric" if each.startswith("I") else "categorical" for each in CRITEO[1:]}
    return _as_clicks(Raw(name, text.frame, text.lines - 1, "line", True, malformed, kinds), CRITEO[1:])


def _as_clicks(raw: Raw, fields: tuple[str, ...]) -> Raw:
    """With the stand-ins of user and item, every field in the context."""
    number = pl.int_range(1, raw.frame.height + 1, dtype=pl.Int64, eager=True).alias(ROW)
    frame = raw.frame.with_columns(number, pl.lit("any").alias(ITEM))
    return replace(raw, frame=frame, roles=ROLES, context=fields)
