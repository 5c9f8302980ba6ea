"""From a frame or a file to a clean log: the same events whatever the container, names, order or delimiter."""

import dataclasses
import gzip
import inspect
from datetime import UTC, datetime

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from suisen.data.read import USUAL, ReadOptions
from suisen.errors import InputError, MissingExtra
from tests.helpers import read_frame, read_path

EVENTS = pl.DataFrame(
    {
        "uid": ["u1", "ü2", "u1", "u3"],
        "sku": ['5" pipe', "日本, 茶", "x\ny", "x\ny"],
        "ts": ["2021-01-01T00:00:00Z", "2021-01-02", "2021-01-02T09:00:00+09:00", "2021-01-03"],
        "shelf": ["a", "b", None, "a"],
    }
)
DAY = 86_400 * 10**6
FIRST = int(datetime(2021, 1, 1, tzinfo=UTC).timestamp()) * 10**6
EXPECTED = [
    ("u1", '5" pipe', FIRST, 0, "a"),
    ("ü2", "日本, 茶", FIRST + DAY, 1, "b"),
    ("u1", "x\ny", FIRST + DAY, 2, None),
    ("u3", "x\ny", FIRST + 2 * DAY, 3, "a"),
]


def file_of(tmp_path, name, text, encoding="utf-8"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    "table",
    [EVENTS, EVENTS.lazy(), EVENTS.to_pandas(), EVENTS.to_arrow(), EVENTS.to_arrow().to_batches()[0], EVENTS.to_dict()],
    ids=["polars", "lazy", "pandas", "arrow", "batch", "dict"],
)
def test_frames_of_every_kind(table):
    log = read_frame(table, context=["shelf"])
    assert log.events.columns == ["user", "item", "time", "row", "shelf"]
    assert log.events.rows() == EXPECTED
    assert log.context_columns == ["shelf"]


@pytest.mark.parametrize("name", ["e.csv", "e.tsv", "e.jsonl", "e.parquet", "e.arrow"])
def test_files_of_every_kind(tmp_path, name):
    path = tmp_path / name
    {
        "e.csv": EVENTS.write_csv,
        "e.tsv": lambda p: EVENTS.write_csv(p, separator="\t"),
        "e.jsonl": EVENTS.write_ndjson,
        "e.parquet": EVENTS.write_parquet,
        "e.arrow": EVENTS.write_ipc,
    }[name](path)
    assert read_path(path, context=["shelf"]).events.rows() == EXPECTED
    assert read_frame(str(path), context=["shelf"]).events.rows() == EXPECTED


