"""Two-Tower: a user network and an item network that meet in one inner product (Covington et al. 2016; Yi et al. 2019).

User tower: user id, user features, context features, mean of the history.  Item tower: item id, item features.  A
tower concatenates its fields' vectors: v = hidden layers([f₁, f₂, …]) + f₁ + f₂ + …, of length 1 with ``cosine``.
score(u, i) = q_u · v_i.

Losses:
* softmax: −log e^a / (e^a + Σ_j e^(q_u · v_j / τ − log expected_j)), a = q_u · v_i / τ, over negatives j from the batch
  (Yi et al. 2019, eq. 3), drawn uniformly, or both (mixed negative sampling, Yang et al. 2020).  expected_j is
  how often j is to be expected among the negatives (the logQ correction: log q is *subtracted*), from train's counts or
  learnt from the stream of batches.
* triplet: max(0, margin − q_u · v_i + q_u · v_n) with a semi-hard negative n (Schroff et al. 2015).
Each example can have hard negatives beside these: some of the items that the network itself ranks highest for the user
(ANCE, Xiong et al. 2021).

Users and items that train does not know are scored by their features: their id is 0, whose vector is zero, and training
hides a share of the ids so that the features learn to carry the score.

Cost: each tower once per different user of the batch (per example, where there is a history or context features) and
once per different item, and 3·R·m·d multiply-adds for the products of R queries and m items.
"""

import math
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.views import Hard, Pairs, View
from suisen.models.contract import Ability, OnePhase, Retriever, hyper_parameters
from suisen.models.contrastive import Frequency, pool_softmax, triplet
from suisen.models.layers import ContextVectors, ItemVectors, perceptron
from suisen.models.tables import distinct, lookup
from suisen.parameters import Search

MIN_TEMPERATURE = 0.01
"""Below it a learnt τ would make the softmax a maximum."""
MAX_BUCKETS = 2**20
"""Of the streaming estimate of frequencies."""
MAX_DISTINCT_SHARE = 0.75
"""Users are made distinct where at most this share of a batch's users is: sorting costs more than it saves above."""


def _correction(value: Any) -> Any:
    """``log_q`` was a switch once; bundles saved then can still be loaded."""
    if isinstance(value, bool):
        return "exact" if value else "none"
    return value


