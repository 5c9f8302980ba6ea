"""Requests made from the descriptions, good ones and bad ones: all checks of schemathesis, on both fronts and on the
admin listener.

``SUISEN_FUZZ=2000`` makes as many of each kind for each path, at random; without it a few, the same ones each time.
"""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.endpoints.admin import ADMIN
from suisen.serving.server import running
from suisen.serving.settings import Settings
from tests.serving.sockets import Served

schemathesis = pytest.importorskip("schemathesis")
EXAMPLES = int(os.environ.get("SUISEN_FUZZ", "0"))
EXPLAINED = re.compile(
    r"= -?[\d.]+(e[+-]?\d+)?,? must be a whole number"  # 7.0 is a whole number to JSON Schema, and not to us
    r"|= -?[\d.e+]+\.\.\. must be a whole number"
    r"|^(queries\[\d+\]\.)?(user_features|context)\."  # features that the bundle does not have
    r"|where"
    r"|is unknown to train|brings a history of which train knows no item"
    r"|names neither user_id nor session_id|must be from 1970 to now|must be 1970 or later"
    r"|must be an ISO 8601 time"  # leap seconds, years of five digits, zones without minutes
    r"|^explain: item .* is unknown"
    r"|more than 100,000 items|must be at most 500|units of price are above"
)
"""Refusals of what the schema allows: ``/openapi.json`` says of each that it may come."""


@pytest.fixture(scope="module", params=["fast", "asgi"])
def described(request, recommender, tmp_path_factory):
    """(the description, the server) of one front."""
    options = Settings(deadline_s=60, log_dir=tmp_path_factory.mktemp("log"))
    with Served(request.param, lambda: recommender.system, options) as made:
        url = f"http://127.0.0.1:{made.address[1]}"
        yield schemathesis.openapi.from_url(f"{url}/openapi.json"), made


@pytest.fixture(scope="module")
def admin(recommender, tmp_path_factory):
    """(the description, the server) of the admin listener."""
    options = Settings(deadline_s=60, log_dir=tmp_path_factory.mktemp("log"), admin_port=0, insecure=True)
    with running(recommender.system, options) as made:
        yield schemathesis.openapi.from_url(f"{made.admin_url}/admin/openapi.json"), made


def unexplained(case, response):
    """What schemathesis finds that is not explained."""
    try:
        case.validate_response(response)
    except BaseExceptionGroup as error:
        found = list(error.exceptions)
    else:
        return []
    if response.status_code == 422:
        refusal = response.json()
        if refusal["code"] in ("bundle_refused", "id_reused") or EXPLAINED.search(refusal["detail"]):
            found = [each for each in found if type(each).__name__ != "RejectedPositiveData"]
    return found


def hold(schema, endpoint, kind):
    """Sends requests of a kind to an operation; each answer is held to the description."""
    operation = schema[endpoint.path][endpoint.method.lower()]
    requests = operation.as_strategy(generation_mode=schemathesis.GenerationMode[kind])

    @given(case=requests)
    @settings(
        max_examples=EXAMPLES or 10, derandomize=not EXAMPLES, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def run(case):
        response = case.call()
        assert response.status_code < 500
        assert unexplained(case, response) == [], (response.request.url, response.request.body, response.text)

    run()


@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.operation)
def test_every_answer_is_described(described, endpoint, kind):
    schema, server = described
    hold(schema, endpoint, kind)
    assert server.app.service.state == "ready"


@pytest.mark.parametrize("kind", ["POSITIVE", "NEGATIVE"])
@pytest.mark.parametrize("endpoint", ADMIN, ids=lambda endpoint: endpoint.operation)
def test_every_answer_of_the_admin_listener_is_described(admin, endpoint, kind):
    schema, server = admin
    hold(schema, endpoint, kind)
    assert server.app.service.state == "ready"
