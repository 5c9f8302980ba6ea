"""Masks of expressions against their definition, item by item, in Kleene's logic of three values."""

from __future__ import annotations

import math
import operator
from datetime import date, datetime
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suisen.data.encode import Column as Encoded
from suisen.data.encode import Encoder
from suisen.errors import InputError
from suisen.recommending.rules.columns import Columns
from suisen.recommending.rules.language import And, Column, Comparison, IsNull, Not, Or, Request, Value, parse
from suisen.recommending.rules.predicates import Fixed, bind

DAYS = ["2024-01-01", "2024-05-01", "2025-01-01"]
WORDS = ["a", "b", "c"]
SIGNS = {"==": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
TYPES = {
    "price": pl.Float64, "year": pl.Int64, "shelf": pl.String, "sale": pl.Boolean, "tags": pl.List(pl.String),
    "genres": pl.String, "sizes": pl.List(pl.Int64), "day": pl.Date,
}  # fmt: skip


def maybe(values):
    return st.one_of(st.none(), values)


NUMBERS = st.one_of(st.integers(-2, 4), st.sampled_from([0.5, 1.0, 2.5]))
ROWS = st.fixed_dictionaries({
    "price": maybe(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.5, float("nan")])),
    "year": maybe(st.integers(-1, 3)),
    "shelf": maybe(st.sampled_from([*WORDS, ""])),
    "sale": maybe(st.booleans()),
    "tags": maybe(st.lists(st.sampled_from(WORDS), max_size=3)),
    "genres": maybe(st.lists(st.sampled_from(WORDS), max_size=3, unique=True).map("|".join)),
    "sizes": maybe(st.lists(maybe(st.integers(0, 3)), max_size=3)),
    "day": maybe(st.sampled_from([date.fromisoformat(day) for day in DAYS])),
})  # fmt: skip
REQUESTS = st.fixed_dictionaries({
    "number": maybe(NUMBERS),
    "word": maybe(st.sampled_from([*WORDS, "z"])),
    "words": maybe(st.lists(st.sampled_from([*WORDS, "z"]), max_size=3)),
    "truth": maybe(st.booleans()),
    "day": maybe(st.sampled_from([*DAYS, "2024-03-01T12:00:00", datetime(2024, 5, 1), 1_700_000_000_000_000])),
})  # fmt: skip
sign = st.sampled_from(list(SIGNS))
number = st.one_of(st.builds(Value, NUMBERS), st.just(Request("number")))
word = st.one_of(st.builds(Value, st.sampled_from([*WORDS, "z", ""])), st.just(Request("word")))
words = st.one_of(st.builds(Value, st.lists(st.sampled_from(WORDS), max_size=2).map(tuple)), st.just(Request("words")))
LEAVES = st.one_of(
    st.builds(Comparison, st.sampled_from([Column("price"), Column("year")]), sign, number),
    st.builds(Comparison, number, sign, st.sampled_from([Column("price"), Column("year")])),
    st.builds(Comparison, st.just(Column("price")), sign, st.just(Column("year"))),
    st.builds(Comparison, st.sampled_from([Column("shelf"), Column("tags"), Column("genres")]), st.just("=="), word),
    st.builds(Comparison, st.just(Column("shelf")), st.just("=="), st.just(Column("shelf"))),
    st.builds(Comparison, st.sampled_from([Column("shelf"), Column("tags")]), st.just("in"), words),
    st.builds(Comparison, word, st.just("in"), st.sampled_from([Column("tags"), Column("genres")])),
    st.builds(Comparison, st.builds(Value, st.integers(0, 3)), st.just("in"), st.just(Column("sizes"))),
    st.builds(Comparison, st.just(Column("sale")), st.just("=="), st.one_of(
        st.builds(Value, st.booleans()), st.just(Request("truth")))),
    st.builds(Comparison, st.just(Column("day")), sign, st.one_of(
        st.builds(Value, st.sampled_from(DAYS)), st.just(Request("day")))),
    st.builds(Comparison, st.just(Request("number")), sign, st.builds(Value, NUMBERS)),
    st.builds(Comparison, st.just(Request("word")), st.just("in"), words),
    st.builds(IsNull, st.sampled_from([*map(Column, TYPES), Request("number"), Request("words")])),
)  # fmt: skip
TREES = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(Not, parts), st.builds(And, st.tuples(parts, parts)), st.builds(Or, st.tuples(parts, parts))
    ),
    max_leaves=6,
)


