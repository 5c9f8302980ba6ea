"""What every endpoint keeps to.  The suite takes the endpoints from their registry.

Each check takes a client of a server that is ready and one endpoint; the id of its path, if it has one, is 7.
"""

from __future__ import annotations

import json
from dataclasses import replace
from urllib.parse import urlencode

import msgspec
import pytest

from suisen.serving.contract import AnyParams
from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.endpoints.admin import ADMIN
from suisen.serving.openapi import document
from suisen.serving.problems import PROBLEM_TYPES, Problem
from suisen.serving.settings import Settings
from tests.serving.client import JSON

PATIENT = 60.0
PLACES = {(each.method, each.path) for each in ENDPOINTS}
ALL = [*ENDPOINTS, *(each for each in ADMIN if (each.method, each.path) not in PLACES)]
"""Those of the admin listener, too; here one listener answers all."""


@pytest.fixture(scope="module")
def client(served, recommender, tmp_path_factory):
    options = Settings(deadline_s=PATIENT, log_dir=tmp_path_factory.mktemp("log"), impressions=True)
    with served(lambda: recommender.system, options, endpoints=ALL) as made:
        yield made


@pytest.fixture(params=ALL, ids=lambda endpoint: endpoint.operation)
def endpoint(request):
    return request.param


def path_of(endpoint):
    return endpoint.prefix + ("7" if endpoint.variable else "")


def good(endpoint):
    """The body of a message that the endpoint takes; empty where it takes a query string."""
    if not endpoint.has_body:
        return b""
    return msgspec.json.encode(endpoint.takes() if endpoint.example is None else endpoint.example)


def send(client, endpoint, query="", body=None, method=None, **headers):
    """A good request, but for what is given."""
    body = good(endpoint) if body is None else body
    headers = {**(JSON if endpoint.has_body else {}), **headers}
    if not endpoint.has_body and endpoint.example is not None:
        query = query or f"?{urlencode(msgspec.to_builtins(endpoint.example))}"
    return client.ask(method or endpoint.method, path_of(endpoint) + query, body, headers)


def refused(response, status, code):
    """The detail of a refusal whose form is checked: a problem document (RFC 9457) in one line, never cached."""
    assert (response.status, response.json["code"]) == (status, code), response.body
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    problem = msgspec.json.decode(response.body, type=Problem)
    assert problem.request_id == response.headers["x-request-id"]
    assert (problem.status, problem.title) == (status, PROBLEM_TYPES[code].title)
    assert problem.type == f"urn:suisen:problem:{code}"
    assert len(problem.detail.splitlines()) == 1
    return problem.detail


def test_a_good_request_gets_the_answer_that_is_declared(client, endpoint):
    response = send(client, endpoint)
    if "conflict" in endpoint.codes and response.status in (409, 422):  # there is no other version here
        return
    assert response.status == endpoint.status, response.body
    assert int(response.headers["content-length"]) == len(response.body)
    assert response.headers["cache-control"] == "no-store"
    if isinstance(endpoint.answers, str):
        assert response.headers["content-type"].partition(";")[0] == endpoint.answers
    else:
        assert response.headers["content-type"] == "application/json"
        msgspec.json.decode(response.body, type=endpoint.answers)
        fields = msgspec.structs.fields(endpoint.answers)
        whole = [field.name for field in fields if field.name != "degraded"]  # is left out where nothing is missing
        assert [name for name in response.json if name != "degraded"] == whole


def test_the_request_id_is_sent_back(client, endpoint):
    response = send(client, endpoint, **{"x-request-id": "given-1"})
    assert response.headers["x-request-id"] == "given-1"
    if not isinstance(endpoint.answers, str) and "request_id" in endpoint.answers.__struct_fields__:
        assert response.json["request_id"] == "given-1"
    assert send(client, endpoint).headers["x-request-id"] != send(client, endpoint).headers["x-request-id"]
    refused(send(client, endpoint, **{"x-request-id": "a b"}), 400, "malformed_request")


def test_unknown_query_parameters_are_refused(client, endpoint):
    response = send(client, endpoint, "?no_such_parameter=1")
    if endpoint.takes is AnyParams:
        assert response.status == endpoint.status  # declared: nobody reads the query string
    else:
        assert "field = 'no_such_parameter' is unknown" in refused(response, 422, "unknown_field")


