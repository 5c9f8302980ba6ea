"""DCN-v2 (Wang et al. 2021): explicit feature crosses layer by layer, beside or below a deep net.

x₀ = [field vectors of context; of item; pair features], x_{l+1} = x₀ ⊙ (W_l x_l + b_l) + x_l: after L layers all
products of up to L + 1 features.  W_l is full (d₀ × d₀) or of low rank, U_l V_lᵀ with (d₀ × r) factors.  Parallel:
score = w · [x_L; MLP(x₀)]; stacked: score = w · MLP(x_L).

What a first layer does to x₀ = [c; i; p] is a sum, W₀ c + W₀ i + W₀ p, and so is the deep net's when parallel: both are
in the sides' states, d_c + d₀ + h₁ and d_i + d₀ + h₁ floats.  Cost left per pair: d₀ + (L − 1)·d₀² multiply-adds (low
rank: (L − 1)·2·d₀·r) for the crosses and h₁·h₂ + h₂·h₃ + … for the deep net, stacked d₀·h₁ more.
"""

from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Contexts, Schema
from suisen.models.contract import hyper_parameters
from suisen.models.field_ranker import DeepRanker, FieldRankerNet
from suisen.models.form import Form
from suisen.models.layers import ContextVectors, ItemVectors, SplitMLP, retrieval_prior
from suisen.parameters import After, Search


@hyper_parameters
class DCNv2(DeepRanker):
    """Deep and cross network, second version: learnt feature crosses and a deep net, logistic loss.

    Loss: ``loss`` over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
    every context and scores every item: what it does not know by its id it knows by features and history.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(ranker=su.models.DCNv2(dim=4, hidden=(8,), epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    crosses: Annotated[int, Field(ge=1, le=16), Search(choices=(1, 2, 3, 4)), After("dim")] = 2
    """L, the number of cross layers; products of up to L + 1 features."""
    rank: Annotated[int, Field(ge=0)] = 0
    """r of the cross layers' matrices; 0: full."""
    structure: Literal["parallel", "stacked"] = "parallel"
    """Whether the deep net reads x₀ beside the crosses or what the crosses made of it."""

    def build(self, schema: Schema) -> "DCNv2Net":
        """Field tables, cross layers and the deep net."""
        return DCNv2Net(self, schema)


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


class DCNv2Net(FieldRankerNet):
    """A side's state: its part of x₀, of W₀ x₀ (b₀ with the context), and if parallel of the deep net's first layer."""

    def __init__(self, model: DCNv2, schema: Schema) -> None:
        super().__init__(model)
        self.context = ContextVectors(schema, model.dim, (model.history, model.recent))
        self.item = ItemVectors(schema, model.dim)
        parts = self.context.count * model.dim, self.item.count * model.dim, len(schema.pair)
        width = sum(parts)
        self.of_context = slice(0, parts[0])  # columns of x₀
        self.of_item = slice(parts[0], parts[0] + parts[1])
        self.of_pair = slice(parts[0] + parts[1], width)
        self.crosses: Any = nn.ModuleList(CrossLayer(width, model.rank) for _ in range(model.crosses))
        self.stacked = model.structure == "stacked"
        self.deep = SplitMLP((0, 0, width) if self.stacked else parts, model.hidden, model.dropout, model.batch_norm)
        self.out = nn.Linear(self.deep.out + (0 if self.stacked else width), 1)
        self.order = nn.Parameter(retrieval_prior(schema))

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, d_c + d₀), when parallel + h₁."""
        x = self.context(contexts, self.model.hide_ids).flatten(1)
        state = [x, self.crosses[0].linear(x, self.of_context, bias=True)]
        return torch.cat(state if self.stacked else [*state, self.deep.context(x)], 1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, d_i + d₀), when parallel + h₁."""
        x = self.item(*self.rows(ids), self.model.hide_ids).flatten(1)
        state = [x, self.crosses[0].linear(x, self.of_item)]
        return torch.cat(state if self.stacked else [*state, self.deep.item(x)], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        width = self.of_pair.stop  # d₀
        deep = 0 if self.stacked else self.deep.width
        c, c_crossed, c_deep = torch.split(context, [self.of_context.stop, width, deep], 1)
        i, i_crossed, i_deep = torch.split(item, [self.of_item.stop - self.of_item.start, width, deep], 2)
        rows = context.shape[0], item.shape[1]
        if pair is None and len(self.order):
            pair = context.new_zeros((*rows, len(self.order)))
        extra = [] if pair is None or not len(self.order) else [pair]
        first = torch.cat([c.unsqueeze(1).expand(*rows, -1), i.expand(*rows, -1), *extra], 2)  # x₀: (B, C, d₀)
        crossed = c_crossed.unsqueeze(1) + i_crossed  # W₀ x₀ + b₀: (B, C, d₀), from the sides' states
        if extra:
            crossed = crossed + self.crosses[0].linear(extra[0], self.of_pair)
        x = torch.addcmul(first, first, crossed)  # x₁ = x₀ ⊙ (W₀ x₀ + b₀) + x₀
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

    def form(self) -> Form | None:
        """Parallel: the deep net beside all products of two features; exact with one cross layer.  Stacked: None.

        Without products of three, x_l = s_l ∘ x₀ with s_l = 1 + b_0 + … + b_{l−1}, and the crosses' part of the score
        is x₀ᵀ M x₀ + q · x₀ with M = diag(w) Σ_l W_l diag(s_l) and q = w ∘ s_L.
        """
        if self.stacked:
            return None
        with torch.no_grad():
            width, out = self.of_pair.stop, self.out.weight[0]
            square, scale, eye = out.new_zeros((width, width)), out.new_ones(width), torch.eye(width).to(out)
            for layer in self.crosses:
                square += layer.linear(eye, slice(None)).T * scale
                scale = scale + layer.outwards.bias
            square, linear = out[:width, None] * square, out[:width] * scale
        return self._quadratic(square, linear).beside(self.deep, out[width:])

    def _quadratic(self, square: Tensor, linear: Tensor) -> Form:
        """The form of x₀ᵀ M x₀ + q · x₀, the bias and the pair features' direct way; the deep net's part is kept."""
        both, width = square + square.T, self.of_pair.stop
        c, i, p = self.of_context, self.of_item, self.of_pair
        inner = min(c.stop, i.stop - i.start)
        from_context = inner < c.stop  # the product of the sides is written with the smaller one's numbers

        def own(x: Tensor, part: slice) -> Tensor:
            return ((x @ square[part, part] + linear[part]) * x).sum(1, keepdim=True)

        def context(state: Tensor) -> Tensor:
            x = state[:, : c.stop]
            u = x @ both[c, i] if from_context else x
            alpha = linear[p] + self.order + x @ both[c, p]
            return torch.cat([own(x, c), torch.ones_like(x[:, :1]), u, alpha, state[:, c.stop + width :]], 1)

        def item(state: Tensor) -> Tensor:
            count = i.stop - i.start
            x = state[:, :count]
            v = x if from_context else x @ both[i, c]
            mine = own(x, i) + self.out.bias
            return torch.cat([torch.ones_like(mine), mine, v, x @ both[i, p], state[:, count + width :]], 1)

        gamma = both[p, p].triu(1) + square[p, p].diag().diag()
        return Form.shallow(2 + inner, context, item, gamma, exact=len(self.crosses) == 1)
