"""Versions beside each other: every request is answered by one of them, whatever is switched meanwhile."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from suisen.serving.answering import Answering
from suisen.serving.settings import Settings
from suisen.serving.slots import Slot
from tests.fitted import fitted
from tests.recommending.planning import with_plan
from tests.serving.client import JSON, Client

USERS = [f"u{one % 70:04}" for one in range(300)]


@pytest.fixture(params=["planned", "precise"])
def systems(request):
    made = [fitted("mf").system, fitted("ease").system]
    made = [with_plan(one) for one in made] if request.param == "planned" else made
    return [replace(system, version=name) for name, system in zip(["first", "second"], made)]


def lists(answers):
    return [[item["item_id"] for item in answer["items"]] for answer in answers]


def alone(system):
    """What a server of one version answers."""
    with Client(lambda: system, Settings(deadline_s=60.0)) as client:
        answers = client.post("/v1/recommend/batch", {"queries": [{"user_id": user} for user in USERS]}).json["answers"]
        return dict(zip(USERS, lists(answers)))


def test_requests_of_two_versions_are_in_one_turn_and_none_is_mixed(systems):
    expected = {system.version: alone(system) for system in systems}
    with Client(lambda: systems[0], Settings(deadline_s=60.0)) as client:
        service = client.app.service
        slots = [service.slot, Slot(Answering(systems[1]))]

        async def ask(place):
            service.slot = slots[place % 2]
            body = json.dumps({"queries": [{"user_id": USERS[place]}, {"user_id": USERS[-place]}]}).encode()
            return await client.call("POST", "/v1/recommend", body, JSON)

        async def all_at_once():
            return await asyncio.gather(*[ask(place) for place in range(1, 200)])

        for place, response in enumerate(client.run(all_at_once()), 1):
            version = ["first", "second"][place % 2]
            assert response.status == 200, response.body
            assert response.json["version"] == version
            found = lists(response.json["answers"])
            assert found == [expected[version][USERS[place]], expected[version][USERS[-place]]]


def test_a_batch_that_a_switch_falls_into_is_answered_by_the_version_that_it_began_on(systems):
    expected = {system.version: alone(system) for system in systems}
    with Client(lambda: systems[0], Settings(deadline_s=60.0)) as client:
        service = client.app.service
        slots = {"first": service.slot, "second": Slot(Answering(systems[1]))}

        async def switched():
            body = json.dumps({"queries": [{"user_id": user} for user in USERS]}).encode()
            asked = [asyncio.ensure_future(client.call("POST", "/v1/recommend/batch", body, JSON)) for _ in range(2)]
            for turn in range(60):
                await asyncio.sleep(0)
                service.slot = slots[["first", "second"][turn % 2]]
            return await asyncio.gather(*asked)

        for response in client.run(switched()):
            assert response.status == 200, response.body
            version = response.json["version"]
            assert lists(response.json["answers"]) == [expected[version][user] for user in USERS]
