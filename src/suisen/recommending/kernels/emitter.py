"""What intrinsics are made of: LLVM's instructions, addresses inside arrays, loops, and products of int8.

A function marked ``intrinsic`` emits instructions in LLVM's own language where it is called.  Types say which: rows of
activations or queries in int8 are multiplied by AVX-512 VNNI (``vpdpbusd``: 64 products added to 16 sums in one
instruction), in int16 by AVX2 (``vpmaddwd`` after widening: 16 products; the byte form would saturate).  So a processor
never sees an instruction that it lacks.
"""

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

ITEMS = 64
"""Columns of a tile: items of a table, or outputs of a layer."""

I1, I8, I16, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 16, 32, 64))
FLOAT = ir.FloatType()


def vector(kind: ir.Type, lanes: int) -> ir.VectorType:
    """So many lanes of a kind."""
    return ir.VectorType(kind, lanes)


def lanes_of(numbers: Sequence[int]) -> ir.Constant:
    """The constant that a shuffle takes its lanes by."""
    return ir.Constant(vector(I32, len(numbers)), list(numbers))


class Emitter:
    """What the intrinsics below share: addresses inside arrays, loads, stores and broadcasts."""

    def __init__(self, context: Any, builder: Any, kinds: Sequence[Any], values: Sequence[Any]) -> None:
        self.builder = builder
        self._context, self._kinds, self._values = context, kinds, values

    def _made(self, array: int) -> Any:
        return self._context.make_array(self._kinds[array])(self._context, self.builder, value=self._values[array])

    def address(self, array: int, offset: Any, size: int) -> Any:
        """The address, as a number, of element ``offset`` of an argument; ``size``: bytes of an element."""
        data = self.builder.ptrtoint(self._made(array).data, I64)
        return self.plus(data, self.builder.mul(offset, I64(size)))

    def row(self, array: int, row: Any, size: int) -> Any:
        """The address of a row of a matrix."""
        return self.address(array, self.builder.mul(row, self.width(array)), size)

    def length(self, array: int) -> Any:
        """How long an argument is along its first axis."""
        return self.builder.extract_value(self._made(array).shape, 0)

    def width(self, array: int) -> Any:
        """How long an argument is along its second axis."""
        return self.builder.extract_value(self._made(array).shape, 1)

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
        kind = vector(value.type, lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
        return self.builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), lanes_of([0] * lanes))

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

    def reduced(self, sums: Any) -> Any:
        """A float: the sums of a vector's lanes in halves, 8 + 8, 4 + 4, 2 + 2, 1 + 1."""
        half = sums.type.count // 2
        while half:
            parts = (self.builder.shuffle_vector(sums, sums, lanes_of(range(at, at + half))) for at in (0, half))
            sums, half = self.builder.fadd(*parts), half // 2
        return self.builder.extract_element(sums, I32(0))


Sums = list[list[Any]]
"""For each row of a group the vectors that hold its 64 sums."""


def products(
    emit: Emitter, table: Any, rows: Any, stride: Any, quads: Any, group: int, narrow: bool, signed: bool
) -> Sums:
    """Sums of products of a tile (quads, 64, 4) at ``table`` with the rows of a group, ``stride`` bytes apart.

    ``narrow``: rows hold a byte for a level (VNNI), else two (AVX2).  ``signed``: the tile's bytes have a sign and the
    rows' have none; else it is the other way round.  quads: at least 1.
    """
    return (_vnni if narrow else _avx2)(emit, table, rows, stride, quads, group, signed)


def _vnni(emit: Emitter, table: Any, rows: Any, stride: Any, quads: Any, group: int, signed: bool) -> Sums:
    """Four vectors of 16 sums for each row: 24 in registers where the group is 6."""
    kind = vector(I32, 16)

    def step(number: Any, sums: Sequence[Any]) -> list[Any]:
        here = emit.plus(table, emit.builder.mul(number, I64(256)))
        held = [
            emit.builder.bitcast(emit.load(emit.plus(here, 64 * part), kind, 1), vector(I8, 64)) for part in range(4)
        ]
        word = emit.plus(rows, emit.builder.mul(number, I64(4)))
        out = []
        for row in range(group):
            levels = emit.load(emit.plus(word, emit.builder.mul(stride, I64(row))), I32, 4)  # 4 levels of a row
            spread = emit.builder.bitcast(emit.splat(levels, 16), vector(I8, 64))
            for part in range(4):
                pair = (spread, held[part]) if signed else (held[part], spread)
                out.append(emit.call("llvm.x86.avx512.vpdpbusd.512", kind, sums[4 * row + part], *pair))
        return out

    sums = emit.summed(quads, [ir.Constant(kind, [0] * 16)] * (4 * group), step)
    return [sums[4 * row : 4 * row + 4] for row in range(group)]


def _avx2(emit: Emitter, table: Any, rows: Any, stride: Any, quads: Any, group: int, signed: bool) -> Sums:
    """Eight vectors of 8 sums for each row, 16 columns at a time: 8 sums in registers for two rows."""
    kind, words = vector(I32, 8), vector(I16, 16)
    widened = emit.builder.sext if signed else emit.builder.zext
    found: Sums = [[] for _ in range(group)]
    for first in range(0, ITEMS, 16):

        def step(number: Any, sums: Sequence[Any], first: int = first) -> list[Any]:
            here = emit.plus(table, emit.builder.add(emit.builder.mul(number, I64(256)), I64(4 * first)))
            held = [widened(emit.load(emit.plus(here, 16 * part), vector(I8, 16), 1), words) for part in range(4)]
            word = emit.plus(rows, emit.builder.mul(number, I64(8)))
            out = []
            for row in range(group):
                levels = emit.load(emit.plus(word, emit.builder.mul(stride, I64(row))), I64, 2)  # 4 levels of a row
                spread = emit.builder.bitcast(emit.splat(levels, 4), words)
                for part in range(4):
                    pairs = emit.call("llvm.x86.avx2.pmadd.wd", kind, held[part], spread)
                    out.append(emit.builder.add(sums[4 * row + part], pairs))
            return out

        # A column's sum lies in two neighbouring lanes: of levels 0 and 1, and of levels 2 and 3.
        sums = emit.summed(quads, [ir.Constant(kind, [0] * 8)] * (4 * group), step)
        for row in range(group):
            for part in (0, 2):
                pair = sums[4 * row + part : 4 * row + part + 2]
                even, odd = (emit.builder.shuffle_vector(*pair, lanes_of(range(start, 16, 2))) for start in (0, 1))
                found[row].append(emit.builder.add(even, odd))
    return found
