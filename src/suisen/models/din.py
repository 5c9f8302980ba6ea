"""DIN, deep interest network (Zhou et al. 2018): the candidate decides which items of the history count, beside DeepFM.

An item's vector e is the sum of its fields' vectors (id, category, …), the same for candidates and for histories.  The
*activation unit* weighs each item j of the history against the candidate v (section 4.3 of the paper):

    z_j = W [e_j; v; e_j − v; e_j ⊙ v] + b,   a_j = w · PReLU(z_j) + w₀,   interest = Σ_j a_j e_j.

The weights are no softmax, as in the paper: their sum says how strong an interest is.  The interest goes into the deep
net: score = FM(fields) + MLP([fields of context; fields of item; interest; pair features]).

W's four blocks make z_j = (W₁ + W₃ + W₄ diag(v)) e_j + (W₂ − W₃) v + b: one (a × (k + 1)) matrix per candidate, made
once, which meets the history in a matrix product.  State of a context: DeepFM's 1 + k + h₁ floats and 1 + L·k more (the
history's vectors and how many there are); of an item: DeepFM's.  Cost left per pair, for L items of history:
a·k + L·(a·(k + 1) + a + k) multiply-adds for the interest (50 items, a = 36, k = 16: 33,000; the deep net with layers
of 128 and 64 has 10,000), k·h₁ to take it in, and what DeepFM leaves.  This is no form that kernels compile
(see ``form.py``): a server combines it on torch.
"""

from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Contexts, Schema
from suisen.data.ragged import Ragged
from suisen.models.contract import hyper_parameters
from suisen.models.field_ranker import DeepRanker, FieldRankerNet
from suisen.models.fm import FMCore
from suisen.models.layers import SplitMLP
from suisen.models.tables import distinct, lookup
from suisen.parameters import After, Search

FLOATS_PER_CHUNK = 2**20
"""Numbers of the activation unit's hidden layer that are computed at a time: 4 MB, near a core's caches."""


@hyper_parameters
class DIN(DeepRanker):
    """Attention of the candidate over the history beside a factorisation machine and a deep net.

    Loss: ``loss`` over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
    every context and scores every item: what it does not know by its id it knows by features and history.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(ranker=su.DIN(dim=4, hidden=(8,), epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    attention: Annotated[int, Field(ge=1, le=1024), Search(choices=(16, 36, 64)), After("dim")] = 36
    """a, the width of the activation unit's hidden layer."""
    history: Annotated[int, Field(ge=0, le=200)] = 50
    """Most items of history that the candidate is held against, and whose mean is one more field; 0: none."""
    batch_size: Annotated[int, Field(ge=2)] = 256

    def build(self, schema: Schema) -> "DINNet":
        """DeepFM's tables and nets, and the activation unit."""
        return DINNet(self, schema)


class ActivationUnit(nn.Module):
    """What a candidate makes of a history: the sum of its items' vectors, each times its weight for this candidate."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.first = nn.Linear(4 * dim, width)
        """W and b; the columns in the order [history's item; candidate; difference; product]."""
        self.activation = nn.PReLU()
        self.last = nn.Linear(width, 1)

    def forward(self, past: Tensor, counts: Tensor, candidates: Tensor) -> Tensor:
        """(B, C, k) interests of (B, L, k) histories, of whose rows the first ``counts`` (B,) are there, in candidates
        (B or 1, C, k).
        """
        there = torch.arange(past.shape[1], device=past.device) < counts[:, None]  # (B, L)
        past = torch.cat([past, past.new_ones(*past.shape[:2], 1)], 2) * there.unsqueeze(2)  # a 1 that meets the shift
        step = max(1, FLOATS_PER_CHUNK // max(1, past.shape[0] * past.shape[1] * self.width))
        return torch.cat([self._interests(past, part) for part in torch.split(candidates, step, 1)], 1)

    def _interests(self, past: Tensor, candidates: Tensor) -> Tensor:
        (rows, length), count = past.shape[:2], candidates.shape[1]
        own, other, apart, both = torch.split(self.first.weight, self.dim, 1)
        matrix = own + apart + both * candidates.unsqueeze(2)  # (B or 1, C, a, k)
        shift = F.linear(candidates, other - apart, self.first.bias)  # (B or 1, C, a)
        whole = torch.cat([matrix, shift.unsqueeze(3)], 3).flatten(1, 2)  # (B or 1, C·a, k + 1)
        hidden = F.linear(past, whole[0]) if len(whole) == 1 else past @ whole.transpose(1, 2)  # (B, L, C·a)
        hidden = self.activation(hidden).view(rows, length, count, self.width)
        weights = self.last(hidden).squeeze(3)  # (B, L, C); what is not there has a vector of 0, whatever its weight
        return weights.transpose(1, 2) @ past[..., : self.dim]


class DINNet(FieldRankerNet):
    """A side's state is DeepFM's; the context's goes on with how many items it has and their vectors, (L, k)."""

    no_graph: ClassVar[str] = (
        "it looks up each different item of a batch's histories once, and a graph cannot know how many"
    )

    def __init__(self, model: DIN, schema: Schema) -> None:
        super().__init__(model)
        self.core = FMCore(schema, model.dim, (model.history, model.recent))
        self.unit = ActivationUnit(model.dim, model.attention)
        fields = self.core.context.count * model.dim, self.core.item.count * model.dim
        self.deep = SplitMLP((*fields, model.dim + len(schema.pair)), model.hidden, model.dropout, model.batch_norm)
        self.out = nn.Linear(self.deep.out, 1, bias=False)

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, 1 + k + h₁ + 1 + L·k)."""
        side, vectors = self.core.of_context(contexts, self.model.hide_ids)
        return torch.cat([side, self.deep.context(vectors.flatten(1)), *self._past(contexts.history)], 1)

    def _past(self, history: Ragged) -> tuple[Tensor, Tensor]:
        """(B, 1) how many of the newest L items are items, and (B, L·k) their vectors, zeros behind them."""
        length, dim = self.model.history, self.model.dim
        past = history.last(length)
        past = past.keep(past.values > 0)
        ids, where, _ = distinct(past.values, len(self.items))
        vectors = self.core.item(*self.rows(ids))[..., 1:].sum(1)  # (n, F, 1 + k) -> (n, k)
        out = vectors.new_zeros((len(past), length, dim))
        out[past.mask(length)] = lookup(vectors, where, padding=False)
        return past.lengths[:, None].to(out.dtype), out.flatten(1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, 1 + k + h₁)."""
        side, vectors = self.core.of_item(*self.rows(ids), self.model.hide_ids)
        return torch.cat([side, self.deep.item(vectors.flatten(1))], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        cut, dim, length = 1 + self.core.dim, self.core.dim, self.model.history
        of_context, deep_context, count, past = torch.split(context, [cut, self.deep.width, 1, length * dim], -1)
        of_item, deep_item = torch.split(item, [cut, self.deep.width], -1)
        candidates = of_item[..., 1:]  # the sums of the items' field vectors
        interest = self.unit(past.reshape(len(past), length, dim), count.squeeze(1), candidates)  # (B, C, k)
        features = len(self.core.pair)
        if features and pair is None:
            pair = context.new_zeros((*interest.shape[:2], features))
        of_pair = interest if pair is None or not features else torch.cat([interest, pair], 2)
        shallow = self.core(of_context, of_item, pair)
        return shallow + self.out(self.deep(deep_context, deep_item, of_pair, weights)).squeeze(-1)

    def tables(self) -> list[Tensor]:
        """The core's."""
        return self.core.tables()
