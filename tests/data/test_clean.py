"""Every rule of a bad row, in refusal and in counting."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.clean import Sieve, as_ids, as_numbers, keep_duplicates, same_ids, typed
from suisen.errors import InputError
from tests.helpers import read_frame, read_path

GOOD = "u1,i1,2021-01-01,1,1,buy"
WEIGHTS = {"buy": 1.0, "view": 0.5}
ROWS = {
    "uid is missing": ",i1,2021-01-01,1,1,buy",
    "sku is missing": "u1,  ,2021-01-01,1,1,buy",
    "ts is missing": "u1,i1,,1,1,buy",
    "ts = 'yesterday' is not a time": "u1,i1,yesterday,1,1,buy",
    "ts = 'NaN' stands for a missing value (null_values=)": "u1,i1,NaN,1,1,buy",
    "ts = '1969-12-31' is negative (before 1970)": "u1,i1,1969-12-31,1,1,buy",
    "liked is missing": "u1,i1,2021-01-01,,1,buy",
    "liked = 'yes' is not a number": "u1,i1,2021-01-01,yes,1,buy",
    "liked = 'nan' stands for a missing value (null_values=)": "u1,i1,2021-01-01,nan,1,buy",
    "liked = '2' is neither 0 nor 1 (pass positive_from=)": "u1,i1,2021-01-01,2,1,buy",
    "w is missing": "u1,i1,2021-01-01,1,,buy",
    "w = 'inf' is not finite": "u1,i1,2021-01-01,1,inf,buy",
    "w = '0' says that nothing happened": "u1,i1,2021-01-01,1,0,buy",
    "what = 'gift' is a type that event_weights does not list (buy, view)": "u1,i1,2021-01-01,1,1,gift",
    "what is missing": "u1,i1,2021-01-01,1,1,",
    "the record has 5 fields and the header 6": "u1,i1,2021-01-01,1,1",
    "the record has 7 fields and the header 6": "u1,i1,2021-01-01,1,1,buy,x",
}
OPTIONS = {"label": "liked", "weight": "w", "event": "what", "event_weights": WEIGHTS}


def file_of(tmp_path, *rows):
    path = tmp_path / "events.csv"
    path.write_text("\n".join(["uid,sku,ts,liked,w,what", *rows]) + "\n")
    return path


@pytest.mark.parametrize("why", ROWS)
def test_each_kind_of_bad_row_refuses_the_file_and_is_counted_when_dropped(tmp_path, why):
    path = file_of(tmp_path, GOOD, ROWS[why], GOOD)
    with pytest.raises(InputError) as caught:
        read_path(path, **OPTIONS)
    mend = 'fix them or pass bad_rows="drop" (--bad-rows drop)'
    assert str(caught.value) == f"events.csv: 1 bad row, at line 3: {why}; {mend}"
    log = read_path(path, **OPTIONS, bad_rows="drop")
    assert log.events.height == 2
    assert any(note.startswith("events.csv: 1 bad row dropped: 1 ") for note in log.notes)


def test_one_message_for_many_bad_rows(tmp_path):
    path = file_of(tmp_path, GOOD, ROWS["ts = 'yesterday' is not a time"], "u1", ",i1,today,1,1,buy", GOOD)
    with pytest.raises(InputError) as caught:
        read_path(path, **OPTIONS)
    assert str(caught.value) == (
        "events.csv: 3 bad rows, first at line 3: ts = 'yesterday' is not a time; 2 more kinds: "
        "too few fields (1, first at line 4), uid is missing (1, first at line 5); "
        'fix them or pass bad_rows="drop" (--bad-rows drop)'
    )
    notes = read_path(path, **OPTIONS, bad_rows="drop").notes
    assert "events.csv: 3 bad rows dropped: 1 ts is not a time, 1 too few fields, 1 uid is missing" in notes


def test_rows_of_a_frame_are_counted_from_1():
    frame = pl.DataFrame({"user": ["a", "b"], "item": ["x", None]})
    with pytest.raises(InputError, match="events: 1 bad row, at row 2: item is missing"):
        read_frame(frame)


def test_nothing_left_is_an_error():
    frame = pl.DataFrame({"user": ["a"], "item": [None]}, schema_overrides={"item": pl.String})
    with pytest.raises(InputError, match=r"events: no event is left of 1 rows \(.*1 item is missing"):
        read_frame(frame, bad_rows="drop")


def test_long_values_are_cut_in_messages():
    sieve = Sieve("x", pl.Series([7]), "line")
    sieve.refuse("t", "is not a time", pl.Series([True]), pl.Series(["y" * 99]))
    with pytest.raises(InputError, match=r"t = 'y{39}… is not a time"):
        sieve.settle("refuse")


# -- guests, returns, orders ----------------------------------------------------------------------------


def test_a_guest_is_a_session_without_a_user():
    frame = pl.DataFrame({"user": ["a", None, None], "item": ["x", "y", "z"], "order": [7, 8, None]})
    with pytest.raises(InputError, match="at row 3: order is missing, and so is the user"):
        read_frame(frame, session="order")
    log = read_frame(frame, session="order", bad_rows="drop")
    assert log.events.select("user", "item", "session").rows() == [("a", "x", 7), (None, "y", 8)]
    assert "events: 1 events of guests, each known by its session" in log.notes


def test_all_are_guests_without_a_user_column():
    log = read_frame({"sid": ["s", "t"], "item": [1, 2]}, user=None, session="sid")
    assert log.events["user"].to_list() == [None, None]
    assert log.events["session"].to_list() == ["s", "t"]


def test_a_return_is_no_event_and_undoes_none():
    frame = pl.DataFrame({"user": ["a"] * 3, "item": ["x", "x", "y"], "n": [2, -2, 1]})
    log = read_frame(frame, weight="n")
    assert log.events.select("item", "weight", "row").rows() == [("x", 2.0, 0), ("y", 1.0, 2)]
    assert "events: 1 returns (weight below 0) are not used; what they take back stays" in log.notes


def test_a_type_of_negative_weight_is_a_return_even_of_a_negative_quantity():
    frame = pl.DataFrame({"user": ["a"] * 3, "item": [1, 2, 3], "n": [2, -2, 3], "kind": ["buy", "return", "return"]})
    log = read_frame(frame, weight="n", event="kind", event_weights={"buy": 3, "return": -1})
    assert log.events.select("item", "weight").rows() == [(1, 6.0)]


def test_a_type_of_weight_0_was_shown_and_not_taken():
    frame = pl.DataFrame({"user": ["a"] * 3, "item": [1, 2, 3], "kind": ["buy", "show", "view"]})
    log = read_frame(frame, event="kind", event_weights={"buy": 1, "show": 0, "view": 0.5})
    assert log.events.select("item", "label", "weight").rows() == [(1, 1, 1.0), (2, 0, 1.0), (3, 1, 0.5)]
    both = frame.with_columns(liked=pl.Series([0, 1, 1]))
    log = read_frame(both, label="liked", event="kind", event_weights={"buy": 1, "show": 0, "view": 0.5})
    assert log.events["label"].to_list() == [0, 0, 1]


def test_labels():
    frame = pl.DataFrame({"user": ["a"] * 3, "item": [1, 2, 3], "stars": [3.5, 4.0, 5.0], "ok": [True, False, True]})
    assert read_frame(frame, label="stars", positive_from=4).events["label"].to_list() == [0, 1, 1]
    assert read_frame(frame, label="ok").events["label"].to_list() == [1, 0, 1]


# -- duplicates --------------------------------------------------------------------------------

triples = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=12)


@given(triples, st.sampled_from(["first", "last", "all"]), st.booleans())
def test_duplicates_by_time_then_by_place(rows, keep, timed):
    kept = []
    for place, (user, item, time) in enumerate(rows):
        same = [(t if timed else 0, p) for p, (u, i, t) in enumerate(rows) if (u, i) == (user, item)]
        chosen = {"first": min(same), "last": max(same), "all": (time if timed else 0, place)}[keep]
        kept.append(chosen[1] == place)
    user, item, time = (pl.Series([row[i] for row in rows], dtype=pl.Int64) for i in range(3))
    assert keep_duplicates([user], item, time if timed else None, keep).to_list() == kept


def test_duplicates_of_users_go_across_sessions_and_of_guests_within():
    frame = pl.DataFrame({"user": ["a", "a", None, None, None], "item": [1, 1, 1, 1, 1], "s": [1, 2, 3, 3, 4]})
    log = read_frame(frame, session="s", duplicates="first")
    assert log.events["row"].to_list() == [0, 2, 4]
    assert "events: 2 repeated (user, item) rows dropped, the first kept" in log.notes
    assert read_frame(frame, session="s", duplicates="last").events["row"].to_list() == [1, 3, 4]


# -- values --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (["7", "-3", "0"], True, [7, -3, 0]),
        (["7", "007"], True, ["7", "007"]),
        (["7", "9" * 30], True, ["7", "9" * 30]),
        (["7", "", " "], True, [7, None, None]),
        (["7"], False, ["7"]),
        ([" a "], True, [" a "]),
        ([1.0, None, float("nan")], False, [1, None, None]),
        ([None, None], False, [None, None]),
        (pl.Series([2**64 - 1], dtype=pl.UInt64), False, [str(2**64 - 1)]),
        (pl.Series([5], dtype=pl.UInt8), False, [5]),
        (pl.Series(["x"], dtype=pl.Categorical), False, ["x"]),
    ],
)
def test_ids_stay_the_users_own(values, text, expected):
    ids = as_ids("uid", pl.Series(values), text)
    assert ids.to_list() == expected
    assert ids.dtype in (pl.String, pl.Int64)


@pytest.mark.parametrize("values", [[1.5], [float("inf")], [[1]], [True]])
def test_ids_of_other_types_are_refused(values):
    with pytest.raises(InputError, match=r"uid holds .*; ids are text or whole numbers"):
        as_ids("uid", pl.Series(values), False)


def test_ids_of_two_types_become_text():
    assert [c.to_list() for c in same_ids(pl.Series([1]), pl.Series(["x"]))] == [["1"], ["x"]]
    assert same_ids(pl.Series([1]), None)[1] is None


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["1", None, "20"], pl.Int64),
        (["1", "2.5", "-1e3"], pl.Float64),
        (["1", "NaN", "-Infinity", "+inf"], pl.Float64),
        (["nan", "inf"], pl.String),
        (["01", "2"], pl.String),
        (["1", "NA"], pl.String),
        ([None, None], pl.String),
    ],
)
def test_columns_of_text_files_get_a_type_only_where_every_value_has_it(values, dtype):
    assert typed(pl.Series(values, dtype=pl.String)).dtype == dtype


def test_numbers_of_booleans_and_text():
    assert as_numbers(pl.Series([True, None])).to_list() == [1.0, None]
    assert as_numbers(pl.Series(["True", " 0.5 ", "x"])).to_list() == [1.0, 0.5, None]
