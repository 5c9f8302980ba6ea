"""GRU4Rec: a recurrent network that reads a session item by item (Hidasi et al. 2016; Hidasi & Karatzoglou 2018).

z = σ(W_z x + U_z h), r = σ(W_r x + U_r h), n = tanh(W_n x + r ∘ U_n h), h ← (1 − z) ∘ n + z ∘ h, with x = E[item]
(biases left out here).  score(session, i) = h · V[i], V = E where embeddings are tied.

Losses, each the mean over all positions of predicting the next item y from the state h:
* softmax: −log exp(h·V[y]) / Σ_i exp(h·V[i]), over all items.
* sampled: the same over y and N drawn items j, exp(h·V[j] − log (N q_j)) each (Jean et al. 2015).
* bpr-max: −log Σ_j w_j σ(h·V[y] − h·V[j]) + λ Σ_j w_j (h·V[j])², w the softmax of h·V[j] over the drawn items j
  (Hidasi & Karatzoglou 2018).

Whole sessions, in groups of like length padded on the right, take the place of the paper's parallel sessions that are
cut and reset: every session starts from zero and no gradient is cut.  Padding stands behind all that is read.

Cost per item read: 12 d² multiply-adds per layer forward, 36 d² with backward; and the loss: 3 d · n_items, or 3 d ·
negatives.  Measured, forward and backward of 128 sessions of 200 at d = 64 on one core: 0.11 s padded, 0.6 s packed
(``pack_padded_sequence`` leaves torch's fused kernel), 0.6 s as a loop of steps: groups are padded.
Memory of the loss, measured at 5,100 positions: 51 MB with 512 drawn items, 178 MB with 2,048, whatever the catalogue;
over all 12,102 items 38 MB (chunks of logits, see ``losses.full_softmax``).
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Schema
from suisen.data.ragged import Ragged
from suisen.models.contract import hyper_parameters
from suisen.models.layers import IdEmbedding, dropout
from suisen.models.sampled import Negatives, bpr_max
from suisen.models.sequence_model import CausalNet, SequenceModel
from suisen.models.sequences import Positions
from suisen.parameters import After, Search


@hyper_parameters
class GRU4Rec(SequenceModel):
    """A recurrent network that reads a session and predicts its next item (Hidasi et al. 2016).

    Answers users and guests with a history, for items that train has events of; without a history all scores are 0.
    Sessions of guests are examples like any other.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.GRU4Rec(dim=4, epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(64, 100, 128, 192))] = 64
    layers: Annotated[int, Field(ge=1, le=8), Search(choices=(1, 2)), After("dim")] = 1
    """Recurrent layers."""
    tied: bool = True
    """Items are scored by the vectors they are read with; False: by a table of their own."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.5)] = 0.1
    """Of what is read, of the states, and between layers."""
    loss: Annotated[Literal["softmax", "sampled", "bpr-max"], After("dropout")] = "softmax"
    """softmax: over all items; sampled: over drawn ones, corrected by log q; bpr-max: against the hardest of them."""
    negatives: Annotated[int, Field(ge=1)] = 512
    """Items drawn for each batch and shared by it, for the losses other than softmax."""
    power: Annotated[float, Field(ge=0, le=1), Search(0.0, 1.0)] = 0.5
    """Alpha: negatives are drawn ~ (events of the item) ^ power."""
    penalty: Annotated[float, Field(ge=0), Search(0.1, 10.0, log=True)] = 1.0
    """Lambda of bpr-max: how much large scores of negatives cost."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(5e-4, 1e-2, log=True)] = 2e-3

    def build(self, schema: Schema) -> "GRU4RecNet":
        """Item tables and the recurrent layers."""
        return GRU4RecNet(self, schema)


class GRU4RecNet(CausalNet):
    """An item table, recurrent layers over it, and where it is not tied a second table that is scored."""

    def __init__(self, model: GRU4Rec, schema: Schema) -> None:
        super().__init__()
        self.model = model
        std = model.dim**-0.5
        self.item = IdEmbedding(schema.n_items, model.dim, std)
        self.target = None if model.tied else IdEmbedding(schema.n_items, model.dim, std)
        between = model.dropout if model.layers > 1 else 0.0  # torch warns where there is nothing in between
        self.gru = nn.GRU(model.dim, model.dim, model.layers, batch_first=True, dropout=between)
        self.negatives = None if model.loss == "softmax" else Negatives(model.negatives, "batch", model.power)

    def states(self, items: Ragged) -> Tensor:
        """(B, L, d) states of B rows of items, padded on the right."""
        x = dropout(self.item(items.padded()), self.model.dropout, self.training)  # (B, L, d)
        return dropout(self.gru(x)[0], self.model.dropout, self.training)

    def sampled_loss(self, at: Positions, negatives: Negatives) -> Tensor:
        """BPR-max or softmax over draws that the whole batch shares; draws of the item to predict are left out."""
        if self.model.loss == "sampled":
            return super().sampled_loss(at, negatives)
        ids = negatives.of(at)
        positive, negative = self.scores(at, negatives, ids)
        return bpr_max(positive, negative, negatives.own(at, ids), self.model.penalty, at.weights)

    def item_vectors(self) -> Tensor:
        """(n_items, d)."""
        return self.item.weight if self.target is None else self.target.weight
