"""``/openapi.json``: OpenAPI 3.1, made from the Structs and the table of routes, so that it cannot be out of date."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

import suisen
from suisen.serving.messages import Id
from suisen.serving.problems import Problem
from suisen.serving.routes import ROUTES, Route

REF = "#/components/schemas/{name}"
PROBLEM = {"application/problem+json": {"schema": {"$ref": REF.format(name="Problem")}}}


def document() -> dict[str, Any]:
    """The whole description."""
    structs = {kind for route in ROUTES for kind in (route.body, route.answer) if isinstance(kind, type)}
    _, components = msgspec.json.schema_components(
        sorted(structs | {Problem}, key=lambda kind: kind.__name__), ref_template=REF
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Suisen",
            "version": suisen.__version__,
            "description": "Recommendations from one bundle.  Every refusal is a problem document with a stable code.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": {str(route.status): _answer(route), **_refusals(route)},
    }
    if route.body is not None:
        schema = {"$ref": REF.format(name=route.body.__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _answer(route: Route) -> dict[str, Any]:
    if isinstance(route.answer, str):
        schema = {"type": "string"} if route.answer == "text/plain" else {"type": "object"}
        return {"description": route.summary, "content": {route.answer: {"schema": schema}}}
    description = inspect.getdoc(route.answer) or route.summary
    schema = {"$ref": REF.format(name=route.answer.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _refusals(route: Route) -> dict[str, Any]:
    """Responses by status, their codes named."""
    return {
        str(status): {"description": "Refused; code: " + ", ".join(codes), "content": PROBLEM}
        for status, codes in sorted(route.refusals.items())
    }


def _parameters(route: Route) -> list[dict[str, Any]]:
    found = []
    if route.variable:
        schema = msgspec.json.schema(Id)
        found.append({"name": route.variable, "in": "path", "required": True, "schema": schema})
    if route.params is not None:
        _, components = msgspec.json.schema_components([route.params])
        properties = components[route.params.__name__]["properties"]
        for name, schema in properties.items():
            found.append({"name": name, "in": "query", "required": False, "schema": schema})
    return found
