"""The loop: early stopping, clipping, what it says when it fails, what callbacks and views are told."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, dataclass, replace

import pytest
import torch

from suisen.data.views import Pairs
from suisen.errors import InputError, TrainingError
from suisen.models import EASE, IALS, MF, DeepFM, Popularity, SASRec
from suisen.training import options as options_
from suisen.training import trainer
from suisen.training.options import RunOptions, pick_device, pick_precision
from suisen.training.trainer import fit, run
from tests.training.toys import LEARNING_RATE, HardPairs, LineNet, Notes, TwoPhases, line_phase, little, watched

VIEW = Pairs(batch_size=16, negatives=1)
BATCHES = 3
"""48 events in batches of 16."""


@dataclass
class Judge:
    """Gives the marks it was told to, and remembers the weights it gave them for."""

    marks: list[float]

    def __post_init__(self) -> None:
        self.weights: list[float] = []

    def __call__(self, net) -> float:
        assert not net.training
        assert not torch.is_grad_enabled()
        self.weights.append(float(net.w))
        return self.marks[len(self.weights) - 1]


def test_early_stopping_keeps_the_best_weights():
    judge = Judge([0.1, 0.5, 0.4, 0.5, 0.9])
    net = LineNet()
    curve = run(line_phase(net, 9), VIEW, little(), judge, RunOptions(patience=2))
    assert len(curve.rows) == 4  # an equal metric is no better one
    assert (curve.best_epoch, curve.best_metric) == (2, 0.5)
    assert float(net.w.detach()) == judge.weights[1] == -2 * BATCHES * LEARNING_RATE
    assert curve.stopped == "no better validation metric in 2 epochs"
    assert [row.metric for row in curve.rows] == [0.1, 0.5, 0.4, 0.5]


def test_without_validation_the_last_weights_stay():
    net = LineNet()
    curve = run(line_phase(net, 4), VIEW, little(), None, RunOptions(patience=1))
    assert float(net.w.detach()) == -4 * BATCHES * LEARNING_RATE
    assert (curve.best_epoch, curve.best_metric, curve.stopped) == (4, None, "all 4 epochs done")
    assert not net.training
    assert all(net.modes)  # every loss was computed in training mode


def test_averaged_weights_are_validated_and_kept():
    """Against the recurrence itself: w falls by 1/4 a step; the mean of all until 1/n < 1 - decay, then exponential."""
    own, held, expected = 0.0, 0.0, []
    for step in range(1, 3 * BATCHES + 1):
        own -= LEARNING_RATE
        share = max(1 / step, 1 - 0.75)
        held += share * (own - held)
        if step % BATCHES == 0:
            expected.append(held)
    judge = Judge([0.1, 0.5, 0.4])
    net = LineNet()
    run(line_phase(net, 3), VIEW, little(), judge, RunOptions(average=0.75))
    assert judge.weights == pytest.approx(expected)
    assert float(net.w.detach()) == pytest.approx(expected[1])
    bare = LineNet()
    run(line_phase(bare, 3), VIEW, little(), None, RunOptions(average=0.75))
    assert float(bare.w.detach()) == pytest.approx(expected[2])


def test_a_closed_form_is_not_averaged():
    plain, averaged = (fit(IALS(dim=3, epochs=2), little(), options=RunOptions(average=a))[0] for a in (0.0, 0.9))
    assert torch.equal(plain.item(torch.arange(9)), averaged.item(torch.arange(9)))


class Clock:
    """A clock that the network moves: each batch takes a second."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def tick(self, number: int) -> float:
        self.now += 1.0
        return 1.0


