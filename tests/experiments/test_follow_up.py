"""What has not happened yet is no 0: horizons, follow-up, looks before the end; and which rows are one event."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.durations import spelt
from suisen.errors import InputError
from suisen.experiments.analysis import AnalysisOptions, analyze
from suisen.experiments.earlier import by_reading, by_summing, moments_of
from suisen.experiments.families import DAY
from suisen.experiments.units import events_of, units
from tests.experiments.made import HOUR, START, plan

QUIET = AnalysisOptions(daily=False)
ARMS = np.array(["control", "treatment"])
WEEK = {"buys": {"kind": "conversion", "window": "7d"}}


def tables(exposed, happened):
    """Exposures of (user, arm, microseconds since START) and events of (user, microseconds since START, type)."""
    clock = pl.col("time").cast(pl.Datetime("us", "UTC"))
    columns = [{"user": pl.Int64, "arm": pl.String, "time": pl.Int64},
               {"user": pl.Int64, "time": pl.Int64, "event": pl.String}]  # fmt: skip
    frames = (pl.DataFrame(rows, schema=each, orient="row") for rows, each in zip((exposed, happened), columns))
    return tuple(frame.with_columns(pl.col("time") + START).with_columns(clock) for frame in frames)


def buyers(n=6000, days=10, share=0.3, late=((0, 3), (3, 7)), seed=0):
    """Users arrive evenly; both arms buy with one probability, the treatment's buyers later."""
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(0, days * DAY, n))
    arm = rng.integers(0, 2, n)
    low, high = np.array(late)[arm].T * DAY
    bought = rng.random(n) < share
    when = at + rng.integers(low, high)
    schema = pl.Datetime("us", "UTC")
    shown = pl.DataFrame({"user": np.arange(n), "arm": ARMS[arm], "time": at + START})
    log = pl.DataFrame({"user": np.arange(n)[bought], "time": when[bought] + START, "event": "purchase"})
    return shown.with_columns(pl.col("time").cast(schema)), log.with_columns(pl.col("time").cast(schema))


def before(frame, day):
    return frame.filter(pl.col("time").cast(pl.Int64) < START + int(day * DAY))


def numbers(result):
    """All that is computed, without words."""
    return (
        [(each.metric, each.n_control, each.n_treatment, each.control, each.absolute, each.relative, each.immature)
         for each in result.estimates],
        result.days, result.trends, result.cumulative, result.ratio,
    )  # fmt: skip


# -- looks before the end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["data stop", "events stop", "now", "no end"])
def test_two_days_before_the_end_later_buyers_are_no_fewer(how):
    """Taken as 0, what is yet to come lowers buys by 45.8 % with p = 5e-49."""
    shown, log = buyers()
    planned, options = plan(WEEK), replace(QUIET, cumulative=8)
    if how == "now":
        options = replace(options, now="2024-05-09")
    else:
        log = before(log, 8)
        shown = shown if how == "events stop" else before(shown, 8)
        planned = plan(WEEK, end="") if how == "no end" else planned
    found = analyze(shown, log, planned, options=options)
    (one,) = found.estimates
    followed = before(shown, 1)
    assert 570 < followed.height < 640
    assert abs(one.n_control + one.n_treatment - followed.height) <= 3  # the last event is a little before day 8
    assert one.p > 0.05
    assert one.relative.low < 0 < one.relative.high
    assert sum(one.immature) + one.n_control + one.n_treatment == len(before(shown, 10 if how == "events stop" else 8))
    assert any(
        note.startswith("buys: ") and "seen for less than 7 days and do not count" in note for note in found.notes
    )
    assert all(each.effect.p > 0.01 for each in found.cumulative if each.n > 100)
    assert found.cumulative[-1].n == one.n_control + one.n_treatment
    assert found.cumulative[-1].effect == one.effect


