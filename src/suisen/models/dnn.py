"""DNN for ranking (Covington et al. 2016): everything known of context and item, side by side, through a tower.

score = MLP([user id; user and context features; mean of the history's items; example age; item id; item features;
pair features]).  Items of the history and the item that is scored share one table (section 4.1 of the paper).

*Example age* (section 3.3): a net trained on a window of time learns what was taken in the window on average, not what
is taken now.  Training therefore tells it how old each example was, as a share of the window from its newest event
back, and the root of that share; a recommendation is always made at the window's end, where the age is 0.  Data without
times have no age.

Cost left per pair: h₁·h₂ + h₂·h₃ + … multiply-adds, for the first layer is split into sides (see ``SplitMLP``), and
4·h₁ bytes of item state.
"""

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from suisen.data.batch import Contexts, Schema
from suisen.data.dataset import Dataset
from suisen.models.contract import hyper_parameters
from suisen.models.field_ranker import DeepRanker, FieldRankerNet
from suisen.models.form import Form, additive
from suisen.models.layers import ContextVectors, ItemVectors, SplitMLP, pooled, retrieval_prior
from suisen.parameters import After, Search


@hyper_parameters
class DNN(DeepRanker):
    """Tower over pooled history, user, context and item; logistic loss.

    Loss: ``loss`` over each list; binary cross-entropy where the data are labelled one candidate at a time.  Answers
    every context and scores every item: what it does not know by its id it knows by features and history.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(ranker=su.models.DNN(dim=4, hidden=(8,), epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(8, 16, 32, 64))] = 16
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((256, 128, 64), min_length=1)
    example_age: Annotated[bool, After("recent")] = True
    """Whether training tells the tower how old each example was; when it answers, the age is 0."""
    l2: Annotated[float, Field(ge=0), Search(1e-6, 1e-1, log=True)] = 1e-6
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(1e-4, 1e-2, log=True)] = 1e-3

    def build(self, schema: Schema) -> "DNNNet":
        """Field tables and the tower."""
        return DNNNet(self, schema)


class DNNNet(FieldRankerNet):
    """A side's state is its part of the tower's first layer (h₁)."""

    newest: Tensor
    window: Tensor

    def __init__(self, model: DNN, schema: Schema) -> None:
        super().__init__(model)
        self.spans = [span for span in (model.history, model.recent) if span]
        self.context = ContextVectors(schema, model.dim, ())
        self.item = ItemVectors(schema, model.dim)
        fields = self.context.count + len(self.spans)
        widths = fields * model.dim + 2 * model.example_age, self.item.count * model.dim, len(schema.pair)
        self.tower = SplitMLP(widths, model.hidden, model.dropout, model.batch_norm)
        self.out = nn.Linear(self.tower.out, 1)
        self.pair = nn.Parameter(retrieval_prior(schema))
        self.register_buffer("newest", torch.tensor(0), persistent=False)
        self.register_buffer("window", torch.tensor(0), persistent=False)

    def prepare(self, train: Dataset) -> None:
        """The window of time in which train lies; 0 where it has no times."""
        if train.has_time and len(train.events):
            self.newest = train.events.time.max()
            self.window = self.newest - train.events.time.min()

    def ages(self, contexts: Contexts) -> Tensor:
        """(B, 2): the example's age as a share of train's window, and its root; 0 out of training."""
        if not self.training or not int(self.window):
            return torch.zeros((contexts.user.shape[0], 2), dtype=self.out.weight.dtype, device=contexts.user.device)
        age = ((self.newest - contexts.time).double() / self.window).clamp(0, 1).to(self.out.weight.dtype)
        return torch.stack([age, age.sqrt()], 1)

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, h₁)."""
        fields = self.context(contexts, self.model.hide_ids).flatten(1)  # (B, F, k) -> (B, F·k)
        watched = [pooled(contexts.history.last(span), self.item.item.weight) for span in self.spans]
        age = [self.ages(contexts)] if self.model.example_age else []
        return self.tower.context(torch.cat([fields, *watched, *age], 1))

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, h₁)."""
        return self.tower.item(self.item(*self.rows(ids), self.model.hide_ids).flatten(1))

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        score = self.out(self.tower(context, item, pair, weights)).squeeze(-1)
        return score if pair is None or not self.pair.numel() else score + pair @ self.pair

    def form(self) -> Form:
        """The tower's, and the pair features' direct way."""
        return additive(self.out.bias, self.pair, own=0).beside(self.tower, self.out.weight[0])
