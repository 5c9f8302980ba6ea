"""A call without the network: what is sent, what an answer means, when it is tried again.  Both clients use it.

Every verb of ``Client`` may be tried again: lists are only read, and events carry an id, so that none counts twice.
Waiting follows the server's Retry-After, else grows from ``FIRST_S`` with full jitter (Brooker 2015, "Exponential
Backoff And Jitter"), and never passes the deadline of the call.
"""

import random
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from suisen.client.messages import (
    Bundle,
    EventsTaken,
    Health,
    Problem,
    Ranking,
    Recommendations,
    SimilarItems,
)
from suisen.errors import SuisenError

T = TypeVar("T")
FIRST_S, LONGEST_S = 0.05, 2.0
"""Longest wait after the first failure, and after many."""
AGAIN = (429, 503)
"""Refusals that another moment may not see."""
Options = Mapping[str, Any]


class Refused(SuisenError):
    """The server's refusal: ``code`` for programs, ``detail`` for people (it names the field, the value, the mend)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.code}: {problem.detail}")
        self.status, self.code, self.detail = problem.status, problem.code, problem.detail
        self.request_id = problem.request_id
        """Under which the server's log tells of it."""


class Unreachable(SuisenError):
    """There was no answer within the deadline."""


class Call(NamedTuple, Generic[T]):
    """What is sent, and what the answer is."""

    method: str
    path: str
    answer: type[T]
    body: bytes | None = None
    again: bool = True
    """Whether it may be done twice, so that it is tried again where nobody knows whether it was done."""


def _get(path: str, answer: type[T], options: Options) -> Call[T]:
    given = {name: str(value).lower() if isinstance(value, bool) else value for name, value in _said(options).items()}
    return Call("GET", f"{path}?{urlencode(given)}" if given else path, answer)


def _post(path: str, answer: type[T], body: Options) -> Call[T]:
    return Call("POST", path, answer, msgspec.json.encode(_said(body)))


def _said(options: Options) -> dict[str, Any]:
    """Without what is left to the server."""
    return {name: value for name, value in options.items() if value is not None}


def _segment(raw: str | int) -> str:
    """An id in a path; dots alone would be taken for the folder above."""
    text = quote(str(raw), safe="")
    return text if text.strip(".") else text.replace(".", "%2E")


def recommend(queries: Sequence[Options], options: Options) -> Call[Recommendations]:
    """``POST /v1/recommend``."""
    return _post("/v1/recommend", Recommendations, {"queries": queries, **options})


def recommend_batch(queries: Sequence[Options], options: Options) -> Call[Recommendations]:
    """``POST /v1/recommend/batch``."""
    return _post("/v1/recommend/batch", Recommendations, {"queries": queries, **options})


def recommend_user(user: str | int, options: Options) -> Call[Recommendations]:
    """``GET /v1/recommend/{user}``."""
    return _get(f"/v1/recommend/{_segment(user)}", Recommendations, options)


def rank(queries: Sequence[Options], options: Options) -> Call[Ranking]:
    """``POST /v1/rank``."""
    return _post("/v1/rank", Ranking, {"queries": queries, **options})


def similar(item: str | int, options: Options) -> Call[SimilarItems]:
    """``GET /v1/similar/{item}``."""
    return _get(f"/v1/similar/{_segment(item)}", SimilarItems, options)


def events(given: Sequence[Options]) -> Call[EventsTaken]:
    """``POST /v1/events``, each with an id and a time, so that it is the same event however often it is sent."""
    now = datetime.now(UTC)
    named = [{"event_id": uuid.uuid4().hex, "time": now, **_said(event)} for event in given]
    return _post("/v1/events", EventsTaken, {"events": named})


def bundle() -> Call[Bundle]:
    """``GET /v1/bundle``."""
    return _get("/v1/bundle", Bundle, {})


def ready() -> Call[Health]:
    """``GET /health/ready``."""
    return _get("/health/ready", Health, {})


def live() -> Call[Health]:
    """``GET /health/live``."""
    return _get("/health/live", Health, {})


class Tries(Generic[T]):
    """The tries of one call."""

    def __init__(self, call: Call[T], deadline_s: float) -> None:
        self._call, self._deadline_s = call, deadline_s
        self._until = time.monotonic() + deadline_s
        self._number = 0

    @property
    def patience_s(self) -> float:
        """Seconds for the next try: half of the deadline, so that a server which hangs leaves time for another; all of
        it where there may be no other.
        """
        longest = self._deadline_s / 2 if self._call.again else self._deadline_s
        return max(0.001, min(longest, self._until - time.monotonic()))

    def failed(self, error: Exception, *, sent: bool = True) -> float:
        """Seconds to wait after a try without an answer; ``sent``: the server may have done what it was asked.

        Raises Unreachable where it must not be done twice, and where there is no time for another try.
        """
        wait = self._wait(0.0)
        if wait is None or (sent and not self._call.again):
            tries = f"{self._number} {'try' if self._number == 1 else 'tries'}"
            raise Unreachable(
                f"no answer within {self._deadline_s:g} s ({tries}; {type(error).__name__}: {error}); "
                "is the server there?"
            ) from error
        return wait

    def answered(self, status: int, headers: Mapping[str, str], body: bytes) -> T | float:
        """The answer, or seconds to wait.  Raises Refused for a refusal that stands."""
        if 200 <= status < 300:
            return msgspec.json.decode(body, type=self._call.answer)
        wait = self._wait(_seconds(headers.get("retry-after", ""))) if status in AGAIN else None
        if wait is None:
            raise Refused(_problem(status, body))
        return wait

    def _wait(self, least: float) -> float | None:
        """Seconds until the next try; None where the deadline is nearer."""
        longest = min(LONGEST_S, FIRST_S * 2**self._number)
        self._number += 1
        wait = max(least, random.uniform(0.0, longest))
        return wait if time.monotonic() + wait < self._until else None


def _seconds(text: str) -> float:
    """Of a Retry-After header; 0 for none, and for a date."""
    return float(text) if text.isdigit() else 0.0


def _problem(status: int, body: bytes) -> Problem:
    """The problem document; of what is no document of ours (a balancer's page), its first words."""
    try:
        return msgspec.json.decode(body, type=Problem)
    except msgspec.MsgspecError:
        words = " ".join(body[:200].decode("utf-8", "replace").split())
        return Problem("", status, f"HTTP status {status}: {words}", "not_suisen", "")
