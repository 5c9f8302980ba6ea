"""LambdaMART (Burges 2010) on LightGBM (Ke et al. 2017): boosted trees over the raw columns of a pair.

Columns: the user's and the context's features, the item's features and how many events train has of it, the features
of the pair, and (``ids``) the ids of user and item.  Codes are categorical columns, numbers are themselves, a
multi-valued field of at most ``MOST_CODES`` codes is one column a code with its share; a larger one is left out.  Lists
are learnt by LambdaRank's gradients, labelled single candidates by binary cross-entropy.  An item's count is the same
in every example: less the event that an example asks about, it would tell what was taken.

There is nothing to split: a side's state is its columns, and ``combine`` walks each pair through every tree, about
log₂(``leaves``) comparisons at random places per tree, on the processor, whatever the device of the rest.  An epoch
adds ``trees`` trees.  While the columns are binned, learning takes 4 bytes per pair and column, then 1.  Trees are kept
as LightGBM's own text, which is not proof against who writes it on purpose: sign bundles that strangers could change.
"""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field as Bounds
from torch import Tensor

from suisen.data.batch import Batch, Contexts, Features, Field, Schema
from suisen.data.dataset import Dataset
from suisen.data.views import Rows, View, Whole
from suisen.errors import InputError, missing_extra, need_extra
from suisen.models.contract import Ability, Phase, Ranker, hyper_parameters
from suisen.models.layers import shares
from suisen.parameters import Search

MOST_CODES = 64
"""Largest multi-valued field that is read."""
COUNT = "item's events"
Matrix = npt.NDArray[np.float32]


@hyper_parameters
class LambdaMART:
    """Gradient-boosted trees over raw columns, by LambdaRank's gradients (extra ``gbdt``).

    Loss: LambdaRank over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
    every context and scores every item, by their features and those of the pair; a history it reads through the
    latter alone.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> ranker = su.LambdaMART(trees=2, epochs=1, min_leaf=5)
    >>> recommender = su.Recommender(su.EASE(), ranker=ranker, candidates=20).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users", "new items", "features", "weights"})

    leaves: Annotated[int, Bounds(ge=2, le=4096), Search(choices=(7, 15, 31, 63))] = 31
    """Most leaves of a tree."""
    min_leaf: Annotated[int, Bounds(ge=1), Search(choices=(10, 50, 200, 1000))] = 50
    """Fewest pairs in a leaf, and of a category that a split names by itself."""
    l2: Annotated[float, Bounds(ge=0), Search(1e-3, 100, log=True)] = 1.0
    """λ: the squares of a leaf's value are added to the loss so many times."""
    columns: Annotated[float, Bounds(gt=0, le=1), Search(0.3, 1)] = 0.8
    """Share of the columns that a tree is offered."""
    ids: bool = True
    """Whether the ids of user and item are columns."""
    truncation: Annotated[int, Bounds(ge=1)] = 30
    """Pairs count where one of the two stands among so many first of its list."""
    negatives: Annotated[int, Bounds(ge=1, le=1000)] = 4
    """Items drawn for each positive where train has neither labels nor lists."""
    trees: Annotated[int, Bounds(ge=1)] = 10
    """Trees per epoch."""
    learning_rate: Annotated[float, Bounds(gt=0, le=1), Search(0.01, 0.3, log=True)] = 0.05
    """What each tree's values are multiplied by."""
    epochs: Annotated[int, Bounds(ge=1)] = 50
    """Most epochs."""

    @property
    def view(self) -> View:
        """Contexts with candidates and labels."""
        return Rows(negatives=self.negatives)

    def build(self, schema: Schema) -> "LambdaMARTNet":
        """No tree yet.  Raises MissingExtra where LightGBM is not installed."""
        need_extra("gbdt", "lightgbm")
        return LambdaMARTNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """Boosting; no optimiser: ``forward`` grows the trees."""
        return [Phase(net, lambda module: [], self.epochs, before=net.start, view=Whole())]


class Side:
    """The columns of one owner's features."""

    def __init__(self, owner: str, fields: Sequence[Field]) -> None:
        codes, numbers, bags = (
            [field for field in fields if field.kind == kind] for kind in ("categorical", "numeric", "multi")
        )
        self.bags = [field if field.size <= MOST_CODES else None for field in bags]
        names = [field.name for field in [*codes, *numbers]]
        names += [field.name for field in self.bags if field is not None for _ in range(1, field.size)]
        self.names = [f"{owner}.{name}" for name in names]
        """Of each column."""
        self.categorical = len(codes)
        """So many of the first columns hold codes."""

    def columns(self, features: Features) -> Tensor:
        """(n, columns) float32."""
        parts = [features.categorical.float(), features.numeric.float()]
        for field, bag in zip(self.bags, features.multi, strict=True):
            if field is not None:
                dense = torch.zeros(len(bag) * field.size, device=bag.offsets.device)
                dense.index_add_(0, bag.keys(field.size), shares(bag))
                parts.append(dense.view(len(bag), field.size)[:, 1:])
        return torch.cat(parts, 1)


