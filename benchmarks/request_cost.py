"""What one request costs, by the number of users and items it is not about.

    python benchmarks/request_cost.py      # half a minute and 2 GB at 10 million users and items

A request names one user and gives a history of HISTORY items; EXCLUDED items are excluded, and the list is chosen among
AMONG items.  Systems of every size are made directly, of ids that are text and of counts that are drawn, since nothing
of a training matters here: Popularity, whose exact search scores the items the list is chosen among, and Popularity
over an index that always returns the same row, where the list may come from the whole catalogue and only look-ups are
left.  Requests differ from each other, sizes take turns.  Medians of one thread, of the wall and of the processor; a
round's lines go to results/request_cost.jsonl.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
import polars as pl
import torch
from common import append, median, parser, stamp

import suisen as su
from suisen.data.batch import Schema
from suisen.data.encode import Encoder
from suisen.data.ids import IdMap
from suisen.data.ragged import Ragged
from suisen.models.contract import ItemTable
from suisen.recommending.answering import answer
from suisen.recommending.engine import Engine
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.store import Store
from suisen.recommending.system import System

FILE = "request_cost.jsonl"
SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
HISTORY, EXCLUDED, AMONG, K = 20, 100, 1_000, 10
EVENTS_PER_USER = 2
CASES = ("popularity", "one-row index")


class OneRow:
    """An index that answers every query with the first position."""

    def __init__(self, n: int) -> None:
        self.vectors = np.zeros((n, 1), dtype=np.float32)

    def search(self, queries: np.ndarray, k: int, *_: Any, **__: Any) -> tuple[np.ndarray, np.ndarray]:
        """(B, k) positions, all but the first −1, and scores."""
        ids, scores = np.full((len(queries), k), -1), np.full((len(queries), k), -np.inf, dtype=np.float32)
        ids[:, 0], scores[:, 0] = 0, 1.0
        return ids, scores


def id_map(name: str, size: int, rng: np.random.Generator) -> IdMap:
    """``size`` different ids, like ``user-03871274``, in any order."""
    numbers = pl.Series("raw", rng.permutation(size)).cast(pl.String)
    return IdMap(name, (pl.Series([f"{name}-"]) + numbers.str.zfill(8)).alias("raw"))


def store_of(size: int, rng: np.random.Generator) -> Store:
    """A store of ``size`` users and as many items."""
    counts = torch.from_numpy(rng.integers(1, 1_000, size + 1))
    trained = torch.ones(size + 1, dtype=torch.bool)
    trained[0], counts[0] = False, 0
    events = EVENTS_PER_USER * size
    offsets = (EVENTS_PER_USER * (torch.arange(size + 2) - 1)).clamp(min=0)
    return Store(
        users=id_map("user", size, rng),
        items=id_map("item", size, rng),
        schema=Schema(size + 1, size + 1),
        encoders={owner: Encoder() for owner in ("user", "item", "context")},
        user_frame=pl.DataFrame(height=size + 1),
        item_frame=pl.DataFrame(height=size + 1),
        trained_users=trained,
        trained_items=trained,
        item_counts=counts,
        histories=Ragged(torch.from_numpy(rng.integers(1, size + 1, events)), offsets),
        history_times=torch.arange(events),
        has_time=True,
    )


def system_of(store: Store, case: str) -> System:
    """The store's Popularity, ready to answer."""
    model = su.Popularity()
    net = model.build(store.schema)
    net.bind(ItemTable(store.item_features, store.trained_items))
    net.counts.copy_(store.item_counts[:, None])
    index: Any = OneRow(len(store.items) - 1) if case == "one-row index" else None
    return System(model, None, store, Engine(net, None, store.trained_items, 500, index))


def request_of(store: Store, case: str, rng: np.random.Generator) -> tuple[RawQueries, RecommendOptions]:
    """A request in raw ids, for a random user."""
    size = len(store.items) - 1

    def items(count: int) -> list[str]:
        return store.items.raw_ids.gather(rng.integers(0, size, count)).to_list()

    user = store.users.raw_ids[int(rng.integers(size))]
    among = items(AMONG) if case == "popularity" else None
    return RawQueries(users=[user], history=[items(HISTORY)]), RecommendOptions(
        k=K, exclude=items(EXCLUDED), among=among
    )


def timed(system: System, case: str, requests: int, rng: np.random.Generator) -> dict[str, float]:
    """Median milliseconds of ``requests`` requests, made beforehand."""
    made = [request_of(system.store, case, rng) for _ in range(requests)]
    wall, cpu = [], []
    for queries, options in made:
        started, used = time.perf_counter(), time.process_time()
        answer(system, queries, options)
        wall.append(1e3 * (time.perf_counter() - started))
        cpu.append(1e3 * (time.process_time() - used))
    return {"ms_wall": round(median(wall), 4), "ms_cpu": round(median(cpu), 4)}


def facts_of(store: Store) -> dict[str, Any]:
    """The size of a store, and what its users' ids take."""
    started = time.perf_counter()
    table = store.users.table
    seconds = time.perf_counter() - started
    store.ready()  # as a server makes it before its first request
    return {
        "users": len(store.users) - 1,
        "items": len(store.items) - 1,
        "table_bytes_per_id": round(table.nbytes / max(1, len(store.users) - 1), 2),
        "text_bytes_per_id": round(store.users.raw_ids.estimated_size() / max(1, len(store.users) - 1), 2),
        "table_seconds": round(seconds, 4),
    }


def main(arguments: list[str] | None = None) -> int:
    """Rounds of all sizes and cases; their order is turned around every other round."""
    made = parser(__doc__ or "")
    made.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="users, and as many items")
    made.add_argument("--requests", type=int, default=100, help="requests of a size in a round")
    options = made.parse_args(arguments)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    stores = [store_of(size, rng) for size in options.sizes]
    facts = [facts_of(store) for store in stores]
    places = [(at, case, system_of(store, case)) for at, store in enumerate(stores) for case in CASES]
    run = {"run": time.strftime("%Y%m%dT%H%M%S", time.gmtime()), "threads": 1, **stamp()}
    shape = {"history": HISTORY, "excluded": EXCLUDED, "among": AMONG, "k": K, "requests": options.requests}
    for number in range(-1, options.rounds):  # round −1 warms up and is thrown away
        for at, case, system in places if number % 2 else places[::-1]:
            found = timed(system, case, options.requests if number >= 0 else 5, rng)
            if number >= 0:
                append(FILE, {"round": number, "case": case, **facts[at], **found, "params": shape, **run})
                print(f"{case}, {facts[at]['users']:,} users and items: {found}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
