"""Once measured, the same models are learnt anew on everything: with the epochs found, and nothing else new."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from suisen.data.dataset import Dataset
from suisen.data.splits import LeaveLast
from suisen.errors import InputError
from suisen.models import EASE, FM, IALS, MF, DeepFM, NeuMF, Popularity, SASRec, TwoTower
from suisen.pipeline import evaluate, load
from suisen.pipeline.recommender import Recommender
from suisen.training.options import RunOptions
from tests.fitted import small_log, small_split

WAYS = {
    "closed form": (EASE(l2=20.0), None),
    "counts": (Popularity(), None),
    "alternating": (IALS(dim=4, epochs=3), None),
    "pairs": (MF(dim=4, epochs=6, batch_size=256), None),
    "phases": (None, NeuMF(gmf_dim=4, mlp_dim=4, hidden=(4,), epochs=2)),
    "sequences": (SASRec(dim=8, epochs=3, blocks=1, heads=1, length=10), None),
    "ranker alone": (None, FM(dim=4, epochs=3, batch_size=256)),
    "two stages": (MF(dim=4, epochs=4, batch_size=256), DeepFM(dim=4, hidden=(4,), epochs=4, batch_size=64)),
    "stand-in": (EASE(l2=20.0), TwoTower(dim=4, hidden=(4,), epochs=3, batch_size=128)),
}
OPTIONS = RunOptions(seed=1, patience=1)


@cache
def found(way: str) -> Recommender:
    """Fitted with early stopping; shared, not to be changed."""
    split = small_split()
    return Recommender(*WAYS[way], candidates=30, seed=1).fit(split.train, split.valid, OPTIONS)


def weights(rec: Recommender):
    nets = [net for net in (rec.engine.retriever, rec.engine.ranker) if net is not None]
    return [value for net in nets for value in net.state_dict().values()]


@pytest.mark.parametrize("way", WAYS)
def test_on_the_same_events_it_comes_out_the_same(way):
    """Early stopping kept the weights of an epoch: a run of just so many epochs has the same ones, bit for bit."""
    rec = found(way)
    again = rec.refit(small_split().train, OPTIONS)
    assert again is not rec
    assert all(map(torch.equal, weights(rec), weights(again)))
    kept = rec.curves["retriever" if WAYS[way][0] else "ranker"]
    assert [len(curve.rows) for curve in again.curves.get("retriever", again.curves.get("ranker"))] == [
        curve.best_epoch for curve in kept
    ]


@pytest.mark.parametrize("way", ["closed form", "two stages"])
def test_on_all_events_nothing_that_the_log_holds_is_offered(way):
    log = Dataset.of(small_log())
    rec = found(way)
    whole = rec.refit(log, OPTIONS)
    taken = {(user, item) for user, item in log.log.events.select("user", "item").iter_rows()}
    lists = next(iter(whole.recommend_all(k=5))).select("user_id", "item_id")
    assert not taken & set(lists.iter_rows())
    assert taken & set(next(iter(rec.recommend_all(k=5))).select("user_id", "item_id").iter_rows())
    assert int(whole.store.item_counts.sum()) == len(log.events) > len(small_split().train.events)


def test_it_says_on_what_and_for_how_long():
    rec = found("two stages")
    log = Dataset.of(small_log())
    whole = rec.refit(log)
    epochs = [rec.curves[stage][0].best_epoch for stage in ("retriever-inner1", "ranker")]
    note = (
        f"refitted on all {len(log.events):,} events with the epochs found (retriever {epochs[0]}, ranker {epochs[1]})"
    )
    assert whole.system.notes[-1] == whole.system.refitted == note
    again = rec.refit(small_split().train)
    said = f"the model was {again.system.refitted}: it may have seen what is asked for"
    assert evaluate(again, small_split().test).notes[0] == said
    assert found("closed form").refit(log).system.refitted == f"refitted on all {len(log.events):,} events"
    assert rec.system.refitted == ""


def test_a_bundle_can_be_refitted(tmp_path):
    """What a nightly job does: load what serves, learn it anew on the events of today."""
    rec = found("stand-in")
    loaded = load(rec.save(tmp_path / "a"))
    log = Dataset.of(small_log())
    one, two = rec.refit(log), loaded.refit(log)
    assert all(map(torch.equal, weights(one), weights(two)))
    assert float(two.engine.ranker.blend) == float(rec.engine.ranker.blend) > 0
    assert load(two.save(tmp_path / "b")).system.refitted == two.system.refitted


def test_an_older_bundle_does_not_know_its_epochs():
    rec = found("closed form")
    old = Recommender.of(replace(rec.system, epochs={}))
    with pytest.raises(InputError, match=r"nothing says for how many epochs .*; call fit"):
        old.refit(small_split().train)


def test_a_time_limit_does_not_cut_it_short():
    """The epochs that were found within the limit take longer on more events."""
    rec = Recommender(MF(dim=4, epochs=3, batch_size=64), seed=1)
    rec.fit(small_split().train, options=RunOptions(max_seconds=1e9))
    again = rec.refit(small_split().train, RunOptions(max_seconds=0.0))
    assert len(again.curves["retriever"][0].rows) == 3


@pytest.mark.parametrize("at", [0, 3, 9, 20])
def test_killed_and_resumed_it_ends_with_the_same_weights(at, tmp_path):
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

    rec = found("two stages")
    split, options = small_split(), replace(OPTIONS, checkpoint=tmp_path, checkpoint_seconds=0.0)
    whole = rec.refit(split.train, OPTIONS)
    with pytest.raises(Killed):
        rec.refit(split.train, replace(options, callbacks=(Killer(),)))
    again = rec.refit(split.train, replace(options, resume=True))
    assert all(map(torch.equal, weights(whole), weights(again)))


def test_without_an_order_every_fold_is_trained_for_as_long():
    log = replace(small_log(), events=small_log().events.drop("time"))
    split = Dataset.of(log).split(LeaveLast(test=1, valid=1))
    rec = Recommender(MF(dim=4, epochs=5, batch_size=256), FM(dim=2, epochs=2), candidates=30, seed=1)
    again = rec.fit(split.train, split.valid, OPTIONS).refit(split.train, OPTIONS)
    for stage, phases in rec.curves.items():
        assert [curve.best_epoch for curve in phases] == [len(curve.rows) for curve in again.curves[stage]]
    assert all(map(torch.equal, weights(rec), weights(again)))


def test_queries_in_the_ids_of_the_split_are_refused_where_they_mean_other_items():
    rec, split = found("closed form"), small_split()
    events = small_log().events
    turned = replace(small_log(), items=None, events=events.with_columns(row=events["row"].reverse()))
    whole = rec.refit(Dataset.of(turned))
    with pytest.raises(InputError, match=r"ids of another train part .* refitted on all .* in RUN/measured"):
        evaluate(whole, split.test)
    with pytest.raises(InputError, match="ids of another train part"):
        evaluate(Recommender(EASE(l2=20.0)).fit(Dataset.of(turned)), split.test)
