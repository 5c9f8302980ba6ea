"""The plan of an answer: what a request needs, laid out beforehand, and lists from it by compiled kernels.

A request's contexts become ``States`` once: query vectors, and rows of the ranker's form.  ``lists`` then is one call:
scan → exclusions → candidates → pair features → ranker → top k.  What does not compile runs on torch inside the same
two steps: the first stage where it has no vectors or an approximate index was chosen, the ranker where it has no form.
Where its form is not exact, the form chooses, and the ranker itself orders on torch those that it finds best.

How much is rounded on the way is the plan's ``speed``; ``agreement`` says how often its lists are those of
``Engine.lists``, measured when the bundle was made (``suisen.recommending.planning``).
"""

from copy import copy
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from suisen.data.batch import Contexts
from suisen.data.ragged import Ragged
from suisen.models.form import Form
from suisen.recommending.engine import Engine, Filters, Open, States, wide
from suisen.recommending.kernels import PRECISE, Quantised, RankTables, Speed, candidates, path_of, ranked, two_stage
from suisen.recommending.kernels.quantised import Words
from suisen.recommending.sources import pair_features
from suisen.retrieval import Excluded
from suisen.retrieval.contract import Floats

MOST = 1_000
"""Largest k of a plan; a longer list is an export, which torch makes."""
SHORT, LONG = 10, 100
"""Lengths of lists at which a plan is measured: the longer the list, the more of its neighbours nearly tie."""


@dataclass(frozen=True)
class Agreement:
    """How a plan's first ten compare with those of ``Engine.lists``, on held-back queries."""

    identical: float
    """Share of the queries whose lists are the same items in the same order."""
    overlap: float
    """Mean share of the precise list that is in the plan's."""
    ndcg: float
    """NDCG@10 of the plan's lists, where the last item of each history was held back."""
    precise_ndcg: float
    """The same of the precise lists."""
    queries: int


