"""Accuracy smoke: three models on public splits, so that the house is known to be sound.

    python benchmarks/smoke.py --data-dir ../shared/data

The rows are those of configs/accuracy; EASE's l2 is picked anew.  Appends a line a run to results/accuracy.jsonl and
ends with code 1 where a floor is missed.  What is picked is picked on validation parts of train, never on test.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace

import accuracy
import splits
import torch
from common import parser

import suisen as su

ROWS = {"ials": "ncf-ml-1m", "ease": "ncf-ml-1m", "sasrec": "sasrec"}
"""Model → data."""
METRICS = ["hr@10", "ndcg@10"]
GRID = (500.0, 700.0, 1000.0, 1400.0, 2000.0)
"""l2 of EASE that validation picks from."""
DRAWS = 5
"""Draws of 99 negatives that validation averages over: one draw alone is noisier than the grid's differences."""


def picked_l2(options: Namespace) -> float:
    """EASE's l2 that is best on the last event of each user of train."""
    train = splits.ncf(options.data_dir).train
    inner = [splits.ncf_validation(train, options.seed + draw) for draw in range(DRAWS)]
    score = {}
    for l2 in GRID:
        found = su.Recommender(su.EASE(l2=l2), seed=options.seed).fit(inner[0].train)
        reports = [su.evaluate(found, one.test, METRICS) for one in inner]
        score[l2] = sum(report.value(metric) for report in reports for metric in METRICS) / (DRAWS * len(METRICS))
        print(f"  ease l2 = {l2:g}: validation, mean of hr@10 and ndcg@10, {score[l2]:.4f}", flush=True)
    return max(GRID, key=lambda l2: score[l2])


def smoke(model: str, options: Namespace) -> bool:
    """One model's row; whether its floor is reached."""
    [row] = accuracy.rows(model, ROWS[model])
    if model == "ease":
        row = replace(row, settings={"l2": picked_l2(options)})
    return accuracy.run(row, options.seed, options)


def main() -> int:
    """Runs what was asked for; 1 where a floor is missed."""
    made = parser(__doc__ or "")
    made.add_argument("--only", nargs="+", choices=list(ROWS), default=list(ROWS))
    made.add_argument("--purpose", choices=("smoke", "trial"), default="smoke")
    made.add_argument("--seed", type=int, default=0)
    options = made.parse_args()
    torch.set_num_threads(options.threads)
    return int(not all([smoke(model, options) for model in options.only]))


if __name__ == "__main__":
    sys.exit(main())
