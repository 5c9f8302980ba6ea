"""BERT4Rec: items hidden in a history are predicted from both sides (Sun et al. 2019).

x = E[items, some of them replaced by the mask], the transformer of ``suisen.models.transformer`` looking both ways with
a GELU feed-forward layer of 4 d;  q = norm(GELU(W h + w));  score(history, i) = q · E[i] + b[i] (section 3.5).
The mask is an extra row of E behind the items; the bias is one more dimension of the vectors.  Asked for the next item,
the mask stands at the end.

Loss: the mean over the hidden places of −log exp(q·E[y] + b[y]) / Σ_i exp(q·E[i] + b[i]), y the hidden item, over all
items (section 3.6).  Of most sequences a share of the places is hidden; the others are cut behind a place drawn
at random, which alone is hidden, as when a history of any length is asked (the paper hides the last place of whole
sequences).

Cost per sequence of L items: blocks · (24 L d² + 4 L² d) multiply-adds forward, and share · L · n_items · d for the
softmax.  Memory of the loss: one chunk of logits, at most 16 MB (see ``losses.full_softmax``).
"""

from functools import singledispatch
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.ragged import Ragged, offsets_of
from suisen.data.views import Sequences, View
from suisen.models.contract import Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding
from suisen.models.losses import full_softmax
from suisen.models.sequence_model import AttentionModel
from suisen.models.sequences import by_length, flat_states, newest
from suisen.models.transformer import Transformer
from suisen.parameters import After, Search


@hyper_parameters
class BERT4Rec(AttentionModel):
    """A transformer that fills gaps in a history, the last of which is its next item (Sun et al. 2019).

    Answers users and guests with a history, for items that train has events of; an empty history is a mask alone.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.BERT4Rec(dim=4, epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    heads: Annotated[int, Field(ge=1), Search(choices=(1, 2, 4))] = 1
    length: Annotated[int, Field(ge=2, le=4096)] = 200
    """Places that are read: when asked, the last length - 1 items and the mask."""
    inner: Annotated[int, Field(ge=1, le=64), After("length")] = 4
    """Width of the feed-forward layer in multiples of ``dim``."""
    mask: Annotated[float, Field(gt=0, lt=1), Search(0.1, 0.6)] = 0.2
    """Share of the places that are hidden in training."""
    last: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Share of the sequences that are cut at random and have their last place alone hidden, as when it is asked."""
    windows: bool = False
    """Longer histories are cut into windows of ``length``, each an example; False: their end alone."""
    epochs: Annotated[int, Field(ge=1)] = 200
    """Most passes over the sequences: each shows only some of the places, so it takes more than a causal model."""

    @property
    def view(self) -> View:
        """Sequences of at most ``length`` items: the items to predict stand among those that are read."""
        return Sequences(self.length, self.batch_size, by_length=self.batch_by_length, windows=self.windows)

    def build(self, schema: Schema) -> "BERT4RecNet":
        """The table with its mask, positions, blocks and the head."""
        return BERT4RecNet(self, schema)


class BERT4RecNet(Retriever):
    """An item table whose last row is the mask, a transformer that looks both ways, and a head; the table that is read
    is the table that is scored.
    """

    def __init__(self, model: BERT4Rec, schema: Schema) -> None:
        super().__init__()
        self.model, self.mask = model, schema.n_items
        self.item = IdEmbedding(schema.n_items + 1, model.dim, 0.02)
        self.bias = nn.Parameter(torch.zeros(schema.n_items))
        shape = model.shape_of(inner=model.inner * model.dim, activation="gelu", causal=False)
        self.body = Transformer(shape)
        self.head = nn.Sequential(nn.Linear(model.dim, model.dim), nn.GELU(), nn.LayerNorm(model.dim, eps=1e-8))

    def states(self, items: Ragged) -> Tensor:
        """(B, L, d) states of B rows of at most ``length`` places, padded on the right (padding's mean nothing)."""
        return self.body(self.item(items.padded()), items.lengths)

    def examples(self, sequences: Ragged) -> tuple[Ragged, Tensor]:
        """Sequences, some of them cut, and (n,) bool: which of their n values are to be hidden.

        Each place is drawn by itself; a sequence for which nothing was drawn has its last place hidden.
        """
        device = sequences.values.device
        lengths = sequences.lengths  # (B,)
        cut = torch.rand(len(sequences), device=device) < self.model.last
        # a cut sequence keeps 2 … L of its items, each number as likely: one to read at least, and the one to predict
        shorter = 2 + (torch.rand(len(sequences), device=device) * (lengths - 1)).long()
        kept = torch.where(cut, torch.minimum(shorter, lengths), lengths)
        places = sequences.places()
        rows = sequences.keep(places < kept[sequences.rows()])
        hidden = (torch.rand(rows.values.numel(), device=device) < self.model.mask) & ~cut[rows.rows()]
        none = torch.zeros(len(rows), device=device).index_add_(0, rows.rows(), hidden.float()) == 0
        hidden[rows.offsets[1:][none & (kept > 0)] - 1] = True
        return rows, hidden

    def forward(self, batch: Batch) -> Tensor:
        """Hidden places are predicted from all others, against the whole catalogue."""
        history = batch.contexts.history
        groups = self.model.groups
        sequences, hidden = self.examples(by_length(history) if groups > 1 else history)
        shown = sequences.with_values(torch.where(hidden, self.mask, sequences.values))
        query = self.head(flat_states(self.states, shown, groups)[hidden]).float()  # (hidden places, d)
        weights = None if sequences.weights is None else sequences.weights[hidden]
        return full_softmax(query, self.item.weight[: self.mask], sequences.values[hidden], None, self.bias, weights)

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d + 1): the head's answer at a mask behind the history, and a 1 for the bias."""
        masked = with_mask(contexts.history.last(self.model.length - 1), self.mask)
        query = newest(lambda rows: self.head(self.states(rows)), masked, self.model.dim)  # (B, d)
        return F.pad(query, (0, 1), value=1.0)

    def item_vectors(self) -> Tensor:
        """(n_items, d + 1): E without the mask, and b."""
        return torch.cat([self.item.weight[: self.mask], self.bias[:, None]], 1)


@singledispatch
def with_mask(items: Ragged, mask: int) -> Ragged:
    """Each row with the mask behind its last item; an empty row becomes the mask alone."""
    offsets = offsets_of(items.lengths + 1)
    values = items.values.new_full((items.values.numel() + len(items),), mask)
    values[torch.arange(items.values.numel(), device=values.device) + items.rows()] = items.values
    return Ragged(values, offsets)
