"""Values as people's own files hold them: numbers as ids and labels, tables of their own, categories, times.

Each case stands for a family: what is read must be exact, and what cannot be read exactly is refused with a mend.
"""

import datetime as dt
import gzip
from decimal import Decimal
from types import SimpleNamespace

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from suisen.data.candidates import candidates_of
from suisen.data.clean import as_ids
from suisen.data.dataset import Dataset
from suisen.data.encode import Encoder, infer_kind
from suisen.data.given import given_split
from suisen.data.ids import IdMap
from suisen.data.splits import Ratio
from suisen.errors import InputError
from suisen.recommending.attributes import items_where
from suisen.runs.config import resolve
from suisen.runs.settings import convert
from tests.fitted import fitted
from tests.helpers import read_frame, read_path

BIG = 1234567890123456789
LIMITS = {"Float64": 2**53, "Float32": 2**24, "Float16": 2**11}
TYPES = {"Float64": pl.Float64, "Float32": pl.Float32, "Float16": pl.Float16}


def file_of(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    return path


def said(log, text):
    return [note for note in log.notes if text in note]


# -- numbers as ids ----------------------------------------------------------------------------------------------------


def test_float_ids_that_merged_are_refused_with_row_value_and_mend():
    with pytest.raises(
        InputError, match=r"user holds 1234567890123456\d+ at row 2, a Float64.*2\^53.*read the column as"
    ):
        read_frame({"user": [1.0, float(BIG), float(BIG + 1)], "item": [1, 2, 3]})
    with pytest.raises(InputError, match=r"item holds 16777217|item holds 16777216 at row 1, a Float32: from 2\^24"):
        read_frame({"user": [1], "item": np.array([2**24 + 1], dtype=np.float32)})
    with pytest.raises(InputError, match=r"item_features: item holds 2048 at row 1, a Float16: from 2\^11"):
        read_frame({"user": [1], "item": [2]}, item_features={"item": np.array([2048], dtype=np.float16), "x": [1]})


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from(list(LIMITS)), st.booleans())
def test_a_float_id_is_the_number_it_was_or_is_refused(number, kind, asked):
    column = pl.Series("uid", [float(number)], dtype=pl.Float64).cast(TYPES[kind])
    if abs(number) < LIMITS[kind]:
        assert as_ids("uid", column, False).to_list() == [number]
        assert IdMap.of("user", pl.Series([number])).dense(column).tolist() == [1]
    else:
        with pytest.raises(InputError, match=r"uid holds .*(several ids share|fractions or infinite)"):
            as_ids("uid", column, False)
        near = IdMap.of("user", pl.Series([number]))
        assert near.dense(column if asked else column.to_numpy()).tolist() == [0]


def test_ids_written_with_point_zero_are_the_numbers_of_the_table(tmp_path):
    events = file_of(tmp_path, "e.csv", "user,item\n1.0,7\n2.0,8\n10.00,7\n")
    users = file_of(tmp_path, "u.csv", "user,age\n1,20\n2,30\n10,40\n")
    log = read_path(events, user_features=users)
    assert log.events["user"].to_list() == [1, 2, 10]
    assert len(Dataset.of(log).users) == 4
    assert said(log, "e.csv: user: 3 whole numbers with '.0' ('1.0') are read without it")
    mixed = read_path(file_of(tmp_path, "m.csv", "user,item\n1.0,7\n2,8\n"))
    assert mixed.events["user"].to_list() == [1, 2]
    words = read_path(file_of(tmp_path, "w.csv", "user,item\n1.0,a\nv2,b\n007,c\n"))
    assert words.events["user"].to_list() == ["1.0", "v2", "007"]


def test_rounded_numbers_in_text_are_refused(tmp_path):
    path = file_of(tmp_path, "e.csv", "user,item\n1,7\n1.2345678901234568e+18,8\n")
    with pytest.raises(InputError, match=r"e.csv: user holds '1.2345678901234568e\+18' at line 3, a rounded number"):
        read_path(path)
    codes = read_path(file_of(tmp_path, "c.csv", "user,item\n12E5,7\nA1,8\n"))
    assert codes.events["user"].to_list() == ["12E5", "A1"]


