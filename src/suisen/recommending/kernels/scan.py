"""The compiled scan: the largest int8 products of some queries, chosen while they are made.

Nothing is compiled when this file is imported, but at a function's first call, for the types that it is given: queries
in int8 are for AVX-512 VNNI, in int16 for AVX2 (see ``emitter``).  The length of the tuple ``group`` is the number of
queries that a tile takes.

Operations: B·n·d multiply-adds; the n·d bytes of the table are read once per group of queries, in strips of 512 items
that stay in the second-level cache for all groups.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from suisen.recommending.kernels.cache import compiled
from suisen.recommending.kernels.emitter import I1, I32, I64, ITEMS, Emitter, products
from suisen.recommending.kernels.quantised import LOW

STRIP = 8
"""Tiles whose scores are made before any is chosen from them: 512 items."""
LOWEST = -(2**31) + 1


@intrinsic
def _tile(
    typing: Any,
    table: Any,
    tile: Any,
    queries: Any,
    first: Any,
    scores: Any,
    bars: Any,
    reached: Any,
    at: Any,
    group: Any,
) -> Any:
    """Scores of 64 items for a group of queries, and a bit for each score that reaches its query's bar.

    ``table``: (tiles, d / 4, 64, 4); ``queries``: (rows, d) int8 (VNNI) or int16 (AVX2), of which rows ``first`` and
    following are taken; ``scores``: (… , group, 64) int32 and ``reached``: (… , group) uint64 are written at ``at``.
    """
    if len(group) == 0 or queries.dtype not in (types.int8, types.int16):
        return None
    signature = types.void(table, types.intp, queries, types.intp, scores, bars, reached, types.intp, group)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit, size = Emitter(context, builder, signature.args, values), len(group)
        bytes_per_level = queries.dtype.bitwidth // 8
        tile, first, at = values[1], values[3], values[7]
        quads = emit.width(0)
        stride = builder.mul(quads, I64(4 * bytes_per_level))
        items = emit.address(0, builder.mul(tile, quads), 256)
        rows = emit.plus(emit.address(2, I64(0), 1), builder.mul(first, stride))
        sums_of = products(emit, items, rows, stride, quads, size, bytes_per_level == 1, signed=False)
        for row, found in enumerate(sums_of):
            lanes = found[0].type.count
            bar = emit.splat(emit.load(emit.plus(emit.address(5, first, 4), 4 * row), I32, 4), lanes)
            out = emit.plus(emit.address(4, at, 4 * ITEMS * size), 4 * ITEMS * row)
            bits: Any = I64(0)
            for part, sums in enumerate(found):
                emit.store(sums, emit.plus(out, 4 * lanes * part), 4)
                ones = builder.bitcast(builder.icmp_signed(">=", sums, bar), ir.IntType(lanes))
                bits = builder.or_(bits, builder.shl(builder.zext(ones, I64), I64(lanes * part)))
            emit.store(bits, emit.plus(emit.address(6, at, 8 * size), 8 * row), 8)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _lowest_bit(typing: Any, word: Any) -> Any:
    """The number of the lowest bit that is set; 64 where none is."""

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.cttz(values[0], I1(0))

    return types.uint64(types.uint64), codegen


@compiled
def partitioned(row: npt.NDArray[np.int64], count: int, k: int) -> int:
    """The k-th largest (k from 1) of row[:count], all different; the k largest come to its front.

    Quickselect (Hoare 1961) with Lomuto's pass, which has no branch: half of them would be foreseen wrongly.
    """
    low, last, target = np.uint64(0), np.uint64(count - 1), np.uint64(k - 1)
    one = np.uint64(1)
    while low < last:
        middle = (low + last) >> one
        first, between, end = row[low], row[middle], row[last]
        pivot = max(min(first, between), min(max(first, between), end))
        at = low if pivot == first else middle if pivot == between else last
        row[at] = end
        cut = low
        for place in range(low, last):
            key = row[place]
            row[place] = row[cut]
            row[cut] = key
            cut += np.uint64(key > pivot)
        row[last] = row[cut]
        row[cut] = pivot
        if target == cut:
            break
        if target < cut:
            last = cut - one
        else:
            low = cut + one
    return row[target]


@compiled
def _raised(row: npt.NDArray[np.int64], count: int, rank: int) -> tuple[int, int]:
    """A query's bar raised to the score of its rank-th key: how many keys reach it, now in front, and the bar."""
    bar = partitioned(row, count, rank) >> 32
    kept = rank
    for place in range(rank, count):
        if row[place] >> 32 == bar:
            row[kept] = row[place]
            kept += 1
    return kept, bar


@compiled
def _raise_all(keys: Any, counts: Any, bars: Any, expected: float) -> None:
    """Raises the bars to where ``expected`` of the best should have been seen, less three standard deviations."""
    rank = int(expected + 3.0 * np.sqrt(expected) + 3)
    for row in range(len(counts)):
        if counts[row] > rank:
            counts[row], bars[row] = _raised(keys[row], counts[row], rank)


