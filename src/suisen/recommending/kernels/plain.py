"""The first stage without compiled code, on torch and NumPy: the same integers and the same floats.

Levels are multiplied as float32.  Less 128 they are whole numbers whose sums of products stay below 2^24, and float32
adds whole numbers up to there without error, in any order.  Cost: a float32 search (B·n·d multiply-adds over 4·n·d
bytes, one pass over the scores) and then the rescoring; without a compiled path an exact index is faster.
"""

import numpy as np
import numpy.typing as npt

from suisen.recommending.kernels.quantised import FINE, FINE_CENTRE, Quantised
from suisen.retrieval.checks import CheckedSearch, checked_search
from suisen.retrieval.contract import Bools, Floats, Ints
from suisen.retrieval.exact import scan
from suisen.retrieval.select import NONE, pack, unpack

LANES = 16
"""Partial sums of an inner product, as many as a vector register of the compiled path has."""


def survivors(table: Quantised, levels: npt.NDArray[np.int8], search: CheckedSearch) -> Ints:
    """(B, search.k) positions, -1 = none, of the largest integer scores that each query may get, falling.

    The score of an item is Σ u_j q'_j; equal scores: lower position first.  ``levels``: (B, 4 · ⌈d / 4⌉) int8 of the
    queries in ``search``.
    """
    centred = search._replace(queries=levels.astype(np.float32))
    if table.cells is None:
        return unpack(scan(table.centred, centred), search.k)[0]
    n = len(table.vectors)
    out = np.full((len(levels), search.k), -1, dtype=np.int64)
    for row, near in enumerate(nearest(table, search.queries)):
        one = centred.take(np.array([row]), n)
        inside = near[table.cell_of] if one.allowed is None else near[table.cell_of] & one.allowed
        found = unpack(scan(table.centred, one._replace(allowed=inside)), search.k)[0]
        if (found >= 0).sum() < one.wanted[0]:  # its cells hold too few
            found = unpack(scan(table.centred, one), search.k)[0]
        out[row] = found[0]
    return out


def nearest(table: Quantised, queries: Floats) -> Bools:
    """(B, cells) whether a query reads a cell of the table."""
    if table.cells is None:
        return np.ones((len(queries), 1), dtype=np.bool_)
    centres, probes = table.cells.centres, table.cells.probes
    search = checked_search(centres.vectors, queries, probes, None, None)
    out = np.zeros((len(queries), len(centres.vectors)), dtype=np.bool_)
    np.put_along_axis(out, survivors(centres, centres.levels_of(queries), search), True, axis=1)
    return out


def retrieve(table: Quantised, search: CheckedSearch, exact: bool, width: int) -> tuple[Ints, Floats, Ints]:
    """(B, width) positions, -1 = none, and scores, falling, and (B,) how many: the best of search.k survivors.

    ``exact``: scores are inner products; else those with what the 16 bits of ``fine`` stand for.
    """
    positions = survivors(table, table.levels_of(search.queries), search)
    if exact:
        scores = rescored(table.vectors, search.queries, positions)
    else:
        steps = (search.queries * (table.scale / FINE)).astype(np.float32)
        fine = table.fine[:, : table.d].astype(np.float32)
        centre = table.low + table.scale / FINE * FINE_CENTRE
        added = np.cumsum(search.queries * centre, axis=1)[:, -1:]  # one number behind the other
        scores = (rescored(fine, steps, positions).astype(np.float64) + added).astype(np.float32)
    keys = np.where(positions < 0, NONE, pack(scores, positions))
    keys.sort(axis=1)
    best, values = unpack(keys[:, :width], width)
    return best, values, (best >= 0).sum(axis=1)


def rescored(vectors: Floats, queries: Floats, positions: Ints) -> Floats:
    """(B, m) inner products of (B, d) queries with the vectors at (B, m) positions; -inf beside -1."""
    out = np.empty(positions.shape, dtype=np.float32)
    for row, query in enumerate(queries):
        out[row] = np.where(positions[row] >= 0, product(vectors[positions[row]], query), -np.inf)
    return out


def product(vectors: Floats, query: Floats) -> Floats:
    """(m,) inner products of (m, d) vectors with (d,) or (m, d) numbers.

    The order of additions is part of what it promises, so that every path gives the same bits: 16 sums, of coordinates
    j, j + 16, j + 32…, and then the sums in halves, 8 + 8, 4 + 4, 2 + 2, 1 + 1.
    """
    m, d = vectors.shape
    blocks = max(-(-d // LANES), 1)
    terms = np.zeros((m, blocks * LANES), dtype=np.float32)
    terms[:, :d] = vectors * query
    sums = np.zeros((m, LANES), dtype=np.float32)
    for block in range(blocks):
        sums += terms[:, LANES * block : LANES * (block + 1)]
    for half in (8, 4, 2, 1):
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]