@settings(max_examples=40)
@given(
    st.lists(st.one_of(st.integers(0, 99), st.integers(2**62, 2**64 - 1)), min_size=1, max_size=5),
    st.lists(st.one_of(st.integers(0, 99), st.integers(2**62, 2**64 - 1)), min_size=1, max_size=5),
)
def test_one_rule_for_ids_of_csv_parquet_and_json(tmp_path_factory, users, items):
    n = max(len(users), len(items))
    frame = pl.DataFrame(
        {"user": (users * n)[:n], "item": (items * n)[:n]}, schema=dict.fromkeys(["user", "item"], pl.UInt64)
    )
    folder = tmp_path_factory.mktemp("ids")
    frame.write_csv(folder / "e.csv")
    frame.write_parquet(folder / "e.parquet")
    logs = [read_path(folder / "e.csv"), read_path(folder / "e.parquet"), read_frame(frame)]
    for column, values in (("user", frame["user"].to_list()), ("item", frame["item"].to_list())):
        expected = values if max(values) < 2**63 else [str(value) for value in values]
        assert [log.events[column].to_list() for log in logs] == [expected] * 3
        ids = IdMap.of(column, logs[0].events[column])
        assert all(ids.dense_one(value) == ids.dense_one(str(value)) > 0 for value in values)
    assert IdMap.of("user", pl.Series([str(10**40), "7"])).dense([10**40, 7]).tolist() == [1, 2]


def test_decimals_as_ids():
    whole = [Decimal("5"), Decimal("12345678901234567890"), Decimal("7.00")]
    assert as_ids("uid", pl.Series(whole[::2]), False).to_list() == [5, 7]
    assert as_ids("uid", pl.Series(whole), False).to_list() == ["5", "12345678901234567890", "7"]
    log = read_frame(pd.DataFrame({"user": [Decimal("5"), None], "item": [1, 2]}), bad_rows="drop")
    assert log.events["user"].to_list() == [5]
    with pytest.raises(InputError, match=r"user holds fractions .*\(5\.50 at row 2\); ids are text or whole numbers"):
        read_frame({"user": pl.Series(["5", "5.5"]).cast(pl.Decimal(6, 2)), "item": [1, 2]})


spellings = st.sampled_from(
    [int, float, str, Decimal, np.int64, np.float64, np.float32, lambda n: f"{n}.0", lambda n: Decimal(f"{n}.00")]
)


@given(st.lists(st.tuples(st.integers(0, 1000), spellings), min_size=1, max_size=6), st.booleans())
def test_ids_are_found_however_they_are_spelled_and_mixed(asked, text):
    known = pl.Series(range(500), dtype=pl.Int64)
    ids = IdMap.of("user", known.cast(pl.String) if text else known)
    if text:  # the text "5.0" is another text than "5"
        assume(not any(spell(7) == "7.0" for _, spell in asked))
    given_ids = [spell(number) for number, spell in asked]
    expected = [number + 1 if number < 500 else 0 for number, _ in asked]
    assert ids.dense(given_ids).tolist() == expected
    assert [ids.dense_one(one) for one in given_ids] == expected


def test_no_id_is_found_by_what_is_none():
    for ids in (
        IdMap.of("user", pl.Series([0, 1, 2, BIG - 21])),
        IdMap.of("user", pl.Series(["0", "1", "True", "nan"])),
    ):
        asked = [
            True,
            np.bool_(True),
            1.5,
            float("nan"),
            float("inf"),
            float(BIG),
            Decimal("1.5"),
            Decimal("NaN"),
            None,
        ]
        assert ids.dense(asked).tolist() == [0] * len(asked)
        assert [ids.dense([one]).tolist() for one in asked] == [[0]] * len(asked)
        assert ids.dense(np.array([True])).tolist() == [0]
        assert ids.dense(pl.Series([dt.date(1970, 1, 2)])).tolist() == [0]


def test_mixed_lists_in_users_history_exclude_and_among():
    rec = fitted("ease", "int")
    first, second, *rest = rec.recommend(users=[1, 2], k=5)["item_id"].to_list()
    mixed = rec.recommend(users=[1.0, 2], k=5)
    assert mixed.equals(rec.recommend(users=[1, 2], k=5))
    assert rec.recommend(history=[[float(first), second]], k=5).equals(rec.recommend(history=[[first, second]], k=5))
    allowed = rec.recommend(users=[1], exclude=[float(first), second, Decimal(rest[0])], k=5)["item_id"].to_list()
    assert not {first, second, rest[0]} & set(allowed)
    among = rec.recommend(users=[1], among=[float(first), str(second), np.float32(rest[0])], k=5)["item_id"].to_list()
    assert set(among) == {first, second, rest[0]}
    assert (
        candidates_of([[1.0, 2], [3]], rec.system.store.items).tolist()
        == candidates_of([[1, 2], [3]], rec.system.store.items).tolist()
    )


