"""The second stage without compiled code, on NumPy, a list at a time: what the compiled one is held to.

Integer steps and the scores they give are the same bits; float32 scores agree to 1e-5 of the largest in a list, because
matrix products add in another order.
"""

import numpy as np

from suisen.recommending.kernels import plain
from suisen.recommending.kernels.pairs import features_of, moments
from suisen.recommending.kernels.quantised import ITEMS
from suisen.recommending.kernels.ranks import (
    CONTEXT_TOP,
    HEAD,
    LARGEST_PAIR,
    PAIR_LEVELS,
    TOP,
    RankTables,
)
from suisen.retrieval.contract import Floats, Ints

FLOAT = np.float32


def rank(
    ranks: RankTables,
    lists: tuple[Ints, Floats, Ints],
    contexts: Floats,
    k: int,
    speed: tuple[int, int, int],
    true: tuple[Floats, Floats] | None,
) -> tuple[Ints, Floats]:
    """(B, k) positions and scores: the best of sorted lists by the ranker, see ``ranking.rank``."""
    positions = np.full((len(contexts), k), -1, dtype=np.int64)
    scores = np.full((len(contexts), k), -np.inf, dtype=FLOAT)
    for row, (ids, retrieved, count) in enumerate(zip(*lists, strict=True)):
        if count:
            query = None if true is None else (true[0], true[1][row])
            one = _List(ranks, ids[:count], retrieved[:count], contexts[row], query)
            best, found = one.ranked(k, *speed)
            positions[row, : len(best)], scores[row, : len(best)] = ids[best], found
    return positions, scores


