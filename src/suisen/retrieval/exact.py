"""Exact search on torch: every inner product, in tiles.

Memory beside the vectors, measured: 130 MiB, of which 16 MiB are the scores of a tile; 250 MiB where all scores tie.
Cost: 2·d operations for each query and vector, then one pass over the scores (``suisen.retrieval.select``).
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from suisen.checkpoint import checkpoint
from suisen.parameters import parameters
from suisen.retrieval.checks import CheckedSearch, StoredVectors, checked_search, checked_vectors
from suisen.retrieval.contract import Bools, Excluded, Floats, Index, Ints
from suisen.retrieval.select import NONE, Keys, largest, unpack

ITEMS_PER_TILE = 65_536
SCORES_PER_TILE = 4_194_304
"""float32 scores: 16 MiB."""
FLOATS_PER_CHUNK = 16_777_216
"""float32 numbers that ``inner_products`` gathers: 64 MiB."""
MIN_SHARE_MASKED = 0.25
"""Where a smaller share of the positions is allowed, their vectors are gathered instead of masking the others."""
MAX_ALLOWED_SCANNED = 10_000
"""Where no more than this, or a twentieth of the vectors, is allowed, an index scores these one by one."""


@parameters
class Exact:
    """Every inner product, on torch: the right choice up to some 100,000 items.  Memory: 4·n·d bytes."""

    name: ClassVar[str] = "exact"
    exact: ClassVar[bool] = True

    def create(self) -> "ExactIndex":
        """An empty index."""
        return ExactIndex(self)


class ExactIndex(StoredVectors):
    """The ``Index`` of ``Exact()``."""

    def build(self, vectors: Floats) -> None:
        """Takes in a copy of (n, d) vectors."""
        self._vectors = checked_vectors(vectors)

    def search(
        self, queries: Floats, k: int, exclude: Excluded | None = None, allowed: Bools | None = None
    ) -> tuple[Ints, Floats]:
        """(B, k) positions and inner products: see ``Index.search``."""
        return unpack(scan(self.vectors, checked_search(self.vectors, queries, k, exclude, allowed)), k)


def search_among(index: Index, queries: Floats, k: int, exclude: Excluded, positions: Ints) -> tuple[Ints, Floats]:
    """``Index.search`` among (m,) rising ``positions`` alone.  A few are scored one by one, whatever the index, and no
    array of the index's length is made for them.
    """
    vectors = index.vectors
    n = len(vectors)
    if len(positions) < MIN_SHARE_MASKED * n and len(positions) <= most_scanned(n):
        search = checked_search(vectors, queries, k, exclude, None)
        return unpack(_scan_positions(vectors, search, positions), k)
    allowed = np.zeros(n, dtype=np.bool_)
    allowed[positions] = True
    return index.search(queries, k, exclude, None if len(positions) == n else allowed)


def most_scanned(n: int) -> int:
    """So many of n vectors are scored one by one rather than searched for."""
    return max(MAX_ALLOWED_SCANNED, n // 20)


def scan(vectors: Floats, search: CheckedSearch) -> Keys:
    """(B, at most k) sorted keys of the best positions by every inner product."""
    if search.allowed is None or np.count_nonzero(search.allowed) >= MIN_SHARE_MASKED * len(vectors):
        return _scan_tiles(torch.from_numpy(vectors), search)
    return _scan_positions(vectors, search, np.flatnonzero(search.allowed))


def _scan_positions(vectors: Floats, search: CheckedSearch, positions: Ints) -> Keys:
    """``scan`` of (m,) rising positions alone."""
    keys = _scan_tiles(torch.from_numpy(vectors[positions]), _among(search, positions, len(vectors)))
    # The low half of a key is a place among the gathered vectors; it becomes the position in the index again.
    places = (keys & np.uint64(0xFFFF_FFFF)).astype(np.int64)
    moved = (keys & np.uint64(0xFFFF_FFFF_0000_0000)) | positions[np.where(keys == NONE, 0, places)].astype(np.uint64)
    return np.where(keys == NONE, NONE, moved)


def _among(search: CheckedSearch, positions: Ints, n: int) -> CheckedSearch:
    """The search in terms of places in ``positions`` (ascending), all of them allowed."""
    rows, gone = np.divmod(search.gone, n)
    inside = np.isin(gone, positions)
    places = np.searchsorted(positions, gone[inside])
    return search._replace(gone=rows[inside] * len(positions) + places, allowed=None)


def _scan_tiles(vectors: Tensor, search: CheckedSearch) -> Keys:
    """(B, at most k) sorted keys, some queries at a time."""
    n = len(vectors)
    if not search.k or not len(search.queries) or not n:
        return np.zeros((len(search.queries), 0), dtype=np.uint64)
    rows_per_chunk = max(1, SCORES_PER_TILE // min(n, ITEMS_PER_TILE))
    gone = np.divmod(search.gone, n)
    masked = None if search.allowed is None else torch.from_numpy(~search.allowed)
    parts = []
    for first in range(0, len(search.queries), rows_per_chunk):
        queries = torch.from_numpy(search.queries[first : first + rows_per_chunk])
        cut = slice(*np.searchsorted(gone[0], [first, first + len(queries)]))
        parts.append(_scan_items(vectors, queries, search.k, (gone[0][cut] - first, gone[1][cut]), masked))
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=NONE) for p in parts])


def _scan_items(vectors: Tensor, queries: Tensor, k: int, gone: tuple[Ints, Ints], masked: Tensor | None) -> Keys:
    """(b, at most k) sorted keys of (b, d) queries; ``gone``: (rows, positions) of what each of them excludes."""
    best: Keys | None = None
    for start in range(0, len(vectors), ITEMS_PER_TILE):
        checkpoint()
        tile = vectors[start : start + ITEMS_PER_TILE]
        scores = queries @ tile.T  # (b, w)
        if masked is not None:
            scores.masked_fill_(masked[start : start + len(tile)], -torch.inf)
        here = (gone[1] >= start) & (gone[1] < start + len(tile))
        scores[torch.from_numpy(gone[0][here]), torch.from_numpy(gone[1][here] - start)] = -torch.inf
        best = largest(scores.numpy(), k, start, best)
    assert best is not None  # noqa: S101 - an index is never empty
    return best


def inner_products(vectors: Floats, queries: Floats, ids: Ints) -> Floats:
    """(B, C) scores of (B, C) positions, gathered in chunks."""
    held = torch.from_numpy(vectors)
    rows_per_chunk = max(1, FLOATS_PER_CHUNK // max(1, ids.shape[1] * queries.shape[1]))
    out = np.zeros(ids.shape, dtype=np.float32)
    for first in range(0, len(queries), rows_per_chunk):
        chunk = slice(first, first + rows_per_chunk)
        gathered = held[torch.from_numpy(ids[chunk])]  # (b, C, d)
        out[chunk] = torch.bmm(gathered, torch.from_numpy(queries[chunk, :, None]))[:, :, 0]  # (b, C)
    return out
