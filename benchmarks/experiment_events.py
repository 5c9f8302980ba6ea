"""Events of an experiment on disk, as many as asked for, made in row groups so that they never are in memory at once.

Ten events per user over four weeks, in order of time: impressions, one in five followed by a click, one in five
clicks by a purchase.  Users are exposed in the third week; what is before is the covariate.  Ids are 64-bit numbers
with gaps, as they come from production.  The treatment clicks more often by 2 / √users, so that p stays a number at
any size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq

SECOND = 10**6
HOUR = 3600 * SECOND
FIRST = 1_713_312_000 * SECOND
"""2024-04-17: two weeks before the experiment."""
START, END = "2024-05-01", "2024-05-15"
DAYS, BEFORE, ENTER = 28, 14, 7
"""Days in all, days before the start, days in which users enter."""
GROUP = 1_000_000
"""Rows of a group."""
FILES = ("exposures.parquet", "events.parquet")
CLICKS, BUYS = 0.2, 0.2


def make(folder: Path, events: int, users: int, seed: int = 0) -> None:
    """Writes both files, the same ones for the same arguments; does nothing where they are."""
    if all((folder / name).exists() for name in FILES):
        return
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    ids = scrambled(np.arange(users))
    treated = rng.random(users) < 0.5
    since = FIRST + (BEFORE * 24 + rng.integers(0, ENTER * 24, users)) * HOUR
    shown = pl.DataFrame({"user": ids, "arm": np.where(treated, "treatment", "control"), "time": since})
    shown.with_columns(pl.col("time").cast(pl.Datetime("us", "UTC"))).write_parquet(folder / FILES[0])
    del shown
    likes = rng.beta(2, 2, users).astype(np.float32)
    lift = np.where(treated, 2 / np.sqrt(users), 0.0).astype(np.float32)
    groups = max(1, events // GROUP)
    aside, writer = folder / "events.part", None
    for at in range(groups):
        frame = group(rng, (ids, since, likes, lift), (events // groups, DAYS * 24 * at // groups, groups))
        rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        writer = writer or pq.ParquetWriter(aside, rows.schema, compression="zstd", compression_level=1)
        writer.write_table(rows, row_group_size=len(rows))
    assert writer is not None
    writer.close()
    aside.rename(folder / FILES[1])


def scrambled(numbers: np.ndarray) -> np.ndarray:
    """Different numbers below 2^40 for different numbers below 2^40."""
    return ((numbers.astype(np.uint64) + 1) * np.uint64(0x9E3779B97F4A7C15) % np.uint64(2**40)).astype(np.int64)


def group(rng: np.random.Generator, people: tuple[np.ndarray, ...], part: tuple[int, int, int]) -> pl.DataFrame:
    """One row group: ``part`` is (rows, first hour, number of groups).  A click and a purchase are in the impression's
    own hour, so that no window parts them.
    """
    ids, since, likes, lift = people
    rows, hour, groups = part
    shown = round(rows / (1 + CLICKS + CLICKS * BUYS))
    who = rng.integers(0, len(ids), shown)
    hours = max(1, DAYS * 24 // groups)
    time = FIRST + (hour + rng.integers(0, hours, shown)) * HOUR + rng.integers(0, 3500, shown) * SECOND
    rate = 2 * CLICKS * likes[who] * (1 + np.where(time >= since[who], lift[who], 0))
    clicked = np.flatnonzero(rng.random(shown, dtype=np.float32) < rate)
    bought = clicked[rng.random(len(clicked)) < BUYS]
    item = rng.integers(0, 100_000, shown).astype(np.int32)
    kinds = np.repeat(np.arange(3), [shown, len(clicked), len(bought)])
    place = np.concatenate([np.arange(shown), clicked, bought])
    delay = rng.integers(1, 50, len(place)) * SECOND
    moment = time[place] + np.where(kinds == 0, 0, np.where(kinds == 1, delay, 50 * SECOND + delay))
    worth = np.round(rng.lognormal(3, 0.7, len(place)), 2)
    order = np.argsort(moment, kind="stable")
    frame = pl.DataFrame({
        "user": ids[who[place[order]]], "time": moment[order], "kind": kinds[order].astype(np.uint8),
        "item": item[place[order]], "value": worth[order],
    })  # fmt: skip
    names = pl.col("kind").replace_strict([0, 1, 2], ["impression", "click", "purchase"], return_dtype=pl.String)
    return frame.select(
        "user", pl.col("time").cast(pl.Datetime("us", "UTC")), names.alias("event"), "item",
        pl.when(pl.col("kind") == 2).then(pl.col("value")).alias("value"),
    )  # fmt: skip
