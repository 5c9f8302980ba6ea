"""One request and its reply, between ASGI's dictionaries and the handlers."""

import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import msgspec

from suisen.serving.problems import Refusal

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
JSON = b"application/json"
PROBLEM = b"application/problem+json"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,128}")
_MEDIA_TYPE = re.compile(r"application/json\s*(;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Reply:
    """Status, media type, body, further headers.  No reply may be cached."""

    status: int
    media_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, message: msgspec.Struct, status: int = 200) -> "Reply":
        """A message as JSON."""
        return cls(status, JSON, _encode(message))

    @classmethod
    def refused(cls, refusal: Refusal, request_id: str) -> "Reply":
        """A problem document."""
        return cls(refusal.status, PROBLEM, _encode(refusal.problem(request_id)), refusal.headers)

    async def send(self, send: Send, request_id: str, head: bool) -> None:
        """The reply as ASGI's two messages; to HEAD without the body, but with its length."""
        headers = [
            (b"content-type", self.media_type),
            (b"content-length", b"%d" % len(self.body)),
            (b"x-request-id", request_id.encode("ascii")),
            (b"cache-control", b"no-store"),
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head else self.body})


class Exchange:
    """A request while it is answered."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.started = time.perf_counter()
        self.method: str = scope["method"]
        raw: bytes | None = scope.get("raw_path")
        self.path = quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")
        """As it was sent: percent-encoded."""
        self.query_string: bytes = scope["query_string"]
        self.segment = ""
        """The percent-encoded last segment, where the route has one."""
        self._headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        self._receive = receive
        given = self._headers.get(b"x-request-id", "")
        self._odd_id = bool(given) and not _REQUEST_ID.fullmatch(given)
        self.request_id = given if given and not self._odd_id else uuid.uuid4().hex

    @property
    def took_ms(self) -> float:
        """Milliseconds since the request came in."""
        return round((time.perf_counter() - self.started) * 1000, 3)

    def check_id(self) -> None:
        """Refuses a request id of the caller's that could not be logged and sent back as it is."""
        if self._odd_id:
            shown = self._headers[b"x-request-id"][:40]
            raise Refusal(
                "malformed_request",
                f"x-request-id = {shown!r} must be 1 to 128 letters, digits or ._:+/=-; leave it out to get one",
            )

    def id_in_path(self) -> str:
        """The last segment, decoded."""
        try:
            value = unquote_to_bytes(self.segment.encode("latin-1")).decode("utf-8")
        except UnicodeDecodeError:
            raise Refusal("malformed_request", f"path: {self.segment[:40]!r} is not UTF-8; percent-encode it") from None
        if len(value) > 256:
            raise Refusal("invalid_value", f"path: an id of {len(value)} characters must be of at most 256 characters")
        return value

    async def body(self, max_bytes: int) -> bytes:
        """The JSON body.  Refuses other media types, and a body above ``max_bytes`` before it is read to its end."""
        self._check_media_type()
        announced = self._headers.get(b"content-length", "0")
        size = int(announced) if announced.isdecimal() else 0
        parts: list[bytes] = []
        more = True
        while more and size <= max_bytes:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Refusal("malformed_request", "the connection ended before the body")
            parts.append(message.get("body", b""))
            size = max(size, sum(map(len, parts)))
            more = message.get("more_body", False)
        if size > max_bytes:
            raise Refusal(
                "too_large", f"the body of {size:,} bytes is above {max_bytes:,}; send fewer queries or events"
            )
        return b"".join(parts)

    def _check_media_type(self) -> None:
        given = self._headers.get(b"content-type", "")
        if not _MEDIA_TYPE.fullmatch(given):
            raise Refusal(
                "unsupported_media_type",
                f"content-type = {given[:60]!r} must be 'application/json' (UTF-8); name it so",
            )
        packed = self._headers.get(b"content-encoding", "identity")
        if packed != "identity":
            raise Refusal("unsupported_media_type", f"content-encoding = {packed[:60]!r} is not read; send it unpacked")
