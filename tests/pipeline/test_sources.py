"""Several sources end to end: training without a leak, resuming, saving, the funnel, explanations, tuning, mistakes."""

from __future__ import annotations

import json
from dataclasses import replace

import polars as pl
import pytest
import torch

from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.errors import InputError, UnknownName, UnsupportedQuery
from suisen.evaluation import evaluate
from suisen.models import EASE, FM, IALS, MF, ItemKNN, Popularity, SASRec, TwoTower
from suisen.pipeline import two_stage
from suisen.pipeline.funnel import funnel
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.tuning import TuneSettings, tune
from suisen.pipeline.two_stage import RankerLists, first_takes, held_out, make_lists
from suisen.recommending import bundle
from suisen.recommending.engine import Engine, Filters
from suisen.recommending.sources import PAIR, pair_names
from suisen.retrieval import HNSW
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.fitted import MODELS, RANKERS, UNIONS, fitted, small_log, small_split

PAIRS = MF(dim=4, epochs=4, batch_size=256)
OPTIONS = RunOptions(seed=1, patience=1)


def weights(rec):
    nets = [*(source.net for source in rec.engine.sources), rec.engine.ranker]
    return [value for net in nets if net is not None for value in net.state_dict().values()]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


# -- training ----------------------------------------------------------------------------------------------------------


def spied(monkeypatch):
    """Every call of ``fit``: (model, train, epochs per phase, stage)."""
    calls = []

    def spy(model, train, validate=None, options=None, schema=None, epochs_per_phase=None):
        calls.append((model, train, epochs_per_phase, options.stage, schema))
        return fit(model, train, validate, options, schema, epochs_per_phase)

    monkeypatch.setattr(two_stage, "fit", spy)
    return calls


def test_no_source_sees_what_the_lists_ask_about(monkeypatch):
    calls, split = spied(monkeypatch), small_split()
    rec = Recommender([PAIRS, EASE(l2=20.0)], RANKERS["fm"], candidates=30).fit(split.train, split.valid)
    stages = ["mf-inner1", "ease-inner1", "ranker", "mf", "ease"]
    assert [call[3] for call in calls] == [f"retriever-{s}" if s != "ranker" else s for s in stages]
    assert list(rec.curves) == [f"retriever-{s}" if s != "ranker" else s for s in stages]
    (asked,) = held_out(split.train, RankerLists(), seed=0)
    for _, inner, *_ in calls[:2]:
        assert len(inner.events) == len(split.train.events) - int(asked.sum())
        pairs = set(zip(inner.events.visitor.tolist(), inner.events.time.tolist()))
        gone = zip(split.train.events.visitor[asked].tolist(), split.train.events.time[asked].tolist())
        assert not pairs & set(gone)
    assert calls[2][4].pair == pair_names(["mf", "ease"])
    assert calls[3][1] is calls[4][1] is split.train
    assert calls[3][2] == [rec.curves["retriever-mf-inner1"][0].best_epoch]
    notes = " ".join(rec.system.notes)
    assert "lists of sources none of which had seen their events" in notes
    assert "lists was found by mf in " in notes


def test_without_an_order_every_source_is_fitted_on_every_fold(monkeypatch):
    calls = spied(monkeypatch)
    log = replace(small_log(), events=small_log().events.drop("time"))
    Recommender([Popularity(), EASE(l2=5.0)], RANKERS["fm"], candidates=20).fit(Dataset.of(log))
    inner = [f"retriever-{name}-inner{at}" for at in (1, 2, 3, 4) for name in ("popularity", "ease")]
    assert [call[3] for call in calls] == [*inner, "ranker", "retriever-popularity", "retriever-ease"]


def test_a_stand_in_needs_no_lists(monkeypatch):
    calls = spied(monkeypatch)
    split = small_split()
    rec = Recommender([Popularity(), EASE(l2=5.0)], PAIRS, candidates=20).fit(split.train, split.valid)
    assert [call[3] for call in calls] == ["retriever-popularity", "retriever-ease", "ranker"]
    assert "the ranker's score is blended with" in rec.system.notes[0]


