"""Parts that call the package directly: a million items, a million users, agreement, every pair of models."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import interleaved, median

import suisen as su
from serving import pairs, worlds
from serving.bench import Bench
from suisen.data.ids import IdMap
from suisen.data.ragged import Ragged
from suisen.recommending import bundle, planning
from suisen.recommending.engine import Filters
from suisen.recommending.kernels import Quantised, candidates, partitioned
from suisen.recommending.queries import RawQueries
from suisen.recommending.states import VisitorRows
from suisen.recommending.users import RecentEvents
from suisen.retrieval import Excluded, create_index

TOGETHER = (1, 6, 60)
SEEN = 100
JUDGED, FEWER = 1_000, 300
"""Most queries that a pair's plan is judged by: each model is in a pair of the first kind."""
LONG_JUDGED = 30
"""Requests that a pair's speed for long lists is judged by; a bundle's own takes 300, and more time."""
RECALL = 0.96
"""What the IVF is asked for on its sample; the goal, 0.95, is judged on other queries."""


# -- a million items --------------------------------------------------------------------------------------------------


def clustered(n: int, dim: int, rng: np.random.Generator, centres: np.ndarray) -> np.ndarray:
    """(n, dim) float32 vectors around centres, as embeddings of items lie: unlike noise, an index can use them."""
    near = centres[rng.integers(len(centres), size=n)]
    return (near + rng.normal(scale=dim**-0.5, size=(n, dim))).astype(np.float32)


def cost(call: Callable[[int], Any], together: int, seconds: float, least: int = 3) -> dict[str, float]:
    """Median microseconds per query of calls with ``together`` queries each, of the wall and of the processor; at least
    ``least`` calls.
    """
    wall, used = [], []
    end = time.perf_counter() + seconds
    while len(wall) < least or time.perf_counter() < end:
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
    sample = clustered(100 if bench.quick else 500, dim, rng, centres)
    built("int8 IVF", lambda: _cells(vectors, sample, k))
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
                    together, 0.1 if bench.quick else 0.5,
                )  # fmt: skip
                bench.record(
                    "items",
                    way=name,
                    round=number,
                    together=together,
                    items=n,
                    dim=dim,
                    k=k,
                    recall=recalls[name],
                    **found,
                )


def _gone(rows: int, n: int, rng: np.random.Generator, seen: int) -> Excluded:
    return Excluded(rng.integers(0, n, seen * rows), seen * np.arange(rows + 1))


def _scan(vectors: np.ndarray, k: int) -> Search:
    table = Quantised.of(vectors)
    return lambda asked, gone: candidates(table, asked, k, gone)


def _cells(vectors: np.ndarray, sample: np.ndarray, k: int) -> Search:
    table = partitioned(vectors, sample, k, RECALL, least=0)
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
    same_set = (fast.sort(1).values == precise.sort(1).values).all(1)
    shared = (fast[:, :, None] == precise[:, None, :]).any(1).float().mean()
    gaps = (scores[:, :-1] - scores[:, 1:]).min(1).values
    return {
        "k": k, "requests": len(users), "identical": round(float(same.float().mean()), 4),
        "overlap": round(float(shared), 5), "same_set": round(float(same_set.float().mean()), 4),
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


# -- a million users --------------------------------------------------------------------------------------------------


def users(bench: Bench) -> None:
    """Bytes of a user's row and events among a million users: counted by the package, and grown by the process.

    The world's networks answer; the other users are known by id alone, with a history of the world's drawn anew.
    """
    torch.set_num_threads(1)
    n, asked = (5_000, 1_000) if bench.quick else (1_000_000, 100_000)
    system = many_users(bundle.load(bench.bundle(bench.world)), n)
    if system.engine.plan is None:
        raise RuntimeError(f"the world has no plan: {system.engine.on_torch}")
    recent = RecentEvents(system.store, 1 << 33)
    rows = VisitorRows(system, recent, 1 << 33)
    every, lengths = system.store.users.raw_ids, system.store.histories.lengths[1:]
    drawn = every.gather(np.random.default_rng(0).permutation(n)[:asked]).to_list()
    item = system.store.items.raw_ids[0]
    for what, held, act in (
        ("rows", rows, lambda some: rows.of(RawQueries(some))),
        ("events", recent, lambda some: recent.add(some, [item] * len(some), [time.time_ns() // 1000] * len(some))),
    ):
        gc.collect()
        before, started, used = resident(), time.perf_counter(), time.process_time()
        for first in range(0, asked, 60):
            act(drawn[first : first + 60])
        cpu = time.process_time() - used
        bench.record(
            "users", of=what, users=n, asked=asked, us=round(1e6 * cpu / asked, 1),
            counted_bytes=round(held.nbytes / asked, 1), grown_bytes=round((resident() - before) / asked, 1),
            seconds=round(time.perf_counter() - started, 1), history=round(float(lengths.float().mean()), 1),
        )  # fmt: skip
    for what, held in (("rows kept", rows), ("rows made", VisitorRows(system, recent, 0))):
        answering = _answering(system, held, drawn[:3_000])
        for at in range(50):  # after their events, rows are made anew
            answering(at)
        bench.record("answers", of=what, users=n, together=60, **cost(answering, 60, 1.0))


def _answering(system: Any, rows: Any, asked: list[Any]) -> Callable[[int], Any]:
    """Lists of 60 known users, the next ones at each call, through their rows, as the server makes them."""

    def answer(at: int) -> Any:
        first = 60 * at % len(asked)
        found = rows.of(RawQueries(asked[first : first + 60]))
        seen = [np.frombuffer(one, dtype=np.int32) for one in found.seen]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in seen])])
        exclude = Ragged(torch.from_numpy(np.concatenate(seen).astype(np.int64)), torch.from_numpy(offsets))
        return system.engine.plan.lists(found.states, worlds.K, exclude)

    return answer


