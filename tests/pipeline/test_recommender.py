"""The promises that hold for every model, as retriever, as ranker alone and in two stages."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch

from suisen.errors import InputError, UnsupportedQuery
from suisen.models import EASE, IALS
from suisen.pipeline.recommender import Recommender
from tests.fitted import (
    EVERY,
    LONELY,
    MODELS,
    NEW_ITEM,
    NEW_USER,
    RANKERS,
    allowed_of,
    fitted,
    lists_of,
    seen_by,
    small_split,
)
from tests.helpers import make_data

ASKED = ["u0001", "u0007", "u0033"]
PAST = ["i005", "i012", "i020"]


def whole(lists, rec, k, *, seen, without=(), among=None):
    """Each list has exactly min(k, allowed) different items, all allowed."""
    for user, items in lists.items():
        pool = allowed_of(rec) - set(without) - (seen(user) if seen else set())
        pool = pool if among is None else pool & set(among)
        assert len(items) == len(set(items)) == min(k, len(pool)), user
        assert set(items) <= pool


@pytest.mark.parametrize("k", [1, 10, 79, 500])
def test_known_users_get_all_that_is_allowed(rec, k):
    frame = rec.recommend(ASKED, k)
    assert frame.columns == ["user_id", "item_id", "score", "rank"]
    assert frame["user_id"].dtype == frame["item_id"].dtype == pl.String
    lists = lists_of(frame)
    assert list(lists) == ASKED
    whole(lists, rec, k, seen=lambda user: seen_by(rec, user))
    for _, part in frame.group_by("user_id"):
        assert part["rank"].to_list() == list(range(1, part.height + 1))
        assert part["score"].is_sorted(descending=True)
        assert part["score"].is_finite().all()


@pytest.mark.parametrize("name", EVERY)
def test_integer_ids_come_back_as_integers(name):
    frame = fitted(name, "int").recommend([1, 7], 3)
    assert frame["user_id"].to_list() == [1, 1, 1, 7, 7, 7]
    assert frame["user_id"].dtype == frame["item_id"].dtype == pl.Int64
    assert frame["item_id"].is_between(1, 80).all()


def test_both_kinds_of_ids_get_the_same_lists():
    text, number = (fitted("ease", kind).recommend(users, 5) for kind, users in (("text", ["u0003"]), ("int", [3])))
    assert [int(item[1:]) for item in text["item_id"]] == number["item_id"].to_list()


def test_what_is_seen_may_come_again_where_it_is_asked_for(rec):
    lists = lists_of(rec.recommend(ASKED, 500, exclude_seen=False))
    whole(lists, rec, 500, seen=None)
    assert all(seen_by(rec, user) <= set(lists[user]) for user in ASKED)


def test_exclude_and_among(rec):
    some = sorted(allowed_of(rec))[::2]
    barred = [*some[:5], "no such item", NEW_ITEM]
    lists = lists_of(rec.recommend(ASKED, 10, exclude=barred, among=[*some, "nor this"], exclude_seen=False))
    whole(lists, rec, 10, seen=None, without=barred, among=some)
    lists = lists_of(rec.recommend(ASKED, 10, exclude=barred))
    whole(lists, rec, 10, seen=lambda user: seen_by(rec, user), without=barred)
    everything = rec.store.items.raw_ids.to_list()
    assert rec.recommend(ASKED, 10, among=everything).equals(rec.recommend(ASKED, 10))


def test_nothing_is_left_where_nothing_is_allowed(rec):
    mine = sorted(seen_by(rec, ASKED[0]))
    for options in ({"among": mine}, {"among": []}, {"among": ["no such item"]}, {"exclude": sorted(allowed_of(rec))}):
        for diversity in (0.0, 0.5):
            frame = rec.recommend(ASKED[:1], 10, diversity=diversity, **options)
            assert frame.height == 0
            assert frame["user_id"].dtype == frame["item_id"].dtype == pl.String


def test_one_by_one_is_as_together(rec):
    users = [*ASKED, "u0050", "u0060"]
    together = rec.recommend(users, 20)
    alone = pl.concat([rec.recommend([user], 20) for user in users])
    assert together.drop("score").equals(alone.drop("score"))
    np.testing.assert_allclose(together["score"], alone["score"], rtol=1e-4, atol=1e-5)


def test_all_users_are_those_that_train_knows(rec, monkeypatch):
    monkeypatch.setattr("suisen.pipeline.recommender.USERS_PER_CHUNK", 25)
    parts = list(rec.recommend_all(4))
    assert len(parts) == 3
    known = rec.store.users.raw(rec.store.trained_users.nonzero().squeeze(1).numpy()).to_list()
    assert len(known) == 60
    frame = pl.concat(parts)
    assert frame.drop("score").equals(rec.recommend(known, 4).drop("score"))
    assert frame["user_id"].unique(maintain_order=True).to_list() == known


def test_nobody_is_asked_for(rec):
    frame = rec.recommend([], 10)
    assert frame.height == 0
    assert frame["user_id"].dtype == pl.String


# -- who is not known --------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:history. items that train does not know")
def test_a_history_is_enough_where_the_model_reads_it(rec):
    if "history" not in rec.system.abilities and "new users" not in rec.system.abilities:
        with pytest.raises(UnsupportedQuery, match="anonymous query is unknown to train and mf lacks 'history'"):
            rec.recommend(history=PAST)
        return
    frame = rec.recommend(history=PAST, k=500)
    assert frame["user_id"].unique().to_list() == [0]
    whole(lists_of(frame), rec, 500, seen=lambda _: set(PAST))
    two = rec.recommend(history=[PAST, ["i030", "no such item"]], k=5)
    assert list(lists_of(two)) == [0, 1]
    assert lists_of(two)[0] == rec.recommend(history=[PAST], k=5)["item_id"].to_list()


@pytest.mark.parametrize("name", ["ease", "ials", "sasrec", "two-tower", "fm", "deepfm", "ease + fm"])
def test_the_history_moves_the_list(name):
    lists = lists_of(fitted(name).recommend(history=[["i001"], ["i002", "i003", "i004"]], k=77, exclude=["i001"]))
    assert lists[0] != lists[1]


def test_features_are_enough_where_the_model_reads_them(rec):
    features = {"age": 24, "segment": "segment-1"}
    if "new users" not in rec.system.abilities:
        with pytest.raises(UnsupportedQuery, match=r"anonymous query is unknown to train and .* lacks 'new users'"):
            rec.recommend(user_features=features)
        with pytest.raises(UnsupportedQuery, match=f"user '{NEW_USER}' is unknown to train and .* lacks 'new users'"):
            rec.recommend([NEW_USER])
        return
    whole(lists_of(rec.recommend(user_features=features, k=500)), rec, 500, seen=None)
    two = rec.recommend(user_features=[features, {"age": 70, "segment": "segment-2"}], k=70)
    assert list(lists_of(two)) == [0, 1]
    if "features" in rec.system.abilities:
        assert lists_of(two)[0] != lists_of(two)[1]
    mine = rec.recommend([NEW_USER], 5)  # in the table, with features, without events
    assert mine["user_id"].to_list() == [NEW_USER] * 5


def for_everybody(rec):
    """Whether a source answers anybody: everybody is the same to it."""
    return "popularity" in rec.name.partition(" + ")[0]


def test_who_is_wholly_unknown_gets_what_the_policy_says(rec):
    people = ["u0001", "stranger", "u0002"]
    if for_everybody(rec):
        assert rec.recommend(["stranger"], 4).height == 4
        return
    with pytest.raises(UnsupportedQuery, match=r"user 'stranger' .* or pass unknown='popular' or unknown='skip'"):
        rec.recommend(people)
    with pytest.raises(UnsupportedQuery, match=rf"{LONELY}.*{rec.name.split(' + ')[0]}"):
        rec.recommend([LONELY])
    skipped = rec.recommend(people, 4, unknown="skip")
    assert list(lists_of(skipped)) == ["u0001", "u0002"]
    barred = rec.store.items.raw(rec.store.popular[:2].numpy()).to_list()
    popular = rec.recommend(people, 4, unknown="popular", exclude=barred)
    assert list(lists_of(popular)) == people
    assert lists_of(popular)["stranger"] == rec.store.items.raw(rec.store.popular[2:6].numpy()).to_list()
    counts = popular.filter(pl.col("user_id") == "stranger")["score"].to_list()
    assert counts == rec.store.item_counts[rec.store.popular[2:6]].tolist()
    assert popular.filter(pl.col("user_id") != "stranger").height == 8


def test_the_policy_is_told(rec):
    from suisen.recommending.queries import RawQueries, RecommendOptions

    by = rec.answer(RawQueries(["u0001", "stranger"]), RecommendOptions(k=2, unknown="skip")).by
    assert by == ["model", "model" if for_everybody(rec) else "nobody"]


def test_batches_may_be_mixed():
    rec = fitted("two-tower")
    users = ["u0001", None, NEW_USER, None]
    histories = [None, PAST, None, None]
    features = [None, None, {}, {"segment": "segment-0"}]
    frame = rec.recommend(users, 6, history=histories, user_features=features)
    lists = lists_of(frame)
    assert list(lists) == ["u0001", "1", NEW_USER, "3"]
    assert lists["u0001"] == rec.recommend(["u0001"], 6)["item_id"].to_list()
    assert lists["1"] == rec.recommend(history=PAST, k=6)["item_id"].to_list()
    assert lists[NEW_USER] == rec.recommend([NEW_USER], 6)["item_id"].to_list()
    assert lists["3"] == rec.recommend(user_features={"segment": "segment-0"}, k=6)["item_id"].to_list()


def test_a_query_without_a_user_is_never_taken_for_one():
    rec = fitted("ease", "int")
    assert list(lists_of(rec.recommend([7, None], 2, history=[None, [5]]))) == [7, 1]
    with pytest.raises(InputError, match="query 1 names no user, and user 1 is asked for too"):
        rec.recommend([1, None], 2, history=[None, [5]])


def test_a_given_history_takes_the_place_of_the_stored_one():
    rec = fitted("ease")
    given = rec.recommend(["u0001"], 500, history=[PAST])
    assert given.drop("user_id").equals(rec.recommend(history=PAST, k=500).drop("user_id"))
    with pytest.raises(UnsupportedQuery, match=r"user 'u0001' has no history and ease goes by histories alone"):
        rec.recommend(["u0001"], history=[[]])


def test_who_only_refused_items_cannot_be_answered_from_a_history():
    data = make_data(user=list("aabbb"), item=[1, 2, 1, 2, 3], time=[1, 2, 3, 4, 5], label=[0, 0, 1, 1, 1])
    rec = Recommender(EASE(l2=1.0)).fit(data)
    with pytest.raises(UnsupportedQuery, match="user 'a' has no history and ease goes by histories alone"):
        rec.recommend(["a"])


# -- items -------------------------------------------------------------------------------------------------------------


def test_untrained_items_need_the_ability(rec):
    everything = set(rec.recommend(["u0001"], 500, exclude_seen=False)["item_id"])
    trained = set(rec.store.items.raw(rec.store.trained_items.nonzero().squeeze(1).numpy()))
    assert NEW_ITEM not in trained
    assert everything == (set(rec.store.items.raw_ids) if "new items" in rec.system.abilities else trained)
    assert (NEW_ITEM in set(rec.recommend(["u0001"], 5, among=[NEW_ITEM])["item_id"])) == (
        "new items" in rec.system.abilities
    )


def test_similar_items(rec):
    if rec.name.startswith("popularity"):
        with pytest.raises(UnsupportedQuery, match="cannot tell which items are alike"):
            rec.similar_items(["i005"])
        return
    frame = rec.similar_items(["i005", "i004"], 6)
    assert frame.columns == ["item_id", "similar_id", "score", "rank"]
    assert frame["item_id"].to_list() == ["i005"] * 6 + ["i004"] * 6
    assert frame["rank"].to_list() == [1, 2, 3, 4, 5, 6] * 2
    for (item,), part in frame.group_by("item_id"):
        assert item not in set(part["similar_id"])
        assert part["similar_id"].n_unique() == 6
        assert part["score"].is_sorted(descending=True)
        assert part["score"].is_between(-1.0001, 1.0001).all()
    assert rec.similar_items(["i005"], 500).height == int(rec.engine.first.allowed.sum()) - 1
    assert rec.similar_items([], 5).height == 0
    with pytest.raises(InputError, match="item 'no such item' is unknown"):
        rec.similar_items(["no such item"])
    with pytest.raises(InputError, match="items = 'i005' is not a list"):
        rec.similar_items("i005")
    with pytest.raises(InputError, match="k = 0 must be"):
        rec.similar_items(["i005"], 0)


def test_an_item_without_events_is_similar_to_others_by_features_only():
    assert fitted("two-tower").similar_items([NEW_ITEM], 3).height == 3
    with pytest.raises(UnsupportedQuery, match=f"item '{NEW_ITEM}' has no event in train and ease lacks 'new items'"):
        fitted("ease").similar_items([NEW_ITEM], 3)


def test_similar_items_are_those_taken_together():
    blocks = [(user, item) for user in range(12) for item in range(6) if user % 2 == item % 2]
    data = make_data(user=[u for u, _ in blocks], item=[i for _, i in blocks])
    for model in (EASE(l2=1.0), IALS(dim=4, epochs=6)):
        near = Recommender(model).fit(data).similar_items([0, 1], 2)
        assert set(near.filter(pl.col("item_id") == 0)["similar_id"]) == {2, 4}
        assert set(near.filter(pl.col("item_id") == 1)["similar_id"]) == {3, 5}


# -- diversity, time and context ---------------------------------------------------------------------------------------


def test_diversity_makes_lists_less_alike(rec):
    everybody = rec.store.users.raw_ids.head(60).to_list()
    plain = rec.recommend(everybody, 8)
    assert rec.recommend(everybody, 8, diversity=0.0).equals(plain)
    mixed = rec.recommend(everybody, 8, diversity=0.9)
    whole(lists_of(mixed), rec, 8, seen=lambda user: seen_by(rec, user))
    assert plain.filter(pl.col("rank") == 1)["item_id"].equals(mixed.filter(pl.col("rank") == 1)["item_id"])
    if rec.name.startswith("popularity"):  # all its vectors point the same way
        assert mixed.drop("score").equals(plain.drop("score"))
    else:
        assert alike(rec, mixed) < alike(rec, plain)


def alike(rec, frame) -> float:
    """Mean cosine of an item to its nearest in the list."""
    means = []
    for items in lists_of(frame).values():
        mine = torch.from_numpy(rec.store.items.dense(items))[None]
        means.append(float(rec.engine.likeness.pairs(mine)[0].fill_diagonal_(-1.0).amax(1).mean()))
    return sum(means) / len(means)


def test_at_looks_back():
    rec = fitted("ease")
    dense = int(rec.store.users.dense(["u0001"])[0])
    lo, hi = (int(rec.store.histories.offsets[dense + i]) for i in (0, 1))
    items = rec.store.items.raw(rec.store.histories.values[lo:hi].numpy()).to_list()
    times = rec.store.history_times[lo:hi].tolist()
    then = rec.recommend(["u0001"], 500, at=times[2])
    assert then.drop("user_id").equals(rec.recommend(history=items[:2], k=500).drop("user_id"))
    assert rec.recommend(["u0001"], 9, at=times[-1] + 1).equals(rec.recommend(["u0001"], 9))
    with pytest.raises(UnsupportedQuery, match="has no history"):
        rec.recommend(["u0001"], at=times[0])


@pytest.mark.parametrize("name", ["two-tower", "fm", "deepfm", "ease + fm"])
def test_the_context_moves_the_scores(name):
    rec = fitted(name)
    desk, phone, none = (rec.recommend(["u0001"], 70, context={"device": d}) for d in ("desk", "phone", "tv"))
    assert desk["score"].to_list() != phone["score"].to_list()
    assert none.equals(rec.recommend(["u0001"], 70))
    with pytest.raises(InputError, match="context feature = 'devise' is unknown; did you mean 'device'"):
        rec.recommend(["u0001"], context={"devise": "desk"})
    with pytest.raises(InputError, match="user feature = 'agge' is unknown; did you mean 'age'"):
        rec.recommend(user_features={"agge": 3})


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": "u1"}, r"users = 'u1' is not a list; give a list, like users=\['u1'\]"),
        ({"users": 5}, r"users = 5 is not a list"),
        ({"users": ["u0001"], "exclude": "i001"}, "exclude = 'i001' is not a list"),
        ({"users": ["u0001"], "among": "i001"}, "among = 'i001' is not a list"),
        ({"history": "i001"}, "history = 'i001' is not a list"),
        ({"history": [["i001"], "i002"]}, "history = 'i002' is not a list"),
        ({}, "nobody is asked for; give users, history or user_features"),
        ({"users": ["u0001", "u0002"], "history": [["i001"]]}, r"the queries differ in number: \{'users': 2, 'hi"),
        ({"users": ["u0001"], "excluded": []}, "option = 'excluded' is unknown; did you mean 'exclude'"),
        ({"users": ["u0001"], "unknown": "populer"}, "unknown = 'populer' is unknown; did you mean 'popular'"),
        ({"users": ["u0001"], "diversity": 1.5}, "diversity = 1.5 must be from 0 to 1"),
        ({"users": ["u0001"], "k": 0}, "k = 0 must be a whole number from 1"),
        ({"users": ["u0001"], "k": 2.0}, r"k = 2.0 must be a whole number from 1"),
        ({"user_features": ["age"]}, "user features = 'age' must be names with values"),
    ],
)  # fmt: skip
def test_mistakes_are_named(options, message):
    with pytest.raises(InputError, match=message):
        fitted("ease").recommend(**options)


def test_a_recommender_is_fitted_first():
    with pytest.raises(InputError, match=r"not fitted; call fit\(train\) or load a bundle"):
        Recommender(EASE()).recommend(["u0001"])
    with pytest.raises(InputError, match="candidates = 0 must be at least 1"):
        Recommender(EASE(), candidates=0)
    with pytest.raises(InputError, match="needs a retriever, a ranker or both"):
        Recommender()


def test_arrays_and_series_will_do():
    rec = fitted("ease", "int")
    for users in (np.array([1, 7]), pl.Series([1, 7]), (1, 7), ["1", "7"]):
        assert rec.recommend(users, 3).drop("user_id").equals(rec.recommend([1, 7], 3).drop("user_id"))
    for history in (np.array([5, 12]), (5, 12), [np.array([5, 12])], [(5, 12)], pl.Series([5, 12])):
        assert rec.recommend(history=history, k=3).equals(rec.recommend(history=[5, 12], k=3))


def test_guests_and_repr():
    data = make_data(
        user=["a", None, None, "b", "a", None, "b", None], item=list("xyxyzzxw"), session=[1, 2, 2, 3, 1, 4, 3, 4],
        time=list(range(8)),
    )  # fmt: skip
    rec = Recommender(EASE(l2=1.0), seed=4).fit(data)
    assert set(pl.concat(rec.recommend_all(9))["user_id"]) == {"a", "b"}
    assert repr(rec) == "Recommender(EASE(l2=1.0), candidates=500)"
    assert rec.name == "ease"


def test_fitting_twice_with_a_seed_is_fitting_once():
    one, two = (
        Recommender(MODELS["two-tower"], RANKERS["deepfm"], candidates=30, seed=s).fit(small_split().train)
        for s in (1, 2)
    )
    first = fitted("two-tower + deepfm").recommend(ASKED, 20)
    assert one.recommend(ASKED, 20).equals(first)
    assert not two.recommend(ASKED, 20).equals(first)


def test_titles_and_ids_of_several_types():
    rec = fitted("ease", "int")
    plain, named = rec.recommend([1, 7], 3), rec.recommend([1, 7], 3, titles=True)
    assert named.drop("title").equals(plain)
    dense = torch.from_numpy(rec.store.items.dense(plain["item_id"]))
    assert named["title"].to_list() == rec.store.titles(dense)
    assert all(title.startswith("日本 «Item ") for title in named["title"])
    assert rec.recommend([], 3, titles=True)["title"].dtype == pl.String
    mixed = rec.recommend(["1", 7], 3)
    assert mixed["user_id"].to_list() == [1] * 3 + [7] * 3  # as the log has them
    assert mixed["item_id"].equals(plain["item_id"])


def test_what_is_no_index_is_refused_before_training():
    with pytest.raises(InputError, match=r"index = 'hnsw' is not the settings of an index; give one of Exact\(\)"):
        Recommender(EASE(), index="hnsw")
