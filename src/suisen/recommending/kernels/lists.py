"""The compiled first stage: queries in, sorted lists of positions and scores out, in one call.

Levels of the queries, what each may get, the scan, true scores of what survives it, and the order; see ``plain`` for
the same in NumPy.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from suisen.recommending.kernels.cache import compiled
from suisen.recommending.kernels.emitter import FLOAT, I8, I32, I64, Emitter, vector
from suisen.recommending.kernels.quantised import LARGEST, LOW
from suisen.recommending.kernels.scan import partitioned, scan
from suisen.retrieval.checks import MAX_COORDINATE

AHEAD = 8
"""Rows that are fetched from memory while one is multiplied."""
BINS = 1024
"""Bins that a list is put in before it is sorted inside each."""
CROWD = 32
"""Keys in a bin above which another sort is faster."""


@intrinsic
def _ones(typing: Any, word: Any) -> Any:
    """The number of bits that are set."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.ctpop(values[0])

    return types.int64(types.uint64), codegen


def _flipped(builder: Any, bits: Any) -> Any:
    """Bits of a float32 as an int32 of the same order, and back."""
    return builder.xor(bits, builder.and_(builder.ashr(bits, I32(31)), I32(0x7FFF_FFFF)))


@intrinsic
def key_of(typing: Any, score: Any, place: Any) -> Any:
    """Score << 32 | (2^32 - 1 - place): the larger key has the larger score, then the lower place."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        bits = builder.bitcast(builder.fadd(values[0], ir.Constant(FLOAT, 0.0)), I32)  # + 0 turns -0 into 0
        high = builder.shl(builder.sext(_flipped(builder, bits), I64), I64(32))
        return builder.or_(high, builder.sub(I64(int(LOW)), values[1]))

    return types.int64(types.float32, types.int64), codegen


@intrinsic
def score_of(typing: Any, key: Any) -> Any:
    """The score in a key."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.bitcast(_flipped(builder, builder.trunc(builder.ashr(values[0], I64(32)), I32)), FLOAT)

    return types.float32(types.int64), codegen


