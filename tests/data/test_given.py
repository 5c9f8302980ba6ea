"""Splits that somebody else made: as logs, tables, files, and on the command line."""

import json
from dataclasses import replace

import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from suisen.cli.main import cli
from suisen.data.dataset import Dataset
from suisen.data.given import Given, given_split
from suisen.data.ordered import OrderedLog
from suisen.data.split_checks import check_no_future
from suisen.errors import InputError
from tests.data.test_splits import asked, rows_of
from tests.helpers import make_log, same


def test_a_split_of_three_logs():
    train = make_log(user=["a", "b", "a"], item=[1, 2, 3], row=[2, 1, 0])
    valid = make_log(user=["a"], item=[2])
    test = make_log(user=["b", "a"], item=[1, 9])
    split = given_split(train, test, valid)
    assert rows_of(split) == {0, 1, 2}
    assert asked(split, "valid") == {"a": ([2], [3, 1], {1, 3})}
    assert asked(split, "test") == {"a": ([None], [3, 1], {1, 3}), "b": ([1], [2], {2})}
    assert given_split(train, test, valid, order="place").test.contexts.history.lengths.tolist() == [3, 1]
    assert given_split(train, test).valid is None
    with pytest.raises(InputError, match=r"other columns: user, item, time, row in test, user, item, row in train"):
        given_split(train, make_log(user=["a"], item=[1], time=[1]))


TRAIN = {"uid": ["ann", "bob", "ann", "cid"], "sku": [7, 7, 9, 8], "ts": [10, 20, 30, 5]}
TEST = {"uid": ["ann", "bob"], "sku": [8, 9], "ts": [40, 50]}
COLUMNS = {"user": "uid", "item": "sku", "time": "ts"}


def written(folder, name, columns, suffix):
    path = folder / f"{name}{suffix}"
    frame = pl.DataFrame(columns)
    {".csv": frame.write_csv, ".parquet": frame.write_parquet, ".jsonl": frame.write_ndjson}[suffix](path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_tables_files_and_data_sets_give_the_same_split(tmp_path, suffix):
    split = given_split(pl.DataFrame(TRAIN), pl.DataFrame(TEST), **COLUMNS)
    paths = [written(tmp_path, name, part, suffix) for name, part in (("train", TRAIN), ("test", TEST))]
    of_files = given_split(*paths, **COLUMNS)
    of_data = given_split(*(Dataset.from_path(path, **COLUMNS) for path in paths))
    for other in (of_files, of_data):
        assert asked(other, "test") == asked(split, "test") == {"ann": ([8], [7, 9], {7, 9}), "bob": ([9], [7], {7})}
        assert other.order == split.order == "user"
    check_no_future(split)
    assert split.test.protocol == "split given"


def test_the_order_is_what_the_times_show():
    later = {**TRAIN, "ts": [10, 20, 99, 5]}  # an event of ann in train is later than her test
    split = given_split(pl.DataFrame(later), pl.DataFrame(TEST), **COLUMNS)
    assert split.order == "random"
    assert split.notes == ("train holds events from after the test of 1 users: histories are all that train holds",)
    without = given_split(pl.DataFrame(TRAIN).drop("ts"), pl.DataFrame(TEST).drop("ts"), user="uid", item="sku")
    assert without.order == "random"
    ordered = make_log(user=["a", "a"], item=[1, 2])
    assert given_split(replace(ordered, ordered=True), make_log(user=["a"], item=[3])).order == "place"


def test_ids_are_text_in_all_parts_where_they_are_in_one():
    test = {**TEST, "sku": ["8", "x9"]}
    items = pl.DataFrame({"sku": [7, 8, 9, 10], "price": [1.0, 2.0, 3.0, 4.0]})
    split = given_split(pl.DataFrame(TRAIN), pl.DataFrame(test), **COLUMNS, item_features=items)
    assert asked(split, "test") == {"ann": (["8"], ["7", "9"], {"7", "9"}), "bob": ([None], ["7"], {"7"})}
    assert split.train.items.raw_ids.to_list() == ["7", "9", "8", "10"]


def test_labelled_rows_are_asked_one_by_one():
    train, test = ({**part, "click": label} for part, label in ((TRAIN, [1, 0, 1, 0]), (TEST, [1, 0])))
    split = given_split(pl.DataFrame(train), pl.DataFrame(test), **COLUMNS, label="click")
    assert split.test.labels.tolist() == [[1.0], [0.0]]
    users = given_split(pl.DataFrame(train), pl.DataFrame(test), **COLUMNS, label="click", ask="users")
    assert users.test.labels is None
    with pytest.raises(InputError, match="ask = 'rows' needs labels"):
        given_split(pl.DataFrame(TRAIN), pl.DataFrame(TEST), **COLUMNS, ask="rows")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: given_split(pl.DataFrame(TRAIN), pl.DataFrame(TEST), usr="uid"), "option = 'usr' .* mean 'user'"),
        (lambda: Given(order="globl"), "Given: order = 'globl' is unknown"),
        (lambda: Given().split(OrderedLog.of(make_log(user=["a"], item=[1]))), "the log is one part; give test="),
    ],
)
def test_what_makes_no_sense_is_refused(call, text):
    with pytest.raises(InputError, match=text):
        call()


