"""What models without gradients share: ``prepare`` learns everything, from a matrix of who took what.

EASE, item-kNN and popularity have no phase of training; iALS reads the same matrix.
"""

from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
import torch

from suisen.data.dataset import Dataset
from suisen.data.views import Pairs, View
from suisen.models.contract import Ability, Phase, hyper_parameters


@hyper_parameters
class ClosedForm:
    """Hyper-parameters of a model that ``prepare`` learns whole."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history", "weights"})

    @property
    def view(self) -> View:
        """Unused: there is no phase that asks for batches."""
        return Pairs()

    def phases(self, net: Any) -> list[Phase]:
        """None."""
        return []


def binary_matrix(train: Dataset) -> sp.csr_matrix:
    """(n_visitors, n_items) float32 CSR matrix with 1 where the visitor took the item, however often.

    A visitor is a user or a guest's session; guests' rows stand behind the users'.
    """
    history = train.histories
    shape = (len(history), train.schema.n_items)
    values = np.ones(history.values.numel(), dtype=np.float32)
    matrix = sp.csr_matrix((values, history.values.numpy(), history.offsets.numpy()), shape=shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def root_matrix(train: Dataset) -> sp.csr_matrix:
    """``binary_matrix`` with the square root of its weight in place of each 1; the same where train has no weights.

    A pair weighs what the heaviest of its positive events weighs, over the mean of all pairs: equal weights are no
    weights, and settings keep their meaning whatever the unit.  Of roots, XᵀX holds Σ √(w_ui w_uj): on its diagonal
    each item's weighted count, where a binary X has its count.
    """
    matrix = binary_matrix(train)
    weight = train.events.weight
    if weight is None:
        return matrix
    pair = train.events.visitor[train.positive] * train.schema.n_items + train.events.item[train.positive]
    _, where = torch.unique(pair, return_inverse=True)  # rising: the order of the matrix, whose rows are sorted
    heaviest = torch.zeros(matrix.nnz, dtype=torch.float64)
    heaviest.scatter_reduce_(0, where, weight[train.positive].double(), "amax")
    matrix.data[:] = (heaviest / heaviest.mean()).sqrt().numpy()
    return matrix
