"""The compiled second stage: sorted lists in, the ranker's best of each out, in one call.

A candidate passes as many steps as the speed says, and fewer candidates pass each:

1. the first layer read out by one vector, and the inner product, in integers: the cut;
2. all layers in int8;
3. everything in float32, with the candidate's true retrieval score.

Scores of steps 1 and 2 are the same bits on every path (``reference`` has them in NumPy); step 3 adds in another order.
"""

from typing import Any

import numpy as np

from suisen.recommending.kernels.cache import compiled
from suisen.recommending.kernels.lists import key_of, ordered, prefetch, product, score_of
from suisen.recommending.kernels.network import (
    activations,
    float_layer,
    last_float_layer,
    last_layer,
    layer,
    readouts,
)
from suisen.recommending.kernels.quantised import ITEMS, LOW
from suisen.recommending.kernels.ranks import CONTEXT_TOP, HEAD, LARGEST_PAIR, PAIR_LEVELS
from suisen.recommending.kernels.scan import partitioned

AHEAD = 12
"""Candidates whose records are fetched from memory while one is scored."""


@compiled
def _moments(scores: Any, count: int) -> tuple[float, float]:
    """Mean and standard deviation, at least 1e-6, of a list's scores; float64, every fourth number into one sum."""
    sums = np.zeros(4)
    for place in range(count):
        sums[place & 3] += scores[place]
    mean = ((sums[0] + sums[1]) + (sums[2] + sums[3])) / count
    sums[:] = 0
    for place in range(count):
        away = scores[place] - mean
        sums[place & 3] += away * away
    return mean, max(np.sqrt(((sums[0] + sums[1]) + (sums[2] + sums[3])) / count), 1e-6)


@compiled
def _level(number: Any) -> Any:
    """A pair feature in int16."""
    limit = np.float32(LARGEST_PAIR)
    return np.int16(np.rint(min(max(number, -limit), limit) * np.float32(PAIR_LEVELS)))


@compiled
def _context_levels(own: Any, columns: Any, steps: Any, top: int, start: int, of_first: Any, of_short: Any) -> Any:
    """A context's row in int16, for the first layer and for the inner product; what a unit of the product is worth."""
    limit = np.float32(CONTEXT_TOP)
    for column in range(len(own) - start):
        of_first[column] = np.int16(min(max(np.rint(own[start + column] * columns[column]), -limit), limit))
    largest = np.float32(0)
    for column in range(len(steps)):
        largest = max(largest, abs(own[column] * steps[column]))
    factor = np.float32(top) / (largest if largest > 0 else np.float32(1))
    for column in range(len(steps)):
        of_short[HEAD + column] = np.int16(np.rint(own[column] * steps[column] * factor))
    return largest / np.float32(top)


@compiled
def _of_pair(alpha: Any, beta: Any, other: Any, first: Any, second: Any, gamma: Any) -> Any:
    """Σ p_j (α_j + β_j) + Σ γ_jl p_j p_l of two pair features."""
    out = first * (alpha[0] + beta)
    out += gamma[0, 0] * (first * first)
    out += gamma[0, 1] * (first * second)
    out += second * (alpha[1] + other)
    out += gamma[1, 1] * (second * second)
    return out


@compiled
def _kept(alive: Any, count: int, scores: Any, keys: Any, most: int) -> int:
    """Leaves the ``most`` best of alive[:count] in its front, in any order; equal scores: the lower place."""
    if most >= count:
        return count
    for at in range(count):
        keys[at] = key_of(scores[alive[at]], alive[at])
    partitioned(keys, count, most)
    for at in range(most):
        alive[at] = LOW - (keys[at] & LOW)
    return most


@compiled
def _cut(ints: Any, alpha: Any, ids: Any, count: int, pairs: Any, context: Any, group: Any, out: Any) -> None:
    """Step 1: into ``out`` the read-out's scores of all candidates, and what beside the net they are made of."""
    records, betas, _, weights, readout, worth = ints[:6]
    features, levels = pairs
    of_first, of_short, unit = context
    scores, shallow = out
    padded = -(-count // len(group)) * len(group)
    sums, shorts = np.empty(padded, np.int32), np.empty(padded, np.int32)
    for at in range(0, padded, len(group)):
        for member in range(at + AHEAD, min(at + AHEAD + len(group), count)):
            for byte in range(0, records.shape[1], 64):
                prefetch(records, ids[member], byte)
        readouts(records, ids, of_first, weights, levels, at, readout, of_short, sums, shorts, group)
    beta = len(of_first) // 4
    for place in range(count):
        item = ids[place]
        first, second = features[0, place], features[1, place]
        pair = _of_pair(alpha, betas[item, beta], betas[item, beta + 1], first, second, ints[9])
        shallow[place] = np.float32(shorts[place]) * unit + pair
        scores[place] = np.float32(sums[place]) * worth[0] + shallow[place]


@compiled
def _quantised(
    ints: Any, ids: Any, alive: Any, count: int, widths: Any, levels: Any, of_first: Any, group: Any, out: Any
) -> None:
    """Step 2: the net's int8 scores of alive[:count] into ``out``, added to what stands beside the net."""
    records, weights, readout, tiles, units, last = ints[0], ints[3], ints[4], ints[7], ints[8], ints[10]
    scores, shallow = out
    size, top = len(group), len(widths) - 1
    here, pairs = np.empty(size, np.int64), np.empty((2, size), np.int16)
    x = np.empty((2, size, widths.max()), readout.dtype)
    found = np.empty(size, np.float32)
    for at in range(0, count, size):
        for member in range(size):
            place = alive[min(at + member, count - 1)]
            here[member], pairs[0, member], pairs[1, member] = ids[place], levels[0, place], levels[1, place]
        activations(records, here, of_first, weights, pairs, 0, x[0], group)
        offset, column = 0, 0
        found[:] = 0
        for depth in range(1, top + 1):
            inputs, before, after = widths[depth - 1], x[(depth - 1) & 1], x[depth & 1]
            for first in range(0, widths[depth], ITEMS):
                at_unit, quads = column + first, inputs >> 2
                if depth < top:
                    layer(tiles, offset, quads, before, units[0], units[1], at_unit, after, first, group)
                else:
                    last_layer(
                        tiles, offset, quads, before, units[0], units[1], at_unit, last, first, found, 0, group
                    )  # fmt: skip
                offset += inputs * ITEMS
            column += widths[depth]
        for member in range(min(size, count - at)):
            place = alive[at + member]
            scores[place] = found[member] + shallow[place]


@compiled
def _deep(net: Any, x: Any, widths: Any, group: Any, found: Any) -> None:
    """Step 3's layers: the net's float32 scores of a group, from its first activations in x[0]."""
    tiles, biases, last = net
    top, offset, column = len(widths) - 1, 0, 0
    found[:] = 0
    if top == 0:
        for member in range(len(group)):
            found[member] = product(x[0], member, last, 0, widths[0])
    for depth in range(1, top + 1):
        inputs, before, after = widths[depth - 1], x[(depth - 1) & 1], x[depth & 1]
        for first in range(0, widths[depth], ITEMS):
            if depth < top:
                float_layer(tiles, offset, inputs, before, biases, column + first, after, first, group)
            else:
                last_float_layer(tiles, offset, inputs, before, biases, column + first, last[0], first, found, 0, group)
            offset += inputs * ITEMS
        column += widths[depth]


@compiled
def _first(own: Any, item: Any, start: int, weights: Any, first: Any, second: Any, out: Any) -> None:
    """relu(c + i + P p) of a candidate in float32; ``own``, ``item``: rows whose net's part begins at ``start``."""
    zero = np.float32(0)
    for column in range(len(own) - start):
        value = own[start + column] + item[start + column]
        value = value + first * weights[0, column] + second * weights[1, column]
        out[column] = value if value > zero else zero


@compiled
def _precise(
    floats: Any, contexts: Any, row: int, alpha: Any, ids: Any, alive: Any, count: int, widths: Any, shape: Any,
    true: Any, features: Any, x: Any, group: Any, scores: Any,
) -> None:  # fmt: skip
    """Step 3: float32 scores of alive[:count].

    ``true``: vectors, queries, and mean and deviation of the list's scores: a candidate's first pair feature is made
    again of its inner product, where there are vectors.
    """
    rows, gamma, weights, net = floats
    inner, p, start, _ = shape
    vectors, queries, mean, spread = true
    own = contexts[row]
    found = np.empty(len(group), np.float32)
    for at in range(0, count, len(group)):
        for member in range(len(group)):
            soon = ids[alive[min(at + len(group) + member, count - 1)]]
            for byte in range(0, 4 * rows.shape[1] + 63, 64):
                prefetch(rows, soon, byte)
            for byte in range(0, 4 * vectors.shape[1], 64):
                prefetch(vectors, soon, byte)
            place = alive[min(at + member, count - 1)]
            if len(vectors) > 0:
                score = product(vectors, ids[place], queries, row, queries.shape[1])
                features[0, place] = np.float32((score - mean) / spread)
            _first(own, rows[ids[place]], start, weights, features[0, place], features[1, place], x[0, member])
        _deep(net, x, widths, group, found)
        for member in range(min(len(group), count - at)):
            place = alive[at + member]
            item = ids[place]
            beta = rows[item, inner] if p > 0 else np.float32(0)
            other = rows[item, inner + 1] if p > 1 else np.float32(0)
            pair = _of_pair(alpha, beta, other, features[0, place], features[1, place], gamma)
            scores[place] = found[member] + (product(rows, item, contexts, row, inner) + pair)


@compiled
def _standard(scores: Any, count: int, features: Any, levels: Any) -> tuple[float, float]:
    """The first pair feature of a list, in float32 and in int16; the mean and deviation of its scores."""
    mean, spread = _moments(scores, count)
    for place in range(count):
        features[place] = np.float32((scores[place] - mean) / spread)
        levels[place] = _level(features[place])
    return mean, spread


@compiled
def _written(alive: Any, count: int, scores: Any, keys: Any, ids: Any, positions: Any, found: Any) -> None:
    """A list's answer: alive[:count] by their scores."""
    for at in range(count):
        keys[at] = key_of(scores[alive[at]], alive[at])
    ordered(keys, count)
    for at in range(count):
        positions[at], found[at] = ids[LOW - (keys[at] & LOW)], score_of(keys[at])


@compiled
def rank(
    lists: Any, contexts: Any, ints: Any, floats: Any, widths: Any, shape: Any, speed: Any, true: Any, group: Any,
    scratch: Any, out: Any,
) -> None:  # fmt: skip
    """The best of sorted lists by the ranker: positions and scores, falling, into ``out``; -1 and -inf behind them.

    ``lists``: (B, C) positions and scores, and (B,) how many; ``contexts``: (B, r) rows; ``ints``, ``floats``,
    ``widths``: tables of ``RankTables``; ``shape``: its ``numbers``; ``speed``: candidates that the cut leaves, 1 for
    int8, candidates that are left for float32; ``true``: vectors and queries, none where the lists' scores are true.
    Equal scores: the better by the first stage.
    """
    positions, retrieved, counts = lists
    of_first, of_short, falling = scratch
    cut, quantised, finish = speed
    b, most = positions.shape
    inner, p, start, top = shape
    alpha = np.zeros(2, np.float32)
    k = out[0].shape[1]
    size = len(group)
    features, levels = np.empty((2, most), np.float32), np.zeros((2, most + size), np.int16)
    ids, alive = np.empty(most + size, np.int64), np.empty(most + size, np.int64)
    scores, shallow = np.empty(most, np.float32), np.empty(most, np.float32)
    keys = np.empty(most, np.int64)
    x = np.zeros((2, size, max(widths.max(), 1)), np.float32)
    of_first[:], of_short[:] = 0, 0
    for place in range(most):
        features[1, place], levels[1, place] = falling[place], _level(falling[place])
    for row in range(b):
        count = counts[row]
        out[0][row], out[1][row] = -1, -np.inf
        if count == 0:
            continue
        mean, spread = _standard(retrieved[row], count, features[0], levels[0])
        for place in range(count):
            ids[place], alive[place] = positions[row, place], place
        ids[count : count + size] = ids[count - 1]  # whole groups are scored
        alpha[:p] = contexts[row, inner:start]
        if cut or quantised:
            unit = _context_levels(contexts[row], ints[2], ints[6], top, start, of_first, of_short)
            context = (of_first, of_short, unit)
            _cut(ints, alpha, ids, count, (features, levels), context, group, (scores, shallow))
            if cut:
                count = _kept(alive, count, scores, keys, cut)
            if quantised and len(widths) > 1:
                _quantised(ints, ids, alive, count, widths, levels, of_first, group, (scores, shallow))
            if quantised and finish:
                count = _kept(alive, count, scores, keys, finish)
        if not quantised or finish:
            of_list = (true[0], true[1], mean, spread)
            _precise(
                floats, contexts, row, alpha, ids, alive, count, widths, shape, of_list, features, x, group, scores
            )  # fmt: skip
        count = _kept(alive, count, scores, keys, k)
        _written(alive, count, scores, keys, ids, out[0][row], out[1][row])
