"""Layouts as they are met: JSON of all kinds, sequences, click logs, nested sessions, folders, sparse matrices."""

import gzip
import json
import random

import numpy as np
import polars as pl
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.dataset import Dataset
from suisen.data.layouts.matrices import events_of
from suisen.data.log import Log
from suisen.data.splits import ClickRatio, LeaveLast
from suisen.errors import InputError
from tests.helpers import raw_items, read_frame, read_path


def put(folder, name, text):
    path = folder / name
    data = text if isinstance(text, bytes) else text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def taken(log: Log, *columns):
    return log.events.select("user", "item", *columns).rows()


# -- JSON --------------------------------------------------------------------------------------------------------------

ROWS = [{"user": "ann", "item": 7, "time": 10}, {"user": "bob", "item": 9, "time": 20, "more": {"shop": {"id": 3}}}]
AS_JSON = {
    "array": json.dumps(ROWS),
    "indented array": json.dumps(ROWS, indent=2),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "lines, blank ones between": "\n\n".join(map(json.dumps, ROWS)) + "\n",
    "wrapped": json.dumps({"events": ROWS, "version": 1}),
    "columns": json.dumps({"user": ["ann", "bob"], "item": [7, 9], "time": [10, 20]}),
    "python literals": "\n".join(map(repr, ROWS)),
}


@pytest.mark.parametrize("text", AS_JSON.values(), ids=AS_JSON)
@pytest.mark.parametrize("name", ["my.json", "my.json.gz"])
def test_a_json_file_is_a_table_however_it_is_written(tmp_path, name, text):
    log = read_path(put(tmp_path, name, text))
    assert taken(log, "time") == [("ann", 7, 10_000_000), ("bob", 9, 20_000_000)]


def test_what_was_made_of_a_json_file_is_said(tmp_path):
    said = {key: read_path(put(tmp_path, "my.json", text)).notes for key, text in AS_JSON.items()}
    assert "my.json: read as JSON lines, an object per line" in said["lines"]
    assert "my.json: the rows are those of 'events'" in said["wrapped"]
    assert "my.json: an object of columns" in said["columns"]
    assert "my.json: its lines are Python's literals, not JSON" in said["python literals"]
    assert "my.json: nested objects are read as columns: more, more.shop" in said["array"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('[{"user": 1', "my.json is no JSON"),
        ("[1, 2]", "2 bad rows, first at row 1: the row is no JSON object"),
        ('[{"user": 1, "item": 2}, 5]', "1 bad row, at row 2: the row is no JSON object"),
        ('{"a": [{"user": 1}], "b": [{"item": 1}]}', "my.json holds no one table"),
        ('"text"', "my.json holds no one table"),
        ('[{"user": 1, "item": "a"}, {"user": "x", "item": true}]', "field 'user' changes its type .*int and str"),
        ("[]", "my.json has a header and no rows"),
    ],
)
def test_a_json_file_that_is_no_table_is_refused(tmp_path, text, error):
    with pytest.raises(InputError, match=error):
        read_path(put(tmp_path, "my.json", text))


def test_bad_elements_are_dropped_and_counted(tmp_path):
    log = read_path(put(tmp_path, "my.json", '[{"user": 1, "item": 2}, 5, null]'), bad_rows="drop")
    assert taken(log) == [(1, 2)]
    assert any("2 rows that are no JSON object" in note for note in log.notes)


def test_a_nested_field_is_a_column_by_its_path(tmp_path):
    lines = [{"by": {"id": f"u{i}", "at": {"ms": 1_600_000_000_000 + i}}, "item": i % 2} for i in range(4)]
    log = read_path(put(tmp_path, "my.jsonl", "\n".join(map(json.dumps, lines))), user="by.id", time="by.at.ms")
    assert log.events["user"].to_list() == ["u0", "u1", "u2", "u3"]
    assert log.events["time"][1] - log.events["time"][0] == 1000


