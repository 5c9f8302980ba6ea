"""Sums in one pass and repeats by hash, against Polars' own grouping and unique."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.experiments import tally
from suisen.experiments.families import TIME, UNIT, Tally
from suisen.experiments.tally import ROW, Places, grouped, once, repeated, tallied, without_repeats
from suisen.experiments.units import units
from tests.experiments.made import made, plan

ROWS = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 2), st.sampled_from(["click", None]),
        st.sampled_from([0.0, -0.0, 1.5, float("nan"), None]),
    ),
    max_size=30,
)  # fmt: skip


def log(rows):
    """Events with a place, a moment, a type and a value; the list column is one that hashes pass over."""
    schema = {ROW: pl.Int64, TIME: pl.Int64, "event": pl.String, "value": pl.Float64}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    return frame.with_columns(pl.col(ROW).alias(UNIT), pl.col(ROW).alias("user"), pl.concat_list("value").alias("list"))


@given(ROWS)
@settings(max_examples=60)
def test_one_pass_is_polars_grouping(rows):
    events, clicked = log(rows).with_columns(pl.col("value").fill_nan(None)), pl.col("event") == "click"
    wanted = [Tally(clicked, name="n"), Tally(clicked, "value", name="v"), Tally(clicked, once=True, name="any")]
    found = tallied(events.lazy(), Places(pl.col(ROW), 4), wanted, {"late": pl.col(TIME) >= 2})
    table = events.group_by(ROW).agg(
        clicked.sum().alias("n"), pl.col("value").filter(clicked).sum().alias("v"), clicked.any().alias("any")
    )
    slow = {row: values for row, *values in table.iter_rows()}
    for row in range(4):
        n, v, some = slow.get(row, [0, 0.0, False])
        assert [found.sums[name][row] for name in ("n", "v", "any")] == [n, pytest.approx(v), some]
    assert (found.events, found.counts) == (len(rows), {"late": sum(time >= 2 for _, time, _, _ in rows)})
    assert found.last == max((time for _, time, _, _ in rows), default=None)


def test_sums_are_equal_to_the_last_digit_however_the_events_are_sorted():
    rng = np.random.default_rng(0)
    values = rng.lognormal(0, 3, 20_000)
    events = log([(int(row), 0, "click", float(value)) for row, value in zip(rng.integers(0, 4, 20_000), values)])
    wanted = [Tally(pl.col("event") == "click", "value", name="v")]
    sums = [
        tallied(table.lazy(), Places(pl.col(ROW), 4), wanted).sums["v"]
        for table in (events, events.reverse(), events.sample(fraction=1, shuffle=True, seed=1))
    ]
    assert sums[0].sum() == sums[1].sum() == sums[2].sum()
    assert np.array_equal(sums[0], sums[1])
    assert np.array_equal(sums[0], sums[2])
    shuffled = [values[rng.permutation(values.size)].cumsum()[-1] for _ in range(5)]
    assert len(set(shuffled)) > 1  # the order of these values does matter


@given(ROWS)
@settings(max_examples=60)
def test_each_event_once_is_polars_unique(rows):
    events = log(rows)
    single = events.unique()
    found = tallied(events.lazy(), Places(pl.col(ROW), 4), [], key=())
    kept, left = without_repeats(events.lazy(), repeated(found.hashes))
    assert left == events.height - single.height
    for each in (kept, once(events.lazy())):
        table = each.collect()
        assert table.columns == events.columns
        assert table.height == single.height
        assert table.unique().height == single.height


def test_equal_hashes_alone_leave_nothing_out(monkeypatch):
    monkeypatch.setattr(tally, "hash_of", lambda *_: (pl.col(TIME) * 0).cast(pl.UInt64).alias(tally.HASH))
    events = log([(0, 1, "click", 1.0), (1, 1, "click", 1.0), (0, 1, "click", 2.0)])
    assert once(events.lazy()).collect().height == 3
    twice = pl.concat([events, events])
    assert once(twice.lazy()).collect().height == 3


def test_parts_of_the_places_are_the_whole(monkeypatch):
    events = log([(i % 7, i, "click", float(i)) for i in range(50)])
    aggregates = [pl.col(TIME).sort().diff().max().alias("gap"), pl.col("value").median().alias("middle")]
    places = Places(pl.col(ROW), 9)
    whole = grouped(events.lazy(), places, aggregates, 50)
    monkeypatch.setattr(tally, "EVENTS_PER_CHUNK", 6)
    parts = grouped(events.lazy(), places, aggregates, 50)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, parts[name])
        assert (values[7:] == 0).all()
    assert set(whole["gap"][:7]) == {7.0}


def test_files_that_are_streamed_are_tables_that_are_held(tmp_path):
    shown, events = made(300)
    events = pl.concat([events, events[:50]])
    metrics = {
        "ctr": {"kind": "ctr", "covariate": True}, "visits": {"kind": "sessions", "covariate": True},
        "revenue": {"kind": "value"}, "most": {"kind": "sql", "expression": "MAX(value)"},
        "back": {"kind": "retention", "first_day": 1, "last_day": 3},
    }  # fmt: skip
    shown.write_parquet(tmp_path / "shown.parquet")
    events.write_parquet(tmp_path / "events.parquet", row_group_size=100)
    files = [pl.scan_parquet(tmp_path / name) for name in ("shown.parquet", "events.parquet")]
    held, streamed = (units(*tables, plan(metrics), duplicates="drop") for tables in ((shown, events), files))
    assert held.notes == streamed.notes
    assert held.repeated == streamed.repeated == 50
    assert held.frame.columns == streamed.frame.columns
    for name in held.frame.columns:
        same = held.frame[name].to_list()
        assert streamed.frame[name].to_list() == (pytest.approx(same) if held.frame[name].dtype.is_float() else same)
