"""``GET /v1/bundle``: what answers, and how."""

from dataclasses import asdict
from typing import Any

from msgspec import Struct

from suisen.models import name_of
from suisen.models.contract import Model
from suisen.recommending.sources import models_of, names_of
from suisen.recommending.system import System
from suisen.serving.contract import Endpoint, NoParams
from suisen.serving.exchange import Exchange
from suisen.serving.service import Service
from suisen.serving.settings import Settings


class ModelAnswer(Struct, frozen=True):
    """One stage."""

    name: str
    hyper: dict[str, Any]
    """Its hyper-parameters."""


class SourceAnswer(ModelAnswer, frozen=True):
    """One way to find candidates."""

    source: str
    """What it is called here, and in the names of the ranker's features."""
    quota: int
    """Candidates that it gives before the sources take turns."""


class LogAnswer(Struct, frozen=True):
    """What the server keeps of events."""

    durable: str
    """What 202 says of them: ``os``, with the operating system, outlives the process; ``disk``, on the disk, outlives a
    power cut; ``broker``, in Kafka."""
    repeat_ids: int
    repeat_s: float
    """An event whose id was taken is a repeat while so many newer ids, or so many seconds, have not passed."""
    impressions: bool
    """Whether lists are logged."""


class BundleAnswer(Struct, frozen=True):
    """The bundle that answers."""

    version: str
    retriever: ModelAnswer | None
    """The model of the first stage; null where there are several, or none."""
    sources: list[SourceAnswer]
    """The models of the first stage, whose candidates are merged where there are several."""
    ranker: ModelAnswer | None
    candidates: int
    """Items that the retriever hands to the ranker."""
    abilities: list[str]
    """Which queries the model can answer beside those of users whom train knows."""
    users: int
    items: int
    """Known by id; with events in train are ``trained_users`` and ``trained_items``."""
    trained_users: int
    trained_items: int
    features: dict[str, list[str]]
    """Names by whose they are: user, item, context."""
    index_recall: float | None
    """Share of the nearest items that the index finds, where it was measured."""
    notes: list[str]
    """What is to be said of how it was trained."""
    plan: dict[str, Any] | None
    """How requests that are not ``precise`` are answered: what is compiled, on which instructions of the processor, at
    which speed, and how its lists agree with the precise ones; null where all run on torch."""
    on_torch: str | None
    """Why there is no plan."""
    rules: dict[str, str]
    """Name → kind (require, boost, cap, pin) of the rules of the last stage, in the order in which they work."""
    log: LogAnswer | None
    """Null where the server keeps no log."""


async def bundle(service: Service, exchange: Exchange, message: NoParams) -> BundleAnswer:
    """What answers: version, models, counts, and the plan of fast answers with its measured agreement."""
    system = exchange.slot.answering.system
    store, engine = system.store, system.engine
    return BundleAnswer(
        version=exchange.slot.version,
        retriever=None if isinstance(system.retriever, tuple) else _described(system.retriever),
        sources=_sources(system),
        ranker=_described(system.ranker),
        candidates=engine.candidates,
        abilities=sorted(system.abilities),
        users=len(store.users) - 1,
        items=len(store.items) - 1,
        trained_users=int(store.trained_users.sum()),
        trained_items=int(store.trained_items.sum()),
        features={owner: [column.name for column in encoder.columns] for owner, encoder in store.encoders.items()},
        index_recall=system.index_recall,
        notes=list(system.notes),
        plan=None if engine.plan is None else engine.plan.describe(),
        on_torch=engine.on_torch if engine.plan is None else None,
        rules=system.rules.kinds,
        log=_log_of(service.settings),
    )


def _log_of(settings: Settings) -> LogAnswer | None:
    if settings.log_dir is None:
        return None
    return LogAnswer(settings.durable, settings.repeat_ids, settings.repeat_s, settings.impressions)


def _sources(system: System) -> list[SourceAnswer]:
    union, models = system.engine.union, models_of(system.retriever)
    quotas = {} if union is None else union.quotas
    return [
        SourceAnswer(name_of(model), asdict(model), name, quotas.get(name, 0))  # type: ignore[call-overload]
        for name, model in zip(names_of(models), models, strict=True)
    ]


def _described(model: Model | None) -> ModelAnswer | None:
    return None if model is None else ModelAnswer(name_of(model), asdict(model))  # type: ignore[call-overload]


ENDPOINT = Endpoint("GET", "/v1/bundle", bundle, takes=NoParams, answers=BundleAnswer)
