"""EASE: embarrassingly shallow autoencoders (Steck, 2019).

With X the binary user × item matrix, B minimises |X − XB|² + λ|B|² under diag(B) = 0.  Its closed form:
P = (XᵀX + λI)⁻¹,  B[i, j] = −P[i, j] / P[j, j] off the diagonal.  score(u, ·) = x_u B, x_u the history as a
row of X.  Events with weights: X holds √w (Steck's X is any real matrix), so that XᵀX has each item's weighted count on
its diagonal where it has the count; a history that asks is binary, for a request carries no weights.

Likeness: B[i, j] and B[j, i] have one sign, and its √(B[i, j] B[j, i]) is −P[i, j] / √(P[i, i] P[j, j]), the partial
correlation of two items given all others (Steck 2019, Markov Random Fields for Collaborative Filtering).  Rows of B
cannot be compared: where two items are most alike one has its largest weight and the other the diagonal's 0.

Cost: XᵀX from sparse X, and one inverse of n_items³ multiply-adds.  Memory: 12 n² bytes while learning (8 n² for the
float64 inverse, made in place, n the items with events, and 4 n² for the weights), 4 n² afterwards: 164 and 55 MB for
3,700 items, 30 and 10 GB for 50,000.  What the machine does not have is refused before it is asked for.
"""

from typing import Annotated

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from suisen.data.batch import Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.errors import InputError
from suisen.files import available_memory
from suisen.models.closed_form import ClosedForm, root_matrix
from suisen.models.contract import CatalogueScorer, hyper_parameters
from suisen.parameters import Search

MAX_ITEMS = 60_000
"""Largest catalogue: its weights are 14 GB."""
COLUMNS = 128
"""Columns that are worked on at a time."""


@hyper_parameters
class EASE(ClosedForm):
    """A linear model between items in closed form (Steck 2019).

    Answers users and guests with a history, new ones without training, for items that train has events of.  Scores the
    whole catalogue, exactly, never through an index.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.EASE(l2=10.0)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    l2: Annotated[float, Field(gt=0), Search(10, 5000, log=True)] = 500.0
    """λ, added to the diagonal of XᵀX."""

    def build(self, schema: Schema) -> "EASENet":
        """One n_items × n_items matrix.  Raises InputError for catalogues above ``MAX_ITEMS``, or above the memory."""
        if schema.n_items > MAX_ITEMS:
            size = f"{schema.n_items:,} items (at most {MAX_ITEMS:,})"
            raise InputError(f"EASE holds n_items² weights and the catalogue has {size}; use IALS")
        _need(4 * schema.n_items**2, schema.n_items)
        return EASENet(self, schema)


class EASENet(CatalogueScorer):
    """score(u, j) = Σ over the history's different items i of B[i, j]."""

    weight: Tensor

    def __init__(self, model: EASE, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weight", torch.zeros(schema.n_items, schema.n_items))

    def prepare(self, train: Dataset) -> None:
        """Solves for B; guests' sessions are rows of X like any user's.  Raises InputError where l2 is too small, and
        where the machine has too little memory.
        """
        x = root_matrix(train).tocsc()
        kept = np.flatnonzero(np.diff(x.indptr))  # items without events have no row and no column
        _need(8 * len(kept) ** 2, len(kept))
        inverse = _inverse(x[:, kept], self.model.l2)
        diagonal, ids = inverse.diagonal().copy(), torch.from_numpy(kept)
        self.weight.zero_()
        for part in _parts(len(kept)):
            b = torch.from_numpy((inverse[:, part] / -diagonal[part]).astype(np.float32))
            self.weight[ids[:, None], ids[part]] = b
        self.weight.fill_diagonal_(0.0)

    def score_all(self, contexts: Contexts) -> Tensor:
        """(B, n_items): sums of the rows of B at the history's items; repeats count once."""
        items = contexts.history.unique()
        return F.embedding_bag(items.values, self.weight, items.offsets[:-1], mode="sum")

    def shares_of_history(self, history: Tensor, item: int) -> Tensor:
        """(n,) the weights from the history's items to this one."""
        return self.weight[history, item]

    def similarities(self, items: Tensor, others: Tensor) -> Tensor:
        """(B, C): partial correlations, see above."""
        there, back = self.weight[items[:, None], others], self.weight[others, items[:, None]]
        return (there * back).clamp(min=0).sqrt() * there.sign()


def _inverse(x: sp.csc_matrix, l2: float) -> np.ndarray:
    """(n, n) float64: (XᵀX + l2·I)⁻¹, in the memory of XᵀX.  Raises InputError where it cannot be inverted."""
    n, rows = x.shape[1], x.T.tocsr()
    gram = np.empty((n, n), order="F")
    for part in _parts(n):
        gram[:, part] = (rows @ x[:, part]).toarray()
    gram[np.diag_indices(n)] += l2
    # Cholesky factor and inverse in place: half the work and a third of the memory of a general inverse
    factor, failed = scipy.linalg.lapack.dpotrf(gram, lower=1, overwrite_a=1)
    inverse, singular = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if failed or singular:
        raise InputError(f"EASE: XᵀX + {l2:g}·I could not be inverted; raise l2")
    for part in _parts(n):  # LAPACK fills the lower triangle alone
        inverse[part, part.stop :] = inverse[part.stop :, part].T
        corner = np.tril(inverse[part, part])
        inverse[part, part] = corner + np.tril(corner, -1).T
    return inverse


def _parts(n: int) -> list[slice]:
    """0 … n − 1 in slices of ``COLUMNS``."""
    return [slice(lo, min(lo + COLUMNS, n)) for lo in range(0, n, COLUMNS)]


def _need(size: int, items: int) -> None:
    """Raises InputError where the machine does not have so many bytes."""
    if size > (free := available_memory()):
        said = f"{size / 1e9:,.1f} GB for {items:,} items and the machine has {free / 1e9:,.1f} GB left"
        raise InputError(f"EASE needs {said}; use IALS or ItemKNN, or read with k_core")
