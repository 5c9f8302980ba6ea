"""What candidates cost: the int8 scan on every path that this machine can run, beside the exact float32 index.

    python benchmarks/kernel_cost.py      # 2 minutes

Random vectors, K candidates of ITEMS × DIM, 1, 6 and 60 queries together, each of which excludes SEEN items.  Queries
differ from call to call, sides take turns.  A line holds the microseconds per query of a side in a round, of the
processor (one thread) and of the wall; ``load`` is the mean number of programs that wanted a core in the minute before,
ours included: above 1, the machine was busy and caches were shared.  Lines of the round "first" hold the seconds of the
first calls in a process, of one query and of several: with numba's cache empty, and filled.  All go to
results/kernel_cost.jsonl.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import append, median, parser, stamp

from suisen.recommending.kernels import Quantised, agreement, candidates, paths_here
from suisen.retrieval import Exact, Excluded, create_index

FILE = "kernel_cost.jsonl"
ITEMS, DIM, K, SEEN = 50_000, 128, 500, 100
TOGETHER = (1, 6, 60)
FIRST = """
import sys, time
import numpy as np
from suisen.recommending.kernels import Quantised, candidates
vectors = np.random.default_rng(0).normal(size=(2_000, 128)).astype(np.float32)
table = Quantised.of(vectors)
started = time.perf_counter(), time.process_time()
for queries in (1, 6):
    candidates(table, vectors[:queries], 10, path=sys.argv[1])
print(time.perf_counter() - started[0], time.process_time() - started[1])
"""

Search = Callable[[np.ndarray, Excluded], Any]


def sides_of(vectors: np.ndarray) -> tuple[Quantised, dict[str, Search]]:
    """Every path of this machine, and the exact index."""
    table, index = Quantised.of(vectors), create_index(Exact())
    index.build(vectors)
    sides: dict[str, Search] = {
        path: lambda queries, gone, path=path: candidates(table, queries, K, gone, path=path) for path in paths_here()
    }
    return table, {**sides, "exact": lambda queries, gone: index.search(queries, K, gone)}


def timed(
    search: Search, together: int, calls: int, shape: tuple[int, int], rng: np.random.Generator
) -> dict[str, float]:
    """Median microseconds per query of ``calls`` calls of ``together`` queries, made beforehand."""
    items, dim = shape
    seen = min(SEEN, items // 2)
    wall, cpu = [], []
    for _ in range(calls):
        queries = rng.normal(size=(together, dim)).astype(np.float32)
        gone = Excluded(rng.integers(0, items, seen * together), seen * np.arange(together + 1))
        started, used = time.perf_counter(), time.process_time()
        search(queries, gone)
        wall.append(1e6 * (time.perf_counter() - started) / together)
        cpu.append(1e6 * (time.process_time() - used) / together)
    return {"us_wall": round(median(wall), 1), "us_cpu": round(median(cpu), 1), "us_cpu_least": round(min(cpu), 1)}


def first_calls(path: str) -> dict[str, float]:
    """Seconds of the first calls (of one query and of several) in a process of its own: compiled, and read back."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("compiled", "read"):
            done = subprocess.run(
                [sys.executable, "-c", FIRST, path],
                check=True, capture_output=True, text=True, env={**os.environ, "NUMBA_CACHE_DIR": folder},
            )  # fmt: skip
            wall, cpu = map(float, done.stdout.split())
            out |= {f"s_wall_{name}": round(wall, 2), f"s_cpu_{name}": round(cpu, 2)}
    return out


def main(arguments: list[str] | None = None) -> int:
    """Rounds of all sides; their order is turned around every other round."""
    made = parser(__doc__ or "")
    made.add_argument("--items", type=int, default=ITEMS)
    made.add_argument("--dim", type=int, default=DIM)
    made.add_argument("--calls", type=int, default=40, help="calls of a side in a round")
    made.add_argument("--first", action=argparse.BooleanOptionalAction, default=True, help="measure first calls too")
    options = made.parse_args(arguments)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(options.items, options.dim)).astype(np.float32)
    table, sides = sides_of(vectors)
    measured = agreement(table, rng.normal(size=(200, options.dim)).astype(np.float32), min(K, options.items))
    run = {"run": time.strftime("%Y%m%dT%H%M%S", time.gmtime()), "threads": 1, **stamp()}
    shape = {"items": options.items, "dim": options.dim, "k": K, "seen": SEEN, "calls": options.calls}
    facts = {"params": shape, "agreement": measured._asdict()}
    for path in paths_here()[:-1] if options.first else ():
        append(FILE, {"round": "first", "path": path, **first_calls(path), "load": os.getloadavg()[0], **facts, **run})
    for number in range(-1, options.rounds):  # round −1 warms up and is thrown away
        for together in TOGETHER:
            for path in list(sides) if number % 2 else list(sides)[::-1]:
                calls = options.calls if number >= 0 else 2
                found = timed(sides[path], together, calls, (options.items, options.dim), rng)
                if number >= 0:
                    line = {"round": number, "path": path, "together": together, **found, "load": os.getloadavg()[0]}
                    append(FILE, {**line, **facts, **run})
                    print(f"{path}, {together} together: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
