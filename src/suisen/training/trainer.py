"""The trainer: ``fit`` trains a model, ``run`` one phase of it, with early stopping, checkpoints and exact resume.

The trainer knows no model.  A phase has a module whose ``forward(batch)`` is the loss, and optimisers; a phase without
optimisers updates itself in ``forward`` (alternating least squares).
"""

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from suisen.data.batch import Batch, Schema
from suisen.data.dataset import Dataset
from suisen.data.views import View
from suisen.errors import InputError, TrainingError
from suisen.models.contract import ItemTable, Model, Net, Phase
from suisen.training.averaging import Average
from suisen.training.checkpoint import copy_weights, load_tree, save_tree, weights_of
from suisen.training.options import TIME_UP, Curve, EpochRow, RunOptions, pick_device, pick_precision

Validate = Callable[[Net], float]
"""Computes the validation metric of a network, the higher the better; called after each epoch, in eval mode and without
gradients."""


def run(
    phase: Phase, view: View, train: Dataset, validate: Validate | None = None, options: RunOptions | None = None
) -> Curve:
    """Trains ``phase.module`` in place on batches of ``view`` and returns the learning curve.

    The module is left in eval mode with the weights of its best epoch (of the last one where nothing validates), on the
    device of the options.  The same seed gives the same weights, and a run that was killed and resumed gives those of
    an uninterrupted one.  The caller's random numbers are not touched.

    Raises TrainingError where the loss is not finite or the metric not a number, InputError where the device is absent
    or the checkpoint is that of another run.
    """
    options = options or RunOptions()
    with torch.random.fork_rng():
        torch.manual_seed(options.stage_seed)
        if phase.before is not None:
            phase.before()
        return _Run(phase, phase.view or view, train, validate, options).go()


@dataclass
class _Tally:
    """What the epoch in progress has come to so far."""

    batches: int = 0
    examples: int = 0
    loss: float = 0.0
    """Sum over the batches."""
    seconds: float = 0.0
    """Time spent on batches, drawing them included."""


