"""The two clients: the same verbs, called or awaited."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

import httpx

from suisen.client import calls
from suisen.client.calls import Call, Tries
from suisen.client.messages import Bundle, EventsTaken, Health, Ranking, Recommendations, SimilarItems

T = TypeVar("T")
Query = Mapping[str, Any]
"""``user_id``, ``session_id``, ``history``, ``user_features``, ``context``: any of them, or none."""
CONNECTIONS = 100


class _Common:
    """Where, with which key, for how long."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        deadline_s: float = 5.0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """``url``: of the server, without a path; ``deadline_s``: seconds in which a call has its answer, all tries
        together, half of them for one; ``headers``: sent with each call, like ``traceparent``.  Raises ValueError for a
        deadline that is none.
        """
        if not 0 < deadline_s < float("inf"):
            raise ValueError(f"deadline_s = {deadline_s} must be a number of seconds above 0")
        self.deadline_s = deadline_s
        key = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._settings: dict[str, Any] = {
            "base_url": url.rstrip("/"),
            "headers": {"content-type": "application/json", **key, **(headers or {})},
            "limits": httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
        }


class Caller(_Common):
    """Asks a server and waits for its answers.  Threads may share one; ``close``, or the end of a ``with`` block, ends
    its connections.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._http = httpx.Client(**self._settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connections."""
        self._http.close()

    def _made(self, call: Call[T], deadline_s: float | None = None) -> T:
        tries = Tries(call, self.deadline_s if deadline_s is None else deadline_s)
        while True:
            try:
                found = self._http.request(call.method, call.path, content=call.body, timeout=tries.patience_s)
            except httpx.TransportError as error:
                answer: T | float = tries.failed(error, sent=not isinstance(error, httpx.ConnectError))
            else:
                answer = tries.answered(found.status_code, found.headers, found.content)
            if not isinstance(answer, float):
                return answer
            time.sleep(answer)


class Client(Caller):
    """Asks for lists, and tells what happened.

    Verbs raise Refused (with the server's code and detail) and Unreachable.  ``options`` are the fields of the request:
    ``k``, ``exclude``, ``among``, ``where``, ``exclude_seen``, ``unknown``, ``diversity``, ``precise``, ``at``.
    """

    def recommend(self, queries: Sequence[Query], **options: Any) -> Recommendations:
        """The lists of up to 256 queries."""
        return self._made(calls.recommend(queries, options))

    def recommend_user(self, user: str | int, **options: Any) -> Recommendations:
        """The list of one user: ``.items``."""
        return self._made(calls.recommend_user(user, options))

    def recommend_batch(self, queries: Sequence[Query], **options: Any) -> Recommendations:
        """The lists of up to 10,000 queries, for mailings; give the client a long deadline."""
        return self._made(calls.recommend_batch(queries, options))

    def rank(self, queries: Sequence[Query], **options: Any) -> Ranking:
        """The ``items`` of each query, the best first."""
        return self._made(calls.rank(queries, options))

    def similar(self, item: str | int, **options: Any) -> SimilarItems:
        """The items most alike to one."""
        return self._made(calls.similar(item, options))

    def events(self, events: Sequence[Mapping[str, Any]]) -> EventsTaken:
        """Tells what happened: ``user_id`` or ``session_id``, ``item_id``, ``event``, what docs/serving.md lists."""
        return self._made(calls.events(events))

    def bundle(self) -> Bundle:
        """What answers."""
        return self._made(calls.bundle())

    def ready(self) -> Health:
        """Whether requests may be sent.  Raises Refused where not."""
        return self._made(calls.ready())

    def live(self) -> Health:
        """Whether the process runs."""
        return self._made(calls.live())


class AsyncClient(_Common):
    """``Client``, awaited, in one event loop."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        self._http = httpx.AsyncClient(**self._settings)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the connections."""
        await self._http.aclose()

    async def recommend(self, queries: Sequence[Query], **options: Any) -> Recommendations:
        """The lists of up to 256 queries."""
        return await self._made(calls.recommend(queries, options))

    async def recommend_user(self, user: str | int, **options: Any) -> Recommendations:
        """The list of one user: ``.items``."""
        return await self._made(calls.recommend_user(user, options))

    async def recommend_batch(self, queries: Sequence[Query], **options: Any) -> Recommendations:
        """The lists of up to 10,000 queries, for mailings; give the client a long deadline."""
        return await self._made(calls.recommend_batch(queries, options))

    async def rank(self, queries: Sequence[Query], **options: Any) -> Ranking:
        """The ``items`` of each query, the best first."""
        return await self._made(calls.rank(queries, options))

    async def similar(self, item: str | int, **options: Any) -> SimilarItems:
        """The items most alike to one."""
        return await self._made(calls.similar(item, options))

    async def events(self, events: Sequence[Mapping[str, Any]]) -> EventsTaken:
        """Tells what happened."""
        return await self._made(calls.events(events))

    async def bundle(self) -> Bundle:
        """What answers."""
        return await self._made(calls.bundle())

    async def ready(self) -> Health:
        """Whether requests may be sent.  Raises Refused where not."""
        return await self._made(calls.ready())

    async def live(self) -> Health:
        """Whether the process runs."""
        return await self._made(calls.live())

    async def _made(self, call: Call[T]) -> T:
        tries = Tries(call, self.deadline_s)
        while True:
            try:
                found = await self._http.request(call.method, call.path, content=call.body, timeout=tries.patience_s)
            except httpx.TransportError as error:
                answer: T | float = tries.failed(error, sent=not isinstance(error, httpx.ConnectError))
            else:
                answer = tries.answered(found.status_code, found.headers, found.content)
            if not isinstance(answer, float):
                return answer
            await asyncio.sleep(answer)
