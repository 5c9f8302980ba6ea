"""Metrics by group of users: each group is the report of its own queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import suisen as su
from suisen.data.ragged import Ragged
from suisen.errors import InputError
from tests.fitted import fitted, small_split
from tests.helpers import make_data

METRICS = ["ndcg@10", "hr@10"]


@pytest.fixture(scope="module")
def report():
    return su.evaluate(fitted("ease"), small_split().test, [*METRICS, "coverage@10"])


def test_each_group_is_the_report_of_its_own_queries(report):
    test = small_split().test
    groups = ["abc"[at % 3] for at in range(len(test))]
    found = su.segments(report, test, groups)
    assert sorted(found.reports) == ["a", "b", "c"]
    for at, name in enumerate("abc"):
        own = su.evaluate(fitted("ease"), test.take(torch.arange(at, len(test), 3)), METRICS)
        for metric in METRICS:
            assert found[name][metric][:5] == own[metric][:5]
    assert sum(len(part) for part in found.reports.values()) == len(test)
    frame = found.to_frame()
    assert frame.columns[:2] == ["segment", "queries"]
    assert frame.height == 6
    assert "coverage@10: of all lists together" in str(found)


def test_history_tells_guests_new_light_and_heavy_users_apart():
    rows = [(None, "s1", i) for i in (1, 2, 3)] + [("new", None, 4)]
    rows += [("light", None, i) for i in (1, 2)] + [("heavy", None, i) for i in range(1, 9)]
    rows += [("other", None, i) for i in (3, 4)]
    data = make_data(
        user=[u for u, _, _ in rows], session=[s for _, s, _ in rows], item=[i for *_, i in rows],
        time=[10 + at for at in range(len(rows))],
    )  # fmt: skip
    split = data.split(su.LeaveLast(test=1, valid=0))
    test, contexts = split.test, split.test.contexts
    lengths = contexts.history.lengths
    emptied = contexts.history.keep(torch.ones(len(contexts.history.values), dtype=torch.bool))
    report = su.evaluate(su.Recommender(su.Popularity()).fit(split.train), test, ["hr@3"])
    found = su.segments(report, test)
    assert list(found.reports) == ["guest", "light (1 to 1 events)", "heavy (more than 1)"]
    assert [len(part) for part in found.reports.values()] == [1, 2, 1]
    first = lengths.clone()
    first[1:] = 0
    cold = replace(
        test, contexts=replace(contexts, history=Ragged.empty(len(test)), history_time=torch.zeros(0).long())
    )
    assert emptied.values.numel()
    assert list(su.segments(report, cold).reports) == ["guest", "new"]


def test_a_column_of_the_user_table_and_a_mapping_agree(report):
    test, log = small_split().test, small_split().train.log
    column = next(n for n in log.users.columns[1:] if log.users[n].n_unique() < 20)
    by_name = su.segments(report, test, column)
    by_map = su.segments(report, test, dict(zip(log.users["user"], log.users[column])))
    assert {k: v.value("ndcg@10") for k, v in by_name.reports.items()} == {
        k: v.value("ndcg@10") for k, v in by_map.reports.items()
    }
    assert len(by_name.reports) > 1
    with pytest.raises(InputError, match="did you mean"):
        su.segments(report, test, column[:-1])
    with pytest.raises(InputError, match="did you mean 'history'"):
        su.segments(report, test, "histroy")


def test_a_column_of_many_numbers_makes_four_groups(report):
    test, log = small_split().test, small_split().train.log
    ages = dict(zip(log.users["user"], log.users["age"]))
    found = su.segments(report, test, "age")
    assert len(found.reports) == 4
    assert sum(map(len, found.reports.values())) == len(test)
    first = next(name for name in found.reports if name.startswith("up to"))
    users = small_split().train.users.raw(test.contexts.user.numpy()).to_list()
    assert len(found[first]) == sum(ages[user] <= float(first.removeprefix("up to ")) for user in users)


def test_small_groups_are_shown_with_their_count(report):
    test = small_split().test
    user = small_split().train.users.raw(test.contexts.user[:1].numpy())[0]
    found = su.segments(report, test, {user: "one"})
    assert list(found.reports) == ["one", "(missing)"]
    score = found["one"]["hr@10"]
    assert score.n == 1
    assert np.isnan(score.low)
    assert "–" in str(found)
    with pytest.raises(InputError, match=r"unknown; did you mean 'one'"):
        found["on"]


def test_the_same_group_of_two_models_can_be_compared(report):
    test = small_split().test
    groups = ["ab"[at % 2] for at in range(len(test))]
    other = su.evaluate(fitted("ials"), test, METRICS)
    one, two = (su.segments(each, test, groups) for each in (report, other))
    assert su.compare(one["a"], two["a"]).row("hr@10").n == len(one["a"])
    with pytest.raises(InputError, match="cannot be paired"):
        su.compare(one["a"], two["b"])


def test_other_queries_and_wrong_groups_are_refused(report):
    test = small_split().test
    with pytest.raises(InputError, match="give the same ones"):
        su.segments(report, test.take(torch.arange(3)))
    for wrong in ((report, small_split()), (fitted("ease"), test)):
        with pytest.raises(InputError, match="takes a report and its queries"):
            su.segments(*wrong)
    with pytest.raises(InputError, match="give one per query"):
        su.segments(report, test, ["a", "b"])
    with pytest.raises(InputError, match="none of the mapping's 1 users"):
        su.segments(report, test, {"nobody": 1})
    with pytest.raises(InputError, match="no table of users"):
        su.segments(report, replace(test, asked=replace(test.asked, user_table=None)), "age")
