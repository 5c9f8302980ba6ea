"""Labelled rows for rankers: Frappe, Criteo, Avazu.

Criteo and Avazu name no user and no item: every row is a guest's, and all are about one item, ``any``; what a ranker
learns from is the context (see ``suisen.data.layouts.clicks``).
"""

import polars as pl

from suisen.data.clean import as_numbers
from suisen.data.layouts.clicks import CRITEO, criteo, libfm
from suisen.data.log import Col
from suisen.data.raw import FileOptions, Raw
from suisen.data.sources.contract import Files, Tables
from suisen.data.sources.published import published
from suisen.data.sources.text import headed

FRAPPE = ("user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
FRAPPE_FILES = tuple(f"frappe.{part}.libfm" for part in ("train", "validation", "test"))
AVAZU = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category", "device_id",
    "device_ip", "device_model", "device_type", "device_conn_type", *(f"C{i}" for i in range(14, 22)),
)  # fmt: skip


def _whole(raw: Raw) -> Raw:
    if raw.malformed:
        raise ValueError(f"line {raw.malformed[0].lines[0]}: {raw.malformed[0].first}")
    return raw


def _frappe(files: Files) -> Tables:
    """The libFM files of NFM, AFN and BARS: a third of the rows are usages, the others apps drawn for them."""
    parts = [_frappe_part(name, files(name)) for name in FRAPPE_FILES]
    first, second = parts[0].height, parts[0].height + parts[1].height
    note = "ids and codes are the feature numbers of the files"
    return Tables(pl.concat(parts), parts=(first, second), notes=(note,))


def _frappe_part(name: str, data: bytes) -> pl.DataFrame:
    frame = _whole(libfm(name, data, FileOptions())).frame
    numbers = [pl.col(f"field{i}").cast(pl.Int64).alias(field) for i, field in enumerate(FRAPPE, start=1)]
    return frame.select(*numbers[:2], as_numbers(frame["label"]).cast(pl.Int8), *numbers[2:])


def _criteo(files: Files) -> Tables:
    """train.txt: label, I1 to I13 (numbers), C1 to C26 (categories), in the order of time, without times."""
    frame = _whole(criteo("train.txt", files("train.txt"), FileOptions())).frame
    numbers = [pl.col(name).cast(pl.Float64) for name in CRITEO if name.startswith("I")]
    rows = frame.with_columns(pl.col("label").cast(pl.Int8), *numbers)
    return Tables(_of_guests(rows).select("user", "item", "label", "session", *CRITEO[1:]), ordered=True)


def _avazu(files: Files) -> Tables:
    """train.csv: click, hour (YYMMDDHH, UTC), and 21 categories."""
    frame = headed(files("train.csv"), ",", {"click": "label", "hour": "time", **{name: name for name in AVAZU}})
    time = pl.format("20{}00", "time").str.to_datetime("%Y%m%d%H%M", time_unit="us").cast(pl.Int64).alias(Col.TIME)
    rows = _of_guests(frame.with_columns(time, pl.col("label").cast(pl.Int8)))
    return Tables(rows.select("user", "item", "time", "label", "session", *AVAZU))


def _of_guests(rows: pl.DataFrame) -> pl.DataFrame:
    """Each row a guest's, all about one item."""
    number = pl.int_range(pl.len(), dtype=pl.Int64).alias(Col.SESSION)
    return rows.with_columns(pl.lit(None, pl.Int64).alias(Col.USER), pl.lit("any").alias(Col.ITEM), number)


ADS = (
    published("frappe", _frappe, kinds=dict.fromkeys(FRAPPE[2:], "categorical")),
    published("criteo", _criteo, kinds={name: "numeric" if name[0] == "I" else "categorical" for name in CRITEO[1:]}),
    published("avazu", _avazu, kinds=dict.fromkeys(AVAZU, "categorical")),
)
