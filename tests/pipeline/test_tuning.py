"""Tuning: what a trial is, what is pruned, kept, given up and refused."""

import math
import sys
from dataclasses import replace

import pytest
import torch

from suisen.data.splits import ClickRatio
from suisen.errors import InputError, MissingExtra, TrainingError
from suisen.models import EASE, FM, MF, Popularity
from suisen.pipeline import evaluate, two_stage
from suisen.pipeline import tuning as room
from suisen.pipeline.recommender import Recommender
from suisen.pipeline.tuning import TuneSettings, metric_for, need_optuna, searched, tune
from suisen.training.options import EpochRow, RunOptions
from tests.fitted import small_split
from tests.helpers import make_data

FAST = MF(dim=32, epochs=3, batch_size=512)
SPLIT = small_split()
"""Only its train and valid are handed in, as there is no argument for more."""


def tuned(recommender=None, settings=None, **more):
    settings = settings or TuneSettings(trials=5, startup=2, prune_after=0)
    return tune(recommender or Recommender(FAST), SPLIT.train, SPLIT.valid, settings, **more)


def drawn(found):
    """What counts of the trials, without times."""
    return [(t.state, t.value, t.settings, t.epochs) for t in found.trials if t.state != "given up"]


@pytest.fixture
def measured_by(monkeypatch):
    """Puts a function of (values, callbacks) in the place of training."""

    def put(function):
        monkeypatch.setattr(room._Task, "measure", lambda self, values, callbacks: function(values, callbacks))

    return put


def hill(values, callbacks):
    """Best at l2 = 100, in one parameter."""
    return 1 / (1 + math.log(values["retriever.l2"] / 100) ** 2)


def epochs_of(stage, callbacks, *metrics):
    """A phase with these validation metrics."""
    for callback in callbacks:
        callback.on_start(stage, len(metrics), 1)
        for epoch, metric in enumerate(metrics, start=1):
            callback.on_batch(1, 0.5)
            callback.on_epoch(EpochRow(epoch, 0.5, metric, 1.0, 1.0))


# -- real training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recommender", "stage"),
    [
        (Recommender(FAST), None),
        (Recommender(None, FM(dim=16, epochs=2, batch_size=256)), None),
        (Recommender(EASE(l2=20.0), FM(dim=16, epochs=2, batch_size=256), candidates=30), "both"),
    ],
    ids=["retriever", "ranker", "both"],
)
def test_a_trial_is_what_fit_and_evaluate_would_say(recommender, stage):
    found = tuned(recommender, TuneSettings(trials=3, startup=2, metric="hr@10", stage=stage))
    assert found.metric == "hr@10"
    assert len(found.trials) == found.finished == 3
    best = found.recommender.fit(SPLIT.train, SPLIT.valid)
    assert evaluate(best, SPLIT.valid, ["hr@10"]).value("hr@10") == pytest.approx(found.best.value)
    assert found.best.value == max(trial.value for trial in found.trials if trial.state == "done")
    with pytest.raises(InputError, match="not fitted"):
        _ = recommender.system


def test_the_first_trial_has_the_settings_given():
    found = tuned(settings=TuneSettings(trials=1))
    assert found.recommender.retriever == FAST
    fitted = Recommender(FAST).fit(SPLIT.train, SPLIT.valid)
    assert found.best.value == pytest.approx(evaluate(fitted, SPLIT.valid, ["ndcg@10"]).value("ndcg@10"))
    assert found.best.epochs == len(fitted.curves["retriever"][0].rows)


