from dataclasses import replace

import polars as pl
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from suisen.data.split_checks import check_no_future
from suisen.data.splits import ClickRatio, Sessions
from suisen.errors import InputError
from tests.helpers import in_order, logs, make_data, make_log, raw_items

MINUTE = 60_000_000


def questions(split, name="test"):
    """(history, truth) of each query in raw ids, sorted."""
    queries = getattr(split, name)
    rows = zip(queries.contexts.history.tolist(), queries.truth.tolist())
    return sorted((raw_items(split.train, h), raw_items(split.train, t)) for h, t in rows)


def test_every_prefix_of_a_test_session_asks_for_the_next_item():
    data = make_data(
        user=["a", "a", "a", "b", "b", "b", None],
        item=[1, 2, 3, 1, 3, 2, 1],
        time=[1, 2, 3, 7, 8, 9, 4],
        session=["x", "x", "x", "y", "y", "y", "x"],
        users={"user": ["a", "b"], "age": [1.0, 2.0]},
    )
    split = data.split(Sessions(test=0.3, valid=None))
    assert questions(split) == [([1], [3]), ([1, 3], [2])]
    assert split.test.contexts.user.tolist() == [0, 0]
    assert split.train.schema.n_users == 1
    assert split.train.histories.lengths.tolist() == [0, 3, 1]
    assert split.test.seen.tolist() == [[], []]
    assert "next item" in data.split(Sessions(test=0.3, valid=None, exclude_seen=True)).test.protocol
    check_no_future(split)


def test_a_pause_longer_than_the_gap_opens_a_session():
    times = [0, 30 * MINUTE, 60 * MINUTE + 1, 61 * MINUTE, 200 * MINUTE, 201 * MINUTE]
    data = make_data(user=["a"] * 6, item=[1, 2, 1, 2, 1, 2], time=times)
    split = data.split(Sessions(test="10m", valid=0.34))
    assert split.train.histories.lengths.tolist() == [0, 2]
    assert questions(split, "valid") == questions(split) == [([1], [2])]
    assert split.test.protocol.startswith("sessions (gap 30m): valid from 1970-01-01T01:00:00.000001Z, test from ")
    assert data.split(Sessions(test=0.5, valid=None, gap="31m")).train.histories.lengths.tolist() == [0, 4]


@given(log=logs(times=True), gap=st.integers(1, 3), share=st.floats(0.1, 0.6))
def test_sessions_are_their_definition(log, gap, share):
    log = replace(log, events=log.events.with_columns(pl.col("time") * 1_000_000))
    sessions = []
    for user in sorted({e["user"] for e in log.events.to_dicts()}):
        last = None
        for e in in_order(log):
            if e["user"] != user:
                continue
            if last is None or e["time"] - last > gap * 1_000_000:
                sessions.append([])
            sessions[-1].append(e)
            last = e["time"]
    starts = sorted(s[0]["time"] for s in sessions)
    cut = starts[len(starts) - max(1, round(len(starts) * share))]
    train = [s for s in sessions if s[0]["time"] < cut]
    expected = []
    items = {e["item"] for s in train for e in s}
    for s in sessions:
        taken = [e["item"] for e in s if e.get("label", 1)]
        if s[0]["time"] >= cut:
            expected += [
                ([i for i in taken[:n] if i in items], [taken[n] if taken[n] in items else None])
                for n in range(1, len(taken))
            ]
    assume(train)
    assume(expected)
    split = Dataset.of(log).split(Sessions(test=share, valid=0, gap=f"{gap}s"))
    queries = split.test
    found = zip(queries.contexts.history.tolist(), queries.truth.tolist())
    found = [(raw_items(split.train, h), raw_items(split.train, t)) for h, t in found]
    assert sorted(found, key=str) == sorted(expected, key=str)  # None and numbers do not compare
    assert sorted(split.train.log.events["row"]) == sorted(e["row"] for s in train for e in s)
    check_no_future(split)


def test_sessions_say_what_asks_nothing_and_what_lies_after_the_cut():
    data = make_data(
        user=["a"] * 6,
        item=[1, 2, 1, 2, 1, 2],
        time=[1, 9, 5, 6, 7, 8],
        session=["long", "long", "x", "x", "one", "x"],
    )
    split = data.split(Sessions(test=0.7, valid=None))
    assert split.notes == (
        "1 held-out sessions of fewer than two positives ask nothing",
        "1 events of train's sessions lie after the cut: the sessions began before it",
    )
    assert split.facts["test_queries"] == 2


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (lambda: Sessions(test=1.0, valid=None), "Sessions: test = 1.0 must be a share"),
        (lambda: Sessions(gap="soon"), "Sessions: gap = 'soon' is no duration; write a number and a unit"),
        (lambda: Sessions(test=0.6, valid=0.4), "leave nothing for train"),
        (lambda: ClickRatio(test=1), "ClickRatio: test = 1 must be a share"),
        (lambda: ClickRatio(by="user"), "ClickRatio: by = 'user' is unknown; known: time, rows, random"),
    ],
)
def test_a_rule_refuses_what_makes_no_sense(rule, text):
    with pytest.raises(InputError, match=text):
        rule()