@compiled
def scan(
    table: Any, queries: Any, group: Any, best: int, guess: bool, open_: Any, order: Any, keys: Any, counts: Any
) -> None:
    """The ``best`` largest keys of each query over all tiles: score << 32 | (2^32 - 1 - position).

    ``table``: (tiles, d / 4, 64, 4) uint8; ``queries``: (rows, d) with rows a multiple of ``len(group)``; ``open_``:
    (rows, tiles) uint64, a bit for each item that a query may get; ``order``: (64 · (tiles + 1),) the position of each
    slot.  ``keys``: (rows, at least best + 1,100) and ``counts``: (rows,) are written.

    A query keeps what reaches its bar.  Slots lie in random order, so that the first strips are a sample: after 8, 24,
    72… tiles the bar is raised to where the final one should be, less three standard deviations.  With ``guess`` a
    query can end with fewer than ``best`` keys because its bar was too high; without, the bar is only ever raised to
    the best-th key that was seen.  Either way, what is kept is exact when it is ``best`` keys.
    """
    rows, size, tiles = len(queries), len(group), len(table)
    scores = np.empty((STRIP + 1, size, ITEMS), np.int32)  # one tile more: a bit that is not there is read as bit 64
    reached = np.empty((STRIP, size), np.uint64)
    bars = np.full(rows, LOWEST, np.int32)
    counts[:] = 0
    mark = STRIP
    for start in range(0, tiles, STRIP):
        if guess and start >= mark:
            mark = start * 3
            _raise_all(keys, counts, bars, best * start / tiles)
        end = min(start + STRIP, tiles)
        for first in range(0, rows, size):
            for tile in range(start, end):
                _tile(table, tile, queries, first, scores, bars, reached, tile - start, group)
            for member in range(size):
                row = first + member
                if counts[row] + STRIP * ITEMS + 2 > keys.shape[1]:
                    bars[row] = partitioned(keys[row], counts[row], best) >> 32
                    counts[row] = best  # a tie that is left out here lost to best others by its position
                counts[row] = _chosen(scores, reached, member, open_, order, start, end, keys, row, counts[row])
    for row in range(rows):
        if counts[row] > best:
            partitioned(keys[row], counts[row], best)
            counts[row] = best


@compiled
def _chosen(
    scores: Any,
    reached: Any,
    member: int,
    open_: Any,
    order: Any,
    start: int,
    end: int,
    keys: Any,
    row: int,
    count: Any,
) -> Any:
    """Adds the open items of a strip that reach the bar to a query's keys; how many it has then.

    A word without a bit left has bit 64: what is read there, behind the scores of a tile, is written and not counted.
    Numbers without a sign, because numba would let a negative one count from an array's end.
    """
    one, low, place, query = np.uint64(1), np.int64(LOW), np.uint64(count), np.uint64(row)
    for tile in range(np.uint64(end - start)):
        word = reached[tile, member] & open_[query, np.uint64(start) + tile]
        slot = (np.uint64(start) + tile) * np.uint64(ITEMS)
        for _ in range(2):  # most words have none, one or two bits: without a branch, for it could not be foreseen
            bit = _lowest_bit(word)
            keys[query, place] = (np.int64(scores[tile, member, bit]) << 32) | (low - order[slot + bit])
            place += np.uint64(word != 0)
            word &= word - one
        while word != 0:
            bit = _lowest_bit(word)
            keys[query, place] = (np.int64(scores[tile, member, bit]) << 32) | (low - order[slot + bit])
            place += one
            word &= word - one
    return np.int64(place)


@compiled
def _by_cell(cells: Any, count: int) -> tuple[Any, Any]:
    """(count + 1,) where each cell's queries begin in the second array, which holds the rows of (B, probes) cells."""
    b, probes = cells.shape
    heads = np.zeros(count + 1, np.int64)
    for row in range(b):
        for place in range(probes):
            heads[cells[row, place] + 1] += 1
    for cell in range(count):
        heads[cell + 1] += heads[cell]
    rows, ends = np.empty(b * probes, np.int64), heads.copy()
    for row in range(b):
        for place in range(probes):
            cell = cells[row, place]
            rows[ends[cell]] = row
            ends[cell] += 1
    return heads, rows


@compiled
def scan_cells(
    tiles: Any, queries: Any, one: Any, best: int, open_: Any, order: Any, cells: Any, starts: Any, keys: Any,
    counts: Any,
) -> None:  # fmt: skip
    """The ``best`` largest keys of each query over the tiles of its own cells, in any order; ``counts``: how many.

    ``cells``: (B, probes) of each query.  A cell is read once for all queries that want it; a query's bar rises
    whenever its keys have become twice as many as it needs.
    """
    heads, rows = _by_cell(cells, len(starts) - 1)
    scores = np.empty((STRIP + 1, 1, ITEMS), np.int32)
    reached = np.empty((STRIP, 1), np.uint64)
    bars = np.full(len(cells), LOWEST, np.int32)
    full = min(keys.shape[1], 2 * best + STRIP * ITEMS + 2) - STRIP * ITEMS - 2
    counts[: len(cells)] = 0
    for cell in range(len(starts) - 1):
        # a cell that nobody reads has no strips
        last = starts[cell + 1] if heads[cell] < heads[cell + 1] else starts[cell]
        for start in range(starts[cell], last, STRIP):
            end = min(start + STRIP, last)
            for member in range(heads[cell], heads[cell + 1]):
                row = rows[member]
                for tile in range(start, end):
                    _tile(tiles, tile, queries, row, scores, bars, reached, tile - start, one)
                if counts[row] > full:
                    bars[row] = partitioned(keys[row], counts[row], best) >> 32
                    counts[row] = best
                counts[row] = _chosen(scores, reached, 0, open_, order, start, end, keys, row, counts[row])
    for row in range(len(cells)):
        if counts[row] > best:
            partitioned(keys[row], counts[row], best)
            counts[row] = best
