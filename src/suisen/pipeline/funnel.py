"""The funnel: what each stage keeps of what the users went on to take, and what it loses.

Recall@N of the candidates, then precision and NDCG@K of the list, each with its 95 % interval; the expected hits in the
top K computed from stage figures; the hits counted.  Two ways to compute the expected hits, and they differ:

* precision measured *end to end* (over all queries): expected hits = K · Precision@K.  Recall is inside it already.
* precision measured *given that* the relevant items were retrieved: expected hits = Recall@N · K · Precision@K.

The textbook's exercise (Recall@500 = 0.8, Precision@10 = 0.3): 3.0 hits in the first reading, 2.4 in the second.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suisen.data.batch import Contexts, Queries
from suisen.display import Shown, Table
from suisen.errors import InputError
from suisen.evaluation.metrics import ndcg_of_hits
from suisen.evaluation.report import interval, number
from suisen.recommending.engine import CONTEXTS_PER_CHUNK, Engine, Filters
from suisen.recommending.requests import asked_of_contexts
from suisen.recommending.rules.ruling import Ruling
from suisen.recommending.system import System
from suisen.stats import bootstrap_means

DEPTHS = (10, 50, 100, 200)
"""Numbers of candidates at which several sources are compared, as far as there are so many."""


@dataclass(frozen=True)
class Figure:
    """A mean over queries with its 95 % bootstrap interval."""

    name: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class StageLoss:
    """What a stage passed on."""

    stage: str
    items: float
    """Items per list, on average."""
    hits: int
    """Relevant items among them, over all queries."""
    lost: int
    """Relevant items that the stage before still had."""


@dataclass(frozen=True)
class SourceRecall:
    """What one of several sources finds by itself; or, as ``union``, what all find together."""

    source: str
    recalls: tuple[float, ...]
    """Recall with as many candidates as ``Funnel.depths`` says."""
    share: float
    """Of the items of the union, those that the source has in its own list as well."""
    alone: float
    """Recall that the union would lose without the source: relevant items in it that no other source has."""


@dataclass(frozen=True)
class RuleCount:
    """What one rule did to the lists."""

    rule: str
    kind: str
    """require, boost, cap or pin."""
    items: float
    """Items per list that it touched: refused of all (require), moved up (boost), passed over (cap), put in (pin)."""
    lists: float
    """Share of the lists in which it touched any."""
    unmet: float
    """Share of the lists that it is not met in: a cap gave way, a pin was barred, an expression left fewer than K."""


@dataclass(frozen=True)
class UnderRules:
    """The same lists under the rules, beside which the stages above them were measured."""

    items: float
    """Items per list that are shown."""
    hits: int
    """Relevant items among them."""
    counts: tuple[RuleCount, ...]


def expected_hits(k: int, precision: float, recall: float | None = None) -> float:
    """Hits expected in a list of ``k``: end to end without ``recall``, given retrieval with it.

    >>> round(expected_hits(10, 0.3), 2), round(expected_hits(10, 0.3, recall=0.8), 2)
    (3.0, 2.4)
    """
    return k * precision * (1.0 if recall is None else recall)


@dataclass(frozen=True, repr=False)
class Funnel(Shown):
    """The two stages, measured on the same queries."""

    k: int
    candidates: int
    queries: int
    relevant: int
    stages: tuple[StageLoss, ...]
    figures: tuple[Figure, ...]
    """recall@N; precision@K and ndcg@K end to end; precision@K given that something relevant was retrieved."""
    expected_end_to_end: float
    """Hits per query: K · Precision@K."""
    expected_given_retrieved: float
    """Hits per query: share of queries with a relevant candidate · K · Precision@K among those."""
    counted: float
    """Hits per query, counted."""
    halves: tuple[Figure, Figure]
    """Hits per query: predicted from the first half's stage figures (with the interval in which the other half's mean
    is to be expected), counted in the second half."""
    protocol: str
    pair_features: tuple[str, ...] = ()
    """What the ranker read of each pair beside the retrieval's."""
    depths: tuple[int, ...] = ()
    """Numbers of candidates at which several sources are compared."""
    sources: tuple[SourceRecall, ...] = ()
    """Each of several sources, then their union."""
    ruled: UnderRules | None = None
    """None where there are no rules: all above is without them."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def named(self, stage: str) -> str:
        """A stage as people are told of it."""
        return {"not filtered": "left by the filters", "top list": f"shown (top {self.k})"}.get(stage, stage)

    @property
    def of_sources(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of the table of several sources."""
        head = ["source", *(f"recall@{depth}" for depth in self.depths)]
        rows = [[one.source, *map(number, one.recalls), number(one.share), number(one.alone)] for one in self.sources]
        return [*head, "share of the union", "recall that it alone adds"], rows

    def _parts(self) -> list[str | Table]:
        stages = [[self.named(s.stage), f"{s.items:,.0f}", f"{s.hits:,}", f"{s.lost:,}"] for s in self.stages]
        figures = [[f.name, number(f.value), interval(f.low, f.high)] for f in self.figures]
        predicted, seen = self.halves
        return [
            f"funnel of {self.queries:,} queries, {self.relevant:,} relevant items ({self.protocol})",
            Table(["stage", "items per list", "hits", "lost here"], stages),
            Table(["what", "value", "95 % interval"], figures),
            *([Table(*self.of_sources)] if self.sources else []),
            f"hits per query in the top {self.k}: {self.counted:.4f} counted; expected "
            f"{self.expected_end_to_end:.4f} from the precision measured end to end, "
            f"{self.expected_given_retrieved:.4f} from the recall and the precision measured given that a relevant "
            f"item was retrieved",
            f"one half of the users predicts {predicted.value:.4f} {interval(predicted.low, predicted.high)} for "
            f"the other, where {seen.value:.4f} {interval(seen.low, seen.high)} were counted",
            *([f"features of pairs: {', '.join(self.pair_features)}"] if self.pair_features else []),
            *self._under_rules(),
        ]

    def _under_rules(self) -> list[str | Table]:
        if self.ruled is None:
            return []
        rows = [
            [one.rule, one.kind, f"{one.items:,.2f}", f"{one.lists:.1%}", f"{one.unmet:.1%}"]
            for one in self.ruled.counts
        ]
        return [
            f"under the rules {self.ruled.items:,.1f} items per list are shown, with {self.ruled.hits:,} hits in "
            f"place of {self.stages[-1].hits:,}",
            Table(["rule", "kind", "items touched per list", "lists touched", "lists that do not meet it"], rows),
        ]