class LambdaMARTNet(Ranker):
    """Trees in LightGBM's text; beside them how many count, and how many events each item has."""

    no_graph: ClassVar[str] = "its trees are evaluated by LightGBM"
    compares_items: ClassVar[bool] = False  # its columns hold codes, which are no directions
    counts: Tensor
    rounds: Tensor

    def __init__(self, model: LambdaMART, schema: Schema) -> None:
        super().__init__()
        self.model, self.pair = model, schema.pair
        self.user, self.moment = Side("user", schema.user), Side("context", schema.context)
        self.item = Side("item", schema.item)
        of_context = ["user", *self.user.names, *self.moment.names]
        self.names = [*of_context, "item", COUNT, *self.item.names, *schema.pair]
        """Of each column: context, item, pair."""
        at = len(of_context)
        starts = (0, 1 + self.user.categorical), (1 + len(self.user.names), self.moment.categorical)
        self.codes = [place for start, count in starts for place in range(start, start + count)]
        self.codes += [at, *range(at + 2, at + 2 + self.item.categorical)]
        """Places of the categorical columns."""
        self.register_buffer("counts", torch.zeros(schema.n_items))
        self.register_buffer("rounds", torch.tensor(0))
        self.booster: Any = None
        self._train: Dataset | None = None

    # -- the three parts ---------------------------------------------------------------------------------------------

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, t) columns of the context."""
        user = contexts.user if self.model.ids else torch.zeros_like(contexts.user)
        parts = [self.user.columns(contexts.user_features), self.moment.columns(contexts.context_features)]
        return torch.cat([user[:, None].float(), *parts], 1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, s) columns of the item."""
        known = self.items.known(ids)
        own = known if self.model.ids else torch.zeros_like(known)
        features = self.item.columns(self.items.features.take(ids))
        return torch.cat([own[:, None].float(), self.counts[ids, None].log1p(), features], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) sums of leaf values; 0 before the first tree."""
        rows = self._rows(context, item, pair)
        return self._predicted(rows.flatten(0, 1)).view(rows.shape[:2]).to(context.device)

    def _rows(self, context: Tensor, item: Tensor, pair: Tensor | None) -> Tensor:
        """(B, C, columns)."""
        shape = len(context), item.shape[1]
        if pair is None:
            pair = context.new_zeros((*shape, len(self.pair)))
        return torch.cat([context.unsqueeze(1).expand(*shape, -1), item.expand(*shape, -1), pair.float()], 2)

    def _predicted(self, rows: Tensor, **how: Any) -> Tensor:
        """(n,) scores of (n, columns), float32."""
        if self.booster is None or not int(self.rounds) or not len(rows):
            return torch.zeros(len(rows))
        self._grow(int(self.rounds))
        how |= {"num_iteration": int(self.rounds), "num_threads": torch.get_num_threads()}
        found = self.booster.predict(rows.cpu().numpy(), raw_score=True, **how)
        return torch.from_numpy(np.asarray(found, dtype=np.float32))

    def bytes_per_score(self, items: Any) -> int:
        """A pair's columns, and a copy."""
        return 8 * len(self.names)

    # -- learning ----------------------------------------------------------------------------------------------------

    def prepare(self, train: Dataset) -> None:
        """Counts each item's positive events."""
        self._train = train
        self.counts.copy_(train.item_counts)

    def start(self) -> None:
        """Makes the columns of every example, and no tree."""
        if self._train is None:
            raise TypeError("prepare() comes first")
        seed = int(torch.randint(2**31 - 1, ()))
        examples = _Examples()
        for batch in self.model.view.open(self._train).batches(torch.Generator().manual_seed(seed)):
            examples.add(self, batch)
        self.booster = examples.booster(self.model, self.codes, seed)
        self.lists = examples.lists
        self.rounds.zero_()

    def forward(self, batch: Batch) -> Tensor:
        """Grows the next trees.

        Returned in place of a loss: over lists the mean of −log softmax of what was taken, which LambdaRank's gradients
        stand for; of single candidates binary cross-entropy.
        """
        self._grow(int(self.rounds) + self.model.trees)
        self.rounds.fill_(self.booster.current_iteration())
        found = self.booster.eval_train(_list_loss if self.lists else None)
        return torch.tensor(found[0][2])

    def _grow(self, rounds: int) -> None:
        """As many trees, but for those that find no split that is worth its leaves; a run that is resumed has none."""
        for _ in range(rounds - self.booster.current_iteration()):
            if self.booster.update():
                break

    # -- what a file holds -------------------------------------------------------------------------------------------

    def get_extra_state(self) -> Tensor:
        """(bytes,) uint8: the trees that count, as LightGBM writes them; without any a scalar."""
        if self.booster is None or not int(self.rounds):
            return torch.tensor(0, dtype=torch.uint8)
        self._grow(int(self.rounds))
        text = self.booster.model_to_string(num_iteration=int(self.rounds))
        return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Any) -> None:
        """The inverse.  Raises ValueError for what LightGBM cannot read, or trees over other columns."""
        if not state.dim():
            self.booster = None
            return
        library = _lightgbm()
        try:
            booster = library.Booster(model_str=bytes(state.cpu().numpy()).decode())
        except library.basic.LightGBMError as error:
            raise ValueError(f"LightGBM cannot read the trees: {error}") from None
        if booster.num_feature() != len(self.names):
            raise ValueError(f"the trees read {booster.num_feature()} columns, the model has {len(self.names)}")
        self.booster = booster

    # -- why ---------------------------------------------------------------------------------------------------------

    def shares_of_fields(self, contexts: Contexts, item: Tensor, pair: Tensor | None) -> list[tuple[str, str, float]]:
        """Each field's share by SHAP values of the trees (Lundberg et al. 2020), which sum to the score."""
        rows = self._rows(self.context_state(contexts), self.item_state(item)[None], pair)[0]
        found = self._predicted(rows, pred_contrib=True)
        values = found[0].double().tolist() if found.dim() == 2 else [0.0] * (len(self.names) + 1)
        sums = dict.fromkeys([*self.names, "bias"], 0.0)
        for name, value in zip([*self.names, "bias"], values, strict=True):
            sums[name] += value
        return [(name, "", value) for name, value in sums.items()]


