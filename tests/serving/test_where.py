"""Attributes of items asked for over HTTP are those of ``recommend``."""

from __future__ import annotations

import pytest

from suisen.recommending.queries import RecommendOptions
from suisen.serving.answering import Answering, Recommend
from suisen.serving.messages import Query
from tests.fitted import fitted
from tests.recommending.planning import with_plan

PATH = "/v1/recommend"


def listed(client, **wishes):
    response = client.post(PATH, {"queries": [{"user_id": 3}, {"user_id": 4}], "k": 40, **wishes})
    assert response.status == 200, response.body
    return [[item["item_id"] for item in answer["items"]] for answer in response.json["answers"]]


@pytest.mark.parametrize(
    ("sent", "where"),
    [
        ({"tags": "tag-1"}, {"tags": "tag-1"}),
        ({"tags": ["tag-1", "tag-2"]}, {"tags": ["tag-1", "tag-2"]}),
        ({"price": {"least": 1.0}, "tags": "tag-0"}, {"price": (1.0, None), "tags": "tag-0"}),
        ({"price": {"most": 1e6}}, {"price": (None, 1e6)}),
    ],
)
def test_lists_are_those_of_the_library(client, recommender, sent, where):
    got = listed(client, where=sent)
    for user, items in zip((3, 4), got):
        assert items == recommender.recommend([user], 40, where=where)["item_id"].to_list()
    assert got != listed(client) or "price" in sent


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        ({"tgas": "tag-1"}, "did you mean 'tags'"),
        ({"tags": "tag-99"}, "where: tags = 'tag-99' is unknown"),
        ({"tags": {"at_least": 1}}, "unknown"),
        ("tags", "must be"),
    ],
)
def test_mistakes_are_named(client, sent, message):
    response = client.post(PATH, {"queries": [{"user_id": 3}], "where": sent})
    assert response.status in (400, 422)
    assert message in response.body.decode()


def test_a_plan_leaves_where_to_the_precise_way():
    rec = fitted("mf")
    middle = float(rec.store.item_frame["price"].median())
    where = {"price": (None, middle)}
    options = RecommendOptions(k=10, where=where, precise=False)
    found = Answering(with_plan(rec.system)).work([Recommend([Query(user_id="u0003")], options)])[0]
    expected, anything = (rec.recommend(["u0003"], 10, where=each)["item_id"].to_list() for each in (where, None))
    assert [item.item_id for item in found[0].items] == expected != anything
