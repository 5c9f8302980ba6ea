"""LightGCN (He et al. 2020): vectors of users and items, smoothed over the graph of who took what.

Nodes are users and items, A their symmetric 0/1 adjacency, D its degrees, Ã = D^-1/2 A D^-1/2.  E (n, d) is learnt; its
layers E_k = Ã E_(k−1) are averaged (eq. 3 and 8): F = (E + ÃE + … + Ã^K E) / (K + 1), computed as h ← E + Ãh, K times.
score(u, i) = F_u · F_i.

Losses, both plus λ/2 (|E_u|² + |E_i|² + |E_j|²):
* bpr: −log σ(F_u · F_i − F_u · F_j), i taken and j drawn (eq. 15).
* softmax: −log e^(cos(F_u, F_i) / τ) / Σ_j e^(cos(F_u, F_j) / τ), j shared uniform draws, or the items of the batch (Wu
  et al. 2022, On the Effectiveness of Sampled Softmax Loss for Item Recommendation).
The batch's items come as often as they are taken, so that the score loses what popularity tells.  On Gowalla that is
worth more than it costs (Recall@20 0.183); where popularity tells much the model falls below it (the shop of
benchmarks/defaults.py: NDCG@10 0.028, popularity 0.059, with uniform draws 0.075).  Hence uniform draws by default
(Gowalla, Recall@20 of 1,500 users after 2 epochs: 0.158).
After the softmax, too, the score is the inner product: the lengths that propagation gives the vectors are worth having
(Recall@20 0.189 against 0.144 by cosine on a tenth of Gowalla's train held out, after 4 epochs).

Cost.  No dense adjacency and no sparse matrix type: row u of ÃX is a weighted sum of the rows of X at u's neighbours,
``embedding_bag``.  Gowalla's 70,841 nodes and 1.6 million neighbours of 64 floats take 10 ms so (CPU time of one
thread; a CSR product 24 ms on 32-bit indices); the product is memory-bound at 4·d bytes per neighbour.
Ã is symmetric, so a hop's gradient is a hop.  The loss reads F at the batch's users and items alone, so the last hop is
computed for those rows: with K = 1 a step touches the neighbours of 2,048 pairs, 1/7 of all, in 2 ms forward and 5 ms
back.  What is left of a step is the softmax, 3·r·u·d multiply-adds for the batch's r different users and u items
(23 ms), and one Adam over all nodes (3 ms).  Each further hop costs a whole product forward and one back, 20 ms.
"""

from dataclasses import replace
from functools import singledispatch
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged, offsets_of
from suisen.data.views import Pairs, View
from suisen.models.contract import Ability, OnePhase, Retriever, hyper_parameters
from suisen.models.contrastive import pool_softmax
from suisen.models.losses import bpr, weighted_mean
from suisen.models.tables import distinct, lookup, transposed_sums
from suisen.parameters import Search

SHARED = 1024
"""Uniform draws that a batch shares."""


@hyper_parameters
class LightGCN(OnePhase):
    """Vectors of users and items smoothed over the graph of who took what (He et al. 2020).

    Answers users and guests with a history, new ones without training: the history stands for the user's row of the
    graph; and known users without one, by their stored vectors.  For items that train has events of.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.LightGCN(dim=4, epochs=1)).fit(data)
    >>> recommender.recommend(users=[1, 2], k=5).shape
    (10, 4)
    """

    abilities: ClassVar[frozenset[Ability]] = frozenset({"history", "weights"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(32, 64, 128))] = 64
    """Length of a user or item vector."""
    layers: Annotated[int, Field(ge=1, le=8), Search(choices=(1, 2, 3))] = 1
    """K, how many hops a vector gathers from: one goes with the softmax, three with BPR in the paper."""
    loss: Literal["softmax", "bpr"] = "softmax"
    """softmax: what was taken against many others at once, by cosine; bpr: above each of its negatives."""
    negatives: Annotated[int | None, Field(ge=0, le=65536)] = None
    """softmax: uniform draws that a batch shares, 0: its own items; bpr: draws for each positive, 0 counts as 1; none:
    1,024 and 1."""
    temperature: Annotated[float, Field(gt=0), Search(0.05, 0.3, log=True)] = 0.12
    """τ of the softmax: the smaller, the harder the nearest negatives are pushed away."""
    l2: Annotated[float, Field(ge=0), Search(1e-6, 1e-3, log=True)] = 1e-5
    """λ: half of it weighs the squared norms of an example's own vectors E, as in the paper."""
    init: Annotated[float, Field(gt=0), Search(0.003, 0.1, log=True)] = 0.01
    """Standard deviation of the first vectors' elements; cosines turn the sooner the shorter the vectors are."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(3e-4, 1e-2, log=True)] = 1e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=2)] = 2048
    """Positives in a batch; fewer where an epoch would have fewer than 20 batches."""
    epochs: Annotated[int, Field(ge=1)] = 60
    """Most passes over the positives; with validation data training stops earlier."""

    @property
    def view(self) -> View:
        """Positives of known users; refusals are no edges and no examples."""
        count = max(1, self.negatives or 0) if self.loss == "bpr" else self.negatives
        count = SHARED if count is None else count
        return Pairs(self.batch_size, count, shared=self.loss == "softmax", features=False, labels=False)

    def build(self, schema: Schema) -> "LightGCNNet":
        """One table over all nodes, and what will serve."""
        return LightGCNNet(self, schema)


def graph_of(user: Tensor, item: Tensor, n_users: int, n_items: int) -> Ragged:
    """Ã, one row per node, users first: its neighbours, with weights 1 / √(degree · degree of the neighbour).

    ``user`` and ``item`` (m,) are the pairs of train; a pair that occurs again counts once.
    """
    pairs = torch.unique(user * n_items + item)
    user, item = torch.div(pairs, n_items, rounding_mode="floor"), pairs % n_items + n_users
    by_item = item.argsort(stable=True)  # pairs are in the order of users: so are the items' neighbours
    degree = torch.bincount(torch.cat([user, item]), minlength=n_users + n_items)
    neighbours = torch.cat([item, user[by_item]])
    offsets = offsets_of(degree)
    owner = torch.repeat_interleave(torch.arange(len(degree)), degree)
    weights = (degree[owner] * degree[neighbours]).float().rsqrt()
    return Ragged(neighbours, offsets, weights)


@singledispatch
def hop(graph: Ragged, x: Tensor) -> Tensor:
    """(rows, d): each row's weighted sum of ``x`` (n, d) over its neighbours."""
    return F.embedding_bag(
        graph.values, x, graph.offsets, mode="sum", per_sample_weights=graph.weights, include_last_offset=True
    )