def test_shift_jis_with_a_mark_of_order_in_the_tables(tmp_path):
    events = file_of(tmp_path, "e.csv", "uid,sku,ts\nu1,茶,2021/01/01\nu2,表示,2021/01/02\n", "cp932")
    items = file_of(tmp_path, "items.csv", "sku,題名\n茶,緑茶\n表示,ソ\n予,未\n", "cp932")
    log = read_path(events, encoding="shift-jis", item_features=items, time_zone="Asia/Tokyo")
    assert log.events["item"].to_list() == ["茶", "表示"]
    assert log.events["time"].to_list() == [FIRST - 9 * DAY // 24, FIRST + 15 * DAY // 24]
    assert log.items.rows() == [("茶", "緑茶"), ("表示", "ソ"), ("予", "未")]
    assert "item table: 1 of 3 rows have no events and are kept" in log.notes
    assert len(Dataset.of(log).items) == 4


cells = st.text('ab1,;|\t"\né日', min_size=1, max_size=4).filter(lambda text: text.strip() != "")


@settings(max_examples=40)
@given(
    st.lists(st.tuples(cells, cells, st.integers(10**8, 10**9 - 1)), min_size=1, max_size=8),
    st.sampled_from(",;|\t"),
    st.permutations(["who", "what", "when", "rest"]),
)
def test_any_delimiter_and_any_order_of_columns_reads_the_same(tmp_path_factory, rows, delimiter, order):
    who, what, when = (list(column) for column in zip(*rows, strict=True))
    frame = pl.DataFrame({"who": who, "what": what, "when": when, "rest": who})
    names = {"user": "who", "item": "what", "time": "when"}
    path = tmp_path_factory.mktemp("any") / "e.csv"
    frame.select(order).write_csv(path, separator=delimiter)
    got = read_path(path, delimiter=delimiter, **names).events
    texts = frame.with_columns(pl.col("who", "what").str.strip_chars(""))
    expected = read_frame(texts, **names).events
    assert got.with_columns(pl.col("user", "item").cast(pl.String)).equals(expected)


# -- columns --------------------------------------------------------------------------------


def test_usual_names_are_found_whatever_their_case():
    log = read_frame({"User-ID": [1], "Item_Id": [2], "TimeStamp": [3], "x": [4]})
    assert log.events.rows() == [(1, 2, 3 * 10**6, 0)]
    assert log.notes[0] == "events: user = User-ID, item = Item_Id, time = TimeStamp; not used: x"


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"uid": [1], "sku": [1]}, {"item": "skuu"}, "item = 'skuu' is no column of events; did you mean 'sku'"),
        (
            {"uid": [1], "sku": [1]},
            {"context": ["shelf"]},
            "context = 'shelf' is no column of events; columns: uid, sku",
        ),
        (
            {"uid": [1], "thing": [1]},
            {},
            r"events has no item column of a usual name .*; columns: uid, thing; pass item=",
        ),
        ({"who": [1], "sku": [1]}, {}, r"events has no user column of a usual name"),
        ({"uid": [1], "user_id": [1], "sku": [1]}, {}, "'uid' and 'user_id' may each be the user; pass user="),
        (
            {"uid": [1], "sku": [1], "kind": ["buy"]},
            {"event": "kind"},
            "event = 'kind' needs event_weights=; types: buy",
        ),
        ({"uid": [1], "sku": [1]}, {"event_weights": {"buy": 1}}, "event_weights needs event="),
        ({"uid": [1], "sku": [1]}, {"event": "x", "event_weights": {"buy": "1"}}, "buy = '1' is no finite number"),
        ({"uid": [1], "sku": [1]}, {"positive_from": 4}, "positive_from needs label="),
        ({"uid": [1], "sku": [1]}, {"user": None}, "user = None needs session="),
        ({"uid": [1], "sku": [1]}, {"seesion": "sku"}, "option = 'seesion' is unknown; did you mean 'session'"),
        ({"uid": [1], "sku": [1]}, {"bad_rows": "dorp"}, "bad_rows = 'dorp' is unknown; did you mean 'drop'"),
        ({"uid": [1], "sku": [1]}, {"duplicates": "lst"}, "duplicates = 'lst' is unknown; did you mean 'last'"),
        ({"uid": [1], "sku": [1]}, {"kinds": {"x": "multi"}}, "kinds: column = 'x' is unknown"),
        ({"uid": [1], "sku": [1], "time": [1], "ts": [1]}, {"time": "ts", "context": ["time"]}, "'time' bears a name"),
        ({"uid": [], "sku": []}, {}, "events has a header and no rows; give at least one event"),
    ],
)
def test_refuses(columns, options, message):
    with pytest.raises(InputError, match=message):
        read_frame(columns, **options)


def test_refuses_a_header_alone(tmp_path):
    with pytest.raises(InputError, match=r"e.csv has a header and no rows"):
        read_path(file_of(tmp_path, "e.csv", "uid,sku\n"))


def test_a_file_of_nothing_but_bad_lines(tmp_path):
    path = file_of(tmp_path, "e.jsonl", "[1]\nx\n")
    with pytest.raises(
        InputError, match=r"e\.jsonl: 2 bad rows, first at line 1: the line is no JSON object; fix them"
    ):
        read_path(path)
    with pytest.raises(InputError, match=r"e\.jsonl: no event is left \(e\.jsonl: 2 bad rows dropped"):
        read_path(path, bad_rows="drop")


def test_usual_names_are_written_as_they_are_compared():
    assert all(name == name.lower() and "_" not in name for names in USUAL.values() for name in names)


@pytest.mark.parametrize("method", [Dataset.from_frame, Dataset.from_path])
def test_every_option_is_a_keyword_that_tab_completion_shows(method):
    first, *shown = inspect.signature(method).parameters.values()
    options = dataclasses.fields(ReadOptions)
    assert first.name in ("events", "path")
    assert [each.name for each in shown] == [each.name for each in options]
    assert len(inspect.signature(method).parameters) == len(options) + 1
    assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in shown)
    assert {each.name: each.annotation for each in shown} == {each.name: each.type for each in options}
    with pytest.raises(InputError, match="option = 'tiem' is unknown; did you mean 'time'"):
        method("nowhere", tiem="ts")


def test_no_time_is_said():
    log = read_frame({"uid": [1], "sku": [2], "ts": ["x"]}, time=None)
    assert log.events.columns == ["user", "item", "row"]
    assert "events: no time column: the log has no order" in log.notes


def test_ids_of_text_files_are_integers_where_all_are(tmp_path):
    log = read_path(file_of(tmp_path, "e.csv", "uid,sku\n1,007\n2,8\n"))
    assert log.events.rows() == [(1, "007", 0), (2, "8", 1)]


def test_ids_of_events_and_tables_become_one_type(tmp_path):
    items = file_of(tmp_path, "i.csv", "sku,price\n7,1.5\nA1,2\n")
    log = read_path(file_of(tmp_path, "e.csv", "uid,sku\n1,7\n"), item_features=items)
    assert log.events["item"].to_list() == ["7"]
    assert log.items.rows() == [("7", 1.5), ("A1", 2.0)]


