"""How a run of training goes, apart from what the model is: ``RunOptions``, and what a run reports: ``Curve``."""

import warnings
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch

from suisen.arguments import listed, real, shown, whole
from suisen.errors import InputError

Precision = Literal["fp32", "bf16"]
TIME_UP = "max_seconds"
"""How ``Curve.stopped`` begins where the time limit ended a phase."""


class EpochRow(NamedTuple):
    """One epoch of a phase: its number, loss, validation metric and speed."""

    epoch: int
    """Number of the epoch, from 1."""
    loss: float
    """Mean of the loss over the batches of the epoch."""
    metric: float | None
    """Validation metric after the epoch, the higher the better; None where nothing validates."""
    seconds: float
    """Time spent on batches, without validation."""
    examples_per_second: float
    """Examples of the epoch (what one is, the view says) per second of ``seconds``."""
    validation_seconds: float = 0.0
    """Time spent on validation behind the batches."""


@dataclass
class Curve:
    """The learning curve of a phase: its epochs, which of them was kept, and why training ended."""

    rows: list[EpochRow] = field(default_factory=list)
    """One row per epoch, in order."""
    best_epoch: int = 0
    """The epoch whose weights were kept: that of the best metric, the last one where nothing validates."""
    best_metric: float | None = None
    """The validation metric of ``best_epoch``; None where nothing validates."""
    stopped: str = ""
    """Why training ended, in words."""


class Callback(Protocol):
    """What the trainer tells a watcher of a run; no method may change the run."""

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """Called when a phase starts: at most ``epochs`` epochs of ``examples`` examples each."""

    def on_batch(self, examples: int, loss: float) -> None:
        """Called after each batch, with the number of its examples and its loss."""

    def on_epoch(self, row: EpochRow) -> None:
        """Called after each epoch, behind its validation."""

    def on_end(self, curve: Curve) -> None:
        """Called once a phase has ended and its best weights are in the network."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run goes: device, precision, seed, early stopping, averaging, checkpoints, callbacks.

    None of it is a hyper-parameter of a model; all of it stands in the bundle's manifest.  Raises InputError where a
    value is out of its bounds.
    """

    seed: int = 0
    """The same seed, data and machine give the same weights."""
    device: str = "auto"
    """auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:1, …"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast on a CUDA device that has it, else float32 (on CPUs it helps only wide layers)."""
    patience: int = 5
    """Epochs without a better validation metric before training stops."""
    stop_on: str | None = None
    """The validation metric that stops training, like recall@20; default: what is tuned for, else ndcg@10, for
    labelled clicks auc."""
    clip: float | None = 10.0
    """Largest norm of the gradient of all weights together; None: not clipped."""
    average: float = 0.0
    """Decay per step of a moving average of the weights, which is then validated and kept in their place; 0: none."""
    max_seconds: float | None = None
    """A phase starts no further epoch after this many seconds, those before a stop included; None: no limit.  A phase
    that it ended goes on where it is resumed with more."""
    checkpoint: Path | None = None
    """Folder of checkpoints, one file per stage; None: none are written."""
    checkpoint_seconds: float = 30.0
    """Fewest seconds between two checkpoints of a stage."""
    resume: bool = False
    """Go on from the checkpoints that the folder holds."""
    stage: str = "model"
    """Name of the stage in progress bars and of its checkpoint; its random numbers depend on it, too."""
    prefix: str = ""
    """In front of the stage's name in what callbacks are told; no random number depends on it."""
    callbacks: tuple[Callback, ...] = ()
    """Watchers of the run."""

    def __post_init__(self) -> None:
        self._settle()
        if self.clip is not None and self.clip <= 0:
            raise InputError(f"clip = {self.clip:g} must be above 0; None switches clipping off")
        if not 0.0 <= self.average < 1.0:
            raise InputError(f"average = {self.average} must be at least 0 and below 1; 0.99 averages over 100 steps")

    def _settle(self) -> None:
        """Numbers of any library, a path as text, one callback by itself: as they were meant."""
        if not isinstance(self.checkpoint, str | Path | None):
            raise InputError(f"checkpoint = {shown(self.checkpoint)} is no path; give the path of a folder")
        alone = hasattr(self.callbacks, "on_epoch") and not isinstance(self.callbacks, type)
        callbacks = [self.callbacks] if alone else listed("callbacks", self.callbacks) or ()
        for each in callbacks:
            if isinstance(each, type) or not hasattr(each, "on_epoch"):
                raise InputError(f"callbacks: {shown(each)} is no callback; give objects with on_epoch")
        settled: dict[str, Any] = {
            "seed": whole("seed", self.seed),
            "patience": whole("patience", self.patience, 1),
            "clip": None if self.clip is None else real("clip", self.clip, "a number above 0"),
            "average": real("average", self.average, "at least 0 and below 1"),
            "max_seconds": None if self.max_seconds is None else real("max_seconds", self.max_seconds, "a number"),
            "checkpoint": None if self.checkpoint is None else Path(self.checkpoint),
            "callbacks": tuple(callbacks),
        }
        for name, value in settled.items():
            object.__setattr__(self, name, value)

    def for_stage(self, stage: str) -> Self:
        """The same options for another stage, which has its own checkpoint file and its own random numbers."""
        return replace(self, stage=stage)

    @property
    def stage_seed(self) -> int:
        """Seed of this stage: a hash of seed and stage, so that no stage's draws depend on another's."""
        digest = blake2b(f"{self.seed}/{self.stage}".encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big")

    @property
    def checkpoint_file(self) -> Path | None:
        """Path of this stage's checkpoint; None where none are written."""
        return None if self.checkpoint is None else self.checkpoint / f"{self.stage}.safetensors"


def pick_device(name: str) -> torch.device:
    """The device that ``RunOptions.device`` names.  Raises InputError where it is unknown, absent or does not work."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device = {name!r} is unknown; use auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device = {name!r} but this machine has no CUDA device; use cpu or auto")
    try:
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise InputError(f"device = {name!r} does not work on this machine ({why}); use cpu or auto") from None
    return device


def emulates_bf16(device: torch.device) -> bool:
    """Whether the device computes bfloat16 by converting to float32 and back, which is slower than float32.

    Measured on a processor with AVX2 and no AVX-512: a product took 8 times, a recurrent layer 3 to 4 times as long.
    """
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("NO AVX", "AVX2")


def pick_precision(name: str, device: torch.device) -> Precision:
    """The precision that ``RunOptions.precision`` means on the device; warns where bf16 is wanted and emulated."""
    if name == "auto":
        return "bf16" if device.type == "cuda" and not emulates_bf16(device) else "fp32"
    if name == "bf16" and emulates_bf16(device):
        said = f"precision = 'bf16' is emulated on this {device.type} device and slower than float32; use fp32 or auto"
        warnings.warn(said, stacklevel=2)
    return "bf16" if name == "bf16" else "fp32"