AMAZON = [
    {"reviewerID": "A1", "asin": "0001", "helpful": [2, 3], "overall": 5.0, "unixReviewTime": 1252800000},
    {"reviewerID": "A2", "asin": "0002", "helpful": [0, 0], "overall": 1.0, "unixReviewTime": 1252800001},
]
META = [
    {"asin": "0001", "title": "It's \"big\"", "price": 3.17, "categories": [["Toys", "Dolls"], ["Gifts"]],
     "related": {"also_bought": ["0002"]}, "salesRank": {"Toys": 7}},
    {"asin": "0002", "title": "Café", "categories": [["Toys"]], "salesRank": {"Games": 9}},
]  # fmt: skip


@pytest.mark.parametrize("spell", [json.dumps, repr], ids=["json", "python literals"])
def test_amazon_reviews_and_their_nested_metadata(tmp_path, spell):
    reviews = put(tmp_path, "reviews_Toys_5.json.gz", "\n".join(map(json.dumps, AMAZON)))
    meta = put(tmp_path, "meta_Toys.json.gz", "\n".join(map(spell, META)))
    log = read_path(reviews, label="overall", positive_from=4, item_features=meta, titles="title")
    assert taken(log, "label") == [("A1", "0001", 1), ("A2", "0002", 0)]
    items = log.items
    assert items["item"].to_list() == ["0001", "0002"]
    assert items["categories"].to_list() == [["Toys", "Dolls", "Gifts"], ["Toys"]]
    assert items["related.also_bought"].to_list() == [["0002"], None]
    assert items["salesRank.Toys"].to_list() == [7, None]
    data = Dataset.of(log)
    assert data.titles(data.items.dense(["0002"])) == ["Café"]
    assert {field.name: field.kind for field in data.schema.item}["categories"] == "multi"


def test_nested_values_of_several_shapes_are_text(tmp_path):
    lines = [{"asin": 1, "details": {"a": 1}}, {"asin": 2, "details": ["x"]}, {"asin": 3, "details": "none"}]
    meta = put(tmp_path, "meta.jsonl", "\n".join(map(json.dumps, lines)))
    log = read_frame(pl.DataFrame({"user": [1], "asin": [1]}), item_features=meta)
    assert log.items["details"].to_list() == ['{"a": 1}', '["x"]', "none"]


@given(st.lists(st.tuples(st.integers(0, 10**12), st.text(min_size=1).filter(str.strip)), min_size=1, max_size=8))
def test_any_rows_come_back_from_every_json_layout(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("j")
    objects = [{"user": user, "item": item} for user, item in rows]
    array = put(folder, "a.json", json.dumps(objects))
    lines = put(folder, "b.jsonl", "\n".join(json.dumps(each, ensure_ascii=False) for each in objects))
    columns = put(folder, "c.json", json.dumps({"user": [u for u, _ in rows], "item": [i for _, i in rows]}))
    for path in (array, lines, columns):
        assert taken(read_path(path)) == rows


# -- sequences ---------------------------------------------------------------------------------------------------------


def test_a_line_per_user_in_order(tmp_path):
    path = put(tmp_path, "my.txt", "7 1 2 3\n\n8\tb  1\r\n9\n")
    log = read_path(path, format="sequences")
    assert taken(log) == [(7, "1"), (7, "2"), (7, "3"), (8, "b"), (8, "1")]
    assert log.ordered
    assert "my.txt: 1 users without items have no events" in log.notes
    assert "my.txt: no times; each user's events stand in the order of the file" in log.notes
    assert not any("the log has no order" in note for note in log.notes)
    split = Dataset.of(log).split(LeaveLast(test=1, valid=0))
    assert split.order == "place"
    assert raw_items(split.train, split.train.events.item) == ["1", "2", "b"]


def test_a_line_per_session_of_a_guest(tmp_path):
    log = read_path(put(tmp_path, "my.txt", "1 2 3\n2 3\n"), format="sessions")
    assert log.events["user"].null_count() == 5
    data = Dataset.of(log)
    assert [raw_items(data, row) for row in data.histories.tolist() if row] == [[1, 2, 3], [2, 3]]
    split = data.split(LeaveLast(test=1, valid=0))
    assert [raw_items(split.train, row) for row in split.test.contexts.history.tolist()] == [[1, 2], [2]]


def test_pairs_in_order_and_lines_that_are_none(tmp_path):
    log = read_path(put(tmp_path, "my.txt", "1 9\n1 7\n2 9\n"), format="pairs")
    assert taken(log) == [(1, 9), (1, 7), (2, 9)]
    assert log.ordered
    bad = put(tmp_path, "bad.txt", "1 9\n1 7 8\n2\n")
    with pytest.raises(InputError, match="2 bad rows, first at line 2: the line is not: user item"):
        read_path(bad, format="pairs")
    assert taken(read_path(bad, format="pairs", bad_rows="drop")) == [(1, 9)]


def test_the_delimiter_of_a_sequence(tmp_path):
    log = read_path(put(tmp_path, "my.txt", "ann, red car, tea\nbob,tea,\n"), format="sequences", delimiter=",")
    assert taken(log) == [("ann", "red car"), ("ann", "tea"), ("bob", "tea")]


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=6), min_size=1, max_size=6))
def test_sequences_come_back_in_order(tmp_path_factory, lists):
    text = "\n".join(" ".join(map(str, [user, *items])) for user, items in enumerate(lists))
    log = read_path(put(tmp_path_factory.mktemp("s"), "my.txt", text), format="sequences")
    data = Dataset.of(log)
    found = [raw_items(data, row) for row in data.histories.tolist()[1:]]
    assert found == lists


