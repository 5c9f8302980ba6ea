"""Vectors in int8, in the order that the scan reads them, and in int16, to put in order what it finds.

A level is u = round((v - low_j) / scale_j), 0 to 255, with the dimension's own lowest value and step: no coordinate is
further than half a step from its level.  A query is multiplied by the steps and then rounded to ±127 times a step of
its own: q'_j = round(q_j · scale_j / s).  Then v·q ≈ s · Σ u_j q'_j + Σ low_j q_j, and the last sum is the same for
every item, so that integers alone put the items of a query in order.  (Nothing saturates: 255 · 127 · MAX_DIM < 2^31.)

Tiles of 64 items hold four neighbouring levels of each item side by side, as ``vpdpbusd`` multiplies them.  Items
stand in a random order, which is stored: the first tiles are a sample of all of them, from which the scan guesses how
good the best will be, however the catalogue was sorted.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from suisen.errors import BundleError, InputError
from suisen.files import replacing
from suisen.retrieval.checks import checked_vectors
from suisen.retrieval.contract import Bools, Floats, Ints

Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]

ITEMS = 64
"""Items in a tile."""
MAX_DIM = 1024
"""Sums of products centred on 0 stay below 2^24, so that the path without compiled code is exact in float32, too."""
LARGEST = 127
"""Largest level of a query."""
LOW = np.int64(0xFFFF_FFFF)
"""The low half of a key, which holds it less the place."""
ALIGNMENT = 64
"""Bytes: a tile's rows lie on cache lines; .npy files keep that when they are mapped."""
CENTRE = 128
"""The level that ``centred`` calls 0."""
TILES_PER_CHUNK = 1024
"""Tiles that are quantised together: 64 MiB of float64 where d is 128."""
FILES = ("tiles", "low", "scale", "order", "slots", "fine")
CELLS = "cells"
"""Folder of a table's cells inside its own."""
FINE = 257
"""Steps of ``fine`` in one of a tile's."""
FINE_CENTRE = 32_768
"""The level that ``fine`` calls 0."""
LINE = 32
"""int16 numbers of a cache line."""


@dataclass(frozen=True, eq=False)
class Cells:
    """Where the items of a large table stand by clusters, so that a query reads the nearest alone: see ``cells``."""

    centres: "Quantised"
    """A table of the (cells, d) centres: the cells with the largest inner products are the nearest."""
    starts: npt.NDArray[np.int64]
    """(cells + 1,) first tile of each cell."""
    probes: int
    """Cells that a query reads."""


