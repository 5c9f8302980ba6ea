"""DeepFM (Guo et al. 2017): a factorisation machine and a deep net over the same field embeddings, added.

score = FM(fields) + MLP([fields of context; fields of item; pair features]).  The deep net's first layer is split into
the context's, the item's and the pair's part (see ``SplitMLP``): what is left per pair is k + h₁·h₂ + h₂·h₃ + …
multiply-adds instead of (F·k)·h₁ more.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.models.contract import Ranker, hyper_parameters
from suisen.models.deep import DeepFields
from suisen.models.fm import FMCore
from suisen.models.layers import SplitMLP
from suisen.models.losses import of_rows


@hyper_parameters
class DeepFM(DeepFields):
    """Factorisation machine plus deep net, shared embeddings, logistic loss."""

    def build(self, schema: Schema) -> DeepFMNet:
        """Field tables and the deep net."""
        return DeepFMNet(self, schema)


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