# -- click logs --------------------------------------------------------------------------------------------------------

LIBFM = "1 3:1 10:1 20:1\n-1 4:1 11:1 21:1\n1 3:1 11:1 20:1\n"
LIBFFM = "1 0:3:1 1:10:1 2:7:0.5 3:1:1 3:2:1\n0 0:4:1 1:11:1 2:7:2.5 3:2:1\n1 0:3:1 1:10:1 2:7:-1\n"


def test_libfm_fields_are_places_in_the_line(tmp_path):
    log = read_path(put(tmp_path, "my.libfm", LIBFM), user="field1", item="field2")
    assert taken(log, "label", "field3") == [("3", "10", 1, "20"), ("4", "11", 0, "21"), ("3", "11", 1, "20")]
    assert log.context_columns == ["field3"]
    assert log.kinds == {"field3": "categorical"}
    assert "my.libfm: label -1 is read as 0" in log.notes


def test_libffm_fields_are_named(tmp_path):
    log = read_path(put(tmp_path, "my.ffm.gz", LIBFFM), user="field0", item="field1")
    assert taken(log, "label") == [("3", "10", 1), ("4", "11", 0), ("3", "10", 1)]
    assert log.events["field2"].to_list() == [0.5, 2.5, -1.0]
    assert log.events["field3"].to_list() == [["1", "2"], ["2"], None]
    assert log.kinds == {"field2": "numeric", "field3": "multi"}


def test_a_click_log_without_user_and_item(tmp_path):
    log = read_path(put(tmp_path, "my.libffm", LIBFFM))
    assert log.events["user"].null_count() == 3
    assert log.events["session"].n_unique() == 3
    assert log.events["item"].unique().to_list() == ["any"]
    assert log.context_columns == ["field0", "field1", "field2", "field3"]
    assert Dataset.of(log).schema.n_items == 2


def test_some_of_the_fields(tmp_path):
    log = read_path(put(tmp_path, "my.libffm", LIBFFM), user="field0", item="field1", context=["field2"])
    assert log.context_columns == ["field2"]
    assert any("not used: field3" in note for note in log.notes)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("my.libfm", "1 3:1 10:1\n0 4:1\n", "1 bad row, at line 2: a line has not the 2 features of the first"),
        ("my.libfm", "1 3:1 10:1\n0 4 11:1\n", "at line 2: a word is not feature:value"),
        ("my.libffm", "1 0:3:1\n0 0:4:x\n", "at line 2: a word is not field:feature:value"),
        ("my.libffm", "1 0:3:1 0:4:0.5\n0 0:4:1\n", "field0 holds several features with values other than 1"),
        ("my.libffm", "5 0:3:1\n2 0:4:1\n", "label = '5' is neither 0 nor 1"),
    ],
)
def test_a_click_log_that_cannot_be_told_is_refused(tmp_path, name, text, error):
    with pytest.raises(InputError, match=error):
        read_path(put(tmp_path, name, text))


