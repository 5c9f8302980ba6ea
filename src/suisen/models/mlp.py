"""MLP: a deep net over the vectors of user and item (He et al. 2017, Neural Collaborative Filtering, section 3.3).

score(u, i) = w · φ_L(… φ_1([p_u; q_i])) + b, φ_l(z) = ReLU(W_l z + b_l); logistic loss with sampled negatives (eq. 7).
As a second stage the pair's features are further inputs of φ_1, and reach the score directly too.  φ_1 is split (see
``SplitMLP``): W_1's two halves are applied once per context and once per different item of the batch; left per
pair are h₁ additions and h₁·h₂ + h₂·h₃ + … multiply-adds forward, three times as many in training, and the traffic of
its h₁ + h₂ + … activations.
"""

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.models.contract import Ranker, hyper_parameters
from suisen.models.form import Form, additive
from suisen.models.gmf import NCF, IdTables, loss_of
from suisen.models.layers import SplitMLP, retrieval_prior
from suisen.parameters import After, Search


@hyper_parameters
class MLP(NCF):
    """A deep net over user and item vectors, logistic loss with sampled negatives.

    Loss: binary cross-entropy (the paper's equation 7); softmax over the lists of a first stage.  Answers users of
    train, on items of train: it knows nothing but their ids.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(ranker=su.models.MLP(dim=4, hidden=(8,), epochs=1)).fit(data)
    >>> recommender.recommend(users=[7], k=5).shape
    (5, 4)
    """

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(16, 32, 64, 128)), After("")] = 64
    """Length of a user or item vector: the net's input is twice as wide."""
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((128, 64, 32), min_length=1)
    """Widths of the hidden layers."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0, 0.5)] = 0.2
    """Behind each hidden layer."""
    l2: Annotated[float, Field(ge=0), Search(choices=(0.0, 1e-5, 1e-4, 1e-3)), After("negatives")] = 0.0
    """Weight of the squared norm of the vectors in each pair's loss."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(2e-4, 1e-2, log=True)] = 2e-3

    def build(self, schema: Schema) -> "MLPNet":
        """Two tables of vectors and the deep net."""
        return MLPNet(schema, self.dim, self.hidden, self.dropout, self.l2)


class MLPNet(IdTables, Ranker):
    """A side's state is its part of the first layer, (h₁)."""

    def __init__(self, schema: Schema, dim: int, hidden: Sequence[int], dropout: float, l2: float) -> None:
        super().__init__(schema, dim, l2)
        self.deep = SplitMLP((dim, dim, len(schema.pair)), hidden, dropout)
        self.out = nn.Linear(self.deep.out, 1)
        self.pair = nn.Parameter(retrieval_prior(schema))

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, h₁)."""
        return self.deep.context(self.user(contexts.user))

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, h₁)."""
        return self.deep.item(self.item(ids))

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        logits = self.out(self.deep(context, item, pair, weights)).squeeze(-1)
        return logits if pair is None else logits + pair @ self.pair

    def form(self) -> Form:
        """The deep net's, and the pair features' direct way."""
        return additive(self.out.bias, self.pair, own=0).beside(self.deep, self.out.weight[0])

    def forward(self, batch: Batch) -> Tensor:
        """Logistic loss (listwise on the lists of a first stage) plus l2 times the squared norms."""
        candidates = batch.listed[0]
        logits = self.score(batch.contexts, candidates, batch.weights)
        return loss_of(logits, batch) + self.penalty(batch.contexts.user, candidates.items)
