"""``partial_fit``: users, items and events folded in without training answer as if they had been given at hand."""

from __future__ import annotations

import polars as pl
import pytest
import torch

import suisen as su
from suisen.data.dataset import Dataset
from suisen.errors import InputError
from suisen.models import IALS, DCNv2, ItemKNN, LightGCN, NeuMF, WideDeep
from suisen.pipeline import Recommender
from tests.fitted import fitted, seen_by, small_log, small_split

TAKEN = ["i003", "i010", "i044", "i010", "i021"]
MORE = {
    "item-knn": lambda: Recommender(ItemKNN(neighbours=10)),
    "lightgcn": lambda: Recommender(LightGCN(dim=8, epochs=1)),
    "ease + neumf": lambda: Recommender(
        su.EASE(l2=20.0), ranker=NeuMF(gmf_dim=4, mlp_dim=4, hidden=(8,), epochs=1), candidates=30
    ),
    "wide-deep": lambda: Recommender(ranker=WideDeep(hidden=(8,), epochs=1)),
    "dcn": lambda: Recommender(ranker=DCNv2(dim=4, hidden=(8,), epochs=1)),
}
FIT: dict = {}


def rec_of(name):
    if name in MORE and name not in FIT:
        FIT[name] = MORE[name]().fit(small_split().train)
    return FIT.get(name) or fitted(name)


def events(users, items, start=1_700_000_000):
    return pl.DataFrame({"user": users, "item": items, "time": [start + at for at in range(len(items))]})


def folded(rec, users, items, **more):
    return rec.partial_fit(events(users, items), user="user", item="item", time="time", time_unit="s", **more)


HISTORY = ["ease", "ials", "two-tower", "sasrec", "fm", "deepfm", "ease + fm", "item-knn", "lightgcn", "ease + neumf",
           "wide-deep", "dcn"]  # fmt: skip


@pytest.mark.parametrize("name", HISTORY)
def test_a_new_user_gets_what_its_history_at_hand_gets(name, tmp_path):
    rec = rec_of(name)
    before = rec.recommend(["u0003"], k=10)
    new = folded(rec, ["zoe"] * 5, TAKEN)
    given = rec.recommend(history=[TAKEN], k=10)
    got = new.recommend(["zoe"], k=10)
    assert got["item_id"].to_list() == given["item_id"].to_list()
    assert got["score"].to_list() == pytest.approx(given["score"].to_list(), rel=1e-4, abs=1e-5)
    assert not set(TAKEN) & set(got["item_id"])
    assert before.equals(rec.recommend(["u0003"], k=10))
    assert new.recommend(["u0003"], k=10)["item_id"].to_list() == before["item_id"].to_list()
    assert "zoe" in pl.concat(list(new.recommend_all(3)))["user_id"]
    assert "1 new users and 0 new items folded in" in new.system.notes[-1]
    with pytest.raises(InputError):
        rec.recommend(["zoe"], unknown="error")
    again = su.load(new.save(tmp_path / "b"))
    assert again.recommend(["zoe"], k=10).equals(got)


@pytest.mark.parametrize("name", ["ease", "ials", "sasrec", "mf", "popularity", "ease + fm"])
def test_what_a_known_user_takes_is_seen_at_once(name):
    rec = rec_of(name)
    top = rec.recommend(["u0003"], k=6)["item_id"].to_list()
    new = folded(rec, ["u0003"] * 2, top[:2])
    assert seen_by(new, "u0003") == seen_by(rec, "u0003") | set(top[:2])
    assert not set(top[:2]) & set(new.recommend(["u0003"], k=20)["item_id"])
    assert int(new.store.item_counts.sum()) == int(rec.store.item_counts.sum()) + 2
    if name == "mf":
        assert "mf reads no history: its answers change by what was seen alone" in str(new.system.notes)


def test_a_model_without_histories_does_not_know_a_new_user():
    new = folded(rec_of("mf"), ["zoe"] * 2, TAKEN[:2])
    with pytest.raises(InputError, match="lacks 'history'"):
        new.recommend(["zoe"])
    popular = new.recommend(["zoe"], k=5, unknown="popular")["item_id"]
    assert len(popular) == 5
    assert not set(TAKEN[:2]) & set(popular)


def test_events_come_in_order_of_time_and_once():
    rec = rec_of("ease")
    late = events(["zoe"] * 3, ["i003", "i010", "i044"])
    one = rec.partial_fit(late[1:], user="user", item="item", time="time", time_unit="s")
    two = one.partial_fit(late, user="user", item="item", time="time", time_unit="s")
    dense = int(two.store.users.dense(["zoe"])[0])
    row = two.store.histories.take(torch.tensor([dense])).values.numpy()
    assert two.store.items.raw(row).to_list() == ["i003", "i010", "i044"]
    assert "2 events were known already" in two.system.notes[-1]
    heavy = late.with_columns(pl.lit(5.0).alias("w"))
    three = one.partial_fit(heavy, user="user", item="item", time="time", time_unit="s", weight="w")
    assert "weights are not read" in three.system.notes[-1]