def funnel(engine: Engine, queries: Queries, k: int = 10, seed: int = 0, system: System | None = None) -> Funnel:
    """Runs both stages over the queries and counts; and the rules, where ``system``, whose engine it is, has any.

    Raises InputError for queries with given candidates.
    """
    if queries.candidates is not None:
        raise InputError("a funnel needs queries over the catalogue; these have given candidates")
    if not len(queries):
        raise InputError("queries hold no row; split with a larger test part")
    depth = max(k, engine.candidates)
    hits = _count(engine, queries, k, depth)
    relevant = queries.truth.lengths.double()
    retrieved, top, gains = hits["retrieved"], hits["top"], hits["ndcg"]
    with_truth = relevant > 0
    some = (retrieved > 0) & with_truth
    figures = (
        _figure(f"recall@{depth}", (retrieved / relevant.clamp(min=1))[with_truth], seed),
        _figure(f"precision@{k} end to end", (top / k)[with_truth], seed),
        _figure(f"precision@{k} given a relevant candidate", (top / k)[some], seed),
        _figure(f"ndcg@{k} end to end", gains[with_truth], seed),
    )
    share = float(some[with_truth].double().mean())
    stages = [
        StageLoss("catalogue", float(hits["allowed"]), int(relevant.sum()), 0),
        StageLoss("not filtered", hits["open"], int(hits["possible"].sum()), 0),
        StageLoss("retrieved", hits["listed"], int(retrieved.sum()), 0),
        StageLoss("top list", hits["shown"], int(top.sum()), 0),
    ]
    lost = [stages[0], *(replace(s, lost=before.hits - s.hits) for before, s in pairwise(stages))]
    return Funnel(
        k=k,
        candidates=depth,
        queries=len(queries),
        relevant=int(relevant.sum()),
        stages=tuple(lost),
        figures=figures,
        expected_end_to_end=expected_hits(k, figures[1].value),
        expected_given_retrieved=share * expected_hits(k, figures[2].value) if share else 0.0,
        counted=float(top[with_truth].mean()),
        halves=_halves(top, some, with_truth, k, seed),
        protocol=queries.protocol,
        pair_features=() if engine.pairs is None else engine.pairs.names,
        ruled=_ruled(system, queries, k) if system is not None and system.rules else None,
        **_of_sources(engine, queries, depth),
    )


