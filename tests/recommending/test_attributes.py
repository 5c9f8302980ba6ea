"""``where``: lists of items with the attributes asked for, and of no others."""

from __future__ import annotations

import polars as pl
import pytest

import suisen as su
from suisen.errors import InputError

ITEMS = pl.DataFrame({
    "item": ["a", "b", "c", "d", "e", "f"],
    "genre": ["Drama|War", "Comedy", "Drama", "Comedy|Drama", None, "War|Crime"],
    "year": [1990, 1995, 2000, 2005, 2010, None],
    "shelf": ["x", "y", "x", "y", "x", "z"],
    "sale": [True, False, True, None, False, True],
})  # fmt: skip


@pytest.fixture(scope="module")
def rec():
    users = [f"u{n}" for n in range(8) for _ in range(4)]
    items = [item for n in range(8) for item in ("abcdef"[n % 6], "abcdef"[(n + 1) % 6], "abcdef"[(n + 2) % 6], "a")]
    events = pl.DataFrame({"user": users, "item": items})
    data = su.Dataset.from_frame(events, user="user", item="item", item_features=ITEMS, kinds={"genre": "multi",
                                 "year": "numeric"})  # fmt: skip
    return su.Recommender(su.EASE(l2=1.0)).fit(data)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"genre": "Drama"}, "acd"),
        ({"genre": ["Comedy", "Crime"]}, "bdf"),
        ({"shelf": "x"}, "ace"),
        ({"genre": "Drama", "shelf": "x"}, "ac"),
        ({"year": (1995, 2005)}, "bcd"),
        ({"year": (2000, None)}, "cde"),
        ({"year": (None, "1995")}, "ab"),
        ({"year": 1995}, "b"),
        ({"year": ["1990", 2010.0]}, "ae"),
        ({"genre": {"War"}, "year": (None, None)}, "a"),
        ({"sale": True}, "acf"),
        ({"sale": "false"}, "be"),
        ({}, "abcdef"),
    ],
)
def test_lists_hold_what_is_asked_for_and_nothing_else(rec, where, expected):
    frame = rec.recommend(users=["u0", "u3"], k=6, where=where, exclude_seen=False)
    for user in ("u0", "u3"):
        assert sorted(frame.filter(pl.col("user_id") == user)["item_id"]) == list(expected)


def test_where_goes_with_among_exclude_everybody_the_popular_list_and_bundles(rec, tmp_path):
    frame = rec.recommend(users=["u0"], k=6, where={"genre": "Drama"}, among=["a", "b", "d"], exclude=["a"],
                          exclude_seen=False)  # fmt: skip
    assert frame["item_id"].to_list() == ["d"]
    everybody = pl.concat(list(rec.recommend_all(6, where={"shelf": "y"}, exclude_seen=False)))
    assert set(everybody["item_id"]) == {"b", "d"}
    popular = rec.recommend(users=["nobody"], k=6, where={"shelf": "x"}, unknown="popular")
    assert popular["item_id"].to_list()[0] == "a"
    assert set(popular["item_id"]) == {"a", "c", "e"}
    loaded = su.load(rec.save(tmp_path / "bundle"))
    for precise in (True, False):
        again = loaded.recommend(users=["u0"], k=6, where={"genre": "War"}, exclude_seen=False, precise=precise)
        assert sorted(again["item_id"]) == ["a", "f"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"genere": "Drama"}, "where: column = 'genere' is unknown; did you mean 'genre'"),
        ({"genre": "Drame"}, "where: genre = 'Drame' is unknown; did you mean 'Drama'"),
        ({"genre": ["Drama", "Comdy"]}, "did you mean 'Comedy'"),
        ({"year": "new"}, "year holds numbers and 'new' is none"),
        ({"shelf": (1, 2)}, "shelf holds text and has no order"),
        ({"year": (1, 2, 3)}, "give a pair"),
        ({"genre": []}, "asks for no value"),
        ({"genre": "Comedy", "shelf": "z"}, "no item has genre = 'Comedy' and shelf = 'z'"),
        ("genre=Drama", "must be column → value"),
    ],
)
def test_what_no_item_can_have_is_refused_with_the_mend(rec, where, message):
    with pytest.raises(InputError, match=message):
        rec.recommend(users=["u0"], where=where)


def test_a_catalogue_without_a_table_has_no_attributes():
    data = su.Dataset.from_frame({"user": ["a", "a", "b"], "item": [1, 2, 2]}, user="user", item="item")
    rec = su.Recommender(su.Popularity()).fit(data)
    with pytest.raises(InputError, match="the data had no item table"):
        rec.recommend(users=["a"], where={"genre": "Drama"})
