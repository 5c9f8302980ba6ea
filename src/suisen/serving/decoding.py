"""From bytes to messages; mistakes are refused in the house's voice: the field, the value and the mend."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec

from suisen.errors import unknown
from suisen.serving.problems import Refusal

M = TypeVar("M", bound=msgspec.Struct)
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "datetime": "a time",
    "null": "null",
}
TIME = "an ISO 8601 time with its zone, like 2026-01-31T12:00:00Z"
BLANK = "S'"
"""The end of msgspec's message about a text that is blank."""
DEEP = "lists or objects are nested too deeply"
_WHERE = re.compile(r" - at `(?:key in )?\$(?P<path>.*)`$")
_STEP = re.compile(r"\.(?P<name>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_EXPECTED = re.compile(r"^Expected `(?P<types>[^`]*)`(?P<bound>[^,]*)")
_BYTE = re.compile(r"^JSON is malformed: (?P<why>.*) \(byte (?P<at>\d+)\)$")


@cache
def _decoder(cls: type[M]) -> msgspec.json.Decoder[M]:
    return msgspec.json.Decoder(cls)


def decode_body(body: bytes, cls: type[M]) -> M:
    """The message.  Refuses malformed JSON naming the byte, and what the Struct does not allow naming the field."""
    try:
        message: M = _decoder(cls).decode(body)
        return message
    except msgspec.ValidationError as error:
        raise _invalid(error, _plain(body), cls) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal("malformed_json", f"the body is no JSON: {_position(error, body)}") from None


def decode_params(query_string: bytes, cls: type[M]) -> M:
    """The query string as a Struct: the same rules and messages as for a body."""
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=32)
    except ValueError as error:
        raise Refusal("malformed_request", f"the query string cannot be read ({error}); percent-encode UTF-8") from None
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise Refusal("invalid_value", f"{name} = {_short(value)} is given a second time; give it once")
        values[name] = value
    return checked(values, cls, strict=False)


def checked(values: Any, cls: type[M], *, strict: bool = True) -> M:
    """Plain values, of a file too, as a Struct.  Refuses what it does not allow, naming the field."""
    try:
        return msgspec.convert(values, cls, strict=strict)
    except msgspec.ValidationError as error:
        raise _invalid(error, values, cls) from None


def _plain(body: bytes) -> Any:
    """The body without a Struct, to show the value that was not allowed; behind it the text may still be broken."""
    try:
        return json.loads(body.decode("utf-8"))
    except json.JSONDecodeError as error:
        why = f"{error.msg[:1].lower()}{error.msg[1:]} at byte {len(error.doc[: error.pos].encode())}"
    except UnicodeDecodeError as error:
        why = _not_utf8(error)
    except RecursionError:
        why = DEEP
    except ValueError:
        why = "a number has too many digits"
    raise Refusal("malformed_json", f"the body is no JSON: {why}")


def _position(error: Exception, body: bytes) -> str:
    """What is wrong with the text, and at which byte."""
    if isinstance(error, RecursionError):
        return DEEP
    found = _BYTE.match(str(error))
    if found:
        return f"{found['why']} at byte {found['at']}"
    try:
        json.loads(body.decode("utf-8"))
    except UnicodeDecodeError as broken:
        return _not_utf8(broken)
    except (ValueError, RecursionError):
        return f"it ends at byte {len(body)} before it is complete"
    return "a \\u escape is half of a surrogate pair; write the character itself"


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"it is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})"


def _invalid(error: msgspec.ValidationError, plain: Any, cls: type[msgspec.Struct]) -> Refusal:
    """The refusal of a well-formed message that the Struct does not allow."""
    text = str(error)
    where = _WHERE.search(text)
    message = text[: where.start()] if where else text
    field, value, annotation = _located(where["path"] if where else "", plain, cls)
    if message.startswith("Object contains unknown field"):
        name = message.split("`")[1]
        owner = f"field of {field}" if field else "field"
        return Refusal("unknown_field", str(unknown(owner, name, _field_types(annotation))))
    if message.startswith("Object missing required field"):
        name = message.split("`")[1]
        return Refusal("invalid_value", f"{f'{field}.' if field else ''}{name} is missing; it is required")
    if message.startswith("Invalid enum value"):
        known = next(get_args(part) for part in _parts(annotation) if get_origin(part) is Literal)
        return Refusal("invalid_value", str(unknown(field, value, known)))
    return Refusal("invalid_value", f"{field or 'the body'} = {_short(value)} must be {_wanted(message)}")


def _located(path: str, value: Any, annotation: Any) -> tuple[str, Any, Any]:
    """(the field as a reader writes it, its value, its annotation) of a path like ``.queries[0].k``."""
    field = ""
    for step in _STEP.finditer(path):
        if step["name"] is not None:
            field = f"{field}.{step['name']}" if field else step["name"]
            value = value[step["name"]]
            annotation = _field_types(annotation)[step["name"]]
        elif step["index"] != "...":
            field = f"{field}[{step['index']}]"
            value = value[int(step["index"])]
        else:  # msgspec does not say which entry of a mapping it refused: the first that does not fit
            annotation = next(get_args(part)[1] for part in _parts(annotation) if get_origin(part) is dict)
            name = next((name for name, entry in value.items() if not _fits(entry, annotation)), "")
            return f"{field}.{name}", value.get(name), annotation
    return field, value, annotation


def _parts(annotation: Any) -> Iterator[Any]:
    """The annotation and what stands in its brackets, outermost first."""
    yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _field_types(annotation: Any) -> dict[str, Any]:
    """Field → annotation of the Struct that stands in an annotation, like ``list[Query] | None``."""
    struct = next(part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, msgspec.Struct))
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def _fits(value: Any, annotation: Any) -> bool:
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        return False
    return True


def _wanted(message: str) -> str:
    """What is allowed, in words, from msgspec's message."""
    if "RFC3339" in message or "timezone" in message:
        return TIME
    if message == "Number out of range":
        return "a number within the range of 64-bit floats"
    found = _EXPECTED.match(message)
    if not found:
        return f"otherwise ({message})"
    if "datetime" in found["types"]:
        return TIME
    if "regex" in found["bound"]:
        return "text that is not blank" if message.endswith(BLANK) else "text of letters, digits and ._:+/=- alone"
    words = " or ".join(WORDS.get(name, name) for name in found["types"].split(" | "))
    unit = "characters" if found["types"] == "str" else "entries"
    bound = re.sub(r" of length (.*)", rf" of \1 {unit}", found["bound"])
    return words + bound.replace(">= ", "at least ").replace("<= ", "at most ")


def _short(value: Any) -> str:
    """The value as JSON on one line: what is not printable is escaped."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(sign if sign.isprintable() else f"\\u{ord(sign):04x}" for sign in text[:80])
    return text if len(text) <= 60 else f"{text[:58]}…"