def test_sessions_need_times_and_something_before_the_cut():
    with pytest.raises(InputError, match="Sessions needs times and the log has none"):
        make_data(user=["a"], item=[1]).split(Sessions())
    with pytest.raises(InputError, match=r"Sessions: test = 0\.9 takes every session; hold out less"):
        make_data(user=["a", "a"], item=[1, 2], time=[1, 2]).split(Sessions(test=0.9, valid=0.05))
    with pytest.raises(InputError, match="Sessions: valid = '1970-01-02' begins after test"):
        make_data(user=["a", "b"], item=[1, 2], time=[1, 9]).split(Sessions(test=0.5, valid="1970-01-02"))


def clicks(**more):
    return make_log(
        user=["a", "a", "b", "a", "b", "a"],
        item=[1, 2, 1, 2, 2, 9],
        label=[1, 0, 1, 1, 0, 1],
        device=["tv", "web", "tv", "tv", "web", "tv"],
        **more,
    )


def test_labelled_rows_are_asked_one_by_one_by_time():
    split = Dataset.of(clicks(time=[1, 2, 3, 4, 5, 6])).split(ClickRatio(test=0.3, valid=0.2, by="time"))
    test, train = split.test, split.train
    assert train.users.raw(test.contexts.user.numpy()).to_list() == ["a", "b"]
    assert [raw_items(train, row) for row in test.candidates.tolist()] == [[None], [2]]
    assert test.labels.tolist() == [[1.0], [0.0]]
    assert [raw_items(train, row) for row in test.truth.tolist()] == [[None], []]
    assert [raw_items(train, row) for row in test.contexts.history.tolist()] == [[1, 2], [1]]
    assert test.seen.tolist() == [[], []]
    assert test.contexts.time.tolist() == [6, 5]
    assert split.valid.labels.tolist() == [[1.0]]
    assert test.protocol == "labelled rows by time: test 0.3, valid 0.2; each row scored by itself"
    check_no_future(split)


def test_ties_at_the_cut_go_to_test_together():
    split = Dataset.of(clicks(time=[1, 2, 3, 5, 5, 5])).split(ClickRatio(test=0.2, valid=0, by="time"))
    assert (split.facts["train_events"], split.facts["test_events"]) == (3, 3)
    assert split.valid is None


@given(log=logs(labels=True), seed=st.integers(0, 3), most=st.integers(0, 4))
def test_random_rows_see_what_train_would_have_seen(log, seed, most):
    assume(log.events.height >= 4)
    data = Dataset.of(log)
    split = data.split(ClickRatio(test=0.3, valid=0.25, seed=seed, history=most))
    n, train = log.events.height, split.train
    assert split.facts["test_events"] == max(1, round(n * 0.3))
    assert split.facts["valid_events"] == round(n * 0.25)
    kept = train.log.events.to_dicts()
    rows = {e["row"] for e in kept}
    held = [e for e in data.log.events.to_dicts() if e["row"] not in rows]
    found = []
    for queries in (split.valid, split.test):
        if queries is None:
            continue
        for user, items, label, history in zip(
            queries.contexts.user, queries.candidates, queries.labels, queries.contexts.history.tolist()
        ):
            names = [None, *train.users.raw_ids.to_list()]
            found.append((names[user], raw_items(train, items)[0], label.item(), raw_items(train, history)))
    expected = []
    for e in held:
        past = [
            p["item"]
            for p in sorted(kept, key=lambda p: (p.get("time", 0), p["row"]))
            if p["user"] == e["user"]
            and p["label"]
            and (not data.has_time or (p["time"], p["row"]) < (e["time"], e["row"]))
        ]
        user = e["user"] if train.users.dense_one(e["user"]) else None
        item = e["item"] if train.items.dense_one(e["item"]) else None
        expected.append((user, item, float(e["label"]), past[max(0, len(past) - most) :]))
    assert sorted(map(str, found)) == sorted(map(str, expected))


def test_random_rows_go_by_the_place_in_the_source_alone():
    log = clicks(time=[1, 2, 3, 4, 5, 6])
    one, two = (Dataset.of(log).split(ClickRatio(test=0.3, seed=seed)) for seed in (0, 0))
    assert torch.equal(one.test.candidates, two.test.candidates)
    assert one.test.protocol == "labelled rows by random: test 0.3, valid 0.1, seed 0; each row scored by itself"


def test_rows_without_labels_or_times_are_refused():
    with pytest.raises(InputError, match="ClickRatio needs labels and the log has none; name the label column"):
        make_data(user=["a"], item=[1]).split(ClickRatio())
    with pytest.raises(InputError, match=r"ClickRatio\(by='time'\) needs times"):
        Dataset.of(clicks()).split(ClickRatio(by="time"))
