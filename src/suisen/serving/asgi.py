"""The app behind uvicorn, for ``--front asgi``: ``front.Front``'s two verbs, without uvicorn's signals and lifespan.

Refusals are ours here, too, and so are the limits on connections, URL, headers and the time until a request is whole.
Not bounded is how long a client takes to read its answers: uvicorn holds each until the connection ends.
"""

import asyncio
import socket
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from suisen.serving.app import App
from suisen.serving.connection import CLOSE, head_of, too_large
from suisen.serving.crowd import Crowd, address_of
from suisen.serving.exchange import too_slow
from suisen.serving.problems import Refusal
from suisen.serving.sockets import BACKLOG, most_connections


class AsgiFront(Crowd):
    """Answers the connections of a socket."""

    def __init__(self, app: App) -> None:
        super().__init__(app)
        settings = self.settings
        config = uvicorn.Config(
            cast(Any, app),
            http=type("Protocol", (Protocol,), {"crowd": self}),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=round(settings.keep_alive_s),
            timeout_graceful_shutdown=max(1, round(settings.grace_s)),
        )
        self._server = uvicorn.Server(config)

    async def start(self, listening: socket.socket) -> None:
        """Takes connections from now on."""
        self.most = most_connections(self.settings.max_connections)
        self._serving = asyncio.create_task(self._server._serve([listening]))  # ``serve`` would take our signals

    async def stop(self) -> None:
        """Closes the socket and returns when running requests are answered, or their time is up."""
        self._server.should_exit = True
        await self._serving


class Protocol(HttpToolsProtocol):
    """uvicorn's, whose refusals are ours and whose connections, URLs, headers and heads have limits."""

    crowd: Crowd

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came; one too many is refused."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(self.crowd.settings.first_byte_s, self._ended, "silent")
        self._address = address_of(transport.get_extra_info("peername"))
        self._refusal = self.crowd.enter(self, self._address)
        if self._refusal is not None:
            self.send_400_response("")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.crowd.telemetry.disconnected.inc()
        self.crowd.forget(self, self._address)
        self._limit.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Nothing is read behind a refusal."""
        if self._refusal is None:
            super().data_received(data)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._header_size = 0
        self._limit.cancel()
        self._limit = self.loop.call_later(self.crowd.settings.header_s, self._ended, "slow")

    def on_url(self, url: bytes) -> None:
        """A part of it."""
        super().on_url(url)
        self._check()

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header, whole."""
        self._header_size += len(name) + len(value)
        self._check()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there in time."""
        self._limit.cancel()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What ends a connection: the refusal that was found, or that of what is no HTTP."""
        dispatch = self.crowd.app.dispatch
        if self._refusal is None:
            self._refusal = Refusal("malformed_request", "this is no HTTP request; send HTTP/1.1")
        exchange = dispatch.exchange("", "", b"", {})
        reply = dispatch.refused(exchange, self._refusal)
        self.crowd.tell_time()
        self.transport.write(head_of(exchange, reply, self.crowd.date, CLOSE) + reply.body)
        self.transport.close()

    def _check(self) -> None:
        """Raises, which ends the parsing, where URL or headers are too long."""
        self._refusal = too_large(len(self.url), self._header_size, self.crowd.settings)
        if self._refusal is not None:
            raise self._refusal

    def _ended(self, reason: str) -> None:
        """Time is up for a request to come."""
        self.crowd.ended(reason)
        if reason == "slow":
            self._refusal = too_slow("head", self.crowd.settings.header_s)
            self.send_400_response("")
        else:
            self.transport.close()
