"""Interleaving: the two algorithms against their definitions, fairness by simulation, the sign test against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from suisen.errors import InputError
from suisen.experiments.interleaving import (
    TeamDraft,
    balanced,
    by_unit,
    preference,
    share_interval,
    sign_test,
    team_draft,
)


def slow_team_draft(a, b, k, coins):
    """Radlinski, Kurup, Joachims 2008, algorithm 2, line by line; what is left of one list fills up."""
    shown, team = [], []
    for coin in coins[:k]:
        left = [[i for i in ranked if i not in shown] for ranked in (a, b)]
        if left[0] and left[1]:
            counts = team.count(0), team.count(1)
            turn = (1 if coin else 0) if counts[0] == counts[1] else int(counts[1] < counts[0])
            shown.append(left[turn][0])
            team.append(turn)
        elif left[0] or left[1]:
            shown.append((left[0] or left[1])[0])
            team.append(-1)
    return shown, team


def slow_balanced(a, b, k, b_first):
    """Algorithm 1 of the same paper, going on where one list has ended."""
    shown, at_a, at_b = [], 0, 0
    while len(shown) < k and (at_a < len(a) or at_b < len(b)):
        if at_b >= len(b) or (at_a < len(a) and (at_a < at_b or (at_a == at_b and not b_first))):
            shown += [a[at_a]] if a[at_a] not in shown else []
            at_a += 1
        else:
            shown += [b[at_b]] if b[at_b] not in shown else []
            at_b += 1
    return shown


def padded(items, width):
    return list(items) + [-1] * (width - len(items))


pairs = st.lists(
    st.tuples(st.permutations(range(7)), st.permutations(range(7)), st.integers(1, 7), st.integers(0, 7)),
    min_size=1,
    max_size=5,
)


@given(pairs, st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_team_draft_is_its_definition(cases, k, seed):
    lists_a = [list(a[:n]) for a, _, n, _ in cases]
    lists_b = [list(b[:m]) for _, b, _, m in cases]
    made = team_draft([padded(a, 7) for a in lists_a], [padded(b, 7) for b in lists_b], k, seed=seed)
    rng = np.random.default_rng(seed)
    coins = np.stack([rng.random(len(cases)) < 0.5 for _ in range(k)])
    for row, (a, b) in enumerate(zip(lists_a, lists_b)):
        shown, team = slow_team_draft(a, b, k, coins[:, row])
        assert made.items[row].tolist() == padded(shown, k)
        assert made.team[row].tolist() == padded(team, k)
        same = [x == y for x, y in zip(a, b)]
        assert made.shared[row] == ([*same, False].index(False))


@given(pairs, st.integers(1, 12), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_balanced_is_its_definition(cases, k, seed):
    lists_a = [list(a[:n]) for a, _, n, _ in cases]
    lists_b = [list(b[:m]) for _, b, _, m in cases]
    made = balanced([padded(a, 7) for a in lists_a], [padded(b, 7) for b in lists_b], k, seed=seed)
    b_first = np.random.default_rng(seed).random(len(cases)) < 0.5
    clicks = np.random.default_rng(seed + 1).random((len(cases), k)) < 0.4
    credit = made.credit(clicks & (made.items >= 0))
    for row, (a, b) in enumerate(zip(lists_a, lists_b)):
        shown = slow_balanced(a, b, k, b_first[row])
        assert made.items[row].tolist() == padded(shown, k)
        clicked = [item for item, click in zip(shown, clicks[row]) if click]
        if clicked:
            deep = min(ranked.index(clicked[-1]) + 1 for ranked in (a, b) if clicked[-1] in ranked)
            assert credit[row].tolist() == [len(set(clicked) & set(ranked[:deep])) for ranked in (a, b)]
        else:
            assert credit[row].tolist() == [0, 0]


def test_strings_are_ids_too():
    made = team_draft(["x", "y"], ["z", ""], 3, seed=1)
    assert sorted(made.items[0].tolist()) == ["x", "y", "z"]
    assert sorted(made.team[0].tolist()) in ([-1, 0, 1], [0, 0, 1])


def repeated(ranked, n):
    return np.tile(np.asarray(ranked), (n, 1))


@pytest.mark.parametrize("other", [[1, 2, 3, 4, 5], [2, 3, 4, 5, 1], [9, 8, 7, 6, 5], [5, 4, 3, 2, 1]])
@pytest.mark.parametrize("falling", [0.0, 0.7])
def test_team_draft_is_fair_under_clicks_that_do_not_look(other, falling):
    """Clicks by place alone: B's points minus A's have mean 0, whatever the lists; 4 standard errors of room."""
    n, rng = 40_000, np.random.default_rng(5)
    made = team_draft(repeated([1, 2, 3, 4, 5], n), repeated(other, n), 5, seed=3)
    clicks = rng.random((n, 5)) < 0.5 * np.arange(1, 6) ** -falling
    for without_shared in (False, True):
        margin = np.diff(made.credit(clicks, without_shared=without_shared))[:, 0]
        assert abs(margin.mean()) <= 4 * margin.std() / np.sqrt(n)


def test_balanced_favours_a_side_under_clicks_that_do_not_look():
    """The known flaw: [1, 2, 3] against [2, 3, 1], one click anywhere."""
    n = 20_000
    made = balanced(repeated([1, 2, 3], n), repeated([2, 3, 1], n), 3, seed=0)
    clicks = np.eye(3)[np.random.default_rng(1).integers(3, size=n)]
    found = preference(made.credit(clicks))
    assert found.p < 1e-12
    assert found.share > 0.6


def test_a_better_ranker_wins_and_shared_places_only_add_noise():
    n, rng = 5_000, np.random.default_rng(0)
    wanted = {3: 0.6, 4: 0.3}
    made = team_draft(repeated([1, 2, 5, 6], n), repeated([1, 2, 3, 4], n), 4, seed=2)
    attraction = np.vectorize(lambda item: wanted.get(item, 0.3))(made.items)
    clicks = rng.random(attraction.shape) < attraction
    whole, lean = (np.diff(made.credit(clicks, without_shared=flag))[:, 0] for flag in (False, True))
    assert made.shared.tolist() == [2] * n
    assert lean.mean() > 0.1
    assert lean.std() < 0.9 * whole.std()


def test_units_are_judged_once():
    credit = np.array([[1, 0], [0, 1], [0, 2], [0, 0], [1, 1]])
    assert by_unit(credit, ["u", "u", "u", "v", "w"]).tolist() == [[1, 3], [0, 0], [1, 1]]
    found = preference(credit, ["u", "u", "u", "v", "w"])
    assert (found.units, found.wins_a, found.wins_b, found.ties) == (3, 0, 1, 2)
    assert found.share == 1.0
    assert found.delta == pytest.approx(1 / 6)
    assert "2 of 3 units tied" in str(found)


def test_all_ties_say_nothing():
    found = preference(np.zeros((4, 2)))
    assert (found.p, found.low, found.high, found.delta) == (1.0, 0.0, 1.0, 0.0)
    assert np.isnan(found.share)
    assert str(found) == "none of 4 units preferred either ranker"


@given(st.integers(0, 60), st.integers(0, 60))
@settings(max_examples=60, deadline=None)
def test_sign_test_and_interval_are_those_of_scipy(a, b):
    if a + b == 0:
        assert sign_test(a, b) == 1
        return
    theirs = scipy_stats.binomtest(b, a + b)
    interval = theirs.proportion_ci(0.9, "exact")
    assert float(sign_test(a, b)) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert [float(end) for end in share_interval(b, a + b, 0.9)] == pytest.approx([interval.low, interval.high])


def test_sign_test_errs_as_rarely_as_it_promises():
    """2,000 comparisons of 50 users at once: an exact test stays at or below its level."""
    wins = np.random.default_rng(0).binomial(50, 0.5, size=20_000)
    assert (sign_test(50 - wins, wins) <= 0.05).mean() <= 0.05


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: team_draft([[1, 1]], [[1, 2]]), "a, row 0: item 1 stands in it twice"),
        (lambda: team_draft([[1, 2]], [[1, 2], [3, 4]]), "a has 1 lists and b has 2"),
        (lambda: team_draft([[1, 2]], [["x", "y"]]), "ids in one type"),
        (lambda: team_draft([[1.5, 2.0]], [[1, 2]]), "a is float64 of shape"),
        (lambda: team_draft([[1], [1, 2]], [[1, 2], [1, 2]]), "a: lists differ in length"),
        (lambda: team_draft([[1, 2]], [[1, 2]], 0), "k = 0; an interleaved list"),
        (lambda: team_draft([1, 2], [2, 1]).credit([[1, 0, 0]]), r"gains have shape \(1, 3\)"),
        (lambda: balanced([1, 2], [2, 1]).credit([[1, -1]]), "negative"),
        (lambda: preference([1, 2]), r"credit has shape \(2,\)"),
        (lambda: preference(np.zeros((0, 2))), "no row"),
        (lambda: preference([[np.nan, 1]]), "NaN"),
        (lambda: preference([[0, 1]], level=95), "level = 95"),
        (lambda: preference([[0, 1]], unit=["u", "v"]), "unit has shape"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_nothing_shown_earns_nothing():
    made = team_draft([[1, -1]], [[1, -1]], 2, seed=0)
    assert isinstance(made, TeamDraft)
    assert made.items.tolist() == [[1, -1]]
    assert made.team[0, 1] == -1
    assert made.credit([[1, 1]]).sum() == 1
