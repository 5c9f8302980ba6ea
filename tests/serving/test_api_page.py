"""The page of the API holds all that the OpenAPI document says, as text, and nothing but its own script may run."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from importlib.resources import files
from typing import Literal

import msgspec
import pytest

from suisen.serving.api_page import page
from suisen.serving.docstrings import describe
from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.endpoints.admin import ADMIN
from suisen.serving.openapi import ADMIN as ABOUT_ADMIN
from suisen.serving.openapi import document
from suisen.serving.server import running
from suisen.serving.settings import Settings

DOCUMENTS = {
    "public": document(ENDPOINTS),
    "public, with keys and rates": document(ENDPOINTS, keyed=True, limited=True, max_price=123_456),
    "admin": document(ADMIN, about=ABOUT_ADMIN),
}
STYLE, SCRIPT = (files("suisen").joinpath(f"serving/api_page.{kind}").read_bytes() for kind in ("css", "js"))
WORDS = {
    "integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null",
    "object": "object", "array": "list",
}  # fmt: skip


class Read(HTMLParser):
    """A page as a browser reads it: elements with their attributes, and the text of each part that has an id."""

    VOID = ("meta", "link", "input")

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open = [], {"": []}, []
        self.feed(text)
        self.close()
        assert not self._open, "an element is not closed"

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self._open.append((name, dict(attributes).get("id")))

    def handle_endtag(self, name):
        assert self._open.pop()[0] == name

    def handle_data(self, data):
        for place in {"", *(each for _, each in self._open if each)}:
            self.texts.setdefault(place, []).append(data)

    def text(self, place=""):
        return " ".join("".join(self.texts[place]).split())

    @property
    def shape(self):
        """Elements and the names of their attributes."""
        return [(name, sorted(attributes)) for name, attributes in self.elements]


def plain(text):
    """Words of a description; marks of code are no part of them."""
    return " ".join(re.sub(r"`+([^`]+)`+", r"\1", " ".join(text.split())).split())


def number(value):
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def of_schema(schema):
    left = set()
    if schema.get("minimum") == -(2**63) and schema.get("maximum") == 2**63 - 1:
        yield "64 bits"
        left = {"minimum", "maximum"}
    if schema.keys() & {"format", "enum", "properties"}:
        left = {"type"}  # these say it
    for key, value in schema.items():
        if key not in left:
            yield from SCHEMA[key](value)


def of_content(content, example=False):
    for media, one in content.items():
        yield from (media, *of_schema(one["schema"]))
        if example:
            yield " ".join(json.dumps(one.get("example", {}), indent=2, ensure_ascii=False).split())


BOUNDS = (
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "minItems", "maxItems",
)  # fmt: skip
SCHEMA = {
    "$ref": lambda value: [value.rpartition("/")[2]],
    "type": lambda value: [WORDS[value]],
    "format": lambda value: [{"date-time": "time (ISO 8601"}[value]],
    "anyOf": lambda value: [said for one in value for said in of_schema(one)],
    "items": of_schema,
    "additionalProperties": lambda value: [] if isinstance(value, bool) else of_schema(value),
    **dict.fromkeys(BOUNDS, lambda value: [number(value)]),
    **dict.fromkeys(("enum", "examples"), lambda value: map(json.dumps, value)),
    "default": lambda value: [json.dumps(value)],
    "pattern": lambda value: [" ".join(value.split())],
    "description": lambda value: [plain(value)],
    **dict.fromkeys(("title", "properties", "required"), lambda value: []),
}
"""What the page has to say of a schema, by its keywords; a new one is a KeyError: the page has to learn it, too."""
PARAMETER = {
    "schema": of_schema,
    "required": lambda value: ["required"] if value else [],
    **dict.fromkeys(("name", "in", "description", "example"), lambda value: [plain(value)]),
}
OPERATION = {
    **dict.fromkeys(("operationId", "summary", "description"), lambda value: [plain(value)]),
    "parameters": lambda value: [said for one in value for key in one for said in PARAMETER[key](one[key])],
    "responses": lambda value: [
        said for status, answer in value.items()
        for said in (status, plain(answer["description"]), *of_content(answer["content"]))
    ],
    "requestBody": lambda value: of_content(value["content"], example=True),
    "security": lambda value: [scheme for one in value for scheme in one],
}  # fmt: skip


def of_operation(method, path, operation):
    yield from (method.upper(), path)
    for key, value in operation.items():
        yield from OPERATION[key](value)


@pytest.fixture(params=DOCUMENTS)
def described(request):
    return DOCUMENTS[request.param]


def test_everything_of_the_document_stands_on_the_page(described):
    read = Read(page(described, "/openapi.json"))
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            text = read.text(operation["operationId"])
            for said in of_operation(method, path, operation):
                assert said in text, f"{path}: {said!r} is not on the page: {text}"
    for name, schema in described["components"]["schemas"].items():
        text = read.text(f"schema-{name}")
        for said in (name, *of_schema(schema)):
            assert said in text, f"{name}: {said!r}"
        for field, one in schema.get("properties", {}).items():
            for said in (field, *of_schema(one)):
                assert said in text, f"{name}.{field}: {said!r} is not on the page: {text}"
    whole = read.text()
    info = described["info"]
    for said in (info["title"], info["version"], info["license"]["name"], plain(info["description"]), "/openapi.json"):
        assert said in whole
    for name, scheme in described["components"].get("securitySchemes", {}).items():
        assert all(part in whole for part in (name, *scheme.values()))


def test_links_lead_to_what_is_there_and_each_entry_is_in_the_contents(described):
    elements = Read(page(described, "/openapi.json")).elements
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [attributes["href"] for name, attributes in elements if name == "a"]
    assert {link[1:] for link in links if link[0] == "#"} <= set(ids)
    entries = {attributes["id"] for name, attributes in elements if name == "section"}
    assert entries <= {link[1:] for link in links}
    assert len(entries) == sum(map(len, described["paths"].values())) + len(described["components"]["schemas"])


HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&lt; --> ]]>"
LEFT = ("in", "type", "$ref", "scheme", "operationId", "openapi", "url", "required")
"""Fields whose values are names that the page looks up."""


def spoilt(node, key=""):
    """The document, with markup behind every text."""
    if isinstance(node, dict):
        return {name: spoilt(value, name) for name, value in node.items()}
    if isinstance(node, list):
        return [spoilt(value, key) for value in node]
    return node + HOSTILE if isinstance(node, str) and key not in LEFT else node


@pytest.mark.parametrize("keyed", [False, True])
def test_whatever_the_document_says_is_text(keyed):
    described = document([*ENDPOINTS, *ADMIN[:12]], keyed=keyed)
    clean, dirty = (Read(page(one, "/openapi.json")) for one in (described, spoilt(described)))
    assert dirty.shape == clean.shape
    assert dirty.text().count("<script>alert(1)</script>") > 100
    assert [attributes for name, attributes in dirty.elements if name == "script"] == [
        {"src": "docs/page.js", "defer": None}
    ]


def test_the_page_brings_no_script_no_style_and_no_other_host_of_its_own(described):
    text = page(described, "/openapi.json")
    for name, attributes in Read(text).elements:
        assert name not in ("style", "iframe", "object", "base", "form")
        assert not [each for each in attributes if each == "style" or each.startswith("on")]
        for each in ("src", "href"):
            target = attributes.get(each, "#")
            assert target[0] == "#" or re.fullmatch(r"docs/page\.(css|js)|openapi\.json|data:,", target)
    assert not re.search(rb"https?://|@import|url\(", STYLE)
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|https?://", SCRIPT)


def test_both_fronts_serve_the_page_under_a_strict_policy(client):
    served = client.get("/docs")
    assert served.headers["content-type"] == "text/html; charset=utf-8"
    assert served.body.decode() == page(document(ENDPOINTS), "/openapi.json")
    assert client.get("/docs?from=mail").body == served.body
    for path, media in {"/docs/page.css": "text/css", "/docs/page.js": "text/javascript", "/docs": "text/html"}.items():
        answer = client.get(path)
        assert answer.headers["content-type"] == f"{media}; charset=utf-8"
        policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
        assert policy["default-src"] == "'none'"
        assert "unsafe" not in str(policy)
        assert {policy[each] for each in ("script-src", "style-src", "connect-src")} == {"'self'"}
        assert {policy[each] for each in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/docs/page.css").body.endswith(STYLE)
    assert b"prefers-color-scheme: dark" in client.get("/docs/page.css").body
    assert client.get("/docs/page.js").body == SCRIPT


def test_each_listener_describes_its_own_paths(recommender, tmp_path):
    import urllib.error
    import urllib.request

    def get(url):
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    options = Settings(log_dir=tmp_path, admin_port=0, admin_key="a" * 30, deadline_s=30.0)
    with running(recommender.system, options) as server:
        status, told = get(f"{server.admin_url}/admin/openapi.json")
        assert status == 200
        assert json.loads(told) == json.loads(json.dumps(document(ADMIN, about=ABOUT_ADMIN, keyed=True, limited=True)))
        whole = get(f"{server.admin_url}/docs")[1]
        assert whole == page(json.loads(told), "/admin/openapi.json")
        assert 'id="key"' in whole
        assert get(f"{server.admin_url}/docs/page.js")[0] == 200
        assert [get(f"{server.url}{path}")[0] for path in ("/admin/openapi.json", "/admin/slots")] == [404, 404]
        assert [get(f"{server.admin_url}{path}")[0] for path in ("/openapi.json", "/v1/bundle")] == [404, 404]
        public = get(f"{server.url}/docs")[1]
        assert "/admin/switch" not in public
        assert 'id="key"' not in public  # nobody asks for one there


class Inner(msgspec.Struct):
    """Inside another."""

    depth: int
    """In metres."""
    said: str
    """Overwritten."""


class Outer(Inner):
    said: Literal["a", "b"]
    """One of
    two."""
    told: dict[str, list[Inner] | None]
    noted: float


def test_what_stands_under_a_field_describes_it():
    _, schemas = msgspec.json.schema_components([Outer])
    schemas["Outer"]["properties"]["noted"]["description"] = "given"
    describe(schemas, [Outer])
    fields = schemas["Outer"]["properties"]
    assert {name: field.get("description") for name, field in fields.items()} == {
        "depth": "In metres.", "said": "One of two.", "told": None, "noted": "given"
    }  # fmt: skip
    assert schemas["Inner"]["properties"]["said"]["description"] == "Overwritten."
    unwritten = msgspec.defstruct("Unwritten", [("a", int)])
    describe({"Unwritten": {"properties": {"a": {}}}}, [unwritten])  # no source, no words


def test_fields_of_messages_are_described_where_the_source_says_something():
    schemas = document(ENDPOINTS)["components"]["schemas"]
    assert schemas["RecommendRequest"]["properties"]["among"]["description"] == "Only these items, where given."
    assert schemas["Query"]["properties"]["session_id"]["description"].startswith("Whose events count")
