"""The HTTP application: plain ASGI, no framework.  Its life cycle and the way of a request to the handler and back."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from suisen.errors import InputError, SuisenError
from suisen.recommending.system import System
from suisen.serving import openapi
from suisen.serving.answering import Answering
from suisen.serving.contract import AnyParams, Endpoint, NoParams
from suisen.serving.decoding import decode_body, decode_params
from suisen.serving.endpoints import ENDPOINTS
from suisen.serving.exchange import Exchange, Receive, Reply, Scope, Send
from suisen.serving.problems import Refusal
from suisen.serving.routes import Routes
from suisen.serving.service import Service
from suisen.serving.settings import Settings

logger = logging.getLogger("suisen.serving")


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
    ) -> None:
        """Raises InputError where the folder of the log cannot be written."""
        self.service = Service(settings or Settings())
        self.service.description = msgspec.json.encode(openapi.document(endpoints))
        self.on_opened: Callable[[], None] = lambda: None
        """Called once in the event loop, when loading succeeded or failed."""
        self._load = load
        self._routes = Routes(endpoints)

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Starts the lanes and, in the background, loading."""
        self.opened = asyncio.Event()
        self.service.lane.start()
        self.service.journal.start()
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        service = self.service
        try:
            system = await asyncio.to_thread(self._load)
            settings = service.settings
            answering = await asyncio.to_thread(Answering, system, settings.state_bytes, settings.row_bytes)
            service.telemetry.watch_users(answering.recent)
            service.telemetry.watch_rows(answering.visitors)
            service.answering = answering
        except Exception as error:
            service.state = "failed"
            service.failure = error
            logger.error("the bundle is not served: %s", error, exc_info=not isinstance(error, SuisenError))
        else:
            service.telemetry.bundle.info({"version": service.version, "model": system.name})
            service.telemetry.ready.set(1)
            if service.state == "loading":
                service.state = "ready"
            logger.info("ready", extra={"fields": {"version": service.version}})
        self.opened.set()
        self.on_opened()

    def drain(self) -> None:
        """Not ready from now on; requests that still come are answered."""
        if self.service.state in ("loading", "ready"):
            self.service.state = "draining"
            self.service.telemetry.ready.set(0)

    async def stop(self) -> None:
        """Finishes what was taken in and closes the logs."""
        self.drain()
        await self._opening
        await self.service.lane.stop()
        await self.service.journal.stop()

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
        exchange = Exchange(scope, receive)
        telemetry = self.service.telemetry
        route = "unmatched"
        telemetry.in_flight.inc()
        try:
            try:
                endpoint = self._routes.find(exchange)
                route = endpoint.path
                reply = await self._answer(endpoint, exchange)
            except Exception as error:
                reply = Reply.refused(_refusal(error), exchange.request_id)
            telemetry.requests.labels(route, reply.status).inc()
            telemetry.seconds.labels(route).observe(exchange.took_ms / 1000)
            await reply.send(send, exchange.request_id, exchange.method == "HEAD")
        finally:
            telemetry.in_flight.dec()
        if self.service.settings.access_log:
            fields = {
                "request_id": exchange.request_id,
                "method": exchange.method,
                "path": exchange.path,
                "status": reply.status,
                "took_ms": exchange.took_ms,
            }
            logger.info("request", extra={"fields": fields})

    async def _answer(self, endpoint: Endpoint[Any], exchange: Exchange) -> Reply:
        """Reads the endpoint's message, calls its handler, wraps what it returns."""
        exchange.check_id()
        if endpoint.needs_bundle:
            self.service.loaded()
        if endpoint.method == "POST":
            decode_params(exchange.query_string, NoParams)
            body = await exchange.body(self.service.settings.max_body_bytes)
            message = decode_body(body, endpoint.takes)
        elif endpoint.takes is AnyParams:
            message = AnyParams()
        else:
            message = decode_params(exchange.query_string, endpoint.takes)
        answer = await endpoint.handler(self.service, exchange, message)
        return answer if isinstance(answer, Reply) else Reply.of(answer, endpoint.status)


def _refusal(error: Exception) -> Refusal:
    """The refusal that an error becomes; what nobody foresaw is logged and tells the caller nothing of our insides."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal("invalid_value", str(error))
    logger.error("a request failed", exc_info=error)
    return Refusal("internal", "the request failed in the server; its log says why under this request_id")
