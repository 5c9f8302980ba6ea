from collections import defaultdict
from dataclasses import replace

import polars as pl
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from suisen.data.dataset import Dataset, Split
from suisen.data.log import Log
from suisen.data.split_checks import check_no_future
from suisen.data.splits import ByRows, GlobalTime, LeaveLast, Ratio
from suisen.errors import InputError
from tests.helpers import in_order, logs, make_data, make_log, raw_items, same

DAY = 86_400_000_000
RULES = [
    LeaveLast(),
    LeaveLast(test=2, valid=0),
    LeaveLast(test=1, valid=2, valid_users=2),
    GlobalTime(valid="3s", test="2s"),
    Ratio(test=0.3, valid=0.3),
    Ratio(test=0.3, valid=0.2, by="random"),
]
EVERY = [*RULES, LeaveLast(by="random", seed=2), LeaveLast(test=2, by="rows"), Ratio(test=0.3, valid=0.2, by="rows")]


def split_or_skip(log: Log, rule) -> Split:
    if isinstance(rule, GlobalTime):
        assume("time" in log.events.columns)
        log = replace(log, events=log.events.with_columns(pl.col("time") * 1_000_000))
    try:
        return Dataset.of(log).split(rule)
    except InputError:
        assume(False)


def asked(split: Split, name: str) -> dict:
    """user → (truth, history, seen) in raw ids, of users that train knows."""
    queries = getattr(split, name)
    if queries is None:
        return {}
    contexts, train = queries.contexts, split.train
    rows = zip(contexts.user.tolist(), queries.truth.tolist(), contexts.history.tolist(), queries.seen.tolist())
    users = [None, *train.users.raw_ids.to_list()]
    return {
        users[user]: (raw_items(train, truth), raw_items(train, history), set(raw_items(train, seen)))
        for user, truth, history, seen in rows
        if user
    }


def rows_of(split: Split) -> set:
    return set(split.train.log.events["row"].to_list())


@pytest.mark.parametrize("rule", EVERY, ids=repr)
@given(log=logs())
def test_every_event_is_in_exactly_one_part(rule, log):
    split = split_or_skip(log, rule)
    facts = split.facts
    assert facts["train_events"] + facts["valid_events"] + facts["test_events"] == log.events.height
    assert facts["train_events"] == len(split.train.events) == len(rows_of(split))
    train = log.events.filter(pl.col("row").is_in(list(rows_of(split))))
    positives = train.height if "label" not in train.columns else int((train["label"] > 0).sum())
    everywhere = log.events.height if "label" not in train.columns else int((log.events["label"] > 0).sum())
    assert positives + facts.get("valid_positives", 0) + facts["test_positives"] == everywhere
    for queries in (split.valid, split.test):
        if queries is not None:
            assert (queries.truth.lengths > 0).all()


@given(log=logs(), test=st.integers(1, 2), valid=st.integers(0, 2))
def test_leave_last_is_its_definition(log, test, valid):
    by = "time" if "time" in log.events.columns else "rows"
    split = split_or_skip(log, LeaveLast(test, valid, by=by))
    items = set(split.train.items.raw_ids.to_list())
    expected = {"valid": {}, "test": {}}
    short, train_rows = 0, []
    for user in sorted({e["user"] for e in log.events.to_dicts()}):
        mine = [e for e in in_order(log) if e["user"] == user]
        taken = [e for e in mine if e.get("label", 1)]
        if len(taken) < test + valid + 1:
            short += 1
            train_rows += [e["row"] for e in mine]
            continue
        at = len(taken) - test - valid
        first = mine.index(taken[at])
        train_rows += [e["row"] for e in mine[:first]]
        for name, a, b in (("valid", at, at + valid), ("test", at + valid, len(taken))):
            if a == b:
                continue
            truth = list(dict.fromkeys(e["item"] for e in taken[a:b]))
            history = [e["item"] for e in taken[:a] if e["item"] in items]
            expected[name][user] = ([i if i in items else None for i in truth], history, set(history))
    assert rows_of(split) == set(train_rows)
    assert asked(split, "valid") == expected["valid"]
    assert asked(split, "test") == expected["test"]
    assert split.notes == (
        (f"{short} users with fewer than {test + valid + 1} positives stay in train whole",) * (short > 0)
    )
    if split.order == "user":
        check_no_future(split)