def test_whoever_is_followed_to_the_end_of_a_window_counts():
    exposed = [(i, ARMS[i % 2], i * HOUR) for i in range(6)]
    last = 7 * DAY + 3 * HOUR - 1
    found = units(*tables(exposed, [(0, last, "purchase")]), plan(WEEK))
    assert found.frame["buys__y"].to_list() == [0, 0, 0, 0, None, None]
    assert found.horizon == START + last + 1
    assert found.immature == {"buys": {"control": 1, "treatment": 1}}
    later = units(*tables(exposed, [(0, last + DAY, "purchase")]), plan(WEEK, end=spelt(START + last)))
    assert later.horizon == START + last
    assert later.frame["buys__y"].null_count() == 3


def test_retention_speaks_of_those_seen_for_so_long():
    rng = np.random.default_rng(3)
    n, looked = 9000, int(8.5 * DAY)
    at = rng.integers(0, looked, n)
    back = rng.random(n) < 0.48
    again = at + 7 * DAY + rng.integers(0, DAY, n)
    exposed = [(i, ARMS[i % 2], int(at[i])) for i in range(n)]
    log = [(i, int(again[i]), "open") for i in range(n) if back[i] and again[i] < looked]
    log.append((0, looked - 1, "open"))
    found = analyze(*tables(exposed, log), plan({"week": {"kind": "retention"}}, end="2024-05-22"), options=QUIET)
    (one,) = found.estimates
    inside = at <= looked - 8 * DAY
    assert one.n_control + one.n_treatment == inside.sum()
    truth = [back[inside & (np.arange(n) % 2 == arm)].mean() for arm in (0, 1)]
    assert [one.control, one.treatment] == pytest.approx(truth)
    assert one.control == pytest.approx(0.48, abs=0.06)  # all 9,000: 0.03


def test_without_a_window_everybody_counts_as_far_as_seen():
    shown, log = buyers(600)
    found = analyze(before(shown, 8), before(log, 8), plan({"buys": {"kind": "conversion"}}), options=QUIET)
    (one,) = found.estimates
    assert one.n_control + one.n_treatment == before(shown, 8).height
    assert one.immature == (0, 0)


def test_a_ratio_waits_for_the_longer_of_its_parts():
    metrics = {"r": {"kind": "ratio", "numerator": "a", "denominator": "b"}, "a": {"kind": "count", "window": "2d"},
               "b": {"kind": "count", "window": "5d"}}  # fmt: skip
    exposed = [(0, "control", 0), (1, "treatment", 3 * DAY)]
    found = units(*tables(exposed, [(0, 6 * DAY, "x")]), plan(metrics))
    assert [found.frame[f"{name}__y"].null_count() for name in "rab"] == [1, 0, 1]


def test_clusters_of_units_that_wait_wait_too():
    shown, log = tables([(0, "control", 0), (1, "control", 3 * DAY), (2, "treatment", 3 * DAY)], [(0, 6 * DAY, "x")])
    shown = shown.with_columns(house=pl.Series(["h", "h", "k"]))
    found = units(shown, log, plan({"n": {"kind": "count", "window": "5d"}}), cluster="house").frame.sort("house")
    assert found["n__y"].to_list() == [0, None]
    assert found["n__d"].to_list() == [1, 0]


def test_a_metric_for_which_nobody_was_followed_waits_alone():
    shown, log = buyers(400, days=4)
    metrics = {"buys": {"kind": "conversion"}, "month": {"kind": "conversion", "window": "28d"}}
    more = {"guardrails": {"month": {"margin": 0.1}}}
    found = analyze(shown, log, plan(metrics, **more), options=QUIET)
    assert [each.metric for each in found.estimates] == ["buys"]
    assert "month CANNOT BE JUDGED yet" in found.verdict
    assert "guardrails hold" not in found.verdict
    assert any(
        note.startswith("month needs 28 days after exposure, and no unit was seen for so long") for note in found.notes
    )
    with pytest.raises(InputError, match=r"metric 'month' needs 28 days .*the data reach 2024-05-1.*, the first is "
                                         r"over 2024-05-29T00.*; shorten it or wait"):  # fmt: skip
        analyze(shown, log, plan(metrics, primary="month"), options=QUIET)


def test_a_segment_where_too_few_were_followed_is_not_shown():
    shown, log = buyers(2000)
    shown = shown.with_columns(
        country=pl.when(pl.int_range(pl.len()).is_between(700, 740)).then(pl.lit("JP")).otherwise(pl.lit("FI"))
    )
    found = analyze(shown, log, plan(WEEK, segments=["country"]), options=replace(QUIET, now="2024-05-10"))
    assert [each.value for each in found.segments] == ["FI"]


