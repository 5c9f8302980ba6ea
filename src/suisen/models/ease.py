"""EASE: embarrassingly shallow autoencoders (Steck, 2019).  score(u, ·) = x_u B,  B = I − P / diag(P),  diag(B) = 0,
P = (XᵀX + λI)⁻¹, X the binary user × item matrix.

Cost: XᵀX from sparse X, one inverse of n_items³ multiply-adds; memory: three n_items² matrices while learning, one
afterwards (55 MB for 3,700 items; 10 GB for 50,000: then use iALS).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from suisen.data.batch import Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.views import Pairs, View
from suisen.errors import InputError
from suisen.models.contract import Ability, CatalogueScorer, Phase, hyper_parameters
from suisen.parameters import Search

MOST_ITEMS = 60_000


@hyper_parameters
class EASE:
    """A linear item-item model in closed form; reads histories, so that new users need no training."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history"})

    l2: Annotated[float, Field(gt=0), Search(10, 5000, log=True)] = 500.0
    """λ, added to the diagonal of XᵀX."""

    @property
    def view(self) -> View:
        """Unused: nothing is trained by gradient."""
        return Pairs()

    def build(self, schema: Schema) -> EASENet:
        """One n_items × n_items matrix.  Raises InputError where it would not fit any machine we know."""
        if schema.n_items > MOST_ITEMS:
            raise InputError(
                f"EASE holds n_items² weights and the catalogue has {schema.n_items:,} items (at most {MOST_ITEMS:,}); "
                f"use IALS"
            )
        return EASENet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """None: the closed form is in ``prepare``."""
        return []


class EASENet(CatalogueScorer):
    """score(u, j) = Σ over the history's different items i of B[i, j]."""

    weight: Tensor

    def __init__(self, model: EASE, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("weight", torch.zeros(schema.n_items, schema.n_items))

    def prepare(self, train: Dataset) -> None:
        """Solves for B.  Guests' sessions are users like any other."""
        x = binary_matrix(train)
        gram = np.asarray((x.T @ x).todense(), dtype=np.float64, order="F")
        kept = np.flatnonzero(gram.diagonal())  # items without events have no row and no column
        gram = gram[np.ix_(kept, kept)]
        gram[np.diag_indices_from(gram)] += self.model.l2
        factor, failed = scipy.linalg.lapack.dpotrf(gram, lower=1, overwrite_a=1)
        inverse, singular = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
        if failed or singular:
            raise InputError(f"EASE: XᵀX + {self.model.l2:g}·I could not be inverted; raise l2")
        inverse = np.tril(inverse) + np.tril(inverse, -1).T
        b = inverse / -inverse.diagonal()[None, :]
        np.fill_diagonal(b, 0.0)
        ids = torch.from_numpy(kept)
        self.weight.zero_()
        self.weight[ids[:, None], ids[None, :]] = torch.from_numpy(b.astype(np.float32))

    def score_all(self, contexts: Contexts) -> Tensor:
        """(B, n_items): sums of the history's rows; repeats count once."""
        items = contexts.history.unique()
        return F.embedding_bag(items.values, self.weight, items.offsets[:-1], mode="sum")


def binary_matrix(train: Dataset) -> sp.csr_matrix:
    """(n_visitors, n_items) float32 CSR with 1 where the visitor took the item, however often."""
    history = train.histories
    shape = (len(history), train.schema.n_items)
    values = np.ones(history.values.numel(), dtype=np.float32)
    matrix = sp.csr_matrix((values, history.values.numpy(), history.offsets.numpy()), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix
