"""Learn from every event, be asked for some types alone: views are histories, purchases are what is foreseen."""

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from suisen.data.splits import GlobalTime, LeaveLast, Ratio, Sessions
from suisen.errors import InputError
from tests.cli.conftest import call, refused

WEIGHTS = {"view": 1, "cart": 2, "buy": 5, "shown": 0}


def dataset(rows, **more):
    frame = pl.DataFrame(rows, schema=["user", "item", "time", "what"], orient="row")
    return Dataset.from_frame(frame, **{"event": "what", "event_weights": WEIGHTS, "targets": ["buy"], **more})


def raw_truth(data, queries):
    """User → items that are asked for; None: unknown to train."""
    users, items = ([None, *ids.raw_ids.to_list()] for ids in (data.users, data.items))
    asked = zip(queries.contexts.user.tolist(), queries.truth.tolist(), strict=True)
    return {users[user]: [items[item] for item in row] for user, row in asked}


ANN = [("ann", "a", 1, "view"), ("ann", "b", 2, "buy"), ("ann", "c", 3, "view"), ("ann", "b", 4, "buy"),
       ("ann", "d", 5, "view"), ("ann", "d", 6, "shown")]  # fmt: skip
OTHERS = [("bob", "b", 1, "buy"), ("bob", "a", 2, "view"), ("cat", "a", 1, "view"), ("cat", "c", 2, "view"),
          ("cat", "d", 3, "buy"), ("cat", "b", 4, "cart")]  # fmt: skip


def test_the_last_purchase_is_what_is_asked_for():
    data = dataset(ANN + OTHERS)
    split = data.split(LeaveLast(test=1, valid=0))
    known = split.train
    assert raw_truth(known, split.test) == {"ann": ["b"], "cat": [None]}  # bob's only purchase came first; d is unknown
    history = known.items.raw(split.test.contexts.history.values.numpy()).to_list()
    assert history == ["a", "b", "c", "a", "c"]
    learnt = known.log.events.filter(user="ann")["time"] // 10**6
    assert learnt.to_list() == [1, 2, 3]  # nothing behind the purchase
    assert "leave last out: test 1, valid 0; asked for buy alone" in split.test.protocol
    assert "frame: 4 of 12 events are of type buy: valid and test ask for these alone" in " ".join(
        data.log.notes
    ).replace("events: ", "frame: ")


def test_several_types_and_numbers_as_types():
    assert raw_truth(
        (split := dataset(ANN + OTHERS, targets=["buy", "cart"]).split(LeaveLast(test=1, valid=0))).train, split.test
    ).keys() == {"ann", "cat"}
    frame = pl.DataFrame({"user": ["u"] * 4, "item": list("abcd"), "time": range(4), "what": [0.0, 1.0, 0.0, 1.0]})
    data = Dataset.from_frame(frame, event="what", event_weights={"0": 1, "1": 2}, targets=["1"])
    assert data.asked.tolist() == [False, True, False, True]


@st.composite
def logs(draw):
    count = draw(st.integers(6, 60))
    column = lambda values: draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))  # noqa: E731
    rows = list(
        zip(column("uvwx"), column("abcdef"), range(count), column(["view", "buy", "cart", "shown"]), strict=True)
    )
    return [*rows, ("y", "a", 0, "view"), ("y", "b", count, "buy"), ("y", "c", count + 1, "view")]


RULES = [LeaveLast(test=1, valid=1), LeaveLast(test=2, valid=0), Ratio(test=0.4, valid=0.2),
         Ratio(test=0.5, valid=0, by="random"), GlobalTime(test="10s", valid="10s")]  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(logs(), st.sampled_from(RULES))
