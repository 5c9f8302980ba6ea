"""The System: a trained recommender system, ready to answer; what a bundle holds, in memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from suisen.display import brief
from suisen.models.contract import Model
from suisen.recommending.engine import Engine, Open
from suisen.recommending.queries import DenseQueries, answerable
from suisen.recommending.rules.bound import BoundRules
from suisen.recommending.rules.declared import Rules
from suisen.recommending.sources import Sourced, models_of, names_of
from suisen.recommending.store import Store


def first_of(retriever: Sourced, ranker: Model | None) -> tuple[Model, ...]:
    """The models of the first stage: the sources, or a ranker that ranks everything by itself."""
    first = models_of(retriever) or models_of(ranker)
    if not first:
        raise TypeError("a system needs a retriever, a ranker or both")
    return first


def name_of_both(retriever: Sourced, ranker: Model | None) -> str:
    """The models' names, like ``ease + deepfm``, of several sources ``ease, item-knn + deepfm``."""
    stages = (models_of(retriever), models_of(ranker))
    return " + ".join(", ".join(names_of(models)) for models in stages if models)


@dataclass(frozen=True, eq=False)
class System:
    """Models, their networks and all that is known of users and items: enough to answer, nothing to train with."""

    __repr__ = brief

    retriever: Sourced
    """Hyper-parameters of the first stage, of several sources a tuple; the networks are the engine's."""
    ranker: Model | None
    """Hyper-parameters of the second stage."""
    store: Store
    engine: Engine
    seed: int = 0
    """What training drew its random numbers from."""
    index_recall: float | None = None
    """Share of the exact nearest items that an approximate index finds; None without one."""
    notes: Sequence[str] = ()
    """What is to be said of how it was trained."""
    version: str = ""
    """Names the bundle it was loaded from; "" for one that was not saved."""
    created: str = ""
    """When that was saved: ISO 8601, UTC."""
    exclude_seen: bool = True
    """Whether answers leave out what the user took before, where a request does not say."""
    epochs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Stage → the epochs that were kept of each of its phases: for so long it is refitted."""
    lists: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the lists that the ranker learnt on."""
    refitted: str = ""
    """Where it was refitted after it was measured: on what, in words."""
    rules: Rules = field(default_factory=Rules)
    """What holds for every list where a request brings no rules of its own."""

    @cached_property
    def bound_rules(self) -> BoundRules:
        """The rules over this catalogue.  Raises InputError naming the rule that does not fit it."""
        return BoundRules(self.rules, self.store)

    def rules_for(self, given: Rules | None) -> BoundRules:
        """Rules that a request brings, or the system's own where it brings none."""
        return self.bound_rules if given is None else BoundRules(given, self.store)

    @property
    def abilities(self) -> frozenset[str]:
        """Which queries the first stage can answer, of several sources some: see ``suisen.models.contract.Ability``."""
        return frozenset(each for model in first_of(self.retriever, self.ranker) for each in model.abilities)

    def answerable(self, queries: DenseQueries) -> Tensor:
        """(B,) bool: which queries a source, or the ranker by itself, can answer."""
        able = [answerable(queries, frozenset(m.abilities)) for m in first_of(self.retriever, self.ranker)]
        return torch.stack(able).any(0)

    def apart(self) -> "System":
        """The same, on which items may be blocked without the other's noticing."""
        return replace(self, engine=self.engine.apart())

    def block(self, items: Tensor) -> None:
        """No list holds these (m,) dense items from now on, and all others may again; lists are as long as before while
        enough is left.
        """
        engine, popular = self.engine, self.store.popular
        mask = engine.allowed.clone()
        mask[items] = False
        mask[0] = False
        if not items.numel():
            engine.open = Open(engine.allowed, engine.n_allowed, None)
        else:
            engine.open = Open(mask, int(mask.sum()), popular[~torch.isin(popular, items)], items)

    @property
    def name(self) -> str:
        """The models' names, like ``ease + deepfm``."""
        return name_of_both(self.retriever, self.ranker)
