"""The HTTP application: plain ASGI, no framework.  Routes in, messages out, every mistake a problem document."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from suisen.errors import InputError, SuisenError, unknown
from suisen.pipeline.recommender import Recommender
from suisen.recommending.requests import RecommendOptions
from suisen.serving import openapi
from suisen.serving.answering import Answering, Job, Recommend, Result, Similar
from suisen.serving.decoding import decode_body, decode_params
from suisen.serving.event_log import EVENTS, IMPRESSIONS, FileLog
from suisen.serving.exchange import JSON, Exchange, Receive, Reply, Scope, Send
from suisen.serving.journal import Journal
from suisen.serving.lane import Lane
from suisen.serving.messages import (
    Answer,
    EventsAnswer,
    EventsRequest,
    Health,
    Item,
    NoParams,
    Query,
    RecommendAnswer,
    RecommendParams,
    RecommendRequest,
    SimilarAnswer,
    SimilarParams,
)
from suisen.serving.problems import Refusal
from suisen.serving.routes import Operation, Table
from suisen.serving.settings import Settings
from suisen.serving.telemetry import CONTENT_TYPE, Telemetry

logger = logging.getLogger("suisen.serving")
State = Literal["loading", "ready", "draining", "failed"]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class App:
    """An ASGI application over one bundle.

    ``load`` brings the Recommender; it runs in a thread while the server already answers ``/health/live``, and what it
    raises leaves the server unready for good: ``opened`` is set then, too, and ``failure`` says why.
    """

    def __init__(self, load: Callable[[], Recommender], settings: Settings | None = None) -> None:
        """Raises InputError where the folder of the log cannot be written."""
        self.settings = settings or Settings()
        self.telemetry = Telemetry()
        self.failure: Exception | None = None
        self.on_opened: Callable[[], None] = lambda: None
        """Called once in the event loop, when loading succeeded or failed."""
        self._state: State = "loading"
        self._load = load
        self._table, self._document = Table(), msgspec.json.encode(openapi.document())
        self._journal = self._opened_journal()
        self._handlers: dict[Operation, Callable[[Exchange], Awaitable[Reply]]] = {
            "recommend": self._recommend,
            "recommend_user": self._recommend_user,
            "similar": self._similar,
            "events": self._events,
            "live": self._live,
            "ready": self._ready,
            "metrics": self._metrics,
            "openapi": self._openapi,
        }

    def _opened_journal(self) -> Journal:
        folder = self.settings.log_dir
        if folder is None:
            if self.settings.impressions:
                raise InputError("impressions = True needs log_dir, the folder they are written to")
            return Journal(None, None, self.telemetry)
        shown = FileLog(folder / IMPRESSIONS) if self.settings.impressions else None
        return Journal(FileLog(folder / EVENTS), shown, self.telemetry)

    # -- life -------------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """What ``/health/ready`` says."""
        return self._state

    async def start(self) -> None:
        """Starts the lanes and, in the background, loading."""
        self.opened = asyncio.Event()
        self._lane: Lane[Job, Result] = Lane(
            "recommend", self._work, rows=self.settings.waiting, together=self.settings.together
        )
        self.telemetry.watch("recommend", lambda: self._lane.waiting)
        self._lane.start()
        self._journal.start()
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        try:
            recommender = await asyncio.to_thread(self._load)
            self._answering = await asyncio.to_thread(Answering, recommender)
        except Exception as error:
            self._state, self.failure = "failed", error
            logger.error("the bundle is not served: %s", error, exc_info=not isinstance(error, SuisenError))
        else:
            self.telemetry.bundle(self._answering.version, recommender.name)
            self.telemetry.ready.set(1)
            if self._state == "loading":
                self._state = "ready"
            logger.info("ready", extra={"fields": {"version": self._answering.version}})
        self.opened.set()
        self.on_opened()

    def drain(self) -> None:
        """Not ready from now on; requests that still come are answered."""
        if self._state in ("loading", "ready"):
            self._state = "draining"
            self.telemetry.ready.set(0)

    async def stop(self) -> None:
        """Finishes what was taken in and closes the logs."""
        self.drain()
        await self._opening
        await self._lane.stop()
        await self._journal.stop()

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
        exchange, route = Exchange(scope, receive), "unmatched"
        self.telemetry.in_flight.inc()
        try:
            try:
                handler, route = self._found(exchange)
                reply = await handler(exchange)
            except Exception as error:
                reply = Reply.refused(_refused(error), exchange.request_id)
            self.telemetry.request(route, reply.status, exchange.took_ms / 1000)
            await reply.send(send, exchange.request_id, exchange.method == "HEAD")
        finally:
            self.telemetry.in_flight.dec()
        if self.settings.access_log:
            logger.info("request", extra={"fields": _access(exchange, reply)})

    def _found(self, exchange: Exchange) -> tuple[Callable[[Exchange], Awaitable[Reply]], str]:
        """The handler of a request and the path of its route.  Refuses unknown paths and methods."""
        found = self._table.find(exchange.path)
        if found is None:
            raise Refusal("not_found", str(unknown("path", exchange.path[:80], self._table.paths)))
        routes, exchange.segment = found
        exchange.check_id()
        route = routes.get("GET" if exchange.method == "HEAD" else exchange.method)
        if route is None:
            allowed = ", ".join(["GET", "HEAD"] if "GET" in routes else list(routes))
            raise Refusal(
                "method_not_allowed",
                f"method = {exchange.method!r} is not known here; {exchange.path[:80]} takes {allowed}",
                ((b"allow", allowed.encode()),),
            )
        if route.params is NoParams:
            decode_params(exchange.query_string, NoParams)
        return self._handlers[route.operation], route.path

    # -- recommending -----------------------------------------------------------------------------------------------

    def _work(self, jobs: list[Job]) -> Sequence[Result | Exception]:
        self.telemetry.batch_rows.observe(sum(map(len, jobs)))
        return self._answering.work(jobs)

    def _serving(self) -> Answering:
        """Refuses while there is nothing to answer with."""
        if not hasattr(self, "_answering"):
            raise Refusal("not_ready", self._why_not())
        return self._answering

    def _why_not(self) -> str:
        reasons = {"loading": "the bundle is being loaded", "draining": "the server is closing"}
        return reasons.get(self._state, f"the bundle is not served: {self.failure}")

    async def _recommend(self, exchange: Exchange) -> Reply:
        self._serving()
        asked = decode_body(await exchange.body(self.settings.body_bytes), RecommendRequest)
        ask = RecommendOptions(
            k=asked.k,
            exclude=tuple(asked.exclude),
            among=None if asked.among is None else tuple(asked.among),
            exclude_seen=asked.exclude_seen,
            unknown=asked.unknown,
            diversity=asked.diversity,
            at=None if asked.at is None else _microseconds(asked.at),
        )
        return await self._answered(exchange, asked.queries, ask)

    async def _recommend_user(self, exchange: Exchange) -> Reply:
        self._serving()
        asked = decode_params(exchange.query_string, RecommendParams)
        ask = RecommendOptions(
            k=asked.k, exclude_seen=asked.exclude_seen, unknown=asked.unknown, diversity=asked.diversity
        )
        return await self._answered(exchange, [Query(user_id=exchange.id_in_path())], ask)

    async def _answered(self, exchange: Exchange, queries: Sequence[Query], ask: RecommendOptions) -> Reply:
        found = await self._lane.ask(Recommend(queries, ask), self.settings.deadline_s)
        answers = [answer for answer in found if isinstance(answer, Answer)]
        for answer in answers:
            self.telemetry.answered(answer.answered_by)
        version = self._answering.version
        self._journal.shown(exchange.request_id, version, answers)
        return Reply.of(RecommendAnswer(exchange.request_id, version, exchange.took_ms, False, answers))

    async def _similar(self, exchange: Exchange) -> Reply:
        version = self._serving().version
        asked, item = decode_params(exchange.query_string, SimilarParams), exchange.id_in_path()
        found = await self._lane.ask(Similar(item, asked.k), self.settings.deadline_s)
        items = [one for one in found if isinstance(one, Item)]
        return Reply.of(SimilarAnswer(exchange.request_id, version, exchange.took_ms, False, item, items))

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def _events(self, exchange: Exchange) -> Reply:
        answering = self._serving()
        events = decode_body(await exchange.body(self.settings.body_bytes), EventsRequest).events
        accepted = await self._journal.take(events)
        strange = sum(not answering.knows(event.item_id) for event in events)
        self.telemetry.unknown_items.inc(strange)
        return Reply.of(EventsAnswer(exchange.request_id, accepted, strange), 202)

    async def _live(self, _: Exchange) -> Reply:
        return Reply.of(Health("alive", self._version))

    async def _ready(self, _: Exchange) -> Reply:
        if self._state != "ready":
            raise Refusal("not_ready", self._why_not())
        return Reply.of(Health("ready", self._version))

    async def _metrics(self, _: Exchange) -> Reply:
        return Reply(200, CONTENT_TYPE.encode(), self.telemetry.render())

    async def _openapi(self, _: Exchange) -> Reply:
        return Reply(200, JSON, self._document)

    @property
    def _version(self) -> str:
        return self._answering.version if hasattr(self, "_answering") else ""


def _refused(error: Exception) -> Refusal:
    """The refusal that an error becomes; what nobody foresaw is logged and tells the caller nothing of our insides."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, InputError):
        return Refusal("invalid_value", str(error))
    logger.error("a request failed", exc_info=error)
    return Refusal("internal", "the request failed in the server; its log says why under this request_id")


def _microseconds(at: datetime) -> int:
    moment = (at - EPOCH) // MICROSECOND
    if moment < 0:
        raise Refusal("invalid_value", f"at = {at.isoformat()} must be 1970 or later; leave it out for now")
    return moment


def _access(exchange: Exchange, reply: Reply) -> dict[str, object]:
    return {
        "request_id": exchange.request_id,
        "method": exchange.method,
        "path": exchange.path,
        "status": reply.status,
        "took_ms": exchange.took_ms,
    }
