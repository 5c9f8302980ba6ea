"""Exact resume: a run that was cut off anywhere and taken up again ends with the weights of one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from suisen.data.views import Pairs
from suisen.errors import InputError
from suisen.models import IALS, MF, SASRec, TwoTower
from suisen.models.contract import Phase
from suisen.training.checkpoint import weights_of
from suisen.training.options import RunOptions
from suisen.training.trainer import fit
from tests.training.toys import Bomb, HardPairs, Interrupted, Notes, TwoPhases, little, watched


@dataclass(frozen=True)
class HardMF:
    """MF on negatives that the network itself is asked for."""

    mf: MF
    abilities: ClassVar[frozenset[str]] = frozenset()

    @property
    def view(self) -> HardPairs:
        return HardPairs(Pairs(batch_size=16, negatives=1))

    def build(self, schema):
        return self.mf.build(schema)

    def phases(self, net: Any) -> list[Phase]:
        return self.mf.phases(net)


MODELS = {
    "mf": MF(dim=4, batch_size=16, negatives=3, epochs=3),
    "sasrec": SASRec(dim=4, length=4, batch_size=5, dropout=0.3, epochs=3),
    "ials": IALS(dim=3, epochs=4),
    "two-phases": TwoPhases(),
    "two-tower": TwoTower(dim=4, hidden=(4,), hard=2, hard_pool=3, log_q="streaming", batch_size=16, epochs=2),
    "hard": HardMF(MF(dim=4, batch_size=16, epochs=3)),
}


def judge(net) -> float:
    """A metric that depends on the weights and rises and falls."""
    return float(sum(weight.abs().sum() for weight in net.parameters()).sin())


def outcome(model, options: RunOptions) -> tuple[dict[str, torch.Tensor], list[list[tuple]]]:
    net, curves = fit(model, little(), judge, options)
    facts = [[(row.epoch, row.loss, row.metric) for row in curve.rows] for curve in curves]
    return weights_of(net), [[(c.best_epoch, c.best_metric, c.stopped), *rows] for c, rows in zip(curves, facts)]


def assert_same(one, other) -> None:
    assert one[0].keys() == other[0].keys()
    for name, weight in one[0].items():
        assert torch.equal(weight, other[0][name]), name
    assert one[1] == other[1]


@pytest.mark.parametrize("name", list(MODELS))
def test_interrupted_anywhere(name, tmp_path):
    model = MODELS[name]
    notes = Notes()
    wanted = outcome(model, watched(RunOptions(seed=3), notes))
    batches = sum(fact[0] == "batch" for fact in notes.told)
    for number in range(1, batches + 1):
        options = RunOptions(seed=3, checkpoint=tmp_path / str(number), checkpoint_seconds=0.0)
        with pytest.raises(Interrupted):
            outcome(model, watched(options, Bomb(number)))
        torch.rand(number)  # whatever happened in between
        assert_same(outcome(model, replace(options, resume=True)), wanted)


@pytest.mark.parametrize("name", ["sasrec", "two-phases"])
def test_interrupted_with_averaged_weights(name, tmp_path):
    wanted = outcome(MODELS[name], RunOptions(seed=3, average=0.8))
    options = RunOptions(seed=3, average=0.8, checkpoint=tmp_path, checkpoint_seconds=0.0)
    with pytest.raises(Interrupted):
        outcome(MODELS[name], watched(options, Bomb(5)))
    assert_same(outcome(MODELS[name], replace(options, resume=True)), wanted)
    assert wanted[1] != outcome(MODELS[name], RunOptions(seed=3))[1]


def test_a_checkpoint_without_an_average_is_refused(tmp_path):
    options = RunOptions(checkpoint=tmp_path, checkpoint_seconds=0.0)
    outcome(MODELS["mf"], options)
    with pytest.raises(InputError, match="holds no averaged weights; resume with average = 0"):
        outcome(MODELS["mf"], replace(options, average=0.9, resume=True))


def test_interrupted_again_and_again(tmp_path):
    model = MODELS["two-phases"]
    wanted = outcome(model, RunOptions(seed=1))
    options = RunOptions(seed=1, checkpoint=tmp_path, checkpoint_seconds=0.0, resume=True)
    for _ in range(6):
        with pytest.raises(Interrupted):
            outcome(model, watched(options, Bomb(2)))
    assert_same(outcome(model, options), wanted)


def test_checkpoints_change_nothing(tmp_path):
    model = MODELS["sasrec"]
    options = RunOptions(checkpoint=tmp_path, checkpoint_seconds=0.0)
    assert_same(outcome(model, options), outcome(model, RunOptions()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_finished_run_is_not_run_again(tmp_path):
    options = RunOptions(checkpoint=tmp_path, checkpoint_seconds=1e9)
    first = outcome(MODELS["mf"], options)
    notes = Notes()
    assert_same(outcome(MODELS["mf"], watched(replace(options, resume=True), notes)), first)
    assert not any(fact[0] == "batch" for fact in notes.told)


def test_without_resume_a_checkpoint_is_not_read(tmp_path):
    options = RunOptions(checkpoint=tmp_path, checkpoint_seconds=0.0)
    (tmp_path / "model.safetensors").write_bytes(b"nonsense")
    assert_same(outcome(MODELS["mf"], options), outcome(MODELS["mf"], RunOptions()))


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from suisen.training.options import RunOptions
from tests.training.test_resume import MODELS, outcome
from tests.training.toys import Notes

class Killer(Notes):
    def on_batch(self, examples, loss):
        super().on_batch(examples, loss)
        if len([fact for fact in self.told if fact[0] == "batch"]) == 5:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(1)
folder = Path(sys.argv[1])
outcome(MODELS["mf"], RunOptions(seed=9, checkpoint=folder, checkpoint_seconds=0.0, callbacks=(Killer(),)))
"""


def test_kill_minus_nine(tmp_path):
    killed = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = outcome(MODELS["mf"], RunOptions(seed=9, checkpoint=tmp_path, resume=True))
    assert_same(resumed, outcome(MODELS["mf"], RunOptions(seed=9)))


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * 100])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    options = RunOptions(checkpoint=tmp_path, checkpoint_seconds=0.0)
    outcome(MODELS["mf"], options)
    path = tmp_path / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"checkpoint .*model\.safetensors is damaged \(.*delete it and start"):
        outcome(MODELS["mf"], replace(options, resume=True))


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    options = RunOptions(checkpoint=tmp_path, checkpoint_seconds=0.0)
    outcome(MODELS["mf"], options)
    with pytest.raises(InputError, match=r"model\.safetensors: weight '.*' has shape .*; resume with the run's own"):
        outcome(MF(dim=5, batch_size=16, epochs=1), replace(options, resume=True))