# -- numbers as labels and features ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bound", [4.1, 0.7, 3.3, 0.1])
def test_a_rating_reaches_the_bound_that_it_was_written_as(dtype, bound):
    frame = {"user": [1, 2, 3], "item": [1, 2, 3], "r": np.array([bound, bound + 0.5, bound - 0.05], dtype=dtype)}
    for table in (frame, pd.DataFrame(frame), pl.DataFrame(frame)):
        assert read_frame(table, label="r", positive_from=bound).events["label"].to_list() == [1, 1, 0]


@pytest.mark.parametrize(
    ("weight", "why"),
    [
        (1e39, r"w = 1e\+39 is beyond what models compute with \(1\.4e-45 to 3\.4e\+38\)"),
        (1e-50, r"w = 1e-50 is beyond what models compute with"),
    ],
)
def test_weights_that_a_model_would_read_as_infinite_or_as_nothing(weight, why):
    with pytest.raises(InputError, match=why):
        read_frame({"user": [1, 2], "item": [1, 2], "w": [1.0, weight]}, weight="w")
    with pytest.raises(InputError, match="models compute with"):
        read_frame({"user": [1], "item": [1], "e": ["buy"]}, event="e", event_weights={"buy": weight})
    half = {"user": [1], "item": [1], "e": ["buy"], "w": [weight**0.5]}
    with pytest.raises(InputError, match="models compute with"):
        read_frame(half, event="e", event_weights={"buy": weight**0.5}, weight="w")
    log = read_frame({"user": [1], "item": [1], "w": [3e38]}, weight="w")
    assert torch.isfinite(Dataset.of(log).events.weight).all()


def test_types_that_are_numbers_are_found_as_floats_too():
    frame = {"user": [1, 2], "item": [1, 2], "e": [1.0, 2.0]}
    assert read_frame(frame, event="e", event_weights={"1": 1, "2": 0.5}).events["weight"].to_list() == [1.0, 0.5]


def test_labels_of_no_number_are_refused_by_name():
    with pytest.raises(InputError, match=r"events: r holds List.*; give a column of numbers"):
        read_frame({"user": [1], "item": [1], "r": [[1]]}, label="r")


@pytest.mark.parametrize("value", [1.5e300, -1.5e300, 4e38])
def test_a_feature_that_no_model_computes_with_is_refused(value):
    items = {"item": [1, 2, 3], "price": [1.0, 2.0, value]}
    log = read_frame({"user": [1, 1, 2], "item": [1, 2, 3]}, item_features=items)
    with pytest.raises(InputError, match=r"feature 'price' holds .*e\+.*, which no model computes with; replace it"):
        Dataset.of(log)


# -- tables ------------------------------------------------------------------------------------------------------------


def test_a_table_is_read_by_its_own_header(tmp_path):
    events = file_of(tmp_path, "e.csv", "user;item\n1;7\n2;8\n")
    items = file_of(tmp_path, "i.csv", "item,price\n7,1.5\n8,2.5\n")
    for options in ({}, {"delimiter": ";"}):
        log = read_path(events, item_features=items, **options)
        assert log.items.rows() == [(7, 1.5), (8, 2.5)]
        assert len(Dataset.of(log).items) == 3


def test_a_table_has_options_of_its_own(tmp_path):
    events = file_of(tmp_path, "e.csv", "user,item\n1,7\n2,8\n")
    items = file_of(tmp_path, "items.list", "item|price\n7|1.5\n8|2.5\n")
    with pytest.raises(
        InputError, match=r"items.list: no format is known.*pass format=; for the item table in item_table="
    ):
        read_path(events, item_features=items)
    log = read_path(events, item_features=items, item_table={"format": "csv", "delimiter": "|"})
    assert log.items.rows() == [(7, 1.5), (8, 2.5)]
    users = file_of(tmp_path, "u.csv", "user\tage\n1\t20\n")
    assert read_path(events, user_features=users, user_table={"delimiter": r"\t"}).users.rows() == [(1, 20)]
    split = given_split(events, events, item_features=items, item_table={"format": "csv", "delimiter": "|"})
    assert split.train.schema.n_items == 3
    with pytest.raises(InputError, match=r"or give its delimiter in item_table="):
        read_path(events, item_features=items, item_table={"format": "csv", "delimiter": "^"})
    with pytest.raises(InputError, match="item_table = 'delimeter' is unknown; did you mean 'delimiter'"):
        read_path(events, item_features=items, item_table={"delimeter": ";"})
    with pytest.raises(InputError, match="item_table says how a file is read; item_features is none"):
        read_path(events, item_table={"format": "csv"})


