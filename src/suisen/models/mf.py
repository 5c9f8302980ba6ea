"""Matrix factorisation on sampled pairs.  score(u, i) = p_u · q_i + b_i.

Logistic loss: Rendle et al. 2020 (Neural Collaborative Filtering vs. Matrix Factorization Revisited), section 3; their
λ = 0.005 halves its squares, and is ``l2`` = 0.0025 here.  Two differences: Adam over batches in place of SGD over
single pairs, and neither a user's bias nor a global one.  Those change no ranking, and hardly the learning, for every
user has the same share of positives among its pairs (MovieLens-1M, split of He et al. 2017, validation after five
epochs: HR@10 0.732 with and without them).  BPR: Rendle et al. 2009.
Cost: 3·(1 + negatives)·d multiply-adds per example, and one pass over both tables per step.
"""

from typing import Annotated, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.views import Pairs, View
from suisen.models.contract import Ability, OnePhase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding
from suisen.models.losses import bpr, logistic, logistic_pairs
from suisen.models.tables import mean_square, products
from suisen.parameters import Search


@hyper_parameters
class MF(OnePhase):
    """Matrix factorisation, trained on positives and sampled negatives.

    Loss: logistic or BPR.  Answers users of train, on items of train: it knows nothing but their ids.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.MF(dim=4, epochs=1)).fit(data)
    >>> recommender.recommend(users=[7], k=5).shape
    (5, 4)
    """

    abilities: ClassVar[frozenset[Ability]] = frozenset({"weights"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(32, 64, 128, 256))] = 64
    """Length of a user or item vector."""
    loss: Literal["logistic", "bpr"] = "logistic"
    """logistic: each pair a yes or a no; bpr: the positive above each of its negatives."""
    negatives: Annotated[int, Field(ge=1, le=1000), Search(2, 16)] = 8
    """Items drawn for each positive."""
    popularity_power: Annotated[float, Field(ge=0, le=1), Search(0, 1)] = 0.0
    """Negatives are drawn with probability ~ events ^ power; 0 is uniform."""
    l2: Annotated[float, Field(ge=0), Search(1e-6, 1e-2, log=True)] = 2.5e-3
    """Weight of the squared norm of the vectors in each pair's loss."""
    init: Annotated[float, Field(gt=0)] = 0.1
    """Standard deviation of the first vectors' components."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(5e-4, 1e-2, log=True)] = 5e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 4096
    """Positives in a batch; fewer where an epoch would have fewer than 20 batches."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Most passes over the positives; with validation data training stops earlier."""

    @property
    def view(self) -> View:
        """Positives with negatives of their own; labelled pairs where there are such and the loss can use them."""
        both = self.loss == "logistic"
        return Pairs(self.batch_size, self.negatives, power=self.popularity_power, features=False, labels=both)

    def build(self, schema: Schema) -> "MFNet":
        """Two tables of vectors and one of item biases."""
        return MFNet(self, schema)


class MFNet(Retriever):
    """The item's bias is one more dimension of its vector; the user's matching component is 1."""

    def __init__(self, model: MF, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.user = IdEmbedding(schema.n_users, model.dim, model.init)
        self.item = IdEmbedding(schema.n_items, model.dim, model.init)
        self.bias = nn.Parameter(torch.zeros(schema.n_items))

    def forward(self, batch: Batch) -> Tensor:
        """Logistic or BPR loss plus l2 times the mean of |p|² + |q|² over the pairs."""
        p = self.user(batch.contexts.user)  # (B, d)
        ids = batch.taken[:, None]
        if batch.negatives is not None:
            ids = torch.cat([ids, batch.negatives], 1)  # (B, 1 + N)
        scores = products(p, self.item.weight, self.bias, ids)
        penalty = self.model.l2 * (p.square().sum(1).mean() + mean_square(self.item.weight, ids))
        if batch.labels is not None:
            return logistic(scores, batch.labels, batch.weights) + penalty
        loss = logistic_pairs if self.model.loss == "logistic" else bpr
        return loss(scores[:, :1], scores[:, 1:], batch.weights) + penalty

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d + 1): p_u and 1."""
        p = self.user(contexts.user)
        return F.pad(p, (0, 1), value=1.0)

    def item_vectors(self) -> Tensor:
        """(n_items, d + 1): q_i and b_i."""
        return torch.cat([self.item.weight, self.bias[:, None]], 1)
