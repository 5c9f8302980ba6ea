"""Networks and callbacks that show what a trainer does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from suisen.data.batch import Batch, Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.data.views import Pairs, Rows
from suisen.models.contract import Phase, Ranker, Retriever, hyper_parameters
from suisen.models.layers import IdEmbedding, adam
from suisen.models.losses import logistic
from suisen.training.options import Curve, EpochRow, RunOptions
from tests.helpers import make_data

LEARNING_RATE = 0.25


def little(users: int = 12, items: int = 9, each: int = 4) -> Dataset:
    """``users`` × ``each`` events in a fixed order."""
    user = [u for u in range(users) for _ in range(each)]
    item = [(u + k * (1 + u % 3)) % items for u in range(users) for k in range(each)]
    return make_data(user=user, item=item, time=[10**6 * (u + 100 * k) for u in range(users) for k in range(each)])


class LineNet(Retriever):
    """Loss ``slope(number of the forward pass) * w``: a gradient that is known beforehand."""

    def __init__(self, slope: Callable[[int], float] = lambda n: 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.slope, self.calls, self.modes = slope, 0, []

    def forward(self, batch: Batch) -> Tensor:
        self.calls += 1
        self.modes.append(self.training)
        return self.w * self.slope(self.calls)


def line_phase(net: LineNet, epochs: int = 3) -> Phase:
    return Phase(net, lambda module: [torch.optim.SGD(module.parameters(), LEARNING_RATE)], epochs)


class Interrupted(Exception):
    pass


@dataclass
class Bomb:
    """Goes off after so many batches, of one stage or of all."""

    batches: int
    stage: str | None = None
    now: str = ""

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        self.now = stage

    def on_batch(self, examples: int, loss: float) -> None:
        if self.stage in (None, self.now):
            self.batches -= 1
            if self.batches == 0:
                raise Interrupted

    def on_epoch(self, row: EpochRow) -> None: ...

    def on_end(self, curve: Curve) -> None: ...


@dataclass
class Notes:
    """Writes down what it is told."""

    told: list[tuple[Any, ...]] = field(default_factory=list)

    def on_start(self, stage: str, epochs: int, examples: int) -> None:
        self.told.append(("start", stage, epochs, examples))

    def on_batch(self, examples: int, loss: float) -> None:
        self.told.append(("batch", examples))

    def on_epoch(self, row: EpochRow) -> None:
        self.told.append(("epoch", row.epoch))

    def on_end(self, curve: Curve) -> None:
        self.told.append(("end", len(curve.rows)))


def watched(options: RunOptions, *callbacks: Any) -> RunOptions:
    return replace(options, callbacks=callbacks)


# -- a model of two phases: one half alone, then both ----------------------------------------------------------------


@hyper_parameters
class TwoPhases:
    abilities: ClassVar[frozenset[str]] = frozenset()
    dim: int = 4
    first_epochs: int = 2
    epochs: int = 2

    @property
    def view(self) -> Rows:
        return Rows(batch_size=16, negatives=2)

    def build(self, schema: Schema) -> WholeNet:
        return WholeNet(self.dim, schema)

    def phases(self, net: Any) -> list[Phase]:
        return [
            Phase(net.part, adam(0.05), self.first_epochs),
            Phase(net, lambda m: [torch.optim.Adagrad(m.part.parameters(), 0.1), *adam(0.05)(m.head)], self.epochs,
                  before=net.blend),
        ]  # fmt: skip


class HalfNet(Ranker):
    def __init__(self, dim: int, schema: Schema) -> None:
        super().__init__()
        self.user, self.item = IdEmbedding(schema.n_users, dim, 0.1), IdEmbedding(schema.n_items, dim, 0.1)

    def context_state(self, contexts: Contexts) -> Tensor:
        return nn.functional.dropout(self.user(contexts.user), 0.2, self.training)

    def item_state(self, ids: Tensor) -> Tensor:
        return self.item(ids)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        return (context.unsqueeze(1) * item).sum(-1)

    def forward(self, batch: Batch) -> Tensor:
        candidates, labels = batch.listed
        return logistic(self.score(batch.contexts, candidates, batch.weights), labels, batch.weights)


class WholeNet(HalfNet):
    def __init__(self, dim: int, schema: Schema) -> None:
        Ranker.__init__(self)
        self.part, self.head = HalfNet(dim, schema), nn.Linear(dim, dim)

    def blend(self) -> None:
        """Starts the head at something that the first phase decides."""
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(len(self.head.weight)) * self.part.item.weight.std())

    def context_state(self, contexts: Contexts) -> Tensor:
        return self.head(self.part.context_state(contexts))

    def item_state(self, ids: Tensor) -> Tensor:
        return self.part.item(ids)


# -- a view that asks the network ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HardPairs:
    """Pairs whose negatives are, for each user, the item that the network finds best among those it never took."""

    inner: Pairs
    seen: list[Any] = field(default_factory=list)

    def open(self, train: Dataset) -> HardEpochs:
        return HardEpochs(self, train)


class HardEpochs:
    def __init__(self, view: HardPairs, train: Dataset) -> None:
        self.view, self.train, self.inner = view, train, view.inner.open(train)
        self.examples = self.inner.examples
        self.hard = torch.zeros(train.schema.n_users, dtype=torch.int64)

    def refresh(self, net: Any) -> None:
        self.view.seen.append((net.training, torch.is_grad_enabled()))
        scores = net.score_all(Contexts.of_users(torch.arange(self.train.schema.n_users)))
        scores[:, 0] = -torch.inf
        scores[self.train.user, self.train.events.item] = -torch.inf
        self.hard = scores.argmax(1)

    def batches(self, rng: torch.Generator):
        for batch in self.inner.batches(rng):
            drawn = torch.where(torch.rand(batch.negatives.shape, generator=rng) < 0.5, batch.negatives,
                                self.hard[batch.contexts.user, None])  # fmt: skip
            yield replace(batch, negatives=drawn)

    def state_dict(self) -> dict[str, Tensor]:
        return {"hard": self.hard}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.hard = state["hard"]