@pytest.mark.parametrize("packed", [False, True])
def test_a_table_has_an_encoding_of_its_own(tmp_path, packed):
    events, items = tmp_path / "e.csv", tmp_path / ("i.csv.gz" if packed else "i.csv")
    events.write_bytes("user,item\n1,Café\n2,Thé\n".encode("latin-1"))
    for encoding, how in (("utf-8", {}), ("latin-1", {}), ("shift-jis", {"encoding": "cp932"})):
        title = "茶" if encoding == "shift-jis" else "Crème"
        data = f"item,name\nCafé,{title}\nThé,x\n".replace("é", "é" if encoding != "shift-jis" else "")
        items.write_bytes((gzip.compress if packed else bytes)(data.encode(encoding)))
        if encoding == "shift-jis":
            events.write_bytes(b"user,item\n1,Caf\n2,Th\n")
        log = read_path(events, encoding="latin-1", item_features=items, item_table=how)
        assert log.items["name"].to_list() == [title, "x"]


def test_a_table_has_nulls_quotes_and_names_of_its_own(tmp_path):
    events = file_of(tmp_path, "e.csv", "user,item\n1,7\n2,8\n")
    items = file_of(tmp_path, "i.txt", '7\t12" single\t?\n8\t"Weird"\t2.5\n')
    how = {"columns": "item,name,price", "null_values": "?", "quote": "none", "delimiter": "\\t"}
    log = read_path(events, item_features=items, item_table=how)
    assert log.items.rows() == [(7, '12" single', None), (8, '"Weird"', 2.5)]


def test_a_tables_options_as_flags_and_in_a_file():
    for written in (["delimiter=,,format=csv"], ["delimiter=,", "format=csv"], {"delimiter": ",", "format": "csv"}):
        raw = {
            "data": {"events": "e.csv", "item_features": "i.csv", "item_table": written},
            "retriever": {"name": "ease"},
        }
        config = resolve(raw)
        assert config.reading["item_table"] == {"delimiter": ",", "format": "csv"}
        assert config.tables()["data"]["item_table"] == {"delimiter": ",", "format": "csv"}
    assert convert("x", ["a=1,b=2", "c=3"], dict[str, int]) == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    ("keys", "shown"),
    [(["a1", "a2", "a3"], "'a1' and 'a2'"), (["007", "008"], "'007' and '008'"), ([70, 80], "'?70'? and '?80'?")],
)
def test_a_table_of_other_ids_is_refused_with_two_of_each(keys, shown):
    items = {"item": keys, "price": range(len(keys))}
    with pytest.raises(
        InputError, match=rf"none of its \d ids is a known item: .*'item' holds {shown}, the events hold '?7'? and"
    ):
        read_frame({"user": [1, 2], "item": [7, 8]}, item_features=items)


def test_what_a_table_lacks_is_counted():
    log = read_frame({"user": [1, 2], "item": [7, 8]}, item_features={"item": [7, 9], "x": [1, 2]})
    assert said(log, "item table: 1 of 2 rows have no events and are kept")
    assert said(log, "item table: 1 of 2 items of the events have no row in it")


def test_rows_that_repeat_another_are_counted_and_dropped_where_asked():
    frame = pl.DataFrame({"user": [1, 1, 1, 2], "item": [7, 7, 7, 7], "ts": [1, 1, 2, 1], "more": ["a", "a", "a", "b"]})
    log = read_frame(frame)
    assert log.events.height == 4
    assert said(log, 'events: 1 rows repeat another in every column and are events of their own (duplicates="exact"')
    assert read_frame(frame, duplicates="exact").events["row"].to_list() == [0, 2, 3]
    assert not said(read_frame(frame.unique()), "repeat")


# -- columns -----------------------------------------------------------------------------------------------------------


def artists(rows, held, n):
    names = [f"artist {i}" for i in range(n)]
    for row in rows[:held]:
        names[row] = f"artist {row} | band {row}"
    return names


