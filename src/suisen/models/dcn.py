"""DCN-v2 (Wang et al. 2021): explicit feature crosses layer by layer, beside or below a deep net.

x₀ = [field vectors of context; of item; pair features], x_{l+1} = x₀ ⊙ (W_l x_l + b_l) + x_l: after L layers all
products of up to L + 1 features.  W_l is full (d₀ × d₀) or of low rank, U_l V_lᵀ with (d₀ × r) factors.  Parallel:
score = w · [x_L; MLP(x₀)]; stacked: score = w · MLP(x_L).

What a first layer does to x₀ = [c; i; p] is a sum, W₀ c + W₀ i + W₀ p, and so is the deep net's when parallel: both are
in the sides' states, d_c + d₀ + h₁ and d_i + d₀ + h₁ floats.  Cost left per pair: d₀ + (L − 1)·d₀² multiply-adds (low
rank: (L − 1)·2·d₀·r) for the crosses and h₁·h₂ + h₂·h₃ + … for the deep net, stacked d₀·h₁ more.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.views import Rows, View
from suisen.models.contract import Ability, Phase, Ranker, hyper_parameters
from suisen.models.layers import ContextVectors, ItemVectors, SplitMLP, adam, square_norm
from suisen.models.losses import of_rows
from suisen.parameters import Search


@hyper_parameters
class DCNv2:
    """Deep and cross network, second version: learnt feature crosses and a deep net, logistic loss."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users", "new items", "history", "features"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(8, 16, 32))] = 16
    """Length of a field's vector."""
    crosses: Annotated[int, Field(ge=1, le=16), Search(choices=(1, 2, 3, 4))] = 2
    """L, the number of cross layers; products of up to L + 1 features."""
    rank: Annotated[int, Field(ge=0)] = 0
    """r of the cross layers' matrices; 0: full."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the deep net reads x₀ beside the crosses or what the crosses made of it."""
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

    def build(self, schema: Schema) -> DCNv2Net:
        """Field tables, cross layers and the deep net."""
        return DCNv2Net(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam."""
        return [Phase(net, adam(self.learning_rate), self.epochs)]


class CrossLayer(nn.Module):
    """x ↦ x₀ ⊙ (W x + b) + x, W full or U Vᵀ."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.inwards = nn.Linear(width, rank, bias=False) if rank else None
        self.outwards = nn.Linear(rank or width, width)

    def linear(self, x: Tensor, columns: slice, bias: bool = False) -> Tensor:
        """(…, width): W[:, columns] x, plus b where asked; x holds those columns alone."""
        shift = self.outwards.bias if bias else None
        if self.inwards is None:
            return F.linear(x, self.outwards.weight[:, columns], shift)
        return F.linear(F.linear(x, self.inwards.weight[:, columns]), self.outwards.weight, shift)

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """x_{l+1} of x₀ and x_l, all (…, width)."""
        inner = x if self.inwards is None else self.inwards(x)
        return torch.addcmul(x, first, self.outwards(inner))


class DCNv2Net(Ranker):
    """A side's state: its part of x₀, of W₀ x₀ (b₀ with the context), and if parallel of the deep net's first layer."""

    def __init__(self, model: DCNv2, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.context = ContextVectors(schema, model.dim, (model.history, model.recent))
        self.item = ItemVectors(schema, model.dim)
        parts = self.context.count * model.dim, self.item.count * model.dim, len(schema.pair)
        width = sum(parts)
        ends = parts[0], parts[0] + parts[1]
        self.of_context, self.of_item, self.of_pair = slice(0, ends[0]), slice(*ends), slice(ends[1], width)
        self.crosses = nn.ModuleList(CrossLayer(width, model.rank) for _ in range(model.crosses))
        self.stacked = model.structure == "stacked"
        self.deep = SplitMLP((0, 0, width) if self.stacked else parts, model.hidden, model.dropout, model.batch_norm)
        self.out = nn.Linear(self.deep.out + (0 if self.stacked else width), 1)
        first = torch.tensor([float(name == "retrieval_score") for name in schema.pair])
        self.order = nn.Parameter(first)  # a second stage starts from the order of the first

    @property
    def _first(self) -> CrossLayer:
        layer: Any = self.crosses[0]
        return layer

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, d_c + d₀), when parallel + h₁."""
        x = self.context(contexts, self.model.hide_ids).flatten(1)
        state = [x, self._first.linear(x, self.of_context, bias=True)]
        return torch.cat(state if self.stacked else [*state, self.deep.context(x)], 1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, d_i + d₀), when parallel + h₁."""
        x = self.item(self.items.known(ids), self.items.features.take(ids), self.model.hide_ids).flatten(1)
        state = [x, self._first.linear(x, self.of_item)]
        return torch.cat(state if self.stacked else [*state, self.deep.item(x)], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        width, deep = self.of_pair.stop, 0 if self.stacked else self.deep.width
        c, c_crossed, c_deep = torch.split(context, [self.of_context.stop, width, deep], 1)
        i, i_crossed, i_deep = torch.split(item, [self.of_item.stop - self.of_item.start, width, deep], 2)
        rows = len(context), item.shape[1]
        if pair is None and len(self.order):
            pair = context.new_zeros((*rows, len(self.order)))
        extra = [] if pair is None or not len(self.order) else [pair]
        first = torch.cat([c.unsqueeze(1).expand(*rows, -1), i.expand(*rows, -1), *extra], 2)
        crossed = c_crossed.unsqueeze(1) + i_crossed
        if extra:
            crossed = crossed + self._first.linear(extra[0], self.of_pair)
        x = torch.addcmul(first, first, crossed)
        for layer in self.crosses[1:]:
            x = layer(first, x)
        score = self._read(x, c_deep, i_deep, extra[0] if extra else None, weights)
        return score + extra[0] @ self.order if extra else score

    def _read(self, x: Tensor, c: Tensor, i: Tensor, pair: Tensor | None, weights: Tensor | None) -> Tensor:
        """(B, C): the last layer over what the crosses and the deep net made."""
        if self.stacked:
            nothing = x.new_zeros((1, 0))
            hidden = self.deep(self.deep.context(nothing), self.deep.item(nothing).unsqueeze(0), x, weights)
            return self.out(hidden).squeeze(-1)
        hidden = self.deep(c, i, pair, weights)
        of_crosses, of_deep = torch.split(self.out.weight[0], [x.shape[-1], self.deep.out])
        return x @ of_crosses + hidden @ of_deep + self.out.bias

    def forward(self, batch: Batch) -> Tensor:
        """Softmax over each list (logistic loss of single candidates) plus l2/2 · the squared norm of the tables."""
        candidates, labels = batch.listed
        scores = self.score(batch.contexts, candidates, batch.weights)
        tables = [*self.context.parameters(), *self.item.parameters()]
        return of_rows(scores, labels, batch.weights) + self.model.l2 / 2 * square_norm(tables)
