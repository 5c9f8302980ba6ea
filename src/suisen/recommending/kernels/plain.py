"""The scan and rescoring without compiled code, on torch and NumPy: the same integers and the same floats.

Levels are multiplied as float32.  Less 128 they are whole numbers whose sums of products stay below 2^24, and float32
adds whole numbers up to there without error, in any order.  Cost: a float32 search (B·n·d multiply-adds over 4·n·d
bytes, one pass over the scores) and then the rescoring; without a compiled path an exact index is faster.
"""

import numpy as np
import numpy.typing as npt

from suisen.recommending.kernels.quantised import CENTRE, Quantised
from suisen.retrieval.checks import CheckedSearch
from suisen.retrieval.contract import Floats, Ints
from suisen.retrieval.exact import scan
from suisen.retrieval.select import unpack

NONE = np.int64(-(2**63))
LOW = np.int64(0xFFFF_FFFF)
LANES = 16
"""Partial sums of an inner product, as many as a vector register of the compiled path has."""


def survivors(
    table: Quantised, levels: npt.NDArray[np.int8], search: CheckedSearch, path: str
) -> npt.NDArray[np.int64]:
    """(B, search.k) keys, in any order, of the items with the largest integer scores that each query may get.

    The score of an item is Σ u_j q'_j; equal scores: lower position first.  A key is score << 32 | (2^32 - 1 -
    position), NONE where there is no item.  ``levels``: (B, 4 · ⌈d / 4⌉) int8 of the queries in ``search``.
    """
    centred = search._replace(queries=levels.astype(np.float32))
    positions, scores = unpack(scan(table.centred, centred), search.k)
    found = positions >= 0
    whole = np.where(found, scores, 0).astype(np.int64) + CENTRE * levels.sum(axis=1, dtype=np.int64)[:, None]
    return np.where(found, (whole << 32) | (LOW - positions), NONE)


def positions_of(keys: npt.NDArray[np.int64]) -> Ints:
    """The positions in keys; -1 for NONE."""
    return np.where(keys == NONE, -1, LOW - (keys & LOW))


def rescored(vectors: Floats, queries: Floats, positions: Ints) -> Floats:
    """(B, m) inner products of (B, d) queries with the vectors at (B, m) positions; -inf beside -1.

    The order of additions is part of what it promises, so that every path gives the same bits: 16 sums, of coordinates
    j, j + 16, j + 32…, and then the sums in halves, 8 + 8, 4 + 4, 2 + 2, 1 + 1.
    """
    out = np.empty(positions.shape, dtype=np.float32)
    d = queries.shape[1]
    blocks = -(-d // LANES)
    for row, query in enumerate(queries):
        terms = np.zeros((positions.shape[1], blocks * LANES), dtype=np.float32)
        terms[:, :d] = vectors[positions[row]] * query  # (m, d)
        sums = np.zeros((len(terms), LANES), dtype=np.float32)
        for block in range(blocks):
            sums += terms[:, LANES * block : LANES * (block + 1)]
        for half in (8, 4, 2, 1):
            sums = sums[:, :half] + sums[:, half:]
        out[row] = np.where(positions[row] >= 0, sums[:, 0], -np.inf)
    return out