@pytest.mark.parametrize("ranker", [FM(dim=16, epochs=2, batch_size=256), FAST], ids=["ranker", "stand-in"])
def test_a_ranker_is_tuned_behind_one_retriever(monkeypatch, ranker):
    fitted = []
    fit = two_stage._fit_stage
    monkeypatch.setattr(
        two_stage, "_fit_stage", lambda recipe, stage, *a: fitted.append(stage) or fit(recipe, stage, *a)
    )
    recommender = Recommender(EASE(l2=20.0), ranker, candidates=30)
    found = tuned(recommender, TuneSettings(trials=3, startup=2, metric="recall@20"))
    assert sum(stage.startswith("retriever") for stage in fitted) == 1
    assert {name.partition(".")[0] for name in found.best.settings} == {"ranker"}
    assert found.recommender.retriever == EASE(l2=20.0)
    assert all(0 < trial.value <= 1 for trial in found.trials if trial.state == "done")


def test_a_retriever_in_front_of_a_ranker_is_tuned_alone():
    found = tuned(Recommender(EASE(l2=20.0), FM(epochs=1)), TuneSettings(trials=2, stage="retriever"))
    assert list(found.best.settings) == ["retriever.l2"]
    assert found.recommender.ranker == FM(epochs=1)
    alone = Recommender(found.recommender.retriever).fit(SPLIT.train)
    assert found.best.value == pytest.approx(evaluate(alone, SPLIT.valid, ["ndcg@10"]).value("ndcg@10"))


def test_clicks_are_tuned_on_auc():
    rng = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 8, (300, 2), generator=rng)
    columns = {
        "user": [f"u{u}" for u in rows[:, 0].tolist()],
        "item": [f"i{i}" for i in rows[:, 1].tolist()],
        "time": list(range(300)),
        "label": ((rows.sum(1) % 2) == 0).int().tolist(),
    }
    split = make_data(**columns).split(ClickRatio())
    recommender = Recommender(None, FM(dim=16, epochs=2, batch_size=64))
    found = tune(recommender, split.train, split.valid, TuneSettings(trials=2, startup=1))
    assert found.metric == "auc"
    assert 0 <= found.best.value <= 1
    with pytest.raises(InputError, match=r"'hr@10' ranks, and the queries are labelled clicks; use auc"):
        tune(recommender, split.train, split.valid, TuneSettings(metric="hr@10"))


# -- the search --------------------------------------------------------------------------------------------------------


def test_the_sampler_learns_where_the_hill_is(measured_by):
    measured_by(hill)
    found = tuned(Recommender(EASE(l2=5000.0)), TuneSettings(trials=30))
    assert found.best.value > 0.99
    late = [trial.value for trial in found.trials[15:]]
    early = [trial.value for trial in found.trials[:6]]
    assert sum(late) / len(late) > sum(early) / len(early)


def test_the_same_seed_draws_the_same(measured_by):
    measured_by(hill)
    runs = [tuned(Recommender(EASE(), seed=seed), TuneSettings(trials=8)) for seed in (0, 0, 1)]
    assert drawn(runs[0]) == drawn(runs[1])
    assert drawn(runs[0])[0] == drawn(runs[2])[0]
    assert drawn(runs[0])[1:] != drawn(runs[2])[1:]


def test_watch_sees_every_trial_when_it_ends(measured_by):
    measured_by(hill)
    seen = []
    found = tuned(Recommender(EASE()), TuneSettings(trials=4), watch=seen.append)
    assert [len(each.trials) for each in seen] == [1, 2, 3, 4]
    assert seen[-1].best == found.best
    assert found.best.value == max(trial.value for trial in found.trials)


# -- pruning -----------------------------------------------------------------------------------------------------------


def test_a_trial_behind_the_median_is_pruned(measured_by):
    calls = []

    def falling(values, callbacks):
        level = 1.0 - 0.1 * len(calls)
        calls.append(values)
        epochs_of("retriever", callbacks, level, level, level)
        return level

    measured_by(falling)
    found = tuned(settings=TuneSettings(trials=5, startup=2, prune_after=2))
    assert [trial.state for trial in found.trials] == ["done", "done", "pruned", "pruned", "pruned"]
    assert [trial.epochs for trial in found.trials] == [3, 3, 2, 2, 2]
    assert found.trials[3].value == pytest.approx(0.7)
    calls.clear()
    found = tuned(settings=TuneSettings(trials=5, startup=2, prune=False))
    assert {trial.state for trial in found.trials} == {"done"}


