"""Protocols that rank a few candidates, drawn once or given by a file, instead of the catalogue."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import polars as pl
import torch
from torch import Tensor

from suisen.data.batch import Queries
from suisen.data.dataset import Dataset
from suisen.data.ids import IdMap, RawId
from suisen.data.log import Col
from suisen.data.ragged import Ragged, offsets_of
from suisen.errors import InputError

NEGATIVES_PER_CHUNK = 1 << 22
"""Drawn candidates held at once beside the answer."""


def allow_seen(queries: Queries) -> Queries:
    """The same queries with seen items kept in the ranking: the protocol for things that people take again."""
    return replace(queries, seen=Ragged.empty(len(queries)))


def with_seen(queries: Queries) -> Queries:
    """``allow_seen`` where the catalogue is ranked; given candidates stay as they are given."""
    return queries if queries.candidates is not None else allow_seen(queries)


def with_negatives(queries: Queries, train: Dataset, *, n: int = 99, seed: int = 0) -> Queries:
    """Candidates of a sampled protocol: the truth first (0 pads), then ``n`` negatives, drawn once.

    Each query's negatives are a uniform draw without repetition from the items that train has events of and that are
    neither its truth nor seen by it.  Memory: 8 bytes per candidate.  Raises InputError where a query has fewer than
    ``n`` such items.
    """
    pool = torch.nonzero(train.trained_items).squeeze(1)
    place = torch.full((train.schema.n_items,), -1)
    place[pool] = torch.arange(pool.numel())
    barred = _barred(queries, place)
    allowed = pool.numel() - barred.lengths
    if len(queries) and int(allowed.min()) < n:
        raise InputError(f"n = {n} negatives are asked for and a query has only {int(allowed.min())} left; draw fewer")
    generator = torch.Generator().manual_seed(seed)
    step = max(1, NEGATIVES_PER_CHUNK // max(1, n))
    drawn = [_floyd(allowed[i : i + step], n, generator) for i in range(0, len(queries), step)]
    ranks = torch.cat(drawn) if drawn else torch.zeros((0, n), dtype=torch.int64)
    negatives = pool[_skipping(ranks, barred, pool.numel())]
    protocol = f"{queries.protocol}; {n} sampled negatives, seed {seed}"
    return replace(queries, candidates=torch.cat([queries.truth.padded(), negatives], 1), protocol=protocol)


def given_negatives(queries: Queries, frame: pl.DataFrame, train: Dataset) -> Queries:
    """Candidates of a published protocol: the truth first, then the negatives of a file.

    ``frame``: column ``user`` and column ``negatives`` (lists), raw ids; one row per user.  A negative that is the
    truth itself, or that train does not know, becomes padding; the protocol counts the latter.  Raises InputError where
    a query's user has no row.
    """
    users = torch.from_numpy(train.users.dense(frame[Col.USER]))
    row = torch.full((train.schema.n_users,), -1)
    row[users] = torch.arange(frame.height)
    row[0] = -1
    mine = row[queries.contexts.user]
    if bool((mine < 0).any()):
        missing = int(torch.nonzero(mine < 0)[0])
        raise InputError(f"{int((mine < 0).sum())} queries have no row of negatives (the first is query {missing})")
    lists = candidates_of(frame["negatives"], train.items)
    lost = int(frame["negatives"].list.len().sum()) - int((lists > 0).sum())
    negatives = lists[mine]
    truth = queries.truth.padded()
    negatives = torch.where((negatives[:, :, None] == truth[:, None, :]).any(2), 0, negatives)
    protocol = f"{queries.protocol}; {lists.shape[1]} given negatives" + (f", {lost} unknown to train" if lost else "")
    return replace(queries, candidates=torch.cat([truth, negatives], 1), protocol=protocol)


def candidates_of(lists: pl.Series | Sequence[Iterable[RawId]], items: IdMap) -> Tensor:
    """(B, C) int64 dense items of lists of raw ids, 0 behind the shorter ones and for what the map does not hold."""
    rows = [list(row or ()) for row in (lists.to_list() if isinstance(lists, pl.Series) else lists)]
    lengths = torch.tensor([len(row) for row in rows], dtype=torch.int64)
    flat = [item for row in rows for item in row]
    return Ragged(torch.from_numpy(items.dense(flat)), offsets_of(lengths)).padded()


def _barred(queries: Queries, place: Tensor) -> Ragged:
    """Each query's seen and true items as sorted, distinct places in the pool; ``place`` (n_items,): −1 outside it."""
    rows = torch.cat([queries.seen.rows(), queries.truth.rows()])
    places = place[torch.cat([queries.seen.values, queries.truth.values])]
    keys = torch.unique(rows[places >= 0] * place.numel() + places[places >= 0])
    lengths = torch.bincount(keys // place.numel(), minlength=len(queries))
    return Ragged(keys % place.numel(), offsets_of(lengths))


def _floyd(sizes: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """(B, n) distinct integers of each row, uniform below ``sizes`` (B,) (Bentley and Floyd 1987): n steps, each for
    all rows at once, and no rejection.
    """
    out = torch.full((sizes.numel(), n), -1)
    for i in range(n):
        last = sizes - n + i
        pick = (torch.rand(sizes.numel(), generator=generator, dtype=torch.float64) * (last + 1)).long()
        taken = (out[:, :i] == pick[:, None]).any(1)
        out[:, i] = torch.where(taken, last, pick)
    return out


def _skipping(ranks: Tensor, barred: Ragged, size: int) -> Tensor:
    """(B, n) places in the pool of ``ranks`` (B, n), which count only the places that are not barred.

    A rank moves up by one for each barred place at or before it; the j-th barred place of a row stands at or before
    rank r where place − j ≤ r.
    """
    rows = barred.rows()
    shifted = barred.values - barred.places()
    keys = rows * (size + 1) + shifted
    wanted = torch.arange(len(barred))[:, None] * (size + 1) + ranks  # (B, n)
    return ranks + torch.searchsorted(keys, wanted, right=True) - barred.offsets[:-1, None]
