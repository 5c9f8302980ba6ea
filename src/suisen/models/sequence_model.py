"""What GRU4Rec, SASRec and BERT4Rec share: hyper-parameters, batches, phase; and what the causal two do alike.

A sequence model reads a history item by item and scores items by the inner product of a state and the item's vector.
A *causal* one (GRU4Rec, SASRec) has a state behind each item, h_t of items 1 … t, and is trained to predict item t + 1
from it at every t; asked, it answers with the state behind the newest item.
"""

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from torch import Tensor

from suisen.data.batch import Batch, Contexts
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.data.views import Sequences, View
from suisen.models.contract import Ability, OnePhase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding
from suisen.models.losses import full_softmax
from suisen.models.sampled import Negatives, positive_scores, sampled_softmax
from suisen.models.sequences import Positions, newest, positions
from suisen.models.transformer import Shape
from suisen.parameters import After, Search


@hyper_parameters
class SequenceModel(OnePhase):
    """Hyper-parameters of every sequence model.  A model moves a default by writing the field again."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history", "weights"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(32, 64, 128))] = 64
    """Length of an item vector and of the states."""
    length: Annotated[int, Field(ge=1, le=4096)] = 200
    """Most items of history that are read."""
    windows: bool = False
    """Longer histories are cut into windows, so that every step is learnt from; False: their end alone."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.5)] = 0.1
    """In the embeddings, the attention and the feed-forward layers."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(3e-4, 3e-3, log=True)] = 1e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Sequences per batch."""
    batch_by_length: bool = False
    """True: batches hold sequences of like length; those of short ones then weigh as much as those of long ones."""
    groups: Annotated[int, Field(ge=1)] = 4
    """Groups of like length in which a batch is computed: little padding, though any lengths meet in a step."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Most passes over the sequences."""

    @property
    def view(self) -> View:
        """Sequences of at most ``length`` inputs and, behind the last one, one more item to predict."""
        return Sequences(self.length + 1, self.batch_size, by_length=self.batch_by_length, windows=self.windows)


@hyper_parameters
class AttentionModel(SequenceModel):
    """Hyper-parameters of those that are transformers."""

    betas: ClassVar[tuple[float, float]] = (0.9, 0.98)  # as in the published code of SASRec

    blocks: Annotated[int, Field(ge=1, le=48), Search(choices=(1, 2, 3)), After("dim")] = 2
    """Transformer blocks."""
    heads: Annotated[int, Field(ge=1)] = 1
    """Attention heads; must divide ``dim``."""

    def shape_of(self, **more: Any) -> Shape:
        """Sizes of the transformer, with what differs between the models."""
        return Shape(self.dim, self.blocks, self.heads, self.length, self.dropout, **more)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} must divide dim = {self.dim}")
        return self


class CausalNet(Retriever):
    """A network whose states see only what came before: a subclass gives ``states``, and its losses of negatives."""

    model: Any
    """Its hyper-parameters: a ``SequenceModel`` with ``loss``."""
    item: IdEmbedding
    """Vectors of what is read, and of what is scored unless ``item_vectors`` says otherwise."""
    negatives: Negatives | None
    """What draws negatives; None where the loss is the softmax over all items."""

    def states(self, items: Ragged) -> Tensor:
        """(B, L, d) states of B rows of at most L items, padded on the right; states of padding mean nothing."""
        raise TypeError(f"{type(self).__name__} has no states")

    def prepare(self, train: Dataset) -> None:
        """Counts how often train has each item, for the draws of negatives."""
        if self.negatives is not None:
            self.negatives.prepare(train)

    def forward(self, batch: Batch) -> Tensor:
        """The mean over all positions of the loss of predicting the next item, weighted as its events are."""
        at = positions(self.states, batch.contexts.history, self.model.groups)
        if self.negatives is None:
            return full_softmax(at.hidden, self.item_vectors(), at.targets, weights=at.weights)
        return self.sampled_loss(at, self.negatives)

    def sampled_loss(self, at: Positions, negatives: Negatives) -> Tensor:
        """The softmax over drawn negatives, corrected by how often each is drawn."""
        ids = negatives.of(at)
        positive, negative = self.scores(at, negatives, ids)
        hits, log_counts = negatives.own(at, ids), negatives.log_counts(at, ids)
        return sampled_softmax(positive, negative, log_counts, hits, at.weights)

    def scores(self, at: Positions, negatives: Negatives, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(n, 1) scores of each position's next item and (n, N) of its negatives ``ids``."""
        table = self.item_vectors()
        return positive_scores(at.hidden, table, at.targets), negatives.scores(at, at.hidden, table, ids)

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d): the state behind the newest item; zero for an empty history."""
        return newest(self.states, contexts.history.last(self.model.length), self.model.dim)

    def item_vectors(self) -> Tensor:
        """(n_items, d): the table that is read is the table that is scored."""
        return self.item.weight
