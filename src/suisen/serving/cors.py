"""Pages of other origins that may ask this server from a browser: those on a list, and no others.

Credentials are never allowed: browsers send no cookies here, and a key is a header that the page itself must know.
"""

import re
from collections.abc import Sequence

from suisen.errors import InputError
from suisen.serving.exchange import Exchange, Reply
from suisen.serving.problems import Refusal

ANY = "*"
KEPT_S = 600
"""Seconds for which a browser need not ask again."""
ASKED = b"authorization, content-type, idempotency-key, traceparent, tracestate, x-api-key, x-request-id"
"""Headers that a page may send."""
TOLD = b"x-request-id, retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset"
"""Headers that a page may read."""
_ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?")


class Cors:
    """The list."""

    def __init__(self, origins: Sequence[str]) -> None:
        """Raises InputError for what is no origin as browsers send it."""
        for origin in origins:
            if origin != ANY and not _ORIGIN.fullmatch(origin):
                raise InputError(
                    f"cors_origin = {origin!r} must be like https://shop.example or https://shop.example:8443, "
                    "in small letters and without a path; *: any"
                )
        self._origins = frozenset(origin.encode() for origin in origins)
        self._any = ANY in origins

    def headers(self, exchange: Exchange) -> tuple[tuple[bytes, bytes], ...]:
        """What a reply tells the browser; 0.4 µs."""
        origin = exchange.headers.get(b"origin")
        vary = ((b"vary", b"Origin"),)
        if origin is None or not (self._any or origin in self._origins):
            return vary
        allowed = b"*" if self._any else origin
        return (*vary, (b"access-control-allow-origin", allowed), (b"access-control-expose-headers", TOLD))

    def preflight(self, exchange: Exchange, methods: str) -> Reply:
        """What a page may ask of a path.  Refuses (403) an origin that is not on the list."""
        origin = exchange.headers.get(b"origin", b"")
        if not (self._any or origin in self._origins):
            shown = origin[:80].decode("latin-1")
            raise Refusal("forbidden", f"origin = {shown!r} is not on the list; add it to cors_origin of the server")
        told = (
            (b"access-control-allow-methods", methods.encode()),
            (b"access-control-allow-headers", ASKED),
            (b"access-control-max-age", b"%d" % KEPT_S),
        )
        return Reply(200, b"text/plain", b"", told)
