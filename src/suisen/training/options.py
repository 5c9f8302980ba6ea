"""How a run goes, apart from what the model is: device, precision, seed, patience, averaging, checkpoints."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, Self

import torch

from suisen.errors import InputError

Precision = Literal["fp32", "bf16"]


class EpochRow(NamedTuple):
    """What is known of an epoch when it ends."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over its batches."""
    metric: float | None
    """The validation metric, the higher the better; None where nothing validates."""
    seconds: float
    examples_per_second: float


@dataclass
class Curve:
    """The course of a phase."""

    rows: list[EpochRow] = field(default_factory=list)
    best_epoch: int = 0
    """The epoch whose weights were kept."""
    best_metric: float | None = None
    stopped: str = ""
    """Why it ended, in words."""


class Callback(Protocol):
    """Watches a run; none of its methods may change it."""

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        """A phase starts: at most ``epochs`` epochs of ``examples`` examples."""

    def on_batch(self, examples: int, loss: float) -> None:
        """A batch of so many examples is done."""

    def on_epoch(self, row: EpochRow) -> None:
        """An epoch is done."""

    def on_end(self, curve: Curve) -> None:
        """The phase is done."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Never among a model's hyper-parameters, always in the bundle's manifest."""

    seed: int = 0
    device: str = "auto"
    """auto (CUDA where there is one, else the CPU), cpu, cuda, cuda:1, …"""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bfloat16 autocast on a CUDA device that has it, else float32 (on CPUs it helps only wide layers)."""
    patience: int = 5
    """Epochs without a better validation metric before training stops."""
    clip: float | None = 10.0
    """Largest norm of the gradient; None: not clipped."""
    average: float = 0.0
    """Decay a step of a moving average of the weights, which is then what is validated and kept; 0: none."""
    max_seconds: float | None = None
    """A phase starts no further epoch after so long; None: no limit."""
    checkpoint: Path | None = None
    """Folder of checkpoints, one file a stage; None: none are written."""
    checkpoint_seconds: float = 30.0
    """At least so long between two checkpoints of a stage."""
    resume: bool = False
    """Go on from the checkpoints that the folder holds."""
    stage: str = "model"
    """Names the stage in progress bars, in checkpoints and in the derivation of its seed."""
    callbacks: tuple[Callback, ...] = ()

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise InputError(f"patience = {self.patience} must be at least 1")
        if self.clip is not None and self.clip <= 0:
            raise InputError(f"clip = {self.clip} must be above 0; None switches clipping off")
        if not 0.0 <= self.average < 1.0:
            raise InputError(f"average = {self.average} must be at least 0 and below 1; 0.99 averages over 100 steps")

    def for_stage(self, stage: str) -> Self:
        """The same options for another stage: its own checkpoint file and its own stream of random numbers."""
        return replace(self, stage=stage)

    @property
    def stage_seed(self) -> int:
        """A seed of the stage's own, so that one stage's draws do not depend on another's."""
        digest = blake2b(f"{self.seed}/{self.stage}".encode(), digest_size=6).digest()
        return int.from_bytes(digest, "big")

    @property
    def checkpoint_file(self) -> Path | None:
        """Where this stage is saved."""
        return None if self.checkpoint is None else self.checkpoint / f"{self.stage}.safetensors"


def pick_device(name: str) -> torch.device:
    """The device meant by ``RunOptions.device``.  Raises InputError where it is not there."""
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
    """Whether the device has no bfloat16 of its own, so that it is slower than float32 there.

    On a processor with AVX2 and no AVX-512 a product took 8 times and a recurrent layer 3 to 4 times as long.
    """
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() in ("NO AVX", "AVX2")


def pick_precision(name: str, device: torch.device) -> Precision:
    """The precision meant by ``RunOptions.precision``; warns where what is asked for is emulated."""
    if name == "auto":
        return "bf16" if device.type == "cuda" and not emulates_bf16(device) else "fp32"
    if name == "bf16" and emulates_bf16(device):
        warnings.warn(
            f"precision = 'bf16' is emulated on this {device.type} device and slower than float32; use fp32 or auto",
            stacklevel=2,
        )
    return "bf16" if name == "bf16" else "fp32"