def test_seconds_and_examples_per_second_are_those_of_the_batches(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(trainer, "time", clock)

    def validate(net) -> float:
        clock.now += 100.0  # is not counted
        return 0.0

    curve = run(line_phase(LineNet(clock.tick), 2), VIEW, little(), validate)
    assert [(row.seconds, row.examples_per_second) for row in curve.rows] == [(3.0, 16.0), (3.0, 16.0)]


def test_checkpoints_are_written_so_many_seconds_apart(monkeypatch, tmp_path):
    clock, saved = Clock(), []
    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(trainer, "save_tree", lambda path, tree: saved.append(clock.now - 1000.0))
    options = RunOptions(checkpoint=tmp_path, checkpoint_seconds=2.0)
    run(line_phase(LineNet(clock.tick), 2), VIEW, little(), None, options)
    assert saved == [2.0, 4.0, 6.0, 6.0]  # the last one always, when the run has ended


def test_options_that_are_not_named():
    net = LineNet(lambda n: 1000.0)
    run(line_phase(net, 1), VIEW, little(users=4))
    assert float(net.w.detach()) == pytest.approx(-10 * LEARNING_RATE, rel=1e-5)  # the gradient is clipped at 10
    curve = run(line_phase(LineNet(), 20), VIEW, little(), Judge([0.5] * 20))
    assert len(curve.rows) == 6  # five epochs without a better metric


class Asked:
    """A model that notes with what its network is built, and whether the item table is there when it is prepared."""

    abilities = frozenset()
    view = VIEW

    def build(self, schema):
        self.schema = schema
        net = LineNet()
        net.prepare = lambda train: setattr(self, "items", len(net.items))
        return net

    def phases(self, net):
        return [line_phase(net, 1)]


def test_networks_are_built_by_the_schema_given_and_prepared_with_their_items():
    train, model = little(), Asked()
    fit(model, train)
    assert model.schema == train.schema
    assert model.items == train.schema.n_items
    wider = replace(train.schema, pair=("retrieval_score",))
    fit(model, train, schema=wider)
    assert model.schema is wider


def test_loss_of_an_epoch_is_the_mean_of_its_batches():
    net = LineNet()
    curve = run(line_phase(net, 2), VIEW, little())
    assert [row.loss for row in curve.rows] == [
        -LEARNING_RATE * 1,
        -LEARNING_RATE * 4,
    ]  # w after 0, 1, 2 | 3, 4, 5 steps
    assert [row.epoch for row in curve.rows] == [1, 2]
    assert all(row.examples_per_second > 0 for row in curve.rows)


@pytest.mark.parametrize(("clip", "step"), [(2.0, 2.0), (None, 1000.0), (5000.0, 1000.0)])
def test_gradients_are_clipped(clip, step):
    net = LineNet(lambda n: 1000.0)
    run(line_phase(net, 1), VIEW, little(users=4), None, RunOptions(clip=clip))
    assert float(net.w.detach()) == pytest.approx(-step * LEARNING_RATE, rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops(value):
    net = LineNet(lambda n: value if n == BATCHES + 2 else 1.0)
    wanted = (
        rf"loss became -?{value} in tower, epoch 2, batch 2, at learning rate 0.25; lower learning_rate.*or lower clip"
    )
    with pytest.raises(TrainingError, match=wanted):
        run(line_phase(net), VIEW, little(), None, RunOptions(stage="tower"))


def test_a_metric_that_is_no_number_stops():
    with pytest.raises(TrainingError, match="validation metric of model is not a number"):
        run(line_phase(LineNet()), VIEW, little(), lambda net: float("nan"))


def test_a_learning_rate_too_high_is_named():
    model = MF(dim=4, learning_rate=1.0, batch_size=16, init=1e30)
    with pytest.raises(
        TrainingError, match=r"loss became (inf|nan) in model, epoch \d+, batch \d+, at learning rate 1;"
    ):
        fit(model, little())


def test_max_seconds_ends_after_the_epoch():
    curve = run(line_phase(LineNet(), 50), VIEW, little(), None, RunOptions(max_seconds=0.0))
    assert len(curve.rows) == 1
    assert curve.stopped == "max_seconds = 0 reached"


def test_callbacks_hear_everything_in_order():
    notes = Notes()
    run(line_phase(LineNet(), 2), VIEW, little(), None, watched(RunOptions(stage="s"), notes))
    epoch = [("batch", 16)] * BATCHES
    assert notes.told == [("start", "s", 2, 48), *epoch, ("epoch", 1), *epoch, ("epoch", 2), ("end", 2)]


def test_phases_are_stages_of_their_own():
    notes = Notes()
    _, curves = fit(TwoPhases(first_epochs=1, epochs=2), little(), options=watched(RunOptions(stage="r"), notes))
    assert [fact[1] for fact in notes.told if fact[0] == "start"] == ["r-phase1", "r-phase2"]
    assert [len(curve.rows) for curve in curves] == [1, 2]


def test_epochs_found_before_replace_the_models():
    _, curves = fit(TwoPhases(), little(), epochs_per_phase=[3, 0])
    assert [len(curve.rows) for curve in curves] == [3, 1]  # at least one: a phase that never ran leaves random weights


def test_a_closed_form_has_no_curve():
    net, curves = fit(EASE(l2=1.0), little())
    assert curves == []
    assert not net.training


def test_views_are_refreshed_in_eval_mode_without_gradients():
    view = HardPairs(Pairs(batch_size=16, negatives=1))
    model = MF(dim=4, batch_size=16, epochs=3)
    net, _ = fit(model, little())
    run(replace(model.phases(net)[0], view=view), model.view, little())  # the phase's own view goes first
    assert view.seen == [(False, False)] * 3


# -- random numbers --------------------------------------------------------------------------------------------------


def test_stages_draw_independently():
    options = RunOptions(seed=5)
    seeds = {options.for_stage(stage).stage_seed for stage in ("a", "b", "c")}
    assert len(seeds | {RunOptions(seed=6).for_stage("a").stage_seed}) == 4

    def second_phase(first_epochs: int) -> float:
        _, curves = fit(TwoPhases(first_epochs=first_epochs), little(), options=options)
        return curves[1].rows[0].loss

    order = []

    class Order(Notes):
        def on_batch(self, examples: int, loss: float) -> None:
            order.append(round(float(torch.rand(())), 6))  # the phase's own global generator

    runs = []
    for first_epochs in (1, 3):
        order.clear()
        fit(TwoPhases(first_epochs=first_epochs), little(), options=watched(options, Order()))
        runs.append(order[-6:])  # two epochs of three batches
    assert runs[0] == runs[1]  # the second phase's draws do not depend on how long the first one took
    assert second_phase(1) != second_phase(3)


def test_the_callers_generator_is_left_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    fit(MF(dim=4, batch_size=16, epochs=1), little())
    assert torch.equal(torch.get_rng_state(), before)


# -- options ---------------------------------------------------------------------------------------------------------


def test_options_are_checked():
    with pytest.raises(InputError, match="patience = 0 must be at least 1"):
        RunOptions(patience=0)
    with pytest.raises(InputError, match=r"average = 1\.0 must be at least 0"):
        RunOptions(average=1.0)
    with pytest.raises(InputError, match=r"average = -0\.1 must be at least 0"):
        RunOptions(average=-0.1)
    with pytest.raises(InputError, match="clip = 0 must be above 0; None switches clipping off"):
        RunOptions(clip=0)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="device = 'quantum' is unknown; use auto, cpu or cuda"):
        pick_device("quantum")
    with pytest.raises(InputError, match="device = 'cuda:1' but this machine has no CUDA device; use cpu or auto"):
        pick_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"


def test_a_device_that_cannot_compute_is_refused():
    with pytest.raises(InputError, match=r"device = 'xla' does not work on this machine \(.*\); use cpu or auto"):
        pick_device("xla")


@pytest.mark.parametrize("has", ["AVX512", "SVE256", "DEFAULT"])
def test_precision(monkeypatch, has):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: has)
    cpu = torch.device("cpu")
    assert [pick_precision(name, cpu) for name in ("auto", "fp32", "bf16")] == ["fp32", "fp32", "bf16"]


