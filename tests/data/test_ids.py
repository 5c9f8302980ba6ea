import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data import ids as module
from suisen.data.ids import HashTable, IdMap
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


NUMBERS = st.integers(-(2**63), 2**63 - 1)
SPELLINGS = st.one_of(
    NUMBERS,
    st.text(max_size=6),
    st.text(alphabet="+-0123456789. \t_a²７٣", max_size=6),
    st.builds("{}{:0{}}{}".format, st.sampled_from(["", "+", " "]), st.integers(-99, 99), st.integers(1, 5),
              st.sampled_from(["", ".0", ".00", " "])),
)  # fmt: skip


@given(st.one_of(st.lists(st.integers(-99, 99), min_size=1), st.lists(st.text(max_size=4), min_size=1)),
       st.lists(st.none() | SPELLINGS, max_size=20))  # fmt: skip
def test_what_names_an_id_of_the_map_is_spelled_as_the_map_spells_it(values, asked):
    """Property: texts name what the ids name, equal ids are equal texts, and no other text is changed."""
    ids = IdMap.of("item", pl.Series(values))
    texts = ids.texts(asked)
    for one, text, dense in zip(asked, texts, ids.dense(asked).tolist()):
        if dense:
            assert text == str(ids.raw_ids[dense - 1])
            assert ids.dense_one(text) == dense
        else:
            assert text == (None if one is None else str(one))
    for one, text in zip(asked, texts):
        assert ids.texts([one]) == [text]


def test_an_integers_many_spellings_are_one_text():
    assert IdMap.of("user", pl.Series([7, 42])).texts(["007", 7, "+7", "7.0", "7", "x", None]) == ["7"] * 5 + [
        "x",
        None,
    ]
    assert IdMap.of("user", pl.Series(["7", "007"])).texts(["007", 7, "+7"]) == ["007", "7", "+7"]


def test_nothing_asked_nothing_found():
    assert IdMap.of("item", pl.Series([1])).dense([]).tolist() == []
    assert len(IdMap.of("item", pl.Series([], dtype=pl.String))) == 1


@pytest.mark.parametrize(("dense", "text"), [([1, 0], "item id 0 at position 1"), ([9], "item id 9 .*known: 1 to 1")])
def test_raw_fails_where_there_is_no_id(dense, text):
    with pytest.raises(InputError, match=text):
        IdMap.of("item", pl.Series(["a"])).raw(np.array(dense))


# -- the hash table ----------------------------------------------------------------------------------------------------

texts = st.text(max_size=5)
numbers = st.one_of(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1))
columns = st.one_of(
    st.tuples(st.just(pl.String), st.lists(texts, unique=True), st.lists(st.one_of(st.none(), texts))),
    st.tuples(st.just(pl.Int64), st.lists(numbers, unique=True), st.lists(st.one_of(st.none(), numbers))),
)
hash_functions = st.sampled_from(
    [
        module.hashes,
        lambda values: np.zeros(values.len(), dtype=np.uint64),  # all in the first bucket
        lambda values: np.full(values.len(), 2**64 - 1, dtype=np.uint64),  # all in the last one
        lambda values: values.hash(seed=0).to_numpy() & np.uint64(1 << 63),  # two different hashes only
        lambda values: values.hash(seed=0).to_numpy() & np.uint64(3),  # one bucket, whose tags differ
    ]
)


@given(columns, hash_functions, st.integers(1, 7))
def test_the_table_is_a_dict_whatever_the_hash(column, hash_function, chunk):
    dtype, values, wanted = column
    wanted += values[::2]
    known = {value: place for place, value in enumerate(values)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "hashes", hash_function)
        patch.setattr(module, "IDS_PER_CHUNK", chunk)
        table = HashTable(pl.Series(values, dtype=dtype))
        places = table.places(pl.Series(wanted, dtype=dtype))
    assert places.dtype == np.int64
    assert places.tolist() == [known.get(value, -1) for value in wanted]


