"""Candidates: the largest inner products of some queries, found in int8 and scored in float32.

    table = Quantised.of(index.vectors)                       # or Quantised.load(folder, index.vectors)
    positions, scores = candidates(table, queries, 500, exclude, allowed)

takes and gives what ``Index.search`` does, so that an engine can ask either.  ``path_of()`` says what runs; the first
call of a path compiles it or reads it from numba's cache, so a server makes one call before it is ready.

Operations per query: n·d multiply-adds of bytes, then d for each survivor.  Survivors are more than the k that are
asked for, by a margin for what rounding moves over the edge; ``agreement`` measures whether the margin is wide enough.
``benchmarks/kernel_cost.py`` measures each path: of 105 µs per query for 500 of 50,000 × 128 by VNNI, 60 together, on a
busy machine, about 45 are the scan, 30 the survivors' vectors, which come from memory, and 10 the checks.  By AVX2 it
was 150, without compiled code 490, by the exact index 310; one query alone took 280, 350, 4,500 and 4,000.
"""

from typing import Any, NamedTuple

import numpy as np

from suisen.errors import InputError
from suisen.recommending.kernels import plain
from suisen.recommending.kernels.paths import path_of
from suisen.recommending.kernels.quantised import Quantised
from suisen.retrieval.checks import CheckedSearch, checked_search
from suisen.retrieval.contract import Bools, Excluded, Floats, Ints
from suisen.retrieval.exact import scan
from suisen.retrieval.select import NONE, Keys, pack, unpack

QUERIES = 60
"""Queries that are scanned together: more bring nothing, and their keys would leave the cache."""
LEAST_MARGIN, MARGIN_SHARE = 32, 8
"""The margin of k is k / 8, and at least 32."""


class Agreement(NamedTuple):
    """How candidates compare with those of an exact float32 search."""

    identical: float
    """Share of the queries whose lists are the same positions in the same order."""
    overlap: float
    """Mean share of the exact list that was found."""
    queries: int


def margin_of(k: int) -> int:
    """Survivors beside k where nothing else is asked for."""
    return max(LEAST_MARGIN, k // MARGIN_SHARE)


def candidates(
    table: Quantised,
    queries: Floats,
    k: int,
    exclude: Excluded | None = None,
    allowed: Bools | None = None,
    *,
    path: str | None = None,
    margin: int | None = None,
) -> tuple[Ints, Floats]:
    """(B, k) positions, -1 = none, and (B, k) true inner products, descending, -inf beside none: as ``Index.search``.

    ``exclude``: positions of each query; ``allowed``: (n,) one mask for all.  Equal scores: lower position first.
    Every query gets min(k, positions that are left).  ``margin``: survivors beside k; None: ``margin_of(k)``.
    Every path gives the same bits, and so does every way to put queries into calls.  Raises InputError.
    """
    margin = margin_of(k) if margin is None else margin
    if margin < 0:
        raise InputError(f"margin = {margin} is negative; give 0 or more, or leave it out")
    n = len(table.vectors)
    search = checked_search(table.vectors, queries, k if k < 0 else min(k + margin, n), exclude, allowed)
    run = path_of(path)
    parts = [np.zeros((0, 0), dtype=np.uint64)]
    for first in range(0, len(search.queries), QUERIES):
        rows = np.arange(first, min(first + QUERIES, len(search.queries)))
        parts.append(_ranked(table, search if len(rows) == len(search.queries) else search.take(rows, n), run))
    width = max(part.shape[1] for part in parts)
    keys = np.concatenate([np.zeros((0, width), dtype=np.uint64), *parts[1:]])
    return unpack(keys[:, :k], k)


def _ranked(table: Quantised, search: CheckedSearch, path: str) -> Keys:
    """(B, search.k) sorted keys of the survivors by their float32 scores."""
    kernel = _kernel(path)
    positions = plain.positions_of(kernel.survivors(table, table.levels_of(search.queries), search, path))
    scores = kernel.rescored(table.vectors, search.queries, positions)
    keys = np.where(positions < 0, NONE, pack(scores, positions))
    keys.sort(axis=1)
    return keys


def _kernel(path: str) -> Any:
    """The file of a path."""
    if path == "plain":
        return plain
    from suisen.recommending.kernels import compiled  # numba takes a second, and not everybody has it

    return compiled


def agreement(
    table: Quantised, queries: Floats, k: int, *, path: str | None = None, margin: int | None = None
) -> Agreement:
    """How often the candidates of (B, d) queries are those of an exact search, in the float32 arithmetic of both.

    Raises InputError where there is no query.
    """
    if not len(queries):
        raise InputError("queries has no row; give some that the table is to be judged by")
    found, _ = candidates(table, queries, k, path=path, margin=margin)
    # A few more of the exact search, in our own order of additions: at the edge its rounding is not ours.
    wide = checked_search(table.vectors, queries, min(k + LEAST_MARGIN, len(table.vectors)), None, None)
    near, _ = unpack(scan(table.vectors, wide), wide.k)
    keys = pack(plain.rescored(table.vectors, wide.queries, near), near)
    keys.sort(axis=1)
    truth, _ = unpack(keys[:, :k], k)
    overlap = [np.isin(true, one).mean() for true, one in zip(truth, found, strict=True)]
    return Agreement(float((truth == found).all(axis=1).mean()), float(np.mean(overlap)), len(queries))