@given(log=logs(times=True))
def test_global_time_is_its_definition(log):
    split = split_or_skip(log, GlobalTime(valid="3s", test="2s"))
    items = set(split.train.items.raw_ids.to_list())
    events = in_order(log)
    test = max(e["time"] for e in events) - 2
    cuts = {"valid": (test - 3, test), "test": (test, 10**9)}
    assert rows_of(split) == {e["row"] for e in events if e["time"] < test - 3}
    for name, (begin, end) in cuts.items():
        found = asked(split, name)
        for user in split.train.users.raw_ids.to_list():
            mine = [e for e in events if e["user"] == user and e.get("label", 1)]
            truth = list(dict.fromkeys(e["item"] for e in mine if begin <= e["time"] < end))
            history = [e["item"] for e in mine if e["time"] < begin and e["item"] in items]
            if truth:
                assert found[user] == ([i if i in items else None for i in truth], history, set(history))
            else:
                assert user not in found
    check_no_future(split)


@given(log=logs(), rule=st.sampled_from(RULES[4:]))
def test_ratio_holds_out_the_rounded_share(log, rule):
    split = split_or_skip(log, rule)
    truth = defaultdict(int)
    for e in log.events.filter(~pl.col("row").is_in(list(rows_of(split)))).to_dicts():
        truth[e["user"]] += e.get("label", 1)
    for user in {e["user"] for e in log.events.to_dicts()}:
        n = sum(e.get("label", 1) for e in log.events.to_dicts() if e["user"] == user)
        test = min(int(n * rule.test + 0.5), max(0, n - 1))
        valid = min(int(n * rule.valid + 0.5), max(0, n - 1) - test)
        assert truth[user] == test + valid


@given(log=logs(labels=False, times=True))
def test_a_random_ratio_knows_all_of_train_and_nothing_else(log):
    split = split_or_skip(log, RULES[5])
    for name in ("valid", "test"):
        for user, (_, history, seen) in asked(split, name).items():
            mine = split.train.log.events.filter(pl.col("user") == user).sort("time", "row")
            assert history == mine["item"].to_list()
            assert seen == set(history)
    queries = split.test.contexts
    assert (queries.history_time <= queries.time[queries.history.rows()]).all()


@pytest.mark.parametrize("rule", RULES, ids=repr)
@given(data=st.data())
def test_the_order_of_the_file_does_not_matter_where_times_differ(rule, data):
    n = data.draw(st.integers(4, 20))
    frame = {
        "user": data.draw(st.lists(st.sampled_from("abc"), min_size=n, max_size=n)),
        "item": data.draw(st.lists(st.integers(1, 5), min_size=n, max_size=n)),
        "time": data.draw(st.permutations(range(1, n + 1))),
    }
    order = data.draw(st.permutations(range(n)))
    first = make_log(**frame)
    second = make_log(**{name: [values[i] for i in order] for name, values in frame.items()})
    a, b = split_or_skip(first, rule), split_or_skip(second, rule)
    assert set(a.train.log.events["time"].to_list()) == set(b.train.log.events["time"].to_list())
    for name in ("valid", "test"):
        assert asked(a, name) == asked(b, name)
    assert a.facts == b.facts


def test_ties_in_time_are_broken_by_the_place_in_the_source():
    split = make_data(user=["a"] * 3, item=[1, 2, 3], time=[5, 5, 5], row=[2, 0, 1]).split(LeaveLast(1, 1))
    assert raw_items(split.train, split.train.events.item) == [2]
    assert asked(split, "test")["a"][:2] == ([None], [2])


def full_log(**changes) -> Log:
    """Two users of three events, tables and a context column."""
    columns = {
        "user": ["a", "b", "a", "b", "a", "b"],
        "item": [1, 2, 2, 1, 1, 2],
        "time": [1, 2, 3, 4, 5, 6],
        "device": ["tv", "web", "tv", "tv", "web", "tv"],
        "price": [1.0, 2.0, 4.0, 3.0, 9.0, 9.0],
        "users": {"user": ["a", "b", "c"], "age": [1.0, 3.0, 9.0]},
        "items": {"item": [1, 2, 9], "kind": ["x", "y", "z"]},
    }
    return make_log(**columns | changes)


def test_the_query_has_the_features_and_time_of_its_event():
    split = Dataset.of(full_log()).split(LeaveLast(1, 1))
    contexts, train = split.test.contexts, split.train
    device = train.encoders["context"].columns[0].vocabulary
    assert [device[int(i) - 1] for i in contexts.context_features.categorical[:, 0]] == ["web", "tv"]
    assert contexts.time.tolist() == [5, 6]
    assert contexts.history_time.tolist() == [1, 3, 2, 4]
    assert torch.equal(contexts.user_features.numeric, train.user_features.numeric[contexts.user])
    assert split.test.protocol == "leave last out: test 1, valid 1"


