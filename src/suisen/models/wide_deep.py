"""Wide & Deep (Cheng et al. 2016): a linear model that memorises, a deep net that generalises, trained together.

score = w·x + Σ_crosses w_φ·φ(x) + MLP([fields of context; fields of item; pair features]).

φ is a cross of two fields: 1 where both take given values (AND).  Of a multi-valued field or a history each value
counts by its share, so that a cross with "the last 50 items" is the mean over 50 crosses with one item.  Each part has
its own optimiser: FTRL-proximal with L1 (McMahan et al. 2013) for the wide one, whose useless weights become exactly
0, and Adam for the deep one.

Cost left per pair: h₁·h₂ + h₂·h₃ + … multiply-adds of the deep net, and of each cross between a context's field of v
values and an item's of w values v·w reads of the table at random places (8 bytes each with the index).  Crosses inside
one side are that side's own.  FTRL reads and writes each wide weight, its gradient and two sums in every step: 24
bytes per weight.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator
from pydantic import Field as Bounds
from torch import Tensor, nn
from torch.optim import Optimizer

from suisen.data.batch import Contexts, Features, Field, Schema
from suisen.data.ragged import Ragged
from suisen.errors import InputError, unknown
from suisen.models.contract import Phase, hyper_parameters
from suisen.models.field_ranker import DeepRanker, FieldRankerNet
from suisen.models.form import Form, additive
from suisen.models.layers import ContextVectors, ItemVectors, SplitMLP, adam, retrieval_prior, shares
from suisen.models.tables import lookup
from suisen.parameters import After, Search

MOST_CODES = 2**24
"""Codes travel inside the states, as float32: whole numbers up to here are exact."""
MOST_MULTI = 1024
"""Largest multi-valued field that can be crossed: its state is dense."""


def _two(pair: Any) -> Any:
    """A pair that is written as one text, user*item, as its two names; anything else as it is."""
    text = pair[0] if isinstance(pair, list | tuple) and len(pair) == 1 else pair
    return tuple(name.strip() for name in text.split("*")) if isinstance(text, str) and "*" in text else pair


@hyper_parameters
class WideDeep(DeepRanker):
    """Linear terms and declared crosses beside a deep net, logistic loss; without hidden layers logistic regression.

    Loss: ``loss`` over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
    every context and scores every item: what it does not know by its id it knows by features and history.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> ranker = su.models.WideDeep(crosses=[("user", "item")], dim=4, hidden=(8,), epochs=1)
    >>> recommender = su.Recommender(ranker=ranker).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    crosses: Annotated[tuple[Annotated[tuple[str, str], BeforeValidator(_two)], ...], After("")] = ()
    """Pairs of fields that the wide part crosses, like user*item: names of features, user, item, history; user.name
    where a user's and an item's feature have one name."""
    buckets: Annotated[int, Bounds(ge=1, le=MOST_CODES)] = 2**18
    """Most weights per cross; a cross of more combinations is hashed into so many."""
    hidden: tuple[Annotated[int, Bounds(ge=1)], ...] = (128, 64)
    """Widths of the deep net's layers; none: the wide part alone, logistic regression."""
    l2: Annotated[float, Bounds(ge=0), Search(1e-6, 1e-1, log=True)] = 1e-6
    """λ: half of it times the squared norm of the deep net's field tables is added to each batch's loss."""
    wide_rate: Annotated[float, Bounds(gt=0, le=10), Search(1e-2, 1.0, log=True), After("l2")] = 0.1
    """α of FTRL, the wide part's step."""
    l1: Annotated[float, Bounds(ge=0)] = 1e-4
    """λ₁ of FTRL: wide weights whose summed gradients stay below it are 0."""
    learning_rate: Annotated[float, Bounds(gt=0, le=1), Search(1e-4, 1e-2, log=True)] = 1e-3
    """Step of Adam, for the deep net."""

    def build(self, schema: Schema) -> "WideDeepNet":
        """Both parts.  Raises InputError for a cross of fields that are not there or cannot be crossed."""
        return WideDeepNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """One phase with two optimisers."""
        return [Phase(net, self._optimisers, self.epochs)]

    def _optimisers(self, module: Any) -> list[Optimizer]:
        wide = FTRL(module.wide.parameters(), self.wide_rate, self.l1)
        return [wide, *([] if module.deep is None else adam(self.learning_rate)(module.deep))]


