"""What the kernels cost: candidates and the two stages on every path that this machine can run, beside an exact index.

    python benchmarks/kernel_cost.py      # 4 minutes

Random vectors, K candidates of ITEMS × DIM, 1, 6 and 60 queries together, each of which excludes SEEN items.  The
ranker is a DeepFM's form with random weights: inner products of 18, a net of 256-128-64, two pair features; top TOP.
``side`` says what ran: ``candidates`` in float32 order, ``int16`` order, or both stages, named by the speed: how many
candidates the cut leaves, and how many are scored in float32.  What a part costs is the difference of two sides.
Queries differ from call to call, sides take turns.  A line holds the microseconds per query of a side in a round, of
the processor (one thread) and of the wall; ``load`` is the mean number of programs that wanted a core in the minute
before, ours included: above 1, the machine was busy and caches were shared.  Lines of the round "first" hold the
seconds of the first calls in a process, of one query and of several: with numba's cache empty, and filled.  All go to
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
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from common import append, median, parser, stamp

from suisen.models.form import Form
from suisen.recommending.kernels import (
    PRECISE,
    Quantised,
    RankTables,
    Sample,
    Speed,
    agreement,
    candidates,
    paths_here,
    two_stage,
)
from suisen.retrieval import Exact, Excluded, create_index

FILE = "kernel_cost.jsonl"
ITEMS, DIM, K, SEEN = 50_000, 128, 500, 100
TOGETHER = (1, 6, 60)
TOP = 10
INNER, PAIR, WIDTHS = 18, 2, (256, 128, 64)
SPEEDS = {
    "cut 64, 12": Speed(False, 64, True, 12),
    "cut 96, 12": Speed(False, 96, True, 12),
    "cut 96, 18": Speed(False, 96, True, 18),
    "float32 order, cut 96, 18": Speed(True, 96, True, 18),
    "no cut, 18": Speed(False, 0, True, 18),
    "float32": PRECISE,
}
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


def ranker_of(table: Quantised, rng: np.random.Generator) -> tuple[RankTables, np.ndarray]:
    """Tables of a DeepFM's form, and (300, r) contexts."""
    draw = torch.Generator().manual_seed(0)
    layers = tuple(
        (torch.randn(b, a, generator=draw) * (2 / a) ** 0.5, torch.randn(b, generator=draw) * 0.1)
        for a, b in pairwise(WIDTHS)
    )
    out, from_pair = torch.randn(WIDTHS[-1], generator=draw) * 0.3, torch.randn(WIDTHS[0], PAIR, generator=draw) * 0.3
    form = Form.shallow(INNER, lambda x: x, lambda x: x, torch.zeros(PAIR, PAIR))
    form = replace(form, from_pair=from_pair, layers=layers, out=out)
    n, d = table.vectors.shape
    items, contexts = (
        (0.4 * rng.normal(size=(rows, INNER + PAIR + WIDTHS[0]))).astype(np.float32) for rows in (n, 300)
    )
    lists = candidates(table, rng.normal(size=(64, d)).astype(np.float32), min(K, n))
    return RankTables.of(form, items, Sample(contexts[:64], *lists)), contexts


def sides_of(vectors: np.ndarray, rng: np.random.Generator) -> tuple[Quantised, dict[tuple[str, str], Search]]:
    """Every path of this machine and what it runs, and the exact index."""
    table, index = Quantised.of(vectors), create_index(Exact())
    index.build(vectors)
    ranks, contexts = ranker_of(table, rng)

    def both(speed: Speed, path: str) -> Search:
        return lambda queries, gone: two_stage(
            table, ranks, queries, contexts[: len(queries)], K, TOP, gone, None, speed, path
        )

    sides: dict[tuple[str, str], Search] = {}
    for path in paths_here():
        sides[path, "candidates"] = lambda queries, gone, path=path: candidates(table, queries, K, gone, path=path)
        if path != "plain":
            sides[path, "int16"] = lambda queries, gone, path=path: two_stage(
                table, None, queries, None, K, K, gone, None, Speed(False), path
            )
            sides |= {(path, name): both(speed, path) for name, speed in SPEEDS.items()}
    sides["exact", "candidates"] = lambda queries, gone: index.search(queries, K, gone)
    return table, sides


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
    table, sides = sides_of(vectors, rng)
    measured = agreement(table, rng.normal(size=(200, options.dim)).astype(np.float32), min(K, options.items))
    run = {"run": time.strftime("%Y%m%dT%H%M%S", time.gmtime()), "threads": 1, **stamp()}
    shape = {"items": options.items, "dim": options.dim, "k": K, "seen": SEEN, "calls": options.calls}
    facts = {"params": shape, "agreement": measured._asdict()}
    for path in paths_here()[:-1] if options.first else ():
        append(FILE, {"round": "first", "path": path, **first_calls(path), "load": os.getloadavg()[0], **facts, **run})
    for number in range(-1, options.rounds):  # round −1 warms up and is thrown away
        for together in TOGETHER:
            for path, side in list(sides) if number % 2 else list(sides)[::-1]:
                calls = options.calls if number >= 0 else 2
                found = timed(sides[path, side], together, calls, (options.items, options.dim), rng)
                if number >= 0:
                    line = {"round": number, "path": path, "side": side, "together": together, **found}
                    append(FILE, {**line, "load": os.getloadavg()[0], **facts, **run})
                    print(f"{path}, {side}, {together} together: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