def test_only_epochs_of_the_stage_that_is_tuned_are_compared(measured_by):
    calls = []

    def other(values, callbacks):
        calls.append(values)
        for stage in ("retriever-inner1", "ranker-alike", "ranker"):
            epochs_of(stage, callbacks, 1.0 / len(calls) if stage != "ranker" else 1.0)
        epochs_of("ranker-phase2", callbacks, None)
        return 0.5

    measured_by(other)
    recommender = Recommender(EASE(), FM(), candidates=30)
    found = tuned(recommender, TuneSettings(trials=4, startup=1, prune_after=0, stage="both"))
    assert {trial.state for trial in found.trials} == {"done"}
    assert {trial.epochs for trial in found.trials} == {1}


def test_the_epochs_of_each_phase_are_compared_among_themselves(measured_by):
    calls = []

    def phases(values, callbacks):
        calls.append(values)
        later = 0.9 if len(calls) < 3 else 0.5
        epochs_of("retriever-phase1", callbacks, 0.1)
        epochs_of("retriever-phase2", callbacks, later)
        return later

    measured_by(phases)
    found = tuned(settings=TuneSettings(trials=4, startup=2, prune_after=0))
    assert [trial.state for trial in found.trials] == ["done", "done", "pruned", "pruned"]
    assert [trial.epochs for trial in found.trials] == [2, 2, 2, 2]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_trial_that_fails_is_kept_and_the_next_one_drawn(measured_by):
    def sometimes(values, callbacks):
        if values["retriever.l2"] > 1000:
            raise TrainingError("the loss became nan")
        if values["retriever.l2"] < 100:
            raise MemoryError
        return hill(values, callbacks)

    measured_by(sometimes)
    found = tuned(Recommender(EASE()), TuneSettings(trials=12))
    failed = [trial for trial in found.trials if trial.state == "failed"]
    assert {trial.note for trial in failed} == {"the loss became nan", "MemoryError"}
    assert all(trial.value is None for trial in failed)
    assert 100 <= found.best.settings["retriever.l2"] <= 1000
    assert found.finished == 12


def test_settings_given_that_cannot_be_trained_are_refused(measured_by):
    def refused(values, callbacks):
        raise InputError("dim = 3 is odd")

    measured_by(refused)
    with pytest.raises(InputError, match="dim = 3 is odd"):
        tuned()


def test_time_is_up_in_the_middle_of_a_trial(measured_by):
    def endless(values, callbacks):
        while True:
            callbacks[-1].on_batch(1, 0.5)

    measured_by(endless)
    found = tuned(settings=TuneSettings(trials=5, time_limit="0.05s"))
    assert [trial.state for trial in found.trials] == ["given up"]
    assert (found.finished, found.best, found.recommender.retriever) == (0, None, FAST)


@pytest.mark.parametrize("broken_at", [1, 4])
def test_an_interrupted_tuning_goes_on_as_if_it_had_not_been(measured_by, tmp_path, broken_at):
    calls = []

    def interrupted(values, callbacks):
        calls.append(values)
        if len(calls) == broken_at:
            raise KeyboardInterrupt
        epochs_of("retriever", callbacks, 0.5 * hill(values, callbacks), hill(values, callbacks))
        return hill(values, callbacks)

    how = TuneSettings(trials=9, startup=3, prune_after=1)
    measured_by(interrupted)
    with pytest.raises(KeyboardInterrupt):
        tuned(Recommender(EASE()), how, store=tmp_path / "j")
    found = tuned(Recommender(EASE()), how, store=tmp_path / "j")
    calls[:] = [None] * 100
    whole = tuned(Recommender(EASE()), how)
    assert [trial.state for trial in found.trials].count("given up") == 1
    assert drawn(found) == drawn(whole)
    again = tuned(Recommender(EASE()), how, store=tmp_path / "j")
    assert again.trials == found.trials
    assert tuned(Recommender(EASE()), replace(how, trials=11), store=tmp_path / "j").finished == 11


