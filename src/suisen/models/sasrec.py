"""SASRec: causal self-attention over the items of a history (Kang & McAuley, 2018), by default with the full softmax.

x_t = √d · E[item t] + P[position], then the causal transformer of ``suisen.models.transformer``; h_t is its state at t.
score(history, i) = h_newest · E[i]: the table that is read is the table that is scored.

Losses, each the mean over all positions t of predicting y = item t + 1 from h = h_t:
* softmax: −log exp(h·E[y]) / Σ_i exp(h·E[i]), over all items.
* sampled: the same over y and N drawn items j, exp(h·E[j] − log (N q_j)) each (Jean et al. 2015).
* bce: −log σ(h·E[y]) − Σ_j log(1 − σ(h·E[j])), divided by N + 1: the paper's (section III-E), where N = 1.
* gbce: bce with σ(h·E[y])^β, which mends the overconfidence of sampled bce (Petrov & Macdonald 2023).

Cost per sequence of L items: blocks · (12 L d² + 2 L² d) multiply-adds forward, and L · n_items · d for the full
softmax, which dominates (three times that with its gradients).  With sampled negatives n_items becomes their number;
``suisen.models.sampled`` says how they are shared and what that costs.
Memory of the loss, measured at 20,000 positions of d = 64: over all 3,417 items 19 MB, over 12,102 38 MB (a plain
cross-entropy: 784 MB at 3,417); 256 drawn ones, whatever the catalogue, 94 MB shared by the batch, 151 MB of each
sequence, 263 MB of each position.  The table's gradient is dense and held twice: 2 · 244 MB at a million items.
"""

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from suisen.data.batch import Schema
from suisen.data.ragged import Ragged
from suisen.models.contract import hyper_parameters
from suisen.models.layers import IdEmbedding
from suisen.models.sampled import Negatives, Per, calibrated_bce, calibration
from suisen.models.sequence_model import AttentionModel, CausalNet
from suisen.models.sequences import Positions
from suisen.models.transformer import Transformer
from suisen.parameters import After

Loss = Literal["softmax", "sampled", "bce", "gbce"]
DEFAULTS: dict[str, tuple[int, Per]] = {"sampled": (256, "batch"), "bce": (1, "position"), "gbce": (256, "sequence")}
"""Of each loss: how many negatives are drawn where ``negatives`` is 0, and what shares them where it is not said."""


@hyper_parameters
class SASRec(AttentionModel):
    """A transformer that reads a history and predicts its next item (Kang & McAuley 2018).

    Answers users and guests with a history, for items that train has events of; without a history all scores are 0.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(su.SASRec(dim=4, epochs=1)).fit(data)
    >>> recommender.recommend(history=[7, 3], k=5).shape
    (5, 4)
    """

    published: Annotated[bool, After("dropout")] = False
    """Blocks as in the authors' code, whose residuals start from the normalised input; False: as in the paper."""
    loss: Loss = "softmax"
    """softmax: over all items; sampled: softmax over drawn ones, corrected by log q; bce: of the paper; gbce: bce
    calibrated for many negatives (Petrov & Macdonald 2023)."""
    negatives: Annotated[int, Field(ge=0)] = 0
    """Items drawn beside each next item, for the losses other than softmax; 0: 1 for bce (its paper), 256 else."""
    negatives_per: Literal["auto", "position", "sequence", "batch"] = "auto"
    """What each draw of negatives serves; auto: a position for bce, a sequence for gbce, the batch for sampled."""
    power: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Negatives are drawn ~ (events of the item) ^ power: 0 uniformly, as both bce ask for, 1 by popularity."""
    calibration: Annotated[float, Field(ge=0, le=1)] = 0.75
    """t of gbce: 0 is bce, 1 makes scores as little overconfident as the full softmax does."""

    def build(self, schema: Schema) -> "SASRecNet":
        """Item and position tables and the blocks."""
        return SASRecNet(self, schema)


class SASRecNet(CausalNet):
    """An item table and a causal transformer over it."""

    def __init__(self, model: SASRec, schema: Schema) -> None:
        super().__init__()
        self.model = model
        self.item = IdEmbedding(schema.n_items, model.dim, 0.02)
        # the paper's feed-forward layer is as wide as the states
        self.body = Transformer(model.shape_of(inner=model.dim, published=model.published))
        self.negatives = None
        if model.loss != "softmax":
            count, per = DEFAULTS[model.loss]
            per = per if model.negatives_per == "auto" else model.negatives_per
            self.negatives = Negatives(model.negatives or count, per, model.power)

    def states(self, items: Ragged) -> Tensor:
        """(B, L, d) states of B rows of at most ``length`` items, padded on the right."""
        x = self.item(items.padded()) * self.model.dim**0.5  # (B, L, d)
        return self.body(x, items.lengths)

    def sampled_loss(self, at: Positions, negatives: Negatives) -> Tensor:
        """Softmax over draws, or binary cross-entropies, in which draws of the sequence's own items do not count."""
        if self.model.loss == "sampled":
            return super().sampled_loss(at, negatives)
        ids, hits = negatives.strangers(at)
        positive, negative = self.scores(at, negatives, ids)
        t = self.model.calibration if self.model.loss == "gbce" else 0.0
        power = calibration(negatives.count, len(negatives.pool), t)
        return calibrated_bce(positive, negative, hits, power, at.weights)