@hyper_parameters
class TwoTower(OnePhase):
    """A user network and an item network over features, trained by contrast (Covington et al. 2016; Yi et al. 2019).

    Answers users, new users by their features, guests by their history; scores items without an event in train by their
    features.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.TwoTower(dim=4, hidden=(4,), epochs=1)).fit(data)
    >>> recommender.recommend(users=[1, 2], k=5).shape
    (10, 4)
    """

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users", "new items", "history", "features", "weights"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(32, 64, 128))] = 64
    """Length of the vectors that meet, and of each field's embedding."""
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Search(choices=((128,), (256,), (256, 128)))] = (128,)
    """Widths of each tower's hidden layers."""
    item_hidden: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Widths of the item tower's hidden layers where they differ from the user tower's."""
    loss: Literal["in-batch", "uniform", "mixed", "triplet"] = "in-batch"
    """Softmax against the batch's other items, against items drawn for the batch, against both; or triplets."""
    negatives: Annotated[int, Field(ge=1)] = 1024
    """Items drawn for each batch, uniformly from all of train's; for the losses uniform and mixed."""
    hard: Annotated[int, Field(ge=0, le=1000)] = 0
    """Negatives of each example's own beside the others, drawn from the user's best items as the network sees them
    each epoch."""
    hard_pool: Annotated[int, Field(ge=1)] = 100
    """How many best items, none of them taken by the user, hard negatives are drawn from."""
    log_q: Annotated[Literal["none", "exact", "streaming"], BeforeValidator(_correction)] = "exact"
    """Correct for frequent items being negatives more often: by train's counts, or by a running estimate."""
    temperature: Annotated[float, Field(gt=0), Search(0.03, 0.5, log=True)] = 0.1
    """τ: the smaller, the harder the nearest negatives are pushed away."""
    learn_temperature: bool = False
    """Whether τ is learnt, starting at ``temperature`` and never below 0.01."""
    margin: Annotated[float, Field(gt=0)] = 0.2
    """By how much a triplet's positive is to score above its negative."""
    cosine: bool = True
    """Vectors of length 1, so that scores are cosines; False: plain inner products."""
    history: Annotated[int, Field(ge=0, le=1000)] = 50
    """Most items of history that the user tower reads; 0: none."""
    half_life: Annotated[float, Field(ge=0)] = 0.0
    """An item of the history weighs half as much as one this many items later; 0: all weigh alike."""
    hide_ids: Annotated[float, Field(ge=0, lt=1), Search(0, 0.3)] = 0.1
    """Share of user and item ids, and of user features, hidden in training: unknown ones are then no surprise."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0, 0.5)] = 0.1
    """In the hidden layers."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(5e-4, 1e-2, log=True)] = 2e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=2)] = 2048
    """Positives in a batch, each picked from all of them; fewer where an epoch would have fewer than 20 batches."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Most passes over the positives."""

    @property
    def view(self) -> View:
        """Positives; with them the negatives that the loss asks for."""
        drawn = self.negatives if self.loss in ("uniform", "mixed") else 0
        reads = self.history > 0
        pairs = Pairs(self.batch_size, drawn, shared=drawn > 0, history=self.history, guests=reads, labels=False)
        return Hard(pairs, self.hard, self.hard_pool) if self.hard else pairs

    def build(self, schema: Schema) -> "TwoTowerNet":
        """Both towers."""
        return TwoTowerNet(self, schema)


