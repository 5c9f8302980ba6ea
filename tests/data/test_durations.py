import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.durations import duration, moment, spelt
from suisen.errors import InputError


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("2w", 1209600), (" 1.5h ", 5400)]
)
def test_durations(text, seconds):
    assert duration("gap", text) == seconds * 1_000_000
    assert moment("test", text, 10**15) == 10**15 - seconds * 1_000_000


@pytest.mark.parametrize("text", ["1970-01-02", "1970-01-02T00:00:00Z", "1970-01-02T09:00:00+09:00"])
def test_iso_times(text):
    assert moment("test", text, 0) == 86_400_000_000


@pytest.mark.parametrize("text", ["7", "d", "-7d", "7 days", ""])
def test_what_is_neither_is_refused(text):
    with pytest.raises(InputError, match=r"gap = .* is no duration; write a number and a unit, like '30m'"):
        duration("gap", text)
    with pytest.raises(InputError, match=r"test = .* is neither a duration like '7d' nor an ISO time"):
        moment("test", text, 0)


@given(st.integers(-(10**15), 10**16))
def test_moments_are_spelt_as_they_are_read(micros):
    assert moment("test", spelt(micros), 0) == micros
