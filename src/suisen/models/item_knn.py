"""ItemKNN: item-based nearest neighbours (Sarwar et al. 2001), cosine with shrinkage.

s_ij = c_ij / (√(c_i c_j) + h), c_ij the visitors who took both items, c_i those who took item i, h the shrinkage;
score(u, j) = Σ s_ij over those of j's k nearest neighbours i that are in the history.  There is no loss.
Events with weights: c_ij = Σ √(w_ui w_uj) and c_i = Σ w_ui, the cosine of the roots of the weights.
(The k neighbours of what was taken, in place of those of what is scored, rank far worse: popular items are everybody's
neighbours.  MovieLens-1M, split of He et al. 2017, validation HR@10 0.62 against 0.68.)

Memory: k neighbours and similarities per item, 8·k bytes: 1.5 MB for 3,700 items and k = 50, 400 MB for a million.  The
similarities are found in tiles of at most ``PAIRS_PER_TILE``; no items × items matrix is ever made.  Learning costs
Σ_u n_u² additions and a sort of each tile; an answer from n different items about n·k additions.
"""

from collections.abc import Iterator
from typing import Annotated, ClassVar

import numpy as np
import scipy.sparse as sp
import torch
from pydantic import Field
from torch import Tensor

from suisen.data.batch import Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged, offsets_of, spans
from suisen.models.closed_form import ClosedForm, root_matrix
from suisen.models.contract import CatalogueScorer, hyper_parameters
from suisen.parameters import Search

PAIRS_PER_TILE = 2**22
"""Most pairs of items whose similarities are held at once: about 200 MB while they are sorted."""
ONE = int(np.float32(1.0).view(np.int32))
"""The bits of 1, the largest similarity: bits of positive floats rise with the float."""


