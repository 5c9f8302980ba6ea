"""The description of the server, OpenAPI 3.1: made from the endpoints and their Structs, so that it is never stale."""

import inspect
from collections.abc import Sequence
from typing import Any

import msgspec

from suisen.serving.contract import Endpoint
from suisen.serving.docstrings import describe
from suisen.serving.messages import Id
from suisen.serving.problems import Problem
from suisen.serving.settings import BATCHED, MAX_PRICE
from suisen.version import __version__

PUBLIC = "Recommendations from one bundle."
ADMIN = "Changes a running server: the versions that it has loaded, and the items that no list may hold."
ABOUT = (
    "  Every refusal is a problem document with a stable code.  Beside those that each path names: 404 and 405 "
    "(not_found, method_not_allowed); 400 where it is no HTTP; 408, 413, 414, 431 (too_slow, too_large, url_too_long, "
    "headers_too_large) for what comes too slowly or is too large; 503 (overloaded) for a connection too many.  "
    "`x-request-id` is sent back, and made where it is missing; `traceparent` is read.  "
    "Whole numbers are written without a fraction or an exponent (7, not 7.0)."
)
PRICED = (
    "  A request is priced before it is computed, in units of about a microsecond of one core: queries × (first stage "
    "+ max(k, candidates) × ranking + k, and with diversity k × candidates comparisons), and the ids that it brings.  "
    "One above {most:,} units, a batch above {batch:,}, is refused with 422 (too_expensive), whatever else is allowed."
)
REF = "#/components/schemas/{name}"
PROBLEM = {"application/problem+json": {"schema": {"$ref": REF.format(name="Problem")}}}
REQUEST_ID = {
    "name": "X-Request-Id",
    "in": "header",
    "required": False,
    "description": "Names the request in the answer and in logs; one that is empty is made anew.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:+/=-]{0,128}$"},
}
KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
EXAMPLE_ID = "7"


def document(
    endpoints: Sequence[Endpoint[Any]],
    *,
    about: str = PUBLIC,
    keyed: bool = False,
    limited: bool = False,
    max_price: int = MAX_PRICE,
) -> dict[str, Any]:
    """The whole description; ``about``: its first sentence; ``keyed``: keys are asked for; ``limited``: requests have a
    rate; ``max_price``: the most that one may cost.
    """
    structs = {endpoint.takes for endpoint in endpoints if endpoint.has_body}
    structs |= {endpoint.answers for endpoint in endpoints if isinstance(endpoint.answers, type)}
    _, components = msgspec.json.schema_components(
        sorted(structs | {Problem}, key=lambda struct: struct.__name__), ref_template=REF
    )
    describe(components, structs | {Problem})
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, keyed, limited)
    secured = {"securitySchemes": KEYS} if keyed else {}
    priced = any("too_expensive" in endpoint.codes for endpoint in endpoints)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Suisen",
            "version": __version__,
            "description": about + ABOUT + PRICED.format(most=max_price, batch=BATCHED * max_price) * priced,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components, **secured},
    }


def _operation(endpoint: Endpoint[Any], keyed: bool, limited: bool) -> dict[str, Any]:
    found = dict(endpoint.refusals)
    if endpoint.scope != "open":
        found |= {401: ["unauthorized"], 403: ["forbidden"]} if keyed else {}
        found |= {429: ["rate_limited"]} if limited else {}
    refusals = {
        str(status): {"description": "Refused; code: " + ", ".join(codes), "content": PROBLEM}
        for status, codes in sorted(found.items())
    }
    operation: dict[str, Any] = {
        "operationId": endpoint.operation,
        "summary": endpoint.summary,
        **({"description": endpoint.details} if endpoint.details else {}),
        "parameters": _parameters(endpoint),
        "responses": {str(endpoint.status): _answer(endpoint), **refusals},
    }
    if keyed and endpoint.scope != "open":
        operation["security"] = [{scheme: []} for scheme in KEYS]
        operation["summary"] += f"  Needs a key that is allowed {endpoint.scope}."
    if endpoint.has_body:
        content: dict[str, Any] = {"schema": {"$ref": REF.format(name=endpoint.takes.__name__)}}
        if endpoint.example is not None:
            content["example"] = msgspec.to_builtins(endpoint.example)
        operation["requestBody"] = {"required": True, "content": {"application/json": content}}
    return operation


def _answer(endpoint: Endpoint[Any]) -> dict[str, Any]:
    if isinstance(endpoint.answers, str):
        schema = {"type": "object" if endpoint.answers == "application/json" else "string"}
        return {"description": endpoint.summary, "content": {endpoint.answers: {"schema": schema}}}
    description = inspect.getdoc(endpoint.answers) or endpoint.summary
    schema = {"$ref": REF.format(name=endpoint.answers.__name__)}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _parameters(endpoint: Endpoint[Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [REQUEST_ID]
    if endpoint.variable:
        said = {"name": endpoint.variable, "in": "path", "required": True, "schema": msgspec.json.schema(Id)}
        found.append({**said, "example": EXAMPLE_ID})
    if not endpoint.has_body:
        _, components = msgspec.json.schema_components([endpoint.takes])
        describe(components, {endpoint.takes})
        described = components[endpoint.takes.__name__]
        given = msgspec.to_builtins(endpoint.example) or {}
        for name, schema in described["properties"].items():
            required = name in described.get("required", ())
            example = {"example": given[name]} if name in given else {}
            found.append({"name": name, "in": "query", "required": required, "schema": schema, **example})
    if endpoint.repeat_safe:
        word = "[A-Za-z0-9._:+/=-]{1,128}"
        schema = {"type": "string", "pattern": f'^(?:{word}|"{word}")$'}
        told = "Names the request: sent again with the same body it is taken once; with another body it is refused."
        found.append({"name": "Idempotency-Key", "in": "header", "description": told, "schema": schema})
    return found
