"""Popularity: everyone is recommended what most took.  The one-dimensional retriever: query (1), item (count)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from suisen.data.batch import Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.views import Pairs, View
from suisen.models.contract import Ability, Phase, Retriever, hyper_parameters


@hyper_parameters
class Popularity:
    """The baseline that every recommender must beat (and often does not: Ferrari Dacrema et al. 2019)."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users"})

    @property
    def view(self) -> View:
        """Unused: nothing is trained."""
        return Pairs()

    def build(self, schema: Schema) -> PopularityNet:
        """A table of zeros."""
        return PopularityNet(schema.n_items)

    def phases(self, net: Any) -> list[Phase]:
        """None: counting is enough."""
        return []


class PopularityNet(Retriever):
    """score(u, i) = number of positive events of i in train."""

    second_stage: ClassVar[bool] = False  # the same order for everybody: it would undo the first stage
    counts: Tensor

    def __init__(self, n_items: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(n_items, 1))

    def prepare(self, train: Dataset) -> None:
        """Counts; float32 holds integers up to 16.7 million exactly."""
        self.counts.copy_(train.item_counts[:, None])

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, 1) of ones."""
        return self.counts.new_ones((len(contexts), 1))

    def item_vectors(self) -> Tensor:
        """(n_items, 1) counts."""
        return self.counts
