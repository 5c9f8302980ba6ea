"""Accuracy of every model: one row per file of configs/accuracy, one line a run in results/accuracy.jsonl.

    python benchmarks/accuracy.py --model gmf --data ncf-ml-1m --seeds 0 1 2
    python benchmarks/accuracy.py --model gmf --rows textbook      # a file of configs/textbook: the textbook's settings
    python benchmarks/accuracy.py --model two-tower                # two_tower.py's warm and cold row

A row names a model, its data, the floor, and what differs from the model's defaults.  The number of epochs is picked
on validation, never on test: where the split has a validation part, training stops on it; where it has none, a part of
train is held out, the epochs found there are run again on all of train (``refit``).  A run that was cut off goes on
from its last checkpoint (runs/accuracy) when it is started again; bfloat16 is used where the machine has it itself.
"""

from __future__ import annotations

import shutil
import sys
import time
import tomllib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import clicks
import gowalla
import sequences
import splits
import torch
import two_tower
from accuracy_table import CONFIGS, TEXTBOOK
from common import ROOT, Lines, Outcome, append, commit, options_of, reached, told, training_parser

import suisen as su
from suisen.data.batch import Queries
from suisen.data.dataset import Dataset, Split
from suisen.data.splits import LeaveLast
from suisen.models import model_of
from suisen.models.contract import Net
from suisen.recommending.engine import recommendable
from suisen.recommending.scorers import NetScorer
from suisen.training.options import emulates_bf16, pick_device, pick_precision
from suisen.training.trainer import fit

CHECKPOINTS = ROOT / "runs" / "accuracy"
FOLDERS = {"accuracy": (CONFIGS,), "textbook": (TEXTBOOK,), "all": (CONFIGS, TEXTBOOK)}
"""Where rows are read from, as ``--rows`` names it."""


@dataclass(frozen=True)
class Row:
    """A line of the table: what is trained on what, and what it must reach."""

    model: str
    data: str
    floor: dict[str, float] = field(default_factory=dict)
    name: str = ""
    """What the table calls it, where another row has the same model and data."""
    best: str = ""
    patience: int = 5
    pick: str = ""
    """The validation metric; the last that is measured first where it is empty."""
    epochs: tuple[int, ...] | None = None
    """Fixed epochs, one a phase (empty: the model has no phase); None: picked on validation."""
    picked_on: str = ""
    """How the settings came to be, where validation picked more than the epochs."""
    precision: str = "auto"
    average: float = 0.0
    """Decay of the moving average of the weights."""
    tried: str = ""
    """Printed beside the verdict: what was tried, and what of it was seen on test."""
    also: tuple[str, ...] = ()
    """Further metrics that are recorded."""
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Row:
        """Of ``[row]`` and ``[model]`` of a file."""
        tree = tomllib.loads(path.read_text())
        row = {**tree["row"], "settings": tree.get("model", {})}
        return cls(**{name: tuple(part) if isinstance(part, list) else part for name, part in row.items()})

    @property
    def metrics(self) -> list[str]:
        """What is measured on test."""
        return list(dict.fromkeys([*self.floor, *self.also]))

    @property
    def picks(self) -> str:
        """The validation metric."""
        return self.pick or list(self.floor or self.also)[-1]


@dataclass(frozen=True)
class Data:
    """A published split, and where its epochs are picked if it has no validation part."""

    load: Callable[[Path, int], Split]
    inner: Callable[[Dataset, int], Split] | None = None
    picked_on: str = ""


DATA = {
    "ncf-ml-1m": Data(
        lambda folder, seed: splits.ncf(folder),
        splits.ncf_validation,
        "each user's last event of train among 99 drawn negatives; refit on all of train",
    ),
    "ml-1m.zip": Data(
        lambda folder, seed: two_tower.ml1m(folder),
        lambda train, seed: LeaveLast(test=1, valid=0).split(train),
        "each user's last event of train; refit on all of train",
    ),
    "sasrec": Data(lambda folder, seed: splits.sasrec(folder), picked_on="the last but one of 1,024 users"),
    "s3rec-beauty": Data(lambda folder, seed: sequences.beauty(folder), picked_on="each user's last but one"),
    "yoochoose1_64": Data(
        lambda folder, seed: sequences.yoochoose(folder),
        sequences.yoochoose_validation,
        "the last tenth of train's sessions; refit on all of train",
    ),
    "gowalla": Data(
        lambda folder, seed: gowalla.gowalla(folder),
        gowalla.validation,
        "a tenth of each user's train; refit on all of train",
    ),
    "frappe": Data(lambda folder, seed: clicks.frappe(folder), picked_on="the split's validation part"),
    "clicks-ml-1m": Data(clicks.ml1m_clicks, picked_on="a tenth of the rows"),
}


def rows(model: str | None, data: str | None, of: str = "accuracy") -> list[Row]:
    """The rows asked for, in the order of their files."""
    found = [Row.read(path) for folder in FOLDERS[of] for path in sorted(folder.glob("*.toml"))]
    return [row for row in found if model in (None, row.model) and data in (None, row.data)]


