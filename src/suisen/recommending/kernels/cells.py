"""Cells of a large table: items by clusters, of which a query reads the nearest alone (Jégou et al. 2011, IVF).

Centres are those of k-means (Lloyd 1982), of a sample.  A query reads as many cells as reach the recall that is asked
for, measured on sample queries when the table is made: the share of the exact candidates that stand in its nearest
cells.  Exclusions may leave too few there; then the query reads all.
"""

import math

import numpy as np
import torch
from torch import Tensor

from suisen.recommending.kernels.plain import survivors
from suisen.recommending.kernels.quantised import ITEMS, Cells, Quantised
from suisen.recommending.kernels.search import candidates
from suisen.retrieval.checks import checked_search, checked_vectors
from suisen.retrieval.contract import Floats, Ints

LEAST = 200_000
"""Items below which reading all is faster than choosing, measured."""
MOST_READ = 0.25
"""Share of the items above which a query reads all."""
RECALL = 0.95
SAMPLED = 64
"""Items per cell that k-means learns from."""
STEPS = 8
ROWS = 16_384
"""Vectors whose distances to all centres are computed together."""


def partitioned(
    vectors: Floats, queries: Floats, k: int, recall: float = RECALL, least: int = LEAST, seed: int = 0
) -> Quantised:
    """A table of (n, d) vectors whose queries find ``recall`` of the k exact candidates, on average of (B, d) samples.

    Without cells where there are fewer than ``least`` items, no sample, or a quarter of the items had to be read.
    Cost: about 2·√n cells; 2·n^1.5·d multiply-adds.  Raises InputError as ``Quantised.of`` does.
    """
    table = Quantised.of(vectors, seed)
    n = len(table.vectors)
    if n < max(least, 4 * ITEMS) or not len(queries):
        return table
    centres, cell = clusters(checked_vectors(vectors), ITEMS * max(1, round(2 * math.sqrt(n) / ITEMS)), seed)
    sizes = np.bincount(cell, minlength=len(centres))
    index = Quantised.of(centres, seed)
    probes = _probes(index, cell, queries, candidates(table, queries, k)[0], recall)
    if probes * n > MOST_READ * n * len(centres):
        return table
    starts = np.concatenate([[0], np.cumsum(-(-sizes // ITEMS))]).astype(np.int64)
    order = np.argsort(cell, kind="stable")
    slots = np.empty(n, dtype=np.int32)
    slots[order] = ITEMS * starts[cell[order]] + np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    laid = Quantised.of(vectors, slots=slots)
    return Quantised(
        laid.vectors, laid.tiles, laid.low, laid.scale, laid.order, laid.slots, laid.fine, Cells(index, starts, probes)
    )


def clusters(vectors: Floats, count: int, seed: int = 0) -> tuple[Floats, Ints]:
    """(cells, d) centres by k-means, those of ``count`` that are anybody's nearest, and (n,) the cell of each row."""
    draw = torch.Generator().manual_seed(seed)
    whole = torch.from_numpy(vectors)
    sample = whole[torch.randperm(len(whole), generator=draw)[: SAMPLED * count]]
    centres = sample[:count].clone()
    for _ in range(STEPS):
        cell = _nearest(sample, centres)
        sizes = torch.bincount(cell, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, cell, sample)
        centres = sums[sizes > 0] / sizes[sizes > 0, None]
    cell = _nearest(whole, centres)
    used, cell = torch.unique(cell, return_inverse=True)
    return centres[used].numpy(), cell.numpy()


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    """(n,) the centre with the least distance from each row."""
    half = centres.square().sum(1) / 2
    parts = rows.split(ROWS)  # type: ignore[no-untyped-call]
    return torch.cat([(part @ centres.T - half).argmax(1) for part in parts])


def _probes(index: Quantised, cell: Ints, queries: Floats, exact: Ints, recall: float) -> int:
    """The least number of nearest cells that hold ``recall`` of the exact candidates (B, k), by two standard errors."""
    count = len(index.vectors)
    order = survivors(index, index.levels_of(queries), checked_search(index.vectors, queries, count, None, None))
    rank = np.empty((len(queries), count), dtype=np.int64)
    np.put_along_axis(rank, order, np.arange(count)[None], axis=1)
    known = exact >= 0
    read = np.take_along_axis(rank, cell[np.where(known, exact, 0)], axis=1)  # (B, k) probes that find each
    shares = np.zeros((len(queries), count))
    np.add.at(shares, (np.nonzero(known)[0], read[known]), 1)
    shares = shares.cumsum(axis=1) / np.maximum(known.sum(axis=1, keepdims=True), 1)  # (B, probes) recall
    least = shares.mean(axis=0) - 2 * shares.std(axis=0) / math.sqrt(len(queries))
    return int(np.argmax(least >= recall)) + 1 if (least >= recall).any() else count
