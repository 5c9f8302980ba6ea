"""How good live answers are: a thread looks at a sample of them, beside the answering and at a bounded cost.

*Recall.*  A live query is answered again by the precise way; counted are identical first tens and the items of the
precise one that the live one holds.  The query is answered live before and after: where those two differ, an event came
between, and nothing is compared.

*Scores.*  The first ten scores of live lists are counted by tenth of the bundle's own: those that the users of events
spread over the bundle's log get.  The parity fixture asks the same way, but 6 users are no distribution.  From the
counts the population stability index is Σ (p − q) · ln(p / q), where p is the live share of each tenth and q the
bundle's; as counters they add up over workers and hosts, and the index is computed where they are read
(``deploy/prometheus``).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch

from suisen.errors import InputError
from suisen.recommending.answering import answer, planned
from suisen.recommending.queries import RawQueries, RecommendOptions
from suisen.recommending.rules.declared import Rules
from suisen.recommending.store import Store
from suisen.serving.meter import FIRST, Sample
from suisen.serving.telemetry import TENTHS, Telemetry

if TYPE_CHECKING:
    from suisen.retrieval.contract import Floats
    from suisen.serving.answering import Answering

logger = logging.getLogger("suisen.serving")
TICK_S = 1.0
"""Seconds between two looks, at least."""
ASKERS, AT_A_TIME = 256, 16
"""Users whose scores are the bundle's own, and how many of them are asked for in one look."""
JOIN_S = 1.0
"""Most seconds that ``stop`` waits."""


class OwnScores:
    """The distribution of a bundle's scores, found a few users at a time."""

    def __init__(self, store: Store) -> None:
        self._askers = store.users.raw(_askers(store).numpy()).to_list()
        self._found: list[float] = []
        self.edges: Floats | None = None
        """(9,) between the tenths; None until all users were asked for, or where there are none."""
        self.shares: Sequence[float] = ()
        """Of the bundle's own scores in each tenth: unequal where scores tie."""

    def learn(self, answering: Answering) -> bool:
        """Asks for some more users; True once all were."""
        some, self._askers = self._askers[:AT_A_TIME], self._askers[AT_A_TIME:]
        if some:
            options = RecommendOptions(FIRST, unknown="popular", precise=False)
            try:
                lists = answer(answering.system, RawQueries(some), options)
            except InputError:  # a rule reads what requests bring and nothing stored of these users says
                lists = answer(answering.system, RawQueries(some), replace(options, rules=Rules()))
            rows = [place for place, by in enumerate(lists.by) if by == "model"]
            self._found += lists.scores[rows].flatten().tolist()
        found = np.array(self._found, dtype=np.float32)
        found = found[np.isfinite(found)]
        if not self._askers and self.edges is None and found.size:
            self.edges = np.quantile(found, np.arange(1, TENTHS) / TENTHS).astype(np.float32)
            self.shares = (self.counts(found) / found.size).tolist()
        return not self._askers

    def counts(self, scores: Floats) -> np.ndarray:
        """(10,) how many scores fall in each tenth."""
        if self.edges is None:
            return np.zeros(TENTHS, dtype=np.int64)
        return np.bincount(np.searchsorted(self.edges, scores), minlength=TENTHS)


def _askers(store: Store) -> torch.Tensor:
    """Dense users of events spread over the log: who did much stands there often, as in live requests."""
    offsets = store.histories.offsets
    events = int(offsets[-1])
    spread = torch.linspace(0, max(0, events - 1), min(ASKERS, events)).long()
    return torch.searchsorted(offsets, spread, right=True) - 1


class Quality:
    """The thread."""

    def __init__(self, telemetry: Telemetry, current: Callable[[], Answering | None], share: float) -> None:
        """``current``: what answers now; ``share``: most of a core that looking may take, 0: nothing is looked at."""
        self._telemetry, self._current, self._share = telemetry, current, share
        self._own: WeakKeyDictionary[Answering, OwnScores] = WeakKeyDictionary()
        self._told: OwnScores | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="suisen-quality", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        if self._share > 0:
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread, or leaves it to its last look."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(JOIN_S)

    def _run(self) -> None:
        pause = TICK_S
        while not self._over.wait(pause):
            began = perf_counter()
            try:
                self.look()
            except Exception:
                self._telemetry.probe_failures.inc()
                logger.exception("a look at live answers failed")
            pause = max(TICK_S, (perf_counter() - began) / self._share)

    def look(self) -> None:
        """One look: at some of the bundle's own scores until they are known; then at live scores and one live list."""
        answering = self._current()
        if answering is None or answering.meter is None:
            return
        own = self._own.get(answering)
        if own is None:
            own = self._own[answering] = OwnScores(answering.system.store)
        if not own.learn(answering):
            return
        if self._told is not own and own.edges is not None:  # the first look, or another version answers now
            self._told = own
            self._telemetry.tell_scores(own.shares)
        waiting = answering.meter.samples
        samples = [waiting.popleft() for _ in range(len(waiting))]
        scores = np.array([score for sample in samples for score in sample.scores], dtype=np.float32)
        for tenth, count in enumerate(own.counts(scores[np.isfinite(scores)]).tolist(), 1):
            if count:
                self._telemetry.scores.labels(tenth).inc(count)
        if samples:
            self._probe(answering, samples[-1])

    def _probe(self, answering: Answering, sample: Sample) -> None:
        """Compares a live list with the precise one."""
        options, told = sample.options, self._telemetry
        if options.precise or not planned(answering.system, options):
            return
        ways = (options, replace(options, precise=True), options)
        lists = [answering.found([sample.query], [way]).items[0, :FIRST].tolist() for way in ways]
        live, precise, again = ([item for item in items if item] for items in lists)
        if live != again:
            told.probe_failures.inc()
            return
        told.probes.inc()
        told.probes_identical.inc(live == precise)
        told.probe_items.inc(len(precise))
        told.probe_items_found.inc(len(set(live) & set(precise)))