def test_lists_serve_as_they_train():
    """The scores that the ranker learns on are those that the engine computes for the same contexts."""
    rec, train = fitted("ease, ials, popularity + deepfm"), small_split().train
    engine, rows = rec.engine, first_takes(train).nonzero().squeeze(1)[::3]
    asked = torch.zeros(len(train.events), dtype=torch.bool)
    asked[rows] = True
    lists, _ = make_lists(engine, train, asked, RankerLists(candidates=30, learnt=30, history=50), rng())
    assert lists.candidates.pair.shape[2] == len(PAIR) + 9
    trained = engine.ranker.score(lists.contexts, lists.candidates).detach()
    contexts = train.contexts(rows, history=10**6)
    ids, scores = engine.lists(contexts, 30, Filters(contexts.history))
    kept = (ids == train.events.item[rows, None]).any(1).nonzero().squeeze(1)
    assert len(kept) == len(lists) > 30
    for at, row in enumerate(kept.tolist()):
        served = dict(zip(ids[row].tolist(), scores[row].tolist()))
        for item, score in zip(lists.candidates.items[at].tolist(), trained[at].tolist()):
            if item:
                assert score == pytest.approx(served[item], abs=1e-4)


@pytest.mark.parametrize("name", UNIONS)
def test_the_same_seed_gives_the_same_lists(name):
    rec = fitted(name)
    again = rec.with_models(rec.retriever, rec.ranker).fit(small_split().train)
    assert all(map(torch.equal, weights(rec), weights(again)))
    assert again.recommend(["u0001", "u0020"], 9).equals(rec.recommend(["u0001", "u0020"], 9))


@pytest.mark.parametrize("at", [0, 5, 12, 16, 23])
def test_killed_in_any_source_and_resumed_it_ends_with_the_same_weights(at, tmp_path):
    class Killed(Exception):
        pass

    class Killer:
        left = at

        def on_start(self, *_):
            pass

        def on_batch(self, *_):
            if not self.left:
                raise Killed
            self.left -= 1

        on_epoch = on_end = on_start

    sources = [PAIRS, TwoTower(dim=4, hidden=(4,), epochs=3, batch_size=256)]
    rec = Recommender(sources, FM(dim=2, epochs=2, batch_size=64), candidates=30, seed=1)
    train, options = small_split().train, replace(OPTIONS, checkpoint=tmp_path, checkpoint_seconds=0.0)
    whole = rec.with_models(rec.retriever, rec.ranker).fit(train, options=OPTIONS)
    with pytest.raises(Killed):
        rec.fit(train, options=replace(options, callbacks=(Killer(),)))
    resumed = rec.fit(train, options=replace(options, resume=True))
    assert all(map(torch.equal, weights(whole), weights(resumed)))
    assert (tmp_path / "retriever-two-tower.safetensors").is_file()


def test_it_is_refitted_for_as_long():
    split = small_split()
    rec = Recommender([PAIRS, EASE(l2=20.0)], FM(dim=2, epochs=3), candidates=30, seed=1)
    rec.fit(split.train, split.valid, OPTIONS)
    again = rec.refit(split.train, OPTIONS)
    assert all(map(torch.equal, weights(rec), weights(again)))
    epochs = [rec.curves[stage][0].best_epoch for stage in ("retriever-mf", "ranker")]
    assert again.system.refitted.endswith(f"(retriever-mf {epochs[0]}, ranker {epochs[1]})")


# -- one source stays what it is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranker", [None, "fm"])
def test_a_list_of_one_source_is_that_source(ranker):
    one = Recommender([MODELS["mf"]], RANKERS.get(ranker), candidates=30, seed=1).fit(small_split().train)
    plain = fitted("mf + fm" if ranker else "mf")
    assert one.retriever == MODELS["mf"]
    assert (one.name, list(one.curves), one.engine.union) == (plain.name, list(plain.curves), None)
    assert one.recommend(["u0001", "u0020"], 9).equals(plain.recommend(["u0001", "u0020"], 9))
    assert repr(one) == repr(plain)


def test_the_fusion_is_of_the_lists_that_the_sources_give_alone():
    """Reciprocal-rank fusion by hand from the lists of two Recommenders of one model each."""
    models, train, user = [EASE(l2=20.0), ItemKNN()], small_split().train, ["u0007"]
    both = Recommender(models, candidates=30).fit(train)
    lists = [Recommender(model).fit(train).recommend(user, 30)["item_id"].to_list() for model in models]
    taken = list(dict.fromkeys(item for pair in zip(*lists, strict=True) for item in pair))[:30]
    wanted = {item: sum(61 / 2 / (61 + ids.index(item)) for ids in lists if item in ids) for item in taken}
    found = both.recommend(user, 30)
    assert found["item_id"].to_list() == sorted(taken, key=lambda item: -round(wanted[item], 9))
    assert found["score"].to_list() == pytest.approx(sorted(wanted.values(), reverse=True), abs=1e-4)
    assert both.recommend(user, 7).equals(found.head(7))