class Tower(nn.Module):
    """One vector per row from its fields' vectors: hidden layers over their concatenation, plus their sum.

    Because of the sum a tower starts as a factorisation of ids and features, which learns faster than layers alone.
    """

    def __init__(self, model: TwoTower, fields: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = perceptron(fields * model.dim, (*hidden, model.dim), model.dropout)
        self.cosine = model.cosine

    def forward(self, fields: Tensor) -> Tensor:
        """(n, d) of the vectors of F fields (n, F, d)."""
        vector = self.layers(fields.flatten(1)) + fields.sum(1)
        return F.normalize(vector, dim=1) if self.cosine else vector


class TwoTowerNet(Retriever):
    """Two towers over the shared field encoder."""

    share: Tensor

    def __init__(self, model: TwoTower, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.n_users = schema.n_users
        std = model.dim**-0.5
        self.context = ContextVectors(schema, model.dim, (model.history,), std)
        self.item = ItemVectors(schema, model.dim, std)
        self.user_tower = Tower(model, self.context.count, model.hidden)
        item_hidden = model.hidden if model.item_hidden is None else model.item_hidden
        self.item_tower = Tower(model, self.item.count, item_hidden)
        self.by_user = not model.history and not schema.context
        if model.learn_temperature:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(model.temperature)))
        if model.log_q == "streaming":
            self.frequency = Frequency(min(2 ** (2 * schema.n_items).bit_length(), MAX_BUCKETS))
        self.register_buffer("share", torch.zeros(schema.n_items), persistent=False)  # of train's events; log_q = exact

    def prepare(self, train: Dataset) -> None:
        """Counts each item's share of the positives."""
        self.share.copy_(train.item_counts / train.item_counts.sum())

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d)."""
        if self.model.half_life:
            contexts = faded(contexts.recent(self.model.history), self.model.half_life)
        return self.user_tower(self.context(contexts, self.model.hide_ids))

    def vectors_of(self, ids: Tensor) -> Tensor:
        """(n, d) of (n,) dense ids."""
        return self.item_tower(self.item(self.items.known(ids), self.items.features.take(ids), self.model.hide_ids))

    def item_vectors(self) -> Tensor:
        """(n_items, d)."""
        return self.vectors_of(torch.arange(len(self.items), device=self.items.trained.device))

    @property
    def temperature(self) -> Tensor | float:
        """τ, fixed or as learnt so far."""
        if not self.model.learn_temperature:
            return self.model.temperature
        return self.log_temperature.exp().clamp(min=MIN_TEMPERATURE)

    def forward(self, batch: Batch) -> Tensor:
        """The loss.  Each different item passes its tower once; so does each different user, where a query depends on
        the user alone.
        """
        model = self.model
        contexts, row = self._queried(batch.contexts)
        pool = batch.taken  # (B,)
        if model.loss in ("uniform", "mixed") and batch.negatives is not None:
            pool = torch.cat([pool, batch.negatives])  # (B + N,)
        ids, where, _ = distinct(pool, len(self.items))  # (m,), and the column of each of the pool
        own = where[: len(batch)]
        query = self.query_vectors(contexts)  # (R, d)
        vectors = self.vectors_of(ids)  # (m, d)
        if model.loss != "triplet":
            query = query / self.temperature
        hard = None
        if batch.hard is not None:
            hard = self._hard(batch.hard, batch.taken, query if row is None else query[row])
        if model.loss == "triplet":
            return triplet(query, vectors, own, model.margin, row, batch.weights, hard)
        bias = self._bias(ids, own, where[len(batch) :])
        return pool_softmax(query, vectors, bias, own, row, batch.weights, hard)

    def _queried(self, contexts: Contexts) -> tuple[Contexts, Tensor | None]:
        """The R contexts whose queries are computed, and (B,) which of them each given context has (None: R = B, its
        own).
        """
        if not self.by_user:
            return contexts, None
        users, row, _ = distinct(contexts.user, self.n_users)
        if len(users) > MAX_DISTINCT_SHARE * len(row):
            return contexts, None
        one_of = torch.empty_like(users).scatter_(0, row, torch.arange(len(row), device=row.device))
        return contexts.take(one_of), row

    def _bias(self, ids: Tensor, own: Tensor, drawn: Tensor) -> Tensor:
        """(m,) log of how often each of the pool's different items was drawn over how often it was to be expected.

        ``own`` (B,) and ``drawn`` are the columns of the items taken and of the draws.
        """
        taken, more = (torch.bincount(part, minlength=len(ids)).float() for part in (own, drawn))
        in_batch = self.model.loss != "uniform"
        times = taken + more if in_batch else more
        if self.model.log_q == "none":
            return times.log()
        if self.model.log_q == "streaming":
            there = times > 0
            weight = torch.full_like(times, -torch.inf)
            return weight.index_put_((there,), -self.frequency(ids[there]))
        expected = self.share[ids] * (len(own) - 1) if in_batch else torch.zeros_like(times)
        expected += len(drawn) / self.items.trained.sum()
        return times.log() - expected.log()

    def _hard(self, hard: Tensor, taken: Tensor, query: Tensor) -> Tensor:
        """(B, H) scores of each example's hard negatives ``hard`` (B, H) for its query (B, d).

        A negative that is the example's item itself gets the lowest finite score: a row of −∞ alone has no gradient.
        """
        ids, where, _ = distinct(hard, len(self.items))
        wrong = lookup(self.vectors_of(ids), where, padding=False)
        scores = torch.einsum("bd,bhd->bh", query, wrong)
        return scores.masked_fill(hard == taken[:, None], torch.finfo(scores.dtype).min)


def faded(contexts: Contexts, half_life: float) -> Contexts:
    """The same contexts with histories whose items weigh 2^(−age / half_life), the newest one's age being 0."""
    history = contexts.history
    age = history.lengths[history.rows()] - 1 - history.places()
    return replace(contexts, history=replace(history, weights=torch.exp2(-age / half_life)))
