"""A retriever as the second stage: its inner product ranks what another retriever found.

score = query · item + blend · (retrieval score, standardised in its list).  ``blend`` is picked on the valid lists: two
models that err differently are better together than either alone, and one number cannot overfit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from suisen.data.batch import Candidates, Contexts, Schema
from suisen.errors import InputError
from suisen.models.contract import Model, Net, Ranker, Retriever

SHARES = (0.0, 0.1, 0.2, 0.3, 0.45, 0.65, 1.0, 1.5)
"""What ``blend`` is tried at, in standard deviations of the ranker's own scores within a list."""


class StandIn(Ranker):
    """The retriever's parts in the shape of a ranker's."""

    blend: Tensor

    def __init__(self, net: Retriever) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("blend", torch.zeros(()))

    def prepare(self, train: object) -> None:
        """The retriever was prepared when it was fitted."""

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, d) query vectors."""
        return self.net.query_vectors(contexts)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, d) item vectors; zero for items that train has no event of."""
        return self.net.item_vectors()[ids] * self.items.trained[ids, None]

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) inner products plus the blended retrieval score."""
        own = (item @ context.unsqueeze(2)).squeeze(2)
        return own if pair is None else own + self.blend * pair[..., 0]

    def pick_blend(self, contexts: Contexts, candidates: Candidates, validate: Callable[[Net], float]) -> float:
        """Sets ``blend`` to the best of ``SHARES`` on valid lists (equal: the smaller); returns the metric it reached."""
        self.blend.zero_()
        with torch.no_grad():
            scores = self.score(contexts, candidates)
            spread = float(scores[candidates.items.to(scores.device) > 0].std())
            best, best_metric = 0.0, -1.0
            for share in SHARES:
                self.blend.fill_(share * spread)
                metric = validate(self)
                if metric > best_metric:
                    best, best_metric = share * spread, metric
            self.blend.fill_(best)
        return best_metric


def build_ranker(model: Model, schema: Schema) -> Ranker:
    """The network of a model as a second stage: a ranker's own, a retriever's as a stand-in."""
    net = model.build(schema)
    if isinstance(net, Ranker):
        return net
    if isinstance(net, Retriever):
        return StandIn(net)
    raise InputError(
        f"ranker = {type(model).__name__} can only score the whole catalogue; "
        "rankers are FM, DeepFM, and every retriever with vectors"
    )


def stands_in(model: Model, schema: Schema) -> bool:
    """Whether the model is a retriever (nothing is allocated to find out)."""
    with torch.device("meta"):
        return isinstance(build_ranker(model, schema), StandIn)
