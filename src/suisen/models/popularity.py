"""Popularity: everybody is recommended the items that were taken most.

score(u, i) = number of positive events of i in train, or their summed weights where they have some.  As a retriever it
has one dimension: query 1, item vector the count.  There is no loss; the cost is one pass over the events.
"""

from typing import ClassVar

import torch
from torch import Tensor

from suisen.data.batch import Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.models.closed_form import ClosedForm
from suisen.models.contract import Ability, Retriever, hyper_parameters


@hyper_parameters
class Popularity(ClosedForm):
    """The baseline that every recommender must beat (and often does not: Ferrari Dacrema et al. 2019).

    Answers everybody alike, for items that train has events of.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.Popularity()).fit(data)
    >>> recommender.recommend(users=[1, 2], k=5).shape
    (10, 4)
    """

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users", "weights"})

    def build(self, schema: Schema) -> "PopularityNet":
        """A table of zeros."""
        return PopularityNet(schema.n_items)


class PopularityNet(Retriever):
    """The counts of train."""

    second_stage: ClassVar[bool] = False  # the same order for everybody: it would undo the first stage
    compares_items: ClassVar[bool] = False  # all its vectors point the same way
    counts: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(n_items, 1))

    def prepare(self, train: Dataset) -> None:
        """Counts; float32 holds integers up to 16.7 million exactly."""
        weight, counts = train.events.weight, train.item_counts.double()
        if weight is not None:
            items, weights = train.events.item[train.positive], weight[train.positive].double()
            counts = torch.bincount(items, weights, minlength=len(counts))
        self.counts.copy_(counts[:, None])

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, 1) of ones."""
        return self.counts.new_ones((contexts.user.shape[0], 1))

    def item_vectors(self) -> Tensor:
        """(n_items, 1) counts."""
        return self.counts
