"""What models without gradients share: ``prepare`` learns everything, from a binary matrix of who took what.

EASE, item-kNN and popularity have no phase of training; iALS reads the same matrix.
"""

from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from suisen.data.dataset import Dataset
from suisen.data.views import Pairs, View
from suisen.models.contract import Ability, Phase, hyper_parameters


@hyper_parameters
class ClosedForm:
    """Hyper-parameters of a model that ``prepare`` learns whole."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history"})

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
