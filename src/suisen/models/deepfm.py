"""DeepFM (Guo et al. 2017): a factorisation machine and a deep net over the same field embeddings, added.

score = FM(fields) + MLP([fields of context; fields of item; pair features]).  The deep net's first layer is split into
the context's, the item's and the pair's part (see ``SplitMLP``): what is left per pair is k + h₁·h₂ + h₂·h₃ + …
multiply-adds instead of (F·k)·h₁ more.
"""

import torch
from torch import Tensor, nn

from suisen.data.batch import Contexts, Schema
from suisen.models.contract import hyper_parameters
from suisen.models.field_ranker import DeepRanker
from suisen.models.fm import FMNet
from suisen.models.form import Form
from suisen.models.layers import SplitMLP


@hyper_parameters
class DeepFM(DeepRanker):
    """Factorisation machine plus deep net, shared embeddings, logistic loss.

    Loss: softmax over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
    every context and scores every item: what it does not know by its id it knows by features and history.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(ranker=su.DeepFM(dim=4, hidden=(8,), epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    def build(self, schema: Schema) -> "DeepFMNet":
        """Field tables and the deep net."""
        return DeepFMNet(self, schema)


class DeepFMNet(FMNet):
    """A side's state: the FM's (1 + k) and its part of the deep net's first layer (h₁)."""

    def __init__(self, model: DeepFM, schema: Schema) -> None:
        super().__init__(model, schema)
        widths = self.core.context.count * model.dim, self.core.item.count * model.dim, len(schema.pair)
        self.deep = SplitMLP(widths, model.hidden, model.dropout, model.batch_norm)
        self.out = nn.Linear(self.deep.out, 1, bias=False)

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, 1 + k + h₁)."""
        side, vectors = self.core.of_context(contexts, self.model.hide_ids)
        return torch.cat([side, self.deep.context(vectors.flatten(1))], 1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, 1 + k + h₁)."""
        side, vectors = self.core.of_item(*self.rows(ids), self.model.hide_ids)
        return torch.cat([side, self.deep.item(vectors.flatten(1))], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        cut = 1 + self.core.dim
        of_context, deep_context = torch.split(context, [cut, self.deep.width], -1)
        of_item, deep_item = torch.split(item, [cut, self.deep.width], -1)
        shallow = self.core(of_context, of_item, pair)
        deep = self.deep(deep_context, deep_item, pair, weights)
        return shallow + self.out(deep).squeeze(-1)

    def form(self) -> Form:
        """The FM's beside the deep net's."""
        return self.core.form().beside(self.deep, self.out.weight[0])

    def shares_of_fields(self, contexts: Contexts, item: Tensor, pair: Tensor | None) -> list[tuple[str, str, float]]:
        """The FM's parts, and all that the deep net adds as one: it mixes the fields, and has no share of each."""
        parts = super().shares_of_fields(contexts, item, pair)
        score = self.combine(self.context_state(contexts), self.item_state(item).unsqueeze(0), pair)
        return [*parts, ("deep net (all fields)", "", float(score) - sum(value for *_, value in parts))]