@intrinsic
def product(typing: Any, left: Any, row: Any, right: Any, other: Any, length: Any) -> Any:
    """The float32 inner product of the first numbers of two rows, in the order of ``plain.product``.

    ``left``, ``right``: (…, at least length) float32.
    """
    signature = types.float32(left, types.intp, right, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit, kind = Emitter(context, builder, signature.args, values), vector(FLOAT, 16)
        sides = [emit.row(side, values[side + 1], 4) for side in (0, 2)]
        length, zero = values[4], ir.Constant(kind, [0.0] * 16)
        numbers = ir.Constant(vector(I64, 16), list(range(16)))

        def step(number: Any, sums: Any) -> list[Any]:
            start = builder.mul(number, I64(16))
            inside = builder.icmp_signed("<", numbers, emit.splat(builder.sub(length, start), 16))
            pair = []
            for side in sides:  # lanes behind the row's end are not read: they are 0
                where = emit.pointer(emit.plus(side, builder.mul(start, I64(4))), kind)
                masked = ir.FunctionType(kind, [where.type, I32, inside.type, kind])
                load = builder.module.declare_intrinsic("llvm.masked.load.v16f32.p0", (), masked)
                pair.append(builder.call(load, [where, I32(4), inside, zero]))
            return [builder.fadd(sums[0], builder.fmul(*pair))]

        (sums,) = emit.summed(builder.sdiv(builder.add(length, I64(15)), I64(16)), [zero], step)
        return emit.reduced(sums)

    return signature, codegen


@intrinsic
def prefetch(typing: Any, table: Any, row: Any, byte: Any) -> Any:
    """Asks for the cache line of a byte of a row of (n, …), which is wanted soon."""
    signature = types.void(table, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emitter(context, builder, signature.args, values)
        start = emit.row(0, values[1], signature.args[0].dtype.bitwidth // 8)
        line = emit.pointer(emit.plus(start, values[2]), I8)
        emit.call("llvm.prefetch.p0", ir.VoidType(), line, I32(0), I32(3), I32(1))  # to read, to stay, data
        return context.get_dummy_value()

    return signature, codegen


@compiled
def ordered(row: Any, count: int) -> None:
    """Sorts row[:count] of keys, falling: into bins by their scores, and then each bin by insertion."""
    if count < 2:
        return
    scores = np.empty(count, np.float32)
    high = low = score_of(row[0])
    for place in range(count):
        scores[place] = score = score_of(row[place])
        high, low = max(high, score), min(low, score)
    unit = (BINS - 1) / (np.float64(high) - low) if high > low else 0.0
    starts = np.zeros(BINS + 1, np.int64)
    for place in range(count):
        starts[np.int64((np.float64(high) - scores[place]) * unit) + 1] += 1
    most = 0
    for at in range(BINS):
        most = max(most, starts[at + 1])
        starts[at + 1] += starts[at]
    keys = row[:count].copy()
    if most > CROWD:
        keys.sort()
        row[:count] = keys[::-1]
        return
    for place in range(count):
        into = np.int64((np.float64(high) - scores[place]) * unit)
        row[starts[into]] = keys[place]
        starts[into] += 1
    for place in range(1, count):
        key = row[place]
        hole = place
        while hole > 0 and row[hole - 1] < key:
            row[hole] = row[hole - 1]
            hole -= 1
        row[hole] = key


@compiled
def _levels(query: Any, low: Any, scale: Any, out: Any) -> tuple[float, float]:
    """A query's levels into ``out``; what a unit of its integer scores is worth, and what is added to them.

    The first is NaN where a number of the query is not finite, or too large.
    """
    largest, added = 0.0, 0.0
    for column in range(len(query)):
        number = np.float64(query[column])
        if not abs(number) <= MAX_COORDINATE:
            return np.nan, 0.0
        largest = max(largest, abs(number * scale[column]))
        added += low[column] * number
    factor = LARGEST / (largest if largest > 0 else 1.0)
    for column in range(len(query)):
        out[column] = np.rint(np.float64(query[column]) * scale[column] * factor)
    out[len(query) :] = 0
    return largest / LARGEST, added


@compiled
def _shut(open_: Any, slots: Any, values: Any, start: int, end: int) -> bool:
    """Takes excluded positions out of a query's bits; False where one is no position."""
    if not 0 <= start <= end <= len(values):
        return False
    for place in range(start, end):
        position = values[place]
        if not 0 <= position < len(slots):
            return False
        slot = np.uint64(slots[position])
        open_[slot >> np.uint64(6)] &= ~(np.uint64(1) << (slot & np.uint64(63)))
    return True


@compiled
def _scored(
    keys: Any, count: int, exact: bool, vectors: Any, queries: Any, row: int, unit: float, added: float
) -> None:
    """Integer scores in keys become float32: true inner products, or what the integers stand for."""
    for place in range(count):
        key = keys[place]
        position = LOW - (key & LOW)
        if exact:
            soon = LOW - (keys[min(place + AHEAD, count - 1)] & LOW)
            for byte in range(0, 4 * vectors.shape[1], 64):
                prefetch(vectors, soon, byte)
            score = product(vectors, position, queries, row, vectors.shape[1])
        else:
            score = np.float32(np.float64(key >> 32) * unit + added)
        keys[place] = key_of(score, position)


@compiled
def retrieve(
    table: Any, queries: Any, gone: Any, base: Any, best: int, exact: bool, groups: Any, scratch: Any, out: Any
) -> bool:
    """Sorted lists of the queries: positions, scores and how many there are, into ``out``.

    ``table``: arrays of a ``Quantised``; ``gone``: values and offsets of what is excluded; ``base``: (tiles,) uint64
    bits of the slots that anyone may get; ``best``: survivors of the scan; ``groups``: tuples of 1 and of as many
    queries as a tile takes; ``scratch``: keys, bits and levels with a row for each query, filled up to whole groups.
    ``out``: (B, C) positions and scores, -1 and -inf behind the (B,) counts.

    False where a query holds what is no number, or ``gone`` what is no position.
    """
    tiles, low, scale, order, slots, vectors = table
    keys, open_, levels = scratch
    positions, scores, counts = out
    one, many = groups
    b, rows, most = len(queries), len(levels), positions.shape[1]
    unit, added, wanted = np.empty(b), np.empty(b), np.empty(b, np.int64)
    for row in range(b):
        unit[row], added[row] = _levels(queries[row], low, scale, levels[row])
        if np.isnan(unit[row]):
            return False
        open_[row] = base
        if not _shut(open_[row], slots, gone[0], gone[1][row], gone[1][row + 1]):
            return False
        wanted[row] = 0
        for tile in range(len(base)):
            wanted[row] += _ones(open_[row, tile])
    open_[b:rows] = 0
    levels[b:rows] = 0
    found = np.empty(rows, np.int64)
    if b == 1:
        scan(tiles, levels, one, best, True, open_, order, keys, found)
    else:
        scan(tiles, levels, many, best, True, open_, order, keys, found)
    for row in range(b):
        if found[row] < min(wanted[row], best):  # a bar was too high
            here = slice(row, row + 1)
            scan(tiles, levels[here], one, best, False, open_[here], order, keys[here], found[here])
        count = found[row]
        _scored(keys[row], count, exact, vectors, queries, row, unit[row], added[row])
        if count > most:
            partitioned(keys[row], count, most)
            count = most
        ordered(keys[row], count)
        counts[row] = count
        for place in range(count):
            positions[row, place] = LOW - (keys[row, place] & LOW)
            scores[row, place] = score_of(keys[row, place])
        positions[row, count:] = -1
        scores[row, count:] = -np.inf
    return True
