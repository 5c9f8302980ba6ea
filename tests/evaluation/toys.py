"""Scorers whose scores are written down, small worlds of queries, and every definition in its slow form."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from hypothesis import strategies as st

from suisen.data.batch import Contexts, Queries
from suisen.data.ragged import Ragged


class Table:
    """Scores from a table, row = user; makes tiles, lists and scores of candidates."""

    def __init__(self, table, allowed=None):
        self.table = torch.as_tensor(table, dtype=torch.float32)
        self.allowed = torch.ones(self.table.shape[1], dtype=torch.bool) if allowed is None else allowed.clone()
        self.allowed[0] = False
        self.n_items = self.table.shape[1]

    def prepare(self, contexts):
        return self.table[contexts.user]

    def tile(self, state, lo, hi):
        return state[:, lo:hi]  # a view on purpose: evaluation must not write into it

    def score(self, contexts, candidates):
        return self.table[contexts.user].gather(1, candidates.items)

    def rank(self, contexts, k, exclude):
        scores = self.table[contexts.user].clone()
        scores[:, ~self.allowed] = -torch.inf
        scores[exclude.rows(), exclude.values] = -torch.inf
        scores, ids = scores.sort(dim=1, descending=True, stable=True)
        ids = ids.masked_fill(scores == -torch.inf, 0)
        out, values = torch.zeros((len(ids), k), dtype=torch.int64), torch.zeros((len(ids), k))
        width = min(k, ids.shape[1])
        out[:, :width], values[:, :width] = ids[:, :width], scores[:, :width]
        return out, values


class ListsOnly:
    """The same scorer without tiles: what a two-stage recommender looks like."""

    def __init__(self, inner):
        self.score, self.rank = inner.score, inner.rank


def queries_of(truth, seen=None, candidates=None, labels=None, protocol="toy"):
    rows = len(truth)
    seen = Ragged.of(seen) if seen is not None else Ragged.empty(rows)
    contexts = Contexts.of_users(torch.arange(rows))
    return Queries(contexts, Ragged.of(truth), seen, candidates, labels, protocol)


@dataclass
class World:
    table: list[list[int]]
    allowed: list[bool]
    truth: list[list[int]]
    seen: list[list[int]]
    candidates: list[list[int]]

    @property
    def scorer(self):
        return Table(self.table, torch.tensor(self.allowed))

    def queries(self, candidates=False):
        return queries_of(self.truth, self.seen, torch.tensor(self.candidates) if candidates else None)


@st.composite
def worlds(draw):
    """Few items and few levels of score, so that ties, unknown truth, empty truth and padding are common."""
    rows, items, width = draw(st.integers(1, 5)), draw(st.integers(2, 11)), draw(st.integers(1, 8))

    def lists(values, low, high):
        return [draw(st.lists(values, min_size=low, max_size=high)) for _ in range(rows)]

    ids = st.integers(0, items - 1)
    levels = draw(st.sampled_from([1, 3, 40]))
    return World(
        lists(st.integers(-levels, levels), items, items),
        [False, *draw(st.lists(st.sampled_from([True, True, True, False]), min_size=items - 1, max_size=items - 1))],
        lists(ids, 0, 5),
        lists(ids, 0, 4),
        lists(ids, width, width),
    )


def relevant(truth):
    """The truth as the metrics count it: known items once, unknown ones each."""
    return sorted(set(truth) - {0}) + [0] * truth.count(0)


def slow_ranks(pool, truth):
    """Ranks by definition; ``pool``: (item, score) pairs that may be recommended.  None = cannot be found."""
    wanted = relevant(truth)
    found = sorted((score for item, score in pool if item in wanted and item), reverse=True)
    rivals = [score for item, score in pool if item not in wanted]
    ranks = [1 + j + sum(score >= own for score in rivals) for j, own in enumerate(found)]
    return ranks + [None] * (len(wanted) - len(ranks))


def full_pool(world, row, repeats=False):
    seen = set() if repeats else set(world.seen[row])
    return [(i, s) for i, s in enumerate(world.table[row]) if world.allowed[i] and i not in seen]


def candidate_pool(world, row):
    pool, met = [], set()
    for item in world.candidates[row]:
        if item == 0 or (item in world.truth[row] and item in met):
            continue
        met.add(item)
        pool.append((item, world.table[row][item]))
    return pool


def slow_metric(base, ranks, k):
    """A metric of one query from its ranks (None = not found), NaN where nothing is relevant."""
    if not ranks:
        return math.nan
    hits = [rank for rank in ranks if rank is not None and (k is None or rank <= k)]
    if base == "hr":
        return float(bool(hits))
    if base == "recall":
        return len(hits) / len(ranks)
    if base == "precision":
        return len(hits) / k
    if base == "mrr":
        return max((1 / rank for rank in hits), default=0.0)
    if base == "map":
        return sum(j / rank for j, rank in enumerate(sorted(hits), start=1)) / len(ranks)
    gain = sum(1 / math.log2(1 + rank) for rank in hits)
    return gain / sum(1 / math.log2(1 + i) for i in range(1, min(k, len(ranks)) + 1))


SLOW = {base: partial(slow_metric, base) for base in ("hr", "recall", "precision", "ndcg", "map", "mrr")}
"""Definitions of rank metrics by name: of one query's ranks (None = not found) and k."""