# -- the wide part's optimiser ----------------------------------------------------------------------------------------


class FTRL(Optimizer):
    """FTRL-proximal (McMahan et al. 2013, algorithm 1) with per-coordinate steps α / (β + √Σg²) and L1.

    w = 0 where |z| ≤ λ₁, else (sign(z)·λ₁ − z) · α / (β + √n); n sums g², z sums g less what moving the step size would
    change.  The linear terms z begin so that the first weights are the initial ones.
    """

    def __init__(self, weights: Iterable[Tensor], rate: float, l1: float = 0.0, beta: float = 1e-3) -> None:
        super().__init__(list(weights), {"lr": rate, "l1": l1, "beta": beta})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; weights without a gradient stay."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._step(weight, weight.grad, **group)

    def _step(self, weight: Tensor, grad: Tensor, lr: float, l1: float, beta: float, **_: Any) -> None:
        state = self.state[weight]
        if not state:
            state["n"] = torch.zeros_like(weight)
            state["z"] = -weight * (beta / lr) - weight.sign() * l1
        n, z = state["n"], state["z"]
        before = n.sqrt()
        n.addcmul_(grad, grad)  # n ← n + g²
        root = n.sqrt()
        z.add_(grad).addcmul_((root - before) / lr, weight, value=-1)  # z ← z + g − (√n′ − √n) / α · w
        weight.copy_(torch.nn.functional.softshrink(z, l1) * -lr / (beta + root))


