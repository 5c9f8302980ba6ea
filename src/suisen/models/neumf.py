"""NeuMF: GMF and MLP added before the sigmoid (He et al. 2017, Neural Collaborative Filtering, section 3.4).

score(u, i) = h · (p_u ∘ q_i) + b + w · φ_L(… φ_1([p′_u; q′_i])) + b′, each part with vectors of its own.  Pretrained
(section 3.4.1): both parts are trained alone, their output weights are blended, h ← α h and w ← (1 − α) w, so that the
score is α times the GMF's logit plus 1 − α times the MLP's, and the whole is trained on.  The paper goes on with plain
SGD, because Adam's moments are lost; ``fine_tune`` says which.  Otherwise one phase trains both from the start.  Cost:
GMF's and MLP's added up.
"""

from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD

from suisen.data.batch import Batch, Contexts, Schema
from suisen.models.contract import Phase, Ranker, hyper_parameters
from suisen.models.form import Form
from suisen.models.gmf import NCF, GMFNet, loss_of
from suisen.models.layers import adam
from suisen.models.mlp import MLPNet
from suisen.parameters import After, Search


@hyper_parameters
class NeuMF(NCF):
    """GMF and MLP added, pretrained or not, logistic loss with sampled negatives.

    Loss: binary cross-entropy (the paper's equation 7); softmax over the lists of a first stage.  Answers users of
    train, on items of train: it knows nothing but their ids.

    >>> import suisen as su
    >>> data = su.Dataset.of(su.World(users=30, items=100, seed=0).generate().log)
    >>> recommender = su.Recommender(ranker=su.models.NeuMF(gmf_dim=4, mlp_dim=4, hidden=(8,), epochs=1)).fit(data)
    >>> recommender.recommend(users=[7], k=5).shape
    (5, 4)
    """

    gmf_dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(16, 32, 64, 128)), After("")] = 64
    """Length of a user or item vector of the GMF part."""
    mlp_dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(16, 32, 64, 128))] = 64
    """Length of a user or item vector of the MLP part."""
    hidden: tuple[Annotated[int, Field(ge=1)], ...] = Field((128, 64, 32), min_length=1)
    """Widths of the MLP part's hidden layers."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0, 0.5)] = 0.2
    """Behind each hidden layer."""
    pretrain: bool = True
    """Train GMF and MLP alone, blend them, go on; False: both at once from the start."""
    alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """α, the GMF's share of the blend."""
    gmf_l2: Annotated[float, Field(ge=0), Search(1e-4, 1e-1, log=True), After("negatives")] = 3e-2
    """Weight of the squared norm of the GMF part's vectors in each pair's loss."""
    mlp_l2: Annotated[float, Field(ge=0)] = 0.0
    """The same of the MLP part's vectors."""
    fine_tune: Annotated[Literal["adam", "sgd"], After("learning_rate")] = "adam"
    """What trains the blend; sgd is the paper's."""
    fine_tune_rate: Annotated[float, Field(gt=0), Search(1e-5, 1e-3, log=True)] = 1e-4
    """Its step."""
    epochs: Annotated[int, Field(ge=1)] = 40
    """Most passes over the positives in each phase; with validation data a phase stops earlier."""

    def build(self, schema: Schema) -> "NeuMFNet":
        """Both parts."""
        return NeuMFNet(self, schema)

    def phases(self, net: Any) -> list[Phase]:
        """GMF, MLP, then the blend; or the whole at once."""
        if not self.pretrain:
            return super().phases(net)
        alone = [*super().phases(net.gmf), *super().phases(net.mlp)]
        return [*alone, Phase(net, self._fine_tuner, self.epochs, before=net.blend)]

    def _fine_tuner(self, module: nn.Module) -> list[torch.optim.Optimizer]:
        if self.fine_tune == "adam":
            return adam(self.fine_tune_rate)(module)
        return [SGD(module.parameters(), self.fine_tune_rate)]


class NeuMFNet(Ranker):
    """A side's state is the GMF's vector, (d), beside the MLP's part of its first layer, (h₁)."""

    def __init__(self, model: NeuMF, schema: Schema) -> None:
        super().__init__()
        self.alpha = model.alpha
        self.gmf = GMFNet(schema, model.gmf_dim, model.gmf_l2)
        self.mlp = MLPNet(schema, model.mlp_dim, model.hidden, model.dropout, model.mlp_l2)
        self.widths = [model.gmf_dim, self.mlp.deep.width]

    @torch.no_grad()
    def blend(self) -> None:
        """Weighs the parts' outputs: the whole's logit is then α · GMF's + (1 − α) · MLP's, as they are now."""
        for weight in (self.gmf.h, self.gmf.bias):
            weight.mul_(self.alpha)
        for weight in (*self.mlp.out.parameters(), self.mlp.pair):
            weight.mul_(1 - self.alpha)

    def context_state(self, contexts: Contexts) -> Tensor:
        """(B, d + h₁)."""
        return torch.cat([self.gmf.query_vectors(contexts), self.mlp.context_state(contexts)], 1)

    def item_state(self, ids: Tensor) -> Tensor:
        """(n, d + h₁)."""
        return torch.cat([self.gmf.item(ids) * self.gmf.h, self.mlp.item_state(ids)], 1)

    def combine(self, context: Tensor, item: Tensor, pair: Tensor | None, weights: Tensor | None = None) -> Tensor:
        """(B, C) logits."""
        user_vector, user_layer = torch.split(context, self.widths, -1)
        item_vector, item_layer = torch.split(item, self.widths, -1)
        shallow = (item_vector @ user_vector.unsqueeze(2)).squeeze(2) + self.gmf.bias
        return shallow + self.mlp.combine(user_layer, item_layer, pair, weights)

    def form(self) -> Form:
        """The MLP's, with GMF's vectors in front of its inner product."""
        deep, cut = self.mlp.form(), self.widths[0]

        def context(state: Tensor) -> Tensor:
            return torch.cat([state[:, :cut], deep.context(state[:, cut:])], 1)

        def item(state: Tensor) -> Tensor:
            rest = deep.item(state[:, cut:])  # its first number is the bias
            return torch.cat([state[:, :cut], rest[:, :1] + self.gmf.bias, rest[:, 1:]], 1)

        return replace(deep, inner=cut + deep.inner, context=context, item=item)

    def forward(self, batch: Batch) -> Tensor:
        """Logistic loss (listwise on the lists of a first stage) plus l2 times the squared norms of both parts.

        The logits are ``score``'s; GMF's are made by its own path, which writes no vector per pair.
        """
        contexts, candidates = batch.contexts, batch.listed[0]
        user, items = contexts.user, candidates.items
        loss = loss_of(self.gmf.logits(user, items) + self.mlp.score(contexts, candidates, batch.weights), batch)
        return loss + self.gmf.penalty(user, items) + self.mlp.penalty(user, items)