def methods_of(endpoint):
    """What its path takes, be it by another endpoint whose variable stands for the last segment."""
    above = endpoint.path.rpartition("/")[0] + "/"
    same = [o for o in ALL if o.path == endpoint.path or (o.variable and o.prefix == above)]
    methods = {other.method for other in same} | {endpoint.method}
    return methods | ({"HEAD"} if "GET" in methods else set())


def test_wrong_methods_are_refused(client, endpoint):
    methods = methods_of(endpoint)
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} - methods:
        response = send(client, endpoint, method=method)
        assert f"method = {method!r}" in refused(response, 405, "method_not_allowed")
        assert set(response.headers["allow"].split(", ")) == methods


def test_head_is_get_without_the_body(client, endpoint):
    head = send(client, endpoint, method="HEAD")
    if endpoint.method == "GET":
        get = send(client, endpoint)
        assert (head.status, head.body) == (get.status, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
    elif "HEAD" not in methods_of(endpoint):
        assert (head.status, head.body) == (405, b"")


def test_bodies_are_json_of_the_struct(client, endpoint):
    if not endpoint.has_body:
        return
    refused(send(client, endpoint, body=b"{"), 400, "malformed_json")
    refused(send(client, endpoint, **{"content-type": "text/plain"}), 415, "unsupported_media_type")
    more = {**json.loads(good(endpoint)), "no_such_field": 1}
    detail = refused(send(client, endpoint, body=json.dumps(more).encode()), 422, "unknown_field")
    assert "field = 'no_such_field' is unknown" in detail
    large = b" " * (client.app.service.settings.max_body_bytes + 1)
    refused(send(client, endpoint, body=large), 413, "too_large")


def test_without_a_bundle_it_says_so_or_does_not_need_one(served, endpoint):
    def broken():
        raise ValueError("no bundle")

    with served(broken, endpoints=[endpoint]) as client:
        response = send(client, endpoint)
    if endpoint.needs_bundle or "not_ready" in endpoint.codes:
        assert refused(response, 503, "not_ready") == "the bundle is not served: no bundle"
        assert response.headers["retry-after"] == "1"
    else:
        assert response.status == endpoint.status


def test_what_nobody_foresaw_tells_nothing_of_our_insides(served, recommender, endpoint):
    def handler(*_):
        raise ZeroDivisionError("secret")

    broken = replace(endpoint, handler=handler)
    with served(lambda: recommender.system, Settings(deadline_s=PATIENT), endpoints=[broken]) as client:
        assert "secret" not in refused(send(client, broken), 500, "internal")


def test_metrics_count_it_by_its_path(client, endpoint):
    status = send(client, endpoint).status
    line = f'suisen_requests_total{{route="{endpoint.path}",status="{status}"}}'

    def count():
        lines = client.app.service.telemetry.render().decode().splitlines()
        return sum(float(each.rpartition(" ")[2]) for each in lines if each.startswith(line))

    before = count()
    send(client, endpoint)
    assert count() == before + 1


def test_it_is_described(endpoint):
    (described,) = document([endpoint])["paths"][endpoint.path].values()
    assert described["operationId"] == endpoint.operation
    assert described["summary"], "write a docstring under the handler"
    assert str(endpoint.status) in described["responses"]
    places = {(parameter["name"], parameter["in"]) for parameter in described["parameters"]}
    names = () if endpoint.has_body else endpoint.takes.__struct_fields__
    variable = [(endpoint.variable, "path")] if endpoint.variable else []
    headers = [("X-Request-Id", "header"), *([("Idempotency-Key", "header")] if endpoint.repeat_safe else [])]
    assert places == {*((name, "query") for name in names), *variable, *headers}
    for status, codes in endpoint.refusals.items():
        response = described["responses"][str(status)]
        assert all(code in response["description"] for code in codes)
        assert list(response["content"]) == ["application/problem+json"]
    if endpoint.has_body:
        content = described["requestBody"]["content"]["application/json"]
        assert content["schema"] == {"$ref": f"#/components/schemas/{endpoint.takes.__name__}"}
        msgspec.convert(content.get("example", {}), endpoint.takes)


def test_operations_have_different_names():
    names = [endpoint.operation for endpoint in ALL]
    assert len(names) == len(set(names))