def test_all_exposed_at_once_and_a_quiet_last_hour():
    exposed = [(i, ARMS[i % 2], 0) for i in range(8)]
    for last, mature in ((7 * DAY - HOUR, 8), (7 * DAY - 2 * HOUR, 0)):
        shown, log = tables(exposed, [(0, last, "purchase")])
        if mature:
            assert units(shown, log, plan(WEEK, end="2024-05-08")).frame["buys__y"].count() == mature
        else:
            with pytest.raises(InputError, match="needs 7 days after exposure"):
                units(shown, log, plan(WEEK, end="2024-05-08"))


def test_dates_reach_to_the_end_of_their_day():
    exposed = [(0, "control", 0), (1, "treatment", DAY), (2, "treatment", 2 * DAY)]
    shown, log = tables(exposed, [(0, 7 * DAY, "purchase"), (1, 4 * DAY, "purchase")])
    whole = [frame.with_columns(pl.col("time").dt.date()) for frame in (shown, log)]
    found = units(*whole, plan(WEEK))
    assert found.horizon == START + 8 * DAY
    assert found.frame["buys__y"].to_list() == [0, 1, None]
    timed = pl.concat([log, log[:1].with_columns(pl.col("time") - pl.duration(hours=1))])
    assert units(shown, timed, plan(WEEK)).horizon == START + 7 * DAY + 1


# -- now --------------------------------------------------------------------------------------------------------------


def test_nothing_at_or_after_now_counts():
    exposed = [(0, "control", 0), (1, "treatment", 0), (2, "control", 3 * DAY), (1, "control", 3 * DAY)]
    log = [(0, DAY, "x"), (1, 3 * DAY - 1, "x"), (1, 3 * DAY, "x"), (2, 4 * DAY, "x"), (0, -DAY, "x")]
    found = units(*tables(exposed, log), plan({"n": {"kind": "count"}}), now=START + 3 * DAY)
    assert dict(found.frame.select("__unit", "n__y").iter_rows()) == {0: 1, 1: 1}
    assert found.contaminated == 0
    assert (found.last, found.horizon) == (START + 3 * DAY - 1, START + 3 * DAY)
    assert "2 exposures at or after now (2024-05-04T00:00:00Z) do not count" in found.notes
    assert "1 events at or after now do not count" in found.notes
    with pytest.raises(InputError, match=r"now = 2024-05-01T00:00:00Z is not after start = 2024-05-01"):
        units(*tables(exposed, log), plan(), now=START)
    with pytest.raises(InputError, match=r"exposures: none of 4 is before now = 2024-04-30T00:00:00Z; mend it or wait"):
        units(*tables(exposed, log), plan(start=""), now=START - DAY)


def test_a_now_after_the_data_makes_nobody_followed_for_longer():
    shown, log = buyers(800)
    cut = before(shown, 8), before(log, 8)
    one, other = (
        analyze(*cut, plan(WEEK, end="2024-06-01"), options=replace(QUIET, now=now)) for now in ("", "2024-05-20")
    )
    assert numbers(one) == numbers(other)
    assert any(note.startswith("the data stop at 2024-05-08T2") for note in other.notes)
    assert not any(note.startswith("the data stop") for note in one.notes)


def test_days_that_have_not_come_have_no_rows():
    shown, log = buyers(1500, late=((0, 7), (0, 7)))
    for until, days in ((3.5, 3), (6.5, 6)):
        options = AnalysisOptions(now=spelt(START + int(until * DAY)))
        found = analyze(shown, log, plan({"buys": {"kind": "conversion"}}), options=options)
        assert [day.day for day in found.days] == list(range(days)), until
        stopped = analyze(before(shown, until), before(log, until), plan({"buys": {"kind": "conversion"}}))
        assert numbers(stopped) == numbers(found)
    assert all(int(each.late.split("-")[1]) < 6 for each in found.trends)


