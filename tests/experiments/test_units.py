from datetime import UTC, datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.experiments.plan import Plan
from suisen.experiments.units import events_of, units

START = datetime(2024, 5, 1)
HALVES = {"control": 0.5, "treatment": 0.5}


def at(day, hour=0, minute=0):
    return START + timedelta(days=day, hours=hour, minutes=minute)


def plan(metrics=None, **more):
    metrics = metrics or {"n": {"kind": "count"}}
    return Plan.of({"name": "t", "arms": HALVES, "primary": next(iter(metrics)), "metrics": metrics} | more)


def exposures(*rows):
    rows = rows or (("a", "control", at(0)), ("b", "treatment", at(0)))
    return pl.DataFrame(rows, schema=["user", "arm", "time"], orient="row")


def events(*rows):
    full = [(*row, *[None] * (4 - len(row))) for row in rows]
    schema = {"user": pl.String, "time": pl.Datetime("us"), "event": pl.String, "value": pl.Float64}
    return pl.DataFrame(full, schema=schema, orient="row")


def values(found, name, part="y"):
    return dict(zip(found.frame["__unit"].to_list(), found.frame[f"{name}__{part}"].to_list()))


LOG = events(
    ("a", at(0, 1), "impression"), ("a", at(0, 1, 10), "impression"), ("a", at(0, 1, 11), "click"),
    ("a", at(2, 5), "impression"), ("a", at(2, 5, 20), "purchase", 7.5), ("a", at(2, 6), "purchase", 2.5),
    ("a", at(-1), "impression"), ("a", at(-1, 0, 5), "click"), ("a", at(-2), "purchase", 4.0),
    ("b", at(1), "impression"), ("z", at(1), "impression"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({"kind": "ctr"}, {"y": (1, 0), "d": (3, 1)}),
        ({"kind": "ctr", "covariate": True}, {"y": (1, 0), "d": (3, 1), "x": (1, 0), "w": (1, 0)}),
        ({"kind": "ctr", "event": "purchase"}, {"y": (2, 0), "d": (3, 1)}),
        ({"kind": "conversion"}, {"y": (1, 0)}),
        ({"kind": "conversion", "event": "click", "covariate": True}, {"y": (1, 0), "x": (1, 0)}),
        ({"kind": "value", "covariate": True}, {"y": (10, 0), "x": (4, 0)}),
        ({"kind": "value", "window": "53h"}, {"y": (0, 0)}),
        ({"kind": "value", "window": "54h"}, {"y": (7.5, 0)}),
        ({"kind": "count", "covariate": True}, {"y": (6, 1), "x": (3, 0)}),
        ({"kind": "count", "event": "impression"}, {"y": (3, 1)}),
        ({"kind": "sessions"}, {"y": (3, 1)}),
        ({"kind": "sessions", "gap": "1h"}, {"y": (2, 1)}),
        ({"kind": "sessions", "event": "click", "covariate": True}, {"y": (1, 0), "x": (1, 0)}),
        ({"kind": "time-spent"}, {"y": (11 * 60 + 20 * 60, 0)}),
        ({"kind": "time-spent", "gap": "10h"}, {"y": (11 * 60 + 60 * 60, 0)}),
        ({"kind": "retention", "first_day": 1, "last_day": 2}, {"y": (1, 1)}),
        ({"kind": "retention", "first_day": 2, "last_day": 2}, {"y": (1, 0)}),
        ({"kind": "retention", "first_day": 1, "last_day": 2, "event": "click", "covariate": True},
         {"y": (0, 0), "x": (1, 0)}),
        ({"kind": "sql", "expression": "MAX(value)"}, {"y": (7.5, 0)}),
        ({"kind": "sql", "expression": "SUM(value) FILTER (WHERE event = 'purchase')",
          "per_expression": "COUNT(*)", "covariate": True}, {"y": (10, 0), "d": (6, 1), "x": (4, 0), "w": (3, 0)}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("lazy", [False, True])
def test_every_kind_of_metric(metric, expected, lazy):
    shown = exposures(("a", "control", at(0)), ("b", "treatment", at(0)), ("late", "control", at(8)))
    log = pl.concat([LOG, events(("late", at(8), "impression"))])  # the log goes on
    given_ = (shown.lazy(), log.lazy()) if lazy else (shown, log)
    found = units(*given_, plan({"m": metric}, end="2024-05-10"))
    assert {part: tuple(values(found, "m", part)[u] for u in "ab") for part in expected} == expected
    assert [name for name in found.frame.columns if name.startswith("m__")] == [f"m__{part}" for part in expected]


def test_a_ratio_is_made_of_two_metrics():
    metrics = {
        "r": {"kind": "ratio", "numerator": "value", "denominator": "visits", "covariate": True},
        "value": {"kind": "value", "covariate": True},
        "visits": {"kind": "sessions", "covariate": True},
    }
    found = units(exposures(), LOG, plan(metrics))
    assert [values(found, "r", part)["a"] for part in "ydxw"] == [10, 3, 4, 2]
    metrics["visits"] = {"kind": "sessions"}
    with pytest.raises(InputError, match=r"needs the metric 'visits' before the experiment; set metrics.visits"):
        units(exposures(), LOG, plan(metrics))


def test_exposure_starts_the_window_and_the_first_one_counts():
    rows = ("a", "control", at(1)), ("a", "control", at(0, 12)), ("b", "treatment", at(0))
    found = units(exposures(*rows), LOG, plan())
    assert values(found, "n") == {"a": 3, "b": 1}
    assert found.counts() == {"control": 1, "treatment": 1}
    assert (found.exposed, found.contaminated) == (2, 0)


def test_dates_bound_exposures_and_events():
    rows = ("a", "control", at(0)), ("b", "treatment", at(0)), ("c", "control", at(-3)), ("d", "treatment", at(2))
    found = units(exposures(*rows), LOG, plan(start="2024-05-01", end="2024-05-03"))
    assert values(found, "n") == {"a": 3, "b": 1}
    assert "2 exposures are outside the plan's dates and do not count" in found.notes
    assert "3 events at or after the end do not count" in found.notes
    with pytest.raises(
        InputError, match=r"none of 2 is between start = 2025-01-01 and end = any; the first is at 2024-05-01"
    ):
        units(exposures(), LOG, plan(start="2025-01-01"))


@pytest.mark.parametrize(
    ("rule", "arms"), [("drop", {"b": "treatment"}), ("first", {"a": "treatment", "b": "treatment"})]
)
def test_units_in_two_arms_are_counted_and_handled_as_planned(rule, arms):
    rows = ("a", "control", at(1)), ("a", "treatment", at(0)), ("b", "treatment", at(0))
    found = units(exposures(*rows), LOG, plan(contamination=rule))
    assert dict(zip(found.frame["__unit"], found.frame["arm"])) == arms
    assert (found.contaminated, found.exposed) == (1, 2)
    assert found.notes[0].startswith("1 units were seen in more than one arm; ")


def test_testers_are_left_out():
    found = units(exposures(), LOG, plan(assignment={"overrides": {"a": "control"}}))
    assert found.frame["__unit"].to_list() == ["b"]
    assert "1 testers are left out" in found.notes


def test_repeated_events_count_once_or_as_they_are():
    twice = pl.concat([LOG, LOG[:2]])
    found = units(exposures(), twice, plan(), duplicates="drop")
    assert values(found, "n") == {"a": 6, "b": 1}
    assert "2 events repeat another in every column and count once" in found.notes
    assert (found.repeated, found.events) == (2, 12)
    for each in ("auto", "keep"):
        all_ = units(exposures(), twice, plan(), duplicates=each)
        assert values(all_, "n") == {"a": 8, "b": 1}
        assert (all_.repeated, all_.events) == (None, 12)


def test_events_before_may_be_a_table_of_their_own():
    before, after = LOG.filter(pl.col("time") < START), LOG.filter(pl.col("time") >= START)
    metrics = {"n": {"kind": "count", "covariate": True}}
    assert units(exposures(), after, plan(metrics), pre=before).frame.equals(
        units(exposures(), LOG, plan(metrics)).frame
    )
    assert values(units(exposures(), LOG, plan(metrics, pre="1d")), "n", "x") == {"a": 2, "b": 0}


def test_units_seen_too_briefly_do_not_count_for_what_takes_longer():
    rows = ("a", "control", at(0)), ("b", "treatment", at(0)), ("c", "control", at(6))
    metrics = {"r": {"kind": "retention", "first_day": 2, "last_day": 2}, "w": {"kind": "count", "window": "5d"}}
    log = pl.concat([LOG, events(("c", at(6, 1), "impression"))])
    found = units(exposures(*rows), log, plan(metrics, end="2024-05-08"))
    assert values(found, "r") == {"a": 1, "b": 0, "c": None}
    assert values(found, "w") == {"a": 6, "b": 1, "c": None}
    assert "r: 1 units (1 of control) were seen for less than 3 days and do not count for it" in found.notes
    assert found.immature == {"r": {"control": 1}, "w": {"control": 1}}
    with pytest.raises(InputError, match="metric 'r' needs 3 days after exposure, and no unit was seen for so long"):
        units(exposures(), LOG, plan(metrics, end="2024-05-03"))


def test_logs_and_winsorising_are_said():
    metrics = {"v": {"kind": "count", "winsorize": 0.6}, "log": {"kind": "count", "transform": "log"}}
    rows = [(str(i), ("control", "treatment")[i % 2], at(0)) for i in range(11)]
    log = events(*((str(i), at(0, 1, j), "click") for i in range(11) for j in range(i)))
    found = units(exposures(*rows), log, plan(metrics))
    assert found.frame["v__y"].to_list() == [0, 1, 2, 3, 4, 5, 6, 7, 7, 7, 7]  # 7: the quantile of 1 to 10
    assert found.frame["log__y"][10] == pytest.approx(2.3978953)
    assert "v: 3 values above the quantile 0.6 of those other than 0, 7, count as that" in found.notes
    assert any("another question than the mean of y" in note for note in found.notes)
    with pytest.raises(InputError, match=r"metrics.m.transform = 'log' is of one value per unit"):
        units(exposures(), LOG, plan({"m": {"kind": "ctr", "transform": "log"}}))


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["ms", "s", "us", "ns", "text", "zoned", "tokyo", "date"])
def test_times_of_any_spelling(spelling):
    def spelt(frame):
        time, micros = pl.col("time"), pl.col("time").cast(pl.Int64)
        made = {
            "s": micros // 10**6, "ms": micros // 10**3, "us": micros, "ns": micros * 10**3,
            "text": time.dt.strftime("%Y-%m-%d %H:%M:%S"), "zoned": time.dt.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tokyo": time.dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"), "date": time,
        }[spelling]  # fmt: skip
        return frame.with_columns(made.alias("time"))

    shown = exposures() if spelling != "date" else exposures().with_columns(pl.col("time").cast(pl.Date))
    found = units(spelt(exposures()) if spelling != "date" else shown, spelt(LOG), plan())
    assert values(found, "n") == {"a": 6, "b": 1}
    assert found.frame["__since"][0] == int(START.replace(tzinfo=UTC).timestamp()) * 10**6


@pytest.mark.parametrize("wrong", [None, -1])
def test_whole_number_times_that_are_none_are_refused(wrong):
    micros = LOG.with_columns(pl.col("time").cast(pl.Int64))
    broken = micros.with_columns(pl.Series("time", [wrong, *micros["time"][1:]]))
    with pytest.raises(InputError, match=r"events: 'time' .* in 1 rows"):
        units(exposures(), broken, plan())


def test_two_zones_are_converted_and_one_without_a_zone_is_refused():
    zoned = LOG.with_columns(pl.col("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"))
    shown = exposures().with_columns(pl.col("time").dt.replace_time_zone("UTC").dt.convert_time_zone("America/Lima"))
    assert values(units(shown, zoned, plan()), "n") == {"a": 6, "b": 1}
    with pytest.raises(InputError, match=r"times of events name a zone and times of exposures none.*write both in UTC"):
        units(exposures(), zoned, plan())
    with pytest.raises(InputError, match="times of exposures name a zone and times of events none"):
        units(shown, LOG, plan())
    mixed = pl.DataFrame({
        "user": ["a", "b"], "arm": ["control", "treatment"], "time": ["2024-05-01T00:00:00Z", "2024-05-01T09:00:00"],
    })  # fmt: skip
    with pytest.raises(InputError, match="exposures: 'time' names a zone in 1 rows and none in 1; write all alike"):
        units(mixed, LOG, plan())
    both = mixed.with_columns(pl.Series("time", ["2024-05-01T00:00:00Z", "2024-05-01T09:00:00+09:00"]))
    assert units(both, zoned, plan()).frame["__since"].n_unique() == 1


@pytest.mark.parametrize(
    ("shown", "log", "message"),
    [
        (exposures().drop("arm"), LOG, r"exposures has no column 'arm' \(it has user, time\); name it in the plan"),
        (exposures(), LOG.drop("user"), "events has no column 'user'"),
        (exposures(), LOG.drop("event"), "events has no column 'event'"),
        (exposures(("a", "blue", at(0))), LOG, r"exposures: arm 'blue' is not in the plan \(control, treatment\)"),
        (exposures(("a", None, at(0)), ("b", "control", at(0))), LOG, "exposures: 'arm' is missing in 1 rows"),
        (exposures((None, "control", at(0)), ("b", "control", at(0))), LOG, "exposures: 'user' is missing in 1 rows"),
        (exposures(("a", "control", None), ("b", "control", at(0))), LOG, "exposures: 'time' is missing in 1 rows"),
        (exposures(("a", "control", "soon")), LOG, "exposures: time = 'soon' is not a time that is read"),
        (exposures(("a", "control", "soon"), ("b", "control", "2026-03-01")), LOG, "'time' is not a time in 1 rows"),
        (exposures((1, "control", at(0))), LOG, "units are Int64 in exposures and String in events"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_read_are_refused(shown, log, message):
    with pytest.raises(InputError, match=message):
        units(shown, log, plan({"n": {"kind": "count", "event": "click"}}))


def test_ids_of_whole_numbers_may_differ_in_width():
    shown = pl.DataFrame({"user": [1, 2], "arm": ["control", "treatment"], "time": [at(0)] * 2})
    log = pl.DataFrame({"user": [1], "time": [at(1)], "event": ["x"]}, schema_overrides={"user": pl.Int32})
    assert values(units(shown, log, plan()), "n") == {1: 1, 2: 0}


# -- events that cannot be --------------------------------------------------------------------------------------------


def test_more_clicks_than_impressions_and_no_impressions_are_refused():
    over = pl.concat([LOG, events(("b", at(1, 1), "click"), ("b", at(1, 2), "click"))])
    with pytest.raises(InputError, match=r"1 units have more 'click' than 'impression' events \(first: 'b', 2 to 1\)"):
        units(exposures(), over, plan({"m": {"kind": "ctr"}}))
    with pytest.raises(InputError, match="metric 'm': arm 'treatment' has no 'impression' events"):
        units(exposures(), LOG.filter(pl.col("user") != "b"), plan({"m": {"kind": "ctr"}}))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
def test_revenue_that_is_no_number_is_refused(bad):
    log = pl.concat([LOG, events(("b", at(1), "purchase", bad))])
    with pytest.raises(InputError, match=r"'value' of 1 'purchase' events is missing, NaN or infinite .metric 'm'."):
        units(exposures(), log, plan({"m": {"kind": "value"}}))
    other = pl.concat([LOG, events(("b", at(1), "impression", bad))])
    assert values(units(exposures(), other, plan({"m": {"kind": "value"}})), "m") == {"a": 10, "b": 0}


def test_negative_revenue_counts_as_it_is_and_has_no_log():
    log = pl.concat([LOG, events(("b", at(1), "purchase", -3.0))])
    found = units(exposures(), log, plan({"m": {"kind": "value"}}))
    assert values(found, "m") == {"a": 10, "b": -3}
    assert "m: 1 negative values are counted as they are, as refunds" in found.notes
    with pytest.raises(InputError, match=r"metric 'm' has a value of -3, which has no log\(1 \+ y\)"):
        units(exposures(), log, plan({"m": {"kind": "value", "transform": "log"}}))


def test_values_that_are_text_and_sql_that_is_none():
    text = LOG.with_columns(pl.col("value").cast(pl.String))
    with pytest.raises(InputError, match="events: 'value' holds String; give numbers"):
        units(exposures(), text, plan({"m": {"kind": "value"}}))
    for expression, message in (
        ("SUM(", "is no SQL aggregate"),
        ("SUM(price)", "metrics.m.expression cannot be computed"),
        ("value + 1", "gives one value per event; aggregate it"),
    ):
        with pytest.raises(InputError, match=message):
            units(exposures(), LOG, plan({"m": {"kind": "sql", "expression": expression}}))


# -- clusters ---------------------------------------------------------------------------------------------------------


def sessions(together):
    rows = []
    for i in range(60):
        arms = ["control", "treatment"]
        for j in range(2):
            rows.append((f"s{i}-{j}", f"u{i}", arms[i % 2 if together else j], at(0)))
    shown = pl.DataFrame(rows, schema=["session", "user", "arm", "time"], orient="row")
    log = pl.DataFrame({"session": [f"s{i}-{j}" for i in range(60) for j in range(2)], "time": [at(1)] * 120})
    return shown, log


def test_clusters_are_seen_and_summed_over():
    shown, log = sessions(together=True)
    by_session = units(shown, log, plan(unit="session"))
    assert "60 users have several units (session), all in one arm" in by_session.warnings[0]
    found = units(shown, log, plan(unit="session"), cluster="user")
    assert found.warnings == ()
    assert found.frame.height == 60
    assert found.frame["n__y"].to_list() == [2] * 60
    assert found.frame["n__d"].to_list() == [2] * 60
    shown, log = sessions(together=False)
    assert units(shown, log, plan(unit="session")).warnings == ()
    mixed = units(shown, log, plan(unit="session"), cluster="user")
    assert (mixed.contaminated, mixed.frame.height) == (60, 0)


def test_a_cluster_in_two_arms_is_the_only_one_left_out():
    shown, log = sessions(together=True)
    other = {"control": "treatment", "treatment": "control"}[shown["arm"][0]]
    arms = pl.Series("arm", [other, *shown["arm"][1:]])
    found = units(shown.with_columns(arms), log, plan(unit="session"), cluster="user")
    assert (found.contaminated, found.frame.height) == (1, 59)
    assert "1 clusters (user) were in more than one arm and are left out" in found.notes


def test_events_of_units_carry_their_exposure():
    found = units(exposures(), LOG, plan())
    joined = events_of(found, LOG, plan()).collect()
    assert joined.height == 10
    assert joined["__since"].n_unique() == 1
    twice = pl.concat([LOG, LOG[:2]])
    for duplicates, height in (("drop", 10), ("keep", 12)):
        again = units(exposures(), twice, plan(), duplicates=duplicates)
        assert events_of(again, twice, plan(), duplicates=duplicates).collect().height == height


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(-100, 400), st.sampled_from(["click", "impression"])),
                max_size=40))  # fmt: skip
@settings(max_examples=40)
def test_counts_and_visits_are_their_slow_definitions(rows):
    shown = exposures(("a", "control", at(0)), ("b", "treatment", at(0, 2)), ("c", "control", at(0, 1)))
    since = {"a": 0, "b": 120, "c": 60}
    log = events(*((user, START + timedelta(minutes=minute), kind) for user, minute, kind in rows))
    metrics = {"n": {"kind": "count", "event": "click"}, "s": {"kind": "sessions"}, "t": {"kind": "time-spent"}}
    found = units(shown, log, plan(metrics), duplicates="keep")
    for user, start in since.items():
        mine = sorted((minute, kind) for who, minute, kind in rows if who == user and minute >= start)
        gaps = [b[0] - a[0] for a, b in pairwise(mine)]
        assert values(found, "n")[user] == sum(kind == "click" for _, kind in mine)
        assert values(found, "s")[user] == (1 + sum(gap > 30 for gap in gaps) if mine else 0)
        assert values(found, "t")[user] == 60 * sum(gap for gap in gaps if gap <= 30)
