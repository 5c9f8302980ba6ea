import pytest

from suisen.experiments.looks import look_of
from tests.experiments.made import START, plan

DAY = 86_400 * 10**6
GROUP = {"kind": "group", "looks": [0.25, 0.5, 1.0]}


@pytest.mark.parametrize(
    ("units", "number", "times"),
    [
        (100, 0, ()), (249, 1, (0.249,)), (300, 1, (0.3,)), (500, 2, (0.25, 0.5)), (700, 2, (0.25, 0.7)),
        (1000, 3, (0.25, 0.5, 1.0)), (1500, 3, (0.25, 0.5, 1.0)),
    ],
)  # fmt: skip
def test_the_look_is_the_last_one_reached(units, number, times):
    look, found = look_of(plan(sample=1000, sequential=GROUP), units, None)
    assert (look.number, look.of, found) == (number, 3, times)


def test_time_stands_in_for_a_sample():
    look, times = look_of(plan(sequential=GROUP), 10, START + 5 * DAY)
    assert (look.fraction, times) == (0.5, (0.25, 0.5))
    assert "50 % of the planned time" in look.said
    none, times = look_of(plan(sequential=GROUP, start="", end=""), 10, START)
    assert (none.fraction, none.number, times) == (None, 0, ())


@pytest.mark.parametrize(
    ("more", "now", "early", "said"),
    [
        ({"sample": 100}, 5, False, "planned sample reached"),
        ({"sample": 200}, 5, True, "50 % of the planned sample, looked at early without a sequential plan"),
        ({"sample": 200}, 10, False, "at the end (2024-05-11T00:00:00Z); power is less than planned"),
        ({}, 10, False, "planned time reached"),
        ({"end": "2024-05-31"}, 29.2, False, "planned time reached"),  # the last day's night
        ({"end": "2024-05-31"}, 28.8, True, "96 % of the planned time, looked at early"),
        ({"end": "2024-05-02"}, 0.9, True, "90 % of the planned time, looked at early"),
        ({}, 5, True, "50 % of the planned time, looked at early"),
        ({"start": "", "end": ""}, 5, False, "neither sample nor dates were planned"),
    ],
)
def test_one_look_at_the_end(more, now, early, said):
    look, times = look_of(plan(**more), 100, START + int(now * DAY))
    assert (look.kind, look.early, times) == ("fixed", early, ())
    assert said in look.said


def test_always_valid_allows_any_look():
    look, _ = look_of(plan(sequential={"kind": "always-valid"}, sample=400), 100, None)
    assert look.said == "always-valid: any number of looks is allowed for (25 % of the planned sample)"
    assert not look.early