class _List:
    """One list of candidates and what the steps make of it."""

    def __init__(
        self, ranks: RankTables, ids: Ints, retrieved: Floats, context: Floats, true: tuple[Floats, Floats] | None
    ) -> None:
        self.ranks, self.ids, self.context, self.true = ranks, ids, context, true
        self.inner, self.p, self.hidden = ranks.shape.tolist()
        self.first = int(ranks.widths[0])
        self.moments = moments(retrieved)
        self.features = features_of(retrieved[None], np.array([len(ids)]))[0]

    def ranked(self, k: int, cut: int, quantised: int, finish: int) -> tuple[Ints, Floats]:
        """Places in the list of the k best, and their scores."""
        alive = np.arange(len(self.ids))
        scores = np.zeros(len(alive), dtype=FLOAT)
        if cut or quantised:
            x, beside = self.levels(), self.short()
            scores = (x @ self.ranks.readout.astype(np.int64)).astype(FLOAT) * self.ranks.worth + beside
            if cut:
                alive = _best(alive, scores, cut)
            if quantised and len(self.ranks.widths) > 1:
                scores = self.whole(x) + beside
            if quantised and finish:
                alive = _best(alive, scores, finish)
        if not quantised or finish:
            scores[alive] = self.precise(alive)
        alive = _best(alive, scores, k)
        return alive, scores[alive]

    def levels(self) -> Ints:
        """(C, h₁) levels of the first layer's activations; sums saturate as int16 do."""
        ranks, top = self.ranks, FLOAT(CONTEXT_TOP)
        own = np.zeros(self.first, dtype=FLOAT)
        own[: self.hidden] = np.rint(self.context[self.inner + self.p :] * ranks.columns[: self.hidden])
        sides = np.clip(own, -top, top).astype(np.int64) + ranks.records[self.ids, : self.first].view(np.int8)
        limit = FLOAT(LARGEST_PAIR)
        pairs = np.rint(np.clip(self.features, -limit, limit) * FLOAT(PAIR_LEVELS)).astype(np.int64)
        parts = (pairs[:, :, None] * ranks.pair_weights + 2**14) >> 15  # (C, 2, h₁)
        whole = _saturated(_saturated(sides) + _saturated(parts.sum(axis=1)))
        return np.clip(whole, 0, TOP)

    def short(self) -> Floats:
        """(C,) what the score holds beside the net, its inner product from int16."""
        ranks, inner = self.ranks, self.inner
        stretched = self.context[:inner] * ranks.steps
        largest, top = np.abs(stretched).max(initial=FLOAT(0)), FLOAT(ranks.short_top)
        own = np.rint(stretched * (top / (largest if largest > 0 else FLOAT(1)))).astype(np.int64)
        records = np.ascontiguousarray(ranks.records[self.ids, self.first :])
        items = records.view(np.int16)[:, HEAD : HEAD + inner].astype(np.int64)
        beta = records.view(FLOAT)[:, : self.p]
        found: Floats = (items @ own).astype(FLOAT) * (largest / top) + self.of_pair(beta, np.arange(len(self.ids)))
        return found

    def of_pair(self, beta: Floats, places: Ints) -> Floats:
        """(m,) Σ p_j (α_j + β_j) + Σ γ_jl p_j p_l, added in this order."""
        alpha, pair = self.context[self.inner : self.inner + self.p], self.features[places]
        out = np.zeros(len(places), dtype=FLOAT)
        for j in range(self.p):
            out += pair[:, j] * (alpha[j] + beta[:, j])
            for other in range(j, self.p):
                out += self.ranks.gamma[j, other] * (pair[:, j] * pair[:, other])
        return out

    def whole(self, x: Ints) -> Floats:
        """(C,) what all int8 layers make of the first one's levels."""
        ranks, offset, column = self.ranks, 0, 0
        out = np.zeros(len(x), dtype=FLOAT)
        for depth, (inputs, outputs) in enumerate(zip(ranks.widths[:-1], ranks.widths[1:], strict=True), start=1):
            tiles = ranks.tiles[offset : offset + inputs * outputs].view(np.int8)
            weights = tiles.reshape(-1, inputs // 4, ITEMS, 4).transpose(1, 3, 0, 2).reshape(inputs, outputs)
            factor, added = ranks.units[:, column : column + outputs]
            value = (x @ weights.astype(np.int64)).astype(FLOAT) * factor + added
            x = np.clip(value, 0, TOP).astype(np.int64)
            if depth == len(ranks.widths) - 1:
                for first in range(0, outputs, ITEMS):
                    here = slice(first, first + ITEMS)
                    out += plain.product(np.maximum(value[:, here], 0), ranks.out[0, here])
            offset, column = offset + inputs * outputs, column + outputs
        return out

    def precise(self, places: Ints) -> Floats:
        """(m,) float32 scores of some candidates."""
        ranks, offset, column = self.ranks, 0, 0
        rows, start = ranks.rows[self.ids[places]], self.inner + self.p
        if self.true is not None:
            mean, spread = self.moments
            products = plain.product(self.true[0][self.ids[places]], self.true[1]).astype(np.float64)
            self.features[places, 0] = (products - mean) / spread
        x = np.zeros((len(places), self.first), dtype=FLOAT)
        pairs = self.features[places] @ ranks.from_pair[:, : self.hidden]
        x[:, : self.hidden] = np.maximum(self.context[start:] + rows[:, start:] + pairs, 0)
        for inputs, outputs in zip(ranks.widths[:-1], ranks.widths[1:], strict=True):
            tiles = ranks.float_tiles[offset : offset + inputs * outputs].reshape(-1, inputs, ITEMS)
            weights = tiles.transpose(1, 0, 2).reshape(inputs, outputs)
            x = np.maximum(x @ weights + ranks.biases[column : column + outputs], 0)
            offset, column = offset + inputs * outputs, column + outputs
        beside = plain.product(rows[:, : self.inner], self.context[: self.inner])
        found: Floats = x @ ranks.out[0] + (beside + self.of_pair(rows[:, self.inner : start], places))
        return found


def _saturated(sums: Ints) -> Ints:
    return np.clip(sums, -(2**15), 2**15 - 1)


def _best(places: Ints, scores: Floats, most: int) -> Ints:
    """The ``most`` places with the best scores, falling; equal scores: the lower place."""
    order = np.lexsort((places, -scores[places]))
    return places[order[:most]]