def store_of(rows):
    """What columns need of a store; row 0 is nobody's."""
    empty = dict.fromkeys(TYPES)
    frame = pl.DataFrame([empty, *rows], schema=TYPES)
    encoder = Encoder((Encoded("genres", "multi"), Encoded("tags", "multi")))
    return SimpleNamespace(item_frame=frame, encoders={"item": encoder})


def value_of(operand, row, asked):
    """A number, text, truth value, microseconds, list, or None."""
    match operand:
        case Value(value):
            return list(value) if isinstance(value, tuple) else value
        case Request(name):
            return asked[name]
        case Column(name):
            value = row[name]
            if value is None or (isinstance(value, float) and math.isnan(value)):
                return None
            return [part for part in value.split("|") if part] if name == "genres" else value


def moment(value):
    """Microseconds since 1970."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, int):
        return value
    at = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    return (at - datetime(1970, 1, 1)).total_seconds() * 1e6


def slow(tree, row, asked):
    """True, False or None of one item."""
    match tree:
        case Not(part):
            found = slow(part, row, asked)
            return None if found is None else not found
        case And(parts):
            found = [slow(part, row, asked) for part in parts]
            return False if False in found else None if None in found else True
        case Or(parts):
            found = [slow(part, row, asked) for part in parts]
            return True if True in found else None if None in found else False
        case IsNull(operand):
            return value_of(operand, row, asked) is None
        case Comparison(left, compared, right):
            a, b = value_of(left, row, asked), value_of(right, row, asked)
            if a is None or b is None:
                return None
            if Column("day") in (left, right):
                return SIGNS[compared](moment(a), moment(b))
            if compared == "in":
                return bool(set(a) & set(b)) if isinstance(a, list) else a in b
            return b in a if isinstance(a, list) else SIGNS[compared](a, b)


@given(st.lists(ROWS, max_size=6), TREES, REQUESTS)
@settings(max_examples=300)
def test_masks_are_their_definition(rows, tree, asked):
    predicate = bind(tree, Columns(store_of(rows)), "rule 'r'")
    yes, no = (np.broadcast_to(part, len(rows) + 1) for part in predicate.truth(predicate.key(asked)))
    expected = [slow(tree, row, asked) for row in rows]
    assert yes[1:].tolist() == [found is True for found in expected]
    assert no[1:].tolist() == [found is False for found in expected]
    assert not (yes & no).any()


@given(st.lists(ROWS, max_size=5), TREES, REQUESTS, REQUESTS)
def test_requests_of_one_key_share_their_answer_and_what_reads_no_request_is_fixed(rows, tree, asked, others):
    predicate = bind(tree, Columns(store_of(rows)), "rule 'r'")
    if "Request" not in repr(tree):
        assert isinstance(predicate, Fixed)
    if predicate.key(asked) == predicate.key(others):
        assert [slow(tree, row, asked) for row in rows] == [slow(tree, row, others) for row in rows]
    assert {predicate.key(asked): 1}  # it has a hash


ROW = {
    "price": 1.0,
    "year": 2,
    "shelf": "a",
    "sale": True,
    "tags": ["a"],
    "genres": "a",
    "sizes": [1],
    "day": date(2024, 1, 1),
}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prise == 1", "rule 'r': column = 'prise' is unknown; did you mean 'price'"),
        ("price == 'x'", "rule 'r': the value beside price = 'x', and price holds numbers; give a number"),
        ("price == true", "= True, and price holds numbers; give a number"),
        ("shelf == 7", 'the value beside shelf = 7, and shelf holds texts; give text, like "7"'),
        ("shelf in ['a', 7]", "= 7, and shelf holds texts"),
        ("sale == 1", "the value beside sale = 1, and sale holds truth values; give true or false"),
        ("day > 'soon'", "the value beside day = 'soon' is no time"),
        ("shelf < 'b'", "rule 'r': shelf holds texts and has no order; use == or in"),
        ("sale < true", "sale holds truth values and has no order"),
        ("tags < 'b'", "tags holds several values per item and has no order"),
        ("'a' in shelf", "shelf holds one value per item; write == in place of in"),
        ("shelf in tags", "no rule looks one column up in another"),
        ("price == shelf", "price holds numbers and shelf holds texts; compare columns of one kind"),
        ("tags == genres", "holds several values"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_bound(text, message):
    with pytest.raises(InputError, match=message):
        bind(parse(text, "rule 'r'"), Columns(store_of([ROW])), "rule 'r'")


@pytest.mark.parametrize(
    ("text", "asked", "message"),
    [
        ("price < request.x", "cheap", "rule 'r': request.x = 'cheap', and price holds numbers; give a number"),
        ("price < request.x", float("nan"), "and price holds numbers"),
        ("shelf == request.x", 3, "rule 'r': request.x = 3, and shelf holds texts"),
        ("shelf in request.x", "a", "rule 'r': request.x = 'a' is no list; give a list"),
        ("request.x in tags", ["a"], "and tags holds texts"),
        ("shelf in request.x", ["a"] * 257, "request.x holds 257 values; give at most 256"),
        ("request.x in ['a'] and 'a' in request.x", "b", "what stands behind in = 'b' is no list"),
        ("day < request.x", "soon", "request.x = 'soon' is no time"),
        ("request.x == 'a'", 1, "1 == 'a' compares different kinds"),
        ("request.x < 'a'", "b", "only numbers have an order here"),
        ("request.x in ['a']", 1, "1 == 'a' compares different kinds"),
    ],
)
def test_what_a_request_brings_is_held_to_its_column(text, asked, message):
    predicate = bind(parse(text, "rule 'r'"), Columns(store_of([ROW])), "rule 'r'")
    with pytest.raises(InputError, match=message):
        predicate.key({"x": asked})


def test_a_catalogue_without_a_table_has_no_columns():
    store = SimpleNamespace(item_frame=pl.DataFrame(), encoders={"item": Encoder()})
    with pytest.raises(InputError, match="rule 'r': reads the column 'price', and the data had no item table"):
        bind(parse("price == 1", "rule 'r'"), Columns(store), "rule 'r'")
    nested = SimpleNamespace(item_frame=pl.DataFrame({"x": [b"a"]}), encoders={"item": Encoder()})
    with pytest.raises(InputError, match="x holds Binary, which no rule compares"):
        bind(parse("x == 1", "rule 'r'"), Columns(nested), "rule 'r'")


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("way", ["literal", "flipped", "request", "column"])
def test_every_comparison_of_every_two_values(sign, way):
    """What random trees seldom meet: equal values, values between and beyond those of the column, for each sign."""
    values = [None, -1.0, 0.0, 1.0, 2.0]
    years = [None, -1, 0, 1, 2]
    rows = [{**dict.fromkeys(TYPES), "price": price, "year": year} for price in values for year in years]
    for other in (-2.0, -1, 0, 0.5, 1.0, 2, 3.5):
        tree = {
            "literal": Comparison(Column("price"), sign, Value(other)),
            "flipped": Comparison(Value(other), sign, Column("price")),
            "request": Comparison(Column("price"), sign, Request("number")),
            "column": Comparison(Column("price"), sign, Column("year")),
        }[way]
        predicate = bind(tree, Columns(store_of(rows)), "rule 'r'")
        yes, no = predicate.truth(predicate.key({"number": other}))
        expected = [slow(tree, row, {"number": other}) for row in rows]
        assert yes[1:].tolist() == [found is True for found in expected]
        assert no[1:].tolist() == [found is False for found in expected]
