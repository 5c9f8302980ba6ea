"""The compiled scan and rescoring: numba, with LLVM's vector instructions for AVX-512 VNNI and for AVX2.

Nothing is compiled when this file is imported.  A function is compiled at its first call, for the types that it is
given, and kept by numba: in NUMBA_CACHE_DIR where that is set, beside this file, or in the user's own cache folder
where that cannot be written to.  Numba keeps apart what was compiled for other processors and by other versions of
numba, but it looks at the date of this one file alone; so what the kernels are made of stands in here with them.

The types say which instructions are emitted, so that a processor never sees those that it lacks: queries in int8 are
multiplied by VNNI (``vpdpbusd``: 64 products added to 16 sums in one instruction), queries in int16 by AVX2
(``vpmaddwd`` after widening: 16 products; the byte form would saturate).  The length of the tuple ``group`` is the
number of queries that a tile takes.

Operations of a scan: B·n·d multiply-adds; the n·d bytes of the table are read once per group of queries, in strips of
512 items that stay in the second-level cache for all groups.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from suisen.recommending.kernels.plain import LOW, NONE
from suisen.recommending.kernels.quantised import Quantised
from suisen.retrieval.checks import CheckedSearch
from suisen.retrieval.contract import Floats, Ints

ITEMS = 64
"""Items in a tile of the table."""
STRIP = 8
"""Tiles whose scores are made before any is chosen from them: 512 items."""
AHEAD = 8
"""Vectors that are fetched from memory while one is multiplied."""
LOWEST = -(2**31) + 1

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT = ir.FloatType()


def _compiled(function: Any) -> Any:
    """The function, compiled at its first call and kept for other processes where there is a place to keep it."""
    try:
        return njit(nogil=True, cache=True)(function)
    except RuntimeError:  # numba finds no folder that it can write to
        return njit(nogil=True)(function)


def _vector(kind: ir.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(kind, lanes)


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    """The constant that a shuffle takes its lanes by."""
    return ir.Constant(_vector(I32, len(numbers)), list(numbers))


class _Emitter:
    """What the intrinsics below share: addresses inside arrays, loads, stores and broadcasts."""

    def __init__(self, context: Any, builder: Any, kinds: Sequence[Any], values: Sequence[Any]) -> None:
        self.builder = builder
        self._context, self._kinds, self._values = context, kinds, values

    def address(self, array: int, offset: Any, size: int) -> Any:
        """The address, as a number, of element ``offset`` of an argument; ``size``: bytes of an element."""
        made = self._context.make_array(self._kinds[array])(self._context, self.builder, value=self._values[array])
        return self.plus(self.builder.ptrtoint(made.data, I64), self.builder.mul(offset, I64(size)))

    def plus(self, address: Any, offset: Any) -> Any:
        """Bytes further; the offset may be a plain number."""
        return self.builder.add(address, I64(offset) if isinstance(offset, int) else offset)

    def pointer(self, address: Any, kind: ir.Type) -> Any:
        """A typed pointer."""
        return self.builder.inttoptr(address, kind.as_pointer())

    def load(self, address: Any, kind: ir.Type, align: int) -> Any:
        """What stands there."""
        return self.builder.load(self.pointer(address, kind), align=align)

    def store(self, value: Any, address: Any, align: int) -> None:
        """Puts it there."""
        self.builder.store(value, self.pointer(address, value.type), align=align)

    def splat(self, value: Any, lanes: int) -> Any:
        """The same value in every lane."""
        kind = _vector(value.type, lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), _lanes([0] * lanes))

    def call(self, name: str, result: ir.Type, *arguments: Any) -> Any:
        """An instruction by LLVM's name for it."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(self.builder.module.declare_intrinsic(name, (), kind), arguments)

    def summed(self, count: Any, zeros: Sequence[Any], step: Any) -> list[Any]:
        """Sums after ``count`` steps: ``step(number, sums)`` gives the next sums.  count is at least 1."""
        before, body = self.builder.block, self.builder.append_basic_block()
        done = self.builder.append_basic_block()
        self.builder.branch(body)
        self.builder.position_at_end(body)
        number, sums = self.builder.phi(I64), [self.builder.phi(zero.type) for zero in zeros]
        nexts = [self.builder.add(number, I64(1)), *step(number, sums)]
        for phi, first, following in zip([number, *sums], [I64(0), *zeros], nexts, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(following, body)
        self.builder.cbranch(self.builder.icmp_signed("<", nexts[0], count), body, done)
        self.builder.position_at_end(done)
        return nexts[1:]


def _vnni(emit: _Emitter, table: Any, query: Any, stride: Any, quads: Any, group: int) -> list[list[Any]]:
    """Four vectors of 16 scores for each query of a group: 24 sums in registers where the group is 6."""
    kind = _vector(I32, 16)

    def step(number: Any, sums: Sequence[Any]) -> list[Any]:
        here = emit.plus(table, emit.builder.mul(number, I64(256)))
        items = [emit.load(emit.plus(here, 64 * part), kind, 1) for part in range(4)]
        word = emit.plus(query, emit.builder.mul(number, I64(4)))
        out = []
        for row in range(group):
            levels = emit.load(emit.plus(word, emit.builder.mul(stride, I64(row))), I32, 4)  # 4 levels of a query
            spread = emit.builder.bitcast(emit.splat(levels, 16), _vector(I8, 64))
            for part in range(4):
                held = emit.builder.bitcast(items[part], _vector(I8, 64))
                out.append(emit.call("llvm.x86.avx512.vpdpbusd.512", kind, sums[4 * row + part], held, spread))
        return out

    sums = emit.summed(quads, [ir.Constant(kind, [0] * 16)] * (4 * group), step)
    return [sums[4 * row : 4 * row + 4] for row in range(group)]


def _avx2(emit: _Emitter, table: Any, query: Any, stride: Any, quads: Any, group: int) -> list[list[Any]]:
    """Eight vectors of 8 scores for each query of a group, 16 items at a time: 8 sums in registers for two queries."""
    kind, words = _vector(I32, 8), _vector(I16, 16)
    scores: list[list[Any]] = [[] for _ in range(group)]
    for first in range(0, ITEMS, 16):

        def step(number: Any, sums: Sequence[Any], first: int = first) -> list[Any]:
            here = emit.plus(table, emit.builder.add(emit.builder.mul(number, I64(256)), I64(4 * first)))
            items = [
                emit.builder.zext(emit.load(emit.plus(here, 16 * part), _vector(I8, 16), 1), words) for part in range(4)
            ]
            word = emit.plus(query, emit.builder.mul(number, I64(8)))
            out = []
            for row in range(group):
                levels = emit.load(emit.plus(word, emit.builder.mul(stride, I64(row))), I64, 2)  # 4 levels of a query
                spread = emit.builder.bitcast(emit.splat(levels, 4), words)
                for part in range(4):
                    pairs = emit.call("llvm.x86.avx2.pmadd.wd", kind, items[part], spread)
                    out.append(emit.builder.add(sums[4 * row + part], pairs))
            return out

        # An item's sum lies in two neighbouring lanes: of levels 0 and 1, and of levels 2 and 3.
        sums = emit.summed(quads, [ir.Constant(kind, [0] * 8)] * (4 * group), step)
        for row in range(group):
            for part in (0, 2):
                pair = sums[4 * row + part : 4 * row + part + 2]
                even, odd = (emit.builder.shuffle_vector(*pair, _lanes(range(start, 16, 2))) for start in (0, 1))
                scores[row].append(emit.builder.add(even, odd))
    return scores


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
        emit, size = _Emitter(context, builder, signature.args, values), len(group)
        bytes_per_level = queries.dtype.bitwidth // 8
        tile, first, at = values[1], values[3], values[7]
        made = context.make_array(signature.args[0])(context, builder, value=values[0])
        quads = builder.extract_value(made.shape, 1)
        stride = builder.mul(quads, I64(4 * bytes_per_level))
        items = emit.address(0, builder.mul(tile, quads), 256)
        rows = emit.plus(emit.address(2, I64(0), 1), builder.mul(first, stride))
        multiply = _vnni if bytes_per_level == 1 else _avx2
        for row, found in enumerate(multiply(emit, items, rows, stride, quads, size)):
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


@intrinsic
def _product(typing: Any, vectors: Any, position: Any, queries: Any, row: Any) -> Any:
    """The float32 inner product of two rows of (…, d), in the order of ``plain.rescored``: 16 sums, then halves."""
    signature = types.float32(vectors, types.intp, queries, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit, kind = _Emitter(context, builder, signature.args, values), _vector(FLOAT, 16)
        made = context.make_array(signature.args[0])(context, builder, value=values[0])
        d = builder.extract_value(made.shape, 1)
        sides = [emit.address(side, builder.mul(values[side + 1], d), 4) for side in (0, 2)]
        zero = ir.Constant(kind, [0.0] * 16)
        numbers = ir.Constant(_vector(I64, 16), list(range(16)))

        def step(number: Any, sums: Sequence[Any]) -> list[Any]:
            start = builder.mul(number, I64(16))
            inside = builder.icmp_signed("<", numbers, emit.splat(builder.sub(d, start), 16))
            pair = []
            for side in sides:  # lanes behind the row's end are not read: they are 0
                where = emit.pointer(emit.plus(side, builder.mul(start, I64(4))), kind)
                masked = ir.FunctionType(kind, [where.type, I32, inside.type, kind])
                load = builder.module.declare_intrinsic("llvm.masked.load.v16f32.p0", (), masked)
                pair.append(builder.call(load, [where, I32(4), inside, zero]))
            return [builder.fadd(sums[0], builder.fmul(*pair))]

        (sums,) = emit.summed(builder.sdiv(builder.add(d, I64(15)), I64(16)), [zero], step)
        for half in (8, 4, 2, 1):
            low, high = (builder.shuffle_vector(sums, sums, _lanes(range(start, start + half))) for start in (0, half))
            sums = builder.fadd(low, high)
        return builder.extract_element(sums, I32(0))

    return signature, codegen


@intrinsic
def _prefetch(typing: Any, vectors: Any, position: Any, column: Any) -> Any:
    """Asks for the cache line of an element of (n, d) float32, which is wanted soon."""
    signature = types.void(vectors, types.intp, types.intp)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = _Emitter(context, builder, signature.args, values)
        made = context.make_array(signature.args[0])(context, builder, value=values[0])
        element = builder.add(builder.mul(values[1], builder.extract_value(made.shape, 1)), values[2])
        line = emit.pointer(emit.address(0, element, 4), I8)
        emit.call("llvm.prefetch.p0", ir.VoidType(), line, I32(0), I32(3), I32(1))  # to read, to stay, data
        return context.get_dummy_value()

    return signature, codegen


@_compiled
def _partitioned(row: npt.NDArray[np.int64], count: int, k: int) -> int:
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


@_compiled
def _raised(row: npt.NDArray[np.int64], count: int, rank: int) -> tuple[int, int]:
    """A query's bar raised to the score of its rank-th key: how many keys reach it, now in front, and the bar."""
    bar = _partitioned(row, count, rank) >> 32
    kept = rank
    for place in range(rank, count):
        if row[place] >> 32 == bar:
            row[kept] = row[place]
            kept += 1
    return kept, bar


@_compiled
def _raise_all(keys: Any, counts: Any, bars: Any, expected: float) -> None:
    """Raises the bars to where ``expected`` of the best should have been seen, less three standard deviations."""
    rank = int(expected + 3.0 * np.sqrt(expected) + 3)
    for row in range(len(counts)):
        if counts[row] > rank:
            counts[row], bars[row] = _raised(keys[row], counts[row], rank)


@_compiled
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
                    bars[row] = _partitioned(keys[row], counts[row], best) >> 32
                    counts[row] = best  # a tie that is left out here lost to best others by its position
                counts[row] = _chosen(scores, reached, member, open_, order, start, end, keys, row, counts[row])
    for row in range(rows):
        if counts[row] > best:
            _partitioned(keys[row], counts[row], best)
            counts[row] = best


@_compiled
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


@_compiled
def shut(open_: Any, slots: Any, rows: Any, positions: Any) -> None:
    """Takes the bits of (row, position) pairs out of ``open_``."""
    for pair in range(len(rows)):
        slot = slots[positions[pair]]
        open_[rows[pair], slot >> 6] &= ~(np.uint64(1) << np.uint64(slot & 63))


@_compiled
def products(vectors: Any, queries: Any, positions: Any, out: Any) -> None:
    """Inner products of (B, m) positions into ``out``; -inf beside -1."""
    rows, columns = positions.shape
    for row in range(rows):
        for column in range(columns):
            soon = positions[row, min(column + AHEAD, columns - 1)]
            for line in range(0, vectors.shape[1], 16):
                _prefetch(vectors, soon, line)
            position = positions[row, column]
            out[row, column] = _product(vectors, position, queries, row) if position >= 0 else np.float32(-np.inf)


# -- from arrays of NumPy to kernels and back -------------------------------------------------------------------------

GROUPS = {"vnni": 6, "avx2": 2}
"""Queries that a tile takes: as many as leave their sums in the processor's registers."""
LEVELS: dict[str, npt.DTypeLike] = {"vnni": np.int8, "avx2": np.int16}
SPARE = 2_048
"""Keys beside the best that a query's row has room for."""


def survivors(
    table: Quantised, levels: npt.NDArray[np.int8], search: CheckedSearch, path: str
) -> npt.NDArray[np.int64]:
    """(B, search.k) keys in any order: see ``plain.survivors``."""
    keys, counts = _scanned(table, levels, search, path, True)
    short = np.flatnonzero(counts < search.wanted)
    if len(short):  # a bar was too high
        again = search.take(short, len(table.vectors))
        keys[short], counts[short] = _scanned(table, levels[short], again, path, False)
    keys[np.arange(search.k) >= counts[:, None]] = NONE
    return keys


def _scanned(
    table: Quantised, levels: npt.NDArray[np.int8], search: CheckedSearch, path: str, guess: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(B, search.k) keys, in front those that were found, and (B,) how many."""
    b, n = len(levels), len(table.vectors)
    size = 1 if b == 1 else GROUPS[path]
    rows = -(-b // size) * size
    queries = np.zeros((rows, levels.shape[1]), dtype=LEVELS[path])
    queries[:b] = levels
    open_ = np.zeros((rows, len(table.tiles)), dtype=np.uint64)  # nothing is open to the rows that fill a group up
    open_[:b] = table.open_to(search.allowed)
    shut(open_, table.slots, *np.divmod(search.gone, n))
    keys = np.empty((rows, search.k + SPARE), dtype=np.int64)
    counts = np.empty(rows, dtype=np.int64)
    scan(table.tiles, queries, (0,) * size, search.k, guess, open_, table.order, keys, counts)
    return keys[:b, : search.k], counts[:b]


def rescored(vectors: Floats, queries: Floats, positions: Ints) -> Floats:
    """(B, m) inner products: see ``plain.rescored``."""
    out = np.empty(positions.shape, dtype=np.float32)
    products(vectors, queries, positions, out)
    return out
