"""What the rankers over feature fields share: their hyper-parameters, their batches, their phase and their loss.

FM, FFM, DeepFM, Wide & Deep, DNN and DCN-v2 read the same *fields* (user id, item id, each feature, the history as the
mean of its items' vectors) and learn from the same batches; what differs is how the fields' vectors become a score.
"""

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from suisen.data.batch import Batch, Features
from suisen.data.views import Rows, View
from suisen.models.contract import Ability, OnePhase, Ranker, hyper_parameters
from suisen.models.layers import square_norm
from suisen.models.losses import ListLoss, of_rows
from suisen.parameters import After, Search


@hyper_parameters
class FieldRanker(OnePhase):
    """Hyper-parameters of every ranker over feature fields.  A model moves a default by writing the field again."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users", "new items", "history", "features", "weights"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(8, 16, 32))] = 16
    """Length of a field's vector."""
    history: Annotated[int, Field(ge=0, le=1000)] = 50
    """Most items of history read as one more field (their mean); 0: none."""
    recent: Annotated[int, Field(ge=0, le=1000)] = 3
    """The same for the newest items alone: what follows what (Rendle et al. 2010, FPMC); 0: none."""
    hide_ids: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of user and item ids, and of user features, hidden in training: the model learns to answer without them."""
    l2: Annotated[float, Field(ge=0), Search(1e-7, 0.1, log=True)] = 1e-6
    """λ: half of it times the squared norm of all field tables is added to each batch's loss."""
    negatives: Annotated[int, Field(ge=1, le=1000)] = 4
    """Items drawn for each positive where train has neither labels nor lists."""
    loss: ListLoss = "softmax"
    """Of lists: softmax over each, logistic of each candidate or lambda (LambdaRank); single candidates: logistic."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 2e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=1)] = 2048
    """Contexts in a batch; fewer where an epoch would have fewer than 20 batches."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Most passes over train."""

    @property
    def view(self) -> View:
        """Contexts with candidates and labels."""
        return Rows(batch_size=self.batch_size, negatives=self.negatives, history=max(self.history, self.recent))


@hyper_parameters
class DeepRanker(FieldRanker):
    """Hyper-parameters of those with a deep net over the fields' vectors."""

    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Search(choices=((64,), (128, 64), (256, 128, 64), (400, 400, 400))),
        After("dim"),
    ] = Field((128, 64), min_length=1)
    """Widths of the deep net's layers."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0, 0.5)] = 0.2
    """In the deep net."""
    batch_norm: bool = True
    """Batch norm behind each of the deep net's linear layers."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(2e-4, 5e-3, log=True)] = 1e-3
    batch_size: Annotated[int, Field(ge=2)] = 1024  # batch norm has nothing to say of one row


class FieldRankerNet(Ranker):
    """The network's side of it: a model gives the three parts of a ``Ranker``."""

    context: Any
    item: Any
    """The encoders of both sides' fields, where they are the network's own."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        """Its hyper-parameters: a ``FieldRanker``."""

    def tables(self) -> list[Tensor]:
        """What ``l2`` keeps small: the field tables, whose norm is taken whole in every step."""
        return [*self.context.parameters(), *self.item.parameters()]

    def rows(self, ids: Tensor) -> tuple[Tensor, Features]:
        """(n,) ids, 0 in the place of items that train has no event of, and the n items' features."""
        return self.items.known(ids), self.items.features.take(ids)

    def forward(self, batch: Batch) -> Tensor:
        """``loss`` of each list (logistic of single candidates) plus l2/2 · the squared norm of the tables."""
        candidates, labels = batch.listed  # both (B, C)
        scores = self.score(batch.contexts, candidates, batch.weights)
        loss = of_rows(scores, labels, batch.weights, self.model.loss)
        tables = self.tables()
        return loss + self.model.l2 / 2 * square_norm(tables) if tables else loss
