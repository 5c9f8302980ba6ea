"""A retriever as the second stage: its inner product ranks what another retriever found.

score = query · item + blend · (retrieval score, standardised in its list).  ``blend`` is picked on the valid lists: two
models that err differently are better together than either alone, and one number cannot overfit.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from suisen.data.batch import Candidates, Contexts, Queries, Schema
from suisen.errors import InputError
from suisen.models import SECOND_STAGES
from suisen.models.contract import Model, Net, Ranker, Retriever, network_of
from suisen.models.form import Form
from suisen.recommending.sources import PAIR

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

    def form(self) -> Form:
        """The inner product, and the blended retrieval score."""
        nothing = self.blend.new_zeros(len(PAIR))
        alpha = nothing.clone()
        alpha[0] = self.blend

        def context(state: Tensor) -> Tensor:
            return torch.cat([state, alpha.expand(len(state), -1)], 1)

        def item(state: Tensor) -> Tensor:
            return torch.cat([state, nothing.expand(len(state), -1)], 1)

        return Form.shallow(self.net.item_vectors().shape[1], context, item, torch.outer(nothing, nothing))

    def pick_blend(self, lists: Sequence[tuple[Queries, Tensor, Tensor]], validate: Callable[[Net], float]) -> None:
        """Sets ``blend`` to the best of ``SHARES`` on valid lists (queries, ids, pair features); equal: the smaller."""
        self.blend.zero_()
        with torch.no_grad():
            spread = self._spread(*lists[0])
            reached = []
            for share in SHARES:
                self.blend.fill_(share * spread)
                reached.append(validate(self))
            self.blend.fill_(SHARES[max(range(len(SHARES)), key=reached.__getitem__)] * spread)

    def _spread(self, queries: Queries, ids: Tensor, pair: Tensor) -> float:
        """Mean standard deviation of the inner products within a list."""
        device = self.items.trained.device
        scores = self.score(queries.contexts.to(device), Candidates(ids, pair).to(device)).float()
        held = torch.where(ids.to(device) > 0, scores, torch.nan)
        middle = held.nanmean(1, keepdim=True)
        return float((held - middle).square().nanmean(1).sqrt().nanmean())


def as_ranker(net: Net) -> Ranker:
    """A ranker as it is, a retriever as a stand-in, bound to the same items."""
    ranker = _ranks(net, type(net).__name__)
    ranker.items = net.items
    return ranker


def build_ranker(model: Model, schema: Schema) -> Ranker:
    """The network of a model as a second stage, not yet bound to items."""
    return _ranks(model.build(schema), f"ranker = {type(model).__name__}")


def stands_in(model: Model) -> bool:
    """Whether the model is a retriever, as its ``build`` says.  Raises InputError where it can be no second stage."""
    net = network_of(type(model))
    if not issubclass(net, Ranker | Retriever):
        raise _no_ranker(f"ranker = {type(model).__name__}")
    return issubclass(net, Retriever)


def _ranks(net: Net, name: str) -> Ranker:
    if isinstance(net, Ranker):
        return net
    if isinstance(net, Retriever):
        return StandIn(net)
    raise _no_ranker(name)


def _no_ranker(name: str) -> InputError:
    return InputError(f"{name} scores the whole catalogue only; rankers are {', '.join(SECOND_STAGES)}")


class Undrawn(TorchFunctionMode):
    """Inside it networks are built without drawing their first weights: nothing is computed, no page is touched.

    The device ``meta`` would do as much, but random numbers there import torch's compiler first (two seconds).
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):  # of tensors and of torch.nn.init
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        return (torch.empty if func in (torch.randn, torch.rand) else func)(*args, **kwargs)
