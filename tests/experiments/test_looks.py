from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.errors import InputError
from suisen.experiments.looks import look_of, looks_path, ordinal, read_looks, remember, taken_of
from suisen.experiments.sequential import GroupDesign, spending_bounds, spent
from suisen.experiments.standing import Taken
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


# -- looks that were taken --------------------------------------------------------------------------------------------


def group(looks, **more):
    return plan(sample=10_000, sequential={"kind": "group", "looks": list(looks)} | more)


def walk(planned, shares):
    """Every look at the shares, each told of those before, with its fractions; shares rise or fall."""
    found, taken = [], []
    for share in shares:
        look, times = look_of(planned, round(share * planned.sample), None, taken)
        found.append((look, times))
        blocked = look.barred or (look.kind == "group" and not look.number) or None
        seen = SimpleNamespace(look=look, verdict=f"at {share}", blocked=blocked)
        if look.order > sum(one.judged for one in taken):
            taken.append(taken_of(seen, datetime(2024, 5, 1 + len(taken), tzinfo=UTC)))
    return found


def test_bounds_follow_the_looks_that_were_really_taken():
    (late, one), (end, two) = walk(group([0.5, 1.0]), [0.9, 1.0])
    assert (one, two) == ((0.9,), (0.9, 1.0))
    assert end.bound == pytest.approx(2.053, abs=5e-4)
    assert end.bound == pytest.approx(spending_bounds([0.9, 1.0]).bounds[1])
    assert late.said.startswith("look 1 of 2 (90 % of the planned sample; planned at 50 %), ")
    as_planned, _ = look_of(group([0.5, 1.0]), 10_000, None)
    assert as_planned.bound == pytest.approx(1.969, abs=5e-4)  # nobody knows: as if it was looked at 50 %
    alone, times = look_of(group([0.5, 1.0]), 10_000, None, [])
    assert (times, alone.bound) == ((1.0,), pytest.approx(1.959964))


@pytest.mark.parametrize("spending", ["obrien-fleming", "pocock"])
def test_an_unplanned_look_spends_what_is_left_and_is_named(spending):
    first, more, last = (look for look, _ in walk(group([0.5, 1.0], spending=spending), [0.5, 0.7, 1.0]))
    assert [first.unplanned, more.unplanned, last.unplanned] == [False, True, False]
    assert more.said.startswith(
        "UNPLANNED LOOK (70 % of the planned sample; planned at 50 %, 100 %), which spends only"
    )
    design = spending_bounds([0.5, 0.7, 1.0], spending=spending)
    assert [first.bound, more.bound, last.bound] == pytest.approx(design.bounds)
    assert [first.spent, more.spent, last.spent] == pytest.approx(spent([0.5, 0.7, 1.0], spending=spending))


def test_the_same_data_are_the_same_look():
    planned = group([0.5, 1.0])
    once = walk(planned, [0.5, 0.8, 1.0])
    again = walk(planned, [0.5, 0.5, 0.8, 0.5, 0.797, 0.8, 1.0, 1.0, 0.5])
    assert [look for look, _ in again if look.units in (5_000, 8_000, 10_000)] == [
        once[i][0] for i in (0, 0, 1, 0, 1, 2, 2, 0)
    ]
    assert again[4][0].order == 2  # a table that was cleaned holds a little less


def test_there_is_no_new_chance_behind_a_look_or_past_the_end():
    found = [look for look, _ in walk(group([0.5, 1.0]), [0.3, 0.6, 0.55, 1.0, 1.1, 1.5])]
    assert [look.bound is None for look in found] == [True, False, True, False, True, True]
    assert found[2].barred == "these data hold no more than those of the first look (2024-05-02, at 60 %)"
    assert found[4].barred == "nothing is left of alpha since the second look (2024-05-04, at 100 %)"
    ((over, times),) = walk(group([0.5, 1.0]), [1.4])  # never looked before: the one look at the end
    assert (over.bound, times) == (pytest.approx(1.959964), (1.0,))


@pytest.mark.parametrize(("looks", "spending"), [((0.5, 1.0), "obrien-fleming"), ((0.3, 0.6, 1.0), "pocock")])
def test_a_look_every_twentieth_and_past_the_end_keeps_alpha(looks, spending):
    shares = np.arange(1, 31) / 20
    bounds = [look.bound or np.inf for look, _ in walk(group(looks, spending=spending), shares)]
    steps = np.random.default_rng(0).standard_normal((100_000, shares.size)) * np.sqrt(0.05)
    z = np.abs(steps.cumsum(1)) / np.sqrt(shares)
    crossed = (z >= np.array(bounds)).any(1).mean()
    assert 0.04 < crossed < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 100_000)
    unremembered = [look_of(group(looks, spending=spending), round(share * 10_000), None)[0].bound for share in shares]
    assert (z >= np.array([bound or np.inf for bound in unremembered])).any(1).mean() > 0.065


