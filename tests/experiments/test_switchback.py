"""Switchback: places change arms from hour to hour; their hours are what is independent, and not the visits in them."""

import numpy as np
import polars as pl

from suisen.experiments.analysis import AnalysisOptions, analyze
from suisen.experiments.assignment import Assigner
from suisen.experiments.plan import Plan

PLAN = {
    "name": "dispatch", "unit": "visit", "primary": "rides", "start": "2024-06-01", "end": "2024-06-08",
    "arms": {"control": 0.5, "treatment": 0.5}, "metrics": {"rides": {"kind": "conversion"}},
}  # fmt: skip
HOURS, VISITS = 168, 8


def switchback(seed, lift):
    """(exposures, events) of two cities whose hours differ: visits of one hour go up and down together."""
    rng = np.random.default_rng(seed)
    blocks = pl.Series("block", [f"{city} {hour}" for city in ("kyoto", "osaka") for hour in range(HOURS)])
    arm = Assigner.of(Plan.of({**PLAN, "unit": "block", "salt": str(seed)})).arms(blocks).cast(pl.String).to_numpy()
    of = np.repeat(np.arange(2 * HOURS), VISITS)
    when = np.datetime64("2024-06-01", "us") + (of % HOURS) * np.timedelta64(1, "h")
    shown = pl.DataFrame({"visit": np.arange(len(of)), "time": when, "arm": arm[of], "block": blocks.to_numpy()[of]})
    chance = rng.beta(4, 8, size=2 * HOURS) + lift * (arm == "treatment")
    events = shown.filter(pl.Series(rng.random(len(of)) < chance[of])).select("visit", "time", event=pl.lit("purchase"))
    return shown, events


def judged(seed, lift, cluster):
    shown, events = switchback(seed, lift)
    options = AnalysisOptions(cluster=cluster, now="2024-06-08", daily=False)
    return analyze(shown, events, Plan.of(PLAN), options=options).of("primary")[0]


def test_hours_as_clusters_keep_alpha_and_visits_do_not():
    alarms = {
        cluster: np.mean([judged(seed, 0.0, cluster).p < 0.05 for seed in range(150)]) for cluster in ("block", "")
    }
    assert 0.01 <= alarms["block"] <= 0.1  # 5 %: 2 to 9 % in 95 of 100 such tests
    assert alarms[""] > 0.12


def test_the_interval_covers_a_lift():
    held = [judged(seed, 0.08, "block").absolute for seed in range(150)]
    assert np.mean([each.low < 0.08 < each.high for each in held]) >= 0.9
