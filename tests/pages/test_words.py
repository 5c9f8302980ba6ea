from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from suisen.data.durations import spelt
from suisen.pages.words import MONTHS, day, share, span

SECONDS = st.integers(-2_000_000_000, 10_000_000_000)


@given(SECONDS)
def test_a_moment_is_the_day_that_it_is(seconds):
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    said = day(spelt(seconds * 1_000_000)).split()
    assert said == [str(when.day), MONTHS[when.month - 1], str(when.year)]
    assert when.strftime("%b") in MONTHS


@given(st.text())
def test_what_is_no_moment_stays_as_it_is(text):
    assert day(f"on {text}") == f"on {text}"
    assert span(f"on {text}", text) == f"on {text} to {day(text)}"


@given(SECONDS, st.integers(0, 400 * 86_400))
def test_minutes_are_said_of_brief_spans_alone(start, length):
    first, last = (spelt(1_000_000 * seconds) for seconds in (start, start + length))
    assert (":" in span(first, last)) == (length < 3 * 86_400)


def test_moments_with_and_without_a_zone():
    assert span("2020-01-01T00:00:00", "2020-01-02T00:00:00Z").split() == ["1", "Jan", "2020", "to", "2", "Jan", "2020"]


@given(st.floats(0, 1))
def test_a_share_has_three_digits_and_no_more(part):
    said = float(share(part).split()[0]) / 100
    assert abs(said - part) <= 0.0051 * part + 1e-12
