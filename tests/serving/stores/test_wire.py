from __future__ import annotations

from math import isclose, log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.recommending.states import Kept
from suisen.serving.stores.wire import early, events_key, line, new_stamp, packed, row_key, told, unpacked

ITEMS = 50
KEY = row_key("M-1", "u:7")
floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


@st.composite
def rows(draw):
    seen = np.array(sorted(draw(st.sets(st.integers(1, ITEMS - 1)))), dtype=np.int32)
    query = np.array(draw(st.lists(floats, min_size=3, max_size=3)), dtype=np.float32)
    row = draw(st.none() | st.just(np.arange(2, dtype=np.float32)))
    return Kept(query, row, draw(st.booleans()), draw(st.booleans()), seen.tobytes(), draw(st.none() | st.binary()))


def opened(value, row, key=KEY, events=None):
    return unpacked(key, value, row.events if events is None else events, (3, 0 if row.row is None else 2), ITEMS)


@given(rows(), floats, st.floats(0, 10))
def test_a_row_comes_back_as_it_was_written(row, expires, seconds):
    found = opened(packed(KEY, row, expires, seconds), row)
    assert (found.expires, found.seconds) == (expires, seconds)
    for one, other in zip(found.row, row, strict=True):
        assert np.array_equal(one, other) if isinstance(other, np.ndarray) else one == other


@given(rows(), st.data())
def test_a_row_that_was_changed_anywhere_or_moved_is_refused(row, data):
    value = packed(KEY, row, 1.0, 0.1)
    at = data.draw(st.integers(0, len(value) - 1))
    changed = value[:at] + bytes([value[at] ^ data.draw(st.integers(1, 255))]) + value[at + 1 :]
    cut = value[:at]
    for broken in (changed, cut, value + b"x"):
        with pytest.raises(ValueError, match="checksum"):
            opened(broken, row)
    for key in (row_key("M-2", "u:7"), row_key("M-1", "u:8"), row_key("M-1", "s:7")):
        with pytest.raises(ValueError, match="checksum"):
            opened(value, row, key)


@given(rows())
def test_a_row_of_other_events_is_no_row_of_now(row):
    assert opened(packed(KEY, row, 1.0, 0.1), row, events=(row.events or b"") + b"more") is None


@pytest.mark.parametrize(
    ("query", "seen"),
    [([np.nan, 0, 0], [1]), ([np.inf, 0, 0], [1]), ([0, 0, 0], [0]), ([0, 0, 0], [ITEMS]), ([0, 0, 0], [3, 3]),
     ([0, 0, 0], [-1]), ([0, 0], []), ([0, 0, 0, 0], [9, 8])],
)  # fmt: skip
def test_numbers_that_no_row_holds_are_refused_though_the_checksum_is_right(query, seen):
    row = Kept(np.array(query, np.float32), None, True, True, np.array(seen, np.int32).tobytes(), None)
    with pytest.raises(ValueError, match=r"numbers|bytes"):
        opened(packed(KEY, row, 1.0, 0.1), row)


texts = st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable() or "\n" in text)


@given(
    st.lists(
        st.tuples(st.integers(0, 2**53), texts, st.none() | st.from_regex(r"[A-Za-z0-9._:+/=#-]+", fullmatch=True))
    )
)
def test_events_come_back_in_order_whatever_their_ids(events):
    lines = [line(*event) for event in events]
    assert not any(b"\n" in one for one in lines)
    found = told(new_stamp() + b"\n" + b"".join(one + b"\n" for one in lines))
    assert found.damaged == 0
    assert list(zip(found.times, found.items, strict=True)) == [event[:2] for event in events]


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(noise):
    found = told(noise)
    assert len(found.times) == len(found.items)
    good = line(5, "i", None)
    assert told(new_stamp() + b"\n" + noise.replace(b"\n", b"") + b"\n" + good + b"\n").items[-1] == "i"


def test_only_a_clients_id_says_that_an_event_is_a_repeat():
    assert line(5, "i", "e-1") == b'[5,"i","e-1"]'
    for name in (None, "~server-1", 'quoted"', "back\\slash"):
        assert line(5, "i", name) == b'[5,"i",0]'


def test_names_of_users_and_sessions_never_meet():
    assert events_key("u:s:7") != events_key("s:7")
    assert row_key("a", "u:7") != row_key("b", "u:7")


def test_early_is_rare_far_from_the_end_and_sure_at_it():
    assert early(100.0, 0.0, 100.0, 1.0)
    assert not early(100.0, 1.0, 99.0, 1.0)
    drawn = (np.arange(10_000) + 1) / 10_000
    for before in (0.5, 2.0, 6.0):
        share = np.mean([early(100.0, 1.0, 100.0 - before, one) for one in drawn])
        assert isclose(share, np.exp(-before), abs_tol=2e-4)
    assert not early(100.0, 1.0, 90.0, np.exp(-9.99))
    assert early(100.0, 1.0, 90.0, np.exp(-10.01))
    assert log(1.0) == 0
