"""Click data as labelled rows: Frappe in its published split, ML-1M as clicks.

No row has a time or a history: published figures for these rows are of models that read ids and features alone.
"""

from __future__ import annotations

import gzip
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import polars as pl
import torch
from common import place

from suisen.data.clicks import ClickRatio, row_split
from suisen.data.dataset import Split
from suisen.data.log import Col, Kind, Log
from suisen.data.ordered import OrderedLog
from suisen.data.sources import load
from suisen.data.split_parts import TEST, TRAIN, VALID, Parts

CONTEXT = ("daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city")
OFFSETS = dict(
    zip((Col.USER, Col.ITEM, *CONTEXT), (0, 957, 5039, 5046, 5053, 5055, 5058, 5060, 5069, 5149), strict=True)
)
"""The field that begins at each feature number of the libFM files."""
FRAPPE_APPS = 4082
FRAPPE_FILES = {TRAIN: "train.redrawn", VALID: "validation", TEST: "test"}


def frappe(folder: Path) -> Split:
    """Frappe_x1: usages of apps (a third) and apps drawn for them, in a context of eight fields; labels 1 and 0.

    The files' own split; ids and codes are train's, what it lacks is unknown in valid and test.  The item table names
    all apps, so that one without a row in train is a candidate like any other.
    """
    home = place(folder, "frappe")
    tables = {number: _libfm(home / f"frappe.{name}.libfm.gz") for number, name in FRAPPE_FILES.items()}
    events = pl.concat(tables.values()).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias(Col.ROW))
    apps = pl.DataFrame({Col.ITEM: range(FRAPPE_APPS)}, schema={Col.ITEM: pl.Int64})
    log = OrderedLog.of(Log(events, items=apps, kinds=dict.fromkeys(CONTEXT, "categorical")))
    ends = torch.tensor([table.height for table in tables.values()]).cumsum(0)
    rows = torch.from_numpy(log.log.events[Col.ROW].to_numpy().copy())
    part = torch.tensor(list(tables))[torch.bucketize(rows, ends, right=True)]
    return row_split(log, Parts(part, "random", "Frappe_x1 split, train negatives re-drawn"), history=0)


def _libfm(path: Path) -> pl.DataFrame:
    """Lines ``label number:1 number:1 …``, one number a field, as label and codes that count from 0 in each field."""
    with gzip.open(path) as file:
        text = file.read().replace(b":1", b"")
    names = [Col.LABEL, *OFFSETS]
    table = pl.read_csv(
        BytesIO(text), separator=" ", has_header=False, new_columns=names, schema_overrides=[pl.Int64] * 11
    )
    codes = [pl.col(name) - start for name, start in OFFSETS.items()]
    return table.select(*codes, (pl.col(Col.LABEL) > 0).cast(pl.Int8))


ML_KINDS: dict[str, Kind] = {
    "gender": "categorical", "age": "categorical", "occupation": "categorical",
    "decade": "categorical", "genres": "multi",
}  # fmt: skip


def ml1m_clicks(folder: Path, seed: int = 0) -> Split:
    """ML-1M as clicks (Song et al. 2019): ratings above 3 are positive, below 3 negative, 3 is dropped: 739,012 rows.

    Cut 8:1:1 at random.  Fields: user id, gender, age bracket, occupation; movie id, decade of release, genres.
    """
    log, from_three = (load("ml-1m", place(folder, "ml-1m.zip"), positive_from=least) for least in (4, 3))
    told = log.events[Col.LABEL] == from_three.events[Col.LABEL]  # they differ where the rating is 3
    decade = (pl.col("year") // 10 * 10).alias("decade")
    rows = replace(
        log,
        events=log.events.filter(told).drop(Col.TIME),
        users=_table(log.users).select(Col.USER, "gender", "age", "occupation"),
        items=_table(log.items).select(Col.ITEM, decade, "genres"),
        kinds=ML_KINDS,
    )
    split = ClickRatio(test=0.1, valid=0.1, seed=seed, history=0).split(OrderedLog.of(rows))
    return replace(split, notes=(*split.notes, f"{int((~told).sum()):,} ratings of 3 dropped"))


def _table(frame: pl.DataFrame | None) -> pl.DataFrame:
    assert frame is not None
    return frame
