"""Parts that call the package directly: a million items, a million users, agreement, every pair of models."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serving import pairs, worlds
from serving.bench import Bench

import suisen as su
from suisen.data.ragged import Ragged
from suisen.recommending import bundle
from suisen.recommending.engine import Filters
from suisen.recommending.kernels import Quantised, candidates, paths_here
from suisen.retrieval import Excluded, create_index

TOGETHER = (1, 6, 60)
SEEN = 100


# -- a million items --------------------------------------------------------------------------------------------------


def clustered(n: int, dim: int, rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """(n, dim) float32 vectors around centres, as embeddings of items lie: unlike noise, an index can use them."""
    near = centres[rng.integers(len(centres), size=n)]
    return (near + rng.normal(scale=0.7 / dim**0.5, size=(n, dim))).astype(np.float32)


def cost(call: Callable[[int], Any], together: int, seconds: float) -> dict[str, float]:
    """Median microseconds per query of calls with ``together`` queries each, of the wall and of the processor."""
    wall, used = [], []
    end = time.perf_counter() + seconds
    while len(wall) < 3 or time.perf_counter() < end:
        started, cpu = time.perf_counter(), time.process_time()
        call(len(wall))
        wall.append(1e6 * (time.perf_counter() - started) / together)
        used.append(1e6 * (time.process_time() - cpu) / together)
    return {"us_wall": round(float(np.median(wall)), 1), "us": round(float(np.median(used)), 1), "calls": len(wall)}


Search = Callable[[np.ndarray, Excluded], Any]


def items(bench: Bench) -> None:
    """500 candidates of a million vectors of 64 numbers: every way that the package has, and their recall."""
    torch.set_num_threads(1)
    n, dim = (20_000, 64) if bench.quick else (1_000_000, 64)
    k = worlds.CANDIDATES
    rng = np.random.default_rng(0)
    centres = rng.normal(scale=dim**-0.5, size=(max(20, n // 500), dim))
    vectors = clustered(n, dim, rng, centres)
    queries = clustered(1_200, dim, rng, centres)
    exact = create_index(su.Exact())
    exact.build(vectors)
    ways: dict[str, Search] = {}

    def built(name: str, make: Callable[[], Search]) -> None:
        started = time.perf_counter()
        ways[name] = make()
        bench.record("built", way=name, items=n, dim=dim, seconds=round(time.perf_counter() - started, 1))

    built("int8 scan", lambda: _scan(vectors, k))
    built("IVF-SQ8 (FAISS)", lambda: _faiss(vectors, k, n))
    ways["exact float32"] = lambda asked, gone: exact.search(asked, k, gone)
    judged = queries[: 60 if bench.quick else 200]
    truth, _ = exact.search(judged, k, _gone(len(judged), n, rng, 0))
    recalls = {}
    for name, search in ways.items():
        found, _ = search(judged, _gone(len(judged), n, rng, 0))
        shares = [len(np.intersect1d(a, b)) / k for a, b in zip(found, truth, strict=True)]
        recalls[name] = round(float(np.mean(shares)), 4)
    for number in range(bench.rounds):
        for name in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            for together in TOGETHER:
                asked = [queries[rng.integers(len(queries), size=together)] for _ in range(8)]
                gone = [_gone(together, n, rng, SEEN) for _ in asked]
                found = cost(
                    lambda at, name=name, asked=asked, gone=gone: ways[name](asked[at % 8], gone[at % 8]),
                    together, 0.1 if bench.quick else 0.8,
                )  # fmt: skip
                bench.record(
                    "items", way=name, round=number, together=together, items=n, dim=dim, k=k, recall=recalls[name], **found
                )


def _gone(rows: int, n: int, rng: np.random.Generator, seen: int) -> Excluded:
    return Excluded(rng.integers(0, n, seen * rows), seen * np.arange(rows + 1))


def _scan(vectors: np.ndarray, k: int) -> Search:
    table = Quantised.of(vectors)
    return lambda asked, gone: candidates(table, asked, k, gone)


def _faiss(vectors: np.ndarray, k: int, n: int) -> Search:
    index = create_index(su.IVFSQ8())
    index.build(vectors)
    return lambda asked, gone: index.search(asked, k, gone)


# -- agreement --------------------------------------------------------------------------------------------------------


def compared(system: Any, users: torch.Tensor, k: int) -> dict[str, Any]:
    """How the plan's lists of users compare with those of torch."""
    plan, store = system.engine.plan, system.store
    contexts = store.contexts(users, time.time_ns() // 1000)
    seen = contexts.history
    precise, scores = system.engine.lists(contexts, k, Filters(seen))
    fast, _ = plan.lists(plan.prepare(contexts), k, seen)
    same = (fast == precise).all(1)
    shared = (fast[:, :, None] == precise[:, None, :]).any(1).float().mean()
    gaps = (scores[:, :-1] - scores[:, 1:]).min(1).values
    return {
        "k": k, "requests": len(users), "identical": round(float(same.float().mean()), 4),
        "overlap": round(float(shared), 5), "same_set": round(float((fast.sort(1).values == precise.sort(1).values).all(1).float().mean()), 4),
        "smallest_gap": round(float(gaps[~same].max()), 6) if bool((~same).any()) else 0.0,
    }  # fmt: skip


def agreement(bench: Bench) -> None:
    """Each trained system's plan beside torch on requests as they are served, and what its bundle says of itself."""
    for plan in (bench.world, bench.films):
        system = bundle.load(bench.bundle(plan))
        facts = worlds.facts_of(plan)
        fast = system.engine.plan
        if fast is None or isinstance(fast, str):
            raise RuntimeError(f"{plan.name} has no plan: {fast}")
        bench.record("plan", **facts, plan=fast.describe())
        users = torch.from_numpy(system.store.users.dense(bench.users(plan)))
        order = torch.randperm(len(users), generator=torch.Generator().manual_seed(0))
        asked = users[order[: 100 if bench.quick else 1_000]]
        for k in (10, 100):
            bench.record("agreement", **{**facts, **compared(system, asked, k)})
