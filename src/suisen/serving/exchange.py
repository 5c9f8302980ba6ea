"""One request and its reply, as the handlers see them, whichever front brought the one and sends the other."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from suisen.serving.problems import Refusal

if TYPE_CHECKING:
    from suisen.serving.slots import Slot

JSON = b"application/json"
PROBLEM = b"application/problem+json"
UNMATCHED = "unmatched"
"""The route of requests without a path that is known."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:+/=-]{1,128}")
_KEY = re.compile(rb"(\"?)([A-Za-z0-9._:+/=-]{1,128})\1")
_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEDIA_TYPE = re.compile(rb"application/json\s*(;\s*charset=\"?utf-8\"?\s*)?", re.IGNORECASE)
_encode = msgspec.json.Encoder().encode


class Reply(NamedTuple):
    """Status, media type, body, further headers.  No reply may be cached."""

    status: int
    media_type: bytes
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()

    @classmethod
    def of(cls, message: msgspec.Struct, status: int = 200) -> Reply:
        """A message as JSON."""
        return cls(status, JSON, _encode(message))

    @classmethod
    def refused(cls, refusal: Refusal, request_id: str) -> Reply:
        """A problem document."""
        return cls(refusal.status, PROBLEM, _encode(refusal.problem(request_id)), refusal.headers)


class Exchange:
    """A request while it is answered."""

    __slots__ = (
        "_odd_id", "added", "address", "gone", "headers", "key", "marks", "method", "path", "query_string",
        "request_id", "route", "segment", "slot", "started"
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        path: str,
        query_string: bytes,
        headers: Mapping[bytes, bytes],
        ids: Iterator[str],
        address: str = "",
    ) -> None:
        """``path`` as it was sent, percent-encoded; names of ``headers`` in small letters; ``ids``: for requests that
        bring none; ``address``: who asks, where the front knows it.
        """
        self.started = time.perf_counter()
        self.method = method
        self.path = path
        self.query_string = query_string
        self.segment = ""
        """The percent-encoded last segment, where the route has one."""
        self.slot: Slot
        """What answers it, from first to last; set where the endpoint needs a bundle, before its handler is called."""
        self.gone = False
        """Its client is not there any more: nothing is computed for it."""
        self.headers = headers
        self.address = address
        self.route = UNMATCHED
        """The path of the endpoint, as metrics and traces name it."""
        self.key = ""
        """Name of the key that it came with."""
        self.added: tuple[tuple[bytes, bytes], ...] = ()
        """Headers of its reply, whatever that will be."""
        self.marks: list[tuple[str, float]] = []
        """(what ended, when), where requests are traced."""
        given = headers.get(b"x-request-id")
        self._odd_id = bool(given) and not _REQUEST_ID.fullmatch(given or b"")
        self.request_id = given.decode("ascii") if given and not self._odd_id else next(ids)

    @property
    def took_ms(self) -> float:
        """Milliseconds since the request came in."""
        return round((time.perf_counter() - self.started) * 1000, 3)

    def check_id(self) -> None:
        """Refuses a request id of the caller's that could not be logged and sent back as it is."""
        if self._odd_id:
            shown = self.headers[b"x-request-id"][:40].decode("latin-1")
            raise Refusal(
                "malformed_request",
                f"x-request-id = {shown!r} must be 1 to 128 letters, digits or ._:+/=-; leave it out to get one",
            )

    def idempotency_key(self) -> str | None:
        """What names the request, however often it is sent; with or without the quotes that a structured field has."""
        given = self.headers.get(b"idempotency-key")
        if given is None:
            return None
        found = _KEY.fullmatch(given)
        if found is None:
            shown = given[:40].decode("latin-1")
            raise Refusal(
                "malformed_request", f"idempotency-key = {shown!r} must be 1 to 128 letters, digits or ._:+/=-"
            )
        return found[2].decode("ascii")

    def mark(self, stage: str) -> None:
        """A stage ends; for traces."""
        self.marks.append((stage, time.perf_counter()))

    @property
    def trace(self) -> tuple[str, str, int] | None:
        """(trace id, id of the caller's span, flags) of a ``traceparent``; None where there is none that can be read:
        the recommendation of W3C has such a header ignored.
        """
        found = _TRACEPARENT.fullmatch(self.headers.get(b"traceparent", b""))
        if found is None or found[1] == b"ff" or not found[2].strip(b"0") or not found[3].strip(b"0"):
            return None
        if found[1] == b"00" and found[5]:
            return None
        return found[2].decode(), found[3].decode(), int(found[4], 16)

    def id_in_path(self) -> str:
        """The last segment, decoded."""
        try:
            value = unquote_to_bytes(self.segment.encode("latin-1")).decode("utf-8")
        except UnicodeDecodeError:
            raise Refusal("malformed_request", f"path: {self.segment[:40]!r} is not UTF-8; percent-encode it") from None
        if len(value) > 256:
            raise Refusal("invalid_value", f"path: an id of {len(value)} characters must be of at most 256 characters")
        return value

    def check_body(self, max_bytes: int) -> None:
        """Refuses other media types than JSON and, before it is read, a body that is announced above ``max_bytes``."""
        given = self.headers.get(b"content-type", b"")
        if given != JSON and not _MEDIA_TYPE.fullmatch(given):
            raise Refusal(
                "unsupported_media_type",
                f"content-type = {given[:60].decode('latin-1')!r} must be 'application/json' (UTF-8); name it so",
            )
        packed = self.headers.get(b"content-encoding", b"identity")
        if packed != b"identity":
            shown = packed[:60].decode("latin-1")
            raise Refusal("unsupported_media_type", f"content-encoding = {shown!r} is not read; send it unpacked")
        announced = self.headers.get(b"content-length", b"0")
        check_size(int(announced) if announced.isdigit() else 0, max_bytes)


def check_size(size: int, max_bytes: int) -> None:
    """Refuses a body of more bytes than are taken."""
    if size > max_bytes:
        raise Refusal("too_large", f"the body of {size:,} bytes is above {max_bytes:,}; send fewer queries or events")


def too_slow(part: str, limit: float) -> Refusal:
    """The refusal of a request of which a part did not come within its seconds."""
    return Refusal("too_slow", f"the {part} did not come within {limit:g} s; send it faster")