def test_two_sources_find_what_one_does_not():
    """Users are of two kinds, each found by one source alone: the union knows both."""
    test, both = small_split().test, fitted("two-tower, ease")
    report = evaluate(both.engine, test, ["recall@30"]).value("recall@30")
    alone = [evaluate(source.scorer, test, ["recall@15"]).value("recall@15") for source in both.engine.sources]
    assert report >= max(alone)


# -- keeping -----------------------------------------------------------------------------------------------------------


def test_a_bundle_of_several_sources(tmp_path):
    rec = Recommender(
        [IALS(dim=8, epochs=2), ItemKNN(), IALS(dim=4, epochs=2)],
        FM(dim=2, epochs=1),
        candidates=20,
        quotas={"ials": 7, "ials-2": 2},
        index=HNSW(m=8),
    ).fit(small_split().train)
    place = rec.save(tmp_path / "b")
    manifest = bundle.read_manifest(place)
    assert manifest["retriever"] is None
    assert [one["name"] for one in manifest["sources"]] == ["ials", "item-knn", "ials-2"]
    assert [one["index"] and one["index"]["name"] for one in manifest["sources"]] == ["hnsw", None, "hnsw"]
    assert {path.name for path in (place / "sources" / "ials-2").iterdir()} == {"retriever.safetensors", "index"}
    assert not (place / "retriever.safetensors").exists()
    back = Recommender.load(place)
    assert (back.retriever, back.ranker, back.quotas) == (rec.retriever, rec.ranker, {"ials": 7, "ials-2": 2})
    assert (back.name, back.index_settings) == ("ials, item-knn, ials-2 + fm", HNSW(m=8))
    assert all(map(torch.equal, weights(rec), weights(back)))
    assert back.recommend(["u0001", "u0020"], 9).equals(rec.recommend(["u0001", "u0020"], 9))
    assert back.system.index_recall == rec.system.index_recall > 0.5
    assert back.engine.plan is None
    assert back.engine.on_torch == "several sources are merged on torch"
    assert back.system.version.startswith("ials,item-knn,ials-2+fm-")
    assert back.refit(small_split().train).name == rec.name


def test_features_of_the_pair_stand_behind_those_of_the_sources(tmp_path):
    models, ranker = [EASE(l2=20.0), Popularity()], FM(dim=2, epochs=1)
    rec = Recommender(models, ranker, candidates=20, pair_features=["covisit_5", "history_length"])
    rec.fit(small_split().train, small_split().valid)
    names = (*pair_names(["ease", "popularity"]), "covisit_5", "history_length")
    assert rec.engine.pair_names == names
    assert rec.engine.ranker.core.names[-len(names) :] == [*names]
    back = Recommender.load(rec.save(tmp_path / "b"))
    assert back.engine.pair_names == names
    assert back.recommend(["u0001", "u0020"], 9).equals(rec.recommend(["u0001", "u0020"], 9))


def test_damage_to_a_source_is_named(tmp_path):
    from suisen.errors import BundleError

    place = fitted("two-tower, ease").save(tmp_path / "b")
    weights_of_one = place / "sources" / "ease" / "retriever.safetensors"
    weights_of_one.write_bytes(weights_of_one.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"sources/ease/retriever\.safetensors is damaged"):
        Recommender.load(place)
    weights_of_one.unlink()
    with pytest.raises(BundleError, match=r"sources/ease/retriever\.safetensors is missing"):
        Recommender.load(place)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["sources"][0].update(name="../up"), "sources.0.name = '../up' string should match pattern"),
        (lambda m: m["sources"].pop(), "sources = .* at least 2 items"),
        (lambda m: m.update(retriever=m["sources"][1]["model"]), "it has a retriever, and sources in place of it"),
        (lambda m: m["sources"][0]["model"].update(extra=1), "sources.0.model.extra"),
        (lambda m: m.update(quotas={"ease": -1}), "quotas.ease = -1"),
    ],
)
def test_a_manifest_of_other_sources_is_refused(tmp_path, change, message):
    from suisen.errors import BundleError
    from suisen.recommending import manifest as manifests

    place = fitted("two-tower, ease").save(tmp_path / "b")
    told = json.loads((place / "manifest.json").read_text(encoding="utf-8"))
    change(told)
    told["sha256"] = manifests.digest(told)
    (place / "manifest.json").write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(BundleError, match=message):
        Recommender.load(place)


