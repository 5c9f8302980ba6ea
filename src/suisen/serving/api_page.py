"""The description of the server as a page: HTML from an OpenAPI document, with a form per operation that sends it.

The page asks no other host for anything and holds no script and no style of its own (``api_page.js`` and
``api_page.css`` are two further requests), so that a strict Content-Security-Policy holds.  Whatever comes from the
document is escaped: text becomes HTML in ``tag`` alone.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

import msgspec

from suisen.serving import openapi
from suisen.serving.contract import Endpoint
from suisen.serving.guard import Guard
from suisen.serving.service import Description
from suisen.serving.settings import Settings

Schema = Mapping[str, Any]
VOID = ("input", "link", "meta")
"""Elements without an end."""
WORDS = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
    "object": "object",
    "array": "list",
}
FORMATS = {"date-time": "time (ISO 8601, with its zone)"}
BOUNDS = {
    "minimum": ("maximum", ""),
    "minLength": ("maxLength", " characters"),
    "minItems": ("maxItems", " entries"),
}
"""Lower bounds with their upper ones and what they count."""
SAID = {
    "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum", "examples",
    "exclusiveMaximum", "exclusiveMinimum", "format", "items", "pattern", "properties", "required", "title", "type",
    *BOUNDS, *(high for high, _ in BOUNDS.values()),
}  # fmt: skip
"""Keywords of a schema that the page has words for; others stand there as they are."""
WHOLE = {"minimum": -(2**63), "maximum": 2**63 - 1}


def described(
    endpoints: Sequence[Endpoint[Any]], guard: Guard, settings: Settings, *, about: str, where: str
) -> Description:
    """The description of a listener's endpoints; ``about``: what they are for; ``where``: the document's path."""
    document = openapi.document(
        endpoints, about=about, keyed=bool(guard.keys), limited=guard.asks, max_price=settings.max_price
    )
    return Description(msgspec.json.encode(document), page(document, where).encode())


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(kind: str, /, *inside: str, **attributes: str | bool | None) -> Html:
    """An element.  Text in it is escaped, unless it is Html; an attribute of None or False is left out, ``_`` in its
    name stands for ``-``.
    """
    said = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(str(value))}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    body = "".join(part if isinstance(part, Html) else escape(part) for part in inside)
    return Html(f"<{kind}{said}>{body}" + ("" if kind in VOID else f"</{kind}>"))


def page(document: Mapping[str, Any], where: str) -> str:
    """The page of an OpenAPI document that is served at ``where``."""
    operations = [
        (method, path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = document["components"]["schemas"]
    keyed = "securitySchemes" in document["components"]
    info = document["info"]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{info['title']} API"),
        tag("link", rel="icon", href="data:,"),
        tag("link", rel="stylesheet", href="docs/page.css"),
        tag("script", src="docs/page.js", defer=True),
    )
    body = tag(
        "body",
        tag("a", "Skip to the operations", class_="skip", href="#operations"),
        tag("header", *_head(document, where, keyed), class_="top"),
        tag("nav", *_contents(operations, schemas), aria_label="Operations"),
        tag(
            "main",
            *(_operation(method, path, operation) for method, path, operation in operations),
            *_schemas(schemas),
            id="operations",
            tabindex="-1",
        ),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _head(document: Mapping[str, Any], where: str, keyed: bool) -> Iterator[Html]:
    info = document["info"]
    yield tag("p", info["title"], class_="brand")
    yield tag("h1", "API")
    told = f"Version {info['version']} · {info['license']['name']} · OpenAPI {document['openapi']}: "
    yield tag("p", told, tag("a", where, href=where.lstrip("/")), class_="muted small")
    yield tag(
        "p",
        "Requests from this page go to this server and are real: an event counts, a switch switches.",
        class_="note",
    )
    if keyed:
        yield tag(
            "div",
            tag("label", "Key", for_="key"),
            tag("input", id="key", type="password", autocomplete="off", spellcheck="false"),
            tag("button", "Forget", id="forget", type="button"),
            tag("span", "Sent as X-Api-Key; kept in this tab until it is closed.", class_="muted small"),
            class_="key",
        )
    yield tag(
        "div",
        tag("label", "Search", for_="search"),
        tag("input", id="search", type="search", placeholder="path, field or code  ( / )", autocomplete="off"),
        tag("span", id="found", role="status", class_="muted small"),
        class_="search",
    )
    shared = [_paragraph(info["description"])]
    for name, scheme in document["components"].get("securitySchemes", {}).items():
        shared.append(tag("p", f"A key may be sent as {name}: {', '.join(scheme.values())}."))
    yield tag("details", tag("summary", "What all paths share"), *shared, class_="shared")
    yield tag("noscript", tag("p", "Searching and sending need JavaScript; all else is here without it."))


def _contents(operations: Sequence[tuple[str, str, Any]], schemas: Mapping[str, Schema]) -> Iterator[Html]:
    yield tag("h2", "Operations")
    yield tag(
        "ul",
        *(
            tag("li", tag("a", _method(method), " ", tag("code", path), href=f"#{operation['operationId']}"))
            for method, path, operation in operations
        ),
    )
    yield tag("h2", "Messages")
    yield tag("ul", *(tag("li", tag("a", name, href=f"#schema-{name}")) for name in schemas))


def _method(method: str) -> Html:
    return tag("span", method.upper(), class_=f"method {method}")


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Html:
    name = operation["operationId"]
    heading = tag("h2", _method(method), " ", tag("code", path), " ", _anchor(name, f"Link to {name}"), id=f"{name}-h")
    parts = [heading, tag("p", tag("code", name), class_="muted small"), _paragraph(operation["summary"])]
    if "description" in operation:
        parts.append(_paragraph(operation["description"]))
    if "security" in operation:
        schemes = " or ".join(scheme for one in operation["security"] for scheme in one)
        parts.append(tag("p", f"Key: {schemes}", class_="muted small"))
    parts.append(tag("h3", "Parameters"))
    parts.append(tag("dl", *map(_parameter, operation["parameters"]), class_="fields"))
    if "requestBody" in operation:
        parts.append(tag("h3", "Body"))
        needed = "required" if operation["requestBody"]["required"] else "optional"
        for media, content in operation["requestBody"]["content"].items():
            parts.append(tag("p", _type(content["schema"]), f", {media}, {needed}"))
    parts.append(tag("h3", "Answers"))
    parts.append(tag("dl", *(_answer(status, one) for status, one in operation["responses"].items()), class_="fields"))
    parts.append(_form(method, path, operation))
    return tag("section", *parts, id=name, class_="entry", aria_labelledby=f"{name}-h")


def _anchor(target: str, label: str) -> Html:
    return tag("a", "#", class_="anchor", href=f"#{target}", aria_label=label)


def _parameter(parameter: Mapping[str, Any]) -> Html:
    schema, required = parameter["schema"], bool(parameter.get("required"))
    said = [*_paragraphs(parameter), *_field(schema)]
    example = parameter.get("example")
    if example is not None:
        said.append(tag("p", "Example: ", tag("code", str(example))))
    return _row(parameter["name"], said, parameter["in"], *(["required"] if required else []))


def _row(name: str, said: Sequence[Html], *tags: str) -> Html:
    """A name with what is said of it."""
    marks = [part for one in tags for part in (Html(" "), tag("span", one, class_="tag"))]
    return tag("div", tag("dt", tag("code", name), *marks), tag("dd", *said))


def _answer(status: str, answer: Mapping[str, Any]) -> Html:
    said = [_paragraph(answer["description"])]
    said += [tag("p", media, ": ", _type(one["schema"]), class_="muted") for media, one in answer["content"].items()]
    return _row(status, said)


def _schemas(schemas: Mapping[str, Schema]) -> Iterator[Html]:
    for name, schema in schemas.items():
        target = f"schema-{name}"
        needed = schema.get("required", ())
        heading = tag("h2", tag("code", name), " ", _anchor(target, f"Link to {name}"), id=f"{target}-h")
        rows = [
            _row(field, list(_field(one)), *(["required"] if field in needed else []))
            for field, one in schema.get("properties", {}).items()
        ]
        more = [] if rows else [tag("p", _type(schema))]
        if schema.get("additionalProperties") is False:
            more.append(tag("p", "Fields that are not named here are refused.", class_="muted small"))
        fields = tag("dl", *rows, class_="fields")
        yield tag(
            "section",
            heading,
            *_paragraphs(schema),
            fields,
            *more,
            id=target,
            class_="entry",
            aria_labelledby=f"{target}-h",
        )


def _field(schema: Schema) -> Iterator[Html]:
    """Type, bounds, default and words of a field."""
    said: list[str] = [_type(schema)]
    if "default" in schema:
        said += [", default ", tag("code", json.dumps(schema["default"], ensure_ascii=False))]
    yield tag("p", *said, class_="type")
    yield from _paragraphs(schema)


def _paragraphs(described: Mapping[str, Any]) -> Iterator[Html]:
    """The description of something, and those of what it is one of."""
    for one in (described, *described.get("anyOf", ())):
        if "description" in one:
            yield _paragraph(one["description"])


def _paragraph(text: str) -> Html:
    """Text; what stands between backticks is code."""
    parts = re.split(r"`+([^`]+)`+", " ".join(text.split()))
    return tag("p", *(tag("code", part) if place % 2 else part for place, part in enumerate(parts)))


def _type(schema: Schema) -> Html:
    """What a value must be, in words."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in _words(schema)))


