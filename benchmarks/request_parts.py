"""What the parts of one request cost: searching the items, ranking what was found, and what is computed beforehand.

    python benchmarks/request_parts.py      # a minute on one core

Search: the 500 largest inner products among ITEMS clustered vectors, exact and through quantised lists, one query at a
time and 64 at once.  Rank: a DeepFM over 500 candidates with six categorical features a side, its item states from a
table or computed anew.  Milliseconds of one thread, the best of the rounds; a run's lines go to
results/request_parts.jsonl.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import append, parser, stamp

import suisen as su
from suisen.data.batch import Candidates, Contexts, Features, Field, Schema
from suisen.models.contract import ItemTable
from suisen.retrieval import create_index, measured_recall

FILE = "request_parts.jsonl"
ITEMS, DIM, CENTRES, SPREAD, QUERIES, K = 100_000, 64, 500, 0.6, 64, 500
USERS, CODES, FIELDS = 1_000, 200, 6
INDEXES = {"exact": (su.Exact(), 4 * DIM), "ivf-sq8": (su.IVFSQ8(), DIM + 8), "ivf-pq": (su.IVFPQ(), DIM // 4 + 8)}
"""Each index, and the bytes a vector that it scans; the re-scored vectors themselves may stay on disk."""


def vectors(count: int, rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """(count, DIM) float32 of length 1 around the centres."""
    noise = SPREAD * rng.normal(size=(count, DIM))
    made = centres[rng.integers(len(centres), size=count)] + noise
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def best(call: Callable[[], Any], rounds: int) -> float:
    """Milliseconds of the processor, the best of the rounds behind one that warms up."""
    found = []
    for _ in range(rounds + 1):
        started = time.process_time()
        call()
        found.append(1e3 * (time.process_time() - started))
    return min(found[1:])


def search(rounds: int) -> list[dict[str, Any]]:
    """A line an index."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(CENTRES, DIM))
    items, queries = vectors(ITEMS, rng, centres), vectors(QUERIES, rng, centres)
    lines = []
    for name, (settings, size) in INDEXES.items():
        index = create_index(settings)
        index.build(items)
        facts = {
            "what": "search", "index": name, "items": ITEMS, "dim": DIM, "k": K, "bytes_a_vector": size,
            "recall": round(measured_recall(index, items, queries, K), 4),
            "ms_alone": round(best(lambda: index.search(queries[:1], K), rounds), 4),  # noqa: B023
            "ms_together": round(best(lambda: index.search(queries, K), rounds) / QUERIES, 4),  # noqa: B023
            "together": QUERIES,
        }  # fmt: skip
        lines.append(facts)
        print(f"{name}: {facts}", flush=True)
    return lines


def rank(rounds: int) -> list[dict[str, Any]]:
    """Item states from a table, and computed anew."""
    generator = torch.Generator().manual_seed(0)
    side = tuple(Field(f"f{i}", "categorical", CODES) for i in range(FIELDS))
    schema = Schema(USERS, ITEMS + 1, user=side, item=side)

    def features(rows: int) -> Features:
        codes = torch.randint(1, CODES, (rows, FIELDS), generator=generator)
        return Features(codes, torch.empty((rows, 0)))

    torch.manual_seed(0)
    net = su.DeepFM(history=0, recent=0).build(schema)
    net.bind(ItemTable(features(ITEMS + 1), torch.ones(ITEMS + 1, dtype=torch.bool)))
    net.eval()
    nobody = Contexts.of_users(torch.ones(1, dtype=torch.int64), schema)
    ids = torch.randint(1, ITEMS + 1, (1, K), generator=generator)
    with torch.no_grad():
        table = net.item_state(torch.arange(ITEMS + 1))
        ways = {
            "table": lambda: net.combine(net.context_state(nobody), table[ids], None),
            "anew": lambda: net.score(nobody, Candidates(ids)),
        }
        facts = {"what": "rank", "model": "deepfm", "candidates": K, "items": ITEMS, "state": table.shape[1]}
        lines = [{**facts, "states": way, "ms": round(best(call, 10 * rounds), 4)} for way, call in ways.items()]
    print(lines, flush=True)
    return lines


def main() -> int:
    """Both parts."""
    options = parser(__doc__ or "").parse_args()
    torch.set_num_threads(1)
    run = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    for line in [*rank(options.rounds), *search(options.rounds)]:
        append(FILE, {**line, "threads": 1, "run": run, **stamp()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
