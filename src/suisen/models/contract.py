"""The contracts of models: everything a model can be, in one file.

A model is two objects.  Its *hyper-parameters* are a frozen dataclass and the public name (``SASRec(dim=64)``);
its *network* is built from them and from a schema.  Mathematics only: no file, device, progress bar, raw id or server.

* ``Retriever``: the score is an inner product, so that any index can serve it.
* ``CatalogueScorer``: only the whole catalogue can be scored (EASE): exact, never through an index.
* ``Ranker``: scores pairs, split into what depends on the context, on the item, and on both.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, get_type_hints, runtime_checkable

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from suisen.data.batch import Batch, Candidates, Contexts, Features, Schema
from suisen.data.dataset import Dataset
from suisen.data.ragged import Ragged
from suisen.data.views import View
from suisen.models.form import Form
from suisen.models.layers import adam
from suisen.models.tables import distinct, lookup
from suisen.parameters import parameters

Ability = Literal["new users", "new items", "history", "features", "weights"]
"""What a model can answer, and learn from.  new users / new items: those without an event in train, from their features
or from what holds for everybody; history: it reads the items of the history at hand; features: it reads user, item or
context features; weights: events that weigh more teach it more."""
VANISHED = 1e-3
"""Length below which a vector is next to nothing."""
ITEMS_PER_CHUNK = 65_536
"""Items whose states are computed at a time where the whole catalogue's are wanted."""
BAG = ("values", "offsets", "weights")
"""Fields of a ``Ragged``."""


class ItemTable(nn.Module):
    """The items as a network sees them: their features, and which of them train has events of.

    Non-persistent buffers: they follow the network's device and are saved once, beside the weights, not in them.
    """

    trained: Tensor

    def __init__(self, features: Features, trained: Tensor) -> None:
        super().__init__()
        self.register_buffer("trained", trained, persistent=False)
        self.register_buffer("categorical", features.categorical, persistent=False)
        self.register_buffer("numeric", features.numeric, persistent=False)
        self._multi = len(features.multi)
        for i, bag in enumerate(features.multi):
            for part in BAG:
                self.register_buffer(f"{part}_{i}", getattr(bag, part), persistent=False)

    def __len__(self) -> int:
        return int(self.trained.numel())

    @property
    def features(self) -> Features:
        """Features of every item, row 0 included."""
        bags = [Ragged(*(getattr(self, f"{part}_{i}") for part in BAG)) for i in range(self._multi)]
        return Features(self.get_buffer("categorical"), self.get_buffer("numeric"), tuple(bags))

    def known(self, ids: Tensor) -> Tensor:
        """``ids`` with 0 in place of every item that train has no event of: their own rows were never trained."""
        return torch.where(self.trained[ids], ids, 0)