def test_a_declared_user_without_train_events_is_known_by_features():
    log = full_log(user=["a", "b", "a", "b", "a", "c"])
    split = Dataset.of(log).split(GlobalTime(valid=None, test="1970-01-01T00:00:00.000006Z"))
    contexts = split.test.contexts
    assert split.train.users.raw(contexts.user.numpy()).to_list() == ["c"]
    assert not split.train.trained_users[contexts.user].any()
    assert contexts.user_features.numeric.item() == pytest.approx(7 / 2**0.5)
    stranger = Dataset.of(full_log(user=["a", "b", "a", "b", "a", "stranger"])).split(
        GlobalTime(valid=None, test="1970-01-01T00:00:00.000006Z")
    )
    assert stranger.test.contexts.user.tolist() == [0]
    assert stranger.test.contexts.user_features.numeric.tolist() == [[0.0]]
    assert stranger.facts["test_queries_unknown_user"] == 1


@given(
    users=st.lists(st.sampled_from("abcz"), min_size=2, max_size=2),
    items=st.lists(st.integers(1, 99), min_size=2, max_size=2),
    prices=st.lists(st.floats(0, 1e6), min_size=2, max_size=2),
    device=st.text(max_size=3),
)
def test_train_is_the_same_bit_for_bit_whatever_test_holds(users, items, prices, device):
    rule = GlobalTime(valid=None, test="1970-01-01T00:00:00.000005Z")
    place = {"row": [3, 4, 2, 5, 0, 1]}  # test's events stand first in the file
    one = Dataset.of(full_log(**place)).split(rule).train
    changed = full_log(
        **place,
        user=["a", "b", "a", "b", *users],
        item=[1, 2, 2, 1, *items],
        price=[1.0, 2.0, 4.0, 3.0, *prices],
        device=["tv", "web", "tv", "tv", device, "tv"],
    )
    other = Dataset.of(changed).split(rule).train
    assert same(one, other)
    assert not same(one, Dataset.of(full_log(**place)))