def test_pandas_columns_of_several_types_are_refused():
    frame = pd.DataFrame({"uid": pd.Series([1, "x"], dtype=object), "sku": [1, 2]})
    with pytest.raises(InputError, match="events: a column holds values of several types"):
        read_frame(frame)


def test_pandas_without_arrow_names_the_extra(monkeypatch):
    def absent(_):
        raise ModuleNotFoundError("pyarrow")

    monkeypatch.setattr(pl, "from_pandas", absent)
    with pytest.raises(MissingExtra, match=r"pyarrow is not installed; run: pip install 'suisen\[pandas\]'"):
        read_frame(pd.DataFrame({"uid": ["a"], "sku": ["b"]}))


def test_pandas_ids_that_became_floats_and_zoned_times():
    times = pd.to_datetime(["2021-01-01T09:00", "2021-01-02T00:00"]).tz_localize("Asia/Tokyo")
    frame = pd.DataFrame({"uid": [1.0, None], "sid": ["s", "t"], "sku": ["a", "b"], "ts": times}, index=[7, 7])
    log = read_frame(frame, session="sid")
    assert log.events.rows() == [(1, "a", FIRST, "s", 0), (None, "b", FIRST + 15 * DAY // 24, "t", 1)]


# -- tables --------------------------------------------------------------------------------


def test_tables_by_the_key_of_the_events_or_the_first_column():
    events = {"uid": ["a"], "sku": [1]}
    users = pa.table({"age": [5, 6], "uid": ["a", "b"]})
    items = {"code": [1, 2], "tags": [["x", "y"], []]}
    log = read_frame(events, user_features=users, item_features=items, kinds={"age": "numeric"})
    assert log.users.to_dict(as_series=False) == {"user": ["a", "b"], "age": [5, 6]}
    assert log.items.to_dict(as_series=False) == {"item": [1, 2], "tags": [["x", "y"], []]}
    assert log.kinds == {"age": "numeric"}


def test_a_row_of_a_table_is_bad_without_a_key_and_the_second_time():
    events, items = {"uid": ["a"], "sku": [1]}, {"sku": [1, None, 1, 2], "price": [1, 2, 3, 4]}
    message = "item_features: 2 bad rows, first at row 2: sku is missing; 1 more kind: sku is there twice"
    with pytest.raises(InputError, match=message):
        read_frame(events, item_features=items)
    log = read_frame(events, item_features=items, bad_rows="drop")
    assert log.items.rows() == [(1, 1), (2, 4)]
    assert "item_features: 2 bad rows dropped: 1 sku is missing, 1 sku is there twice" in log.notes


def test_refuses_tables():
    with pytest.raises(InputError, match="item_features: feature column 'item' bears a name"):
        read_frame({"uid": [1], "sku": [1]}, item_features={"sku": [1], "item": [2]})
    with pytest.raises(InputError, match="user_features has no columns"):
        read_frame({"uid": [1], "sku": [1]}, user_features=pl.DataFrame())
    with pytest.raises(InputError, match="titles = 'name' is no column of item_features"):
        read_frame({"uid": [1], "sku": [1]}, item_features={"sku": [1], "x": [2]}, titles="name")


def test_titles_stand_first_and_are_text():
    items = {"sku": [1, 2], "maker": ["m", "m"], "name": [5, 6]}
    log = read_frame({"uid": [1], "sku": [2]}, item_features=items, titles="name")
    assert log.items.columns == ["item", "name", "maker"]
    data = Dataset.of(log)
    assert data.titles(data.items.dense([1, 2])) == ["5", "6"]


def test_recbole_files_and_the_tables_beside_them(tmp_path):
    file_of(tmp_path, "d.inter", "user_id:token\titem_id:token\ttimestamp:float\n1\t7\t1609459200.0\n")
    file_of(tmp_path, "d.user", "user_id:token\tage:float\n1\t20\n2\t30.5\n")
    (tmp_path / "d.item.gz").write_bytes(gzip.compress(b"item_id:token\tname:token_seq\tkind:token\n7\tA b\tx\n"))
    log = read_path(tmp_path / "d.inter", titles="name")
    assert log.events.rows() == [(1, 7, FIRST, 0)]
    assert log.users.rows() == [(1, 20.0), (2, 30.5)]
    assert log.items.rows() == [(7, "A b", "x")]
    assert log.kinds == {"age": "numeric", "name": "text", "kind": "categorical"}


def test_dataset_reads_through_these_rules(tmp_path):
    path = tmp_path / "e.csv"
    EVENTS.write_csv(path)
    data = Dataset.from_path(path, user="uid", item="sku", time="ts", context=["shelf"])
    assert (data.schema.n_users, data.schema.n_items) == (4, 4)
    assert Dataset.from_frame(EVENTS, context=["shelf"]).schema == data.schema
