"""Features of the pair on their way: from the setting through training to the lists, the bundle, the server, a run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file

import suisen as su
from suisen.data.batch import Candidates
from suisen.data.dataset import Dataset
from suisen.data.log import Col
from suisen.errors import BundleError, InputError
from suisen.models import DNN, EASE, FM, MF, DeepFM, Popularity, WideDeep
from suisen.models.layers import retrieval_prior
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.tuning import TuneSettings, tune
from suisen.pipeline.two_stage import first_stage, held_out
from suisen.recommending import bundle, planning
from suisen.recommending.engine import Filters
from suisen.recommending.pairs.covisits import CoVisits
from suisen.recommending.sources import PAIR
from suisen.serving.settings import Settings
from tests.fitted import RANKERS, fitted, small_log, small_split
from tests.recommending.test_bundle import rewritten, same_bits
from tests.serving.client import Client

NAMES = (
    "covisit_1", "covisit_5", "covisit_20", "last:category", "last:tags", "share:category", "share:tags",
    "difference:price", "popularity", "age", "trend_day", "trend_week", "trend_month", "history_length",
    "session_position",
)  # fmt: skip


def two(words="all", ranker=RANKERS["fm"]):
    return Recommender(EASE(l2=20.0), ranker, candidates=30, seed=1, pair_features=words)


@pytest.fixture(scope="module")
def rec():
    """Not to be changed."""
    return two().fit(small_split().train)


@pytest.fixture(scope="module")
def saved(rec, tmp_path_factory):
    return rec.save(tmp_path_factory.mktemp("saved") / "bundle")


def contexts():
    return small_split().test.contexts


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_ranker_reads_all_that_the_data_allow(rec):
    assert rec.engine.pair_names == (*PAIR, *NAMES)
    assert rec.engine.ranker.core.names[-len(NAMES) - 2 :] == [*PAIR, *NAMES]
    said = f"the ranker reads 15 features of each pair beside the retrieval's: {', '.join(NAMES)}"
    assert said in rec.system.notes


@pytest.mark.parametrize("ranker", [FM(), DeepFM(), DNN(), WideDeep()], ids=lambda one: type(one).__name__)
def test_an_untrained_ranker_begins_with_the_order_of_the_retriever(ranker):
    schema = replace(small_split().train.schema, pair=(*PAIR, *NAMES))
    assert retrieval_prior(schema).tolist() == [1.0] + [0.0] * (len(NAMES) + 1)
    assert ranker.build(schema)


def test_lists_carry_the_features_that_serving_makes():
    train = small_split().train
    recipe = two().recipe()
    first = first_stage(recipe, train, None)
    (contexts, pair) = first.lists.contexts, first.lists.candidates.pair
    assert pair.shape[2] == 2 + len(NAMES)
    whole = recipe.lists.history >= int(train.histories.lengths.max())
    assert whole  # histories in the lists are whole, so that the features can be made again from them
    again = first.engine.pairs.of(contexts, first.lists.candidates.items)
    plain = [place for place, name in enumerate(NAMES) if not name.startswith("covisit")]  # not of the list they are in
    assert torch.equal(pair[:, :, 2:][:, :, plain], again[:, :, plain])
    spread = pair[first.lists.weights > 0].std(0)
    assert (spread[:10] > 0.01).all()


def test_co_visits_of_the_lists_do_not_know_what_is_held_out():
    train = small_split().train
    recipe = two().recipe()
    (asked,) = held_out(train, recipe.lists, recipe.options.seed)
    found = first_stage(recipe, train, None).engine.pairs
    wanted, whole = CoVisits.of(train.keep(~asked)), CoVisits.of(train)
    assert torch.equal(found.visits.weights, wanted.weights)
    assert not torch.equal(wanted.offsets, whole.offsets)
    assert torch.equal(two().fit(train).engine.pairs.visits.weights, whole.weights)


def test_no_words_are_todays_two_features(tmp_path):
    without, today = two(()).fit(small_split().train), fitted("ease + fm")
    assert without.engine.pair_names == PAIR
    assert without.engine.pairs is None
    same_bits(without, today)
    place = without.save(tmp_path / "bundle")
    assert "pair_features" not in json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    assert not (place / "pairs.safetensors").exists()
    assert Recommender.load(place).pair_features == ()


def test_the_same_seed_gives_the_same_lists(rec):
    same_bits(rec, two().fit(small_split().train))


def test_features_are_left_out_by_name():
    some = two(["all", "-trend_day", "-last:tags", "-share"]).fit(small_split().train)
    gone = {"trend_day", "last:tags", "share:category", "share:tags"}
    assert some.engine.pairs.names == tuple(name for name in NAMES if name not in gone)


def test_what_the_data_lack_is_left_out():
    log = small_log()
    data = Dataset.of(replace(log, events=log.events.drop(Col.TIME), items=None))
    made = two().fit(data)
    assert made.engine.pairs.names == ("covisit_1", "covisit_5", "covisit_20", "history_length")
    (note,) = [note for note in made.system.notes if "features of each pair" in note]
    assert "left out, for the log has no times: popularity, age" in note
    assert "left out, for the item table has no categorical column: last, share" in note
    none = two(["trend_day"]).fit(data)
    assert none.engine.pair_names == PAIR
    assert made.recommend(["u0003"], k=5).height == none.recommend(["u0003"], k=5).height == 5


def test_validation_sees_them_too():
    split = small_split()
    made = two().fit(split.train, split.valid)
    assert made.curves["ranker"][0].rows[0].metric is not None
    assert "features of pairs: covisit_1" in str(made.funnel(split.test))
    assert made.funnel(split.test).to_dict()["pair_features"] == NAMES
    assert su.evaluate(made, split.test, metrics=["ndcg@10"]).value("ndcg@10") > 0


def test_several_sources_stand_before_them(tmp_path):
    made = Recommender(
        [EASE(l2=20.0), Popularity()], RANKERS["fm"], candidates=30, seed=1, pair_features=["age", "share"]
    )
    made.fit(small_split().train)
    assert made.engine.pair_names[-3:] == ("share:category", "share:tags", "age")
    assert made.engine.pair_names[:3] == (*PAIR, "ease_score")
    same_bits(made, Recommender.load(made.save(tmp_path / "bundle")))


# -- refused -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: two("covisit_6"), "pair_features = 'covisit_6' is unknown; did you mean 'covisit_5'"),
        (lambda: Recommender(EASE(), pair_features="all"), r"pair_features = \['all'\] needs a retriever and a ranker"),
        (lambda: Recommender(ranker=FM(), pair_features=["age"]), "needs a retriever and a ranker"),
        (lambda: two(ranker=MF()), "ranker = MF is a retriever and reads none"),
        (lambda: two(["last:colour"]).fit(small_split().train), "pair_features = 'last:colour' is unknown"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


# -- answers -----------------------------------------------------------------------------------------------------------


def test_given_candidates_are_scored_as_a_list_of_their_own(rec):
    some = contexts()
    found = rec.engine.find(some, 20, Filters(some.history))
    ids = found.ids
    ranked, values = rec.engine.rerank(some, found)
    mine = rec.score(some, Candidates(ids))
    assert torch.allclose(mine.sort(1, descending=True).values, values, atol=1e-5)
    assert (ids.gather(1, mine.argsort(1, descending=True)) == ranked).float().mean() > 0.99


def test_a_stranger_and_a_history_get_full_lists(rec):
    assert rec.recommend(history=[["i003", "i010"]], k=7).height == 7
    assert rec.recommend(["nobody"], k=7, unknown="popular").height == 7


def test_explanations_name_them(rec):
    top = rec.recommend(["u0003"], k=1)
    why = rec.explain(top["item_id"][0], "u0003")
    assert {"covisit_20", "share:category", "age"} <= set(why["field"])
    assert why["contribution"].sum() == pytest.approx(top["score"][0], abs=1e-3)


def test_new_items_and_events_are_folded_in(rec):
    events = pl.DataFrame({"user": ["zoe"] * 3, "item": ["i003", "i010", "i044"], "time": [1_700_000_000] * 3})
    new = rec.partial_fit(events, user="user", item="item", time="time", time_unit="s")
    assert new.recommend(["zoe"], k=5).height == 5
    assert "partial_fit: co-visits and counts of takes stay those of train until the next fit" in new.system.notes
    assert new.engine.pair_names == rec.engine.pair_names
    assert new.recommend(["u0003"], k=10, at="2030-01-01").equals(rec.recommend(["u0003"], k=10, at="2030-01-01"))


# -- kept --------------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same_bit_for_bit(rec, saved, tmp_path):
    back = Recommender.load(saved)
    same_bits(rec, back)
    assert back.pair_features == back.engine.pairs.names == NAMES
    assert back.recommend(["u0003"], k=10, at="2030-01-01").equals(rec.recommend(["u0003"], k=10, at="2030-01-01"))
    again = Recommender.load(back.save(tmp_path / "again"))
    same_bits(rec, again)
    refit = back.refit(small_split().train)
    assert refit.engine.pair_names == rec.engine.pair_names


def test_it_answers_on_torch_and_says_why(saved):
    engine = Recommender.load(saved).engine
    assert (engine.plan, engine.on_torch) == (None, planning.OF_REQUESTS)


def test_the_server_gives_what_the_library_gives(saved):
    system = bundle.load(saved)
    at = "2030-01-01T00:00:00Z"
    users = ["u0003", "u0007", "u0021"]
    offline = Recommender.of(system).recommend(users, k=5, at=at)
    with Client(lambda: system, Settings(deadline_s=60.0)) as client:
        body = {"queries": [{"user_id": user} for user in users], "k": 5, "at": at}
        answered = client.post("/v1/recommend", body).json
        told = client.get("/v1/bundle").json
    lists = [[one["item_id"] for one in each["items"]] for each in answered["answers"]]
    assert lists == [offline.filter(user_id=user)["item_id"].to_list() for user in users]
    assert told["on_torch"] == planning.OF_REQUESTS
    assert any("covisit_20" in note for note in told["notes"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (list(reversed(NAMES)), "are not its features"),
        ([*NAMES, "covisit_7"], "'covisit_7' is unknown"),
        (NAMES[:-1], "ranker.safetensors does not fit the model"),
        ([], "files names 'pairs.safetensors', which no such bundle has"),
    ],
)
def test_other_names_than_the_bundles_are_refused(saved, tmp_path, names, message):
    place = shutil.copytree(saved, tmp_path / "bundle")
    rewritten(place, pair_features=list(names))
    with pytest.raises(BundleError, match=message):
        Recommender.load(place)


def test_damaged_tables_are_refused(saved, tmp_path):
    place = shutil.copytree(saved, tmp_path / "bundle")
    path = place / "pairs.safetensors"
    arrays = {name: array.clone() for name, array in load_file(path).items()}
    arrays["items"][0] = 10_000
    save_file(arrays, path)
    files = json.loads((place / "manifest.json").read_text(encoding="utf-8"))["files"]
    rewritten(place, files={**files, "pairs.safetensors": bundle._sha256(path)})
    with pytest.raises(BundleError, match=r"pairs\.safetensors does not fit the bundle \(items are not all ids"):
        Recommender.load(place)
    path.unlink()
    with pytest.raises(BundleError, match=r"pairs\.safetensors is missing"):
        Recommender.load(place)


def test_a_bundle_of_one_stage_cannot_name_them(tmp_path):
    place = fitted("ease").save(tmp_path / "bundle")
    (place / "pairs.safetensors").write_bytes(b"")
    files = json.loads((place / "manifest.json").read_text(encoding="utf-8"))["files"]
    digest = bundle._sha256(place / "pairs.safetensors")
    rewritten(place, pair_features=["age"], files={**files, "pairs.safetensors": digest})
    with pytest.raises(BundleError, match=r"pair_features = \['age'\] needs two stages"):
        Recommender.load(place)


# -- tuning ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["ranker", "retriever", "both"])
def test_tuning_takes_them(stage):
    split = small_split()
    settings = TuneSettings(trials=2, startup=2, prune=False, stage=stage)
    found = tune(two(["covisit_5", "age"]), split.train, split.valid, settings)
    assert [trial.state for trial in found.trials] == ["done", "done"]
    if stage != "retriever":
        assert found.recommender.pair_features == ("covisit_5", "age")


def test_a_store_of_other_features_is_another_tuning(tmp_path):
    split, settings = small_split(), TuneSettings(trials=1, startup=1, prune=False)
    tune(two(["covisit_5"]), split.train, split.valid, settings, store=tmp_path / "study")
    with pytest.raises(InputError, match="another pair features"):
        tune(two(["age"]), split.train, split.valid, settings, store=tmp_path / "study")
