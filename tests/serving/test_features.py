"""What is refused of a query's features names them as the request does, whatever place they stand at."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suisen.serving.settings import Settings
from tests.serving.test_contract import refused

WRONG = [
    (
        {"user_features": {"age": "old"}},
        ".user_features.age = 'old': feature 'age' is declared numeric; give a number",
        "invalid_value",
    ),
    (
        {"user_features": {"age": 1e300}},
        ".user_features.age = 1e+300: feature 'age' is declared numeric; give a number",
        "invalid_value",
    ),
    ({"user_features": {"age": [1]}}, ".user_features.age = [1] is a list; the feature is numeric", "invalid_value"),
    ({"user_features": {"segment": ["a"]}}, ".user_features.segment = ['a'] is a list", "invalid_value"),
    ({"user_features": {"agee": 3}}, ".user_features.agee: 'agee' is unknown; did you mean 'age'?", "unknown_field"),
    ({"context": {"device": "phone"}}, ".context.device: 'device' is unknown; known: none", "unknown_field"),
]


@pytest.fixture(scope="module")
def one(recommender):
    from tests.serving.sockets import Served

    with Served("fast", lambda: recommender.system, Settings(deadline_s=60)) as made:
        yield made


@pytest.mark.parametrize(("query", "said", "code"), WRONG)
@pytest.mark.parametrize("place", [0, 3])
def test_the_field_is_named_with_its_place(one, query, said, code, place):
    for before in (place, 0):
        message = {"queries": [{}] * before + [query] + [{}] * (place - before)}
        detail = refused(one.post("/v1/recommend", message), 422, code)
        assert detail.startswith(f"queries[{before}]{said}")


def test_so_it_is_for_ranks_and_batches(one):
    query = {"user_features": {"age": "old"}}
    detail = refused(one.post("/v1/rank", {"queries": [{**query, "items": [1]}]}), 422, "invalid_value")
    assert detail.startswith("queries[0].user_features.age = 'old'")
    detail = refused(one.post("/v1/recommend/batch", {"queries": [{}] * 150 + [query]}), 422, "invalid_value")
    assert detail.startswith("queries[150].user_features.age = 'old'")


def test_what_is_said_of_the_whole_request_names_no_query(one):
    asked = {"queries": [{}, {"user_id": 7}], "where": {"genre": "x"}}
    assert refused(one.post("/v1/recommend", asked), 422, "unknown_field").startswith("where: column = 'genre'")


@given(st.one_of(st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_numbers_are_taken_or_refused_by_their_size(one, value):
    response = one.post("/v1/recommend", {"queries": [{"user_features": {"age": value}}]})
    assert response.status == (200 if abs(value) <= 3.4028234663852886e38 else 422)