def test_the_end_of_a_window_is_no_effect_that_wears_off():
    rng = np.random.default_rng(5)
    log = [
        (i, day * DAY + HOUR, "x") for i in range(900) for day in range(8) for _ in range(1 + rng.poisson(1 + i % 2))
    ]
    shown = [(i, ARMS[i % 2], 0) for i in range(900)]
    found = analyze(*tables(shown, log), plan({"n": {"kind": "count", "window": "2d"}}))
    assert [day.day for day in found.days] == [0, 1]
    assert [(each.early, each.late, each.change.p > 0.01) for each in found.trends] == [("0-0", "1-1", True)]


def test_a_sample_is_of_those_who_were_followed():
    shown, log = buyers(2000)
    found = analyze(shown, log, plan(WEEK, sample=2000), options=replace(QUIET, now="2024-05-09"))
    assert found.look.fraction == pytest.approx(before(shown, 1).height / 2000, abs=0.002)
    assert found.look.early
    looks = {"kind": "group", "looks": [0.5, 1.0]}
    wait = analyze(shown, log, plan(WEEK, sample=2000, sequential=looks), options=replace(QUIET, now="2024-05-09"))
    assert wait.verdict.startswith("No verdict yet: before the first planned look (")


def test_a_log_that_begins_too_late_for_the_covariates_is_said():
    exposed = [(0, "control", 0), (1, "treatment", 4 * DAY)]
    metrics = {"n": {"kind": "count", "covariate": True}}
    log = [(0, -2 * DAY, "x"), (1, 3 * DAY, "x"), (0, 5 * DAY, "x")]
    said = "covariates: the log begins at 2024-04-29T00:00:00Z, less than pre = {} before the exposure of {} units"
    for pre, few in (("4d", 1), ("7d", 2), ("2d", 0)):
        notes = units(*tables(exposed, log), plan(metrics, pre=pre)).notes
        assert any(note.startswith(said.format(pre, few)) for note in notes) == bool(few)
    assert not any("covariates" in note for note in units(*tables(exposed, log), plan({"n": {"kind": "count"}})).notes)


MOMENT = st.integers(-3 * 24, 12 * 24)
EXPOSED = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 11 * 24)), min_size=6, max_size=14)
HAPPENED = st.lists(
    st.tuples(st.integers(0, 7), MOMENT, st.sampled_from(["purchase", "open"])), min_size=1, max_size=40
)
METRICS = {
    "buys": {"kind": "conversion"}, "soon": {"kind": "conversion", "window": "2d", "covariate": True},
    "back": {"kind": "retention", "first_day": 1, "last_day": 2}, "visits": {"kind": "sessions", "window": "3d"},
}  # fmt: skip


def drawn(exposed, happened):
    shown = [(user, ARMS[user % 2], hour * HOUR) for user, hour in exposed]
    return tables(shown, [(user, hour * HOUR + 1, kind) for user, hour, kind in happened])


@given(EXPOSED, HAPPENED, st.integers(1, 10 * 24))
@settings(max_examples=60)
def test_events_after_now_change_nothing(exposed, happened, hour):
    now = START + hour * HOUR
    shown, log = drawn(exposed, happened)
    known = [frame.filter(pl.col("time").cast(pl.Int64) < now) for frame in (shown, log)]
    if not known[0].height:
        return
    whole, cut = units(shown, log, plan(METRICS), now=now), units(*known, plan(METRICS))
    assert whole.frame.equals(cut.frame)
    assert (whole.horizon, whole.last, whole.immature, whole.exposed) == (
        cut.horizon, cut.last, cut.immature, cut.exposed
    )  # fmt: skip


@given(EXPOSED, HAPPENED, st.integers(0, 40))
@settings(max_examples=40)
def test_an_end_moved_beyond_the_data_changes_nothing(exposed, happened, further):
    shown, log = drawn(exposed, happened)
    ends = [spelt(START + 13 * DAY), spelt(START + (13 + further) * DAY), ""]
    one, *others = (units(shown, log, plan(METRICS, end=end)) for end in ends)
    for other in others:
        assert one.frame.equals(other.frame)
        assert one.immature == other.immature


