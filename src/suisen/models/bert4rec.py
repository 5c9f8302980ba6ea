"""BERT4Rec: items hidden in a visitor's history are predicted from both sides (Sun et al. 2019).

x = E[items, some of them replaced by the mask], the transformer of ``suisen.models.transformer`` looking both ways with
a GELU feed-forward layer of 4 d;  q = norm(GELU(W h + w));  score(u, i) = q · E[i] + b[i].  The mask is an extra row of
E behind the items; the bias is one more dimension of the vectors.  Asked for the next item, the mask stands at the end.
Training: of most sequences a share of the places is hidden; the others are cut behind a place drawn at random, which
alone is hidden, as when a history of any length is asked (the paper hides the last place of whole sequences).  The loss
is the softmax over all items at the hidden places.
Cost a sequence of L: blocks · (24 L d² + 4 L² d) multiply-adds forward, and share · L · n_items · d for the softmax.
Memory of the loss: one chunk of logits, at most 16 MB (see ``losses.full_softmax``).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.ragged import Ragged, offsets_of
from suisen.data.views import Sequences, View
from suisen.models.contract import Ability, Phase, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding, adam
from suisen.models.losses import full_softmax
from suisen.models.sequences import by_length, flat_states, newest
from suisen.models.transformer import Shape, Transformer
from suisen.parameters import Search


@hyper_parameters
class BERT4Rec:
    """A transformer that fills gaps in the history, the last of which is the next item."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(32, 64, 128))] = 64
    """Length of an item vector and of the states."""
    blocks: Annotated[int, Field(ge=1, le=48), Search(choices=(1, 2, 3))] = 2
    """Transformer blocks."""
    heads: Annotated[int, Field(ge=1), Search(choices=(1, 2, 4))] = 1
    """Attention heads; must divide ``dim``."""
    length: Annotated[int, Field(ge=2, le=4096)] = 200
    """Places that are read: when asked, the last length - 1 items and the mask."""
    inner: Annotated[int, Field(ge=1, le=64)] = 4
    """Width of the feed-forward layer in multiples of ``dim``."""
    mask: Annotated[float, Field(gt=0, lt=1), Search(0.1, 0.6)] = 0.2
    """Share of the places that are hidden in training."""
    last: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the sequences that are cut at random and have their last place alone hidden, as when it is asked."""
    windows: bool = False
    """Longer histories are cut into windows of ``length``, each an example; False: their end alone."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0.0, 0.5)] = 0.1
    """In the embeddings, the attention and the feed-forward layers."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(3e-4, 3e-3, log=True)] = 1e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Sequences in a batch."""
    batch_by_length: bool = False
    """True: batches hold sequences of like length; those of short ones then weigh as much as those of long ones."""
    groups: Annotated[int, Field(ge=1)] = 4
    """A batch is worked on in so many groups of like length: little padding, though any lengths meet in a step."""
    epochs: Annotated[int, Field(ge=1)] = 200
    """Most passes over the sequences: each shows only some of the places, so it takes more than a causal model."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"heads = {self.heads} must divide dim = {self.dim}")
        return self

    @property
    def view(self) -> View:
        """Histories of at most ``length`` items."""
        return Sequences(self.length, self.batch_size, by_length=self.batch_by_length, windows=self.windows)

    @property
    def shape(self) -> Shape:
        """Of the transformer."""
        return Shape(
            self.dim, self.blocks, self.heads, self.length, self.dropout,
            inner=self.inner * self.dim, activation="gelu", causal=False,
        )  # fmt: skip

    def build(self, schema: Schema) -> BERT4RecNet:
        """The table with its mask, positions, blocks and the head."""
        return BERT4RecNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam (β₂ = 0.98, as for SASRec)."""
        return [Phase(net, adam(self.learning_rate, (0.9, 0.98)), self.epochs)]


class BERT4RecNet(Retriever):
    """Tied item embeddings; the mask is the row behind the last item."""

    def __init__(self, model: BERT4Rec, schema: Schema) -> None:
        super().__init__()
        self.model, self.mask = model, schema.n_items
        self.item = IdEmbedding(schema.n_items + 1, model.dim, 0.02)
        self.bias = nn.Parameter(torch.zeros(schema.n_items))
        self.body = Transformer(model.shape)
        self.head = nn.Sequential(nn.Linear(model.dim, model.dim), nn.GELU(), nn.LayerNorm(model.dim, eps=1e-8))

    def states(self, items: Ragged) -> Tensor:
        """(B, L, d) states of rows of at most ``length`` places, padded on the right; padding's states mean nothing."""
        out: Tensor = self.body(self.item(items.padded()), items.lengths)
        return out

    def examples(self, sequences: Ragged) -> tuple[Ragged, Tensor]:
        """Sequences, some of them cut, and (n,) bool beside their values: which are to be hidden.

        Drawn place by place; a sequence for which nothing was drawn has its last place hidden.
        """
        device, lengths = sequences.values.device, sequences.lengths
        cut = torch.rand(len(sequences), device=device) < self.model.last
        shorter = 2 + (torch.rand(len(sequences), device=device) * (lengths - 1)).long()
        kept = torch.where(cut, torch.minimum(shorter, lengths), lengths)
        places = torch.arange(sequences.values.numel(), device=device) - sequences.offsets[:-1][sequences.rows()]
        rows = sequences.keep(places < kept[sequences.rows()])
        hidden = (torch.rand(rows.values.numel(), device=device) < self.model.mask) & ~cut[rows.rows()]
        none = torch.zeros(len(rows), device=device).index_add_(0, rows.rows(), hidden.float()) == 0
        hidden[rows.offsets[1:][none & (kept > 0)] - 1] = True
        return rows, hidden

    def forward(self, batch: Batch) -> Tensor:
        """Hidden places are predicted from all others, against the whole catalogue."""
        history, groups = batch.contexts.history, self.model.groups
        sequences, hidden = self.examples(by_length(history) if groups > 1 else history)
        shown = sequences.with_values(torch.where(hidden, self.mask, sequences.values))
        asked = self.head(flat_states(self.states, shown, groups)[hidden]).float()
        return full_softmax(asked, self.item.weight[: self.mask], sequences.values[hidden], bias=self.bias)

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d + 1): the head's answer at a mask behind the history, and a 1 for the bias."""
        asked = with_mask(contexts.history.last(self.model.length - 1), self.mask)
        return F.pad(newest(lambda rows: self.head(self.states(rows)), asked, self.model.dim), (0, 1), value=1.0)

    def item_vectors(self) -> Tensor:
        """(n_items, d + 1)."""
        return torch.cat([self.item.weight[: self.mask], self.bias[:, None]], 1)


def with_mask(items: Ragged, mask: int) -> Ragged:
    """Each row with the mask behind its last item: of an empty row the mask alone is left."""
    offsets = offsets_of(items.lengths + 1)
    values = items.values.new_full((items.values.numel() + len(items),), mask)
    values[torch.arange(items.values.numel(), device=values.device) + items.rows()] = items.values
    return Ragged(values, offsets)