def criteo_line(label, seed):
    rng = random.Random(seed)
    numbers = [str(rng.randrange(-2, 99)) if rng.random() < 0.8 else "" for _ in range(13)]
    return "\t".join([str(label), *numbers, *(f"{rng.randrange(2**32):08x}" for _ in range(26))])


def test_criteo(tmp_path):
    text = "\n".join(criteo_line(i % 2, i) for i in range(40)) + "\n"
    log = read_path(put(tmp_path, "train.txt", text), format="criteo")
    assert log.events["label"].to_list() == [i % 2 for i in range(40)]
    assert len(log.context_columns) == 39
    split = Dataset.of(log).split(ClickRatio(by="rows"))
    assert split.order == "place"
    assert split.test.labels.tolist() == [[0.0], [1.0], [0.0], [1.0]]
    kinds = [field.kind for field in split.train.schema.context]
    assert kinds == ["numeric"] * 13 + ["categorical"] * 26
    with pytest.raises(InputError, match="the record has 39 fields and the header 40"):
        read_path(put(tmp_path, "test.txt", text.replace("0\t", "", 1)), format="criteo")


# -- rows that are lists -----------------------------------------------------------------------------------------------


def test_otto(tmp_path):
    lines = [
        {"session": 5, "events": [{"aid": 1, "ts": 1661724000278, "type": "clicks"},
                                  {"aid": 2, "ts": 1661724000279, "type": "orders"}]},
        {"session": 6, "events": []},
        {"session": 7, "events": [{"aid": 1, "ts": 1661724000280, "type": "carts"}]},
    ]  # fmt: skip
    path = put(tmp_path, "otto.jsonl", "\n".join(map(json.dumps, lines)))
    log = read_path(path, format="otto")
    assert log.events.select("session", "item", "time").rows() == [
        (5, 1, 1661724000278000), (5, 2, 1661724000279000), (7, 1, 1661724000280000)]  # fmt: skip
    assert "otto.jsonl: 1 sessions without events" in log.notes
    weighed = read_path(path, format="otto", event="type", event_weights={"clicks": 0, "carts": 2, "orders": 5})
    assert weighed.events["label"].to_list() == [0, 1, 1]
    as_users = read_path(path, format="otto", user="session")
    assert taken(as_users) == [(5, 1), (5, 2), (7, 1)]
    with pytest.raises(InputError, match="has no sessions with a list of events"):
        read_path(put(tmp_path, "no.jsonl", '{"a": 1}'), format="otto")


MIND = (
    "1\tU1\t11/11/2019 9:05:58 AM\tN9 N8\tN1-0 N2-1\n"
    "2\tU2\t11/12/2019 6:00:00 PM\t\tN2-0\n"
    "3\tU1\t11/13/2019 1:00:00 PM\tN9 N8\tN3-1 N1-0\n"
)


def test_mind(tmp_path):
    log = read_path(put(tmp_path, "behaviors.tsv", MIND), format="mind")
    assert taken(log, "label", "session") == [
        ("U1", "N9", 1, None), ("U1", "N8", 1, None), ("U1", "N1", 0, 1), ("U1", "N2", 1, 1), ("U2", "N2", 0, 2),
        ("U1", "N3", 1, 3), ("U1", "N1", 0, 3)]  # fmt: skip
    first = log.events.filter(pl.col("user") == "U1")["time"]
    assert first[0] == first[1] == first[2] == 1573463158 * 10**6
    assert (
        "behaviors.tsv: 2 clicks of the histories have no times: they stand at the user's first impression" in log.notes
    )
    data = Dataset.of(log)
    assert [raw_items(data, row) for row in data.histories.tolist() if row] == [["N9", "N8", "N2", "N3"]]
    with pytest.raises(InputError, match="1 shown news have no -0 or -1 behind them"):
        read_path(put(tmp_path, "test.tsv", MIND.replace("N2-1", "N2")), format="mind")
    with pytest.raises(InputError, match="1 bad row, at line 2: the record has 4 fields and the header 5"):
        read_path(put(tmp_path, "torn.tsv", MIND.replace("\t\tN2", "\tN2")), format="mind")
    with pytest.raises(InputError, match="time is missing"):
        read_path(put(tmp_path, "time.tsv", MIND.replace("9:05:58 AM", "soon")), format="mind")