@given(EXPOSED, HAPPENED)
@settings(max_examples=15)
def test_whoever_counts_now_has_the_same_value_a_day_later(exposed, happened):
    """The value of a window that is over does not depend on when it is looked at."""
    shown, log = drawn(exposed, happened)
    metrics = {name: {**each, "covariate": False} for name, each in METRICS.items() if name != "buys"}
    seen: dict[tuple[str, int], float] = {}
    log = pl.concat([log, *tables([], [(user, 13 * DAY, "late") for user in range(8)])[1:]])
    for day in range(1, 13):
        try:
            found = units(shown, log, plan(metrics, primary="soon"), now=START + day * DAY).frame
        except InputError:
            continue
        for name in metrics:
            for unit, value in found.select("__unit", f"{name}__y").iter_rows():
                if value is not None:
                    assert seen.setdefault((name, unit), value) == value


def test_moments_are_judged_by_their_own_horizon():
    shown, log = buyers(1500)
    cut = before(shown, 9), before(log, 8)
    planned = plan(WEEK)
    found = units(*cut, planned)
    untils = moments_of(found, planned, 10)
    slow = list(by_reading(planned, untils, lambda one: units(*cut, one)))
    fast = list(by_summing(events_of(found, cut[1], planned), found, planned, untils))
    assert [each.until for each in slow] == [each.until for each in fast]
    for one, other in zip(slow, fast, strict=True):
        assert one.frame.sort("__unit")["buys__y"].to_list() == other.frame.sort("__unit")["buys__y"].to_list()
    assert fast[-1].frame["buys__y"].count() == found.frame["buys__y"].count()


@pytest.mark.parametrize("kind", ["conversion", "sessions"])  # one pass, and each moment read anew
def test_the_last_moment_is_the_headline_where_the_log_pauses_before_now(kind):
    shown, log = buyers(1500)
    micros = pl.col("time").cast(pl.Int64)
    pause = log.filter((micros < START + 9 * DAY) | (micros >= START + 9.5 * DAY))
    planned = plan({"m": {"kind": kind, "event": "purchase", "window": "5d"}})
    found = analyze(shown, pause, planned, options=replace(QUIET, now=spelt(START + 9 * DAY + 12 * HOUR), cumulative=4))
    (one,) = found.estimates
    assert found.cumulative[-1].n == one.n_control + one.n_treatment
    assert found.cumulative[-1].effect == one.effect


# -- which rows are one event -----------------------------------------------------------------------------------------


def lists(n=400, shown_at_once=10, rate=0.0076, seed=0):
    """Users see lists of ten, logged in the same second without their items, and click rarely."""
    rng = np.random.default_rng(seed)
    exposed = [(i, ARMS[i % 2], 0) for i in range(n)]
    visits = rng.integers(1, 40, n)
    log = []
    for user in range(n):
        for visit in range(visits[user]):
            second = (1 + visit) * HOUR
            log += [(user, second, "impression")] * shown_at_once
            log += [(user, second + 60 * 10**6, "click")] * int(rng.random() < shown_at_once * rate)
    return tables(exposed, log)


def test_impressions_of_one_second_are_as_many_impressions():
    shown, log = lists()
    counts = dict(log.group_by("event").len().iter_rows())
    true = counts["click"] / counts["impression"]
    found = analyze(shown, log, plan({"ctr": {"kind": "ctr"}}), options=QUIET)
    mean = (found.estimates[0].control + found.estimates[0].treatment) / 2
    assert true == pytest.approx(0.0076, abs=0.001)
    assert mean == pytest.approx(true, rel=0.05)
    assert "repeated" not in found.verdict
    asked = analyze(shown, log, plan({"ctr": {"kind": "ctr"}}), options=replace(QUIET, duplicates="drop"))
    assert asked.estimates[0].control == pytest.approx(10 * found.estimates[0].control, rel=0.01)
    left = counts["impression"] - counts["impression"] // 10
    assert (asked.repeated, asked.events) == (left, log.height)
    assert f"{100 * left / log.height:.2g} % of the events were left out as repeated" in asked.verdict


