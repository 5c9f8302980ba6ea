"""The HTTP application: its life, and itself as plain ASGI.  ``front`` serves it without ASGI between."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from urllib.parse import quote

from suisen.errors import SuisenError
from suisen.recommending.held import private_folder
from suisen.recommending.rules.declared import Rules
from suisen.recommending.system import System
from suisen.serving import openapi
from suisen.serving.api_page import described
from suisen.serving.blocking import read
from suisen.serving.board import Board
from suisen.serving.contract import Endpoint
from suisen.serving.control import Control
from suisen.serving.dispatch import Dispatch
from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.endpoints.admin import ADMIN
from suisen.serving.exchange import Exchange, Reply, check_size, too_slow
from suisen.serving.guard import Guard
from suisen.serving.keys import Keys
from suisen.serving.lane import STOP_S
from suisen.serving.opening import loaded
from suisen.serving.problems import Refusal
from suisen.serving.service import Service
from suisen.serving.settings import Settings, check_admin
from suisen.serving.siblings import Group
from suisen.serving.watching import Watcher

logger = logging.getLogger("suisen.serving")
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Admin:
    """What the admin listener answers: a front's app over the same service, with endpoints of its own."""

    def __init__(self, service: Service) -> None:
        self.service = service
        settings, guard = service.settings, service.guard
        if settings.admin_key is not None:
            keys = Keys(settings.api_keys, settings.admin_key, "admin-key", ("admin", "metrics"))
            guard = Guard(settings, service.telemetry, keys=keys)
        service.admin_description = described(ADMIN, guard, settings, about=openapi.ADMIN, where="/admin/openapi.json")
        self.dispatch = Dispatch(service, ADMIN, guard)


class App:
    """An ASGI application over one bundle.

    ``load`` brings the System; it runs in a thread while the server already answers ``/health/live``, and what it
    raises leaves the server unready for good: ``opened`` is set then, too, and ``service.failure`` says why.
    """

    def __init__(
        self,
        load: Callable[[], System],
        settings: Settings | None = None,
        endpoints: Sequence[Endpoint[Any]] = ENDPOINTS,
        group: Group | None = None,
        *,
        own: bool = False,
    ) -> None:
        """``group``: the workers that this one is of; ``own``: nobody else has the System.

        Raises InputError where the folder of the log cannot be written.
        """
        check_admin(settings or Settings())
        if settings is not None and settings.blocklist is not None:
            read(settings.blocklist)  # what is wrong with it is said before anything is loaded
        if settings is not None:
            Rules.of(settings.rules)  # likewise
        self.service = Service(settings or Settings(), group)
        self.service.description = described(
            endpoints, self.service.guard, self.service.settings, about=openapi.PUBLIC, where="/openapi.json"
        )
        self._load, self._own, self._group = load, own, group
        self.dispatch = Dispatch(self.service, endpoints)
        self.draining = time.monotonic()
        """When it began to drain."""
        self.admin = Admin(self.service)
        self._files = ExitStack()

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the lanes and, in the background, loading."""
        self.opened = asyncio.Event()
        if self._group is None:
            board = Board(self._files.enter_context(private_folder(self.service.settings.private_dir)))
        else:
            board = Board(self._group.folder, self._group.number, self._group.workers)
        self.control = self.service.control = Control(self.service, board, partial(loaded, held=True))
        watched = self.service.settings.watch
        self._watcher = None if watched is None else Watcher(watched, self.control)
        self.service.lane.start()
        self.service.large.start()
        self.service.journal.start()
        if self.service.shipping is not None:
            self.service.shipping.start()
        self.service.quality.start()
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        service, control = self.service, self.control
        try:
            if service.users is not None:
                await service.users.start()
            place, opened = control.first(self._load, own=self._own)
            control.begin(place, await asyncio.to_thread(opened))
        except Exception as error:
            service.state = "failed"
            service.failure = error
            logger.error("the bundle is not served: %s", error, exc_info=not isinstance(error, SuisenError))
        else:
            service.telemetry.ready.set(1)
            if service.state == "loading":
                service.state = "ready"
            logger.info("ready", extra={"fields": {"version": service.version}})
        self.opened.set()

    def look(self) -> None:
        """Does what is due, where no request makes the server look: now and then."""
        self.service.look()
        self.admin.dispatch.guard.look()
        self.control.look()
        self.control.expire()
        if self._watcher is not None:
            self._watcher.look()

    def drain(self) -> None:
        """Not ready from now on; requests that still come are answered."""
        if self.service.state in ("loading", "ready"):
            self.draining = time.monotonic()
            self.service.state = "draining"
            self.service.telemetry.ready.set(0)

    async def stop(self, within_s: float = STOP_S) -> None:
        """Finishes what was taken in and closes the logs; what computes for longer than ``within_s`` is left alone."""
        self.drain()
        await asyncio.wait([self._opening], timeout=within_s)
        await asyncio.to_thread(self.service.quality.stop)
        await asyncio.gather(self.service.lane.stop(within_s), self.service.large.stop(within_s))
        await self.service.journal.stop()
        if self.service.tracing is not None:
            await asyncio.to_thread(self.service.tracing.stop)
        if self.service.users is not None:
            await self.service.users.stop()
        if self.service.shipping is not None:
            await self.service.shipping.stop(self.draining)
        if self._watcher is not None:
            self._watcher.stop()
        self._files.close()

    # -- ASGI -------------------------------------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection event, as ASGI 3 has it."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:
            raise RuntimeError(f"scope type {scope['type']!r} is not served; this is HTTP only")

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw: bytes | None = scope.get("raw_path")
        path = quote(scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")
        address = (scope.get("client") or [""])[0]
        query, sent = scope["query_string"], dict(scope["headers"])
        exchange = self.dispatch.exchange(scope["method"], path, query, sent, address)
        found = self.dispatch.opened(exchange)
        reply = found if isinstance(found, Reply) else await self._answered(exchange, found, receive)
        headers = [
            (b"content-type", reply.media_type),
            (b"content-length", b"%d" % len(reply.body)),
            (b"x-request-id", exchange.request_id.encode("ascii")),
            (b"cache-control", b"no-store"),
            *reply.headers,
        ]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if exchange.method == "HEAD" else reply.body})

    async def _answered(self, exchange: Exchange, endpoint: Endpoint[Any], receive: Receive) -> Reply:
        try:
            body = await self._body(receive) if endpoint.has_body else b""
        except Refusal as refusal:
            return self.dispatch.refused(exchange, refusal)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.dispatch.answer(exchange, endpoint, body, lambda made: None if reply.done() else reply.set_result(made))
        return await reply

    async def _body(self, receive: Receive) -> bytes:
        """The body.  Refuses one that does not come in its time."""
        settings = self.service.settings
        try:
            async with asyncio.timeout(settings.body_s):
                return await _body(receive, settings.max_body_bytes)
        except TimeoutError:
            raise too_slow("body", settings.body_s) from None


async def _body(receive: Receive, max_bytes: int) -> bytes:
    """The body.  Refuses it before it is read to its end where it is too large."""
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Refusal("malformed_request", "the connection ended before the body")
        parts.append(message.get("body", b""))
        check_size(sum(map(len, parts)), max_bytes)
        more = message.get("more_body", False)
    return b"".join(parts)