def _ruled(system: System, queries: Queries, k: int) -> UnderRules:
    """The lists under the rules, and what each rule did to them.

    Expressions read the user table and categorical context features.  Raises InputError where they need more.
    """
    rules, engine = system.bound_rules, system.engine
    touched, unmet = np.zeros((2, len(rules.names))), np.zeros(len(rules.names))
    shown, hits = 0, 0
    for rows in torch.arange(len(queries)).split(CONTEXTS_PER_CHUNK):  # type: ignore[no-untyped-call]
        some = queries.take(rows)
        asked = asked_of_contexts(rules, system.store, some.contexts)
        ruling = Ruling.of(rules, asked, len(some), k, engine.candidates, some.contexts.time.numpy(), engine.open)
        ids, _ = ruling.lists(torch.arange(len(some)), Filters(some.seen), partial(_stages, engine, some.contexts))
        touched += [ruling.marks.items.sum(0), (ruling.marks.items > 0).sum(0)]
        unmet += [sum(name in one for one in ruling.marks.unmet.values()) for name in rules.names]
        shown += int((ids > 0).sum())
        hits += int((some.truth.holds(ids) & (ids > 0)).sum())
    n, kinds = len(queries), system.rules.kinds
    figures = zip(rules.names, *(touched / n).tolist(), (unmet / n).tolist(), strict=True)
    counts = tuple(RuleCount(name, kinds[name], *each) for name, *each in figures)
    return UnderRules(shown / n, hits, counts)


def _stages(engine: Engine, contexts: Contexts, within: Tensor | None, n: int, part: Filters) -> tuple[Tensor, Tensor]:
    """Lists as rules ask for them."""
    return engine.lists(contexts if within is None else contexts.take(within), n, part)


def _count(engine: Engine, queries: Queries, k: int, depth: int) -> dict[str, Any]:
    """Of each query: relevant items that may be recommended, are retrieved, are in the top k; its NDCG@k."""
    parts: dict[str, list[Tensor]] = {"possible": [], "retrieved": [], "top": [], "ndcg": []}
    listed, barred, shown = 0, 0, 0
    for rows in torch.arange(len(queries)).split(CONTEXTS_PER_CHUNK):  # type: ignore[no-untyped-call]
        some = queries.take(rows)
        candidates = engine.find(some.contexts, depth, Filters(some.seen))
        ranked, _ = engine.rerank(some.contexts, candidates)
        hit = some.truth.holds(ranked) & (ranked > 0)
        found = hit[:, :k].double()
        parts["retrieved"].append(hit.sum(1).double())
        parts["top"].append(found.sum(1))
        parts["ndcg"].append(ndcg_of_hits(found, some.truth.lengths, k))
        possible = some.truth.keep(engine.allowed[some.truth.values]).minus(some.seen)  # known, allowed, not filtered
        parts["possible"].append(possible.lengths.double())
        listed += int((candidates.ids > 0).sum())
        shown += int((ranked[:, :k] > 0).sum())
        barred += some.seen.keep(engine.allowed[some.seen.values]).unique().values.numel()
    allowed, n = engine.n_allowed, len(queries)
    means = {"listed": listed / n, "allowed": allowed, "open": allowed - barred / n, "shown": shown / n}
    return {**{name: torch.cat(part) for name, part in parts.items()}, **means}