def test_new_items_by_features_are_recommended_and_known_ones_keep_their_scores():
    rec, table = rec_of("two-tower"), small_log().items
    twin = table.filter(pl.col("item") == "i020").with_columns(pl.lit("new").alias("item"))
    both = folded(rec, ["u0003"], ["new"], item_features=pl.concat([twin, table.head(3)]))
    assert "3 items of the table were known and keep their features" in both.system.notes[-1]
    new = folded(rec, ["u0003"], ["new"], item_features=twin)
    asked = [new.recommend(history=[TAKEN], k=81), rec.recommend(history=[TAKEN], k=81)]
    both = asked[0].join(asked[1], on="item_id", suffix="_before")
    assert both["score"].to_list() == pytest.approx(both["score_before"].to_list(), rel=1e-4, abs=1e-5)
    assert "new" in asked[0]["item_id"]
    assert "new" in seen_by(new, "u0003")
    assert new.store.titles(torch.from_numpy(new.store.items.dense(["new"]))) == twin["title"].to_list()


@pytest.mark.parametrize("model", [IALS(dim=8, epochs=6), ItemKNN(neighbours=20, shrinkage=0.0)])
def test_a_new_item_stands_where_training_would_have_put_it(model, tmp_path):
    """A copy of a known item, taken by the same users: it ends up beside that item."""
    data = small_split().train
    raw = data.log.events.filter(pl.col("item") != "i020")
    own = data.log.events.filter(pl.col("item") == "i020")
    rec = Recommender(model, seed=1).fit(Dataset.of(type(data.log)(raw, data.log.users, None, {})))
    whole = Recommender(model, seed=1).fit(Dataset.of(type(data.log)(data.log.events, data.log.users, None, {})))
    new = rec.partial_fit(own.select("user", "item", "time"), user="user", item="item", time="time", time_unit="us")
    assert bool(new.store.trained_items[new.store.items.dense(["i020"])].all())
    mine, theirs = (set(each.similar_items(["i020"], k=10)["similar_id"]) for each in (new, whole))
    assert len(mine & theirs) >= 5
    users = data.users.raw_ids[:30].to_list()
    for each in (new, su.load(new.save(tmp_path / "b"))):
        lists = each.recommend(users, k=80)
        assert "i020" in lists["item_id"]
    if isinstance(model, ItemKNN):
        keep = ["user_id", "item_id"]
        a, b = (each.recommend(users, k=80).filter(pl.col("item_id") == "i020") for each in (new, whole))
        both = a.join(b, on=keep, suffix="_whole")
        assert both["score"].to_list() == pytest.approx(both["score_whole"].to_list(), abs=1e-5)


def test_items_that_a_model_cannot_take_in_are_left_out_and_said():
    new = folded(rec_of("ease"), ["u0003", "zoe", "zoe"], ["new", "new", "i003"])
    assert len(new.store.items) == len(rec_of("ease").store.items)
    assert "2 events of new items left out: ease cannot take items in" in new.system.notes[-1]
    assert seen_by(new, "zoe") == {"i003"}


def test_hashed_crosses_of_ids_are_refused_for_known_users_would_change():
    model = WideDeep(hidden=(8,), epochs=1, crosses=(("user", "item"),))
    rec = Recommender(ranker=model).fit(small_split().train)
    assert folded(rec, ["u0003"], ["i003"]).store.schema == rec.store.schema
    with pytest.raises(InputError, match="wide-deep cannot take new ids in without training"):
        folded(rec, ["zoe"] * 3, TAKEN[:3])


def test_numbers_stay_numbers_and_times_are_asked_for():
    rec = fitted("ease", "number")
    new = folded(rec, [77_777, 77_777], [3, 10])
    assert (
        new.recommend([77_777], k=5)["item_id"].to_list() == rec.recommend(history=[[3, 10]], k=5)["item_id"].to_list()
    )
    with pytest.raises(InputError, match="user ids of train are whole numbers"):
        folded(rec, ["zoe"], [3])
    with pytest.raises(InputError, match="pass time="):
        rec.partial_fit(pl.DataFrame({"user": [1], "item": [3]}), user="user", item="item", time=None)
    with pytest.raises(InputError, match="not fitted"):
        folded(Recommender(su.EASE()), ["a"], ["b"])


def test_a_log_without_times_takes_events_without_times():
    frame = pl.DataFrame({"u": ["a", "a", "b", "b", "c"], "i": [1, 2, 2, 3, 1]})
    rec = Recommender(su.EASE(l2=1.0)).fit(Dataset.from_frame(frame, user="u", item="i"))
    new = rec.partial_fit({"u": ["d"], "i": [2]}, user="u", item="i")
    assert new.recommend(["d"], k=2).drop("user_id").equals(rec.recommend(history=[2], k=2).drop("user_id"))
