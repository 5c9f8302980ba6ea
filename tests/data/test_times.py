"""Times of any spelling, against Python's own datetime."""

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.times import parse_times
from suisen.errors import InputError

moments = st.datetimes(datetime(1970, 1, 2), datetime(2100, 1, 1))
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment):
    return (moment - EPOCH) // timedelta(microseconds=1)


def parsed(values, **options):
    return parse_times("ts", pl.Series("ts", values), **options).values.to_list()


def whys(values, **options):
    times = parse_times("ts", pl.Series("ts", values), **options)
    return [next((why for why, bad in times.faults if bad[i]), "") for i in range(len(values))]


@given(st.lists(moments, min_size=1, max_size=5), zones, st.sampled_from("T "))
def test_zoned_iso_text(values, zone, between):
    local = [value.replace(tzinfo=UTC).astimezone(zone) for value in values]
    assert parsed([value.isoformat(between) for value in local]) == [micros(value) for value in local]


@given(st.lists(moments, min_size=1, max_size=5), st.sampled_from(["UTC", "Asia/Tokyo"]))
def test_naive_iso_text_is_taken_in_the_zone_given(values, zone):
    expected = [micros(value.replace(tzinfo=ZoneInfo(zone))) for value in values]
    assert parse_times("ts", pl.Series([v.isoformat() for v in values]), zone=zone).values.to_list() == [
        value if value >= 0 else None for value in expected
    ]


@given(st.lists(moments, min_size=1, max_size=5))
def test_datetimes_with_and_without_a_zone(values):
    zoned = pl.Series(values).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo")
    expected = [micros(value.replace(tzinfo=UTC)) for value in values]
    assert parse_times("ts", zoned, zone="Europe/Berlin").values.to_list() == expected
    assert parsed(values) == expected


SECONDS = st.integers(10**9, 19 * 10**8 - 1) | st.integers(21 * 10**8, 4 * 10**9)
"""Between them lie the years 2030 to 2036, whose seconds are written like dates with hours, 1900 to 2099."""


@given(st.lists(SECONDS, min_size=1, max_size=5), st.sampled_from(["s", "ms", "us", "ns"]))
def test_the_unit_of_numbers_is_found(seconds, unit):
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    expected = [value * 10**6 for value in seconds]
    for given_unit in ("auto", unit):
        assert parsed([value * factor for value in seconds], unit=given_unit) == expected
        assert parsed([str(value * factor) for value in seconds], unit=given_unit) == expected
        assert parsed([float(value * factor) for value in seconds], unit=given_unit) == expected


def test_other_spellings():
    day = micros(datetime(2021, 3, 4, tzinfo=UTC))
    assert parsed(["2021-03-04", "2021/3/4", "2021-03-04T00:00Z", " 2021-03-04 09:00:00,000+0900 "]) == [day] * 4
    assert parsed([date(2021, 3, 4)]) == [day]
    assert parsed(["1614816000.25"]) == [day + 250_000]
    assert parsed(["2021-03-04T00:00:00.1234567-01"]) == [day + 3600 * 10**6 + 123_456]


def test_a_column_of_nothing_is_missing():
    assert whys([None, None]) == ["is missing"] * 2


def test_small_numbers_are_seconds():
    assert parsed([0, 1, 2]) == [0, 10**6, 2 * 10**6]


def test_a_local_hour_that_came_twice_is_the_earlier_and_one_that_was_skipped_is_none():
    got = parsed(["2021-10-31T02:30:00", "2021-03-28T02:30:00"], zone="Europe/Berlin")
    assert got == [micros(datetime(2021, 10, 31, 0, 30, tzinfo=UTC)), None]


def test_says_what_is_wrong():
    assert whys(["2021-02-30", "2021-01-01T24:00", "soon", " ", None, "1969-12-31", "2021-01-01"]) == [
        "is not a time",
        "is not a time",
        "is not a time",
        "is missing",
        "is missing",
        "is negative (before 1970)",
        "",
    ]
    beyond = "is beyond the year 9999; is its unit another?"
    assert whys([1.6e9, -1.0, float("nan"), float("inf"), 1.6e18]) == [
        "",
        "is negative (before 1970)",
        "is not a time",
        "is not a time",
        beyond,
    ]
    assert whys(["5", "nan", "x"], unit="s") == ["", "is not a time", "is not a time"]
    assert whys(["5", "2021-01-01"], unit="iso") == ["is not a time", ""]
    assert whys([1_600_000_000, 2**62, 1_600_000_001]) == ["", beyond, ""]


def test_says_how_it_read():
    assert parse_times("ts", pl.Series([1_600_000_000_000])).said == "milliseconds since 1970"
    assert parse_times("ts", pl.Series(["2021-01-01"]), zone="Asia/Tokyo").said.startswith("ISO 8601, zone Asia/Tokyo")


def test_refuses_what_cannot_be_times():
    with pytest.raises(InputError, match="time column 'ts' holds List"):
        parsed([[1]])
    with pytest.raises(InputError, match="time_unit = 'sec' is unknown"):
        parsed([1], unit="sec")
    with pytest.raises(InputError, match="time_zone = 'Asia/Tokio' is no time zone"):
        parsed(["2021-01-01"], zone="Asia/Tokio")
    with pytest.raises(InputError, match="a time without a date"):
        parsed([timedelta(seconds=1)])