def test_precision_that_the_processor_emulates_is_warned_of(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    with pytest.warns(UserWarning, match="precision = 'bf16' is emulated on this cpu device .* use fp32 or auto"):
        assert pick_precision("bf16", torch.device("cpu")) == "bf16"
    assert pick_precision("auto", torch.device("cpu")) == "fp32"


@pytest.mark.parametrize(("own", "picked"), [(True, "bf16"), (False, "fp32")])
def test_precision_of_a_gpu_is_what_it_has_itself(monkeypatch, own, picked):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: own or including_emulation)
    assert pick_precision("auto", torch.device("cuda")) == picked


class Product(LineNet):
    """Notes the type of a matrix product inside the loss."""

    def forward(self, batch):
        self.modes.append((torch.is_autocast_enabled("cpu"), (torch.ones(2, 2) @ torch.ones(2, 2)).dtype))
        return self.w * 1.0


@pytest.mark.filterwarnings("ignore:precision = 'bf16' is emulated")
@pytest.mark.parametrize(
    ("precision", "wanted"), [("auto", (False, torch.float32)), ("fp32", (False, torch.float32)),
                              ("bf16", (True, torch.bfloat16))]
)  # fmt: skip
def test_the_loss_is_computed_in_the_precision_asked_for(precision, wanted):
    net, validated = Product(), []

    def validate(net) -> float:
        validated.append(torch.is_autocast_enabled("cpu"))
        return 0.0

    run(line_phase(net, 2), VIEW, little(), validate, RunOptions(precision=precision))
    assert net.modes == [wanted] * (2 * BATCHES)
    assert validated == [False, False]  # the metric is that of float32


