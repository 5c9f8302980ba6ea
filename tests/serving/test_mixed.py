"""Thousands of requests of every kind in flight: each gets the answer that it gets alone."""

from __future__ import annotations

import asyncio
import json
import random

import pytest

from suisen.recommending import planning
from suisen.recommending.kernels import PRECISE
from suisen.serving.settings import Settings
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.client import JSON, Client

REQUESTS = 2_000
USERS = [f"u{one:04}" for one in range(1, 61)] + ["ghost", "another"]
ITEMS = [f"i{one:03}" for one in range(1, 79)]


def asked(rng):
    """(method, path, body) of a request."""
    user = rng.choice(USERS)
    options = {
        "k": rng.choice([1, 5, 10, 40]),
        **rng.choice(
            [{}, {}, {"exclude_seen": False}, {"exclude": rng.sample(ITEMS, 3)}, {"among": rng.sample(ITEMS, 20)}]
        ),
        **rng.choice([{}, {}, {}, {"diversity": 0.3}, {"precise": True}, {"unknown": "skip"}]),
    }
    kind = rng.randrange(10)
    if kind == 0:
        return "GET", f"/v1/recommend/{user}?k={options['k']}", None
    if kind == 1:
        return "GET", f"/v1/similar/{rng.choice(ITEMS)}", None
    if kind == 2:
        return "POST", "/v1/rank", {"queries": [{"user_id": user, "items": rng.sample(ITEMS, 8)}]}
    if kind == 3:
        return "POST", "/v1/recommend", {"queries": [{"history": rng.sample(ITEMS, 3)}, {"user_id": user}], **options}
    if kind == 4:
        return "POST", "/v1/recommend", {"queries": [{"user_id": user, "user_features": {"age": rng.randrange(90)}}]}
    if kind == 5:
        return (
            "POST",
            "/v1/recommend/batch",
            {"queries": [{"user_id": one} for one in rng.sample(USERS, 20)], **options},
        )
    if kind == 6:
        return "POST", "/v1/recommend", {"queries": [{"user_id": user, "context": {"no such": 1}}]}
    return "POST", "/v1/recommend", {"queries": [{"user_id": user}], **options}


def told(response):
    """What an answer says, scores to what rounding leaves of them."""
    if response.status != 200:
        return response.status, response.json["code"], response.json["detail"]
    lists = response.json.get("answers", [{"items": response.json.get("items")}])
    rest = [{name: value for name, value in one.items() if name != "items"} for one in lists]
    return rest, [[(item["item_id"], item["rank"], round(item["score"], 3)) for item in one["items"]] for one in lists]


@pytest.mark.parametrize("name", ["two-tower + deepfm", "ease + fm"])
def test_each_gets_what_it_gets_alone(name):
    system = fitted(name).system
    plan = planning.make(system)
    if not isinstance(plan, str):
        plan.speed = plan.long_speed = PRECISE
    system = with_plan(system, None if isinstance(plan, str) else plan)
    rng = random.Random(1)
    pool = [asked(rng) for _ in range(REQUESTS // 10)]
    settings = Settings(deadline_s=120.0, max_queries=10**6, row_bytes=20_000)  # rows come and go

    with Client(lambda: system, settings) as client:

        async def ask(method, path, message):
            body = b"" if message is None else json.dumps(message).encode()
            return told(await client.call(method, path, body, JSON if message else None))

        async def all_at_once(requests):
            return await asyncio.gather(*[ask(*request) for request in requests])

        alone = [client.runner.run(ask(*request)) for request in pool]
        order = [rng.randrange(len(pool)) for _ in range(REQUESTS)]
        found = client.runner.run(all_at_once([pool[place] for place in order]))
    differing = [at for at, (place, got) in enumerate(zip(order, found)) if got != alone[place]]
    assert len(differing) <= REQUESTS // 100, (
        pool[order[differing[0]]],
        alone[order[differing[0]]],
        found[differing[0]],
    )
