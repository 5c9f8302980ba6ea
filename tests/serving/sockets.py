"""Both fronts on real sockets: an app served from a thread of this process, and a plain socket to speak to it."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import string
import sys
import threading
from urllib.parse import quote

from suisen.serving.app import App
from suisen.serving.asgi import AsgiFront
from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.front import Front
from tests.serving.client import JSON, Response

if sys.platform == "win32":
    new_loop = asyncio.new_event_loop
else:
    from uvloop import new_event_loop as new_loop  # as ``serve`` does
SECONDS = 60.0
"""Nothing here takes so long, but a busy machine may be slow."""


class Served:
    """An app behind one of the fronts; the calls are those of ``client.Client``."""

    def __init__(self, front, load, settings=None, wait=True, endpoints=ENDPOINTS, loop=new_loop) -> None:
        self.app = App(load, settings, endpoints)
        self.listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.address = self.listening.getsockname()
        self._run = {"fast": self._fast, "asgi": self._asgi}[front]
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(loop, wait), daemon=True)
        self._thread.start()
        assert self._started.wait(SECONDS)

    def _live(self, loop, wait) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(self._run(wait))

    async def _ready(self, wait) -> None:
        self.loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        if wait:
            await self.app.opened.wait()
        self._started.set()
        await self._ended.wait()

    async def _fast(self, wait) -> None:
        await self.app.start()
        self.front = Front(self.app)
        await self.front.start(self.listening)
        await self._ready(wait)
        await self.front.stop()
        await self.app.stop()

    async def _asgi(self, wait) -> None:
        await self.app.start()
        self.front = AsgiFront(self.app)
        await self.front.start(self.listening)
        await self._ready(wait)
        await self.front.stop()
        await self.app.stop()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(SECONDS)
        assert not self._thread.is_alive(), "the server does not end"

    def run(self, awaitable):
        """The result of a coroutine, run in the server's loop."""
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(SECONDS)

    def stop_front(self):
        """Stops the fast front, and that alone; the future of its end."""
        return asyncio.run_coroutine_threadsafe(self.front.stop(), self.loop)

    # -- requests ------------------------------------------------------------------------------------------------------

    def ask(self, method, path, body=b"", headers=None, raw=True) -> Response:
        connection = http.client.HTTPConnection(*self.address, timeout=SECONDS)
        connection.putrequest(method, quote(path, safe=string.punctuation), skip_accept_encoding=True)
        headers = dict(headers or {})
        parts = body if isinstance(body, list) else None
        if parts is not None:
            headers["transfer-encoding"] = "chunked"
        elif body:
            headers.setdefault("content-length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders(
            body if parts is None else iter(part for part in parts if part), encode_chunked=parts is not None
        )
        answer = connection.getresponse()
        content = answer.read()
        names = {name.lower(): value for name, value in answer.getheaders()}
        connection.close()
        return Response(answer.status, names, content)

    def get(self, path, **options) -> Response:
        return self.ask("GET", path, **options)

    def post(self, path, message, headers=JSON) -> Response:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        return self.ask("POST", path, body, headers)