@given(columns)
def test_table_join_and_one_by_one_agree(column):
    dtype, values, wanted = column
    ids = IdMap("item", pl.Series("raw", values, dtype=dtype))
    series = pl.Series(wanted, dtype=dtype)
    assert (ids.table.places(series) + 1).tolist() == ids._joined(series).tolist() == ids.dense(series).tolist()
    assert [ids.dense_one(value) for value in wanted] == ids.dense(series).tolist()


@pytest.mark.parametrize("first", [1, 17])
def test_a_few_ids_and_many_are_looked_up_alike(first):
    """One id of the many makes the other path: the join from as many as the map holds, the table below."""
    values = [3, 2**63 - 1, -(2**63), *range(4, 40)]
    ids = IdMap("item", pl.Series("raw", values, dtype=pl.Int64))
    mixed = ["3", None, -(2**63), "x", 5.0, str(2**63 - 1), 5.5, 2**63, "+4", " 4", True]
    few = ids.dense(mixed[:first])
    assert few.tolist() == ids.dense(mixed[:first] + [None] * 100).tolist()[: len(few)]


def test_a_few_ids_do_not_read_the_whole_map(monkeypatch):
    """What a look-up hashes and compares is what it is asked for, whatever the map holds."""
    ids = IdMap("item", pl.Series("raw", range(100_000), dtype=pl.Int64))
    assert ids.table.nbytes == pytest.approx(12 * 100_000, abs=12)
    hashed = []
    monkeypatch.setattr(
        module, "hashes", lambda values: (hashed.append(values.len()), values.hash(seed=0).to_numpy())[1]
    )
    monkeypatch.setattr(IdMap, "_joined", None)
    assert ids.dense([99_999, -1, 7]).tolist() == [100_000, 0, 8]
    assert hashed == [3]


def test_values_in_several_chunks_are_found():
    values = pl.concat([pl.Series(["a", "b"]), pl.Series(["é", ""])], rechunk=False)
    assert HashTable(values).places(pl.Series(["", "é", "c", None, "a"])).tolist() == [3, 2, -1, -1, 0]


def test_an_empty_table_holds_nothing():
    assert HashTable(pl.Series([], dtype=pl.String)).places(pl.Series(["a", None])).tolist() == [-1, -1]
    assert HashTable(pl.Series([1])).places(pl.Series([], dtype=pl.Int64)).tolist() == []
    assert IdMap.of("item", pl.Series([], dtype=pl.String)).dense(["a"]).tolist() == [0]


# -- a few at a time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[5, 7, 1, 0, -3], ["5", "a", "1", "", "True"]])
def test_what_is_remembered_is_what_a_look_up_finds(values):
    """In any order, in any company, again and again; 1, 1.0, True and "1" are not mistaken for each other."""
    ids = IdMap("user", pl.Series(values))
    asked = [5, "5", 7, "a", None, 1, True, 1.0, "1", "x", 99, "", 0, False, 7.5, np.int64(5), "True"]
    for few in [*([one] for one in asked), *zip(asked, asked[::-1]), asked, asked[::-1], *([one] for one in asked)]:
        wanted = ids._looked_up(list(few)).tolist()
        for _ in range(2):
            found = ids.dense(few)
            assert found.tolist() == wanted
            assert found.dtype == np.int64


def test_few_are_remembered(monkeypatch):
    monkeypatch.setattr(module, "FEW", 3)
    monkeypatch.setattr(module, "KEPT", 10)
    ids = IdMap("item", pl.Series([f"i{one}" for one in range(40)]))
    for first in range(38):
        assert ids.dense([f"i{first}", f"i{first + 1}", "x"]).tolist() == [first + 1, first + 2, 0]
        assert len(ids._kept) <= 10
    assert ids.dense(["i1", "i2", "i3", "i4"]).tolist() == [2, 3, 4, 5]
    kept = dict(ids._kept)
    monkeypatch.setattr(IdMap, "_looked_up", None)  # nothing is looked up for those
    (one, *_) = kept
    assert ids.dense((one, None)).tolist() == [kept[one], 0]
