"""What the server says of the bundle that answers."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from suisen.serving.settings import Settings
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.client import Client

TOLD = {"candidates": "compiled", "ranker": None, "path": "avx2", "agreement": {"identical": 0.995, "requests": 64}}


def answered(system):
    with Client(lambda: system, Settings(deadline_s=60.0)) as client:
        metrics = [line for line in client.get("/metrics").body.decode().splitlines() if "suisen_plan" in line]
        return client.get("/v1/bundle").json, metrics


@pytest.mark.parametrize("name", ["ease", "fm", "two-tower + deepfm"])
def test_models_counts_and_features(name):
    recommender = fitted(name)
    system, store = recommender.system, recommender.store
    told, metrics = answered(system)
    for stage in ("retriever", "ranker"):
        model = getattr(system, stage)
        if model is None:
            assert told[stage] is None
        else:
            hyper = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(model).items()}
            assert told[stage]["hyper"] == hyper
    assert " + ".join(told[stage]["name"] for stage in ("retriever", "ranker") if told[stage]) == system.name
    counts = [store.schema.n_users, store.schema.n_items]
    assert [told["users"] + 1, told["items"] + 1] == counts == [63, 82]
    assert told["trained_users"] == int(store.trained_users.sum()) < told["users"]
    assert told["trained_items"] == int(store.trained_items.sum()) < told["items"]
    assert told["abilities"] == sorted(system.abilities)
    assert told["candidates"] == 30
    assert told["features"]["context"] == ["device"]
    assert set(told["features"]) == {"user", "item", "context"}
    assert told["notes"] == list(system.notes)
    assert (told["plan"], told["on_torch"]) == (None, system.engine.on_torch)
    assert told["index_recall"] == system.index_recall
    (info,) = [line for line in metrics if line.startswith("suisen_plan_info{")]
    assert info == f'suisen_plan_info{{torch="{system.engine.on_torch}"}} 1.0'


def test_a_plan_and_its_agreement(monkeypatch):
    system = with_plan(fitted("mf").system)
    monkeypatch.setattr(type(system.engine.plan), "describe", lambda self: dict(TOLD), raising=False)
    told, metrics = answered(system)
    assert told["plan"] == TOLD
    assert told["on_torch"] is None
    assert 'suisen_plan_agreement{figure="identical"} 0.995' in metrics
    assert 'suisen_plan_agreement{figure="requests"} 64.0' in metrics
    (info,) = [line for line in metrics if line.startswith("suisen_plan_info{")]
    assert all(part in info for part in ('path="avx2"', 'candidates="compiled"', 'ranker="None"'))