@given(st.integers(40, 300), st.data())
def test_titles_stay_titles_however_few_hold_the_separator(n, data):
    held = data.draw(st.integers(1, n))
    assert infer_kind(pl.Series(artists(list(range(n)), held, n))) == "text"


@pytest.mark.parametrize("n", [20, 50, 400])
def test_what_most_rows_hold_is_split_though_the_pieces_are_many(n):
    assert infer_kind(pl.Series([f"actor {i}|actor {i + 1}|extra {i}" for i in range(n)])) == "multi"
    assert infer_kind(pl.Series([f"headline {i} | The Paper" for i in range(n + 40)])) == "text"


def test_a_stray_separator_is_said_and_titles_stay():
    items = {"item": range(60), "name": artists([3, 9], 2, 60), "url": [f"http://{i}" for i in range(60)]}
    log = read_frame({"user": [1, 2], "item": [3, 4]}, item_features=items)
    assert said(log, "item_features: 2 of 60 values of 'name' hold '|' and stay whole (text); kinds={'name': 'multi'}")
    data = Dataset.of(log)
    assert data.titles(data.items.dense([3, 4])) == ["artist 3 | band 3", "artist 4"]


@pytest.mark.parametrize("single", [0.0, 0.3, 0.53, 0.8])
def test_genres_are_split_though_many_items_have_a_single_one(single):
    rng = np.random.default_rng(0)
    genres = [f"genre {i}" for i in range(18)]
    rows = ["|".join(rng.choice(genres, 1 if rng.random() < single else 3, replace=False)) for _ in range(400)]
    assert infer_kind(pl.Series(rows)) == "multi"
    log = read_frame({"user": [1], "item": [0]}, item_features={"item": range(400), "genres": rows})
    assert said(log, "hold '|' and are split there (multi-valued)")
    assert log.kinds == {"genres": "multi"}


@pytest.mark.parametrize("separator", [", ", ",", ";", " / ", "::"])
def test_another_separator(separator):
    items = {"item": [1, 2, 3], "tags": [separator.join("ab"), "b", separator.join(["a", " c "])]}
    log = read_frame({"user": [1, 1, 1], "item": [1, 2, 3]}, item_features=items, separator=separator)
    data = Dataset.of(log)
    assert sorted(data.encoders["item"].columns[0].vocabulary) == ["a", "b", "c"]
    again = Encoder.from_json(data.encoders["item"].to_json())
    assert again.encode(pl.DataFrame({"tags": [separator.join("ca")]})).multi[0].values.min() > 0
    store = SimpleNamespace(item_frame=data.frames["item"], encoders=data.encoders)
    assert items_where(store, {"tags": "a"}).tolist() == data.items.dense([1, 3]).tolist()
    assert data.split(Ratio(test=0.34)).train.encoders["item"].columns[0].separator == separator
    with pytest.raises(InputError, match="separator = '' separates nothing"):
        read_frame({"user": [1], "item": [1]}, separator="")


