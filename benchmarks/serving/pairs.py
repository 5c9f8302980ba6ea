"""Every retriever and every ranker, each trained once on a fifth of MovieLens-1M, put together in every way.

The rankers learnt on lists of one retriever (iALS).  The features that tell a ranker of retrieval are standardised per
list, so that it can stand behind any retriever: what is measured here is what an answer costs and how its lists agree,
not how good they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import polars as pl
from common import Lines

import suisen as su
from serving import worlds
from suisen.data.log import Col, Log
from suisen.data.sources import load
from suisen.models import RETRIEVERS
from suisen.models.contract import Ranker
from suisen.pipeline.two_stage import RankerLists
from suisen.recommending import bundle
from suisen.recommending.engine import Engine, build_index, recommendable
from suisen.recommending.system import System
from suisen.retrieval import Exact

USERS = 1_300
"""So many that a plan is judged by a thousand."""
SHORT = {"epochs": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "popularity": {}, "ease": {}, "item-knn": {}, "ials": {"dim": 64, "epochs": 6}, "mf": {"dim": 64, **SHORT},
    "gmf": {"dim": 64, **SHORT}, "two-tower": {"dim": 64, "epochs": 1}, "gru4rec": {"epochs": 1},
    "sasrec": {"epochs": 1}, "bert4rec": {"epochs": 1}, "lightgcn": SHORT,
}  # fmt: skip
QUESTIONS = 2_000
"""Lists that a ranker learns on."""
HIDDEN = (256, 128, 64)
RANKERS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "fm": lambda: su.FM(dim=16, **SHORT),
    "deepfm": lambda: su.DeepFM(dim=16, hidden=HIDDEN, **SHORT),
    "dnn": lambda: su.DNN(dim=16, hidden=HIDDEN, **SHORT),
    "wide-deep": lambda: su.WideDeep(dim=16, hidden=HIDDEN, **SHORT),
    "dcn-v2": lambda: su.DCNv2(dim=16, hidden=HIDDEN, **SHORT),
}
MAKER = "ials"
"""Whose lists the rankers learn on."""


def log_of(quick: bool, data_dir: Path) -> tuple[Log, str]:
    """The events, and where they are from."""
    if quick:
        return su.World(users=150, items=400, sessions=6, repeats=False, seed=3).generate().log, "world"
    if not (data_dir / "ml-1m.zip").exists():
        made = su.World(users=USERS, items=1_682, sessions=26, repeats=False, seed=3)
        return made.generate().log, "world"
    log = load("ml-1m", data_dir=data_dir)
    some = log.events[Col.USER].unique().sort().head(USERS)
    kept = replace(
        log,
        events=log.events.filter(pl.col(Col.USER).is_in(some.implode())),
        users=None if log.users is None else log.users.filter(pl.col(Col.USER).is_in(some.implode())),
    )
    return kept, f"ml-1m.zip, {USERS} users"


class Parts:
    """Networks of every retriever and ranker, trained where they are missing and kept as bundles."""

    def __init__(self, quick: bool, data_dir: Path, folder: Path) -> None:
        self.log, self.source = log_of(quick, data_dir)
        self.quick = quick
        self.data = su.Dataset.of(self.log)
        facts = f"{self.source} {quick} {SETTINGS} {HIDDEN} {SHORT} {QUESTIONS} {len(self.data.events)}"
        self.loaded: dict[str, System] = {}
        self.folder = folder / f"pairs-{blake2b(facts.encode(), digest_size=6).hexdigest()}"

    def system(self, retriever: str, ranker: str) -> System:
        """Both, put together; no plan yet."""
        first = self._kept(retriever, "none")
        if ranker == "none":
            return first
        second = self._kept(MAKER, ranker)
        net = second.engine.ranker
        assert isinstance(net, Ranker)
        engine = Engine(
            first.engine.retriever, net, recommendable(first.retriever, self.data.trained_items),
            worlds.CANDIDATES, build_index(first.engine.retriever, Exact()),
        )  # fmt: skip
        return System(first.retriever, second.ranker, first.store, engine)

    def _kept(self, retriever: str, ranker: str) -> System:
        def make(place: Path) -> None:
            started = time.perf_counter()
            settings = {
                **SETTINGS[retriever],
                **({"epochs": 1} if self.quick and "epochs" in SETTINGS[retriever] else {}),
            }
            lists = RankerLists(most_questions=QUESTIONS)
            made = su.Recommender(
                RETRIEVERS[retriever](**settings), RANKERS[ranker](), candidates=worlds.CANDIDATES, lists=lists
            )
            made.fit(self.data, options=su.RunOptions(max_seconds=20.0, callbacks=(Lines(),)))
            worlds.save_trained(made, place)
            print(f"{retriever} + {ranker} trained in {time.perf_counter() - started:.0f} s", flush=True)

        name = f"{retriever}-{ranker}"
        if name not in self.loaded:
            self.loaded[name] = bundle.load(worlds.kept(self.folder / name, make))
        return self.loaded[name]