def resident() -> int:
    """Bytes of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


def many_users(system: Any, n: int) -> Any:
    """The system with n users: those of the bundle, then others, who have the histories and features of the first."""
    store = system.store
    known = len(store.users) - 1
    twin = torch.cat([torch.zeros(1, dtype=torch.int64), torch.arange(n) % known + 1])
    lengths = store.histories.lengths[twin]
    histories = store.histories.take(twin)
    times = store.histories.with_values(store.history_times).take(twin).values
    assert int(lengths.sum()) == len(histories.values)
    big = replace(
        store,
        users=IdMap("user", pl.Series("raw", range(1, n + 1)).cast(store.users.raw_ids.dtype).alias("raw")),
        user_frame=store.user_frame[twin.tolist()],
        trained_users=store.trained_users[twin],
        histories=histories,
        history_times=times,
    )
    system.engine.retriever.context.user = _folded(system.engine.retriever.context.user, known)
    system.engine.ranker.core.context.user = _folded(system.engine.ranker.core.context.user, known)
    return replace(system, store=big)


def _folded(table: Any, known: int) -> Any:
    """A table of users' vectors that answers for ids beyond it with those of the known."""
    look = table.forward
    table.forward = lambda ids: look(torch.where(ids > known, (ids - 1) % known + 1, ids))
    return table


# -- every pair of models ---------------------------------------------------------------------------------------------


def models(bench: Bench) -> None:
    """Microseconds per list of every retriever with every ranker, 1, 6 and 60 together, and how the plan agrees."""
    planning.LONG_JUDGED = LONG_JUDGED
    parts = pairs.Parts(bench.quick, bench.data_dir, bench.folder)
    names = [(first, second) for first in pairs.SETTINGS for second in pairs.RANKERS]
    if bench.quick:
        names = [
            (first, second)
            for first, second in names
            if first in ("ease", "ials", "sasrec") and second in ("none", "deepfm")
        ]
    for first, second in names:
        torch.set_num_threads(2)
        system = parts.system(first, second)
        started = time.perf_counter()
        planning.JUDGED = JUDGED if second == "none" or first == pairs.MAKER else FEWER
        plan = planning.make(system)
        facts: dict[str, Any] = {"retriever": first, "ranker": second, "source": parts.source}
        torch_alone = isinstance(plan, str)
        facts |= {
            "plan": {"torch": plan} if torch_alone else plan.describe(),
            "made_s": round(time.perf_counter() - started, 2),
        }
        torch.set_num_threads(1)
        bench.record("pair", **facts, **_pair_cost(bench, system, None if torch_alone else plan))
        gc.collect()


def _pair_cost(bench: Bench, system: Any, plan: Any) -> dict[str, Any]:
    """Of lists by the plan, by torch, and of what an event makes anew (query vector and context row)."""
    store = system.store
    known = store.trained_users.nonzero().squeeze(1)
    rng = torch.Generator().manual_seed(0)
    out: dict[str, Any] = {}
    seconds = 0.01 if bench.quick else 0.03
    for together in TOGETHER:
        asked = [known[torch.randint(len(known), (together,), generator=rng)] for _ in range(8)]
        ways = _ways(system, plan, [store.contexts(some, time.time_ns() // 1000) for some in asked])
        sides = {name: partial(cost, call, together, seconds, least=1) for name, call in ways.items()}
        for _, name, _, found in interleaved(sides, bench.rounds):
            out.setdefault(f"{name}_{together}", []).append(found["us"])
    return {"us": {name: round(median(values), 1) for name, values in out.items()}}


def _ways(system: Any, plan: Any, contexts: list[Any]) -> dict[str, Callable[[int], Any]]:
    """What is timed: the precise lists, and where there is a plan its lists and what it prepares."""
    engine = system.engine

    def precise(at: int) -> Any:
        one = contexts[at % len(contexts)]
        return engine.lists(one, worlds.K, Filters(one.history))

    if plan is None:
        return {"torch": precise}
    states = [plan.prepare(one) for one in contexts]

    def fast(at: int) -> Any:
        at %= len(contexts)
        return plan.lists(states[at], worlds.K, contexts[at].history)

    return {"torch": precise, "plan": fast, "prepare": lambda at: plan.prepare(contexts[at % len(contexts)])}