class _Examples:
    """Pairs that train has, as LightGBM wants them: list by list."""

    def __init__(self) -> None:
        self.rows: list[Matrix] = []
        self.labels: list[Tensor] = []
        self.weights: list[Tensor] = []
        self.sizes: list[Tensor] = []
        self.lists = False
        """Whether a context has several candidates."""

    def add(self, net: LambdaMARTNet, batch: Batch) -> None:
        """The pairs of a batch that weigh something; a list's pairs weigh what its taken items do on average."""
        candidates, labels = batch.listed  # both (B, C)
        self.lists = self.lists or labels.shape[1] > 1
        weights = torch.ones_like(labels) if batch.weights is None else batch.weights
        kept, taken = weights > 0, (labels > 0) & (weights > 0)
        if self.lists:
            kept &= taken.any(1, keepdim=True)
            own = (weights * taken).sum(1, keepdim=True) / taken.sum(1, keepdim=True).clamp(min=1)
            weights = own.expand_as(weights)
        ids = candidates.items
        items = net.item_state(ids.flatten()).view(*ids.shape, -1)
        rows = net._rows(net.context_state(batch.contexts), items, candidates.pair)
        self.rows.append(np.ascontiguousarray(rows[kept].numpy(), dtype=np.float32))
        self.labels.append(labels[kept])
        self.weights.append(weights[kept])
        self.sizes.append(kept.sum(1))

    def booster(self, model: LambdaMART, codes: list[int], seed: int) -> Any:
        """LightGBM's learner over them."""
        library, weights, sizes = _lightgbm(), torch.cat(self.weights), torch.cat(self.sizes)
        if not weights.numel():
            raise InputError("no list of train holds a taken item that weighs something; check labels and weights")
        data = library.Dataset(
            [part for part in self.rows if len(part)],
            torch.cat(self.labels).numpy(),
            weight=(weights / weights.mean()).numpy(),
            group=sizes[sizes > 0].numpy() if self.lists else None,
            categorical_feature=codes,
            params={"verbosity": -1, "min_data_in_leaf": model.min_leaf},
        )
        self.rows = []
        task = {"objective": "lambdarank", "metric": "None"} if self.lists else {"objective": "binary"}
        return library.Booster({
            **task, "num_leaves": model.leaves, "min_data_in_leaf": model.min_leaf, "lambda_l2": model.l2,
            "cat_smooth": model.min_leaf, "min_data_per_group": model.min_leaf, "feature_fraction": model.columns,
            "learning_rate": model.learning_rate, "lambdarank_truncation_level": model.truncation, "seed": seed,
            "deterministic": True, "force_row_wise": True, "num_threads": torch.get_num_threads(), "verbosity": -1,
        }, data)  # fmt: skip


def _list_loss(scores: npt.NDArray[np.float64], data: Any) -> tuple[str, float, bool]:
    """−log softmax of each list's taken items, the mean over lists as they weigh: a metric in LightGBM's shape."""
    values, labels = torch.from_numpy(scores), torch.from_numpy(np.asarray(data.get_label())) > 0
    given = data.get_weight()  # None where all weigh 1
    weights = torch.ones_like(values) if given is None else torch.from_numpy(np.asarray(given)).double()
    sizes = torch.from_numpy(np.asarray(data.get_group())).long()
    row = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
    peak = torch.full((len(sizes),), -torch.inf, dtype=values.dtype).scatter_reduce(0, row, values, "amax")
    mass = torch.zeros_like(peak).index_add(0, row, (values - peak[row]).exp())
    losses = (peak + mass.log())[row] - values
    of_each = labels / torch.zeros_like(peak).index_add(0, row, labels.double()).clamp(min=1)[row] * weights
    return "softmax", float((losses * of_each).sum() / of_each.sum().clamp(min=1e-12)), False


def _lightgbm() -> Any:
    """The library.  Raises MissingExtra where it is not installed."""
    try:
        import lightgbm
    except ImportError:
        raise missing_extra("lightgbm", "gbdt") from None
    return lightgbm
