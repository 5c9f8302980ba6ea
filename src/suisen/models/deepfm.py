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

    Loss: ``loss`` over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
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
        """The FM's parts; by how much the deep net's output falls where a field alone is left out ("deep net" behind
        the field); and what is then left of that output, for the deep net mixes its fields.
        """
        parts = super().shares_of_fields(contexts, item, pair)
        own, its = self.core.of_context(contexts, 0.0)[1], self.core.of_item(*self.rows(item), 0.0)[1]
        names = self.core.names[: own.shape[1] + its.shape[1]]
        count = len(names)
        fields = torch.cat([own, its], 1).repeat(count + 1, 1, 1)  # (F + 1, F, k): the last row is whole
        fields[range(count), range(count)] = 0.0
        context, of_item = torch.split(fields, [own.shape[1], its.shape[1]], 1)
        sides = self.deep.context(context.flatten(1)), self.deep.item(of_item.flatten(1)).unsqueeze(1)
        deep = self.out(self.deep(*sides, None if pair is None else pair.expand(count + 1, -1, -1))).flatten().double()
        falls = (deep[-1] - deep[:-1]).tolist()
        parts += [(name, "deep net", fall) for name, fall in zip(names, falls, strict=True)]
        return [*parts, ("deep net", "", float(deep[-1]) - sum(falls))]