def value(model: Any, train: Dataset, net: Net, queries: Queries, metric: str) -> float:
    """One metric of a network on queries."""
    return su.evaluate(NetScorer(net, recommendable(model, train.trained_items)), queries, [metric]).value(metric)


class Clock(Lines):
    """Keeps the seconds that a run has taken beside its checkpoints, those of earlier processes too."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "seconds"
        self.started = time.perf_counter() - (float(self.file.read_text()) if self.file.exists() else 0.0)

    def on_epoch(self, row: Any) -> None:
        super().on_epoch(row)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(str(time.perf_counter() - self.started))


def checkpoints(row: Row, seed: int, precision: str) -> Path:
    """The folder of a run's checkpoints: another setting or another commit has another folder."""
    said = blake2b(repr((row, precision, commit())).encode(), digest_size=4).hexdigest()
    return CHECKPOINTS / f"{row.model}-{row.data}-{seed}-{said}"


def trained(row: Row, model: Any, split: Split, options: su.RunOptions, seed: int) -> tuple[Net, list[int], str]:
    """The network, the epochs of each phase, and how they were picked."""
    data, pick = DATA[row.data], row.picks
    if row.epochs is not None:
        net, _ = fit(model, split.train, options=options, epochs_per_phase=row.epochs or None)
        return net, list(row.epochs), "epochs fixed"
    if data.inner is None:
        valid = split.valid
        assert valid is not None
        net, curves = fit(model, split.train, lambda n: value(model, split.train, n, valid, pick), options)
        return net, [curve.best_epoch for curve in curves], f"validation {pick}: {data.picked_on}"
    inner = data.inner(split.train, seed)
    net, curves = fit(model, inner.train, lambda n: value(model, inner.train, n, inner.test, pick), options)
    found = [curve.best_epoch for curve in curves]
    print(f"  epochs found: {found}; now on all of train", flush=True)
    again = replace(options, checkpoint=options.checkpoint and options.checkpoint / "all of train")
    net, _ = fit(model, split.train, options=again, epochs_per_phase=found)
    return net, found, f"validation {pick}: {data.picked_on}"


def run(row: Row, seed: int, options: Namespace) -> bool:
    """One record; whether the floor is reached."""
    device = pick_device("auto")
    precision = "fp32" if emulates_bf16(device) else pick_precision(row.precision, device)
    folder = checkpoints(row, seed, precision)
    clock = Clock(folder)
    split = DATA[row.data].load(options.data_dir, seed)
    model = model_of(row.model, **row.settings)
    how = su.RunOptions(
        seed=seed, patience=row.patience, precision=precision, average=row.average, callbacks=(clock,),
        checkpoint=folder, resume=True,
    )  # fmt: skip
    net, epochs, picked_on = trained(row, model, split, how, seed)
    report = su.evaluate(NetScorer(net, recommendable(model, split.train.trained_items)), split.test, row.metrics)
    said = "; ".join(part for part in (row.picked_on, picked_on) if part)
    out = Outcome(report, model, epochs[0] if len(epochs) == 1 else epochs or None, said, clock.started)
    record = out.record(row.model, row.data, seed, row.floor, options.purpose)
    record |= {"row": row.name or row.model, "threads": options.threads, "precision": precision}
    append("accuracy.jsonl", record)
    shutil.rmtree(folder, ignore_errors=True)
    print(told(record["row"], record), flush=True)
    return reached(record)


def towers(options: Namespace) -> list[bool]:
    """The warm and the cold row of Two-Tower, whose floors come from other models and from chance."""
    asked = options.model in (None, "two-tower") and options.data in (None, "ml-1m.zip")
    if not asked or options.rows == "textbook":
        return []
    parts = (two_tower.warm, two_tower.cold)
    return [part(Namespace(**vars(options), seed=seed)) for part in parts for seed in options.seeds]


def main() -> int:
    """Runs what is asked for; 1 where a floor is missed."""
    made = training_parser(__doc__ or "")
    made.add_argument("--model", help="a model's name; without it all of them")
    made.add_argument("--data", help="a split's name; without it all of the model's rows")
    made.add_argument("--rows", choices=FOLDERS, default="accuracy", help="the table's rows, the textbook's, or all")
    options = options_of(made)
    torch.set_num_threads(options.threads)
    asked = [
        replace(row, settings={**row.settings, **options.set})
        for row in rows(options.model, options.data, options.rows)
    ]
    verdicts = [run(row, seed, options) for row in asked for seed in options.seeds] + towers(options)
    if not verdicts:
        known = ", ".join(f"{row.model} {row.data}" for row in rows(None, None, options.rows))
        print(f"no row for --model {options.model} --data {options.data}; there are: {known}", file=sys.stderr)
        return 2
    return int(not all(verdicts))


if __name__ == "__main__":
    sys.exit(main())
