"""Two-Tower: a user network and an item network that meet in one inner product (Covington et al. 2016; Yi et al. 2019).

User tower: user id, user features, request features, mean of the history.  Item tower: item id, item features.
Loss: InfoNCE over the batch's own items with temperature τ: −log softmax((q_u · v_i)/τ − log q_i), log q_i the share
of item i among train's events (the logQ correction, subtracted).  Items and users that train does not know are served
by their features: their id is 0, whose vector is zero, and training hides a share of the ids so that the features
learn to carry the weight.  Cost: the user tower once an example, the item tower once for each of the batch's u
different items, and 3·B·u·d multiply-adds for the products of both.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.views import Pairs, View
from suisen.models.contract import Ability, Phase, Retriever, hyper_parameters
from suisen.models.layers import ContextVectors, ItemVectors, adam, perceptron
from suisen.models.losses import in_batch
from suisen.models.tables import distinct
from suisen.parameters import Search


@hyper_parameters
class TwoTower:
    """Feature towers trained with in-batch negatives."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users", "new items", "history", "features"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(32, 64, 128))] = 64
    """Length of the vectors that meet, and of each field's embedding."""
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Search(choices=((128,), (256,), (256, 128)))] = (128,)
    """Widths of each tower's hidden layers."""
    temperature: Annotated[float, Field(gt=0), Search(0.03, 0.5, log=True)] = 0.1
    """τ: the smaller, the harder the nearest negatives are pushed away."""
    cosine: bool = True
    """Vectors of length 1, so that scores are cosines; False: plain inner products."""
    log_q: bool = True
    """Correct for frequent items standing in the batch more often."""
    history: Annotated[int, Field(ge=0, le=1000)] = 50
    """Most items of history that the user tower reads; 0: none."""
    hide_ids: Annotated[float, Field(ge=0, lt=1), Search(0, 0.3)] = 0.1
    """Share of user and item ids, and of user features, hidden in training: unknown ones are then no surprise."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0, 0.5)] = 0.1
    """In the hidden layers."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(5e-4, 1e-2, log=True)] = 2e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=2)] = 2048
    """Positives in a batch, each picked from all of them; fewer where an epoch would have fewer than 20 batches."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Most passes over the positives."""

    @property
    def view(self) -> View:
        """Positives alone; the batch is its own sample of negatives."""
        return Pairs(self.batch_size, negatives=0, history=self.history, guests=self.history > 0, labels=False)

    def build(self, schema: Schema) -> TwoTowerNet:
        """Both towers."""
        return TwoTowerNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam."""
        return [Phase(net, adam(self.learning_rate), self.epochs)]


class Tower(nn.Module):
    """Field vectors, concatenated → hidden layers → one vector, plus the plain sum of the fields' vectors.

    The sum is the short way: with it a tower starts as a matrix factorisation of its ids and features.
    """

    def __init__(self, model: TwoTower, fields: int) -> None:
        super().__init__()
        self.layers = perceptron(fields * model.dim, (*model.hidden, model.dim), model.dropout)
        self.cosine = model.cosine

    def forward(self, fields: Tensor) -> Tensor:
        """(n, d) of (n, F, d)."""
        vector = self.layers(fields.flatten(1)) + fields.sum(1)
        return F.normalize(vector, dim=1) if self.cosine else vector


class TwoTowerNet(Retriever):
    """Two towers over the shared field encoder."""

    def __init__(self, model: TwoTower, schema: Schema) -> None:
        super().__init__()
        self.model = model
        std = model.dim**-0.5
        self.context = ContextVectors(schema, model.dim, (model.history,), std)
        self.item = ItemVectors(schema, model.dim, std)
        self.user_tower = Tower(model, self.context.count)
        self.item_tower = Tower(model, self.item.count)

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d)."""
        return self.user_tower(self.context(contexts, self.model.hide_ids))

    def vectors_of(self, ids: Tensor) -> Tensor:
        """(n, d) of (n,) dense ids."""
        return self.item_tower(self.item(self.items.known(ids), self.items.features.take(ids), self.model.hide_ids))

    def item_vectors(self) -> Tensor:
        """(n_items, d)."""
        return self.vectors_of(torch.arange(len(self.items), device=self.items.trained.device))

    def forward(self, batch: Batch) -> Tensor:
        """InfoNCE over the batch; only its different items pass through the tower."""
        ids, where, counts = distinct(batch.taken, len(self.items))
        query = self.query_vectors(batch.contexts) / self.model.temperature
        log_q = None
        if self.model.log_q and batch.log_q is not None:
            log_q = batch.log_q.new_empty(len(ids)).index_copy_(0, where, batch.log_q)
        return in_batch(query, self.vectors_of(ids), where, counts, log_q, batch.weights)
