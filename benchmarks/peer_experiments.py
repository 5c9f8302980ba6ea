"""One analysis of the events in a folder by tea-tasting or by pandas and SciPy, in an environment of their own.

    python benchmarks/peer_experiments.py ibis|pandas-frame|polars-frame|pandas FOLDER THREADS

All have the same task: exposures and events (``experiment_events``) to one row per user, and of these four metrics with
CUPED: clicks per impression by the delta method, conversion, revenue, events.  Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from common import peak_rss

START, END = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 15, tzinfo=UTC)
BEFORE_DAYS = 14
MEMORY = "12GB"
"""DuckDB spills to disk beyond it."""
PARTS = {"impressions": "impression", "clicks": "click", "revenue": "purchase", "events": None}
METRICS = {"ctr": "RatioOfMeans", "conversion": "Mean", "revenue": "Mean", "events": "Mean"}


# -- users ------------------------------------------------------------------------------------------------------------


def ibis_users(folder: Path, threads: int) -> Any:
    """One row per user, as an expression that DuckDB computes when tea-tasting asks for its sums."""
    import ibis

    scratch = tempfile.mkdtemp(prefix="duckdb-", dir=folder)
    con = ibis.duckdb.connect(threads=threads, memory_limit=MEMORY, temp_directory=scratch)
    shown = con.read_parquet(folder / "exposures.parquet").rename(since="time")
    log = con.read_parquet(folder / "events.parquet")
    joined = log.inner_join(shown, "user")
    after = (joined.time >= joined.since) & (joined.time < ibis.literal(END))
    before = (joined.time < joined.since) & (joined.time >= joined.since - ibis.interval(days=BEFORE_DAYS))
    made = {}
    for suffix, inside in (("", after), ("_before", before)):
        for name, kind in PARTS.items():
            taken = inside if kind is None else inside & (joined.event == kind)
            made[name + suffix] = joined.value.sum(where=taken) if name == "revenue" else taken.sum()
        made[f"conversion{suffix}"] = (inside & (joined.event == "purchase")).any().cast("int64")
    sums = joined.group_by("user").aggregate(**made)
    every = shown.left_join(sums, "user")
    table = every.select("arm", **{name: every[name].fill_null(0).cast("float64") for name in made})
    return table.mutate(variant=(table.arm == "treatment").cast("int64"))


def pandas_users(folder: Path, threads: int) -> Any:
    """One row per user, by masks and one grouping."""
    import pandas as pd

    shown = pd.read_parquet(folder / "exposures.parquet").rename(columns={"time": "since"})
    log = pd.read_parquet(folder / "events.parquet", columns=["user", "time", "event", "value"])
    joined = log.merge(shown[["user", "since"]], on="user")
    after = (joined["time"] >= joined["since"]) & (joined["time"] < END)
    before = (joined["time"] < joined["since"]) & (joined["time"] >= joined["since"] - pd.Timedelta(days=BEFORE_DAYS))
    made = {}
    for suffix, inside in (("", after), ("_before", before)):
        for name, kind in PARTS.items():
            taken = inside if kind is None else inside & (joined["event"] == kind)
            made[name + suffix] = joined["value"].where(taken, 0.0) if name == "revenue" else taken
    sums = pd.DataFrame(made).groupby(joined["user"]).sum()
    table = shown.join(sums, on="user").fillna(dict.fromkeys(made, 0))
    bought = pd.DataFrame(
        {f"buys{suffix}": inside & (joined["event"] == "purchase") for suffix, inside in
         (("", after), ("_before", before))}
    ).groupby(joined["user"]).any()  # fmt: skip
    table = table.join(bought, on="user")
    for suffix in ("", "_before"):
        table[f"conversion{suffix}"] = table.pop(f"buys{suffix}").fillna(value=False).astype("float64")
    table["variant"] = (table["arm"] == "treatment").astype("int64")
    return table


def polars_users(folder: Path, threads: int) -> Any:
    """One row per user, in memory."""
    import polars as pl

    shown = pl.read_parquet(folder / "exposures.parquet").rename({"time": "since"})
    log = pl.read_parquet(folder / "events.parquet", columns=["user", "time", "event", "value"])
    joined = log.join(shown.select("user", "since"), on="user")
    after = (pl.col("time") >= pl.col("since")) & (pl.col("time") < END)
    before = (pl.col("time") < pl.col("since")) & (pl.col("time") >= pl.col("since") - pl.duration(days=BEFORE_DAYS))
    made = []
    for suffix, inside in (("", after), ("_before", before)):
        for name, kind in PARTS.items():
            taken = inside if kind is None else inside & (pl.col("event") == kind)
            value = pl.when(taken).then("value").otherwise(0.0).sum() if name == "revenue" else taken.sum()
            made.append(value.cast(pl.Float64).alias(name + suffix))
        made.append((inside & (pl.col("event") == "purchase")).any().cast(pl.Float64).alias(f"conversion{suffix}"))
    sums = joined.group_by("user").agg(made)
    table = shown.join(sums, on="user", how="left").with_columns(pl.col(sums.columns[1:]).fill_null(0.0))
    return table.with_columns((pl.col("arm") == "treatment").cast(pl.Int64).alias("variant"))


# -- tests ------------------------------------------------------------------------------------------------------------


def tea_tasting(users: Any) -> dict[str, Any]:
    """All four metrics in one experiment, so that it aggregates once."""
    import tea_tasting as tt

    experiment = tt.Experiment(
        ctr=tt.RatioOfMeans("clicks", "impressions", "clicks_before", "impressions_before"),
        **{name: tt.Mean(name, f"{name}_before") for name in METRICS if name != "ctr"},
    )
    found = experiment.analyze(users, control=0)
    return {name: {"effect": found[name].effect_size, "p": found[name].pvalue} for name in METRICS}


def scipy_tests(users: Any) -> dict[str, Any]:
    """CUPED by hand, Welch's t by SciPy; the ratio by the delta method."""
    arms = [users[users["variant"] == arm] for arm in (0, 1)]
    out = {"ctr": ratio(users, arms)}
    for name in METRICS:
        if name != "ctr":
            out[name] = mean(users, arms, name)
    return out


