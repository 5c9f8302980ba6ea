"""A client that calls the app itself: no network, no threads but the app's own."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from urllib.parse import unquote

from suisen.serving.app import App
from suisen.serving.endpoints import ENDPOINTS

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


class Client:
    """An app in an event loop that runs while something is asked."""

    def __init__(self, load, settings=None, wait=True, endpoints=ENDPOINTS) -> None:
        self.runner = asyncio.Runner()
        self.app = App(load, settings, endpoints)
        self.runner.run(self._start(wait))

    async def _start(self, wait) -> None:
        await self.app.start()
        if wait:
            await self.app.opened.wait()

    def close(self) -> None:
        self.runner.run(self.app.stop())
        self.runner.close()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def run(self, awaitable):
        """The result of a coroutine, run in the app's loop."""
        return self.runner.run(awaitable)

    def ask(self, method, path, body=b"", headers=None, raw=True) -> Response:
        return self.runner.run(self.call(method, path, body, headers, raw))

    def get(self, path, **options) -> Response:
        return self.ask("GET", path, **options)

    def post(self, path, message, headers=JSON) -> Response:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.ask("POST", path, body, headers)

    async def call(self, method, path, body=b"", headers=None, raw=True) -> Response:
        parts = body if isinstance(body, list) else [body]
        place, _, query = path.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": unquote(place),
            "query_string": query.encode("latin-1"),
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        if raw:
            scope["raw_path"] = place.encode()
        waiting = [
            {"type": "http.request", "body": part, "more_body": at < len(parts) - 1} for at, part in enumerate(parts)
        ]
        sent = []

        async def receive():
            return waiting.pop(0) if waiting else {"type": "http.disconnect"}

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        start, end = sent
        names = {name.decode(): value.decode() for name, value in start["headers"]}
        return Response(start["status"], names, end["body"])
