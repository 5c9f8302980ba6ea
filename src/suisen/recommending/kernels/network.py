"""Layers of a split deep net as instructions: the first from an item's record, the others by tiles, int8 and float32.

Activations of int8 layers are levels 0 to 255: uint8 for AVX-512 VNNI, int16 for AVX2, and that type says which
instructions are emitted.  A group is as many candidates as a tile takes: its length is that of the tuple ``group``.
"""

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from suisen.recommending.kernels.emitter import (
    FLOAT,
    I8,
    I16,
    I32,
    I64,
    ITEMS,
    Emitter,
    Sums,
    products,
    vector,
)

TOP = 255
"""Largest level of an activation."""
WIDE = 16
"""Columns that a sum of float32 is spread over, on every path."""


class _First:
    """The first layer of a group of candidates, some columns at a time: sat(c + i + P p), integers."""

    def __init__(self, emit: Emitter, first: Any, group: int, narrow: bool) -> None:
        self.emit, self.narrow = emit, narrow
        self.lanes = 32 if narrow else 16
        self.step = ITEMS if narrow else self.lanes
        self.kind = vector(I16, self.lanes)
        builder = emit.builder
        places = [builder.add(first, I64(member)) for member in range(group)]
        ids = [emit.load(emit.address(1, place, 8), I64, 8) for place in places]
        self.records = [emit.row(0, item, 1) for item in ids]
        self.pairs = [[self._pair(feature, place) for feature in range(2)] for place in places]
        self.context = emit.address(2, I64(0), 2)
        self.weights = [emit.row(3, I64(feature), 2) for feature in range(2)]

    def _pair(self, feature: int, place: Any) -> Any:
        """A candidate's pair feature in every lane."""
        start = self.emit.row(4, I64(feature), 2)
        level = self.emit.load(self.emit.plus(start, self.emit.builder.mul(place, I64(2))), I16, 2)
        return self.emit.splat(level, self.lanes)

    def _sums(self, at: Any) -> list[Any]:
        """For each candidate a vector of int16 of the columns at ``at`` and following; sums saturate."""
        emit, builder, lanes = self.emit, self.emit.builder, self.lanes
        twice = builder.mul(at, I64(2))
        own = emit.load(emit.plus(self.context, twice), self.kind, 2)
        weights = [emit.load(emit.plus(start, twice), self.kind, 2) for start in self.weights]
        scaled = "llvm.x86.avx512.pmul.hr.sw.512" if self.narrow else "llvm.x86.avx2.pmul.hr.sw"
        plus = f"llvm.sadd.sat.v{lanes}i16"
        out = []
        for record, pair in zip(self.records, self.pairs, strict=True):
            part = emit.load(emit.plus(record, at), vector(I8, lanes), 1)
            of_pair = [emit.call(scaled, self.kind, *both) for both in zip(pair, weights, strict=True)]
            sides = emit.call(plus, self.kind, own, builder.sext(part, self.kind))
            out.append(emit.call(plus, self.kind, sides, emit.call(plus, self.kind, *of_pair)))
        return out

    def levels(self, number: Any) -> list[Any]:
        """For each candidate a vector of levels, 0 to 255: 64 bytes as ``packed`` orders them, or 16 of int16."""
        emit, builder, lanes = self.emit, self.emit.builder, self.lanes
        if self.narrow:
            at = builder.mul(number, I64(ITEMS))
            halves = zip(self._sums(at), self._sums(builder.add(at, I64(lanes))), strict=True)
            return [emit.call("llvm.x86.avx512.packuswb.512", vector(I8, ITEMS), *half) for half in halves]
        bounds = [ir.Constant(self.kind, [bound] * lanes) for bound in (0, TOP)]
        above = (
            emit.call(f"llvm.smax.v{lanes}i16", self.kind, one, bounds[0])
            for one in self._sums(builder.mul(number, I64(lanes)))
        )
        return [emit.call(f"llvm.smin.v{lanes}i16", self.kind, one, bounds[1]) for one in above]

    def short(self, number: Any, context: Any, before: int) -> list[Any]:
        """For each candidate 16 or 8 sums of products of int16: the ``number``-th vector behind ``before`` bytes."""
        emit = self.emit
        at = emit.builder.mul(number, I64(2 * self.lanes))
        own = emit.load(emit.plus(context, at), self.kind, 2)
        kind = vector(I32, self.lanes // 2)
        name = "llvm.x86.avx512.pmaddw.d.512" if self.narrow else "llvm.x86.avx2.pmadd.wd"
        starts = [emit.plus(emit.plus(record, before), at) for record in self.records]
        return [emit.call(name, kind, emit.load(start, self.kind, 2), own) for start in starts]


def _narrow(kind: Any) -> bool | None:
    """Whether levels of this type are multiplied by VNNI; None for a type that nobody multiplies."""
    return {types.uint8: True, types.int8: True, types.int16: False}.get(kind)


@intrinsic
def readouts(
    typing: Any, records: Any, ids: Any, context: Any, weights: Any, pairs: Any, first: Any, readout: Any, short: Any,
    sums: Any, shorts: Any, group: Any,
) -> Any:  # fmt: skip
    """Of a group: the first layer's levels times ``readout``, into ``sums``, and the inner product, into ``shorts``.

    ``records``: (n, bytes); ``ids``: int64, of which those at ``first`` and following are taken; ``context``: (h,)
    int16; ``weights``: (2, h) int16 of the ``pairs`` (2, …) int16; ``readout``: (h,); ``short``: (…,) int16.
    """
    narrow = _narrow(readout.dtype)
    if narrow is None:
        return None
    signature = types.void(
        records, ids, context, weights, pairs, types.intp, readout, short, sums, shorts, group
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit, size = Emitter(context, builder, signature.args, values), len(group)
        layer = _First(emit, values[5], size, narrow)
        lanes, kind = layer.lanes, vector(I32, 16 if narrow else 8)
        width, inner = emit.length(6), emit.length(7)

        def step(number: Any, sums: Sequence[Any]) -> list[Any]:
            found = layer.levels(number)
            if not narrow:
                own = emit.load(emit.address(6, builder.mul(number, I64(lanes)), 2), layer.kind, 2)
                pairs = [emit.call("llvm.x86.avx2.pmadd.wd", kind, one, own) for one in found]
                return [builder.add(sum_, pair) for sum_, pair in zip(sums, pairs, strict=True)]
            own = emit.load(emit.address(6, builder.mul(number, I64(ITEMS)), 1), vector(I8, ITEMS), 1)
            name = "llvm.x86.avx512.vpdpbusd.512"
            return [emit.call(name, kind, sum_, one, own) for sum_, one in zip(sums, found, strict=True)]

        def inside(number: Any, sums: Sequence[Any]) -> list[Any]:
            start = emit.address(7, I64(0), 2)
            found = layer.short(number, start, width)
            return [builder.add(sum_, one) for sum_, one in zip(sums, found, strict=True)]

        tasks: list[tuple[Any, int, int, Callable[..., list[Any]]]] = [
            (width, layer.step, 8, step),
            (inner, lanes, 9, inside),
        ]
        zeros = [ir.Constant(kind, [0] * kind.count)] * size
        for count, columns, target, body in tasks:
            for member, sum_ in enumerate(emit.summed(builder.sdiv(count, I64(columns)), zeros, body)):
                total = emit.call(f"llvm.vector.reduce.add.v{kind.count}i32", I32, sum_)
                emit.store(total, emit.plus(emit.address(target, values[5], 4), 4 * member), 4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def activations(
    typing: Any, records: Any, ids: Any, context: Any, weights: Any, pairs: Any, first: Any, out: Any, group: Any
) -> Any:
    """The first layer's levels of a group into ``out``, (group, width) uint8 or int16; arguments as in ``readouts``."""
    narrow = _narrow(out.dtype)
    if narrow is None:
        return None
    signature = types.void(records, ids, context, weights, pairs, types.intp, out, group)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emitter(context, builder, signature.args, values)
        layer = _First(emit, values[5], len(group), narrow)
        size = 1 if narrow else 2

        def step(number: Any, _: Any) -> list[Any]:
            at = builder.mul(number, I64(layer.step * size))
            for member, levels in enumerate(layer.levels(number)):
                emit.store(levels, emit.plus(emit.row(6, I64(member), size), at), size)
            return []

        emit.summed(builder.sdiv(emit.length(2), I64(layer.step)), [], step)
        return context.get_dummy_value()

    return signature, codegen


def _whole(emit: Emitter, values: Any, size: int, narrow: bool) -> Sums:
    """A tile of an int8 layer times a group's levels, as float32 in the layer's own unit: sum · scale + bias."""
    builder = emit.builder
    weights, rows = emit.address(0, values[1], 1), emit.row(3, I64(0), 1)
    stride = builder.mul(emit.width(3), I64(1 if narrow else 2))
    out = []
    for found in products(emit, weights, rows, stride, values[2], size, narrow, signed=True):
        row = []
        for part, sums in enumerate(found):
            kind = vector(FLOAT, sums.type.count)
            places = [emit.plus(emit.address(array, values[6], 4), 4 * kind.count * part) for array in (4, 5)]
            scale, bias = (emit.load(place, kind, 4) for place in places)
            row.append(builder.fadd(builder.fmul(builder.sitofp(sums, kind), scale), bias))
        out.append(row)
    return out


def _least(emit: Emitter, value: Any, bound: float) -> Any:
    """The larger of each lane and a bound."""
    constant = ir.Constant(value.type, [bound] * value.type.count)
    return emit.builder.select(emit.builder.fcmp_ordered(">", value, constant), value, constant)


def _weighed(emit: Emitter, found: Sums, weights: Any, target: Any) -> None:
    """Adds Σ relu(value) · weight of each row of 64 values to a float32 of ``target``: 16 sums, then in halves."""
    builder = emit.builder
    for row, parts in enumerate(found):
        lanes = parts[0].type.count
        sums: list[Any] = []
        for part, value in enumerate(parts):
            weight = emit.load(emit.plus(weights, 4 * lanes * part), value.type, 4)
            term = builder.fmul(_least(emit, value, 0.0), weight)
            at = part % (WIDE // lanes)
            sums[at:] = [builder.fadd(sums[at], term), *sums[at + 1 :]] if part >= WIDE // lanes else [term]
        whole = builder.fadd(sums[0], sums[1]) if len(sums) > 1 else sums[0]
        place = emit.plus(target, 4 * row)
        emit.store(builder.fadd(emit.load(place, FLOAT, 4), emit.reduced(whole)), place, 4)


@intrinsic
def layer(
    typing: Any, weights: Any, offset: Any, quads: Any, x: Any, scale: Any, bias: Any, at: Any, y: Any, column: Any,
    group: Any,
) -> Any:  # fmt: skip
    """64 outputs of an int8 layer for a group: sat(x · W · scale + bias), rounded down, into columns of ``y``.

    ``weights``: bytes, the tile (quads, 64, 4) at ``offset``; ``x``, ``y``: (group, …) levels; ``scale``, ``bias``:
    float32, of which those at ``at`` and following are taken.
    """
    narrow = _narrow(x.dtype)
    if narrow is None or y.dtype != x.dtype:
        return None
    signature = types.void(weights, types.intp, types.intp, x, scale, bias, types.intp, y, types.intp, group)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emitter(context, builder, signature.args, values)
        size = 1 if narrow else 2
        for member, parts in enumerate(_whole(emit, values, len(group), narrow)):
            start = emit.plus(emit.row(7, I64(member), size), builder.mul(values[8], I64(size)))
            for part, value in enumerate(parts):
                lanes = value.type.count
                above = _least(emit, value, 0.0)
                top = ir.Constant(value.type, [float(TOP)] * lanes)
                inside = builder.select(builder.fcmp_ordered("<", above, top), above, top)
                whole = builder.fptosi(inside, vector(I32, lanes))
                levels = builder.trunc(whole, vector(I8 if narrow else I16, lanes))
                emit.store(levels, emit.plus(start, size * lanes * part), 1)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def last_layer(
    typing: Any, weights: Any, offset: Any, quads: Any, x: Any, scale: Any, bias: Any, at: Any, readout: Any,
    column: Any, out: Any, first: Any, group: Any,
) -> Any:  # fmt: skip
    """64 outputs of the last int8 layer for a group, read out: out[first + member] += Σ relu(value) · readout.

    ``readout``: float32, of which those at ``column`` and following are taken; the others as in ``layer``.
    """
    narrow = _narrow(x.dtype)
    if narrow is None:
        return None
    intp = types.intp
    signature = types.void(weights, intp, intp, x, scale, bias, intp, readout, intp, out, intp, group)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emitter(context, builder, signature.args, values)
        found = _whole(emit, values, len(group), narrow)
        _weighed(emit, found, emit.address(7, values[8], 4), emit.address(9, values[10], 4))
        return context.get_dummy_value()

    return signature, codegen


def _float_tile(emit: Emitter, values: Any, size: int) -> Sums:
    """A tile of a float32 layer times a group's activations, plus bias: 24 or 8 sums in registers."""
    builder = emit.builder
    lanes, columns = (16, ITEMS) if size > 2 else (8, ITEMS // 2)
    kind, parts = vector(FLOAT, lanes), columns // lanes
    weights, rows, bias = emit.address(0, values[1], 4), emit.row(3, I64(0), 4), emit.address(4, values[5], 4)
    stride = builder.mul(emit.width(3), I64(4))
    out: Sums = [[] for _ in range(size)]
    for first in range(0, ITEMS, columns):

        def step(number: Any, sums: Sequence[Any], first: int = first) -> list[Any]:
            here = emit.plus(emit.plus(weights, 4 * first), builder.mul(number, I64(4 * ITEMS)))
            held = [emit.load(emit.plus(here, 4 * lanes * part), kind, 4) for part in range(parts)]
            word = emit.plus(rows, builder.mul(number, I64(4)))
            nexts = []
            for row in range(size):
                spread = emit.splat(emit.load(emit.plus(word, builder.mul(stride, I64(row))), FLOAT, 4), lanes)
                for part in range(parts):
                    name = f"llvm.fma.v{lanes}f32"
                    nexts.append(emit.call(name, kind, spread, held[part], sums[parts * row + part]))
            return nexts

        zeros = [ir.Constant(kind, [0.0] * lanes)] * (parts * size)
        for at, value in enumerate(emit.summed(values[2], zeros, step)):
            shift = emit.load(emit.plus(bias, 4 * (first + lanes * (at % parts))), kind, 4)
            out[at // parts].append(builder.fadd(value, shift))
    return out


@intrinsic
def float_layer(
    typing: Any, weights: Any, offset: Any, inputs: Any, x: Any, bias: Any, at: Any, y: Any, column: Any, group: Any
) -> Any:
    """64 outputs of a float32 layer for a group: relu(x · W + bias) into columns of ``y``.

    ``weights``: float32, the tile (inputs, 64) at ``offset``; ``x``, ``y``: (group, …) float32.
    """
    signature = types.void(weights, types.intp, types.intp, x, bias, types.intp, y, types.intp, group)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emitter(context, builder, signature.args, values)
        for member, parts in enumerate(_float_tile(emit, values, len(group))):
            start = emit.plus(emit.row(6, I64(member), 4), builder.mul(values[7], I64(4)))
            for part, value in enumerate(parts):
                emit.store(_least(emit, value, 0.0), emit.plus(start, 4 * value.type.count * part), 4)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def last_float_layer(
    typing: Any, weights: Any, offset: Any, inputs: Any, x: Any, bias: Any, at: Any, readout: Any, column: Any,
    out: Any, first: Any, group: Any,
) -> Any:  # fmt: skip
    """64 outputs of the last float32 layer for a group, read out: out[first + member] += Σ relu(value) · readout."""
    intp = types.intp
    signature = types.void(weights, intp, intp, x, bias, intp, readout, intp, out, intp, group)

    def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        emit = Emitter(context, builder, signature.args, values)
        found = _float_tile(emit, values, len(group))
        _weighed(emit, found, emit.address(6, values[7], 4), emit.address(8, values[9], 4))
        return context.get_dummy_value()

    return signature, codegen
