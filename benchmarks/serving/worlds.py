"""The systems that are measured: trained once, kept under ``runs/bench-serving`` by what they were trained from.

*world*: 10,000 users, 50,000 items, about 100 items seen per user, Two-Tower vectors of 128 numbers, 500 candidates,
DeepFM over 10 fields × 16 with layers of 256, 128 and 64.  *films*: the same models on MovieLens-1M (a world of its
size where the file is absent; the record says which).

Training is kept whatever the commit: its key is a hash of the settings.  What a bundle lays out for answering is made
anew at every commit, by saving the trained system again.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from common import ROOT, Lines, commit

import suisen as su
from suisen.data.log import Log
from suisen.pipeline.two_stage import RankerLists
from suisen.recommending import planning

FOLDER = ROOT / "runs" / "bench-serving"
FIELDS = 10
"""Fields of the ranker: user id, age, segment, history, recent; item id, price, category, tags, brand."""
K, CANDIDATES = 10, 500
LARGE = 1_000
"""Users from which on a second thread helps training."""


@dataclass(frozen=True)
class Plan:
    """What a system is trained from; the hash of it names the folder."""

    name: str
    users: int
    items: int
    groups: int
    sessions: float
    events: float
    retriever: Any
    ranker: Any
    questions: int
    """Lists that the ranker learns on."""
    candidates: int = CANDIDATES
    source: str = "world"
    """world: synthetic; ml-1m.zip: a file of the data folder."""

    @property
    def key(self) -> str:
        """Of everything above."""
        facts = {**asdict(self), "models": [type(one).__name__ for one in (self.retriever, self.ranker)]}
        return blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()


def two_tower(dim: int, epochs: int) -> Any:
    """The retriever of the workload."""
    return su.TwoTower(dim=dim, hidden=(dim,), epochs=epochs, batch_size=1024)


def deepfm(epochs: int, hidden: tuple[int, ...] = (256, 128, 64)) -> Any:
    """The ranker of the workload."""
    return su.DeepFM(dim=16, hidden=hidden, epochs=epochs)


def world_plan(quick: bool) -> Plan:
    """The workload of the goals; ``quick``: a small one, for trying the benchmark itself."""
    if quick:
        return Plan("world", 300, 1_500, 8, 6, 4, two_tower(32, 2), deepfm(2, (64, 32)), 500, candidates=200)
    return Plan("world", 10_000, 50_000, 32, 18, 6, two_tower(128, 1), deepfm(2), 12_000)


def films_plan(quick: bool, data_dir: Path) -> Plan:
    """MovieLens-1M, or a world of its size."""
    source = "ml-1m.zip" if (data_dir / "ml-1m.zip").exists() else "world"
    if quick:
        return Plan("films", 200, 600, 8, 6, 4, two_tower(16, 2), deepfm(2, (32,)), 500, candidates=100)
    return Plan("films", 6_040, 3_706, 16, 30, 6, two_tower(64, 1), deepfm(2), 5_000, source=source)


def generated(plan: Plan) -> Log:
    """The log of a synthetic world; items have one feature more than the package's world gives them."""
    world = su.World(
        users=plan.users, items=plan.items, groups=plan.groups, sessions=plan.sessions, events=plan.events,
        repeats=False, seed=1,
    )  # fmt: skip
    log = world.generate().log
    rng = np.random.default_rng(2)
    brands = rng.integers(max(2, plan.items // 50), size=plan.items) if log.items is not None else []
    named = pl.Series("brand", [f"brand-{one}" for one in brands])
    assert log.items is not None
    return replace(log, items=log.items.with_columns(named))


def dataset_of(plan: Plan, data_dir: Path) -> Any:
    """The events of a plan."""
    if plan.source == "world":
        return su.Dataset.of(generated(plan))
    return su.load_data("ml-1m", data_dir=data_dir)


# -- trained once -----------------------------------------------------------------------------------------------------


def recommender_of(plan: Plan, seconds: float, data_dir: Path) -> Any:
    """A fitted Recommender; no phase starts an epoch after ``seconds``."""
    torch.set_num_threads(1 if plan.users < LARGE else min(2, os.cpu_count() or 1))
    lists = RankerLists(most_questions=plan.questions)
    made = su.Recommender(plan.retriever, plan.ranker, candidates=plan.candidates, lists=lists)
    return made.fit(dataset_of(plan, data_dir), options=su.RunOptions(max_seconds=seconds, callbacks=(Lines(),)))


def kept(place: Path, make: Callable[[Path], None]) -> Path:
    """The folder ``place``, made by ``make`` in a folder beside it that is renamed once it is whole."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        fresh = place.with_name(f"{place.name}.{os.getpid()}")
        shutil.rmtree(fresh, ignore_errors=True)
        make(fresh)
        fresh.rename(place)
    return place


def save_trained(made: Any, place: Path) -> None:
    """Saves a Recommender that is laid out again before it answers: its plan is measured on few queries."""
    usual = planning.JUDGED
    planning.JUDGED = 100
    try:
        made.save(place)
    finally:
        planning.JUDGED = usual


def trained(plan: Plan, data_dir: Path, folder: Path = FOLDER, seconds: float = 40.0) -> Path:
    """The bundle of a plan as it was trained, whatever the commit; made where it is missing."""

    def make(place: Path) -> None:
        started = time.perf_counter()
        save_trained(recommender_of(plan, seconds, data_dir), place)
        print(f"{plan.name} trained in {time.perf_counter() - started:.0f} s", flush=True)

    return kept(folder / f"{plan.name}-{plan.key}" / "trained", make)


def served(plan: Plan, data_dir: Path, folder: Path = FOLDER) -> Path:
    """The bundle as this commit lays it out; made again of the trained one at every commit, and whenever it changed."""
    at = commit()
    before = trained(plan, data_dir, folder)
    if at.endswith("+"):
        shutil.rmtree(before.parent / at, ignore_errors=True)

    def make(place: Path) -> None:
        started = time.perf_counter()
        su.load(before).save(place)
        print(f"{plan.name} laid out in {time.perf_counter() - started:.1f} s", flush=True)

    return kept(before.parent / at, make)


def facts_of(plan: Plan) -> dict[str, Any]:
    """What a record says of the system that it measured."""
    return {
        "world": plan.name, "source": plan.source, "users": plan.users, "items": plan.items,
        "candidates": plan.candidates, "dim": plan.retriever.dim, "hidden": list(plan.ranker.hidden), "k": K,
    }  # fmt: skip


def main() -> int:
    """Trains and lays out, in a process of its own: ``python -m serving.worlds NAME DATA_DIR FOLDER [quick]``."""
    name, data_dir, folder, *quick = sys.argv[1:]
    plan = films_plan(bool(quick), Path(data_dir)) if name == "films" else world_plan(bool(quick))
    print(served(plan, Path(data_dir), Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