def _words(schema: Schema) -> Iterator[str]:
    kind = schema.get("type")
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        yield tag("a", name, href=f"#schema-{name}")
    elif "anyOf" in schema:
        yield from _joined([_type(one) for one in schema["anyOf"]], " or ")
    elif "enum" in schema:
        yield from _joined([tag("code", json.dumps(one)) for one in schema["enum"]], " or ")
    elif "const" in schema:
        yield tag("code", json.dumps(schema["const"]))
    elif kind == "array" and "items" in schema:
        yield from ("list of ", _type(schema["items"]))
    elif kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        yield from ("object of ", _type(schema["additionalProperties"]) or Html("anything"))
    elif "format" in schema:
        yield FORMATS.get(schema["format"], f"{WORDS.get(str(kind), kind)} ({schema['format']})")
    elif kind is not None:
        yield WORDS.get(str(kind), str(kind))
    elif not schema.keys() - {"description", "default", "title"}:
        yield "anything"
    yield from _bounds(schema)


def _bounds(schema: Schema) -> Iterator[str]:
    """Bounds, pattern, examples, and whatever else the schema says."""
    if all(schema.get(name) == bound for name, bound in WHOLE.items()):
        yield " (64 bits)"
    else:
        for low, (high, unit) in BOUNDS.items():
            yield _between(schema.get(low), schema.get(high), unit)
    for name, word in {"exclusiveMinimum": "above", "exclusiveMaximum": "below"}.items():
        if name in schema:
            yield f", {word} {_number(schema[name])}"
    if "pattern" in schema:
        yield from (", like the pattern ", tag("code", schema["pattern"]))
    if "examples" in schema:
        yield from (", for example ", *_joined([tag("code", json.dumps(one)) for one in schema["examples"]], ", "))
    for name in sorted(schema.keys() - SAID):
        yield f", {name}: {json.dumps(schema[name], ensure_ascii=False)}"