# -- folders -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_parquet_files_is_one_log(tmp_path):
    parts = [pl.DataFrame({"user": [f"u{i}"] * 2, "item": [i, i + 1], "time": [i, i + 1]}) for i in range(3)]
    for i, part in enumerate(parts):
        part.write_parquet(tmp_path / f"part-0000{i}.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "_metadata.parquet").write_bytes(b"no data")
    log = read_path(tmp_path)
    assert taken(log) == pl.concat(parts).select("user", "item").rows()
    assert log.notes[0] == f"{tmp_path.name}: 3 Parquet files in the order of their names"


def test_key_value_folders_are_columns(tmp_path):
    for day in ("2024-01-02", "2024-01-01"):
        folder = tmp_path / "log" / f"day={day}" / "shop=7"
        folder.mkdir(parents=True)
        pl.DataFrame({"user": [day[-1]], "item": [1]}).write_parquet(folder / "a.parquet")
    log = read_path(tmp_path / "log", time="day", context=["shop"])
    assert taken(log, "shop") == [("1", 1, 7), ("2", 1, 7)]
    assert log.events["time"].to_list() == [1704067200 * 10**6, 1704153600 * 10**6]


def test_a_folder_without_parquet_and_one_of_two_tables_are_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder without Parquet files; give a file, or a folder of Parquet"):
        read_path(tmp_path)
    pl.DataFrame({"user": [1], "item": [1]}).write_parquet(tmp_path / "a.parquet")
    pl.DataFrame({"user": ["x"], "item": [1], "more": [1]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="its Parquet files are no one table"):
        read_path(tmp_path)


# -- sparse matrices ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [sp.csr_matrix, sp.csc_matrix, sp.coo_matrix, sp.csr_array, sp.lil_matrix, sp.dok_matrix]
)
def test_every_kind_of_sparse_matrix(kind):
    dense = np.array([[0, 2.5, 0], [1, 0, 4]])
    log = read_frame(kind(dense))
    assert taken(log, "weight") == [(0, 1, 2.5), (1, 0, 1.0), (1, 2, 4.0)]
    assert log.notes[0] == "events: a sparse matrix of 2 users and 3 items; ids are numbers from 0"


def test_a_matrix_of_ones_has_no_weights_and_one_of_ratings_has_labels():
    ones = sp.csr_matrix(np.eye(3, dtype=np.int8))
    for dtype in (np.int8, bool, np.float32, np.int64):
        assert read_frame(ones.astype(dtype)).events.columns == ["user", "item", "row"]
    ratings = sp.csr_matrix(np.array([[5, 1], [0, 4]]))
    log = read_frame(ratings, label="weight", positive_from=4)
    assert taken(log, "label") == [(0, 0, 1), (0, 1, 0), (1, 1, 1)]
    assert "weight" not in log.events.columns


def test_stored_zeros_and_doubles_are_said():
    matrix = sp.coo_matrix(([1.0, 2.0, 0.0, 3.0], ([0, 0, 1, 1], [0, 0, 1, 2])), shape=(2, 3))
    log = read_frame(matrix)
    assert taken(log, "weight") == [(0, 0, 3.0), (1, 2, 3.0)]
    assert "events: 1 stored zeros are left out" in log.notes
    assert "events: 1 values stored twice were added up" in log.notes


def test_ids_of_ones_own_for_rows_and_columns():
    matrix = sp.csr_matrix(np.array([[0, 1], [1, 1]]))
    frame = events_of(matrix, users=["ann", "bob"], items=["tea", "rum"])
    assert frame.select("user", "item").rows() == [("ann", "rum"), ("bob", "tea"), ("bob", "rum")]
    with pytest.raises(InputError, match="items: 1 different ids for 2; give one for each"):
        events_of(matrix, items=["tea", "tea"])


def test_no_events_are_refused():
    with pytest.raises(InputError, match="no rows"):
        read_frame(sp.csr_matrix((3, 3)))