def mean(users: Any, arms: list[Any], name: str) -> dict[str, float]:
    """Of values less θ times the covariate."""
    import numpy as np
    from scipy import stats

    both = np.cov(users[name], users[f"{name}_before"])
    centre = users[f"{name}_before"].mean()
    a, b = (arm[name] - both[0, 1] / both[1, 1] * (arm[f"{name}_before"] - centre) for arm in arms)
    return {"effect": float(b.mean() - a.mean()), "p": float(stats.ttest_ind(a, b, equal_var=False).pvalue)}


def ratio(users: Any, arms: list[Any]) -> dict[str, float]:
    """Clicks over impressions less θ times the same before."""
    import numpy as np
    from scipy import stats

    names = ["clicks", "impressions", "clicks_before", "impressions_before"]

    def gradients(table: Any) -> tuple[Any, Any, Any]:
        y, d, x, w = table[names].mean()
        return np.array([1 / d, -y / d**2, 0, 0]), np.array([0, 0, 1 / w, -x / w**2]), (y / d, x / w)

    own, other, (_, centre) = gradients(users)
    both = np.cov(users[names].to_numpy().T)
    theta = own @ both @ other / (other @ both @ other)
    values, variances, sizes = [], [], []
    for arm in arms:
        mine, before, (value, was) = gradients(arm)
        slope = mine - theta * before
        values.append(value - theta * (was - centre))
        variances.append(slope @ np.cov(arm[names].to_numpy().T) @ slope / len(arm))
        sizes.append(len(arm))
    total = sum(variances)
    freedom = total**2 / sum(v**2 / (n - 1) for v, n in zip(variances, sizes, strict=True))
    statistic = (values[1] - values[0]) / np.sqrt(total)
    return {"effect": float(values[1] - values[0]), "p": float(2 * stats.t.sf(abs(statistic), freedom))}


SIDES: dict[str, tuple[Callable[[Path, int], Any], Callable[[Any], dict[str, Any]], tuple[str, ...]]] = {
    "ibis": (ibis_users, tea_tasting, ("ibis", "duckdb", "tea_tasting")),
    "pandas-frame": (pandas_users, tea_tasting, ("pandas", "tea_tasting")),
    "polars-frame": (polars_users, tea_tasting, ("polars", "tea_tasting")),
    "pandas": (pandas_users, scipy_tests, ("pandas", "numpy", "scipy.stats")),
}
"""Side → users, tests, what is imported before the clock starts."""


def main() -> int:
    """One measurement."""
    side, folder, threads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    users, tests, modules = SIDES[side]
    for name in modules:
        __import__(name)
    cpu, started = processor(), time.perf_counter()
    found = tests(users(folder, threads))
    seconds, used = time.perf_counter() - started, processor() - cpu
    print(json.dumps({"seconds": seconds, "cpu_seconds": used, "peak_bytes": peak_rss(), "found": found}), flush=True)
    os._exit(0)  # what libraries free at their end is not measured


def processor() -> float:
    """Seconds of all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
