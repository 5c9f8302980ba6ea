from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.endpoints.events import Event
from suisen.serving.endpoints.recommend import RecommendAnswer, RecommendRequest
from suisen.serving.endpoints.similar import SimilarAnswer
from suisen.serving.messages import Item, Query
from suisen.serving.openapi import document
from suisen.serving.problems import Problem


def references(node) -> Iterator[str]:
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for value in node.values():
            yield from references(value)
    elif isinstance(node, list):
        for value in node:
            yield from references(value)


def test_every_route_is_described_and_nothing_else(client):
    served = client.get("/openapi.json")
    assert served.headers["content-type"] == "application/json"
    described = served.json
    assert described == json.loads(json.dumps(document(ENDPOINTS)))
    assert described["openapi"] == "3.1.0"
    assert {(path, method) for path, methods in described["paths"].items() for method in methods} == {
        (endpoint.path, endpoint.method.lower()) for endpoint in ENDPOINTS
    }
    names = [one["operationId"] for methods in described["paths"].values() for one in methods.values()]
    assert len(names) == len(set(names))


def test_references_lead_somewhere_and_every_schema_is_used():
    described = document(ENDPOINTS)
    found = {reference.removeprefix("#/components/schemas/") for reference in references(described)}
    assert found == set(described["components"]["schemas"])


@pytest.mark.parametrize("struct", [RecommendRequest, Query, RecommendAnswer, SimilarAnswer, Item, Event, Problem])
def test_schemas_have_the_fields_of_the_structs(struct):
    schema = document(ENDPOINTS)["components"]["schemas"][struct.__name__]
    assert list(schema["properties"]) == list(struct.__struct_fields__)
    assert schema.get("additionalProperties", True) is not struct.__struct_config__.forbid_unknown_fields


def test_bounds_are_described():
    schemas = document(ENDPOINTS)["components"]["schemas"]
    assert schemas["RecommendRequest"]["properties"]["k"]["maximum"] == 10_000
    assert schemas["RecommendRequest"]["properties"]["queries"]["maxItems"] == 256
    assert schemas["RecommendRequest"]["required"] == ["queries"]


def test_path_and_query_parameters():
    parameters = document(ENDPOINTS)["paths"]["/v1/recommend/{user}"]["get"]["parameters"]
    found = {(one["name"], one["in"], one["required"]) for one in parameters}
    assert ("user", "path", True) in found
    assert {name for name, place, _ in found if place == "query"} == {
        "k",
        "exclude_seen",
        "diversity_by",
        "unknown",
        "diversity",
        "precise",
    }
    assert all("schema" in one for one in parameters)
