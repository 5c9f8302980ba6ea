"""Field-aware factorisation machine (Juan et al. 2016), over the expanded vector x of a context and an item:

    score = w₀ + Σ_i w_i x_i + Σ_{i<j} x_i x_j (v_{i, f(j)} · v_{j, f(i)}),

v_{i, g} the vector with which coordinate i meets coordinates of field g.  x is that of ``suisen.models.fm``; pairs
inside a multi-valued field and inside the history meet with the vectors for the own field.  The paper's equation 4 is
the double sum alone; bias and linear terms are an FM's, so that both differ in the pairs only.

Parameters: n·(f·k + 1) for n codes and numbers in f fields, f times those of an FM: one million codes in 20 fields at
k = 4 are 324 MB of weights, and as much again for the gradient and for each of Adam's two moments.

It splits like an FM.  With f_c context and f_i item fields, a side's state holds its own pairs and, for each pair of a
context and an item field, the k numbers that meet the other side: 1 + p + f_c·f_i·k floats (p features of the pair).
Cost left per pair: one inner product of f_c·f_i·k multiply-adds (the table of item states is read once per
list: 4·f_c·f_i·k bytes per item).  Own pairs cost f_c²·k once per context and f_i²·k once per item.
"""

from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Contexts, Schema
from suisen.models.contract import hyper_parameters
from suisen.models.field_ranker import FieldRanker, FieldRankerNet
from suisen.models.form import Form
from suisen.models.layers import ContextVectors, ItemVectors, chunks_in_cache, inner, retrieval_prior
from suisen.parameters import Search


@hyper_parameters
class FFM(FieldRanker):
    """Field-aware factorisation machine: one vector per feature and field it meets, logistic loss.

    Loss: ``loss`` over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
    every context and scores every item: what it does not know by its id it knows by features and history.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(ranker=su.models.FFM(dim=2, epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    dim: Annotated[int, Field(ge=1, le=1024), Search(choices=(4, 8, 16))] = 8
    """k, the length of each vector; a feature has one for every field."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(5e-4, 1e-2, log=True)] = 2e-3

    def build(self, schema: Schema) -> "FFMNet":
        """One table per field; in each row a vector for every field it may meet."""
        return FFMNet(self, schema)


class _FieldPairs(torch.autograd.Function):
    """Σ_{f<g} v[f, g] · v[g, f]; the gradient of v[f, g] is v[g, f]."""

    @staticmethod
    def forward(ctx: Any, v: Tensor) -> Tensor:
        ctx.save_for_backward(v)
        upper = torch.ones(v.shape[1:3], dtype=v.dtype, device=v.device).triu_(1).flatten()
        out = v.new_empty(len(v))
        for chunk in chunks_in_cache(v):
            products = v[chunk] * v[chunk].transpose(1, 2)  # (n, F, F, k): v[f, g] ∘ v[g, f]
            out[chunk] = products.sum(3).flatten(1) @ upper  # (n,): of each pair of fields, one of its two places
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor]:
        (v,) = ctx.saved_tensors
        out = torch.empty_like(v, memory_format=torch.contiguous_format)
        for chunk in chunks_in_cache(v):
            torch.mul(v[chunk].transpose(1, 2), grads[0][chunk, None, None, None], out=out[chunk])
        out.diagonal(dim1=1, dim2=2).zero_()  # a field is no pair with itself
        return (out,)


def field_pairs(v: Tensor) -> Tensor:
    """(n,) Σ_{f<g} v[:, f, g] · v[:, g, f] of (n, F, F, k): v[:, f, g] is field f's vector for field g."""
    if torch.compiler.is_exporting():  # a graph has no chunks, and no gradient
        upper = torch.ones(v.shape[1:3], dtype=v.dtype, device=v.device).triu(1).flatten()
        return (v * v.transpose(1, 2)).sum(3).flatten(1) @ upper
    return _FieldPairs.apply(v)  # type: ignore[no-untyped-call]


