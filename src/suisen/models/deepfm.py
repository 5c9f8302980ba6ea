"""DeepFM (Guo et al. 2017): a factorisation machine and a deep net over the same field embeddings, added.

score = FM(fields) + MLP([fields of context; fields of item; pair features]).  The deep net's first layer is split into
the context's, the item's and the pair's part (see ``SplitMLP``): what is left per pair is k + h₁·h₂ + h₂·h₃ + …
multiply-adds instead of (F·k)·h₁ more.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.views import Rows, View
from suisen.models.contract import Ability, Phase, Ranker, hyper_parameters
from suisen.models.fm import FMCore
from suisen.models.layers import SplitMLP, adam
from suisen.models.losses import of_rows
from suisen.parameters import Search


@hyper_parameters
class DeepFM:
    """Factorisation machine plus deep net, shared embeddings, logistic loss."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users", "new items", "history", "features"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(8, 16, 32))] = 16
    """Length of a field's vector."""
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Search(choices=((64,), (128, 64), (256, 128, 64), (400, 400, 400)))
    ] = Field((128, 64), min_length=1)
    """Widths of the deep net's layers."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0, 0.5)] = 0.2
    """In the deep net."""
    batch_norm: bool = True
    """Batch norm behind each of the deep net's linear layers."""
    history: Annotated[int, Field(ge=0, le=1000)] = 50
    """Most items of history read as one more field (their mean); 0: none."""
    recent: Annotated[int, Field(ge=0, le=1000)] = 3
    """The same for the newest items alone: what follows what (Rendle et al. 2010, FPMC); 0: none."""
    hide_ids: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of user and item ids, and of user features, hidden in training: unknown ones are then no surprise."""
    l2: Annotated[float, Field(ge=0), Search(1e-7, 0.1, log=True)] = 1e-6
    """λ: half of it times the squared norm of all field tables is added to each batch's loss."""
    negatives: Annotated[int, Field(ge=1, le=1000)] = 4
    """Items drawn for each positive where train has neither labels nor lists."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(2e-4, 5e-3, log=True)] = 1e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=2)] = 1024
    """Contexts in a batch; fewer where an epoch would have fewer than 20 batches."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Most passes over train."""

    @property
    def view(self) -> View:
        """Contexts with candidates and labels."""
        return Rows(batch_size=self.batch_size, negatives=self.negatives, history=max(self.history, self.recent))

    def build(self, schema: Schema) -> DeepFMNet:
        """Field tables and the deep net."""
        return DeepFMNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam."""
        return [Phase(net, adam(self.learning_rate), self.epochs)]


class DeepFMNet(Ranker):
    """A side's state: the FM's (1 + k) and its part of the deep net's first layer (h₁)."""

    def __init__(self, model: DeepFM, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.core = FMCore(schema, model.dim, (model.history, model.recent))
        widths = self.core.context.count * model.dim, self.core.item.count * model.dim, len(schema.pair)
        self.deep = SplitMLP(widths, model.hidden, model.dropout, model.batch_norm)
        self.out = nn.Linear(self.deep.out, 1, bias=False)

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, 1 + k + h₁)."""
        side, vectors = self.core.of_context(contexts, self.model.hide_ids)
        return torch.cat([side, self.deep.context(vectors.flatten(1))], 1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, 1 + k + h₁)."""
        known, features = self.items.known(ids), self.items.features.take(ids)
        side, vectors = self.core.of_item(known, features, self.model.hide_ids)
        return torch.cat([side, self.deep.item(vectors.flatten(1))], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        cut = 1 + self.core.dim
        of_context, deep_context = torch.split(context, [cut, self.deep.width], -1)
        of_item, deep_item = torch.split(item, [cut, self.deep.width], -1)
        shallow = self.core(of_context, of_item, pair)
        deep = self.deep(deep_context, deep_item, pair, weights)
        return shallow + self.out(deep).squeeze(-1)

    def forward(self, batch: Batch) -> Tensor:
        """Softmax over each list (logistic loss of single candidates) plus l2/2 · the squared norm of the tables."""
        candidates, labels = batch.listed
        scores = self.score(batch.contexts, candidates, batch.weights)
        return of_rows(scores, labels, batch.weights) + self.model.l2 / 2 * self.core.square_norm()