class Net(nn.Module):
    """A network as the trainer, the evaluation and the pipeline see it.

    Whoever scores many candidates calls ``prepare_contexts`` once per batch of contexts and ``prepare_items`` once per
    version of the weights, and then ``score_prepared`` or ``score_tile`` as often as needed; what the two prepare is
    the network's own affair.
    """

    items: ItemTable
    second_stage: ClassVar[bool] = False
    """Whether it can rank what another model retrieved."""
    compares_items: ClassVar[bool] = True
    """Whether it can tell which items are alike."""
    reads_time: ClassVar[bool] = False
    """Whether what it makes of a context depends on when it is asked for, or on when the items of the history were
    taken: what is computed of a user then holds for that moment alone."""
    no_graph: ClassVar[str] = ""
    """Why what it makes of contexts or pairs cannot be a graph for other runtimes (ONNX), in words; "" where it can."""

    @property
    def flaw(self) -> str:
        """What makes loaded weights unfit to compute with, in words; "" where nothing does."""
        return ""

    def bind(self, items: ItemTable) -> None:
        """Gives the item table to this network and to the networks inside it; called once, after ``build``."""
        for module in self.modules():
            if isinstance(module, Net):
                module.items = items

    def prepare(self, train: Dataset) -> None:
        """Learns all that is learnt without a gradient: closed forms, graphs, counts.  Called once, before training."""

    def forward(self, batch: Batch) -> Tensor:
        """The loss of a batch: a scalar, the mean over its examples."""
        raise TypeError(f"{type(self).__name__} has no loss: it is learnt in prepare()")

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C) float32: the higher, the sooner to be recommended."""
        raise TypeError(f"{type(self).__name__} does not score")

    # -- the same in two steps, for those who score a catalogue ------------------------------------------------------

    def prepare_contexts(self, contexts: Contexts) -> Tensor:
        """(B, …): what scoring needs of the contexts, computed once."""
        raise TypeError(f"{type(self).__name__} is neither a retriever nor a ranker")

    def prepare_items(self) -> Tensor | None:
        """(n_items, …): what scoring needs of every item, computed once; None: nothing."""
        return None

    def score_prepared(self, contexts: Tensor, items: Tensor | None, ids: Tensor) -> Tensor:
        """(B, C) scores of (B, C) candidates, from what was prepared of the B contexts and of all items."""
        raise TypeError(f"{type(self).__name__} is neither a retriever nor a ranker")

    def score_tile(self, contexts: Tensor, items: Tensor | None, lo: int, hi: int) -> Tensor:
        """(B, hi − lo) scores of the items lo … hi − 1 for every context; the caller may overwrite them."""
        raise TypeError(f"{type(self).__name__} is neither a retriever nor a ranker")

    def bytes_per_score(self, items: Tensor | None) -> int:
        """Working bytes of one score in a tile: what a caller divides its memory by."""
        return 4

    def similarity_vectors(self) -> Tensor | None:
        """(n_items, d) vectors, whose cosines say how alike two items are; None: see ``similarities``."""
        vectors = self.prepare_items()
        if vectors is None:
            raise TypeError(f"{type(self).__name__} has no vectors of its items")
        return vectors

    def similarities(self, items: Tensor, others: Tensor) -> Tensor:
        """(B, C): how alike each of (B,) items and each of its (B, C) others are, where no vectors say so; what an item
        is to itself means nothing.
        """
        raise TypeError(f"{type(self).__name__} compares its items by vectors alone")

    # -- new items without training ------------------------------------------------------------------------------------

    learns_items: ClassVar[bool] = False
    """Whether ``learn_items`` finds what the network needs of an item from the histories that hold it."""

    def learn_items(self, old: Any, histories: Ragged) -> None:
        """Learns the items that ``old``, the same network with a shorter catalogue, does not have.  ``histories``: one
        row of items per user.
        """
        raise TypeError(f"{type(self).__name__} learns no items without training")

    # -- why a score is what it is -----------------------------------------------------------------------------------

    def shares_of_history(self, history: Tensor, item: int) -> Tensor | None:
        """(n,) what each of a history's different items (n,) adds to the item's score, which is their sum; None where
        the score is no such sum.
        """
        return None

    def shares_of_fields(
        self, contexts: Contexts, item: Tensor, pair: Tensor | None
    ) -> list[tuple[str, str, float]] | None:
        """What each field ("" behind it) and each pair of fields adds to the score of one item (1,) for one context,
        with pair features (1, 1, p); the score is their sum.  None where it is no such sum.
        """
        return None


@dataclass(frozen=True, eq=False)
class Fold:
    """The query vector of a history of n different items i, q_i their item vectors:

    argmin_p Σ_i (1 − p·q_i)² + α₀ Σ_all (p·q_i)² + λ (n + α₀ |I|)^ν |p|²;  a stored one where n = 0.
    """

    stored: Tensor
    """(n_users, d)."""
    unobserved: float
    """α₀."""
    l2: float
    """λ."""
    power: float
    """ν."""
    items: int
    """|I|, those with an event in train."""


class CatalogueScorer(Net):
    """Scores the whole catalogue at once."""

    def score_all(self, contexts: Contexts) -> Tensor:
        """(B, n_items) float32; column 0 means nothing."""
        raise TypeError(f"{type(self).__name__} does not score the catalogue")

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C): the candidates' columns of ``score_all``."""
        return self.score_all(contexts).gather(1, candidates.items)

    def prepare_contexts(self, contexts: Contexts) -> Tensor:
        """(B, n_items): all scores."""
        return self.score_all(contexts)

    def score_prepared(self, contexts: Tensor, items: Tensor | None, ids: Tensor) -> Tensor:
        """(B, C): columns."""
        return contexts.gather(1, ids)

    def score_tile(self, contexts: Tensor, items: Tensor | None, lo: int, hi: int) -> Tensor:
        """(B, hi − lo): columns, copied."""
        return contexts[:, lo:hi].clone()

    def bytes_per_score(self, items: Tensor | None) -> int:
        """The score and its copy."""
        return 8

    def similarity_vectors(self) -> Tensor | None:
        """None: it has none."""
        return None

    def similarities(self, items: Tensor, others: Tensor) -> Tensor:
        """(B, C): the scores of the others for a context whose history is the item alone."""
        nothing, none = torch.zeros_like(items), Features.none(len(items)).to(items.device)
        history = Ragged(items, torch.arange(len(items) + 1, device=items.device))
        return self.score_all(Contexts(nothing, none, none, nothing, history, nothing)).gather(1, others)


