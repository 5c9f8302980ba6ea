"""From a request to its reply: routes, checks, handlers, refusals, metrics.  Both fronts come through here and answer
alike.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import count
from typing import Any

import msgspec

from suisen.errors import InputError
from suisen.serving.answering import Result
from suisen.serving.contract import AnyParams, Endpoint, NoParams, Pending
from suisen.serving.decoding import decode_body, decode_params
from suisen.serving.exchange import Exchange, Reply
from suisen.serving.guard import Guard
from suisen.serving.problems import Refusal
from suisen.serving.routes import Preflight, Routes
from suisen.serving.service import Service

logger = logging.getLogger("suisen.serving")
Found = Endpoint[Any] | Reply
"""What a request gets once its headers are read: the endpoint that answers it, or a refusal."""
Done = Callable[[Reply], None]
ENCODED = 16
"""Of so many replies one is timed while it is encoded."""


class Dispatch:
    """Answers requests.  Everything here runs in the event loop, and nothing here raises."""

    def __init__(self, service: Service, endpoints: Sequence[Endpoint[Any]], guard: Guard | None = None) -> None:
        """``guard``: another than the service's."""
        self.service, self.guard = service, service.guard if guard is None else guard
        self._routes = Routes(endpoints)
        self._ids = _request_ids()
        telemetry = service.telemetry
        self._meters = cache(
            lambda route, status: (telemetry.requests.labels(route, status), telemetry.seconds.labels(route))
        )
        """What counts a request and what takes its seconds: looking their labels up costs more than both."""
        self._encoding = telemetry.stages.labels("encode")
        self._tracing = service.tracing
        self._replies = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def exchange(
        self, method: str, path: str, query_string: bytes, headers: Mapping[bytes, bytes], address: str = ""
    ) -> Exchange:
        """A request of which no more than its head is known; ``headers`` by names in small letters."""
        return Exchange(method, path, query_string, headers, self._ids, address)

    def opened(self, exchange: Exchange) -> Found:
        """The endpoint of a request, or the refusal of what is wrong before its body is read."""
        guard = self.guard
        try:
            if guard.cors is not None:
                exchange.added = guard.cors.headers(exchange)
            endpoint = self._routes.find(exchange)
            exchange.check_id()
            if guard.asks and endpoint.scope != "open":
                guard.check(exchange, endpoint.scope)
            if endpoint.needs_bundle:
                self.service.loaded()
                if endpoint.computes:
                    self.service.check_room()
            if endpoint.has_body:
                if exchange.query_string:
                    decode_params(exchange.query_string, NoParams)
                exchange.check_body(self.service.settings.max_body_bytes)
        except Preflight as asked:
            return self._preflight(exchange, asked)
        except Exception as error:
            return self.refused(exchange, error)
        return endpoint

    def refused(self, exchange: Exchange, error: Exception) -> Reply:
        """The problem document that an error becomes, counted."""
        return self._counted(exchange, self._problem(exchange, error))

    def _problem(self, exchange: Exchange, error: Exception) -> Reply:
        refusal = _refusal(error)
        if refusal.reason:
            self.service.telemetry.refused.labels(refusal.reason).inc()
        return Reply.refused(refusal, exchange.request_id)

    def _preflight(self, exchange: Exchange, asked: Preflight) -> Reply:
        cors = self.guard.cors
        try:
            if cors is None:
                raise self._routes.no_method(exchange, asked.methods)
            return self._counted(exchange, cors.preflight(exchange, asked.methods))
        except Refusal as refusal:
            return self.refused(exchange, refusal)

    def answer(self, exchange: Exchange, endpoint: Endpoint[Any], body: bytes, done: Done) -> None:
        """Answers a request whose body is whole; ``done`` takes the reply, now or later."""
        self.service.telemetry.in_flight.inc()
        traced = self._tracing is not None
        if traced:
            exchange.mark("read")
        try:
            if endpoint.needs_bundle:
                exchange.slot = self.service.current()
            outcome = endpoint.handler(self.service, exchange, _message(endpoint, exchange, body))
            if traced:
                exchange.mark("decode")
            if isinstance(outcome, Pending):
                self.service.submit(
                    exchange.slot,
                    outcome.job,
                    partial(self._worked, exchange, endpoint, outcome.answer, done),
                    exchange,
                )
                return
        except Exception as error:
            self._end(exchange, endpoint, error, done)
            return
        task = asyncio.get_running_loop().create_task(self._awaited(exchange, endpoint, outcome, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _worked(
        self,
        exchange: Exchange,
        endpoint: Endpoint[Any],
        answer: Callable[[Result], msgspec.Struct | Reply],
        done: Done,
        result: Result | Exception,
    ) -> None:
        if isinstance(result, Exception):
            self._end(exchange, endpoint, result, done)
            return
        try:
            outcome: msgspec.Struct | Reply | Exception = answer(result)
        except Exception as error:
            outcome = error
        self._end(exchange, endpoint, outcome, done)

    async def _awaited(
        self, exchange: Exchange, endpoint: Endpoint[Any], answer: Awaitable[msgspec.Struct | Reply], done: Done
    ) -> None:
        try:
            outcome: msgspec.Struct | Reply | Exception = await answer
        except Exception as error:
            outcome = error
        self._end(exchange, endpoint, outcome, done)

    def _end(
        self, exchange: Exchange, endpoint: Endpoint[Any], outcome: msgspec.Struct | Reply | Exception, done: Done
    ) -> None:
        """Makes the reply, counts it and hands it over."""
        if self._tracing is not None:
            exchange.mark("compute")
        if isinstance(outcome, Exception):
            reply = self._problem(exchange, outcome)
        else:
            reply = outcome if isinstance(outcome, Reply) else self._encoded(outcome, endpoint.status)
        exchange.slot = None  # type: ignore[assignment] # an idle connection must not keep a version that was let go
        self.service.telemetry.in_flight.dec()
        done(self._counted(exchange, reply))

    def _encoded(self, message: msgspec.Struct, status: int) -> Reply:
        """A message as JSON."""
        self._replies += 1
        if self._replies % ENCODED != 1:
            return Reply.of(message, status)
        began = time.perf_counter()
        reply = Reply.of(message, status)
        self._encoding.observe(time.perf_counter() - began)
        return reply

    def _counted(self, exchange: Exchange, reply: Reply) -> Reply:
        """The reply, once the metrics and, where it is kept, the access log know of it."""
        counter, seconds = self._meters(exchange.route, reply.status)
        counter.inc()
        seconds.observe(time.perf_counter() - exchange.started)
        if self._tracing is not None:
            if exchange.marks:
                exchange.mark("encode")
            self._tracing.record(exchange, reply.status)
        if self.service.settings.access_log:
            fields = {
                "request_id": exchange.request_id,
                "method": exchange.method,
                "path": exchange.path,
                "status": reply.status,
                "took_ms": exchange.took_ms,
            }
            if exchange.key:
                fields["key"] = exchange.key
            if (trace := exchange.trace) is not None:
                fields["trace_id"] = trace[0]
            logger.info("request", extra={"fields": fields})
        return reply._replace(headers=(*reply.headers, *exchange.added)) if exchange.added else reply


def _request_ids() -> Iterator[str]:
    """Ids that no other process gives: a random part and a count."""
    return map(f"{secrets.token_hex(8)}-{{:x}}".format, count(1))


def _message(endpoint: Endpoint[Any], exchange: Exchange, body: bytes) -> msgspec.Struct:
    """The message that the endpoint takes.  Refuses what the Struct does not allow."""
    if endpoint.has_body:
        message: msgspec.Struct = decode_body(body, endpoint.takes)
        return message
    if endpoint.takes is AnyParams:
        return AnyParams()
    message = decode_params(exchange.query_string, endpoint.takes)
    return message


def _refusal(error: Exception) -> Refusal:
    """The refusal that an error becomes; what nobody foresaw is logged and tells the caller nothing of our insides."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal("invalid_value", str(error))
    logger.error("a request failed", exc_info=error)
    return Refusal("internal", "the request failed in the server; its log says why under this request_id")
