"""``max_seconds``: a run that it stopped goes on when it is given more, as if it had been given so much at once."""

import pytest
import torch

from suisen.models import FM, MF, DeepFM
from suisen.pipeline.recommender import Recommender
from suisen.training import trainer
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.fitted import small_split
from tests.training.test_resume import MODELS, assert_same, judge, outcome
from tests.training.toys import little


class Clock:
    """Time that passes with the batches, one second each; as a callback it winds itself."""

    now = 0.0

    def monotonic(self):
        return Clock.now

    def on_batch(self, *_):
        Clock.now += 1.0

    def on_start(self, *_):
        pass

    on_epoch = on_end = on_start


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(trainer, "time", made)
    return made


def options(clock, folder, limit, **more):
    given = {"seed": 3, "patience": 9, "callbacks": (clock,), "checkpoint": folder, "max_seconds": limit}
    return RunOptions(**{**given, **more})


@pytest.mark.parametrize("average", [0.0, 0.9])
@pytest.mark.parametrize("name", list(MODELS))
def test_more_time_is_as_if_it_had_been_there_at_once(name, average, clock, tmp_path):
    model = MODELS[name]
    whole = outcome(model, options(clock, None, None, average=average))
    cut = outcome(model, options(clock, tmp_path, 0.5, average=average))
    assert cut[1][0][0][2] == "max_seconds = 0.5 reached"
    assert len(cut[1][0]) - 1 == 1
    for limit in (1.5, 7.5, 30.5):
        outcome(model, options(clock, tmp_path, limit, average=average, resume=True))
    assert_same(whole, outcome(model, options(clock, tmp_path, None, average=average, resume=True)))


def test_the_time_before_a_stop_counts(clock, tmp_path):
    """Six batches an epoch: 10 seconds are two epochs, 20 are four, whether they come in one piece or not."""
    model = MF(dim=4, batch_size=8, epochs=8)

    def epochs(limit, folder, resume):
        _, curves = fit(model, little(), judge, options(clock, folder, limit, resume=resume))
        return len(curves[0].rows)

    assert epochs(10, tmp_path, False) == 2
    assert epochs(20, tmp_path, True) == 4 == epochs(20, None, False)
    assert epochs(20, tmp_path, True) == 4
    assert epochs(5, tmp_path, True) == 4
    assert epochs(None, tmp_path, True) == 8
    assert epochs(None, tmp_path, True) == 8


def test_what_stopped_for_another_reason_stays_finished(clock, tmp_path):
    model = MF(dim=4, batch_size=8, epochs=3)
    before = fit(model, little(), lambda net: 0.0, options(clock, tmp_path, None, patience=1))[1]
    assert "no better validation metric" in before[0].stopped
    assert fit(model, little(), lambda net: 0.0, options(clock, tmp_path, None, patience=1, resume=True))[1] == before


@pytest.mark.parametrize("limits", [(0.5, None), (3.5, 9.5), (0.5, 2.5, 30.5)])
def test_later_stages_learn_anew_from_an_earlier_one_that_went_on(limits, clock, tmp_path):
    split, small = small_split(), {"dim": 4, "epochs": 3}
    made = Recommender(MF(**small, batch_size=128), DeepFM(**small, hidden=(4,), batch_size=64), candidates=30, seed=1)

    def weights(limit, folder, resume=False):
        given = options(clock, folder, limit, resume=resume)
        engine = made.with_models(made.retriever, made.ranker).fit(split.train, split.valid, given).engine
        return [value for net in (engine.retriever, engine.ranker) for value in net.state_dict().values()]

    whole = weights(limits[-1], None)
    for number, limit in enumerate(limits):
        last = weights(limit, tmp_path, resume=number > 0)
    assert all(map(torch.equal, whole, last))


def test_a_run_that_begins_anew_forgets_the_checkpoints_of_the_last_one(clock, tmp_path):
    """Another ranker than the last one's: its checkpoint would be taken up when this run is resumed."""
    split = small_split()
    first = Recommender(None, FM(dim=4, epochs=2, batch_size=256), seed=1)
    first.fit(split.train, split.valid, options(clock, tmp_path, None))
    assert (tmp_path / "ranker.safetensors").exists()
    Recommender(MF(dim=4, epochs=1), seed=1).fit(split.train, None, options(clock, tmp_path, None))
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == ["retriever.safetensors"]
