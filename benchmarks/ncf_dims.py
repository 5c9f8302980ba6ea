"""MF and NeuMF by the numbers they may keep of a user: where a deep net beats the inner product, and where it does not.

    python benchmarks/ncf_dims.py      # three minutes on one core

Items lie on a circle; a user likes what lies near any of three places of the circle, drawn for each.  Three narrow
bumps are an inner product of many numbers alone, about 1 / width; a net that bends its inputs could do with the three
places themselves.  Both models get vectors of ``dim`` numbers per user and item (NeuMF: half for its GMF, half for its
MLP), defaults but for the step, the batch and the epochs, which are picked on validation.  A run is a line of
results/ncf_dims.jsonl; what is there is not run again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from common import RESULTS, append, parser, records, stamp

import suisen as su
from suisen.data.batch import Queries
from suisen.data.dataset import Dataset, Split
from suisen.recommending.scorers import NetScorer
from suisen.training.trainer import fit

FILE = "ncf_dims.jsonl"
USERS, ITEMS, PLACES, WIDTH, EVENTS = 600, 400, 3, 0.02, 30
DIMS = (4, 8, 16, 32)
METRIC = "ndcg@10"
PATIENCE = {"mf": 20, "neumf": 5}
"""Epochs without a better one; MF starts on a plateau, where five once ended it at the start."""
MODELS: dict[str, Callable[[int], Any]] = {
    "mf": lambda dim: su.MF(dim=dim, learning_rate=1e-2, batch_size=1024),
    "neumf": lambda dim: su.NeuMF(
        gmf_dim=dim // 2, mlp_dim=dim // 2, pretrain=False, learning_rate=5e-3, batch_size=1024, epochs=60
    ),
}


def events(seed: int) -> pl.DataFrame:
    """Columns user, item, time: EVENTS different items each, drawn by how near they lie to the user's places."""
    rng = np.random.default_rng(seed)
    places = rng.random((USERS, PLACES, 1))
    far = np.abs(places - np.arange(ITEMS) / ITEMS)
    near: npt.NDArray[np.float64] = np.exp(-((np.minimum(far, 1 - far) / WIDTH) ** 2) / 2).sum(1)
    keys = rng.random(near.shape) ** (1 / np.maximum(near, 1e-300))  # weighted draws without repetition
    items = np.argsort(-keys, axis=1)[:, :EVENTS]
    user, time_ = np.divmod(np.arange(items.size), EVENTS)
    return pl.DataFrame({"user": user, "item": rng.permuted(items, axis=1).ravel(), "time": time_})


def world(seed: int) -> Split:
    """Five items of each user are test's, five validation's."""
    return Dataset.from_frame(events(seed), user="user", item="item", time="time").split(su.LeaveLast(test=5, valid=5))


def run(name: str, dim: int, split: Split, seed: int) -> None:
    """One line."""
    started, model, valid = time.process_time(), MODELS[name](dim), split.valid
    assert valid is not None

    def value(net: Any, queries: Queries) -> float:
        return su.evaluate(NetScorer(net, split.train.trained_items), queries, [METRIC]).value(METRIC)

    how = su.RunOptions(seed=seed, patience=PATIENCE[name])
    net, curves = fit(model, split.train, lambda net: value(net, valid), how)
    facts = {"model": name, "dim": dim, "metrics": {METRIC: round(value(net, split.test), 4)}, "seed": seed}
    config = {
        "config": asdict(model),
        "patience": PATIENCE[name],
        "epochs": curves[-1].best_epoch,
        "protocol": split.test.protocol,
    }
    shape = {"users": USERS, "items": ITEMS, "places": PLACES, "width": WIDTH, "events": EVENTS}
    seconds = round(time.process_time() - started, 1)
    append(FILE, {**facts, **config, **shape, "seconds": seconds, "threads": 1, **stamp()})
    print(f"seed {seed}, dim {dim}, {name}: {METRIC} {facts['metrics'][METRIC]:.4f}, {seconds:.0f} s", flush=True)


def figures(lines: list[dict[str, Any]]) -> dict[str, dict[int, dict[int, float]]]:
    """Model → dim → seed → the metric of the newest line."""
    out: dict[str, dict[int, dict[int, float]]] = {}
    for line in lines:
        out.setdefault(line["model"], {}).setdefault(line["dim"], {})[line["seed"]] = line["metrics"][METRIC]
    return out


def main() -> int:
    """Every model at every dim; what is there is not run again."""
    made = parser(__doc__ or "")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of the world and of the run")
    options = made.parse_args()
    torch.set_num_threads(1)
    there = {(line["model"], line["dim"], line["seed"], line.get("patience", 5)) for line in records(RESULTS / FILE)}
    for seed in options.seeds:
        split = world(seed)
        for dim in DIMS:
            for name in MODELS:
                if (name, dim, seed, PATIENCE[name]) not in there:
                    run(name, dim, split, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
