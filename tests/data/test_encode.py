import datetime as dt
import json

import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from suisen.data.encode import Column, Encoder, infer_kind
from suisen.errors import InputError


def fitted(name="x", kind=None, **columns):
    frame = pl.DataFrame(columns)
    return Encoder.fit(frame, {name: kind} if kind else {}), frame


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["a", "b"], "categorical"),
        (["a|b", "c"], "multi"),
        ([["a"], []], "multi"),
        ([f"title {i}" for i in range(33)], "text"),
        ([f"city {i % 33}" for i in range(80)], "categorical"),
        ([True, False], "categorical"),
        ([1, 2, 3], "categorical"),
        (list(range(33)), "numeric"),
        ([0.5, 1.5], "numeric"),
        ([dt.date(2024, 1, 1)], "numeric"),
        ([None, None], "categorical"),
    ],
)
def test_kinds_are_inferred_by_the_stated_rule(values, kind):
    assert infer_kind(pl.Series(values)) == kind


def test_an_array_column_is_multi():
    assert infer_kind(pl.Series([[1, 2]], dtype=pl.Array(pl.Int64, 2))) == "multi"


def test_codes_go_by_frequency_and_unseen_values_are_0():
    encoder, _ = fitted(x=["b", "a", "b", "c", None])
    assert encoder.columns[0].vocabulary == ("b", "a", "c")
    codes = encoder.encode(pl.DataFrame({"x": ["c", "zzz", None, "b"]})).categorical
    assert codes.squeeze(1).tolist() == [3, 0, 0, 1]
    assert encoder.schema[0].size == 4


def test_rare_values_are_0():
    frame = pl.DataFrame({"x": ["a", "a", "b"]})
    encoder = Encoder.fit(frame, {}, min_count=2)
    assert encoder.encode(frame).categorical.squeeze(1).tolist() == [1, 1, 0]


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=2, max_size=20))
def test_numbers_are_standardised_by_train(values):
    frame = pl.DataFrame({"x": pl.Series(values, dtype=pl.Float64)})
    encoder = Encoder.fit(frame, {"x": "numeric"})
    numeric = encoder.encode(frame).numeric.squeeze(1).double()
    there = torch.tensor([value is not None for value in values])
    assert (numeric[~there] == 0).all()
    if len({value for value in values if value is not None}) > 1 and encoder.columns[0].scale > 1e-3:
        assert numeric[there].mean().item() == pytest.approx(0, abs=1e-3)
        assert numeric[there].std().item() == pytest.approx(1, abs=1e-3)


def test_other_rows_are_standardised_by_the_numbers_of_train():
    encoder, _ = fitted(x=[1.0, 3.0])
    column = encoder.columns[0]
    other = encoder.encode(pl.DataFrame({"x": [5.0, None, float("nan")]})).numeric.squeeze(1)
    assert other.tolist() == pytest.approx([(5 - column.mean) / column.scale, 0, 0])


def test_a_number_constant_in_train_reads_0_everywhere():
    encoder, _ = fitted(kind="numeric", x=[5, 5])
    assert encoder.encode(pl.DataFrame({"x": [5, 10**15]})).numeric.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("values", [["a|b", "", None, "c||a"], [["a", "b"], [], None, ["c", "", None, "a"]]])
def test_multi_values_from_text_and_lists(values):
    encoder, frame = fitted(x=values)
    bag = encoder.encode(frame).multi[0]
    words = [[encoder.columns[0].vocabulary[int(i) - 1] for i in row] for row in bag.tolist()]
    assert words == [["a", "b"], [], [], ["c", "a"]]
    unseen = encoder.encode(pl.DataFrame({"x": ["a|new"]})).multi[0]
    assert unseen.tolist() == [[1, 0]]


def test_booleans_dates_times_and_durations():
    encoder, frame = fitted(
        flag=[True, False, True],
        day=[dt.date(2024, 1, 1), None, dt.date(2024, 1, 3)],
        at=[dt.datetime(2024, 1, 1, tzinfo=dt.UTC), dt.datetime(2024, 1, 2, tzinfo=dt.UTC), None],
        span=[dt.timedelta(1), dt.timedelta(3), None],
        clock=[dt.time(1), dt.time(2), None],
    )
    features = encoder.encode(frame)
    assert features.categorical.squeeze(1).tolist() == [1, 2, 1]
    half = 2**-0.5
    assert features.numeric[:, 0].tolist() == pytest.approx([-half, 0, half])
    for column in (1, 2, 3):
        assert features.numeric[:, column].tolist() == pytest.approx([-half, half, 0])


def test_integers_that_became_floats_name_the_same_code():
    encoder, _ = fitted(kind="categorical", x=[1, 2, 2])
    floats = pl.DataFrame({"x": [1.0, 2.0, None, 2.5]})
    assert encoder.encode(floats).categorical.squeeze(1).tolist() == [2, 1, 0, 0]


def test_text_is_kept_for_display_and_reaches_no_model():
    encoder, frame = fitted(kind="text", x=["A title", "Another"])
    assert encoder.titles == ["x"]
    assert encoder.schema == ()
    assert len(encoder.encode(frame)) == 2


def test_a_column_that_a_frame_lacks_is_missing_in_every_row():
    encoder, _ = fitted(x=["a", "b"], y=[0.5, 1.5], z=["a|b", "c"])
    features = encoder.encode(pl.DataFrame(height=2))
    assert features.categorical.tolist() == [[0], [0]]
    assert features.numeric.tolist() == [[0.0], [0.0]]
    assert features.multi[0].tolist() == [[], []]


@pytest.mark.parametrize("value", [float("inf"), float("-inf")])
def test_an_infinite_number_is_refused(value):
    with pytest.raises(InputError, match="feature 'x' holds an infinite number; replace it"):
        fitted(x=[1.0, value])


def test_a_kind_declared_wrongly_is_refused():
    with pytest.raises(InputError, match=r"feature 'x' is declared numeric and holds text .*declare another kind"):
        fitted(kind="numeric", x=["a", "b"])
    with pytest.raises(InputError, match="feature 'x' is declared multi and holds Int64; give lists or text"):
        fitted(kind="multi", x=[1, 2])
    with pytest.raises(InputError, match="kind of feature 'x' = 'numerc' is unknown; did you mean 'numeric'"):
        fitted(kind="numerc", x=[1, 2])


def test_json_round_trip_encodes_alike():
    encoder, frame = fitted(c=["a", "b", None], n=[0.1, 0.7, None], m=["x|y", "", None], t=[True, None, False])
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())))
    assert again == encoder
    assert torch.equal(again.encode(frame).categorical, encoder.encode(frame).categorical)
    assert torch.equal(again.encode(frame).numeric, encoder.encode(frame).numeric)


def test_a_column_says_its_field():
    assert Column("x", "categorical", ("a", "b")).field.size == 3
    assert Column("x", "numeric").field.size == 0
