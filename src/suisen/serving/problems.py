"""Refusals: every answer that is no success is a problem document (RFC 9457) with a stable code."""

import math
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

import msgspec

from suisen.errors import one_line


@dataclass(frozen=True)
class ProblemType:
    """What all problems of one code share."""

    status: HTTPStatus
    title: str
    retry: bool = False
    """Whether the same request may succeed in a second."""
    reason: str = ""
    """What it is counted by as a request that was not computed (``suisen_refused_total``)."""


PROBLEM_TYPES = {
    "malformed_json": ProblemType(HTTPStatus.BAD_REQUEST, "The body is no JSON"),
    "malformed_request": ProblemType(HTTPStatus.BAD_REQUEST, "The request cannot be read"),
    "unauthorized": ProblemType(HTTPStatus.UNAUTHORIZED, "No key that is known"),
    "forbidden": ProblemType(HTTPStatus.FORBIDDEN, "The key does not allow this"),
    "not_found": ProblemType(HTTPStatus.NOT_FOUND, "No such path"),
    "unknown_item": ProblemType(HTTPStatus.NOT_FOUND, "No such item"),
    "method_not_allowed": ProblemType(HTTPStatus.METHOD_NOT_ALLOWED, "The path has no such method"),
    "too_large": ProblemType(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    "too_slow": ProblemType(HTTPStatus.REQUEST_TIMEOUT, "The request came too slowly"),
    "url_too_long": ProblemType(HTTPStatus.REQUEST_URI_TOO_LONG, "The URL is too long"),
    "headers_too_large": ProblemType(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The headers are too large"),
    "unsupported_media_type": ProblemType(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be JSON"),
    "unknown_field": ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "A field is unknown"),
    "invalid_value": ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "A value is not allowed"),
    "id_reused": ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "An id was used for something else"),
    "unanswerable": ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "The model cannot answer this query"),
    "rate_limited": ProblemType(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"),
    "too_expensive": ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "The request costs too much", reason="price"),
    "bundle_refused": ProblemType(HTTPStatus.UNPROCESSABLE_ENTITY, "The bundle is not served"),
    "conflict": ProblemType(HTTPStatus.CONFLICT, "The server's state does not allow this"),
    "internal": ProblemType(HTTPStatus.INTERNAL_SERVER_ERROR, "The server failed"),
    "not_ready": ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "The server is not ready", retry=True),
    "overloaded": ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests wait", retry=True, reason="queue"),
    "deadline_exceeded": ProblemType(
        HTTPStatus.SERVICE_UNAVAILABLE, "The answer would have come too late", retry=True, reason="deadline"
    ),
    "log_unavailable": ProblemType(HTTPStatus.SERVICE_UNAVAILABLE, "The event log cannot be written", retry=True),
}
"""By code, which is what programs may rely on: codes are added, never renamed."""
Code = Annotated[str, msgspec.Meta(extra_json_schema={"enum": sorted(PROBLEM_TYPES)})]


class Problem(msgspec.Struct, frozen=True):
    """The body of every refusal."""

    type: str
    title: str
    status: int
    detail: str
    code: Code
    request_id: str


class Refusal(Exception):
    """Ends a request with a problem document; ``detail`` names the field, the value and the mend."""

    def __init__(
        self,
        code: Code,
        detail: str,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        *,
        retry_s: float = 1.0,
        reason: str = "",
    ) -> None:
        """``retry_s``: when it may succeed, sent in whole seconds, 1 or more; ``reason``: in place of the code's."""
        super().__init__(detail)
        self.code, self.detail, self.headers = code, one_line(detail), headers
        self.reason = reason or PROBLEM_TYPES[code].reason
        if PROBLEM_TYPES[code].retry:
            self.headers = (*headers, (b"retry-after", b"%d" % max(1, math.ceil(retry_s))))

    @property
    def status(self) -> int:
        """The HTTP status."""
        return int(PROBLEM_TYPES[self.code].status)

    def problem(self, request_id: str) -> Problem:
        """The document."""
        title = PROBLEM_TYPES[self.code].title
        return Problem(f"urn:suisen:problem:{self.code}", title, self.status, self.detail, self.code, request_id)
