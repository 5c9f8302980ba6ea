from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.serving.pace import JUMP, Pace
from suisen.serving.problems import Refusal


def test_a_job_alone_is_taken_whatever_it_costs():
    pace = Pace("test", 10, 1.0, 0.5)
    pace.take(100, 1e9)
    with pytest.raises(
        Refusal, match="100 queries are waiting for about 1e\\+03 s for test; try again in 1000 seconds"
    ) as it:
        pace.take(1, 1.0)
    assert dict(it.value.headers)[b"retry-after"] == b"1000"
    pace.gave(100, 1e9)
    pace.take(1, 1.0)


def test_a_job_that_would_end_after_its_deadline_is_refused():
    pace = Pace("test", 10, 1.0, 0.5)
    pace.take(1, 0.3e6)
    with pytest.raises(Refusal, match="waiting"):
        pace.take(1, 0.8e6)
    pace.take(1, 0.6e6)


def test_before_a_body_is_read_what_is_refused_is_what_would_be():
    pace = Pace("test", 2, 1.0, 0.5)
    pace.check()
    pace.take(1, 0.6e6)
    with pytest.raises(Refusal, match="1 queries"):
        pace.check()
    pace.gave(1, 0.6e6)
    pace.take(2, 1.0)
    with pytest.raises(Refusal, match="2 queries"):
        pace.check()


@given(st.lists(st.tuples(st.integers(1, 300), st.floats(0, 1e7)), max_size=60), st.floats(0.05, 1))
def test_what_is_held_never_takes_longer_than_the_bound_and_one_job(jobs, share):
    pace = Pace("test", 1_000, 2.0, share)
    held = []
    for rows, units in jobs:
        try:
            pace.take(rows, units)
        except Refusal:
            assert held
            assert pace.wait_s > 2.0 * share or pace.rows + rows > 1_000 or pace.wait_s + units * 1e-6 > 2.0
        else:
            held.append((rows, units))
            assert len(held) == 1 or pace.wait_s <= 2.0 * (1 + 1e-9)
        assert pace.rows == sum(rows for rows, _ in held)
    for rows, units in held:
        pace.gave(rows, units)
    assert (pace.rows, pace.units) == (0, 0.0)


@given(st.floats(1e-9, 1e-2), st.floats(1, 1e6))
def test_the_estimate_comes_to_what_is_measured_and_no_call_alone_moves_it_far(seconds, units):
    pace = Pace("test", 10)
    before = pace.unit_s
    pace.took(units, 1e9)
    assert pace.unit_s <= before * JUMP
    for _ in range(100):
        pace.took(units, seconds * units)
    assert math.isclose(pace.unit_s, seconds, rel_tol=0.01)
