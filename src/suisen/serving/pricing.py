"""What a request costs, known before it is computed: so that a small body cannot ask for minutes of work.

A price counts units; a unit is a microsecond or some of one core.  The constants below are rough: reckoned from figures
of 50,000 items with vectors of 128 floats, 500 candidates and DeepFM (one AVX-512 core, 2026); on a busy machine a unit
took 1 to 5 µs.  What a unit takes ``serving.pace`` learns while it runs.  Prices order requests and bound them, they
promise no time.

    queries × (plan, or first stage + max(k, candidates) × ranking + diversity + k) + ids that the request brings

The plan's part is what its kernels take.  On torch the first stage is the network and the scan of the catalogue, or,
for a model without vectors, the sum of what it keeps of each item of a history.  Diversity compares k × candidates
pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

from suisen.recommending.answering import planned
from suisen.recommending.diversity import ALL_PAIRS, FROM
from suisen.recommending.queries import RecommendOptions
from suisen.recommending.rules.ruling import SPREAD
from suisen.recommending.system import System
from suisen.serving.messages import Query, RankQuery

QUERY, PLANNED_QUERY = 300.0, 20.0
"""Units per query before anything is scanned: of a network on torch, of the plan."""
ITEM = 1.0
"""Per item of a list: its id and title, its JSON."""
GIVEN = 0.3
"""Per id that a request brings."""
CONDITION = 1 / 10
"""Per item of the catalogue and condition of ``where``."""
MULTIPLIED, READ, KERNEL = 1 / 40_000, 1 / 4_000, 1 / 130_000
"""Per multiply-add: of a product of matrices, of vectors that are gathered first, of the plan's integer scan."""
CHOSEN = 1 / 150
"""Per score of the catalogue from which the best are chosen."""
RANKED, RANKED_BY_PLAN, WIDTH = 0.4, 0.25, 1 / 200
"""Per candidate: its ranking on torch, by the plan; and per float of its state, on torch."""
SUMMED = 1 / 1_000
"""Per number that a model without vectors adds up for an item of a history."""
RULED = 1 / 250
"""Per item of the catalogue where rules read the request: what lists may hold, where no request before asked alike."""
FILLED, LOOKED_AT = 20.0, 1 / 250
"""Per place that caps and pins fill, and per candidate that is looked at for it."""
PICKED, COMPARED = 5.0, 0.5
"""Per pick of diversity, and per pair that a model without vectors compares."""


class Prices:
    """The prices of one version's answers, in units.  A request of the plan is priced in 0.8 µs, any other in a few."""

    def __init__(self, system: System) -> None:
        engine = system.engine
        self._system, self._n, self._candidates = system, len(engine.allowed), engine.candidates
        dims = [0 if source.index is None else source.index.vectors.shape[1] for source in engine.sources]
        self._dim, self._whole = sum(dims), not all(dims)
        nets = [source.net for source, dim in zip(engine.sources, dims, strict=True) if not dim]
        kept = sum(part.numel() for net in nets for part in (*net.parameters(), *net.buffers())) / self._n
        self._summed = kept * SUMMED
        self._scan = QUERY * len(dims) + self._n * (self._dim * MULTIPLIED + CHOSEN * len(dims))
        self._each = 0.0
        """Per candidate on torch."""
        if engine.states is not None:
            self._each = RANKED + engine.states.shape[1] * WIDTH
        elif engine.retriever is None and engine.union is None:
            states = engine.first.items
            self._scan += self._n * (RANKED + (0 if states is None else states.shape[1]) * WIDTH)
        rules = system.rules
        self._by_request = RULED * self._n if system.bound_rules.request else 0.0
        self._moves = bool(rules.cap or rules.boost or rules.pin)
        self._planned = PLANNED_QUERY + self._n * self._dim * KERNEL
        if engine.states is not None:
            self._planned += self._candidates * RANKED_BY_PLAN
        if engine.plan is not None and not engine.plan.quick:
            self._planned = self._scan + self._candidates * self._each

    def lists(self, queries: Sequence[Query], options: RecommendOptions) -> float:
        """Of ``recommend``."""
        k, many, given = options.k, len(queries), len(options.exclude)
        brought = sum([len(query.history) for query in queries if query.history])
        if options.among is None and planned(self._system, options):
            each = self._planned + k * ITEM + self._under_rules(k)
            return many * each + (given + brought) * GIVEN
        n = self.ranked(options)
        each = self._scan + n * self._each + k * ITEM + self._under_rules(k)
        if options.diversity > 0:
            each += self._diversity(min(k * (SPREAD if self._system.rules.cap else 1), n), n)
        once = (given + len(options.among or ())) * GIVEN + brought * (GIVEN + self._summed)
        if options.where:
            values = sum(len(one) for one in options.where.values() if isinstance(one, list))
            once += len(options.where) * self._n * CONDITION + values * GIVEN
        return once + many * each

    def ranked(self, options: RecommendOptions) -> int:
        """Candidates of a list."""
        widened = self._system.engine.listed or options.diversity > 0
        k = self._system.rules.reserve(options.k, self._candidates)
        return min(self._n, max(k, self._candidates) if widened else k)

    def rank(self, queries: Sequence[RankQuery]) -> float:
        """Of ``rank``."""
        items = sum([len(query.items) for query in queries])
        brought = sum([len(query.history) for query in queries if query.history])
        each = self._dim * READ + max(self._each, RANKED) + GIVEN + ITEM
        whole = self._scan if self._whole else 0.0
        return len(queries) * (QUERY + whole) + items * each + brought * (GIVEN + self._summed)

    def similar(self, k: int) -> float:
        """Of ``similar``."""
        pair = self._dim * READ if self._dim else COMPARED
        return QUERY + self._n * (pair + CHOSEN) + k * ITEM

    def _under_rules(self, k: int) -> float:
        """Of one list of k items: what it may hold, and the filling of its places."""
        n = self._system.rules.reserve(k, self._candidates)
        return self._by_request + (k * (FILLED + n * LOOKED_AT) if self._moves else 0.0)

    def _diversity(self, k: int, n: int) -> float:
        """Of one list of k items out of n candidates."""
        if not self._dim:
            return k * (PICKED + n * COMPARED)
        if n > ALL_PAIRS or k < FROM:
            return k * (PICKED + n * self._dim * READ)
        return k * (PICKED + n * READ) + n * n * self._dim * MULTIPLIED