def test_too_few_events_are_refused_by_name():
    with pytest.raises(InputError, match=r"only one event a user: LeaveLast\(test=1, valid=1\) needs 3 of somebody"):
        make_data(user=["a", "b"], item=[1, 1], time=[1, 2]).split(LeaveLast())
    with pytest.raises(InputError, match=r"at most 2 positives a user.*hold out less"):
        make_data(user=["a", "a"], item=[1, 1], time=[1, 2]).split(LeaveLast())
    with pytest.raises(InputError, match="no positive event falls into test; hold out more"):
        make_data(user=["a", "b"], item=[1, 1], time=[1, 2]).split(Ratio())


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LeaveLast(test=-1), "LeaveLast: test = -1 must be at least 0"),
        (lambda: LeaveLast(valid=-1), "LeaveLast: valid = -1 must be at least 0"),
        (lambda: Ratio(test=1), "Ratio: test = 1 must be a share between 0 and 1"),
        (lambda: Ratio(valid=1.5), r"Ratio: valid = 1\.5 must be a share"),
        (lambda: Ratio(test=0.5, valid=0.5), "leave nothing for train; hold out less"),
        (lambda: Ratio(by="tiem"), "Ratio: by = 'tiem' is unknown; did you mean 'time'"),
        (lambda: ByRows([1], order="global"), "ByRows: order = 'global' cannot be given; say 'user', 'place'"),
    ],
)
def test_a_rule_refuses_what_makes_no_sense(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_global_time_needs_times_and_parts():
    with pytest.raises(InputError, match="GlobalTime needs times and the log has none; name the time column"):
        make_data(user=["a"], item=[1]).split(GlobalTime())
    data = make_data(user=["a", "a"], item=[1, 2], time=[DAY, 3 * DAY])
    with pytest.raises(InputError, match="leaves no event for train; hold out less"):
        data.split(GlobalTime())
    with pytest.raises(InputError, match=r"valid = '1970-01-04' begins after test \(1970-01-03T00:00:00Z\)"):
        data.split(GlobalTime(valid="1970-01-04", test="1d"))
    split = data.split(GlobalTime(valid=None, test="1d"))
    assert split.test.protocol.startswith("global time: test from 1970-01-03T00:00:00Z")
    assert split.cut == 2 * DAY


def test_where_the_place_is_the_order_the_future_cannot_be_checked():
    split = make_data(user=["a"] * 4, item=[1, 2, 1, 2]).split(LeaveLast(by="rows"))
    assert asked(split, "test")["a"] == ([2], [1, 2, 1], {1, 2})
    assert split.test.contexts.time.tolist() == [0]
    with pytest.raises(InputError, match=r"the log has no time.*name the time column"):
        check_no_future(split)


NO_ORDER = [LeaveLast(test=1, valid=0, seed=3), Ratio(test=0.1, valid=0, seed=3)]


def share_of_last_rows(rule, log: Log) -> float:
    """How often the row that stands last of its user is the one that is held out."""
    train = rows_of(Dataset.of(log).split(rule))
    last = {e["user"]: e["row"] for e in log.events.sort("row").to_dicts()}
    return sum(row not in train for row in last.values()) / len(last)


def ten_each(users=300, **more) -> Log:
    """Each user takes items 0 to 9, sorted by item as a warehouse writes them."""
    return make_log(user=[u for u in range(users) for _ in range(10)], item=list(range(10)) * users, **more)


@pytest.mark.parametrize("rule", NO_ORDER, ids=repr)
def test_without_times_what_is_held_out_is_drawn_whatever_the_order_of_rows(rule):
    log = ten_each()
    split = Dataset.of(log).split(rule)
    assert split.order == "random"
    assert "no times: drawn at random, seed 3" in split.test.protocol
    assert any("the log has no times" in note and "by='rows'" in note for note in split.notes)
    assert share_of_last_rows(rule, log) == pytest.approx(0.1, abs=0.06)
    assert same(split, Dataset.of(log).split(rule))
    assert asked(split, "test") != asked(Dataset.of(log).split(replace(rule, seed=4)), "test")


@pytest.mark.parametrize("rule", NO_ORDER, ids=repr)
def test_rows_are_an_order_where_they_are_asked_for_by_name_or_the_format_promises_it(rule):
    log = ten_each(users=20)
    by_name = Dataset.of(log).split(replace(rule, by="rows"))
    assert "by the order of rows" in by_name.test.protocol
    assert share_of_last_rows(replace(rule, by="rows"), log) == 1
    promised = replace(log, ordered=True)
    assert share_of_last_rows(rule, promised) == 1
    assert by_name.order == Dataset.of(promised).split(rule).order == "place"
    assert by_name.train.has_order
    with pytest.raises(InputError, match="by = 'rows' needs a log without times"):
        Dataset.of(ten_each(users=2, time=list(range(20)))).split(replace(rule, by="rows"))


def test_a_draw_is_one_of_each_user_and_the_history_is_all_of_train():
    split = Dataset.of(ten_each(users=50)).split(LeaveLast(test=1, valid=2, by="random"))
    assert split.test.protocol == "leave out by random: test 1, valid 2, seed 0"
    for name, size in (("test", 1), ("valid", 2)):
        for truth, history, seen in asked(split, name).values():
            assert len(truth) == size
            assert len(history) == 7
            assert not set(truth) & seen


def test_rows_given_and_what_they_may_not_be():
    data = make_data(user=["a"] * 4, item=[1, 2, 3, 4], time=[4, 3, 2, 1], row=[10, 11, 12, 13])
    split = data.split(ByRows(test=[10], valid=[11], order="user"))
    assert split.train.log.events["row"].to_list() == [13, 12]
    assert asked(split, "test")["a"][1] == [4, 3]
    check_no_future(split)
    with pytest.raises(InputError, match="ByRows: test names row 7, which the log does not hold"):
        data.split(ByRows(test=[7]))
    with pytest.raises(InputError, match="ByRows: row 12 is named in valid and in test"):
        data.split(ByRows(test=[12], valid=[12]))


def test_a_broken_promise_is_found():
    data = make_data(user=["a", "a", "b"], item=[1, 2, 1], time=[1, 2, 3])
    with pytest.raises(InputError, match=r"later than the test truth of 1 users \(the first: 'a', .*000002Z after"):
        check_no_future(data.split(ByRows(test=[0], order="user")))
    with pytest.raises(InputError, match="the split is random: train holds the future"):
        check_no_future(data.split(ByRows(test=[0])))
    good = data.split(GlobalTime(valid=None, test="1970-01-01T00:00:00.000003Z"))
    check_no_future(good)
    with pytest.raises(InputError, match="train holds 1 events at or after the cut"):
        check_no_future(replace(good, cut=2))
    with pytest.raises(InputError, match=r"come from more than train; build it with Dataset\.of"):
        check_no_future(
            replace(
                good,
                train=replace(good.train, items=data.items, users=Dataset.of(make_log(user=["z"], item=[1])).users),
            )
        )


def test_some_users_are_asked_in_valid():
    data = make_data(user=list("aaabbbccc"), item=[1, 2, 3] * 3, time=list(range(9)))
    split = data.split(LeaveLast(test=1, valid=1, valid_users=2, seed=3))
    assert split.valid is not None
    chosen = asked(split, "valid")
    assert len(chosen) == 2
    assert len(asked(split, "test")) == 3
    assert len(split.train.events) == 9 - 3 - 2
    assert "valid 1 of 2 users, seed 3" in split.valid.protocol
    other = {tuple(sorted(asked(data.split(LeaveLast(valid_users=2, seed=s)), "valid"))) for s in range(20)}
    assert len(other) == 3  # every pair of users is drawn by some seed
    assert set(asked(data.split(LeaveLast(valid_users=9)), "valid")) == set("abc")
    with pytest.raises(InputError, match="valid_users = -1"):
        LeaveLast(valid_users=-1)
