"""Factorisation machine (Rendle 2010), over the expanded vector x of a context and an item:

    score = w₀ + Σ_i w_i x_i + Σ_{i<j} x_i x_j (v_i · v_j).

x holds, one coordinate a code: 1 at the user, at the item and at each categorical code (0 where it is unknown); each
number itself (standardised by the data room); for a multi-valued field and for the history the codes' shares of the
field's weight (Rendle's "other movies rated", normalised to 1), a code that stands there twice with both; and each
feature of the pair.  All pairs i < j count, those inside a multi-valued field and inside the history among them.

Σ_{i<j} = ½(|Σ x_i v_i|² − Σ x_i² |v_i|²): O(k·m) for m coordinates that are not 0, in place of O(k·m²).  It also
splits: pairs inside the context and pairs inside the item are each side's own, and all cross pairs are one inner
product of the two sums.  Cost left per pair: k multiply-adds, 4·(1 + k) bytes of item state read.  Pair features
(retrieval scores) are numeric fields of the pair.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Contexts, Features, Schema
from suisen.models.contract import hyper_parameters
from suisen.models.field_ranker import FieldRanker, FieldRankerNet
from suisen.models.form import Form
from suisen.models.layers import ContextVectors, ItemVectors, inner, retrieval_prior
from suisen.parameters import Search


@hyper_parameters
class FM(FieldRanker):
    """Second-order factorisation machine, logistic loss.

    Loss: ``loss`` over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
    every context and scores every item: what it does not know by its id it knows by features and history.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(ranker=su.FM(dim=4, epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(8, 16, 32, 64))] = 16
    """k, the length of a field's vector."""
    hide_ids: Annotated[float, Field(ge=0, lt=1), Search(0, 0.3)] = 0.05
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(3e-4, 1e-2, log=True)] = 2e-3

    def build(self, schema: Schema) -> "FMNet":
        """One table per field."""
        return FMNet(self, schema)


