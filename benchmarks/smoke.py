"""Accuracy smoke: three models on public splits, so that the house is known to be sound.

    python benchmarks/smoke.py --data-dir ../shared/data

Appends a line a run to results/accuracy.jsonl and ends with code 1 where a floor is missed.  What is picked is picked
on validation parts of train, never on test.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import splits
import torch
from common import append, parser, stamp

import suisen as su
from suisen.data.splits import Split
from suisen.evaluation import Report

METRICS = ["hr@10", "ndcg@10"]
GRID = (500.0, 700.0, 1000.0, 1400.0, 2000.0)
"""l2 of EASE that validation picks from."""
DRAWS = 5
"""Draws of 99 negatives that validation averages over: one draw alone is noisier than the grid's differences."""


@dataclass(frozen=True)
class Outcome:
    """One fitted model, measured on test."""

    report: Report
    config: dict[str, Any]
    epochs: int | None
    picked_on: str
    seconds: float


def ials(split: Split, seed: int) -> Outcome:
    """The setting of Rendle et al. 2021 for this split (192 factors): nothing is picked here."""
    model = su.IALS(dim=192, l2=0.007, unobserved=0.3, epochs=12)
    return measured(model, split, seed, "nothing: the paper's setting")


def ease(split: Split, seed: int) -> Outcome:
    """λ picked on the last event of each user of train."""
    started = time.perf_counter()
    inner = [splits.ncf_validation(split.train, seed + draw) for draw in range(DRAWS)]
    score = {}
    for l2 in GRID:
        found = su.Recommender(su.EASE(l2=l2), seed=seed).fit(inner[0].train)
        reports = [su.evaluate(found, one.test, METRICS) for one in inner]
        score[l2] = sum(report.value(metric) for report in reports for metric in METRICS) / (DRAWS * len(METRICS))
        print(f"  ease l2 = {l2:g}: validation, mean of hr@10 and ndcg@10, {score[l2]:.4f}", flush=True)
    best = max(GRID, key=lambda l2: score[l2])
    picked_on = f"validation, mean of both metrics: each user's last of train, {DRAWS} draws of 99 negatives"
    out = measured(su.EASE(l2=best), split, seed, picked_on)
    return dataclasses.replace(out, seconds=time.perf_counter() - started)


def sasrec(split: Split, seed: int) -> Outcome:
    """Full softmax, blocks as in the authors' code, batches of any lengths; the epoch picked on validation."""
    model = su.SASRec(published=True, epochs=80)
    options = su.RunOptions(seed=seed, patience=12, precision="bf16", callbacks=(Lines(),))
    return measured(model, split, seed, "validation ndcg@10: the last but one of 1,024 users", options)


def measured(model: Any, split: Split, seed: int, picked_on: str, options: su.RunOptions | None = None) -> Outcome:
    """Fits on train (and valid where there is one) and measures on test."""
    started = time.perf_counter()
    options = options or su.RunOptions(seed=seed, callbacks=(Lines(),))
    found = su.Recommender(model, seed=seed).fit(split.train, split.valid, options)
    curves = [curve for stage in found.curves.values() for curve in stage]
    report = su.evaluate(found, split.test, METRICS)
    config = {"model": type(model).__name__, **dataclasses.asdict(model)}
    epochs = curves[-1].best_epoch if curves else None
    return Outcome(report, config, epochs, picked_on, time.perf_counter() - started)


class Lines:
    """A line an epoch."""

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        pass

    def on_batch(self, examples: int, loss: float) -> None:
        pass

    def on_epoch(self, row: Any) -> None:
        metric = "" if row.metric is None else f", validation {row.metric:.4f}"
        print(f"  epoch {row.epoch}: loss {row.loss:.4f}{metric}, {row.seconds:.1f} s", flush=True)

    def on_end(self, curve: Any) -> None:
        pass


@dataclass(frozen=True)
class Task:
    """A model on a split, with the least it must reach."""

    run: Callable[[Split, int], Outcome]
    data: str
    load: Callable[[Path], Split]
    floors: dict[str, float]


TASKS = {
    "ials": Task(ials, "ncf-ml-1m", splits.ncf, {"hr@10": 0.728, "ndcg@10": 0.451}),
    "ease": Task(ease, "ncf-ml-1m", splits.ncf, {"hr@10": 0.7185, "ndcg@10": 0.449}),
    "sasrec": Task(sasrec, "sasrec-ml-1m", splits.sasrec, {"hr@10": 0.300, "ndcg@10": 0.172}),
}


def record_of(name: str, task: Task, out: Outcome, options: Namespace) -> dict[str, Any]:
    """The line of results/accuracy.jsonl."""
    return {
        "model": name,
        "data": task.data,
        "protocol": out.report.protocol,
        "seed": options.seed,
        "metrics": {score.metric: round(score.value, 5) for score in out.report.scores},
        "epochs": out.epochs,
        "picked_on": out.picked_on,
        "seconds": round(out.seconds, 1),
        "config": out.config,
        "floors": task.floors,
        **stamp(),
        "purpose": options.purpose,
    }


def main() -> int:
    """Runs what was asked for; 1 where a floor is missed."""
    made = parser(__doc__ or "")
    made.add_argument("--only", nargs="+", choices=list(TASKS), default=list(TASKS))
    made.add_argument("--purpose", choices=("smoke", "trial", "table"), default="smoke")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    missed = 0
    for name in options.only:
        task = TASKS[name]
        out = task.run(task.load(options.data_dir), options.seed)
        record = record_of(name, task, out, options)
        append("accuracy.jsonl", record)
        for metric, floor in task.floors.items():
            value = record["metrics"][metric]
            missed += value < floor
            verdict = "reached" if value >= floor else "MISSED"
            print(f"{name} on {task.data}: {metric} {value:.4f}, floor {floor:g} {verdict}", flush=True)
        print(f"{name}: {record['seconds']:.0f} s; {record['protocol']}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
