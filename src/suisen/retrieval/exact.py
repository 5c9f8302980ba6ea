"""Exact search on torch: every inner product, in tiles.

Memory beside the vectors, measured: 130 MiB, of which 16 MiB are the scores of a tile; 250 MiB where all scores tie.
Cost: 2·d operations for each query and vector, then one pass over the scores (``suisen.retrieval.select``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from suisen.errors import InputError
from suisen.retrieval.checks import Request, checked_request, checked_vectors, load_vectors, save_vectors
from suisen.retrieval.contract import Bools, Description, Excluded, Floats, Ints
from suisen.retrieval.select import NONE, Keys, largest, unpack
from suisen.retrieval.settings import Exact

TILE_ITEMS = 65_536
TILE_SCORES = 4_194_304
"""float32 scores computed at once: 16 MiB."""
GATHERED = 16_777_216
"""float32 numbers gathered at once by ``inner_products``: 64 MiB."""
FEW = 4
"""Where fewer than one in FEW positions is allowed, their vectors are gathered instead of masking the others."""


class ExactIndex:
    """The ``Index`` of ``Exact()``."""

    def __init__(self, settings: Exact | None = None) -> None:
        self.settings = settings or Exact()
        self._vectors: Floats | None = None

    @property
    def vectors(self) -> Floats:
        """(n, d): what was given to ``build``."""
        if self._vectors is None:
            raise InputError("the index is empty; call build(vectors) first")
        return self._vectors

    @property
    def description(self) -> Description:
        """Plain data for a manifest."""
        n, d = self.vectors.shape
        return {"kind": self.settings.kind, "n": n, "d": d}

    def build(self, vectors: Floats) -> None:
        """Takes in a copy of (n, d) vectors."""
        self._vectors = checked_vectors(vectors)

    def search(
        self, queries: Floats, k: int, exclude: Excluded | None = None, allowed: Bools | None = None
    ) -> tuple[Ints, Floats]:
        """(B, k) positions and inner products: see ``Index.search``."""
        n, d = self.vectors.shape
        return unpack(scan(self.vectors, checked_request((n, d), queries, k, exclude, allowed)), k)

    def save(self, folder: Path) -> None:
        """Writes vectors.npy."""
        save_vectors(folder, self.vectors)

    @classmethod
    def load(cls, folder: Path, description: Description) -> Self:
        """Maps vectors.npy into memory."""
        index = cls()
        index._vectors = load_vectors(folder, (description["n"], description["d"]))
        return index


def scan(vectors: Floats, request: Request) -> Keys:
    """(B, at most k) sorted keys of the best positions by every inner product."""
    n = len(vectors)
    if not request.k or not len(request.queries):
        return np.zeros((len(request.queries), 0), dtype=np.uint64)
    if request.allowed is None or np.count_nonzero(request.allowed) * FEW >= n:
        return _scan_tiles(torch.from_numpy(vectors), request)
    positions = np.flatnonzero(request.allowed)
    if not len(positions):
        return np.zeros((len(request.queries), 0), dtype=np.uint64)
    keys = _scan_tiles(torch.from_numpy(vectors[positions]), _among(request, positions, n))
    places = (keys & np.uint64(0xFFFF_FFFF)).astype(np.int64)
    moved = (keys & np.uint64(0xFFFF_FFFF_0000_0000)) | positions[np.where(keys == NONE, 0, places)].astype(np.uint64)
    return np.where(keys == NONE, NONE, moved)


def _among(request: Request, positions: Ints, n: int) -> Request:
    """The request in terms of places in ``positions`` (ascending), all of them allowed."""
    rows, gone = np.divmod(request.gone, n)
    places = np.searchsorted(positions, gone).clip(max=len(positions) - 1)
    inside = positions[places] == gone
    return request._replace(gone=rows[inside] * len(positions) + places[inside], allowed=None)


def _scan_tiles(vectors: Tensor, request: Request) -> Keys:
    n = len(vectors)
    rows_at_once = max(1, TILE_SCORES // min(n, TILE_ITEMS))
    gone = np.divmod(request.gone, n)
    masked = None if request.allowed is None else torch.from_numpy(~request.allowed)
    parts = []
    for first in range(0, len(request.queries), rows_at_once):
        queries = torch.from_numpy(request.queries[first : first + rows_at_once])
        cut = slice(*np.searchsorted(gone[0], [first, first + len(queries)]))
        parts.append(_scan_items(vectors, queries, request.k, (gone[0][cut] - first, gone[1][cut]), masked))
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=NONE) for p in parts])


def _scan_items(vectors: Tensor, queries: Tensor, k: int, gone: tuple[Ints, Ints], masked: Tensor | None) -> Keys:
    best: Keys | None = None
    for start in range(0, len(vectors), TILE_ITEMS):
        tile = vectors[start : start + TILE_ITEMS]
        scores = queries @ tile.T
        if masked is not None:
            scores.masked_fill_(masked[start : start + len(tile)], -torch.inf)
        here = (gone[1] >= start) & (gone[1] < start + len(tile))
        scores[torch.from_numpy(gone[0][here]), torch.from_numpy(gone[1][here] - start)] = -torch.inf
        best = largest(scores.numpy(), k, start, best)
    assert best is not None  # noqa: S101 - an index is never empty
    return best


def inner_products(vectors: Floats, queries: Floats, ids: Ints) -> Floats:
    """(B, C) scores of (B, C) positions, gathered in tiles of 64 MiB."""
    held, asked, places = (torch.from_numpy(part) for part in (vectors, queries, ids))
    at_once = max(1, GATHERED // max(1, ids.shape[1] * queries.shape[1]))
    parts = [
        torch.bmm(held[places[i : i + at_once]], asked[i : i + at_once, :, None])[:, :, 0]
        for i in range(0, len(queries), at_once)
    ]
    return torch.cat(parts).numpy() if parts else np.zeros(ids.shape, dtype=np.float32)
