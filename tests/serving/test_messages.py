"""What callers may choose over HTTP is what ``RecommendOptions`` has: the same names, defaults and bounds."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest

from suisen.errors import InputError
from suisen.recommending.queries import MAX_ITEMS, RecommendOptions
from suisen.serving.endpoints.recommend import RecommendRequest
from suisen.serving.endpoints.similar import SimilarParams
from suisen.serving.messages import ListOptions

OWN = {"unknown": "popular", "precise": False}
"""Defaults in which the server differs on purpose: it answers everybody, and fast."""


def test_the_fields_are_those_of_the_options():
    named = {field.name for field in dataclasses.fields(RecommendOptions)}
    assert {*RecommendRequest.__struct_fields__} - {"queries"} == named - {"rules"}  # a caller switches no rule off


def test_the_defaults_are_those_of_the_options():
    expected = {**dataclasses.asdict(RecommendOptions()), **OWN}
    message = RecommendRequest(queries=[])
    for name, default in expected.items():
        if name == "rules":
            continue
        given = getattr(message, name)
        assert (tuple(given) if isinstance(given, list) else given) == default, name
    assert ListOptions().options() == RecommendOptions(**OWN)
    assert SimilarParams().k == RecommendOptions().k


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("k", 0), ("k", 1), ("k", MAX_ITEMS), ("k", MAX_ITEMS + 1),
        ("diversity", -0.01), ("diversity", 0.0), ("diversity", 1.0), ("diversity", 1.01),
        ("unknown", "error"), ("unknown", "popular"), ("unknown", "skip"), ("unknown", "never"),
    ],
)  # fmt: skip
def test_the_bounds_are_those_of_the_options(name, value):
    def refuses(make, error):
        try:
            make()
        except error:
            return True
        return False

    here = refuses(lambda: msgspec.convert({name: value}, ListOptions), msgspec.ValidationError)
    assert here == refuses(lambda: RecommendOptions(**{name: value}), InputError)