@pytest.mark.filterwarnings("ignore:precision = 'bf16' is emulated")
def test_half_precision_gives_another_loss():
    model = SASRec(dim=8, length=4, batch_size=4, dropout=0.0, epochs=1)
    losses = [fit(model, little(), options=RunOptions(precision=p))[1][0].rows[0].loss for p in ("fp32", "bf16")]
    assert losses[0] != losses[1]


@pytest.mark.filterwarnings("ignore:precision = 'bf16' is emulated")
@pytest.mark.parametrize(
    "model",
    [
        MF(dim=8, batch_size=16, epochs=3),
        SASRec(dim=8, length=4, batch_size=4, epochs=3),
        IALS(dim=4, epochs=3),
        DeepFM(dim=4, hidden=(8,), batch_size=16, epochs=3),
    ],
    ids=lambda model: type(model).__name__,
)
def test_half_precision_stays_close(model):
    _, full = fit(model, little(), options=RunOptions(precision="fp32"))
    net, half = fit(model, little(), options=RunOptions(precision="bf16"))
    for a, b in zip(full[0].rows, half[0].rows, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=0.03, abs=1e-4)
    assert all(weight.dtype == torch.float32 for weight in net.parameters())


def test_a_small_clip_and_the_right_number_of_epochs():
    assert RunOptions(clip=0.5).clip == 0.5
    with pytest.raises(ValueError, match="zip"):
        fit(Popularity(), little(users=4), epochs_per_phase=[1])


def test_the_loss_of_an_epoch_is_the_mean_of_its_batches():
    net = LineNet(float)  # the n-th batch: n · w, and w falls by n / 4
    losses, w = [], 0.0
    for batch in range(1, 4):
        losses.append(batch * w)
        w -= LEARNING_RATE * batch
    assert run(line_phase(net, 1), VIEW, little()).rows[0].loss == pytest.approx(sum(losses) / 3)
    lone = LineNet(lambda n: 1.0)
    lone.w.data.fill_(3.0)
    assert run(line_phase(lone, 1), VIEW, little(users=4)).rows[0].loss == 3.0  # an epoch of one batch


def test_options_are_named_and_not_assigned_to():
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        RunOptions("cpu")
    with pytest.raises(FrozenInstanceError):
        RunOptions().seed = 3


def test_a_warning_of_precision_points_at_the_caller(monkeypatch):
    monkeypatch.setattr(options_, "emulates_bf16", lambda device: True)
    with pytest.warns(UserWarning, match="is emulated") as said:
        options_.pick_precision("bf16", torch.device("cpu"))
    assert said[0].filename == __file__