@pytest.mark.parametrize("name", UNIONS)
def test_new_users_are_folded_in(name):
    rec = fitted(name)
    events = pl.DataFrame({"user": ["newcomer"] * 2, "item": ["i005", "i012"], "time": [1_700_000_000, 1_700_000_001]})
    more = rec.partial_fit(events, user="user", item="item", time="time", time_unit="s")
    assert more.engine.union is not None
    given = rec.recommend(history=[["i005", "i012"]], k=9)
    assert more.recommend(["newcomer"], 9)["item_id"].to_list() == given["item_id"].to_list()
    assert more.recommend(["u0001"], 5)["item_id"].equals(rec.recommend(["u0001"], 5)["item_id"])


# -- measuring ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["two-tower, ease", "ease, ials, popularity + deepfm"])
def test_the_funnel_says_what_each_source_finds(name):
    rec, test = fitted(name), small_split().test
    out = funnel(rec.engine, test, 5)
    assert out.depths == (10, 30)
    union = rec.engine.union
    truth, seen = test.truth.tolist(), test.seen.tolist()
    found = {one.source: [0.0] * 2 for one in out.sources}
    shares, alone, listed = dict.fromkeys(found, 0), dict.fromkeys(found, 0.0), 0
    for at in range(len(test)):
        contexts, filters = test.contexts.take(torch.tensor([at])), Filters(Ragged.of([seen[at]]))
        every = {}
        for source in union.sources:
            one = Engine(source.net, None, source.allowed, 30, source.index)
            every[source.name] = one.retrieve(contexts, 30, filters)[0][0].tolist()
        every["union"] = rec.engine.retrieve(contexts, 30, filters)[0][0].tolist()
        for source, ids in every.items():
            for place, depth in enumerate(out.depths):
                mine = rec.engine.retrieve(contexts, depth, filters)[0][0].tolist() if source == "union" else ids
                found[source][place] += len(set(mine[:depth]) & set(truth[at]) - {0}) / len(truth[at])
        listed += len(set(every["union"]) - {0})
        for source in union.sources:
            others = {item for name, ids in every.items() if name not in (source.name, "union") for item in ids}
            shares[source.name] += len(set(every[source.name]) & set(every["union"]) - {0})
            mine = set(every[source.name]) & set(every["union"]) & set(truth[at]) - others - {0}
            alone[source.name] += len(mine) / len(truth[at])
    for one in out.sources:
        assert one.recalls == pytest.approx([value / len(test) for value in found[one.source]], abs=1e-6)
        if one.source != "union":
            assert one.share == pytest.approx(shares[one.source] / listed)
            assert one.alone == pytest.approx(alone[one.source] / len(test), abs=1e-6)
    assert out.sources[-1].recalls[-1] == pytest.approx(out.figures[0].value, abs=1e-6)
    assert "recall that it alone adds" in str(out)
    json.dumps(out.to_dict())
    assert funnel(fitted("ease").engine, test, 5).sources == ()


# -- what makes up a score, vectors, similar items ---------------------------------------------------------------------


def test_a_fused_score_is_explained_by_its_sources():
    rec = fitted("two-tower, ease")
    top = rec.recommend(["u0001"], 3)
    for item, score in top.select("item_id", "score").iter_rows():
        why = rec.explain(item, "u0001")
        assert why.columns == ["source", "rank", "contribution"]
        assert set(why["source"]) == {"two-tower", "ease"}
        assert why["contribution"].sum() == pytest.approx(score, abs=1e-4)
    why = rec.explain(top["item_id"][0], "u0001", stage="retriever")
    assert set(why["source"]) == {"ease"}  # the first one that can say it
    assert why.drop("source").equals(fitted("ease").explain(top["item_id"][0], "u0001"))


def test_vectors_and_similar_items_are_those_of_the_first_source_that_has_them():
    rec = fitted("ease, ials, popularity + deepfm")
    own = rec.engine.sources[1].net.item_vectors()[rec.engine.sources[1].allowed]
    assert torch.equal(torch.tensor(rec.vectors()["vector"].to_numpy()), own)
    assert rec.similar_items(["i005"], 6).equals(fitted("ease").similar_items(["i005"], 6))
    with pytest.raises(UnsupportedQuery, match="ease, item-knn has no vectors"):
        Recommender([EASE(l2=5.0), ItemKNN()]).fit(small_split().train).vectors()


# -- tuning ------------------------------------------------------------------------------------------------------------