def test_dates_alone_lose_no_rows():
    shown, log = lists(100)
    days = log.with_columns(pl.col("time").dt.date()), shown.with_columns(pl.col("time").dt.date())
    found = units(days[1], days[0], plan({"n": {"kind": "count"}}))
    assert found.frame["n__y"].sum() == log.height


def test_an_event_id_says_which_rows_are_one_event():
    shown, log = lists(100)
    log = log.with_columns(log_id=pl.int_range(pl.len()).cast(pl.String))
    named = plan({"ctr": {"kind": "ctr"}}, columns={"event_id": "log_id"})
    plain = units(shown, log, plan({"ctr": {"kind": "ctr"}}))
    sent_again = log[:60].with_columns(pl.col("time") + pl.duration(hours=2))  # with the time of the second try
    twice = pl.concat([sent_again, log])
    found = units(shown, twice, named)
    assert found.frame.equals(plain.frame)
    assert (found.repeated, found.events) == (60, log.height + 60)
    assert "60 events repeat another in its log_id and count once" in found.notes
    assert units(shown, twice.sample(fraction=1, shuffle=True, seed=1), named).frame.equals(plain.frame)
    kept = units(shown, twice, named, duplicates="keep").frame
    assert kept["ctr__d"].sum() > plain.frame["ctr__d"].sum()
    assert events_of(found, twice, named).collect().height == log.height
    clicks = log.with_columns(log_id=pl.lit("one request"))  # a click and an impression are never one event
    assert units(shown, clicks, named).frame["ctr__d"].max() == 1
    first = plan({"n": {"kind": "count", "window": "2h"}}, columns={"event_id": "log_id"})
    again = tables([(0, "control", 0), (1, "treatment", 0)], [(0, HOUR, "x"), (0, 3 * HOUR, "x"), (1, 4 * HOUR, "x")])
    for order in (again[1], again[1].reverse()):  # the first of the two is in the window
        assert units(again[0], order.with_columns(log_id=pl.lit(7)), first).frame["n__y"].to_list() == [1, 0]
    nameless = twice.with_columns(log_id=pl.lit(None, pl.String))
    assert units(shown, nameless, named).repeated == 0
    with pytest.raises(InputError, match="events has no column 'log_id'"):
        units(shown, log.drop("log_id"), named)


@pytest.mark.parametrize(("again", "said"), [(0.005, False), (0.02, True)])
def test_what_was_left_out_is_in_the_verdict_above_one_in_a_hundred(again, said):
    shown, log = lists(100)
    log = log.with_columns(event_id=pl.int_range(pl.len()))
    twice = pl.concat([log, log[: int(again * log.height)]])
    found = analyze(shown, twice, plan({"ctr": {"kind": "ctr"}}, columns={"event_id": "event_id"}), options=QUIET)
    assert ("% of the events were left out as repeated" in found.verdict) == said
    assert found.repeated == int(again * log.height)


# -- more clicks than impressions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "over", "fine"), [(400, 1, True), (400, 2, True), (400, 3, False), (2000, 10, True)])
def test_some_units_with_more_clicks_than_impressions_spoil_nothing(n, over, fine):
    shown = [(i, ARMS[i % 2], 0) for i in range(n)]
    log = [(i, HOUR, "impression") for i in range(n)]
    log += [(i, 2 * HOUR, "click") for i in range(0, n, 3)]
    log += [(2 * i, 3 * HOUR, "click") for i in range(over) for _ in range(5)]  # all in control
    made = plan({"ctr": {"kind": "ctr"}})
    if not fine:
        with pytest.raises(InputError, match=r"metric 'ctr': 3 units have more 'click' than 'impression' events "
                                             r"\(first: 0, 6 to 1\), 0.75 % of all and more than 1 %"):  # fmt: skip
            units(*tables(shown, log), made)
        return
    found = units(*tables(shown, log), made)
    assert (found.frame["ctr__y"] <= found.frame["ctr__d"]).all()
    assert found.frame["ctr__y"].null_count() == 0
    clickers = {*range(0, n, 3), *(2 * i for i in range(over))}
    assert found.frame["ctr__y"].sum() == len(clickers)
    said = f"ctr: units with more 'click' than 'impression' events ({over:,} of control, 0 of treatment) count as many"
    assert said in found.notes
