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
from suisen.recommending.kernels.emitter import FLOAT, I8, I16, I32, I64, Emitter, vector
from suisen.recommending.kernels.quantised import FINE, FINE_CENTRE, LARGEST, LOW
from suisen.recommending.kernels.scan import partitioned, scan, scan_cells
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

    ``left``, ``right``: (…, at least length); ``left`` is float32, or int16 whose rows are whole vectors of 16, as
    ``right`` then is, too.
    """
    whole = left.dtype == types.int16
    signature = types.float32(left, types.intp, right, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit, kind = Emitter(context, builder, signature.args, values), vector(FLOAT, 16)
        sides = [emit.row(side, values[side + 1], 2 if whole and not side else 4) for side in (0, 2)]
        length, zero = values[4], ir.Constant(kind, [0.0] * 16)
        numbers = ir.Constant(vector(I64, 16), list(range(16)))

        def step(number: Any, sums: Any) -> list[Any]:
            start = builder.mul(number, I64(16))
            if whole:
                places = [
                    emit.plus(side, builder.mul(start, I64(size))) for side, size in zip(sides, (2, 4), strict=True)
                ]
                levels = builder.sitofp(emit.load(places[0], vector(I16, 16), 2), kind)
                return [builder.fadd(sums[0], builder.fmul(levels, emit.load(places[1], kind, 4)))]
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
def _inserted(row: Any, count: int) -> None:
    """Sorts row[:count], falling, by insertion: fast where it is short or nearly in order."""
    for place in range(1, count):
        key = row[place]
        hole = place
        while hole > 0 and row[hole - 1] < key:
            row[hole] = row[hole - 1]
            hole -= 1
        row[hole] = key


@compiled
def ordered(row: Any, count: int) -> None:
    """Sorts row[:count] of keys, falling: into bins by their scores, and then each bin by insertion."""
    if count > CROWD and not _binned(row, count):
        keys = np.sort(row[:count])
        row[:count] = keys[::-1]
    else:
        _inserted(row, count)


@compiled
def _binned(row: Any, count: int) -> bool:
    """Puts keys in the order of their bins; False, and nothing done, where too many are in one."""
    scores = np.empty(count, np.float32)
    high = low = score_of(row[0])
    for place in range(count):
        scores[place] = score = score_of(row[place])
        high, low = max(high, score), min(low, score)
    unit = (BINS - 1) / (np.float64(high) - low) if high > low else 0.0
    starts = np.zeros(BINS + 1, np.int32)
    bins = np.empty(count, np.int32)
    for place in range(count):
        at = (np.float64(high) - scores[place]) * unit
        bins[place] = np.int32(at) if 0 <= at < BINS else 0  # infinite scores, and what is no number
    for place in range(count):
        starts[bins[place] + 1] += 1
    for each in range(BINS):
        if starts[each + 1] > CROWD:
            return False
        starts[each + 1] += starts[each]
    keys = row[:count].copy()
    for place in range(count):
        row[starts[bins[place]]] = keys[place]
        starts[bins[place]] += 1
    return True


@compiled
def _levels(query: Any, scale: Any, out: Any) -> bool:
    """A query's levels into ``out``; False where one of its numbers is not finite, or too large."""
    largest = 0.0
    for column in range(len(query)):
        number = np.float64(query[column])
        if not abs(number) <= MAX_COORDINATE:
            return False
        largest = max(largest, abs(number * scale[column]))
    factor = LARGEST / (largest if largest > 0 else 1.0)
    for column in range(len(query)):
        out[column] = np.rint(np.float64(query[column]) * scale[column] * factor)
    out[len(query) :] = 0
    return True


@compiled
def _steps(query: Any, low: Any, scale: Any, out: Any) -> float:
    """What a level of ``fine`` is worth to a query in each dimension, into ``out``, and what is added to the sum."""
    added = 0.0
    for column in range(len(query)):
        step = scale[column] / FINE
        out[column] = np.float64(query[column]) * step
        added += query[column] * (low[column] + step * FINE_CENTRE)
    return added


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
def _scored(keys: Any, count: int, table: Any, queries: Any, row: int, added: float) -> None:
    """Integer scores in keys become inner products of a row of ``queries`` with the table's (n, …), plus ``added``."""
    for place in range(count):
        soon = LOW - (keys[min(place + AHEAD, count - 1)] & LOW)
        for byte in range(0, table.itemsize * table.shape[1], 64):
            prefetch(table, soon, byte)
        position = LOW - (keys[place] & LOW)
        score = product(table, position, queries, row, queries.shape[1])
        keys[place] = key_of(np.float32(score + added), position)