def own_pairs(vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Of (n, F, k) field vectors: (n, 1) sum of all pairs' inner products, and (n, k) sum of the vectors."""
    total = vectors.sum(1)  # (n, k)
    # Σ_{f<g} v_f · v_g = ½ (|Σ v_f|² − Σ |v_f|²)
    pairs = 0.5 * (total.square().sum(1, keepdim=True) - vectors.square().sum((1, 2)).unsqueeze(1))
    return pairs, total


def _vector(place: int) -> slice:
    """The columns of a field's table that hold its vector: all but column 0, which is the linear weight.  An FM has one
    vector per code, whichever field it meets.
    """
    return slice(1, None)


def field_names(schema: Schema, spans: Sequence[int]) -> list[str]:
    """Names of the fields of a context, of an item and of their pair, in the order of the field vectors."""
    kinds = ("categorical", "numeric", "multi")
    user, moment, item = (
        [f"{owner}.{field.name}" for kind in kinds for field in fields if field.kind == kind]
        for owner, fields in (("user", schema.user), ("context", schema.context), ("item", schema.item))
    )
    history = [f"last {span} of the history" for span in spans if span]
    return ["user", *user, *moment, *history, "item", *item, *schema.pair]


class FMCore(nn.Module):
    """Field vectors of context and item, and the FM's split: what FM and DeepFM share.

    A field's table has k + 1 columns: the first is its linear weight, the others its vector.  A side's state is
    [linear terms + own pairs, sum of vectors], (n, 1 + k).
    """

    def __init__(self, schema: Schema, dim: int, spans: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.names = dim, field_names(schema, spans)
        self.context = ContextVectors(schema, dim + 1, spans)
        self.item = ItemVectors(schema, dim + 1)
        self.pair = nn.Parameter(torch.randn(len(schema.pair), dim + 1) * 0.01)
        with torch.no_grad():
            self.pair[:, 0] = retrieval_prior(schema)
        self.bias = nn.Parameter(torch.zeros(()))

    def tables(self) -> list[Tensor]:
        """Every field table, linear weights among them: all parameters but the bias."""
        return [*self.context.parameters(), *self.item.parameters(), self.pair]

    def of_context(self, contexts: Contexts, hide_ids: float) -> tuple[Tensor, Tensor]:
        """(B, 1 + k) state of a context and its (B, F, k) vectors."""
        return self.parts(*self.context.with_inside(contexts, hide_ids, _vector))

    def of_item(self, ids: Tensor, features: Features, hide_ids: float) -> tuple[Tensor, Tensor]:
        """(n, 1 + k) state of items and their (n, F, k) vectors."""
        return self.parts(*self.item.with_inside(ids, features, hide_ids, _vector))

    def parts(self, fields: Tensor, inside: Tensor | None) -> tuple[Tensor, Tensor]:
        """(n, 1 + k) state of a side and its (n, F, k) vectors, from (n, F, 1 + k) fields.

        The linear weights are cut off here, once for the FM and the deep net beside it: each cut costs two passes over
        the fields' gradient.  ``inside`` (n,): pairs inside multi-valued fields, None where there are none.
        """
        linear, vectors = torch.split(fields, [1, self.dim], 2)  # (n, F, 1) and (n, F, k)
        pairs, total = own_pairs(vectors)
        own = linear.sum(1) + pairs
        return torch.cat([own if inside is None else own + inside.unsqueeze(1), total], 1), vectors

    def forward(self, context: Tensor, item: Tensor, pair: Tensor | None) -> Tensor:
        """(B, C) scores of (B, 1 + k) context and (B or 1, C, 1 + k) item states and (B, C, p) pair features."""
        own = self.bias + context[:, :1] + item[..., 0]
        c, i = context[:, 1:], item[..., 1:]
        if pair is None or not len(self.pair):
            return own + inner(c, i)
        linear, vectors = self.pair[:, 0], self.pair[:, 1:]
        extra = pair @ vectors  # (B, C, k)
        squares = pair.square() @ vectors.square().sum(1)  # (B, C): what the square of the sum has too much
        own = own + pair @ linear + 0.5 * (extra.square().sum(-1) - squares)
        return own + inner(c, i) + ((c.unsqueeze(1) + i) * extra).sum(-1)

    def form(self) -> Form:
        """``forward`` as arrays; what a state holds behind the FM's 1 + k numbers goes into the rows as it is."""
        linear, vectors, cut = self.pair[:, 0], self.pair[:, 1:], 1 + self.dim

        def context(state: Tensor) -> Tensor:
            own, c = state[:, :1], state[:, 1:cut]
            return torch.cat([own, torch.ones_like(own), c, linear + c @ vectors.T, state[:, cut:]], 1)

        def item(state: Tensor) -> Tensor:
            own, i = state[:, :1], state[:, 1:cut]
            return torch.cat([torch.ones_like(own), own + self.bias, i, i @ vectors.T, state[:, cut:]], 1)

        return Form.shallow(2 + self.dim, context, item, (vectors @ vectors.T).triu(1))


class FMNet(FieldRankerNet):
    """The FM as a ranker: states are sums, ``combine`` is one inner product."""

    def __init__(self, model: FieldRanker, schema: Schema) -> None:
        super().__init__(model)
        self.core = FMCore(schema, model.dim, (model.history, model.recent))

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, 1 + k)."""
        return self.core.of_context(contexts, self.model.hide_ids)[0]

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, 1 + k)."""
        return self.core.of_item(*self.rows(ids), self.model.hide_ids)[0]

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        return self.core(context, item, pair)

    def form(self) -> Form:
        """The core's."""
        return self.core.form()

    def tables(self) -> list[Tensor]:
        """The core's."""
        return self.core.tables()

    def shares_of_fields(self, contexts: Contexts, item: Tensor, pair: Tensor | None) -> list[tuple[str, str, float]]:
        """The bias, each field's linear term, each pair's inner product, and the pairs inside multi-valued fields."""
        core = self.core
        of_context, inside = core.context.with_inside(contexts, 0.0, _vector)
        of_item, within = core.item.with_inside(*self.rows(item), 0.0, _vector)
        of_pair = core.pair[:0] if pair is None else pair[0, 0, :, None] * core.pair
        fields = torch.cat([of_context[0], of_item[0], of_pair]).double()  # (F, 1 + k)
        products = (fields[:, 1:] @ fields[:, 1:].T).tolist()
        names = core.names[: len(fields)]
        parts = [("bias", "", float(core.bias))]
        parts += [(name, "", linear) for name, linear in zip(names, fields[:, 0].tolist(), strict=True)]
        parts += [(names[f], names[g], products[f][g]) for f, g in combinations(range(len(names)), 2)]
        for side, own in (("the context", inside), ("the item", within)):
            parts += [] if own is None else [(f"inside {side}'s lists", "", float(own[0]))]
        return parts
