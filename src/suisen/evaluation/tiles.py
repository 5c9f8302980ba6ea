"""Ranks over the whole catalogue, tile by tile: no list is made and no score is kept.

A relevant item's rank is 1 + how many rivals do not score below it, so each tile is read once: compared with the
target's score and summed (about 0.1 ns per score, beside 0.8 ns for the product that made it).  The target's score is
read from the very tile it stands in, so that it ties with its equals bit for bit; queries are ordered by their target,
so that a batch's targets stand in few tiles; those are kept, as far as the budget goes, and only the others computed
twice.  Cost of one query: (relevant items × catalogue) comparisons.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from suisen.data.batch import Contexts, Queries
from suisen.data.ragged import Ragged, spans
from suisen.errors import InputError
from suisen.evaluation.contract import TileScorer
from suisen.evaluation.ranks import BLUR, UNRANKED, Ranking, blurred, no_nan

CPU_SCORES_PER_TILE = 2**20
"""On a CPU: 4 MiB, so that comparing finds them in cache."""
DEVICE_SCORES_PER_TILE = 2**24
"""Elsewhere: large enough to hide the launches."""
MAX_ROWS = 1024
"""Queries per tile."""
COLUMNS_PROBED = 256
"""Columns that are looked at to see whether a model tells its items apart."""


@dataclass(frozen=True)
class Wanted:
    """What a pass over the catalogue is to give beside the ranks."""

    budget: int
    """Bytes of scores that may be held at once."""
    lists: int = 0
    """The best so many items of each query."""
    rivals: bool = False
    """How many items each query could have been given that are not relevant."""


@dataclass(frozen=True)
class Plan:
    """How the (queries × items) matrix is cut."""

    rows: int
    width: int
    bytes_per_score: int
    """Of the tile in work: what the scorer needs, and 4 to compare."""
    kept: int
    """How many tiles, at 4 bytes per score, may be kept from reading the targets until they are counted."""

    def peak_bytes(self, kept: int) -> int:
        """Most bytes of scores, and of what is computed beside them, where so many tiles are kept."""
        return self.rows * self.width * (self.bytes_per_score + 4 * kept)

    @classmethod
    def of(cls, scorer: TileScorer, queries: int, budget: int) -> "Plan":
        """Tiles within ``budget`` bytes.  Raises InputError where not even one score fits."""
        per_score = int(getattr(scorer, "bytes_per_score", 4)) + 4
        most = CPU_SCORES_PER_TILE if scorer.allowed.device.type == "cpu" else DEVICE_SCORES_PER_TILE
        cells = min(budget // (per_score + 4), most)
        if cells < 1:
            raise InputError(f"memory = {budget} bytes is too small for a single score; give at least {per_score + 4}")
        items = max(1, scorer.n_items - 1)
        rows = max(1, min(queries, MAX_ROWS, cells // min(items, 256)))
        width = max(1, min(items, cells // rows))
        kept = (budget // (rows * width) - per_score) // 4
        return cls(rows, width, per_score, max(1, min(kept, -(-items // width))))


def from_tiles(scorer: TileScorer, queries: Queries, truth: Ragged, exclude: Ragged, wanted: Wanted) -> Ranking:
    """Ranks of every relevant item among all that the model may recommend and the protocol does not exclude.

    ``truth``: rows without repetition (``ranks.distinct``).  Raises InputError where a target's score is NaN.
    """
    plan = Plan.of(scorer, len(queries), wanted.budget)
    catalogue = _Catalogue(scorer, plan)
    some = truth.lengths > 0
    first = torch.zeros(len(queries), dtype=torch.int64)
    first[some] = truth.values[truth.offsets[:-1][some]]
    order = (truth.lengths * scorer.n_items + first.clamp(max=scorer.n_items - 1)).argsort()
    ranks = torch.empty(truth.values.numel(), dtype=torch.int64)
    lists = torch.zeros((len(queries), wanted.lists), dtype=torch.int64) if wanted.lists else None
    rivals = torch.zeros(len(queries), dtype=torch.int64) if wanted.rivals else None
    for part in torch.split(order, plan.rows):
        own = truth.take(part)
        batch = _Batch(catalogue, queries.contexts.take(part), own, exclude.take(part))
        ranks[spans(truth.offsets[part], own.lengths)] = batch.run(wanted)
        if lists is not None:
            lists[part] = batch.best_ids(wanted.lists)
        if rivals is not None:
            rivals[part] = batch.rivals()
    known = truth.values[truth.values > 0]
    refused = known.numel() - int(scorer.allowed.cpu()[known[known < scorer.n_items]].sum())
    peak = plan.peak_bytes(catalogue.most_kept)
    return Ranking(truth.with_values(ranks), rivals, lists, peak, refused)


class _Catalogue:
    """The items as tiles, and which of their columns the model may not recommend."""

    def __init__(self, scorer: TileScorer, plan: Plan) -> None:
        self.scorer = scorer
        self.device = scorer.allowed.device
        self.width, self.kept, self.most_kept = plan.width, plan.kept, 0
        starts = range(1, scorer.n_items, plan.width)  # row 0 is nobody
        self.tiles = [(lo, min(lo + plan.width, scorer.n_items)) for lo in starts]
        self.scratch = torch.empty(plan.rows * plan.width, device=self.device)
        barred = (~scorer.allowed).nonzero()[:, 0]
        self.barred = [barred[(barred >= lo) & (barred < hi)] - lo for lo, hi in self.tiles]

    def scores(self, state: Any, number: int) -> Tensor:
        """A tile that is ours to write into, −inf where the model may not recommend."""
        tile = self.scorer.tile(state, *self.tiles[number])
        if tile.untyped_storage().nbytes() != tile.nbytes:  # a view of something that is not ours
            tile = tile.clone(memory_format=torch.contiguous_format)
        if self.barred[number].numel():
            tile.index_fill_(1, self.barred[number], -torch.inf)
        return tile

    def count(self, scores: Tensor, floor: Tensor) -> Tensor:
        """(B,): how many of each row's scores are not below floor (B, 1).  float32 sums are exact to 2²⁴ columns,
        and ten times as fast as sums of booleans.
        """
        below = self.scratch[: scores.numel()].view(scores.shape)
        torch.lt(scores, floor, out=below)
        return scores.shape[1] - below.sum(1).long()


class _Batch:
    """Some queries, rising by their number of relevant items, against every tile."""

    def __init__(self, catalogue: _Catalogue, contexts: Contexts, truth: Ragged, exclude: Ragged) -> None:
        self.catalogue = catalogue
        self.state = catalogue.scorer.prepare(contexts)
        self.lengths = truth.lengths
        items = truth.padded().to(catalogue.device)
        self.items = torch.where(items < catalogue.scorer.n_items, items, 0)  # (B, T)
        columns = torch.arange(items.shape[1])
        self.start = torch.searchsorted(self.lengths, columns, right=True).tolist()  # first row with a column's target
        self.target = torch.full(items.shape, -torch.inf, device=catalogue.device)
        self.count = torch.zeros(items.shape, dtype=torch.int64, device=catalogue.device)
        self.open = torch.zeros(items.shape[0], dtype=torch.int64, device=catalogue.device)
        self.best: tuple[Tensor, Tensor] | None = None
        self._sort_excluded(exclude.to(catalogue.device))

    def _sort_excluded(self, exclude: Ragged) -> None:
        """Excluded (row, item) pairs in the order of the tiles."""
        size, width, tiles = self.catalogue.scorer.n_items, self.catalogue.width, len(self.catalogue.tiles)
        rows, items = exclude.rows(), exclude.values
        inside = (items > 0) & (items < size)
        if not bool(inside.all()):
            rows, items = rows[inside], items[inside]
        number = torch.div(items - 1, width, rounding_mode="floor")
        if tiles > 1:
            order = number.argsort()
            rows, items, number = rows[order], items[order], number[order]
        edges = torch.searchsorted(number, torch.arange(tiles + 1, device=items.device))
        self.edges, self.rows, self.excluded = edges.tolist(), rows, items

    def tile(self, number: int) -> Tensor:
        """(B, w) scores, −inf where the model may not recommend and where the protocol excludes."""
        tile = self.catalogue.scores(self.state, number)
        part = slice(self.edges[number], self.edges[number + 1])
        column = self.excluded[part] - self.catalogue.tiles[number][0]
        tile.view(-1).index_fill_(0, self.rows[part] * tile.shape[1] + column, -torch.inf)
        return tile

    def run(self, wanted: Wanted) -> Tensor:
        """Ranks of the truth's values, rising in each row."""
        kept = self._read_targets()
        for number in range(len(self.catalogue.tiles)):
            tile = kept.pop(number) if number in kept else self.tile(number)
            for column, start in enumerate(self.start):
                floor = self.floor[start:, column, None]
                self.count[start:, column] += self.catalogue.count(tile[start:], floor)
            if wanted.rivals:
                self.open += (tile > -torch.inf).sum(1)
            if wanted.lists:
                self._keep_best(tile, number, wanted.lists)
            del tile
        return self._ranks()

    def _read_targets(self) -> dict[int, Tensor]:
        """Fills ``target`` and ``floor``; returns tiles in which targets stand, as many as may be kept."""
        numbers = torch.unique(torch.div(self.items[self.items > 0] - 1, self.catalogue.width, rounding_mode="floor"))
        kept: dict[int, Tensor] = {}
        sample = torch.zeros((len(self.items), 0), device=self.catalogue.device)
        for number in numbers.tolist():
            lo, hi = self.catalogue.tiles[number]
            tile = self.tile(number)
            inside = (self.items >= lo) & (self.items < hi)
            scores = tile.gather(1, (self.items - lo).clamp(0, hi - lo - 1))
            self.target = torch.where(inside, scores, self.target.to(tile.dtype))
            if sample.shape[1] == 0:
                sample = tile[:, :COLUMNS_PROBED].clone()
            if len(kept) < self.catalogue.kept:
                kept[number] = tile
            del tile
        self.catalogue.most_kept = max(self.catalogue.most_kept, len(kept))
        no_nan(self.target)
        self.floor = self._floor(sample, int(numbers[0]) if numbers.numel() else 0)
        return kept

    def _floor(self, sample: Tensor, number: int) -> Tensor:
        """(B, T): from which score on an item counts as not below the target; ``sample``: first columns of a tile."""
        others = torch.zeros_like(self.count)
        for column, start in enumerate(self.start):
            target = self.target[start:, column, None]
            others[start:, column] = ((sample[start:] - target).abs() <= target.abs() * BLUR).sum(1)
        first, width = self.catalogue.tiles[number][0] if self.catalogue.tiles else 0, sample.shape[1]
        itself = (self.items >= first) & (self.items < first + width)
        return blurred(self.target, others - itself.long(), width)

    def _keep_best(self, tile: Tensor, number: int, k: int) -> None:
        scores, columns = tile.topk(min(k, tile.shape[1]), dim=1)
        ids = columns + self.catalogue.tiles[number][0]
        if self.best is not None:
            scores, ids = torch.cat([self.best[0], scores], 1), torch.cat([self.best[1], ids], 1)
            scores, columns = scores.topk(min(k, scores.shape[1]), dim=1)
            ids = ids.gather(1, columns)
        self.best = scores, ids.masked_fill(scores == -torch.inf, 0)

    def best_ids(self, k: int) -> Tensor:
        """(B, k) ids, best first, 0 where the catalogue has no more to give."""
        ids = torch.zeros((len(self.items), k), dtype=torch.int64)
        if self.best is not None:
            ids[:, : self.best[1].shape[1]] = self.best[1].cpu()
        return ids

    def rivals(self) -> Tensor:
        """(B,): recommendable items that are not relevant."""
        return (self.open - (self.target > -torch.inf).sum(1)).cpu()

    def _ranks(self) -> Tensor:
        # A relevant item that ties with a target was counted with the rivals: they are taken out, and relevant items
        # stand one behind the other instead.
        target, order = self.target.sort(1, descending=True)  # (B, T)
        floor, count = self.floor.gather(1, order), self.count.gather(1, order)
        relevant = torch.searchsorted((-target).contiguous(), (-floor).contiguous(), right=True)
        rank = torch.arange(1, target.shape[1] + 1, device=target.device) + count - relevant
        rank = rank.masked_fill(target == -torch.inf, UNRANKED).sort(1).values.cpu()
        return rank[torch.arange(rank.shape[1]) < self.lengths[:, None]]