class FFMNet(FieldRankerNet):
    """Fields are numbered context first, then item, then pair.  A field's table has 1 + F·k columns: the linear weight
    and a vector for each field.  A side's state: [linear terms + own pairs; what each pair feature meets, (p);
    vectors for the other side's fields, (f_c·f_i·k)].
    """

    def __init__(self, model: FFM, schema: Schema) -> None:
        super().__init__(model)
        spans = (model.history, model.recent)
        context = 1 + len(schema.user) + len(schema.context) + sum(span > 0 for span in spans)
        item, pair = 1 + len(schema.item), len(schema.pair)
        self.counts = context, item, pair
        columns = 1 + (context + item + pair) * model.dim
        self.context = ContextVectors(schema, columns, spans)
        self.item = ItemVectors(schema, columns)
        self.pair = nn.Parameter(torch.randn(pair, columns) * 0.01)
        with torch.no_grad():
            self.pair[:, 0] = retrieval_prior(schema)
        self.bias = nn.Parameter(torch.zeros(()))

    def _own(self, first: int, place: int) -> slice:
        """Columns of a field's vector for itself; its side's fields begin at ``first``."""
        start = 1 + (first + place) * self.model.dim
        return slice(start, start + self.model.dim)

    def _side(self, fields: Tensor, inside: Tensor | None, first: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """(n,) linear terms and own pairs, (n, p) what pair features meet, and (n, count, F, k) vectors by field."""
        v = fields[..., 1:].view(fields.shape[0], count, sum(self.counts), self.model.dim)  # (n, count, F, k)
        own = fields[..., 0].sum(1) + field_pairs(v[:, :, first : first + count])
        pair = self._pair_vectors()[:, first : first + count]  # (p, count, k)
        met = torch.einsum("nfpk,pfk->np", v[:, :, sum(self.counts[:2]) :], pair)
        return own if inside is None else own + inside, met, v

    def _pair_vectors(self) -> Tensor:
        return self.pair[:, 1:].view(self.counts[2], sum(self.counts), self.model.dim)

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, 1 + p + f_c·f_i·k)."""
        context, item, _ = self.counts
        fields, inside = self.context.with_inside(contexts, self.model.hide_ids, lambda place: self._own(0, place))
        own, met, v = self._side(fields, inside, 0, context)
        return torch.cat([own.unsqueeze(1), met, v[:, :, context : context + item].flatten(1)], 1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, 1 + p + f_c·f_i·k)."""
        context, item, _ = self.counts
        known, features = self.rows(ids)
        own_columns = lambda place: self._own(context, place)  # noqa: E731
        fields, inside = self.item.with_inside(known, features, self.model.hide_ids, own_columns)
        own, met, v = self._side(fields, inside, context, item)
        return torch.cat([own.unsqueeze(1), met, v[:, :, :context].transpose(1, 2).flatten(1)], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        start = 1 + self.counts[2]
        own = self.bias + context[:, :1] + item[..., 0] + inner(context[:, start:], item[..., start:])
        if pair is None or not len(self.pair):
            return own
        met = self.pair[:, 0] + context[:, None, 1:start] + item[..., 1:start] + pair @ self._meet().T
        return own + (pair * met).sum(-1)

    def _meet(self) -> Tensor:
        """(p, p): what each two pair features meet with, once."""
        vectors = self._pair_vectors()[:, sum(self.counts[:2]) :]  # (p, p, k): the pair features' for each other
        return (vectors * vectors.transpose(0, 1)).sum(2).triu(1)

    def form(self) -> Form:
        """One inner product, as ``combine`` has it."""
        start, linear = 1 + self.counts[2], self.pair[:, 0]

        def context(state: Tensor) -> Tensor:
            own, met, vectors = state[:, :1], state[:, 1:start], state[:, start:]
            return torch.cat([own, torch.ones_like(own), vectors, linear + met], 1)

        def item(state: Tensor) -> Tensor:
            own, met, vectors = state[:, :1], state[:, 1:start], state[:, start:]
            return torch.cat([torch.ones_like(own), own + self.bias, vectors, met], 1)

        context_fields, item_fields, _ = self.counts
        return Form.shallow(2 + context_fields * item_fields * self.model.dim, context, item, self._meet())

    def tables(self) -> list[Tensor]:
        """Every field table, linear weights among them: all parameters but the bias."""
        return [*super().tables(), self.pair]