def test_a_killed_process_leaves_a_trial_that_is_given_up(measured_by, tmp_path):
    measured_by(hill)
    how = TuneSettings(trials=3)
    tuned(Recommender(EASE()), replace(how, trials=1), store=tmp_path / "j")
    optuna = need_optuna()
    known = optuna.storages.journal
    storage = known.JournalStorage(known.JournalFileBackend(str(tmp_path / "j")))
    optuna.load_study(study_name=room.STUDY, storage=storage).ask()
    found = tuned(Recommender(EASE()), how, store=tmp_path / "j")
    assert [trial.state for trial in found.trials] == ["done", "given up", "done", "done"]
    assert drawn(found) == drawn(tuned(Recommender(EASE()), how))


@pytest.mark.parametrize(
    ("recommender", "settings", "options", "named"),
    [
        (Recommender(EASE(l2=7.0)), TuneSettings(), None, "settings"),
        (Recommender(EASE()), TuneSettings(metric="hr@10"), None, "metric"),
        (Recommender(EASE()), TuneSettings(), RunOptions(seed=3), "seed"),
        (Recommender(None, FM()), TuneSettings(), None, "stage"),
    ],
)
def test_a_store_of_another_tuning_is_refused(measured_by, tmp_path, recommender, settings, options, named):
    measured_by(hill)
    tuned(Recommender(EASE()), TuneSettings(trials=1), store=tmp_path / "j")
    with pytest.raises(InputError, match=f"j holds a tuning with another {named}; tune into another folder"):
        tuned(recommender, settings, options=options, store=tmp_path / "j")


def test_a_store_of_other_data_is_refused(measured_by, tmp_path):
    measured_by(hill)
    tuned(Recommender(EASE()), TuneSettings(trials=1), store=tmp_path / "j")
    fewer = SPLIT.valid.take(torch.arange(5))
    with pytest.raises(InputError, match="another data"):
        tune(Recommender(EASE()), SPLIT.train, fewer, TuneSettings(trials=1), store=tmp_path / "j")


def test_without_optuna_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtra, match=r"optuna is not installed; run: pip install 'suisen\[tune\]'"):
        tuned()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trials": 0}, "trials = 0 must be at least 1"),
        ({"startup": 0}, "startup = 0 must be at least 1"),
        ({"prune_after": -1}, "prune_after = -1 must be at least 0"),
        ({"stage": "rankr"}, "did you mean 'ranker'"),
        ({"metric": "ncdg@10"}, "did you mean 'ndcg@10'"),
        ({"metric": "ndcg"}, "needs a cut-off"),
        ({"metric": "novelty@10"}, "cannot be tuned on"),
        ({"metric": "logloss"}, "cannot be tuned on"),
        ({"time_limit": "soon"}, "time_limit = 'soon' is no duration"),
    ],
)
def test_settings_that_mean_nothing_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        TuneSettings(**values)


def test_what_does_not_fit_together_is_refused():
    with pytest.raises(InputError, match="valid = None, and settings are picked on it, never on test"):
        tune(Recommender(EASE()), SPLIT.train, None)
    with pytest.raises(InputError, match="two stages give lists; write mrr@10"):
        metric_for(Recommender(EASE(), FM()), TuneSettings(metric="mrr"), SPLIT.valid)
    assert metric_for(Recommender(EASE()), TuneSettings(metric="mrr"), SPLIT.valid) == "mrr"
    with pytest.raises(InputError, match="popularity has nothing to search"):
        searched(Recommender(Popularity()), TuneSettings())
    assert searched(Recommender(EASE(), FM()), TuneSettings())[0] == "ranker"