class Retriever(CatalogueScorer):
    """score(u, i) = query_vectors(u) · item_vectors()[i]."""

    second_stage: ClassVar[bool] = True

    def query_vectors(self, contexts: Contexts) -> Tensor:
        """(B, d) float32."""
        raise TypeError(f"{type(self).__name__} has no query vectors")

    def item_vectors(self) -> Tensor:
        """(n_items, d) float32, row 0 included (it is never returned)."""
        raise TypeError(f"{type(self).__name__} has no item vectors")

    def score_all(self, contexts: Contexts) -> Tensor:
        """(B, n_items): every inner product."""
        return self.query_vectors(contexts) @ self.item_vectors().T

    def score(self, contexts: Contexts, candidates: Candidates) -> Tensor:
        """(B, C): inner products with the candidates' vectors alone."""
        vectors = self.item_vectors()[candidates.items]
        return torch.einsum("bd,bcd->bc", self.query_vectors(contexts), vectors)

    def fold(self) -> Fold | None:
        """How a history becomes a query vector by least squares; None where it does not."""
        return None

    def prepare_contexts(self, contexts: Contexts) -> Tensor:
        """(B, d): query vectors."""
        return self.query_vectors(contexts)

    def prepare_items(self) -> Tensor:
        """(n_items, d): item vectors."""
        return self.item_vectors()

    def score_prepared(self, contexts: Tensor, items: Any, ids: Tensor) -> Tensor:
        """(B, C): inner products with the candidates' vectors."""
        vectors = items[ids]  # (B, C, d)
        return torch.bmm(vectors, contexts.unsqueeze(2)).squeeze(2)

    def score_tile(self, contexts: Tensor, items: Any, lo: int, hi: int) -> Tensor:
        """(B, hi − lo): one matrix product."""
        return contexts @ items[lo:hi].T

    def bytes_per_score(self, items: Any) -> int:
        """The score alone."""
        return 4

    def similarity_vectors(self) -> Tensor:
        """(n_items, d): item vectors."""
        return self.item_vectors()