@hyper_parameters
class ItemKNN(ClosedForm):
    """Each item's nearest neighbours by the cosine of who took them (Sarwar et al. 2001).

    Answers users and guests with a history, new ones without training, for items that train has events of.  Scores the
    whole catalogue, exactly, never through an index.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.ItemKNN(neighbours=20)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    neighbours: Annotated[int, Field(ge=1, le=10_000), Search(choices=(20, 50, 100, 200))] = 50
    """k, the number of neighbours kept per item."""
    shrinkage: Annotated[float, Field(ge=0), Search(0, 200)] = 10.0
    """h: the larger, the less similar are items that few visitors took together."""

    def build(self, schema: Schema) -> "ItemKNNNet":
        """Room for n_items · k similarities."""
        return ItemKNNNet(self, schema)


class ItemKNNNet(CatalogueScorer):
    """A sparse matrix of similarities by rows: row i holds the items that item i is a neighbour of.

    The sizes of its three arrays follow from the schema alone, so that a bundle can be loaded; what is not needed stays
    0 behind the last row.
    """

    offsets: Tensor
    targets: Tensor
    similarity: Tensor

    def __init__(self, model: ItemKNN, schema: Schema) -> None:
        super().__init__()
        self.model, self.k = model, min(model.neighbours, schema.n_items)
        room = schema.n_items * self.k
        self._pairs: Tensor | None = None
        self.register_buffer("offsets", torch.zeros(schema.n_items + 1, dtype=torch.int64))
        self.register_buffer("targets", torch.zeros(room, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(room))

    @property
    def flaw(self) -> str:
        """Rows that do not follow each other, or neighbours that are no items."""
        offsets, n_items = self.offsets, len(self.offsets) - 1
        if offsets[0] != 0 or offsets[-1] > len(self.targets) or bool((offsets.diff() < 0).any()):
            return f"offsets do not rise from 0 to at most {len(self.targets)}"
        wrong = bool(((self.targets < 0) | (self.targets >= n_items)).any())
        return f"targets are not all ids below {n_items}" if wrong else ""

    def prepare(self, train: Dataset) -> None:
        """Finds the neighbours, tile by tile; guests' sessions count like users."""
        x = root_matrix(train)
        takers = x.T.tocsr()
        counts = torch.from_numpy(np.asarray(x.power(2).sum(0, dtype=np.float64))[0])
        found = [self._nearest(takers[lo:hi] @ x, lo, counts) for lo, hi in tiles(x, takers)]
        self._keep(*(torch.cat(part) for part in zip(*found, strict=True)))

    def _keep(self, target: Tensor, item: Tensor, similar: Tensor) -> None:
        """Stores (target, neighbour, similarity) by neighbour."""
        order = item.sort(stable=True).indices
        self._pairs = None
        self.offsets.copy_(offsets_of(torch.bincount(item, minlength=len(self.offsets) - 1)))
        for buffer, part in ((self.targets, target), (self.similarity, similar)):
            buffer.zero_()
            buffer[: len(order)] = part[order]

    learns_items: ClassVar[bool] = True

    def learn_items(self, old: "ItemKNNNet", histories: Ragged) -> None:
        """The neighbours of the new items, which also become neighbours of these where they are near enough."""
        first, rows = len(old.offsets) - 1, histories.unique()
        ones = np.ones(len(rows.values), dtype=np.float32)
        shape = (len(rows), len(self.offsets) - 1)
        x = sp.csr_matrix((ones, rows.values.numpy(), rows.offsets.numpy()), shape=shape)
        takers = x.T.tocsr()
        new, item, similar = self._nearest(takers[first:] @ x, first, torch.from_numpy(np.diff(takers.indptr)).double())
        owner = torch.repeat_interleave(torch.arange(first), old.offsets.diff())
        back = item < first  # a similarity holds both ways
        targets = torch.cat([old.targets[: len(owner)], new, item[back].int()])
        items = torch.cat([owner, item, new[back].long()])
        alike = torch.cat([old.similarity[: len(owner)], similar, similar[back]])
        order = alike.sort(descending=True, stable=True).indices
        order = order[targets[order].sort(stable=True).indices]
        counts = torch.bincount(targets, minlength=shape[1])
        place = torch.arange(len(order)) - (counts.cumsum(0) - counts)[targets[order]]
        order = order[place < self.k]
        self._keep(targets[order], items[order], alike[order])

    def _nearest(self, together: sp.csr_matrix, lo: int, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(target, neighbour, similarity) of each row's k most similar items; of equal ones the lower id comes first.
        ``together`` holds the rows ``lo`` … of XᵀX.

        One sort does all rows: the upper bits of its key are the row, the lower ones fall with the similarity.
        """
        together = together.tocsc().tocsr()  # there and back sorts each row, by counting
        row = torch.from_numpy(np.repeat(np.arange(together.shape[0]), np.diff(together.indptr)))
        item, both = torch.from_numpy(together.indices), torch.from_numpy(together.data)
        other = row + lo != item
        row, item, both = row[other], item[other].long(), both[other]
        similar = both / ((counts[row + lo] * counts[item]).sqrt().float() + self.model.shrinkage)
        order = ((row << 31) + ONE - similar.clamp(max=1.0).view(torch.int32)).sort(stable=True).indices
        row = row[order]
        lengths = torch.bincount(row, minlength=together.shape[0])
        kept = torch.arange(len(row)) - (lengths.cumsum(0) - lengths)[row] < self.k
        order = order[kept]
        return (row[kept] + lo).int(), item[order], similar[order]

    def score_all(self, contexts: Contexts) -> Tensor:
        """(B, n_items): sums of the rows of the history's items; repeats count once."""
        history, n_items = contexts.history, len(self.offsets) - 1
        items = history.unique()
        first = self.offsets[items.values]
        lengths = self.offsets[items.values + 1] - first
        at = spans(first, lengths)
        start = torch.repeat_interleave(items.rows() * n_items, lengths)  # of the query's row in ``out``
        out = self.similarity.new_zeros(len(history) * n_items)
        return out.index_add_(0, start + self.targets[at], self.similarity[at]).view(len(history), n_items)

    def shares_of_history(self, history: Tensor, item: int) -> Tensor:
        """(n,) similarities of the history's items that are neighbours of this one, 0 for the others."""
        first = self.offsets[history]
        lengths = self.offsets[history + 1] - first
        at = spans(first, lengths)
        hit = self.targets[at] == item
        rows = torch.repeat_interleave(torch.arange(len(history), device=at.device), lengths)
        return self.similarity.new_zeros(len(history)).index_add_(0, rows[hit], self.similarity[at[hit]])

    def similarities(self, items: Tensor, others: Tensor) -> Tensor:
        """(B, C): s_ij, the model's own; 0 where neither of the two is among the other's k nearest."""
        n_items = len(self.offsets) - 1
        if self._pairs is None:  # rising, for targets rise within a row
            owner = torch.repeat_interleave(torch.arange(n_items, device=items.device), self.offsets.diff())
            self._pairs = owner * n_items + self.targets[: len(owner)]
        if not len(self._pairs):
            return self.similarity.new_zeros(others.shape)
        found = []
        for pair in (items[:, None] * n_items + others, others * n_items + items[:, None]):
            at = torch.searchsorted(self._pairs, pair).clamp(max=len(self._pairs) - 1)
            found.append(torch.where(self._pairs[at] == pair, self.similarity[at], 0.0))
        return torch.maximum(*found)


def tiles(x: sp.csr_matrix, takers: sp.csr_matrix) -> Iterator[tuple[int, int]]:
    """Ranges of items, lo … hi − 1, with at most ``PAIRS_PER_TILE`` pairs each (a single item can have more).

    ``x`` is (visitors, items), ``takers`` its transpose: an item is paired with at most as many items as its takers
    took in all, and at most with the catalogue.
    """
    taken = np.diff(x.indptr).astype(np.float64)
    pairs = np.minimum(takers @ taken, x.shape[1])
    lo = 0
    held = 0.0
    for item, count in enumerate(pairs.tolist()):
        if held + count > PAIRS_PER_TILE and item > lo:
            yield lo, item
            lo = item
            held = 0.0
        held += count
    yield lo, len(pairs)