class Plan:
    """The fast way of an ``Engine``."""

    most = MOST

    def __init__(self, engine: Engine, table: Quantised | None, ranks: RankTables | None, form: Form | None) -> None:
        """``table``: the retriever's vectors, None where the first stage runs on torch.  ``ranks`` and ``form``: of the
        ranker, both None where there is none or all of it runs on torch.
        """
        self.engine, self.table, self.ranks, self.form = engine, table, ranks, form
        self.path = self.measured_on = path_of()
        """What the kernels run on here, and where the agreement was measured: all paths are held to the same lists."""
        self.speed = self.long_speed = PRECISE
        """Of lists of at most ``SHORT`` and of at most ``LONG`` items; longer ones are made in float32."""
        self.best = 0
        """Candidates that the ranker orders on torch where its form is not exact; at least 2 k of them are taken."""
        self.long_identical = 0.0
        """Share of the lists of ``LONG`` items that are identical at ``long_speed``: less than was asked for only where
        float32 itself reaches no more.
        """
        self.agreement: Agreement | None = None
        """None: not measured yet."""
        self._bits: WeakKeyDictionary[Open, Words] = WeakKeyDictionary()

    def of(self, engine: Engine) -> "Plan":
        """The same for an engine that shares all but ``open`` with this one's."""
        other = copy(self)
        other.engine = engine
        return other

    def describe(self) -> dict[str, Any]:
        """Plain data: where each stage runs, the share of the cells that a query reads, the speed, the agreement, the
        path.
        """
        cells = None if self.table is None else self.table.cells
        ranker = None if self.engine.states is None else "compiled" if self._compiled else "torch"
        return {
            "candidates": "torch" if self.table is None else "compiled",
            "read": 1.0 if cells is None else round(cells.probes / len(cells.centres.vectors), 4),
            "ranker": ranker,
            "best": self.best,
            "speed": self.speed._asdict(),
            "long_speed": self.long_speed._asdict(),
            "long_identical": self.long_identical,
            "agreement": None if self.agreement is None else asdict(self.agreement),
            "path": self.path,
            "measured_on": self.measured_on,
        }

    @property
    def quick(self) -> bool:
        """Whether ``lists`` is short enough for an event loop: neither stage runs on torch altogether."""
        return self.table is not None and (self.engine.states is None or self.ranks is not None)

    def _allowed(self, open_: Open | None) -> Words | None:
        """What lists may hold, the engine's where nothing is said, as the table's bits: made once of each ``Open``."""
        if self.table is None:
            return None
        open_ = open_ or self.engine.open
        words = self._bits.get(open_)
        if words is None:
            words = self._bits[open_] = self.table.open_to(open_.mask[1:].numpy())
        return words

    @property
    def _compiled(self) -> bool:
        """Whether the ranker's scores are those of its tables."""
        return self.form is not None and self.form.exact

    def speed_of(self, k: int) -> Speed:
        """What lists of k items are made at."""
        return self.speed if k <= SHORT else self.long_speed if k <= LONG else PRECISE

    @torch.no_grad()
    def prepare(self, contexts: Contexts) -> States:
        """What ``lists`` needs of B contexts."""
        engine = self.engine
        queries = engine.first.prepare(contexts).float().cpu().numpy()
        if engine.ranker is None or engine.states is None:
            return States(queries, None)
        state = engine.ranker.context_state(contexts.to(engine.first.device))
        parts = [] if self.form is None else [self.form.context(state)]
        rows = torch.cat(parts if self._compiled else [*parts, state], 1)
        return States(queries, rows.float().cpu().numpy())

    def lists(
        self, states: States, k: int, exclude: Ragged, among: Tensor | None = None, open_: Open | None = None
    ) -> tuple[Tensor, Tensor]:
        """(B, k) dense ids, 0 = none, and their scores, descending: min(k, items that are left) per row.

        ``exclude``: B rows of dense items; ``among``: rising dense items, the only ones; ``open_``: what lists may hold
        in place of what the engine's may.  k is at most ``most``.
        """
        n = k if states.rows is None else max(k, self.engine.candidates)
        compiled = states.rows is None or self._compiled
        if self.table is not None and among is None and compiled:
            gone = Excluded(exclude.values.numpy() - 1, exclude.offsets.numpy())
            allowed = self._allowed(open_)
            found, scores = two_stage(
                self.table, self.ranks, states.queries, states.rows, n, k, gone, allowed, self.speed_of(k)
            )
            return torch.from_numpy(found) + 1, torch.from_numpy(scores)
        ids, retrieved = self._candidates(states.queries, n, Filters(exclude, among, open_))
        if states.rows is None:
            return wide(ids[:, :k], k, 0), wide(retrieved[:, :k], k, -torch.inf)
        if compiled and self.ranks is not None:
            found, scores = ranked(self.ranks, ids.numpy() - 1, retrieved.numpy(), states.rows, k, self.speed_of(k))
            return torch.from_numpy(found) + 1, torch.from_numpy(scores)
        return self._on_torch(states.rows, ids, retrieved, k)

    def _on_torch(self, rows: Floats, ids: Tensor, retrieved: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """``lists`` of (B, n) candidates by the ranker itself; of the best alone, where there is a form to choose."""
        pair = pair_features(retrieved, ids > 0)
        if self.ranks is not None:
            cut, best = self.ranks.rows.shape[1], max(self.best, 2 * k)
            if best < ids.shape[1]:
                own = np.ascontiguousarray(rows[:, :cut])
                found, _ = ranked(self.ranks, ids.numpy() - 1, retrieved.numpy(), own, best, self.speed)
                order = ids.argsort(dim=1)
                places = torch.searchsorted(ids.gather(1, order), torch.from_numpy(found) + 1)  # (B, best)
                places = order.gather(1, places).sort(dim=1).values  # in retrieval order again: ties fall as ever
                ids, pair = ids.gather(1, places), pair.gather(1, places[:, :, None].expand(-1, -1, pair.shape[2]))
            rows = rows[:, cut:]
        scored = self.engine.combined(torch.from_numpy(rows).to(self.engine.first.device), ids, pair)
        top, order = scored.sort(dim=1, descending=True, stable=True)
        return wide(ids.gather(1, order)[:, :k], k, 0), wide(top[:, :k], k, -torch.inf)

    def _candidates(self, queries: Floats, n: int, filters: Filters) -> tuple[Tensor, Tensor]:
        """(B, at most n) dense ids and first-stage scores, descending."""
        if self.table is None or filters.among is not None:
            state = torch.from_numpy(queries).to(self.engine.first.device)
            return self.engine.search(state, n, filters)
        gone = Excluded(filters.exclude.values.numpy() - 1, filters.exclude.offsets.numpy())
        found, scores = candidates(self.table, queries, n, gone, self._allowed(filters.open))
        return torch.from_numpy(found) + 1, torch.from_numpy(scores)
