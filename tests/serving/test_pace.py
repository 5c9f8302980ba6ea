from __future__ import annotations

import math
import random
from collections import deque
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.serving.pace import JUMP, Pace
from suisen.serving.problems import Refusal
from suisen.serving.service import BATCH


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
    before = pace.lasts(units)
    pace.took(units, 1e9)
    assert pace.lasts(units) <= before * JUMP * 1.001
    for _ in range(200):
        pace.took(units, seconds * units)
    assert math.isclose(pace.lasts(units), seconds * units, rel_tol=0.01)


@given(st.floats(1e-4, 1e-1), st.floats(1e-7, 1e-4), st.permutations([200.0, 1_000.0, 5_000.0]))
def test_what_a_call_takes_is_told_from_what_its_units_take(call_s, unit_s, sizes):
    pace = Pace("test", 10)
    for units in sizes * 100:
        pace.took(units, call_s + unit_s * units)
    assert math.isclose(pace.lasts(4_800.0), call_s + unit_s * 4_800.0, rel_tol=0.1)


def test_calls_of_one_query_do_not_make_many_queries_look_dear():
    """A call takes 50 ms and hardly more for more queries: what is taken in grows with what calls were seen to take."""
    pace = Pace("test", 1_000, 1.0, 0.5)
    for _ in range(200):
        pace.took(1_000.0, 0.051)
    taken = [0]
    while taken[-1] < 300 and len(taken) < 20:
        while pace.wait_s <= 0.5 and pace.rows < 300:
            pace.take(1, 1_000.0)
        taken.append(pace.rows)
        pace.took(pace.units, 0.05 + pace.units * 1e-6)
        pace.gave(pace.rows, pace.units)
    assert taken[1] < 20
    assert taken[-1] == 300


def test_calls_of_one_size_are_counted():
    pace = Pace("test", 10_000, 1.0, 0.5)
    for _ in range(100):
        pace.took(2.0, 0.002)
    while pace.wait_s <= 0.5:
        pace.take(1, 1.0)
    assert 450 <= pace.rows <= 550


# -- a lane in time that is reckoned, not measured --------------------------------------------------------------------

DEADLINE_S, UNITS = 1.0, 1_365.0


def reckoned(rate, call_s, row_s, noise, seconds=20.0):
    """Requests per second that are answered in time by a lane whose calls take ``call_s`` and ``row_s`` per query,
    times a random factor; as ``Lane`` takes batches.
    """
    rng, pace = random.Random(0), Pace("test", 8_192, DEADLINE_S, 0.5)
    now, due, answered, waiting, batch = 0.0, 0.0, 0, deque(), []
    began = ends = 0.0
    while now < seconds:
        if batch and ends <= due:
            now = ends
            pace.took(UNITS * len(batch), now - began)
            answered += sum(now - came <= DEADLINE_S for came in batch)
            for _ in batch:
                pace.gave(1, UNITS)
            batch = []
        else:
            now, due = due, due + rng.expovariate(rate)
            with suppress(Refusal):
                pace.take(1, UNITS)
                waiting.append(now)
        while waiting and not batch:
            lasts = pace.call_s
            while waiting and len(batch) < 256 and lasts < BATCH * DEADLINE_S:
                came = waiting.popleft()
                if came + DEADLINE_S - now > min(lasts + UNITS * pace.unit_s, DEADLINE_S / 2):
                    batch.append(came)
                    lasts += UNITS * pace.unit_s
                else:
                    pace.gave(1, UNITS)
            began, ends = now, now + (call_s + row_s * len(batch)) * rng.lognormvariate(0, noise)
    return answered / seconds


@pytest.mark.parametrize("times", [1.2, 2, 10])
@pytest.mark.parametrize(
    ("call_s", "row_s"), [(0.03, 0.0017), (0.0, 0.003), (0.001, 0.05), (0.05, 0.002), (0.1, 0.001)]
)
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_what_is_answered_in_time_stays_when_more_is_offered(times, call_s, row_s, noise):
    """Nine tenths of what batches that end in time could answer, however dear a call or a query; seven where
    a call takes between half and double.
    """
    sizes = [n for n in range(1, 257) if n == 1 or call_s + n * row_s <= BATCH * DEADLINE_S]
    borne = max(n / (call_s + n * row_s) for n in sizes)
    assert reckoned(times * borne, call_s, row_s, noise) >= borne * (0.7 if noise else 0.9)
