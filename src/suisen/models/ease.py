"""EASE: embarrassingly shallow autoencoders (Steck, 2019).

With X the binary user × item matrix, B minimises |X − XB|² + λ|B|² under diag(B) = 0.  Its closed form:
P = (XᵀX + λI)⁻¹,  B[i, j] = −P[i, j] / P[j, j] off the diagonal.  score(u, ·) = x_u B, x_u the history as a
row of X.

Cost: XᵀX from sparse X, and one inverse of n_items³ multiply-adds.  Memory: three n_items² matrices while learning, one
afterwards (55 MB for 3,700 items; 10 GB for 50,000: then use iALS).
"""

from typing import Annotated

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from suisen.data.batch import Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.errors import InputError
from suisen.models.closed_form import ClosedForm, binary_matrix
from suisen.models.contract import CatalogueScorer, hyper_parameters
from suisen.parameters import Search

MAX_ITEMS = 60_000
"""Largest catalogue: its weights are 14 GB."""


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
        """One n_items × n_items matrix.  Raises InputError for catalogues above ``MAX_ITEMS``."""
        if schema.n_items > MAX_ITEMS:
            size = f"{schema.n_items:,} items (at most {MAX_ITEMS:,})"
            raise InputError(f"EASE holds n_items² weights and the catalogue has {size}; use IALS")
        return EASENet(self, schema)


class EASENet(CatalogueScorer):
    """score(u, j) = Σ over the history's different items i of B[i, j]."""

    weight: Tensor

    def __init__(self, model: EASE, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weight", torch.zeros(schema.n_items, schema.n_items))

    def prepare(self, train: Dataset) -> None:
        """Solves for B; guests' sessions are rows of X like any user's.  Raises InputError where l2 is too small."""
        x = binary_matrix(train)
        gram = np.asarray((x.T @ x).todense(), dtype=np.float64, order="F")
        kept = np.flatnonzero(gram.diagonal())  # items without events have no row and no column
        gram = gram[np.ix_(kept, kept)]
        gram[np.diag_indices_from(gram)] += self.model.l2
        # Cholesky factor and inverse in place: half the work and a third of the memory of a general inverse
        factor, failed = scipy.linalg.lapack.dpotrf(gram, lower=1, overwrite_a=1)
        inverse, singular = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        if failed or singular:
            raise InputError(f"EASE: XᵀX + {self.model.l2:g}·I could not be inverted; raise l2")
        inverse = np.tril(inverse) + np.tril(inverse, -1).T  # LAPACK fills the lower triangle alone
        b = inverse / -inverse.diagonal()[None, :]
        np.fill_diagonal(b, 0.0)
        ids = torch.from_numpy(kept)
        self.weight.zero_()
        self.weight[ids[:, None], ids[None, :]] = torch.from_numpy(b.astype(np.float32))

    def score_all(self, contexts: Contexts) -> Tensor:
        """(B, n_items): sums of the rows of B at the history's items; repeats count once."""
        items = contexts.history.unique()
        return F.embedding_bag(items.values, self.weight, items.offsets[:-1], mode="sum")

    def shares_of_history(self, history: Tensor, item: int) -> Tensor:
        """(n,) the weights from the history's items to this one."""
        return self.weight[history, item]
