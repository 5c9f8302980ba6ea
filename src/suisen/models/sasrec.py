"""SASRec: causal self-attention over a visitor's items (Kang & McAuley, 2018), trained with the full softmax.

x = √d · E[items], then the causal transformer of ``suisen.models.transformer``;  score(u, i) = last state · E[i]: the
table that is read is the table that is scored.
Cost a sequence of L: blocks · (12 L d² + 2 L² d) multiply-adds forward, and L · n_items · d for the full softmax, which
dominates (three times that with its gradients).  With sampled negatives n_items becomes their number; see
``suisen.models.sampled`` for how they are shared and what that costs.
Memory of the loss, measured at 20,000 positions of d = 64: over all 3,417 items 19 MB, over 12,102 38 MB (a plain
cross-entropy: 784 MB at 3,417); 256 drawn ones, whatever the catalogue, 94 MB shared by the batch, 151 MB of each
sequence, 263 MB of each position.  The table's gradient is dense and held twice: 2 · 244 MB at a million items.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.data.views import Sequences, View
from suisen.models.contract import Ability, Phase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding, adam
from suisen.models.losses import full_softmax
from suisen.models.sampled import (
    Negatives,
    Per,
    calibrated_bce,
    calibration,
    positive_scores,
    sampled_softmax,
)
from suisen.models.sequences import Positions, newest, positions
from suisen.models.transformer import Shape, Transformer
from suisen.parameters import Search

Loss = Literal["softmax", "sampled", "bce", "gbce"]
USUAL: dict[str, tuple[int, Per]] = {"sampled": (256, "batch"), "bce": (1, "position"), "gbce": (256, "sequence")}
"""Negatives of each loss, and of what."""


@hyper_parameters
class SASRec:
    """A transformer that reads the history and points at the next item."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(32, 64, 128))] = 64
    """Length of an item vector and of the states."""
    blocks: Annotated[int, Field(ge=1, le=48), Search(choices=(1, 2, 3))] = 2
    """Transformer blocks."""
    heads: Annotated[int, Field(ge=1)] = 1
    """Attention heads; must divide ``dim``."""
    length: Annotated[int, Field(ge=1, le=4096)] = 200
    """Most items of history that are read."""
    windows: bool = False
    """Longer histories are cut into windows, so that every step is learnt from; False: their end alone."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.5)] = 0.1
    """In the embeddings, the attention and the feed-forward layers."""
    published: bool = False
    """Blocks as in the authors' code, whose residuals start from the normalised input; False: as in the paper."""
    loss: Loss = "softmax"
    """softmax: over all items; sampled: softmax over drawn ones, corrected by log q; bce: of the paper; gbce: bce
    calibrated for many negatives (Petrov & Macdonald 2023)."""
    negatives: Annotated[int, Field(ge=0)] = 0
    """Items drawn beside each next item, for the losses other than softmax; 0: 1 for bce (its paper), 256 else."""
    negatives_per: Literal["auto", "position", "sequence", "batch"] = "auto"
    """What each draw of negatives serves; auto: a position for bce, a sequence for gbce, the batch for sampled."""
    power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Negatives are drawn ~ (events of the item) ^ power: 0 uniformly, as both bce ask for, 1 by popularity."""
    calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """t of gbce: 0 is bce, 1 makes scores as little overconfident as the full softmax does."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(3e-4, 3e-3, log=True)] = 1e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Sequences in a batch."""
    batch_by_length: bool = False
    """True: batches hold sequences of like length; those of short ones then weigh as much as those of long ones."""
    groups: Annotated[int, Field(ge=1)] = 4
    """A batch is worked on in so many groups of like length: little padding, though any lengths meet in a step."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Most passes over the sequences."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} must divide dim = {self.dim}")
        return self

    @property
    def view(self) -> View:
        """Whole histories of at most ``length`` inputs and their next items."""
        return Sequences(self.length + 1, self.batch_size, by_length=self.batch_by_length, windows=self.windows)

    @property
    def shape(self) -> Shape:
        """Of the transformer: the paper's feed-forward layer is as wide as the states."""
        return Shape(
            self.dim, self.blocks, self.heads, self.length, self.dropout, inner=self.dim, published=self.published
        )

    def build(self, schema: Schema) -> SASRecNet:
        """Item and position tables and the blocks."""
        return SASRecNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam (β₂ = 0.98, as in the paper's code)."""
        return [Phase(net, adam(self.learning_rate, (0.9, 0.98)), self.epochs)]


class SASRecNet(Retriever):
    """Tied item embeddings: the table that is read is the table that is scored."""

    def __init__(self, model: SASRec, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.item = IdEmbedding(schema.n_items, model.dim, 0.02)
        self.body = Transformer(model.shape)
        self.negatives: Negatives | None = None
        if model.loss != "softmax":
            count, per = USUAL[model.loss]
            per = per if model.negatives_per == "auto" else model.negatives_per
            self.negatives = Negatives(model.negatives or count, per, model.power)

    def prepare(self, train: Dataset) -> None:
        """Negatives come from what train knows."""
        if self.negatives is not None:
            self.negatives.prepare(train)

    def states(self, items: Ragged) -> Tensor:
        """(B, L, d) states of rows of at most ``length`` items, padded on the right; padding's states mean nothing."""
        out: Tensor = self.body(self.item(items.padded()) * self.model.dim**0.5, items.lengths)
        return out

    def forward(self, batch: Batch) -> Tensor:
        """Every position predicts the next item."""
        at = positions(self.states, batch.contexts.history, self.model.groups)
        if self.negatives is None:
            return full_softmax(at.hidden, self.item.weight, at.targets)
        return self._sampled(at, self.negatives)

    def _sampled(self, at: Positions, negatives: Negatives) -> Tensor:
        hidden, table = at.hidden, self.item.weight
        positive = positive_scores(hidden, table, at.targets)
        if self.model.loss == "sampled":
            ids = negatives.of(at)
            scores = negatives.scores(at, hidden, table, ids)
            return sampled_softmax(positive, scores, negatives.log_counts(at, ids), negatives.own(at, ids))
        ids, hits = negatives.strangers(at)
        t = self.model.calibration if self.model.loss == "gbce" else 0.0
        power = calibration(negatives.count, len(negatives.pool), t)
        return calibrated_bce(positive, negatives.scores(at, hidden, table, ids), hits, power)

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d): the state of the newest item; zero for an empty history."""
        return newest(self.states, contexts.history.last(self.model.length), self.model.dim)

    def item_vectors(self) -> Tensor:
        """(n_items, d)."""
        return self.item.weight
