"""Rankers behind a retriever on MovieLens-100K: every kind, and every loss of lists, beside the retriever alone.

    python benchmarks/rankers.py --seeds 0 1 2
    python benchmarks/rankers.py --retriever ease --ranker din "deepfm, lambda"

Each user's last event is test, the one before it valid; the whole catalogue is ranked, without what was seen.  Epochs
are picked on valid, never on test.  Valid's figure is that of the trained pair after refitting the retriever, so that
it is a little better than what picked the epochs.  A line that is there for the same settings is not run again.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import asdict
from statistics import fmean
from typing import Any

import torch
from common import RESULTS, append, options_of, records, stamp, training_parser
from defaults import small

import suisen as su
from suisen.data.dataset import Split
from suisen.models import model_of

FILE = "rankers.jsonl"
METRIC = "ndcg@10"
FIRST = "ease", "ials"
PLAIN = "fm", "ffm", "wide-deep", "dnn", "dcn-v2", "deepfm", "din", "lambdamart"
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in PLAIN},
    **{f"{name}, {loss}": (name, {"loss": loss}) for name in ("fm", "deepfm") for loss in ("logistic", "lambda")},
}
"""Name of a row → the ranker and its settings."""
CANDIDATES = 500


def wanted(options: Namespace) -> Iterator[tuple[str, str, int]]:
    """Retriever, case and seed of each run that is asked for and has no record yet."""
    done = {(line["retriever"], line["case"], line["seed"]) for line in records(RESULTS / FILE)}
    for first in FIRST:
        for case in CASES:
            asked = options.retriever in (None, first) and (options.ranker is None or case in options.ranker)
            yield from ((first, case, seed) for seed in options.seeds if asked and (first, case, seed) not in done)


def run(first: str, case: str, seed: int, split: Split, threads: int) -> dict[str, Any]:
    """One record."""
    name, settings = CASES[case]
    ranker, started = model_of(name, **settings), time.perf_counter()
    alone = su.Recommender(model_of(first), seed=seed).fit(split.train, split.valid)
    both = su.Recommender(model_of(first), ranker=ranker, candidates=CANDIDATES, seed=seed).fit(
        split.train, split.valid
    )
    seconds = time.perf_counter() - started
    reports = [su.evaluate(rec, split.test, metrics=[METRIC]) for rec in (alone, both)]
    paired = su.compare(*reports)[0]
    curve = both.curves["ranker"][-1]
    return {
        "retriever": first, "case": case, "ranker": {"model": name, **asdict(ranker)}, "data": "ml-100k", "seed": seed,
        "candidates": CANDIDATES, "metric": METRIC, "alone": round(reports[0].value(METRIC), 5),
        "test": round(reports[1].value(METRIC), 5), "p": round(paired.p, 5),
        "interval": [round(paired.low, 5), round(paired.high, 5)],
        "valid": round(su.evaluate(both, split.valid, metrics=[METRIC]).value(METRIC), 5),
        "picked": round(curve.best_metric or 0.0, 5), "epochs": curve.best_epoch, "ran": len(curve.rows),
        "seconds": round(seconds, 1), "seconds_per_epoch": round(fmean(row.seconds for row in curve.rows), 2),
        "protocol": reports[1].protocol, "threads": threads, **stamp(),
    }  # fmt: skip


def main() -> int:
    """Runs what is asked for and has no record."""
    made = training_parser(__doc__ or "")
    made.add_argument("--retriever", choices=FIRST, help="without it all of them")
    made.add_argument("--ranker", nargs="+", choices=CASES, help="without it all of them")
    options = options_of(made)
    torch.set_num_threads(options.threads)
    split = small(options.data_dir, 0)
    for first, case, seed in wanted(options):
        record = run(first, case, seed, split, options.threads)
        append(FILE, record)
        print(f"{first} + {case}, seed {seed}: valid {record['valid']:.4f}, test {record['test']:.4f} (alone "
              f"{record['alone']:.4f}, p {record['p']:.3f}), {record['seconds']:.0f} s", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