# -- crosses ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crossed:
    """A field as crosses read it: ``width`` numbers per row, which travel in its side's state.

    Ids, categorical fields and histories give codes (0: nothing); a multi-valued field gives the share of each code.
    """

    name: str
    owner: str
    """user, context or item."""
    kind: str
    """id, categorical, multi or history."""
    size: int
    """Codes, 0 included."""
    width: int
    column: int = 0
    """Place among the owner's features of this kind."""

    @property
    def of_item(self) -> bool:
        """Whether it belongs to the item's side."""
        return self.owner == "item"

    def read(self, ids: Tensor, features: Features, history: Ragged | None) -> Tensor:
        """(n, width) of n rows of its owner."""
        if self.kind == "multi":
            return _dense(features.multi[self.column], self.size)
        if self.kind == "history" and history is not None:
            codes = history.last(self.width).padded(self.width)
        else:
            codes = ids[:, None] if self.kind == "id" else features.categorical[:, self.column, None]
        return torch.where(codes > 0, (codes - 1) % (MOST_CODES - 1) + 1, 0)

    def values(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Codes and their shares, both (…, width), of the (…, width) that ``read`` gave."""
        if self.kind == "multi":
            return torch.arange(1, self.size, device=state.device), state
        there = (state > 0).to(state.dtype)
        return state.detach().long(), there / there.sum(-1, keepdim=True).clamp(min=1)


def _dense(bags: Ragged, size: int) -> Tensor:
    """(n, size − 1): each code's share of its row's weight."""
    flat = torch.zeros(len(bags) * size, device=bags.values.device)
    return flat.index_add_(0, bags.keys(size), shares(bags)).view(len(bags), size)[:, 1:]


def crossable(schema: Schema, history: int) -> dict[str, Crossed | str]:
    """By name, and by ``owner.name``: each field, or why it cannot be crossed."""
    found: dict[str, Crossed | str] = {"user": Crossed("user", "user", "id", schema.n_users, 1)}
    found["item"] = Crossed("item", "item", "id", schema.n_items, 1)
    if history:
        found["history"] = Crossed("history", "user", "history", schema.n_items, history)
    names = [field.name for fields in (schema.user, schema.context, schema.item) for field in fields]
    for owner, fields in (("user", schema.user), ("context", schema.context), ("item", schema.item)):
        seen: dict[str, int] = {}
        for field in fields:
            one = _crossed(owner, field, seen.get(field.kind, 0))
            seen[field.kind] = seen.get(field.kind, 0) + 1
            found[f"{owner}.{field.name}"] = one
            if field.name not in found:
                twice = f"{field.name!r} names several fields; write {owner}.{field.name}"
                found[field.name] = one if names.count(field.name) == 1 else twice
    return found


def _crossed(owner: str, field: Field, column: int) -> Crossed | str:
    if field.kind == "numeric":
        return f"{field.name!r} is numeric; cross a categorical field, say of its ranges"
    if field.kind == "multi" and field.size > MOST_MULTI:
        return f"{field.name!r} has {field.size - 1:,} values, more than {MOST_MULTI:,}; cross a smaller field"
    return Crossed(field.name, owner, field.kind, field.size, field.size - 1 if field.kind == "multi" else 1, column)


class Cross(nn.Module):
    """One weight for each pair of values of two fields; pairs are hashed where they are more than ``buckets``."""

    def __init__(self, left: Crossed, right: Crossed, buckets: int) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.hashed = left.size * right.size > buckets
        self.weight = nn.Parameter(torch.zeros(buckets if self.hashed else left.size * right.size, 1))

    def places(self, left: Tensor, right: Tensor) -> Tensor:
        """Rows of the table for codes of any one shape."""
        if not self.hashed:
            return left * self.right.size + right
        mixed = left * 0x9E3779B97F4A7C1 + right * 0x85EBCA77C2B2AE3  # int64 wraps around
        mixed = (mixed ^ (mixed >> 29)) * 0x165667B19E3779F
        return (mixed ^ (mixed >> 32)) % len(self.weight)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """(…) of what the two fields' ``read`` gave, (…, v) and (…, w), broadcast."""
        (a, share), (b, other) = self.left.values(left), self.right.values(right)
        weights = lookup(self.weight, self.places(a.unsqueeze(-1), b.unsqueeze(-2)), padding=False).squeeze(-1)
        return (weights * share.unsqueeze(-1) * other.unsqueeze(-2)).sum((-2, -1))  # (…, v, w) -> (…)


def crosses_of(model: WideDeep, schema: Schema) -> list[Cross]:
    """The declared crosses, the context's field first.  Raises InputError naming the field and what there is."""
    known = crossable(schema, model.history)
    made = []
    for pair in model.crosses:
        found = []
        for name in pair:
            one = known.get(name)
            if one is None:
                raise unknown("WideDeep: field of crosses", name, known)
            if isinstance(one, str):
                raise InputError(f"WideDeep: crosses = {pair!r}: {one}")
            found.append(one)
        if found[0] == found[1]:
            raise InputError(f"WideDeep: crosses = {pair!r} crosses a field with itself; name two fields")
        left, right = sorted(found, key=lambda one: one.of_item)
        made.append(Cross(left, right, model.buckets))
    return made


# -- the parts --------------------------------------------------------------------------------------------------------


class Wide(nn.Module):
    """Linear terms of all fields, and the crosses.

    A cross inside one side is part of that side's sum.  A *mixed* cross joins a field of the context with one of the
    item, so both values must reach ``forward``: a side's state is [its own sum, those of its fields that mixed crosses
    read].
    """

    def __init__(self, model: WideDeep, schema: Schema) -> None:
        super().__init__()
        self.context = ContextVectors(schema, 1, (model.history, model.recent), std=0.0)
        self.item = ItemVectors(schema, 1, std=0.0)
        self.bias = nn.Parameter(torch.zeros(()))
        self.pair = nn.Parameter(retrieval_prior(schema))
        crosses = crosses_of(model, schema)
        self.crosses: Any = nn.ModuleList(crosses)
        mixed = [cross for cross in crosses if cross.right.of_item and not cross.left.of_item]
        of_context = list(dict.fromkeys(cross.left for cross in mixed))
        of_item = list(dict.fromkeys(cross.right for cross in mixed))
        self.reads = [of_context, of_item]
        self.widths = [1 + sum(one.width for one in reads) for reads in self.reads]

    def of_context(self, contexts: Contexts) -> Tensor:
        """(B, widths[0])."""
        rows = {"user": contexts.user_features, "context": contexts.context_features}
        linear = self.context(contexts).sum((1, 2))
        return self._side(linear, 0, lambda one: one.read(contexts.user, rows[one.owner], contexts.history))

    def of_item(self, ids: Tensor, features: Features) -> Tensor:
        """(n, widths[1]) of known ids and their features."""
        return self._side(self.item(ids, features).sum((1, 2)), 1, lambda one: one.read(ids, features, None))

    def _side(self, linear: Tensor, item: int, read: Callable[[Crossed], Tensor]) -> Tensor:
        for cross in self.crosses:
            if cross.left.of_item == cross.right.of_item == bool(item):
                linear = linear + cross(read(cross.left).to(linear.dtype), read(cross.right).to(linear.dtype))
        return torch.cat([linear[:, None], *(read(one).to(linear.dtype) for one in self.reads[item])], 1)

    def forward(self, context: Tensor, item: Tensor, pair: Tensor | None) -> Tensor:
        """(B, C) of (B, widths[0]) and (B or 1, C, widths[1]) states and (B, C, p) pair features."""
        context = context.unsqueeze(1)
        score = self.bias + context[..., 0] + item[..., 0]
        if pair is not None and self.pair.numel():
            score = score + pair @ self.pair
        given = {**self._cut(context, 0), **self._cut(item, 1)}
        for cross in self.crosses:
            if cross.left.of_item != cross.right.of_item:
                score = score + cross(given[cross.left], given[cross.right])
        return score

    def _cut(self, state: Tensor, item: int) -> dict[Crossed, Tensor]:
        parts = torch.split(state[..., 1:], [one.width for one in self.reads[item]], -1)
        return dict(zip(self.reads[item], parts, strict=True))


class Deep(nn.Module):
    """Field vectors and the deep net."""

    def __init__(self, model: WideDeep, schema: Schema) -> None:
        super().__init__()
        self.context = ContextVectors(schema, model.dim, (model.history, model.recent))
        self.item = ItemVectors(schema, model.dim)
        widths = self.context.count * model.dim, self.item.count * model.dim, len(schema.pair)
        self.net = SplitMLP(widths, model.hidden, model.dropout, model.batch_norm)
        self.out = nn.Linear(self.net.out, 1, bias=False)


class WideDeepNet(FieldRankerNet):
    """A side's state: the wide part's and, behind it, its part of the deep net's first layer (h₁)."""

    def __init__(self, model: WideDeep, schema: Schema) -> None:
        super().__init__(model)
        self.wide = Wide(model, schema)
        self.deep = Deep(model, schema) if model.hidden else None

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, wide + h₁)."""
        wide = self.wide.of_context(contexts)
        if self.deep is None:
            return wide
        fields = self.deep.context(contexts, self.model.hide_ids)
        return torch.cat([wide, self.deep.net.context(fields.flatten(1))], 1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, wide + h₁)."""
        known, features = self.rows(ids)
        wide = self.wide.of_item(known, features)
        if self.deep is None:
            return wide
        fields = self.deep.item(known, features, self.model.hide_ids)
        return torch.cat([wide, self.deep.net.item(fields.flatten(1))], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        cuts = self.wide.widths
        wide = self.wide(context[..., : cuts[0]], item[..., : cuts[1]], pair)
        if self.deep is None:
            return wide
        deep = self.deep.net(context[..., cuts[0] :], item[..., cuts[1] :], pair, weights)
        return wide + self.deep.out(deep).squeeze(-1)

    def form(self) -> Form:
        """The sums of the sides beside the deep net: all but the crosses of a context's field and an item's, whose
        weights are looked up pair by pair.
        """
        rest = [slice(width, None) for width in self.wide.widths]
        wide = additive(self.wide.bias, self.wide.pair, own=1)
        whole = replace(
            wide,
            context=lambda state: wide.context(torch.cat([state[:, :1], state[:, rest[0]]], 1)),
            item=lambda state: wide.item(torch.cat([state[:, :1], state[:, rest[1]]], 1)),
            exact=self.wide.widths == [1, 1],
        )
        return whole if self.deep is None else whole.beside(self.deep.net, self.deep.out.weight[0])

    def tables(self) -> list[Tensor]:
        """The deep net's; the wide part's weights are kept small by FTRL's L1."""
        return [] if self.deep is None else [*self.deep.context.parameters(), *self.deep.item.parameters()]