def _of_sources(engine: Engine, queries: Queries, depth: int) -> dict[str, Any]:
    """The fields of a Funnel that compare several sources; none of one."""
    union = engine.union
    if union is None:
        return {}
    depths = [*(each for each in DEPTHS if each < depth), depth]
    names = [*(source.name for source in union.sources), "union"]
    found = torch.zeros(len(names), len(depths))  # sums of the queries' recalls
    shared, alone, listed = torch.zeros(len(names)), torch.zeros(len(names)), 0
    for rows in torch.arange(len(queries)).split(CONTEXTS_PER_CHUNK):  # type: ignore[no-untyped-call]
        some = queries.take(rows)
        lists = union.lists(some.contexts, depth, some.seen, engine.open.mask)
        every = [ids for ids, _ in lists]
        weight = torch.where(some.truth.lengths > 0, 1 / some.truth.lengths, 0.0)
        for at, most in enumerate(depths):
            together = union.chosen([ids[:, :most] for ids in every], most)
            for source, ids in enumerate([*every, together]):
                hits = some.truth.holds(ids[:, :most]) & (ids[:, :most] > 0)
                found[source, at] += (hits.sum(1) * weight).sum()
        both = engine.find(some.contexts, depth, Filters(some.seen))
        assert both.ranks is not None  # noqa: S101 - of several sources
        held, known = both.ranks > 0, both.ids > 0
        relevant = some.truth.holds(both.ids) & known
        only = held & (held.sum(2, keepdim=True) == 1) & relevant[:, :, None]
        shared[:-1] += held.sum((0, 1))
        alone[:-1] += (only.sum(1) * weight[:, None]).sum(0)
        listed += int(known.sum())
    shared[-1], total = listed, int((queries.truth.lengths > 0).sum())
    parts = zip(names, (found / max(1, total)).tolist(), shared.tolist(), alone.tolist(), strict=True)
    return {
        "depths": tuple(depths),
        "sources": tuple(
            SourceRecall(name, tuple(recalls), many / max(1, listed), own / max(1, total))
            for name, recalls, many, own in parts
        ),
    }


def _figure(name: str, values: Tensor, seed: int) -> Figure:
    if not values.numel():
        return Figure(name, float("nan"), float("nan"), float("nan"))
    low, high = bootstrap_means(values.numpy()[:, None], seed=seed)
    return Figure(name, float(values.mean()), float(low[0]), float(high[0]))


def _halves(top: Tensor, some: Tensor, with_truth: Tensor, k: int, seed: int) -> tuple[Figure, Figure]:
    """Stage figures of one half of the queries against the hits of the other half.

    The prediction's interval is where the other half's mean falls in 95 % of halvings: the bootstrap's, widened by
    √(1 + n₁/n₂), for that mean varies too.
    """
    rows = with_truth.nonzero().squeeze(1)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(rows.numel()))
    first, second = rows[order[: rows.numel() // 2]], rows[order[rows.numel() // 2 :]]
    share = float(some[first].double().mean()) if first.numel() else float("nan")
    given = top[first][some[first]]
    predicted = share * expected_hits(k, float((given / k).mean())) if given.numel() else 0.0
    drawn = _figure("predicted hits per query", top[first], seed)
    wider = (1 + first.numel() / max(second.numel(), 1)) ** 0.5
    low, high = (predicted + (end - drawn.value) * wider for end in (drawn.low, drawn.high))
    prediction = replace(drawn, value=predicted, low=max(0.0, low), high=high)
    return prediction, _figure("counted hits per query", top[second], seed + 1)
