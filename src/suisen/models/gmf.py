"""GMF: generalised matrix factorisation (He et al. 2017, Neural Collaborative Filtering, section 3.2).

score(u, i) = h · (p_u ∘ q_i) = p_u · (h ∘ q_i): h folds into the item vectors, and any inner-product index serves it.
Logistic loss of score + b over each positive and its sampled negatives (eq. 7); b, one number, changes no ranking.
Cost of an example: 3·(1 + negatives)·d multiply-adds forward and backward; no (B, 1 + negatives, d) array is written
(see ``tables.products``).  Fused Adam adds one pass over both tables per step, 28 bytes per weight: with a small batch
that is most of the time.
"""

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.views import Rows, View
from suisen.models.contract import Ability, Net, OnePhase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding
from suisen.models.losses import logistic, softmax_lists
from suisen.models.tables import mean_square, products
from suisen.parameters import After, Search


@hyper_parameters
class NCF(OnePhase):
    """Hyper-parameters that the models of Neural Collaborative Filtering (GMF, MLP, NeuMF) share."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"weights"})

    negatives: Annotated[int, Field(ge=1, le=1000), Search(2, 10)] = 4
    """Items drawn for each positive."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(2e-4, 1e-2, log=True)] = 1e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 1024
    """Positives in a batch; fewer where an epoch would have fewer than 20 batches."""
    epochs: Annotated[int, Field(ge=1)] = 40
    """Most passes over the positives; with validation data training stops earlier."""

    @property
    def view(self) -> View:
        """Positives of known users with negatives of their own; labelled pairs or lists where there are such."""
        return Rows(self.batch_size, self.negatives, guests=False)


@hyper_parameters
class GMF(NCF):
    """Matrix factorisation whose dimensions are weighted, logistic loss with sampled negatives.

    Loss: binary cross-entropy (the paper's equation 7).  Answers users of train, on items of train: it knows nothing
    but their ids.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.models.GMF(dim=4, epochs=1)).fit(data)
    >>> recommender.recommend(users=[7], k=5).shape
    (5, 4)
    """

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(16, 32, 64, 128)), After("")] = 64
    """Length of a user or item vector."""
    l2: Annotated[float, Field(ge=0), Search(1e-4, 1e-1, log=True), After("negatives")] = 3e-2
    """Weight of the squared norm of the vectors in each pair's loss."""

    def build(self, schema: Schema) -> "GMFNet":
        """Two tables of vectors and h."""
        return GMFNet(schema, self.dim, self.l2)


def loss_of(logits: Tensor, batch: Batch) -> Tensor:
    """The loss of the NCF family: logistic, each pair a yes or a no (eq. 7).

    Lists of a first stage, known by their pair features, are learnt listwise, as every ranker here learns them.
    """
    candidates, labels = batch.listed
    loss = logistic if candidates.pair is None else softmax_lists
    return loss(logits, labels, batch.weights)


class IdTables(Net):
    """A vector per user and per item: what the networks of the NCF family begin with."""

    def __init__(self, schema: Schema, dim: int, l2: float) -> None:
        super().__init__()
        self.l2 = l2
        self.user = IdEmbedding(schema.n_users, dim)
        self.item = IdEmbedding(schema.n_items, dim)

    def penalty(self, user: Tensor, items: Tensor) -> Tensor | float:
        """l2 · mean over the pairs of |p_u|² + |q_i|²; two passes over the tables are saved where l2 is 0."""
        if not self.l2:
            return 0.0
        return self.l2 * (mean_square(self.user.weight, user) + mean_square(self.item.weight, items))


class GMFNet(IdTables, Retriever):
    """Tables start as in the paper, N(0, 0.01²); h starts at 1, where GMF is matrix factorisation."""

    def __init__(self, schema: Schema, dim: int, l2: float) -> None:
        super().__init__(schema, dim, l2)
        self.h = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(()))

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d): p_u."""
        return self.user(contexts.user)

    def item_vectors(self) -> Tensor:
        """(n_items, d): h ∘ q_i."""
        return self.item.weight * self.h

    def logits(self, user: Tensor, items: Tensor) -> Tensor:
        """(B, C) score + b of (B,) users and (B, C) items."""
        table = self.item.weight
        return products(self.user(user) * self.h, table, table.new_zeros(len(table)), items) + self.bias

    def forward(self, batch: Batch) -> Tensor:
        """Logistic loss plus l2 times the squared norms."""
        user, items = batch.contexts.user, batch.listed[0].items
        return loss_of(self.logits(user, items), batch) + self.penalty(user, items)