def _between(low: float | None, high: float | None, unit: str) -> str:
    if low is not None and high is not None:
        return f", {_number(low)} to {_number(high)}{unit}"
    if high is not None:
        return f", at most {_number(high)}{unit}"
    return "" if low is None else f", at least {_number(low)}{unit}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _joined(parts: Sequence[Html], between: str) -> Iterator[str]:
    for place, part in enumerate(parts):
        yield from (between, part) if place else (part,)


def _form(method: str, path: str, operation: Mapping[str, Any]) -> Html:
    """What ``api_page.js`` makes a request of."""
    parts = [_input(parameter) for parameter in operation["parameters"]]
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        text = json.dumps(content.get("example", {}), indent=2, ensure_ascii=False)
        rows = str(min(24, text.count("\n") + 2))
        area = tag("textarea", text, rows=rows, spellcheck="false", data_in="body", data_media=media)
        parts.append(tag("label", tag("span", "Body"), area, class_="wide"))
    buttons = tag(
        "p",
        tag("button", "Send", type="button", class_="send"),
        " ",
        tag("button", "Copy as curl", type="button", class_="copy"),
        class_="buttons",
    )
    request = tag(
        "div",
        tag("div", *parts, class_="inputs"),
        tag("pre", class_="curl", tabindex="0", aria_label="The request as a curl command"),
        buttons,
        tag("div", class_="reply", role="status", hidden=True),
        class_="request",
        data_method=method.upper(),
        data_path=path,
        data_keyed="security" in operation,
    )
    return tag("details", tag("summary", "Try it"), request, class_="try")


def _input(parameter: Mapping[str, Any]) -> Html:
    """A field of the form for a parameter; what is left empty is not sent."""
    schema, name = parameter["schema"], parameter["name"]
    kinds = {one.get("type") for one in (schema, *schema.get("anyOf", ()))}
    choices = ["true", "false"] if "boolean" in kinds else [str(one) for one in schema.get("enum", ())]
    given = {"data_in": parameter["in"], "data_name": name}
    if choices:
        field = tag("select", *(tag("option", one) for one in ["", *choices]), **given)
    else:
        value = parameter.get("example")
        left = json.dumps(schema["default"]) if schema.get("default") is not None else None
        mode = "decimal" if kinds & {"integer", "number"} and "string" not in kinds else None
        field = tag(
            "input", type="text", value=None if value is None else str(value), placeholder=left, inputmode=mode,
            required=bool(parameter.get("required")), autocomplete="off", spellcheck="false", **given,
        )  # fmt: skip
    return tag("label", tag("span", name), field)
