"""The paths of the server, written once: dispatch, metrics and ``/openapi.json`` read this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from suisen.serving.messages import (
    EventsAnswer,
    EventsRequest,
    Health,
    NoParams,
    RecommendAnswer,
    RecommendParams,
    RecommendRequest,
    SimilarAnswer,
    SimilarParams,
)
from suisen.serving.problems import KINDS, Code

Operation = Literal["recommend", "recommend_user", "similar", "events", "live", "ready", "metrics", "openapi"]
READING: tuple[Code, ...] = ("malformed_request", "unknown_field", "invalid_value")
BODY: tuple[Code, ...] = (*READING, "malformed_json", "too_large", "unsupported_media_type")
COMPUTING: tuple[Code, ...] = ("not_ready", "overloaded", "deadline_exceeded", "internal")


@dataclass(frozen=True)
class Route:
    """One method of one path."""

    operation: Operation
    method: Literal["GET", "POST"]
    path: str
    """A last segment in braces takes any percent-encoded id."""
    summary: str
    answer: type | str
    """A Struct, or the media type of an answer that is none."""
    body: type | None = None
    params: type | None = NoParams
    """None: the query string is not looked at."""
    status: int = 200
    codes: tuple[Code, ...] = ()
    """Problems that may be the answer, beside those of every path."""

    @property
    def variable(self) -> str:
        """Name of the segment in braces; "" where there is none."""
        return self.path.rpartition("{")[2].rstrip("}") if self.path.endswith("}") else ""

    @property
    def prefix(self) -> str:
        """The path up to the segment in braces."""
        return self.path.partition("{")[0]

    @property
    def refusals(self) -> dict[int, list[Code]]:
        """Codes by status."""
        found: dict[int, list[Code]] = {}
        for code in self.codes:
            found.setdefault(int(KINDS[code].status), []).append(code)
        return found


ROUTES: tuple[Route, ...] = (
    Route(
        "recommend",
        "POST",
        "/v1/recommend",
        "Lists for users, histories, features or nobody in particular.",
        RecommendAnswer,
        body=RecommendRequest,
        codes=(*BODY, *COMPUTING, "unanswerable"),
    ),
    Route(
        "recommend_user",
        "GET",
        "/v1/recommend/{user}",
        "The list of one user.",
        RecommendAnswer,
        params=RecommendParams,
        codes=(*READING, *COMPUTING, "unanswerable"),
    ),
    Route(
        "similar",
        "GET",
        "/v1/similar/{item}",
        "The items most alike to one.",
        SimilarAnswer,
        params=SimilarParams,
        codes=(*READING, *COMPUTING, "unknown_item"),
    ),
    Route(
        "events",
        "POST",
        "/v1/events",
        "Takes events into the log: all of a request, or none.",
        EventsAnswer,
        body=EventsRequest,
        status=202,
        codes=(*BODY, "not_ready", "overloaded", "log_unavailable", "internal"),
    ),
    Route("live", "GET", "/health/live", "Whether the process runs.", Health, params=None),
    Route(
        "ready", "GET", "/health/ready", "Whether requests may be sent here.", Health, params=None, codes=("not_ready",)
    ),
    Route("metrics", "GET", "/metrics", "Metrics for Prometheus.", "text/plain", params=None),
    Route("openapi", "GET", "/openapi.json", "This description.", "application/json", params=None),
)


class Table:
    """Finds the routes of a path."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        self._fixed: dict[str, dict[str, Route]] = {}
        self._open: dict[str, dict[str, Route]] = {}
        for route in routes:
            table, key = (self._open, route.prefix) if route.variable else (self._fixed, route.path)
            table.setdefault(key, {})[route.method] = route
        self.paths = [route.path for route in routes]

    def find(self, path: str) -> tuple[dict[str, Route], str] | None:
        """(routes by method, the percent-encoded last segment) of a path as it was sent; None: there is no such."""
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, ""
        head, slash, last = path.rpartition("/")
        routes = self._open.get(head + slash)
        return (routes, last) if routes is not None and last else None