def test_every_source_is_tuned_over_its_own_space():
    pytest.importorskip("optuna")
    split = small_split()
    rec = Recommender([EASE(l2=20.0), ItemKNN()], candidates=30)
    fixed = ("retriever.ease.l2",)
    found = tune(rec, split.train, split.valid, TuneSettings(trials=2, metric="ndcg@10", fixed=fixed))
    assert {name.rpartition(".")[0] for name in found.best.settings} == {"retriever.item-knn"}
    assert found.recommender.retriever[0] == EASE(l2=20.0)
    fitted_again = found.recommender.fit(split.train, split.valid)
    value = evaluate(fitted_again.scorer(), split.valid, ["ndcg@10"]).value("ndcg@10")
    assert found.best.value == pytest.approx(value)
    message = r"fixed = 'retriever\.ease\.l3' is unknown; did you mean 'retriever\.ease\.l2'"
    with pytest.raises(UnknownName, match=message):
        tune(rec, split.train, split.valid, TuneSettings(trials=1, fixed=("retriever.ease.l3",)))
    with pytest.raises(InputError, match="needs the whole ranking, and several sources give lists; write mrr@10"):
        tune(rec, split.train, split.valid, TuneSettings(trials=1, metric="mrr"))


def test_a_ranker_is_tuned_behind_several_sources(monkeypatch):
    pytest.importorskip("optuna")
    calls, split = spied(monkeypatch), small_split()
    rec = Recommender([EASE(l2=20.0), Popularity()], FM(dim=2, epochs=1), candidates=30)
    found = tune(rec, split.train, split.valid, TuneSettings(trials=2, startup=2, metric="recall@20"))
    assert sum(call[3].startswith("retriever") for call in calls) == 2
    assert {name.partition(".")[0] for name in found.best.settings} == {"ranker"}


# -- mistakes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {}, r"retriever = \[\] names no source; give models"),
        ([EASE(), None], {}, "retriever: source 2 is None; give a model"),
        ([EASE(), MF(), EASE()], {}, r"sources 1 and 3 are both EASE\(.*\), which would find everything twice"),
        ([EASE(), FM()], {}, r"retriever = FM\(\) is a ranker"),
        ([EASE, MF()], {}, r"retriever = .* itself; make a model of it: Recommender\(EASE\(\)\)"),
        ([EASE(), "mf"], {}, r"retriever = 'mf' is a name; give the model"),
        ([EASE(), MF()], {"quotas": {"ials": 3}}, "quotas: source = 'ials' is unknown; known: ease, mf"),
        ([EASE(), MF()], {"quotas": {"mf": 501}}, "quotas: 501 in all are above candidates = 500"),
        ([EASE(), MF()], {"quotas": {"mf": -1}}, "quotas: mf = -1 must be at least 0"),
        ([EASE(), MF()], {"quotas": {"mf": "many"}}, "quotas: mf = 'many' must be a whole number"),
        ([EASE(), MF()], {"quotas": [3]}, r"quotas = \[3\] must be source → candidates"),
        (EASE(), {"quotas": {"ease": 3}}, "share out the candidates of several sources; give two or more"),
    ],
)
def test_mistakes_are_named(sources, options, message):
    with pytest.raises(InputError, match=message):
        Recommender(sources, **options)


def test_a_quota_above_the_catalogue_is_refused_before_training(monkeypatch):
    calls = spied(monkeypatch)
    rec = Recommender([EASE(), Popularity()], quotas={"ease": 100})
    with pytest.raises(InputError, match="quotas: ease = 100 is above the catalogue's 81 items; lower it"):
        rec.fit(small_split().train)
    assert not calls


def test_a_source_that_finds_nothing_is_told(monkeypatch):
    rec = Recommender([EASE(l2=20.0), Popularity()], FM(dim=2, epochs=1), candidates=30)
    real = two_stage.Engine.of
    monkeypatch.setattr(two_stage.Engine, "of", lambda *a: without_the_second(real(*a)))
    rec.fit(small_split().train)
    assert any(note == "popularity found none of the items: leave it out" for note in rec.system.notes)


def without_the_second(engine):
    """The engine whose second source may recommend nothing."""
    source = engine.sources[1]
    source.allowed = source.scorer.allowed = torch.zeros_like(source.allowed)
    source.n_allowed = 0
    return engine


def test_what_it_says_of_itself():
    rec = Recommender([EASE(l2=3.0), SASRec()], FM(), candidates=20)
    assert repr(rec).startswith("Recommender([EASE(")
    assert rec.name == "ease, sasrec + fm"
    assert "retriever-sasrec" in str(rec)
    assert "EASE(l2=3.0)" in str(rec)
