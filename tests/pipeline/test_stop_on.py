"""The metric that stops a stage early is a setting; tuning stops on what it tunes for."""

import pytest

from suisen.data.splits import ClickRatio
from suisen.errors import InputError
from suisen.models import EASE, FM, MF, DeepFM
from suisen.pipeline import evaluate, tuning, two_stage
from suisen.pipeline.recommender import Recommender
from suisen.training.options import RunOptions
from tests.fitted import small_split
from tests.helpers import make_data

RANKING = ["hr@3", "recall@20", "precision@5", "map@10", "mrr", "mrr@10", "NDCG@5", "auc"]
MODELS = {
    "retriever": (MF(dim=4, epochs=4, batch_size=256), None),
    "ranker": (None, FM(dim=4, epochs=3, batch_size=256)),
}


@pytest.mark.parametrize("stage", MODELS)
@pytest.mark.parametrize("metric", RANKING)
def test_each_epoch_is_judged_by_it_and_the_best_is_kept(stage, metric):
    split = small_split()
    rec = Recommender(*MODELS[stage], seed=1).fit(split.train, split.valid, RunOptions(seed=1, stop_on=metric))
    (curve,) = rec.curves[stage]
    assert curve.best_metric == max(row.metric for row in curve.rows)
    assert curve.best_metric == pytest.approx(evaluate(rec, split.valid, [metric]).value(metric.lower()), abs=1e-6)


@pytest.mark.parametrize("metric", ["recall@20", "hr@3", "mrr@10", "map@10"])
def test_a_ranker_on_lists_is_judged_as_both_stages_are_measured(metric):
    """Behind a closed form the retriever that made the lists is not the last one: its own engine is measured."""
    split = small_split()
    rec = Recommender(EASE(l2=20.0), DeepFM(dim=4, hidden=(4,), epochs=3, batch_size=64), candidates=20, seed=1)
    recipe = rec.recipe(RunOptions(seed=1, stop_on=metric))
    first = two_stage.first_stage(recipe, split.train, split.valid)
    ranker, curves, _ = two_stage.second_stage(recipe, first, split.train, split.valid)
    engine = type(first.engine)(first.engine.retriever, ranker, first.engine.allowed, 20, first.engine.index)
    assert curves[0].best_metric == pytest.approx(evaluate(engine, split.valid, [metric]).value(metric), abs=1e-6)


def test_by_default_it_is_what_it_was():
    split, rec = small_split(), Recommender(*MODELS["retriever"], seed=1)
    one = rec.fit(split.train, split.valid).curves
    assert (
        one["retriever"][0].best_metric
        == rec.fit(split.train, split.valid, RunOptions(seed=1, stop_on="ndcg@10")).curves["retriever"][0].best_metric
    )


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("ncdg@10", "did you mean 'ndcg@10'"),
        ("coverage@10", r"stop_on = 'coverage@10' cannot stop training; use one of .*ndcg@10"),
        ("logloss", r"stop_on = 'logloss' cannot stop training"),
        ("ndcg", "needs a cut-off"),
    ],
)
def test_mistakes_are_named_before_anything_is_trained(metric, message):
    split = small_split()
    with pytest.raises(InputError, match=message):
        Recommender(*MODELS["retriever"]).fit(split.train, split.valid, RunOptions(stop_on=metric))


def test_clicks_stop_on_auc_and_on_nothing_that_ranks():
    columns = {"user": [n % 20 for n in range(300)], "item": [n % 13 for n in range(300)]}
    split = make_data(**columns, label=[n * 7 % 3 % 2 for n in range(300)]).split(ClickRatio(test=0.2, valid=0.2))
    rec = Recommender(*MODELS["ranker"], seed=1).fit(split.train, split.valid)
    best = rec.curves["ranker"][0].best_metric
    assert best == pytest.approx(evaluate(rec, split.valid, ["auc"]).value("auc"), abs=1e-6)
    with pytest.raises(InputError, match="stop_on = 'hr@5' ranks, and valid holds labelled clicks; use auc"):
        Recommender(*MODELS["ranker"]).fit(split.train, split.valid, RunOptions(stop_on="hr@5"))


def test_what_is_tuned_for_stops_the_trials(monkeypatch):
    asked = []
    validator = two_stage.retriever_validator
    monkeypatch.setattr(two_stage, "retriever_validator", lambda *a: asked.append(a[-1]) or validator(*a))
    split, rec = small_split(), Recommender(*MODELS["retriever"], seed=1)
    for stop_on, wanted in (None, "recall@20"), ("hr@5", "hr@5"):
        settings = tuning.TuneSettings(trials=1, metric="recall@20")
        tuning.tune(rec, split.train, split.valid, settings, options=RunOptions(stop_on=stop_on))
        assert asked.pop() == wanted