def hops(graph: Ragged, x: Tensor, count: int) -> Tensor:
    """(n, d): x + Ãx + … + Ã^count x."""
    total = x
    for _ in range(count):
        total = hop(graph, total).add_(x)
    return total


class _Propagated(torch.autograd.Function):
    """Rows of E and of F.  F is linear in E and Ã symmetric: backward is the same hops, and nothing is kept for it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Ragged, layers: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        part = graph.take(rows)
        ctx.graph, ctx.layers, ctx.rows, ctx.part = graph, layers, rows, part
        own = x.index_select(0, rows)
        if layers == 0:
            return own, own.clone()
        return own, hop(part, hops(graph, x, layers - 1)).add_(own).div_(layers + 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        layers, graph, part = ctx.layers, ctx.graph, ctx.part
        of_own, of_out = grads[0], grads[1] / (layers + 1)
        n, d = len(graph), of_out.shape[1]
        if layers == 0:
            total = of_out.new_zeros((n, d))
        else:
            first = transposed_sums(of_out, part.values, part.offsets, part.weights, n)
            total = hops(graph, first, layers - 1)
        return total.index_add_(0, ctx.rows, of_own + of_out), None, None, None  # rows differ: nothing races


def propagated(x: Tensor, graph: Ragged, layers: int, rows: Tensor) -> tuple[Tensor, Tensor]:
    """(r, d) rows of E and (r, d) rows of F = (E + ÃE + … + Ã^layers E) / (layers + 1), for r different rows."""
    return _Propagated.apply(x, graph, layers, rows)  # type: ignore[no-untyped-call]


class LightGCNNet(Retriever):
    """Holds the graph while it trains; ``eval()`` computes and stores the vectors that serve.

    A history H stands for the user's row of A: F_u = (E_u + |H|^-1/2 Σ_(i in H) s_i) / (K + 1) with
    s_i = degree_i^-1/2 · (E + … + Ã^(K−1) E)_i.  Where H is what train holds of the user that *is* the trained vector;
    a new user has no E_u; who took more since training is answered by the longer history.  Items without an edge in
    train count for nothing; where none is left, the stored vector answers.
    """

    frozen: Tensor
    """(n, d) rows of F, zero where train has no edge."""
    sent: Tensor
    """(n_items, d) s_i / (K + 1)."""
    linked: Tensor
    """(n,) bool: nodes with an edge in train."""

    def __init__(self, model: LightGCN, schema: Schema) -> None:
        super().__init__()
        self.model, self.n_users = model, schema.n_users
        nodes = schema.n_users + schema.n_items
        self.nodes = nn.Parameter(torch.empty(nodes, model.dim))
        nn.init.normal_(self.nodes, std=model.init)
        self.register_buffer("frozen", torch.zeros(nodes, model.dim))
        self.register_buffer("sent", torch.zeros(schema.n_items, model.dim))
        self.register_buffer("linked", torch.zeros(nodes, dtype=torch.bool))

    def prepare(self, train: Dataset) -> None:
        """The graph of train's positives of known users, as buffers that are not saved."""
        taken = train.positive & (train.user > 0)
        graph = graph_of(train.user[taken], train.events.item[taken], self.n_users, train.schema.n_items)
        self.linked.copy_(graph.lengths > 0)
        self.register_buffer("neighbours", graph.values, persistent=False)
        self.register_buffer("offsets", graph.offsets, persistent=False)
        self.register_buffer("weights", graph.weights, persistent=False)

    @property
    def graph(self) -> Ragged:
        """Ã, where this network has been prepared."""
        return Ragged(self.get_buffer("neighbours"), self.get_buffer("offsets"), self.get_buffer("weights"))

    def train(self, mode: bool = True) -> Self:
        """On ``eval()`` computes the vectors that serve; a network from a bundle has no graph and keeps its own."""
        super().train(mode)
        if not mode and hasattr(self, "neighbours"):
            self._freeze()
        return self

    @torch.no_grad()
    def _freeze(self) -> None:
        graph, layers, users = self.graph, self.model.layers, self.n_users
        inner = hops(graph, self.nodes, layers - 1)
        self.frozen.copy_(hop(graph, inner).add_(self.nodes).div_(layers + 1) * self.linked[:, None])
        scale = graph.lengths[users:].clamp(min=1).to(inner.dtype).rsqrt() * self.linked[users:] / (layers + 1)
        self.sent.copy_(inner[users:] * scale[:, None])

    def forward(self, batch: Batch) -> Tensor:
        """The loss plus λ/2 times the squared norms of each example's vectors in E."""
        ids = batch.taken
        if batch.negatives is not None:
            ids = torch.cat([ids, batch.negatives.flatten()])
        users, user_at, user_times = distinct(batch.contexts.user, self.n_users)
        items, at, item_times = distinct(ids, len(self.nodes) - self.n_users)
        rows = torch.cat([users, items + self.n_users])
        own, out = propagated(self.nodes, self.graph, self.model.layers, rows)
        times = torch.cat([user_times, item_times]).to(own.dtype)
        penalty = self.model.l2 / 2 * (times @ own.square().sum(1)) / len(batch)
        p, q = out[: len(users)], out[len(users) :]
        loss = self._bpr if self.model.loss == "bpr" else self._softmax
        return loss(batch, p, q, user_at, at) + penalty

    def _bpr(self, batch: Batch, p: Tensor, q: Tensor, user_at: Tensor, at: Tensor) -> Tensor:
        """``p`` (r, d) and ``q`` (u, d) are the batch's users and items, each once; ``user_at`` (B,) and ``at``
        (B + B·N,) say where its users, its taken items and then its negatives stand among them.
        """
        p, q = lookup(p, user_at, padding=False), lookup(q, at, padding=False)
        taken, others = q[: len(batch)], q[len(batch) :].view(len(batch), -1, q.shape[1])
        scores = torch.einsum("bd,bd->b", p, taken)[:, None], torch.einsum("bd,bnd->bn", p, others)
        return bpr(*scores, batch.weights)

    def _softmax(self, batch: Batch, p: Tensor, q: Tensor, user_at: Tensor, at: Tensor) -> Tensor:
        """The softmax over the batch's items, shared draws (N,), or each row's own refusals of a list (B, N)."""
        p, q = F.normalize(p, dim=1) / self.model.temperature, F.normalize(q, dim=1)
        taken, others = at[: len(batch)], at[len(batch) :]
        if batch.negatives is None or batch.negatives.dim() == 1:
            pool = taken if batch.negatives is None else others
            times = torch.bincount(pool, minlength=len(q)).float()
            return pool_softmax(p, q, times.log(), taken, user_at, batch.weights)
        others, p = others.view(batch.negatives.shape), lookup(p, user_at, padding=False)
        right = (p * lookup(q, taken, padding=False)).sum(1, keepdim=True)
        wrong = torch.einsum("bd,bnd->bn", p, lookup(q, others, padding=False))
        logits = torch.cat([right, wrong.masked_fill(others == taken[:, None], -torch.inf)], 1).float()
        return weighted_mean(logits.logsumexp(1, keepdim=True) - logits[:, :1], batch.weights)

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d): computed from the history where there is one, the stored vector elsewhere."""
        history, users = contexts.history, self.frozen[contexts.user]
        known = self._known(history)
        lengths = known.lengths
        weights = known.beside(lengths.to(users.dtype).rsqrt())
        own = self.nodes[contexts.user] * self.linked[contexts.user, None] / (self.model.layers + 1)
        folded = own + hop(replace(known, weights=weights), self.sent)
        return torch.where(lengths[:, None] > 0, folded, users)

    def _known(self, history: Ragged) -> Ragged:
        """Each row's different items that have an edge in train."""
        items = history.unique()
        return items.keep(self.linked[self.n_users :][items.values])

    def item_vectors(self) -> Tensor:
        """(n_items, d)."""
        return self.frozen[self.n_users :]