@compiled
def _prepared(
    queries: Any, scale: Any, slots: Any, gone: Any, base: Any, levels: Any, open_: Any, wanted: Any
) -> bool:  # fmt: skip
    """Fills in the levels of each query, the bits of what it may get, and how many those are; False for bad input."""
    b = len(queries)
    for row in range(b):
        if not _levels(queries[row], scale, levels[row]):
            return False
        open_[row] = base
        if not _shut(open_[row], slots, gone[0], gone[1][row], gone[1][row + 1]):
            return False
        wanted[row] = 0
        for tile in range(len(base)):
            wanted[row] += _ones(open_[row, tile])
    open_[b:], levels[b:] = 0, 0
    return True


@compiled
def _nearest(queries: Any, cells: Any, groups: Any, keys: Any, kind: Any) -> Any:
    """(B, probes) the cells that each query reads; ``keys`` is written to."""
    tiles, scale, order, _, probes, base = cells
    b, count = len(queries), tiles.shape[0]
    one, many = groups
    rows = b if b == 1 else -(-b // len(many)) * len(many)
    levels = np.zeros((rows, 4 * tiles.shape[1]), kind)
    open_, found = np.zeros((rows, count), np.uint64), np.empty(rows, np.int64)
    for row in range(b):
        _levels(queries[row], scale, levels[row])
        open_[row] = base
    if b == 1:
        scan(tiles, levels, one, probes, False, open_, order, keys, found)
    else:
        scan(tiles, levels, many, probes, False, open_, order, keys, found)
    out = np.empty((b, probes), np.int64)
    for row in range(b):
        for place in range(probes):
            out[row, place] = LOW - (keys[row, place] & LOW)
    return out


@compiled
def retrieve(
    table: Any, cells: Any, queries: Any, gone: Any, base: Any, best: int, exact: bool, groups: Any, scratch: Any,
    out: Any,
) -> bool:  # fmt: skip
    """Sorted lists of the queries: positions, scores and how many there are, into ``out``.

    ``table``, ``cells``: arrays of a ``Quantised`` and of its cells; ``gone``: values and offsets of what is excluded;
    ``base``: (tiles,) uint64 bits of the slots that anyone may get; ``best``: survivors of the scan; ``groups``: tuples
    of 1 and of as many queries as a tile takes; ``scratch``: keys, bits and levels with a row for each query, filled up
    to whole groups.  ``out``: (B, C) positions and scores, -1 and -inf behind the (B,) counts.

    False where a query holds what is no number, or ``gone`` what is no position.
    """
    tiles, low, scale, order, slots, vectors, fine = table
    keys, open_, levels = scratch
    positions, scores, counts = out
    one, many = groups
    b, rows, most = len(queries), len(levels), positions.shape[1]
    steps, wanted = np.zeros((1, fine.shape[1]), np.float32), np.empty(b, np.int64)
    if not _prepared(queries, scale, slots, gone, base, levels, open_, wanted):
        return False
    found = np.empty(rows, np.int64)
    if cells[4] > 0:
        nearest = _nearest(queries, cells, groups, keys, levels.dtype)
        scan_cells(tiles, levels, one, best, open_, order, nearest, cells[3], keys, found)
    elif b == 1:
        scan(tiles, levels, one, best, True, open_, order, keys, found)
    else:
        scan(tiles, levels, many, best, True, open_, order, keys, found)
    for row in range(b):
        if found[row] < min(wanted[row], best):  # a bar was too high, or the cells hold too few
            here = slice(row, row + 1)
            scan(tiles, levels[here], one, best, False, open_[here], order, keys[here], found[here])
        count = found[row]
        if exact:
            _scored(keys[row], count, vectors, queries, row, 0.0)
        else:
            _scored(keys[row], count, fine, steps, 0, _steps(queries[row], low, scale, steps[0]))
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
