"""Two stages: what the features of the pair cost, and whether a ranker is better for them.

    python benchmarks/two_stage.py cost                    # µs of a core per pair, each feature alone and all together
    python benchmarks/two_stage.py pairs --seeds 0         # EASE and iALS before DeepFM, with and without them

``pairs`` is MovieLens-100K, leave-one-out over the whole catalogue: a user's last event is test, the one before it
validation, which stops both stages; models have their defaults.  A line a run in results/two_stage.jsonl; a run that is
there, with the same settings and of the same commit, is not run again.
"""

from __future__ import annotations

import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

import torch
from common import RESULTS, Lines, append, commit, interleaved, records, stamp, training_parser

import suisen as su
from suisen.data.dataset import Dataset
from suisen.data.sources import SOURCES, load
from suisen.recommending.pairs.declared import ALL, FEATURES
from suisen.recommending.pairs.tables import PairTables

FILE = "two_stage.jsonl"
RETRIEVERS = {"ease": su.EASE, "ials": su.IALS}
WORDS: dict[str, tuple[str, ...]] = {"without": (), "with": (ALL,)}
METRICS = ("ndcg@10", "recall@10", "mrr@10")
WORLD = su.World(users=10_000, items=5_000, sessions=8, events=5, seed=0)
CONTEXTS, CANDIDATES = 256, 500
"""Of the lists that ``cost`` makes features for."""


def cost(options: Namespace) -> None:
    """Each feature alone, and all of them, for lists of users with their whole histories; and for one list."""
    data = Dataset.of(WORLD.generate().log)
    contexts = data.contexts(data.events.offsets[1 : CONTEXTS + 1] - 1, history=2**40)
    rng = torch.Generator().manual_seed(0)
    lists = [torch.randperm(data.schema.n_items - 1, generator=rng)[:CANDIDATES] + 1 for _ in range(CONTEXTS)]
    ids, one = torch.stack(lists), torch.tensor([0])
    sides = {}
    for name in (*(feature.name for feature in FEATURES), ALL):
        made = PairTables.made((name,), data)
        assert made is not None
        sides[name] = timed(lambda made=made: made.of(contexts, ids))
    sides["one list"] = timed(lambda made=made: made.of(contexts.take(one), ids[one]))
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side()
    for _, name, _, seconds in interleaved(sides, 4 * options.rounds):
        taken[name].append(seconds / (CANDIDATES if name == "one list" else ids.numel()) * 1e6)
    best = {name: round(min(each), 5) for name, each in taken.items()}
    print("\n".join(f"{name:18} {value:.4f} µs per pair" for name, value in best.items()), flush=True)
    facts = {"events": len(data.events), "items": data.schema.n_items - 1, "contexts": CONTEXTS}
    facts |= {"candidates": CANDIDATES, "history": round(float(contexts.history.lengths.float().mean()), 1)}
    append(FILE, {"what": "cost", **facts, "us_per_pair": best, "threads": 1, **stamp()})


def timed(work: Callable[[], Any]) -> Callable[[], float]:
    """Seconds of this thread's processor time that a call takes."""

    def run() -> float:
        started = time.thread_time()
        work()
        return time.thread_time() - started

    return run


def pairs(options: Namespace) -> None:
    """Each retriever before DeepFM, with the features and without, and the paired difference."""
    folder = options.data_dir if SOURCES["ml-100k"].find(options.data_dir) else None
    split = su.LeaveLast(test=1, valid=1).split(Dataset.of(load("ml-100k", folder)))
    for seed in options.seeds:
        for name in options.retriever:
            if any(line["retriever"] == name for line in known(seed)):
                continue
            reports, rows = {}, {}
            for side, words in WORDS.items():
                started = time.perf_counter()
                rec = su.Recommender(RETRIEVERS[name](), su.DeepFM(), seed=seed, pair_features=words)
                rec.fit(split.train, split.valid, su.RunOptions(seed=seed, callbacks=(Lines(),)))
                reports[side] = su.evaluate(rec, split.test, metrics=METRICS)
                rows[side] = {"metrics": {m: round(reports[side].value(m), 5) for m in METRICS}, "epochs": epochs(rec)}
                rows[side] |= {"features": list(rec.engine.pair_names)}
                rows[side] |= {"seconds": round(time.perf_counter() - started, 1)}
            alone = su.evaluate(su.Recommender(RETRIEVERS[name](), seed=seed).fit(split.train), split.test, METRICS)
            gain = su.compare(reports["without"], reports["with"], metrics=METRICS[:1]).rows[0]
            record = {
                "what": "pairs", "data": "ml-100k", "retriever": name, "ranker": "deepfm", "seed": seed, **rows,
                "alone": {m: round(alone.value(m), 5) for m in METRICS}, "protocol": gain.protocol,
                "difference": [round(each, 5) for each in (gain.difference, gain.low, gain.high)],
                "p": round(gain.p, 5), "threads": options.threads, **stamp(),
            }  # fmt: skip
            append(FILE, record)
            print(f"{name}, seed {seed}: {rows['without']['metrics']} → {rows['with']['metrics']}, {gain}", flush=True)


def known(seed: int) -> list[dict[str, Any]]:
    """The runs of this seed and commit."""
    facts = {"what": "pairs", "seed": seed, "commit": commit()}
    return [line for line in records(RESULTS / FILE) if all(line.get(key) == value for key, value in facts.items())]


def epochs(rec: su.Recommender) -> dict[str, list[int]]:
    """Stage → epochs that were kept."""
    return {stage: [curve.best_epoch for curve in curves] for stage, curves in rec.curves.items()}


PARTS = {"cost": cost, "pairs": pairs}


def main() -> int:
    """The parts that are named."""
    made: ArgumentParser = training_parser(__doc__ or "")
    made.add_argument("part", nargs="*", choices=PARTS, default=list(PARTS))
    made.add_argument("--retriever", nargs="+", choices=RETRIEVERS, default=list(RETRIEVERS))
    options = made.parse_args()
    torch.set_num_threads(1 if "cost" in options.part else options.threads)
    for part in options.part:
        PARTS[part](options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