@settings(max_examples=25)
@given(st.lists(st.floats(0.02, 1.6), min_size=1, max_size=8), st.sampled_from([0.01, 0.05, 0.2]))
def test_no_looks_spend_more_than_alpha(shares, alpha):
    planned = replace(group([0.25, 0.5, 1.0]), alpha=alpha)
    found = [(look, times) for look, times in walk(planned, shares) if look.bound is not None]
    if not found:
        return
    whole = max(times for _, times in found)
    by_time = {times[-1]: look.bound for look, times in found}
    design = GroupDesign(whole, tuple(by_time[time] for time in whole))
    assert design.crossing().sum() <= alpha + 1e-6


def test_looks_without_a_sequential_plan_are_counted():
    found = [look for look, _ in walk(plan(sample=10_000), [0.2, 0.2, 0.5, 1.0, 1.0])]
    assert [look.order for look in found] == [1, 1, 2, 3, 3]
    assert found[1].said == "20 % of the planned sample, looked at early without a sequential plan"
    assert found[2].said.endswith("looked at early without a sequential plan; second look")
    assert found[4].said == "planned sample reached; third look without a sequential plan"
    assert (ordinal(10), ordinal(11)) == ("tenth", "11th")


def taken(**more):
    return Taken(
        **{
            "kind": "group",
            "share": 0.5,
            "units": 5_000,
            "until": "",
            "number": 1,
            "spent": float(spent(0.5)),
            "bound": 2.96,
            "verdict": "",
            "when": "2024-05-03T00:00:00Z",
        }
        | more
    )


@pytest.mark.parametrize("more", [{"spent": 0.02}, {"kind": "fixed", "spent": None, "bound": None}])
def test_looks_under_another_plan_are_refused(more):
    with pytest.raises(InputError, match=r"of 2024-05-03T00:00:00Z was taken under another plan .*put alpha and \[seq"):
        look_of(group([0.5, 1.0]), 7_000, None, [taken(**more)])


# -- on disk ----------------------------------------------------------------------------------------------------------


def result_at(units, planned, blocked=None):
    look, _ = look_of(planned, units, None, ())
    return SimpleNamespace(look=look, verdict=f"seen {units}", plan=planned, blocked=blocked)


def test_looks_are_kept_beside_the_plan_and_only_ever_added(tmp_path):
    place, planned = looks_path(tmp_path / "a.toml"), group([0.5, 1.0])
    assert place == tmp_path / "a.looks.json"
    assert read_looks(place, planned) == ()
    for units in (5_000, 5_000, 7_000, 5_000):
        remember(place, result_at(units, planned))
    looks = read_looks(place, planned)
    assert [(one.share, one.units, one.verdict) for one in looks] == [
        (0.5, 5_000, "seen 5000"),
        (0.7, 7_000, "seen 7000"),
    ]
    assert looks[0].spent == pytest.approx(float(spent(0.5)))
    assert [each.name for each in tmp_path.iterdir()] == ["a.looks.json"]


def test_a_look_whose_verdict_was_blocked_spends_nothing(tmp_path):
    place, planned = looks_path(tmp_path / "a.toml"), group([0.5, 1.0])
    for blocked in ("sample ratio", "sample ratio", None, None):  # what was broken is mended on the same data
        remember(place, result_at(6_000, planned, blocked))
    broken, good = read_looks(place, planned)
    assert (broken.judged, broken.spent, broken.bound) == (False, None, None)
    assert (good.judged, good.spent) == (True, pytest.approx(float(spent(0.6))))
    assert look_of(planned, 6_000, None, [broken])[1] == (0.6,)
    assert look_of(planned, 8_000, None, [broken, good])[1] == (0.6, 0.8)
    again = [replace(each, kind="fixed", spent=None, bound=None) for each in (broken, good)]
    assert look_of(plan(sample=10_000), 8_000, None, again)[0].order == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is damaged, so nobody knows which looks were taken"),
        ("[]", "is damaged"),
        ('{"name": "t", "looks": [{"share": 0.5}]}', "is damaged"),
        ('{"name": "u", "looks": []}', "holds looks of 'u', not of 't'; give the new plan a file of its own"),
    ],
)
def test_a_file_of_looks_that_cannot_be_trusted_is_refused(tmp_path, text, message):
    place = tmp_path / "a.looks.json"
    place.write_text(text)
    with pytest.raises(InputError, match=message):
        read_looks(place, group([0.5, 1.0]))
    with pytest.raises(InputError, match=message):
        remember(place, result_at(5_000, group([0.5, 1.0])))
