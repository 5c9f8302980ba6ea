"""GRU4Rec: a recurrent network that reads a session item by item (Hidasi et al. 2016; Hidasi & Karatzoglou 2018).

z = σ(W_z x + U_z h), r = σ(W_r x + U_r h), n = tanh(W_n x + r ∘ U_n h), h ← (1 − z) ∘ n + z ∘ h, with x = E[item];
score(session, i) = h · V[i], V = E where embeddings are tied.
Whole sessions, in groups of like length padded on the right, take the place of the paper's parallel sessions that are
cut and reset: every session starts from zero and no gradient is cut.  What pads lies behind all that is read.
Losses of each next item: the softmax over all items; over drawn ones with log q subtracted; BPR-max over drawn ones.
Cost an item read: 12 d² multiply-adds a layer, forward and backward 36 d², and the loss: 3 d · n_items, or 3 d ·
negatives.  Measured, forward and backward of 128 sessions of 200 at d = 64 on one core: 0.11 s padded, 0.6 s packed
(``pack_padded_sequence`` leaves torch's fused kernel), 0.6 s as a loop of steps: groups are padded.
Memory of the loss, measured at 5,100 positions: 51 MB with 512 drawn items, 178 MB with 2,048, whatever the catalogue;
over all 12,102 items 38 MB (chunks of logits, see ``losses.full_softmax``).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.data.views import Sequences, View
from suisen.models.contract import Ability, Phase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding, adam, dropout
from suisen.models.losses import full_softmax
from suisen.models.sampled import Negatives, bpr_max, positive_scores, sampled_softmax
from suisen.models.sequences import newest, positions
from suisen.parameters import Search


@hyper_parameters
class GRU4Rec:
    """A recurrent network for sessions; visitors without a user are examples like any other."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(64, 100, 128, 192))] = 64
    """Length of an item vector and of the states."""
    layers: Annotated[int, Field(ge=1, le=8), Search(choices=(1, 2))] = 1
    """Recurrent layers."""
    tied: bool = True
    """Items are scored by the vectors they are read with; False: by a table of their own."""
    length: Annotated[int, Field(ge=1, le=4096)] = 200
    """Most items of a session that are read."""
    windows: bool = False
    """Longer sessions are cut into windows, so that every step is learnt from; False: their end alone."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.5)] = 0.1
    """Of what is read, of the states, and between layers."""
    loss: Literal["softmax", "sampled", "bpr-max"] = "softmax"
    """softmax: over all items; sampled: over drawn ones, corrected by log q; bpr-max: against the hardest of them."""
    negatives: Annotated[int, Field(ge=1)] = 512
    """Items drawn for each batch and shared by it, for the losses other than softmax."""
    power: Annotated[float, Field(ge=0, le=1), Search(0.0, 1.0)] = 0.5
    """Alpha: negatives are drawn ~ (events of the item) ^ power."""
    penalty: Annotated[float, Field(ge=0), Search(0.1, 10.0, log=True)] = 1.0
    """Lambda of bpr-max: how much large scores of negatives cost."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(5e-4, 1e-2, log=True)] = 2e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Sessions in a batch."""
    batch_by_length: bool = False
    """True: batches hold sessions of like length; those of short ones then weigh as much as those of long ones."""
    groups: Annotated[int, Field(ge=1)] = 4
    """A batch is worked on in so many groups of like length: little padding, though any lengths meet in a step."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Most passes over the sessions."""

    @property
    def view(self) -> View:
        """Whole sessions of at most ``length`` inputs and their next items."""
        return Sequences(self.length + 1, self.batch_size, by_length=self.batch_by_length, windows=self.windows)

    def build(self, schema: Schema) -> GRU4RecNet:
        """Item tables and the recurrent layers."""
        return GRU4RecNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam."""
        return [Phase(net, adam(self.learning_rate), self.epochs)]


class GRU4RecNet(Retriever):
    """The state behind the newest item is the query."""

    def __init__(self, model: GRU4Rec, schema: Schema) -> None:
        super().__init__()
        self.model = model
        std = model.dim**-0.5
        self.item = IdEmbedding(schema.n_items, model.dim, std)
        self.target = None if model.tied else IdEmbedding(schema.n_items, model.dim, std)
        between = model.dropout if model.layers > 1 else 0.0  # torch warns where there is nothing in between
        self.gru = nn.GRU(model.dim, model.dim, model.layers, batch_first=True, dropout=between)
        self.negatives: Negatives | None = None
        if model.loss != "softmax":
            self.negatives = Negatives(model.negatives, "batch", model.power)

    def prepare(self, train: Dataset) -> None:
        """Negatives come from what train knows."""
        if self.negatives is not None:
            self.negatives.prepare(train)

    def states(self, items: Ragged) -> Tensor:
        """(B, L, d) states of rows of items, padded on the right; padding's states mean nothing."""
        x = dropout(self.item(items.padded()), self.model.dropout, self.training)
        out: Tensor = dropout(self.gru(x)[0], self.model.dropout, self.training)
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Every position predicts the next item."""
        at = positions(self.states, batch.contexts.history, self.model.groups)
        table = self.item_vectors()
        if self.negatives is None:
            return full_softmax(at.hidden, table, at.targets)
        ids, hidden = self.negatives.of(at), at.hidden
        positive, negative = positive_scores(hidden, table, at.targets), self.negatives.scores(at, hidden, table, ids)
        hits = self.negatives.own(at, ids)
        if self.model.loss == "bpr-max":
            return bpr_max(positive, negative, hits, self.model.penalty)
        return sampled_softmax(positive, negative, self.negatives.log_counts(at, ids), hits)

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d): the state behind the newest item; zero for an empty session."""
        return newest(self.states, contexts.history.last(self.model.length), self.model.dim)

    def item_vectors(self) -> Tensor:
        """(n_items, d)."""
        return self.item.weight if self.target is None else self.target.weight
