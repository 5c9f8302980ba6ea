"""A plan that runs on the engine itself, so that its answers are the engine's to the bit."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import torch

from suisen.data.batch import Contexts
from suisen.recommending.engine import Filters, States


class EnginePlan:
    """Prepares as the engine would, and makes lists with an engine that is given what was prepared."""

    most = 1_000
    quick = True

    def __init__(self, engine):
        self.engine, self.prepared = engine, []
        self.on_prepare = lambda: None

    def of(self, engine):
        other = copy(self)
        other.engine = engine
        return other

    def describe(self):
        return {"candidates": "torch", "agreement": None}

    @torch.no_grad()
    def prepare(self, contexts):
        self.prepared.append(len(contexts))
        queries = self.engine.first.prepare(contexts).float().numpy()
        rows = self.engine.ranker.context_state(contexts).numpy() if self.engine.states is not None else None
        self.on_prepare()
        return States(queries, rows)

    def lists(self, states, k, exclude, among=None, open_=None):
        given, first = copy(self.engine), copy(self.engine.first)
        first.prepare = lambda contexts: torch.from_numpy(states.queries)[contexts.user]
        given.first = first
        if states.rows is not None:
            state = torch.from_numpy(states.rows)
            combine = self.engine.ranker.combine
            given.ranker = SimpleNamespace(context_state=lambda contexts: state[contexts.user], combine=combine)
        contexts = Contexts.of_users(torch.arange(len(states.queries)))
        return given.lists(contexts, k, Filters(exclude, among, open_))


def with_plan(system, plan=None):
    """A system whose engine has such a plan, or the one given; the system given stays as it is."""
    engine = copy(system.engine)
    engine.plan = EnginePlan(system.engine) if plan is None else plan
    return replace(system, engine=engine)