def test_whatever_the_rule_only_targets_are_asked_for_and_nothing_is_lost(rows, rule):
    try:
        data = dataset(rows)
        split = data.split(rule)
    except InputError as error:
        assert "hold" in str(error) or "no event" in str(error)  # noqa: PT017
        return
    bought = {(user, item) for user, item, _, what in rows if what == "buy"}
    for queries in filter(None, (split.valid, split.test)):
        asked = [(user, item) for user, items in raw_truth(split.train, queries).items() for item in items]
        assert asked
        assert {pair for pair in asked if pair[1] is not None and pair[0] is not None} <= bought
    facts = split.facts
    assert facts["train_events"] + facts["valid_events"] + facts["test_events"] == len(rows)
    if isinstance(rule, LeaveLast):
        for user in {row[0] for row in rows}:
            times = split.train.log.events.filter(user=user)["time"] // 10**6
            last = sorted(time for u, _, time, what in rows if u == user and what == "buy")[-rule.test - rule.valid :]
            assert (
                times.is_empty() or not last or len(times) == sum(r[0] == user for r in rows) or times.max() < last[0]
            )


def test_without_targets_every_positive_is_one():
    data = dataset(ANN + OTHERS, targets=())
    assert data.asked.equal(data.positive)
    assert data.spare.equal((data.histories.lengths - 1).clamp(min=0))


def test_sessions_ask_for_the_next_purchase():
    rows = [("u", item, 10**6 * (10_000 * s + at), what) for s in range(6)
            for at, (item, what) in enumerate([("a", "view"), ("b", "buy"), ("c", "view"), ("d", "buy")])]  # fmt: skip
    split = dataset(rows, time_unit="us").split(Sessions(test=0.34, valid=None))
    assert split.test.truth.lengths.tolist() == [1] * 4
    assert set(split.train.items.raw(split.test.truth.values.numpy()).to_list()) == {"b", "d"}
    assert "asked for buy alone" in split.test.protocol


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"targets": ["bye"]}, "targets = 'bye' is unknown; did you mean 'buy'"),
        ({"targets": ["shown"]}, "targets: shown weighs 0, which is no positive"),
        ({"targets": "buy"}, "targets"),
        ({"event": None, "event_weights": {}}, "targets needs event="),
        ({"duplicates": "first"}, "duplicates = 'first' keeps one event of each .* use 'all' or 'exact'"),
        ({"targets": ["cart"], "event_weights": {**WEIGHTS, "wish": 1}}, None),
    ],
)
def test_mistakes_are_named(more, message):
    if message is None:
        assert int(dataset(ANN + OTHERS, **more).asked.sum()) == 1
        return
    with pytest.raises(InputError, match=message):
        dataset(ANN + OTHERS, **more)


def test_a_type_that_never_happens_is_refused():
    with pytest.raises(InputError, match=r"no event of .* is of type cart; valid and test would ask for nothing"):
        dataset(ANN, targets=["cart"])


def test_it_is_a_flag_and_a_line_of_a_file(tmp_path):
    rows = [(f"u{u}", f"i{(u + t) % 9}", t, "buy" if t % 3 == 2 else "view") for u in range(30) for t in range(9)]
    pl.DataFrame(rows, schema=["user", "item", "time", "what"], orient="row").write_csv(tmp_path / "log.csv")
    flags = ["--events", tmp_path / "log.csv", "--event", "what", "--event-weight", "view=1,buy=5"]
    said = call("train", *flags, "--targets", "buy", "--retriever", "item-knn", "--out", tmp_path / "a").stdout
    assert "asked for buy alone" in said
    assert "log.csv: 90 of 270 events are of type buy: valid and test ask for these alone" in said
    assert 'targets = [\n    "buy",\n]' in (tmp_path / "a" / "config.toml").read_text()
    call("train", "--config", tmp_path / "a" / "config.toml", "--out", tmp_path / "b", "-q")
    assert call("compare", tmp_path / "a", tmp_path / "b").exit_code == 0
    assert "did you mean 'buy'" in refused("train", *flags, "--targets", "bye", "--retriever", "item-knn")