@dataclass(frozen=True, eq=False)
class Quantised:
    """n vectors of d numbers, float32 and in int8; not to be written to."""

    vectors: Floats
    """(n, d) as they were given: survivors of the scan are scored with them."""
    tiles: npt.NDArray[np.uint8]
    """(tiles, ⌈d / 4⌉, 64, 4): [t, q, i, j] is the level of dimension 4·q + j of slot 64·t + i; 0 behind the end."""
    low: Doubles
    """(d,) what level 0 stands for."""
    scale: Doubles
    """(d,) step of a level."""
    order: npt.NDArray[np.int32]
    """(64 · (tiles + 1),) position of each slot; 0 behind the end, with room for one tile more."""
    slots: npt.NDArray[np.int32]
    """(n,) slot of each position."""
    fine: npt.NDArray[np.int16]
    """(n, d) by position, levels of 1/257 of a step, less 32,768: what orders survivors where float32 costs too
    much.  Padded to whole cache lines."""
    cells: Cells | None = None
    """None: every query reads all tiles."""

    @classmethod
    def of(cls, vectors: Floats, seed: int = 0, slots: npt.NDArray[np.int32] | None = None) -> "Quantised":
        """(n, d) finite float32 vectors, d at most 1,024; the array itself is kept where it is contiguous and writable.

        ``slots``: (n,) where each stands, None: in random order.  Bytes: 3·n·d and 8·n beside the vectors.  Raises
        InputError as an index does.
        """
        checked = checked_vectors(vectors)
        n, d = checked.shape
        if d > MAX_DIM:
            raise InputError(f"vectors has {d} dimensions; an int8 table holds at most {MAX_DIM}: search exactly")
        if n >= 2**31 - 2 * ITEMS:
            raise InputError(f"vectors has {n} rows; an int8 table holds fewer than 2^31: use several tables")
        if slots is None:
            slots = np.random.default_rng(seed).permutation(n).astype(np.int32)
        order = np.full(ITEMS * (int(slots.max()) // ITEMS + 2), -1, dtype=np.int32)
        order[slots] = np.arange(n)
        low = checked.min(axis=0).astype(np.float64)
        scale = (checked.max(axis=0).astype(np.float64) - low) / 255
        tiles, fine = _tiles(checked, order[:-ITEMS], low, scale), _fine(checked, low, scale)
        order = np.maximum(order, 0)
        return cls(np.require(vectors, requirements=["C", "A", "W"]), tiles, low, scale, order, slots, fine)

    def levels_of(self, queries: Floats) -> npt.NDArray[np.int8]:
        """(B, 4 · ⌈d / 4⌉) levels of (B, d) queries, ±127 at the largest; a query of zeros is zeros."""
        stretched = queries * self.scale  # (B, d) float64
        largest = np.abs(stretched).max(axis=1, keepdims=True)
        out = np.zeros((len(queries), 4 * self.tiles.shape[1]), dtype=np.int8)
        out[:, : queries.shape[1]] = np.rint(stretched * (LARGEST / np.where(largest > 0, largest, 1)))
        return out

    @cached_property
    def open_to_all(self) -> Words:
        """(tiles,) a bit per slot, the lowest first: whether an item stands there."""
        return self.open_to(None)

    def open_to(self, allowed: Bools | None) -> Words:
        """The same bits for the items that ``allowed`` (n,) lets pass; None: all."""
        bits = np.zeros(ITEMS * len(self.tiles), dtype=np.bool_)
        bits[self.slots] = True if allowed is None else allowed
        return np.packbits(bits, bitorder="little").view("<u8")

    def allowed_by(self, bits: Words) -> Bools:
        """(n,) the mask that ``open_to`` made bits of."""
        allowed: Bools = np.unpackbits(bits.view(np.uint8), bitorder="little")[self.slots].astype(np.bool_)
        return allowed

    @cached_property
    def cell_arrays(self) -> tuple[Any, ...]:
        """Centres' tiles, scale, order, the cells' first tiles, probes and bits, as compiled code takes them."""
        if self.cells is None:
            return self.tiles[:0], self.scale, self.order[:0], np.zeros(1, np.int64), 0, self.open_to_all[:0]
        table = self.cells.centres
        return table.tiles, table.scale, table.order, self.cells.starts, self.cells.probes, table.open_to_all

    @property
    def d(self) -> int:
        """Numbers of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def cell_of(self) -> Ints:
        """(n,) the cell of each position; all in cell 0 where there are none."""
        starts = np.zeros(1, np.int64) if self.cells is None else self.cells.starts
        cells: Ints = np.searchsorted(starts, self.slots // ITEMS, side="right") - 1
        return cells

    @cached_property
    def centred(self) -> Floats:
        """(n, 4 · ⌈d / 4⌉) levels less 128 by position, as float32: what the path without compiled code multiplies.

        4·n·d bytes of this process alone, made when they are first asked for.
        """
        by_slot = self.tiles.transpose(0, 2, 1, 3).reshape(ITEMS * len(self.tiles), -1)
        return by_slot[self.slots].astype(np.float32) - np.float32(CENTRE)

    def save(self, folder: Path) -> None:
        """Writes all but the vectors as .npy files; ``folder`` is made where it is missing."""
        for name in FILES:
            with replacing(folder / f"{name}.npy") as path:
                np.save(path, getattr(self, name), allow_pickle=False)
        if self.cells is not None:
            self.cells.centres.save(folder / CELLS)
            probes = np.array([self.cells.probes], dtype=np.int64)
            parts: dict[str, Any] = {
                "vectors": self.cells.centres.vectors,
                "starts": self.cells.starts,
                "probes": probes,
            }
            for name, array in parts.items():
                with replacing(folder / CELLS / f"{name}.npy") as path:
                    np.save(path, array, allow_pickle=False)

    @classmethod
    def load(cls, folder: Path, vectors: Floats) -> "Quantised":
        """Maps what ``save`` wrote into memory: pages are read when touched and shared between processes.

        ``vectors``: (n, d) what the table was made of, memory-mapped too where an index was loaded.  Raises BundleError
        for a file that is missing, damaged or another table's.
        """
        n, d = vectors.shape
        count, cells = -(-n // ITEMS), None
        if (folder / CELLS).exists():
            cells = _cells(folder / CELLS, d)
            count = int(cells.starts[-1])
        order = mapped(folder / "order.npy", (ITEMS * (count + 1),), np.int32)
        slots = mapped(folder / "slots.npy", (n,), np.int32)
        _check_places(folder, order, slots, ITEMS * count)
        return cls(
            np.require(vectors, requirements=["C", "A", "W"]),
            tiles=mapped(folder / "tiles.npy", (count, -(-d // 4), ITEMS, 4), np.uint8),
            low=mapped(folder / "low.npy", (d,), np.float64),
            scale=mapped(folder / "scale.npy", (d,), np.float64),
            order=order,
            slots=slots,
            fine=mapped(folder / "fine.npy", (n, -(-d // LINE) * LINE), np.int16),
            cells=cells,
        )


def _check_places(folder: Path, order: npt.NDArray[np.int32], slots: npt.NDArray[np.int32], room: int) -> None:
    """Compiled code follows both without looking: each position has a slot of its own, and no slot names a stranger."""
    n = len(slots)
    within = slots.min(initial=0) >= 0 and slots.max(initial=-1) < room
    if not within or not 0 <= order.min(initial=0) <= order.max(initial=0) < n or (order[slots] != np.arange(n)).any():
        raise BundleError(f"{folder} holds slots and an order that do not fit together; save the table again")


def _cells(folder: Path, d: int) -> Cells:
    """What ``save`` wrote of a table's cells."""
    starts, (probes,) = mapped(folder / "starts.npy", None, np.int64), mapped(folder / "probes.npy", (1,), np.int64)
    count = len(starts) - 1
    if count < 1 or starts[0] != 0 or (np.diff(starts) < 0).any() or not 1 <= probes <= count:
        raise BundleError(f"{folder} holds cells that do not fit together; save the table again")
    centres = Quantised.load(folder, mapped(folder / "vectors.npy", (count, d), np.float32))
    return Cells(centres, starts, int(probes))


def _tiles(vectors: Floats, order: npt.NDArray[np.int32], low: Doubles, scale: Doubles) -> npt.NDArray[np.uint8]:
    """The tiles of (n, d) vectors whose slots hold the positions ``order``, -1 nobody's."""
    quads, d = -(-vectors.shape[1] // 4), vectors.shape[1]
    out = aligned((len(order) // ITEMS, quads, ITEMS, 4))
    step = np.where(scale > 0, scale, 1)  # a dimension that is the same for all items is level 0
    for first in range(0, len(out), TILES_PER_CHUNK):
        here = out[first : first + TILES_PER_CHUNK]
        chosen = order[ITEMS * first : ITEMS * (first + len(here))]
        levels = np.zeros((ITEMS * len(here), 4 * quads), dtype=np.uint8)
        levels[chosen >= 0, :d] = np.rint((vectors[chosen[chosen >= 0]] - low) / step)
        here[:] = levels.reshape(len(here), ITEMS, quads, 4).transpose(0, 2, 1, 3)
    return out


def _fine(vectors: Floats, low: Doubles, scale: Doubles) -> npt.NDArray[np.int16]:
    """Levels of (n, d) vectors in 16 bits."""
    n, d = vectors.shape
    out = aligned((n, -(-d // LINE) * LINE), np.int16)
    step = np.where(scale > 0, scale, 1) / FINE
    for first in range(0, n, ITEMS * TILES_PER_CHUNK):
        here = slice(first, first + ITEMS * TILES_PER_CHUNK)
        out[here, :d] = np.rint((vectors[here] - low) / step) - FINE_CENTRE
    return out


def aligned(shape: tuple[int, ...], kind: npt.DTypeLike = np.uint8) -> npt.NDArray[Any]:
    """Zeros whose first byte stands at a multiple of 64, as in a mapped .npy file."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    raw = np.zeros(size + ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(kind).reshape(shape)


def mapped(path: Path, shape: tuple[int, ...] | None, kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """A .npy file as an array that no other process sees the writes of; nobody writes to it.  ``shape`` None: any.

    Raises BundleError where it cannot be read or holds something else.
    """
    try:
        array: Any = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path} cannot be read ({error}); save the table again") from error
    wrong = shape is not None and array.shape != shape
    if array.dtype != kind or wrong or not array.flags.c_contiguous:
        raise BundleError(f"{path} holds {array.dtype} {array.shape}, the table needs {np.dtype(kind)} {shape or ''}")
    return np.asarray(array)
