"""What rankers with a deep net over field vectors are told: DeepFM (Guo et al. 2017), DCN-v2 (Wang et al. 2021)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from suisen.data.views import Rows, View
from suisen.models.contract import Ability, Phase, hyper_parameters
from suisen.models.layers import adam
from suisen.parameters import Search


@hyper_parameters
class DeepFields:
    """Field vectors, the deep net over them, and how both are trained."""

    abilities: ClassVar[frozenset[Ability]] = frozenset({"new users", "new items", "history", "features"})

    dim: Annotated[int, Field(ge=1, le=4096), Search(choices=(8, 16, 32))] = 16
    """Length of a field's vector."""
    hidden: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...], Search(choices=((64,), (128, 64), (256, 128, 64), (400, 400, 400)))
    ] = Field((128, 64), min_length=1)
    """Widths of the deep net's layers."""
    dropout: Annotated[float, Field(ge=0, lt=1), Search(0, 0.5)] = 0.2
    """In the deep net."""
    batch_norm: bool = True
    """Batch norm behind each of the deep net's linear layers."""
    history: Annotated[int, Field(ge=0, le=1000)] = 50
    """Most items of history read as one more field (their mean); 0: none."""
    recent: Annotated[int, Field(ge=0, le=1000)] = 3
    """The same for the newest items alone: what follows what (Rendle et al. 2010, FPMC); 0: none."""
    hide_ids: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of user and item ids, and of user features, hidden in training: unknown ones are then no surprise."""
    l2: Annotated[float, Field(ge=0), Search(1e-7, 0.1, log=True)] = 1e-6
    """λ: half of it times the squared norm of all field tables is added to each batch's loss."""
    negatives: Annotated[int, Field(ge=1, le=1000)] = 4
    """Items drawn for each positive where train has neither labels nor lists."""
    learning_rate: Annotated[float, Field(gt=0, le=1), Search(2e-4, 5e-3, log=True)] = 1e-3
    """Step of Adam."""
    batch_size: Annotated[int, Field(ge=2)] = 1024
    """Contexts in a batch; fewer where an epoch would have fewer than 20 batches."""
    epochs: Annotated[int, Field(ge=1)] = 30
    """Most passes over train."""

    @property
    def view(self) -> View:
        """Contexts with candidates and labels."""
        return Rows(batch_size=self.batch_size, negatives=self.negatives, history=max(self.history, self.recent))

    def phases(self, net: Any) -> list[Phase]:
        """One phase of Adam."""
        return [Phase(net, adam(self.learning_rate), self.epochs)]
