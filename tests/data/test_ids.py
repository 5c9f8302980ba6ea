import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.ids import IdMap
from suisen.errors import InputError

raw_ids = st.one_of(
    st.lists(st.integers(-(2**60), 2**60), max_size=20), st.lists(st.text(max_size=4), max_size=20)
).filter(len)


@given(raw_ids)
def test_dense_and_raw_are_inverse(values):
    ids = IdMap.of("item", pl.Series(values))
    dense = ids.dense(values)
    assert dense.dtype == np.int64
    assert ids.raw(dense).to_list() == values
    assert sorted(set(dense.tolist())) == list(range(1, len(ids)))
    assert [ids.dense_one(value) for value in values] == dense.tolist()


def test_ids_go_by_first_appearance_and_skip_nulls():
    ids = IdMap.of("item", pl.Series(["b", None, "a", "b"]))
    assert ids.raw_ids.to_list() == ["b", "a"]
    assert ids.dense(["a", None, "zzz", "b"]).tolist() == [2, 0, 0, 1]


def test_integers_and_their_text_find_each_other():
    numbers = IdMap.of("item", pl.Series([7, 42]))
    assert numbers.dense(["42", "x", "7"]).tolist() == [2, 0, 1]
    assert numbers.dense([42, "7", None]).tolist() == [2, 1, 0]
    assert numbers.dense(np.array([42, 1])).tolist() == [2, 0]
    words = IdMap.of("item", pl.Series(["7", "42"]))
    assert words.dense([42, 7, 1]).tolist() == [2, 1, 0]
    assert (words.dense_one(42), words.dense_one("x")) == (2, 0)


def test_floats_are_the_integers_they_spell_and_nothing_else():
    numbers, words = IdMap.of("item", pl.Series([7])), IdMap.of("item", pl.Series(["7"]))
    for ids in (numbers, words):
        assert ids.dense([7.0, 7.5, float("nan")]).tolist() == [1, 0, 0]


@given(st.text(alphabet="+-0123456789. a²", max_size=4))
def test_one_by_one_never_fails_and_agrees_on_plain_integers(text):
    ids = IdMap.of("item", pl.Series([1, 12, -3]))
    one = ids.dense_one(text)
    assert one in range(len(ids))
    if text.lstrip("-").isdecimal() and text.isascii() and text.count("-") <= 1:
        assert one == ids.dense([text])[0]


def test_nothing_asked_nothing_found():
    assert IdMap.of("item", pl.Series([1])).dense([]).tolist() == []
    assert len(IdMap.of("item", pl.Series([], dtype=pl.String))) == 1


@pytest.mark.parametrize(("dense", "text"), [([1, 0], "item id 0 at position 1"), ([9], "item id 9 .*known: 1 to 1")])
def test_raw_fails_where_there_is_no_id(dense, text):
    with pytest.raises(InputError, match=text):
        IdMap.of("item", pl.Series(["a"])).raw(np.array(dense))