class Ranker(Net):
    """Scores pairs; ``score`` is the composition of three parts, in training and in serving alike."""

    second_stage: ClassVar[bool] = True

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, t): all that depends on the context alone, computed once per context."""
        raise TypeError(f"{type(self).__name__} has no context state")

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, s) for (n,) ids: all that depends on the item alone, computed once per item."""
        raise TypeError(f"{type(self).__name__} has no item state")

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) scores from (B, t) context states, (B or 1, C, s) item states and (B, C, p) pair features.

        ``weights`` (B, C) is given in training: batch norm sees only what weighs more than 0.
        """
        raise TypeError(f"{type(self).__name__} does not combine")

    def form(self) -> Form | None:
        """``combine`` as arrays, in eval mode, for compiled kernels.  Where it is more than an inner product of the
        sides beside a split deep net (see ``Form``), one that is not ``exact``: serving combines those on torch that it
        finds best.  None: serving combines all on torch.
        """
        return None

    def score(self, contexts: Contexts, candidates: Candidates, weights: Tensor | None = None) -> Tensor:
        """(B, C).  States of the unique candidates are computed once and gathered: 256 × 500 states of 256 floats
        would be 140 MB, the 3,000 different items among them are 3 MB.
        """
        ids, where, _ = distinct(candidates.items, len(self.items))
        items = lookup(self.item_state(ids), where, padding=False)
        return self.combine(self.context_state(contexts), items, candidates.pair, weights)

    def prepare_contexts(self, contexts: Contexts) -> Tensor:
        """(B, t): context states."""
        return self.context_state(contexts)

    def prepare_items(self) -> Tensor:
        """(n_items, s): item states, a chunk of the catalogue at a time."""
        ids = torch.arange(len(self.items), device=self.items.trained.device)
        return torch.cat([self.item_state(chunk) for chunk in torch.split(ids, ITEMS_PER_CHUNK)])

    def score_prepared(self, contexts: Tensor, items: Any, ids: Tensor) -> Tensor:
        """(B, C): what is left per pair, without pair features."""
        return self.combine(contexts, items[ids], None)

    def score_tile(self, contexts: Tensor, items: Any, lo: int, hi: int) -> Tensor:
        """(B, hi − lo): the same items for every context."""
        return self.combine(contexts, items[None, lo:hi], None)

    def bytes_per_score(self, items: Any) -> int:
        """The broadcast sum of two states, and what the layers above make of it: four floats per float of a state."""
        return 16 * int(items.shape[1])


@dataclass(frozen=True)
class Phase:
    """One stretch of training with its own optimisers; most models have one."""

    module: Net
    """What is trained, validated and kept at its best epoch: the network or a part of it."""
    optimisers: Callable[[nn.Module], Sequence[Optimizer]]
    """Made when the phase starts; none: ``forward`` updates the network itself (alternating least squares)."""
    epochs: int
    before: Callable[[], None] | None = None
    """Runs when the phase starts (NeuMF: blend the two trained halves)."""
    view: View | None = None
    """Where it differs from the model's."""


class OnePhase:
    """Base of the hyper-parameters of models that Adam trains whole."""

    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)
    """β₁ and β₂ of Adam."""
    learning_rate: float
    epochs: int

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam."""
        return [Phase(net, adam(self.learning_rate, self.betas), self.epochs)]


@runtime_checkable
class Model(Protocol):
    """Hyper-parameters that know which network they describe."""

    abilities: ClassVar[frozenset[Ability]]

    @property
    def view(self) -> View:
        """How train's events become batches."""

    def build(self, schema: Schema) -> Net:
        """The network, freshly initialised from torch's generator; no data is looked at."""

    def phases(self, net: Any) -> list[Phase]:
        """What the trainer runs, in order; empty where ``prepare`` learns everything."""


def unused_weights(models: Sequence[Model | None], train: Dataset) -> tuple[str, ...]:
    """A note for each of the models that does not learn from the weights of train's events, where some differ."""
    weight = train.events.weight
    if weight is None or not weight.numel() or bool((weight == weight[0]).all()):
        return ()
    names = [type(model).__name__ for model in models if model is not None and "weights" not in model.abilities]
    return tuple(f"weights are not used by {name}: every event counts as one" for name in names)


@torch.no_grad()
def vanished_vectors(net: Net | None, train: Dataset) -> tuple[str, ...]:
    """A note where more than one in a hundred of the items taken in train has a vector that is next to nothing or not
    finite: such items are all scored alike, so that lists look well and are none.
    """
    if not isinstance(net, Retriever):
        return ()
    vectors = net.item_vectors()[(train.item_counts > 0).to(net.items.trained.device)]
    lengths = vectors.float().norm(dim=1)
    lost = int((~lengths.isfinite() | (lengths < VANISHED)).sum())
    if lost <= len(lengths) / 100:
        return ()
    said = f"{lost:,} of {len(lengths):,} item vectors are next to nothing or not finite, and their items scored alike"
    return (f"{said}: lower l2 or learning_rate (of IALS unobserved), or search the settings with suisen tune",)


def network_of(cls: type[Any]) -> type[Net]:
    """The class of the network that a class of hyper-parameters builds: what its ``build`` says it returns.

    Nothing is built, so that lists of models can be made from what their networks can do while the package is imported.
    """
    net: Any = get_type_hints(cls.build)["return"]
    if not (isinstance(net, type) and issubclass(net, Net)):
        raise TypeError(f"{cls.__name__}.build must say which network it returns, like -> {cls.__name__}Net")
    return net


hyper_parameters = parameters
"""Class decorator of hyper-parameters: see ``suisen.parameters``."""