@given(cuts=st.tuples(st.integers(1, 11), st.integers(0, 3)))
def test_cutting_a_log_and_joining_it_again_changes_nothing(cuts):
    log = make_log(user=list("abc") * 5, item=[*range(7), *range(8)], time=list(range(15)))
    first, second = cuts[0], cuts[0] + cuts[1]
    bounds = [(0, first), (first, second), (second, 15)]
    train, valid, test = (replace(log, events=log.events[a:b]) for a, b in bounds)
    split = given_split(train, test, valid if first < second else None)
    assert same(split, Given().split(OrderedLog.of(replace(log, parts=(first, second)))))
    assert rows_of(split) == set(range(first))
    check_no_future(split)


# -- the command line --------------------------------------------------------------------------------------------------


def shop(folder):
    """40 users of ten events, two of them in test; files as somebody publishes them."""
    users = [f"u{u}" for u in range(40)]
    rows = [
        {"uid": user, "sku": (u * 7 + i * i) % 23, "ts": 1_000_000 + i}
        for u, user in enumerate(users)
        for i in range(10)
    ]
    train, test = ([row for row in rows if (row["ts"] >= 1_000_008) == late] for late in (False, True))
    for name, part in (("train", train), ("test", test)):
        pl.DataFrame(part).write_csv(folder / f"{name}.csv")
    return ["--events", str(folder / "train.csv"), "--test-events", str(folder / "test.csv"),
            "--user", "uid", "--item", "sku", "--time", "ts"]  # fmt: skip


def test_train_and_evaluate_on_a_given_split(tmp_path):
    data, run = shop(tmp_path), str(tmp_path / "run")
    said = CliRunner().invoke(cli, ["train", *data, "--retriever", "popularity", "--out", run], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "split given" in json.dumps(metrics)
    again = CliRunner().invoke(cli, ["data", "inspect", *data, "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["split"]["facts"]["test_queries"] == 40


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--split", "ratio"], "--test-events makes the split; it does not go with --split ratio"),
        (["--events", "", "--data", "ml-100k"], "given"),
    ],
)
def test_what_does_not_go_with_files_of_parts(tmp_path, extra, text):
    said = CliRunner().invoke(cli, ["data", "inspect", *shop(tmp_path), *extra])
    assert said.exit_code != 0
    assert text in said.output + str(said.exception)


def test_valid_needs_test(tmp_path):
    flags = shop(tmp_path)
    flags[2] = "--valid-events"
    said = CliRunner().invoke(cli, ["data", "inspect", *flags])
    assert "--valid-events needs --test-events" in said.output + str(said.exception)