NESTED = {
    "structs with missing keys": [{"a": 1}, {"a": 2, "b": "x"}, None],
    "lists in lists": [[["a"]], [["b"], ["c"]], None],
    "lists of structs": [[{"id": 1}], [], None],
    "bytes": [b"x", b"\xff", None],
    "objects": [object(), {1, 2}, None],
    "several types": [1, "x", None],
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_metadata_is_refused_by_column_or_read_as_text(name):
    events, values = {"user": [1, 2, 3], "item": [1, 2, 3]}, NESTED[name]
    frame = pd.DataFrame({"item": [1, 2, 3], "meta": pd.Series(values, dtype=object)})
    for table in (frame, {"item": [1, 2, 3], "meta": values}):
        with pytest.raises(InputError, match=r"'meta'.*kinds=\{'meta': 'text'\} \(--kind meta=text\) reads it as text"):
            read_frame(events, item_features=table)
        for kind in ("text", "categorical"):
            log = read_frame(events, item_features=table, kinds={"meta": kind})
            assert log.items.schema["meta"] == pl.String
            assert log.items["meta"].null_count() == 1
            assert len(Dataset.of(log).items) == 4
        assert read_frame({**events, "meta": values}).events.height == 3  # nobody asks for it


def test_text_of_a_struct_is_json():
    items = pl.DataFrame({"item": [1, 2], "meta": [{"a": "é", "b": None}, {"a": None, "b": [1]}]})
    log = read_frame({"user": [1], "item": [1]}, item_features=items, kinds={"meta": "text"})
    assert log.items["meta"].to_list() == ['{"a": "é", "b": null}', '{"a": null, "b": [1]}']


@pytest.mark.parametrize("role", ["user", "item"])
def test_ids_of_several_types_are_refused_by_column(role):
    frame = {"user": [1, 2], "item": [1, 2]} | {role: [1, "x"]}
    for table in (frame, pd.DataFrame(frame)):
        with pytest.raises(InputError, match=rf"several types: '{role}' \(int, str\); make it text"):
            read_frame(table)


# -- times -------------------------------------------------------------------------------------------------------------

AT = dt.datetime(2012, 4, 3, 18, 0, 9, tzinfo=dt.UTC)
several_moments = st.lists(st.datetimes(dt.datetime(1971, 1, 1), dt.datetime(2099, 1, 1)), min_size=1, max_size=4)
MONTH_DAY = dt.datetime(2012, 12, 31, 18, 0, tzinfo=dt.UTC)


def times_of(values, **options):
    frame = {"user": range(len(values)), "item": range(len(values)), "ts": values}
    log = read_frame(frame, **options)
    return log.events["time"].cast(pl.Datetime("us", "UTC")).to_list(), log


@pytest.mark.parametrize(
    "text",
    [
        "2012-04-03 18:00:09 UTC",
        "2012-04-03T18:00:09 GMT",
        "2012-04-03 18:00:09Z",
        "2012-04-03 20:00:09 Europe/Paris",
        "2012-04-03 14:00:09 America/Indiana/Indianapolis",
        "2012-04-04 03:00:09 +0900 JST",
        "2012-04-03T20:00:09+02:00[Europe/Paris]",
        "Tue Apr 03 18:00:09 +0000 2012",
        "Tue Apr  3 18:00:09 2012",
        "Tue, 03 Apr 2012 18:00:09 GMT",
        "Tue Apr 03 2012 20:00:09 GMT+0200 (Central European Summer Time)",
        "03/Apr/2012:11:00:09 -0700",
        "3 April 2012 6:00:09 PM",
        "April 3rd, 2012 at 6:00:09 p.m.",
        "03.04.2012 18:00:09",
        "2012.04.03 18:00:09",
        "20120403T180009Z",
        "20120403180009",
    ],
)
def test_spellings_that_leave_no_doubt(text):
    moments, log = times_of([text])
    assert moments == [AT]
    assert said(log, "from 2012-04-03 18:00:09 to 2012-04-03 18:00:09 UTC")


FORMATS = ["%Y-%m-%d %H:%M:%S UTC", "%a %b %d %H:%M:%S +0000 %Y", "%d.%m.%Y %H:%M:%S", "%d-%b-%Y %I:%M:%S %p",
           "%B %d, %Y %H:%M:%S", "%a, %d %b %Y %H:%M:%S GMT", "%Y%m%d%H%M%S", "%Y%m%dT%H%M%SZ"]  # fmt: skip


@given(
    several_moments,
    st.sampled_from(FORMATS),
)
def test_every_moment_in_every_spelling(moments, form):
    whole = [moment.replace(microsecond=0) for moment in moments]
    got, _ = times_of([moment.strftime(form) for moment in whole])
    assert got == [moment.replace(tzinfo=dt.UTC) for moment in whole]


@given(
    several_moments,
    st.sampled_from(["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y"]),
    st.sampled_from(["", " %H:%M", " %I:%M %p", ", %I:%M:%S %p"]),
)
def test_day_and_month_are_never_guessed(moments, date, clock):
    form = date + clock
    texts = [moment.strftime(form) for moment in moments]
    expected = [dt.datetime.strptime(text, form).replace(tzinfo=dt.UTC) for text in texts]
    assert times_of(texts, time_format=form)[0] == expected
    if any(moment.day > 12 for moment in moments) or all(moment.day == moment.month for moment in moments):
        assert times_of(texts)[0] == expected
    else:
        with pytest.raises(InputError, match=r"may begin with the day or with the month; pass time_format='%d"):
            times_of(texts)


def test_text_of_any_type_is_a_time():
    for dtype in (pl.Categorical, pl.Enum(["31.12.2012 18:00"]), pl.String):
        assert times_of(pl.Series(["31.12.2012 18:00"], dtype=dtype))[0] == [MONTH_DAY]


def test_a_day_above_12_tells_the_order_and_is_shown():
    got, log = times_of(["04/03/2012 6:00 PM", "12/31/2012 6:00 PM"])
    assert got == [dt.datetime(2012, 4, 3, 18, tzinfo=dt.UTC), MONTH_DAY]
    assert said(log, "with the month first ('12/31/2012 6:00 PM' shows it)")
    with pytest.raises(InputError, match=r"'31/12/2012' begins with the day and '12/31/2012' with the month"):
        times_of(["31/12/2012", "12/31/2012"])


@pytest.mark.parametrize("zone", ["EST", "CST", "IST", "Europe/Pariss", "XYZ"])
def test_zones_that_may_be_several_are_refused_and_can_be_named(zone):
    texts = ["2012-04-03 18:00:09 UTC", f"2012-04-03 13:00:09 {zone}"]
    with pytest.raises(
        InputError, match=rf"row 2: ts = '2012-04-03 13:00:09 {zone}' names a zone that .*\(write its offset"
    ):
        times_of(texts)
    got, _ = times_of(texts[1:], time_format=f"%Y-%m-%d %H:%M:%S {zone}", time_zone="America/Chicago")
    assert got == [AT]


@pytest.mark.parametrize("text", ["04/03/12", "3 avril 2012", "soon", "12h30", "2012"[:2] + "-04-03"])
def test_a_column_of_other_spellings_asks_for_a_format(text):
    with pytest.raises(InputError, match=rf"ts = '{text}' is not a time that is read by itself; .*pass time_format="):
        times_of([text, text])


def test_formats_that_cannot_be_meant():
    for form, why in (
        ("%H:%M", "names no year"),
        ("%d avril %Y", "names no month"),
        ("%Y-%m-%d %Z", "%Z reads no zone"),
    ):
        with pytest.raises(InputError, match=why):
            times_of(["x"], time_format=form)
    with pytest.raises(InputError, match=r"ts = '03\.04\.2012' and all others are not of time_format = '%Y-%m-%d'"):
        times_of(["03.04.2012"], time_format="%Y-%m-%d")
    with pytest.raises(InputError, match="row 2: ts = '2012/04/03' is not a time"):
        times_of(["2012-04-03", "2012/04/03"], time_format="%Y-%m-%d")
    with pytest.raises(InputError, match="contradict each other"):
        times_of(["5"], time_format="%Y%m%d", time_unit="s")
    fraction, _ = times_of(["2012-04-03 18:00:09.25"], time_format="%Y-%m-%d %H:%M:%S.%f")
    assert fraction == [AT + dt.timedelta(microseconds=250_000)]


@pytest.mark.parametrize("factor", [10**3, 10**6, 10**9])
@pytest.mark.parametrize(
    "convert_to", [list, lambda v: [str(each) for each in v], lambda v: [float(each) for each in v]]
)
def test_units_are_not_mixed_in_either_direction(factor, convert_to):
    seconds = [1_600_000_000 + i for i in range(10)]
    few = convert_to([*[value * factor for value in seconds], 1_600_000_000, 1_600_000_001])
    with pytest.raises(
        InputError, match=r"2 bad rows, first at row 11: ts = .*1600000000.* looks like seconds among 10 in"
    ):
        times_of(few)
    assert len(times_of(few, bad_rows="drop")[0]) == 10
    with pytest.raises(InputError, match=r"1 bad row, at row 11: ts = .*(is beyond the year 9999|looks like)"):
        times_of(convert_to([*seconds, 1_600_000_000 * factor]))


@given(
    several_moments,
    st.sampled_from(["%Y%m%d", "%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"]),
    st.sampled_from([int, float, str]),
)
def test_dates_written_as_one_number_are_dates(moments, form, spell):
    texts = [moment.strftime(form) for moment in moments]
    got, log = times_of([spell(text) for text in texts])
    assert [moment.strftime(form) for moment in got] == texts
    assert said(log, "dates written yyyymmdd")


def test_eight_digits_are_a_date_or_refused():
    with pytest.raises(InputError, match="row 2: ts = 20140230 is no date written yyyymmdd"):
        times_of([20140101, 20140230])
    with pytest.raises(InputError, match="is no date written yyyymmdd"):
        times_of([20140230])
    assert times_of([20140101], time_unit="s")[0][0].year == 1970
    assert times_of([140101], time_format="%y%m%d")[0] == [dt.datetime(2014, 1, 1, tzinfo=dt.UTC)]