class _Run:
    """One phase in progress: all that a checkpoint holds, and the loop."""

    def __init__(
        self, phase: Phase, view: View, train: Dataset, validate: Validate | None, options: RunOptions
    ) -> None:
        self.phase = phase
        self.options = options
        self.validate = validate
        self.device = pick_device(options.device)
        self.half = pick_precision(options.precision, self.device) == "bf16"
        self.module = phase.module.to(self.device)
        self.optimisers: Sequence[Optimizer] = phase.optimisers(self.module)
        averaged = options.average > 0 and bool(self.optimisers)  # a closed form has nothing to average
        self.average = Average(self.module, options.average) if averaged else None
        self.epochs = view.open(train)
        self.rng = torch.Generator().manual_seed(options.stage_seed)
        self.epoch_rng = self.rng.get_state()  # when the epoch in progress began
        self.curve = Curve()
        self.best: dict[str, Tensor] = {}
        self.tally = _Tally()
        self.done = False
        self.after = self._others()
        self.started = time.monotonic()
        self.saved_at = self.started

    # -- the loop ---------------------------------------------------------------------------------------------------

    def go(self) -> Curve:
        self._resume()
        for watcher in self.options.callbacks:
            watcher.on_start(self.options.prefix + self.options.stage, self.phase.epochs, self.epochs.examples)
        while not self.done and len(self.curve.rows) < self.phase.epochs:
            self._epoch()
        self.done = True
        self._save(always=True)  # with the last weights: where time was up, training can go on from them
        if self.best:
            copy_weights(self.module, self.best)
        elif self.average is not None:
            copy_weights(self.module, self.average.weights)
        self.module.eval()
        for watcher in self.options.callbacks:
            watcher.on_end(self.curve)
        return self.curve

    def _epoch(self) -> None:
        skip = self.tally.batches  # above 0 where the run was resumed inside an epoch
        if not skip:
            self.epoch_rng = self.rng.get_state()
            self.module.eval()  # a view that asks the network for hard negatives gets its scores without dropout
            with torch.no_grad():
                self.epochs.refresh(self.module)
        self.module.train()
        clock = time.monotonic()
        for number, batch in enumerate(self.epochs.batches(self.rng)):
            if number < skip:  # drawn again by the same generator, so that what follows is the same; not learnt again
                continue
            loss = self._step(batch.to(self.device), number)
            now = time.monotonic()
            self.tally.batches = number + 1
            examples = len(batch) or self.epochs.examples  # an empty batch stands for all of train (iALS)
            self.tally.examples += examples
            self.tally.loss += loss
            self.tally.seconds += now - clock
            clock = now
            for watcher in self.options.callbacks:
                watcher.on_batch(examples, loss)
            self._save()
        self._end_epoch()

    def _step(self, batch: Batch, number: int) -> float:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            loss = self.module(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self._not_finite(value, number)
        if self.optimisers:
            for optimiser in self.optimisers:
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if self.options.clip is not None:
                torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.options.clip)
            for optimiser in self.optimisers:
                optimiser.step()
            if self.average is not None:
                self.average.update()
        return value

    def _end_epoch(self) -> None:
        tally, self.tally = self.tally, _Tally()
        loss = tally.loss / max(tally.batches, 1)
        rate = tally.examples / max(tally.seconds, 1e-9)
        clock = time.monotonic()
        metric = self._metric()
        validation = 0.0 if metric is None else time.monotonic() - clock
        row = EpochRow(len(self.curve.rows) + 1, loss, metric, tally.seconds, rate, validation)
        self.curve.rows.append(row)
        self._keep_best(row)
        self._maybe_stop(row.epoch)
        for watcher in self.options.callbacks:
            watcher.on_epoch(row)
        self._save()

    def _metric(self) -> float | None:
        """The validation metric, of the averaged weights where there are any."""
        if self.validate is None:
            return None
        weights = nullcontext() if self.average is None else self.average.in_place()
        with weights, torch.no_grad():
            self.module.eval()  # once the weights are in place: LightGCN computes from them here what it serves
            metric = float(self.validate(self.module))
        if math.isnan(metric):
            raise TrainingError(f"the validation metric of {self.options.stage} is not a number; check valid")
        return metric

    def _keep_best(self, row: EpochRow) -> None:
        best = self.curve.best_metric
        if row.metric is None:
            self.curve.best_epoch = row.epoch
        elif best is None or row.metric > best:
            self.curve.best_epoch, self.curve.best_metric = row.epoch, row.metric
            weights = weights_of(self.module) if self.average is None else self.average.weights
            self.best = {name: value.cpu().clone() for name, value in weights.items()}

    def _maybe_stop(self, epoch: int) -> None:
        limit = self.options.max_seconds
        if epoch >= self.phase.epochs:
            self.curve.stopped = f"all {epoch} epochs done"
        elif epoch - self.curve.best_epoch >= self.options.patience:
            self.curve.stopped = f"no better validation metric in {self.options.patience} epochs"
        elif limit is not None and time.monotonic() - self.started > limit:
            self.curve.stopped = f"{TIME_UP} = {limit:g} reached"
        self.done = bool(self.curve.stopped)

    def _not_finite(self, value: float, number: int) -> TrainingError:
        rates = ", ".join(f"{group['lr']:g}" for opt in self.optimisers for group in opt.param_groups)
        place = f"{self.options.stage}, epoch {len(self.curve.rows) + 1}, batch {number + 1}"
        mend = "lower learning_rate (try a tenth), or lower clip"
        return TrainingError(f"the loss became {value} in {place}, at learning rate {rates or 'none'}; {mend}")

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _save(self, always: bool = False) -> None:
        path = self.options.checkpoint_file
        now = time.monotonic()
        if path is None or not (always or now - self.saved_at >= self.options.checkpoint_seconds):
            return
        self.saved_at = now
        curve = self.curve
        save_tree(path, {
            "weights": weights_of(self.module), "best": self.best,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "average": None if self.average is None else [self.average.steps, self.average.weights],
            "epochs": self.epochs.state_dict(),
            "rng": self.epoch_rng if self.tally.batches else self.rng.get_state(), "torch_rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None,
            "rows": [list(row) for row in curve.rows], "best_epoch": curve.best_epoch,
            "best_metric": curve.best_metric, "stopped": curve.stopped, "done": self.done,
            "progress": astuple(self.tally), "seconds": now - self.started, "after": sorted(self.after),
        })  # fmt: skip

    def _resume(self) -> None:
        path = self.options.checkpoint_file
        if not self.options.resume or path is None or not path.exists():
            return
        tree = load_tree(path)
        try:
            copy_weights(self.module, tree["weights"])
        except InputError as error:
            raise InputError(f"checkpoint {path}: {error}; resume with the run's own settings") from None
        for optimiser, state in zip(self.optimisers, tree["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        if self.average is not None:
            if tree.get("average") is None:
                raise InputError(f"checkpoint {path} holds no averaged weights; resume with average = 0")
            self.average.steps, weights = tree["average"]
            self.average.weights = {name: value.to(self.device) for name, value in weights.items()}
        self.epochs.load_state_dict(tree["epochs"])
        self.best, self.done = tree["best"], tree["done"]
        self.rng.set_state(tree["rng"])
        self.epoch_rng = tree["rng"]
        torch.set_rng_state(tree["torch_rng"])
        if tree["cuda_rng"] is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(tree["cuda_rng"], self.device)
        rows = [EpochRow(*row) for row in tree["rows"]]
        self.curve = Curve(rows, tree["best_epoch"], tree["best_metric"], tree["stopped"])
        self.tally = _Tally(*tree["progress"])
        self.started -= tree.get("seconds", sum(row.seconds for row in rows))
        self.after = set(tree.get("after", self.after))
        if self.done:
            self._go_on()

    def _go_on(self) -> None:
        """Opens a finished phase again that only its time limit stopped, where there is time left now.

        The stages that came later learnt from what this one was: their checkpoints go.
        """
        limit, spent = self.options.max_seconds, time.monotonic() - self.started
        if not self.curve.stopped.startswith(TIME_UP) or (limit is not None and spent > limit):
            return
        self.done, self.curve.stopped = False, ""
        for path in self._others() - self.after:
            Path(self.options.checkpoint or "", path).unlink()

    def _others(self) -> set[str]:
        """Checkpoints of other stages that the folder holds."""
        folder, own = self.options.checkpoint, self.options.checkpoint_file
        found = [] if folder is None else folder.rglob("*.safetensors")
        return {str(path.relative_to(folder)) for path in found if folder is not None and path != own}


def fit(
    model: Model,
    train: Dataset,
    validate: Validate | None = None,
    options: RunOptions | None = None,
    schema: Schema | None = None,
    epochs_per_phase: Sequence[int] | None = None,
) -> tuple[Net, list[Curve]]:
    """Builds the model's network, prepares it on ``train`` and runs its phases: (the network in eval mode, one learning
    curve per phase).  A model that ``prepare`` learns whole has no phase and no curve.

    ``validate`` stops each phase early; None: all epochs are run.  ``schema`` replaces that of ``train`` where the
    pipeline adds pair features.  ``epochs_per_phase``, where given, replaces the epochs of each of the model's phases:
    a model is trained again on more data for as long as was found best before.  At least one epoch is run: a phase that
    never ran would leave random weights.

    Raises what ``run`` raises, and InputError where the model cannot learn from ``train``.

    >>> from suisen.data.synthetic import World
    >>> from suisen.models import MF
    >>> train = Dataset.of(World(users=30, items=20, seed=0).generate().log)
    >>> net, curves = fit(MF(dim=4, epochs=2), train)
    >>> [row.epoch for row in curves[0].rows], curves[0].stopped
    ([1, 2], 'all 2 epochs done')
    """
    options = options or RunOptions()
    with torch.random.fork_rng():
        torch.manual_seed(options.stage_seed)
        net = model.build(schema or train.schema)
    net.bind(ItemTable(train.item_features, train.trained_items))
    net.prepare(train)
    net.to(pick_device(options.device))
    phases = model.phases(net)
    if epochs_per_phase is not None:
        counts = zip(phases, epochs_per_phase, strict=True)
        phases = [replace(phase, epochs=max(1, epochs)) for phase, epochs in counts]
    curves = []
    for number, phase in enumerate(phases, start=1):
        stage = options.stage if len(phases) == 1 else f"{options.stage}-phase{number}"
        curves.append(run(phase, model.view, train, validate, options.for_stage(stage)))
    return net.eval(), curves
