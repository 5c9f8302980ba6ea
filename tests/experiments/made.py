"""Exposures and events whose effect is known, for the tests of the analysis."""

import numpy as np
import polars as pl

from suisen.experiments.moments import Moments
from suisen.experiments.plan import Plan

START = 1_714_521_600 * 10**6  # 2024-05-01
HOUR = 3600 * 10**6


def made(n=2000, lift=0.0, seed=0, share=0.5, fade=0.0, tail=0.5):
    """Users see lists for ten days; the treatment clicks (1 + lift) times as often, with ``fade`` less every day."""
    rng = np.random.default_rng(seed)
    treated = rng.random(n) < share
    first = START + rng.integers(0, 5 * 24, n) * HOUR
    shown = pl.DataFrame({
        "user": np.arange(n), "arm": np.where(treated, "treatment", "control"), "time": first,
        "country": rng.choice(["JP", "FI", "DE"], n, p=[0.5, 0.3, 0.2]),
    })  # fmt: skip
    visits = rng.poisson(8, n) + 4
    user = np.repeat(np.arange(n), visits)
    day = rng.integers(-4, 10, user.size)
    time = first[user] + day * 24 * HOUR + rng.integers(1, 23 * 3600, user.size) * 10**6
    rate = rng.beta(4, 16, n)
    effect = 1 + lift * treated[user] * np.where(day >= 0, (1 - fade) ** np.maximum(day, 0), 0)
    clicked = rng.random(user.size) < np.clip(rate[user] * effect, 0, 1)
    bought = clicked & (rng.random(user.size) < 0.3)
    worth = rng.lognormal(1, tail, user.size)
    parts = []
    for kind, rows, delay, value in (("impression", clicked | True, 0, None), ("click", clicked, 1, None),
                                     ("purchase", bought, 2, worth)):  # fmt: skip
        parts.append(pl.DataFrame({
            "user": user[rows], "time": time[rows] + delay, "event": [kind] * int(rows.sum()),
            "value": np.full(int(rows.sum()), np.nan) if value is None else value[rows],
        }))  # fmt: skip
    log = pl.concat(parts).with_columns(pl.col("value").fill_nan(None))
    clock = pl.col("time").cast(pl.Datetime("us", "UTC"))
    return shown.with_columns(clock), log.with_columns(clock)


METRICS = {"ctr": {"kind": "ctr"}, "buyers": {"kind": "conversion"}, "revenue": {"kind": "value"}}


def plan(metrics=None, **more):
    metrics = metrics or METRICS
    base = {"name": "t", "arms": {"control": 0.5, "treatment": 0.5}, "primary": next(iter(metrics)), "metrics": metrics}
    return Plan.of(base | {"start": "2024-05-01", "end": "2024-05-11"} | more)


def units_of(arms, **columns):
    """A frame of units from arrays by arm: ``units_of(["control", "treatment"], m__y=([…], […]))``."""
    sizes = [len(part) for part in next(iter(columns.values()))]
    frame = {"arm": [arm for arm, n in zip(arms, sizes) for _ in range(n)]}
    frame |= {
        name: np.concatenate([np.asarray(part, dtype=float) for part in parts]) for name, parts in columns.items()
    }
    return pl.DataFrame(frame)


def of_sums(n, total, squares):
    """Moments of a mean's published sums: units, Σ y and Σ y²; the third moment is unknown (NaN)."""
    products = np.zeros((4, 4))
    products[0, 0] = squares - total**2 / n
    return Moments(np.float64(n), np.array([total / n, 1.0, 0.0, 1.0]), products, np.array([np.nan, 0.0, 0.0, 0.0]))
