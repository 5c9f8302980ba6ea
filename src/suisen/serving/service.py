"""What the handlers of all endpoints work with: the bundle that answers, the lane that computes, logs, metrics."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, partial
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from suisen.errors import InputError
from suisen.recommending.rules.declared import Rules
from suisen.recommending.system import System
from suisen.serving.answering import QUICK_UNITS, Answering, Job, Look, Result, degraded, times_of
from suisen.serving.event_log import FileLog, LoggedEvent
from suisen.serving.guard import Guard
from suisen.serving.journal import Journal
from suisen.serving.lane import HERE, Asker, Lane
from suisen.serving.meter import Meter
from suisen.serving.pace import Pace
from suisen.serving.problems import Refusal
from suisen.serving.quality import Quality
from suisen.serving.repeats import Repeats
from suisen.serving.segments import Rotation, keep_from
from suisen.serving.settings import Settings
from suisen.serving.shadow import Shadow
from suisen.serving.siblings import Group, Siblings
from suisen.serving.slots import Bound, Slot, small, warm, work
from suisen.serving.stores.stage import SharedUsers, shared_users
from suisen.serving.telemetry import Telemetry
from suisen.serving.turn import Turn

if TYPE_CHECKING:  # imported where a broker is named
    from suisen.serving.stores.shipping import Shipping
    from suisen.serving.tracing import Tracing

LARGE_UNITS = 50_000.0
"""Price from which a job goes to the lane of large ones: 50 ms, which small ones need not wait for."""
BATCH = 0.25
"""Share of the deadline that a batch of a lane may take: what comes meanwhile waits for it, on top of ``max_wait``."""
State = Literal["loading", "ready", "draining", "failed"]
RECORDED = 256
"""Latest requests that are kept, at most one of a call of the model, to warm the next version on: a few MB."""
UNKNOWN = 10_000
"""Latest events of items that the version which answers does not know; they count in the next one that does."""


class Description(NamedTuple):
    """What a listener says of itself, as it is sent."""

    document: bytes = b""
    """OpenAPI, as JSON."""
    page: bytes = b""
    """The same as HTML."""


class Service:
    """The parts of one server.  The app sets ``slot``, ``state`` and ``failure``; handlers read them."""

    def __init__(self, settings: Settings, group: Group | None = None) -> None:
        """``group``: the workers that this process is one of.  Raises InputError where the log cannot be written."""
        self.settings = settings
        self.telemetry = Telemetry(group)
        self.answers = cache(self.telemetry.answers.labels)
        """What counts the lists of one ``answered_by``."""
        logs = _logs(settings)
        self._siblings = _siblings(group, logs)
        self.guard = Guard(settings, self.telemetry, group)
        self.tracing = _tracing(settings)
        reader = None if self._siblings is None else self._siblings.reader
        repeats = partial(Repeats, most=settings.repeat_ids, seconds=settings.repeat_s, reader=reader)
        self.journal = Journal(logs, self.telemetry, repeats)
        self.shipping = _shipping(settings, logs, self.journal, self.telemetry)
        """What brings the logs to a broker; None where they stay."""
        self.lane, self.large = self._lane("recommend"), self._lane("large")
        self._turn: Turn[Bound, Result] = Turn(
            self._work,
            self._lane_of,
            self._pace("the event loop"),
            rows_per_call=settings.queries_per_turn,
            units_per_call=QUICK_UNITS,
            deadline_s=settings.deadline_s,
            on_wait=self.telemetry.queue_wait.labels("turn").observe,
        )
        self.slot: Slot | None = None
        """What answers now; None before the first bundle is loaded."""
        self.users: SharedUsers | None = shared_users(settings, self.telemetry)
        """What other servers know of visitors, where they share it."""
        self.slots: tuple[Slot, ...] = ()
        """All that are loaded: events count in each of them."""
        self.shadow: Shadow | None = None
        """What is compared with live answers."""
        self.control: object = None
        """What changes versions (``control.Control``, which knows this); set when the app starts."""
        self._recorded: deque[Job] = deque(maxlen=RECORDED)
        self._unknown: deque[LoggedEvent] = deque(maxlen=UNKNOWN)
        self._blocked: frozenset[str] = frozenset()
        self._joining = Lock()
        self.quality = Quality(
            self.telemetry, lambda: None if self.slot is None else self.slot.answering, settings.probe_share
        )
        self.state: State = "loading"
        self.failure: Exception | None = None
        self.description = self.admin_description = Description()
        """Of the public listener and of the other; set by the app, which knows the endpoints."""

    @property
    def version(self) -> str:
        """Names the bundle; "" before it is loaded."""
        return "" if self.slot is None else self.slot.version

    def current(self) -> Slot:
        """The slot that answers now.  Refuses (503) while no bundle is loaded."""
        if self.slot is None:
            raise self.not_ready()
        return self.slot

    def loaded(self) -> Answering:
        """What answers now.  Refuses as ``current`` does."""
        return self.current().answering

    def not_ready(self) -> Refusal:
        """The refusal that says why the server takes no requests."""
        reasons = {"loading": "the bundle is being loaded", "draining": "the server is closing"}
        return Refusal("not_ready", reasons.get(self.state, f"the bundle is not served: {self.failure}"))

    def _pace(self, name: str) -> Pace:
        """What bounds one queue."""
        return Pace(name, self.settings.max_queries, self.settings.deadline_s, self.settings.max_wait)

    def _lane(self, name: str) -> Lane[Bound, Result]:
        """A thread for what the event loop does not compute."""
        lane: Lane[Bound, Result] = Lane(
            name,
            self._work,
            rows_per_batch=self.settings.queries_per_batch,
            pace=self._pace(name),
            batch_s=self.settings.deadline_s * BATCH,
            on_wait=self.telemetry.queue_wait.labels(name).observe,
        )
        self.telemetry.watch(lane)
        return lane

    def _lane_of(self, bound: Bound, units: float) -> Lane[Bound, Result] | None:
        """Where a job is computed: None for the event loop."""
        if bound.quick(units):
            return None
        return self.large if units > LARGE_UNITS or bound.large else self.lane

    def check_room(self) -> None:
        """Refuses (503) before a body is read where most of what comes would be."""
        plan = None if self.slot is None else self.slot.answering.system.engine.plan
        (self._turn if plan is not None and plan.quick else self.lane).pace.check()

    def submit(self, slot: Slot, job: Job, done: Callable[[Result | Exception], None], asker: Asker = HERE) -> None:
        """Computes a job by a slot, with what comes beside it; ``done`` takes the result or the error: 503 where it
        would be late.

        Refuses it at once where it costs too much (422) and where too much waits (503).
        """
        units = slot.answering.price(job, self.settings.max_price)
        go = partial(self._turn.submit, Bound(slot, job), units=units, asker=asker)
        if self.users is None:
            go(done)
        else:
            self.users.before(slot.answering, job, done, go)

    async def compute(self, slot: Slot, job: Job, asker: Asker = HERE) -> Result:
        """``submit`` for handlers that wait for several results."""
        answer: asyncio.Future[Result | Exception] = asyncio.get_running_loop().create_future()
        self.submit(slot, job, lambda result: None if answer.done() else answer.set_result(result), asker)
        result = await answer
        if isinstance(result, Exception):
            raise result
        return result

    async def examine(self, slot: Slot, look: Look, asker: Asker = HERE) -> tuple[Any, list[str]]:
        """(what a look at a version finds, what was missing there); refused as ``submit`` refuses."""
        found = await self.compute(slot, look, asker)
        return found[0], degraded(found)

    async def took(self, events: Sequence[LoggedEvent]) -> tuple[int, list[str]]:
        """Counts logged events from now on, here and on the servers that share users; those that had them already do
        not count again.  Returns how many are of unknown items, and ``users`` where the other servers have to wait.
        """
        times = times_of(events)
        if self.users is None:
            return self.count(events, times), []
        new, reached = await self.users.share(events, times)
        places = [place for place, one in enumerate(new) if one]
        unknown = self.count([events[place] for place in places], [times[place] for place in places])
        return unknown, [] if reached else ["users"]

    def _work(self, given: list[Bound]) -> Sequence[Result | Exception]:
        """In the event loop or in the lane's thread."""
        self.telemetry.batch_rows.observe(sum(map(len, given)))
        self.catch_up()
        job = given[0].job
        if small(job):
            self._recorded.append(job)
        shadow = self.shadow
        if shadow is None:
            return work(given)
        began = time.perf_counter()
        results = work(given)
        shadow.offer(given, results, time.perf_counter() - began)
        return results

    def open(self, load: Callable[[], System], *, own: bool) -> Slot:
        """A new slot, beside those that answer: loaded, given the events that count, warmed.  In a thread.

        ``own``: nobody else has what ``load`` brings.  Raises what ``load`` raises, and nothing has changed then.
        """
        settings = self.settings
        system = load() if own else load().apart()
        if settings.rules is not None:
            system = replace(system, rules=Rules.of(settings.rules))
        answering = Answering(system, settings.state_bytes, settings.row_bytes)
        answering.meter = Meter(self.telemetry, answering.version)
        slot = Slot(answering)
        with self._joining:
            answering.block(self._blocked)
            self.slots = (*self.slots, slot)
        try:
            self._inform(slot)
            warm(slot, list(self._recorded), settings.warm_s)
        except BaseException:
            self.leave(slot)
            raise
        return slot

    def _inform(self, slot: Slot) -> None:
        """Gives a slot the events that count in the one that answers; from ``open`` on it hears of new ones itself."""
        if self.slot is not None:
            slot.answering.recent.adopt(self.slot.answering.recent)
            slot.answering.took(list(self._unknown))

    def switch(self, slot: Slot) -> None:
        """Lets a slot answer from now on: requests that are submitted later are its own."""
        self.slot = slot
        answering = slot.answering
        self.telemetry.watch_users(answering.recent)
        self.telemetry.watch_rows(answering.visitors)
        self.telemetry.tell_bundle(answering.system, slot.version)

    def block(self, items: frozenset[str]) -> None:
        """No list of any slot, nor of those that come, holds these items from now on."""
        with self._joining:
            self._blocked = items
            for slot in self.slots:
                slot.answering.block(items)
        self.telemetry.blocked_items.set(len(items))

    def leave(self, slot: Slot) -> None:
        """Lets go of a slot that does not answer; its memory is free when its last request is answered."""
        with self._joining:
            self.slots = tuple(one for one in self.slots if one is not slot)
        if self.users is not None:
            self.users.forget(slot.answering)

    def count(self, events: Sequence[LoggedEvent], times: Sequence[int]) -> int:
        """Counts logged events in every slot; returns how many are of items that the one which answers lacks."""
        with self._joining:  # a slot that joins meanwhile hears of them from the slots that are told here
            unknown = 0
            for slot in self.slots:
                lacking = slot.answering.took(events, times)
                unknown = lacking if slot is self.slot else unknown
            if unknown and self.slot is not None:
                known = self.slot.answering.system.store.items.dense([event.item_id for event in events])
                self._unknown.extend(event for event, item in zip(events, known.tolist(), strict=True) if not item)
        return unknown

    def catch_up(self) -> None:
        """Counts the events that other workers were sent; before anything is computed, so that no answer lacks one."""
        if self._siblings is not None and self.slot is not None:
            self._siblings.catch_up(self._took_by_siblings)

    def _took_by_siblings(self, events: Sequence[LoggedEvent]) -> None:
        """An event of the future counts at its arrival, which only the worker knows that took it, and the shared users:
        counted here, too, it would count twice.
        """
        if self.users is not None:
            now = datetime.now(UTC)
            events = [event for event in events if event.time <= now]
        self.count(events, times_of(events))

    def look(self) -> None:
        """Catches up and takes the values that metrics watch; now and then, where no request asks for it."""
        self.catch_up()
        self.guard.look()
        self.journal.tend()
        self.telemetry.refresh()


def _tracing(settings: Settings) -> Tracing | None:
    """What records spans, where that is wanted; nothing of it is imported elsewhere."""
    if not settings.otel:
        return None
    from suisen.serving.tracing import Tracing

    return Tracing()


def _logs(settings: Settings) -> dict[str, FileLog]:
    """The files of the journal."""
    if settings.log_dir is None:
        if settings.impressions or settings.log is not None:
            what = "impressions = True" if settings.impressions else "log"
            raise InputError(f"{what} needs log_dir, the folder they are written to")
        return {}
    if settings.durable == "broker" and settings.log is None:
        raise InputError("durable = 'broker' needs log, a topic of Kafka, and there is none; give 'os' or 'disk'")
    names = ["events", "impressions"] if settings.impressions else ["events"]
    rotation = Rotation(settings.log_max_bytes, settings.log_max_age, settings.log_keep)
    durable = settings.durable == "disk"
    return {
        name: FileLog(settings.log_dir / f"{name}.jsonl", rotation, durable=durable and name == "events")
        for name in names
    }


def _shipping(settings: Settings, logs: dict[str, FileLog], journal: Journal, telemetry: Telemetry) -> Shipping | None:
    """What follows the logs, where a broker is named."""
    if settings.log is None:
        for log in logs.values():
            keep_from(log.path, None)  # what a server with a broker held back
        return None
    from suisen.serving.stores.shipping import Shipping

    shipping = Shipping(settings.log, {name: log.path for name, log in logs.items()}, settings, telemetry)
    journal.check = shipping.check
    if settings.durable == "broker":
        journal.shipped = shipping.shipped
    return shipping


def _siblings(group: Group | None, logs: dict[str, FileLog]) -> Siblings | None:
    """What the other workers append, where there are any."""
    if group is None or "events" not in logs:
        return None
    siblings = Siblings(group, logs["events"].path)
    logs["events"].on_append, logs["events"].guard = siblings.wrote, siblings.ends.guard
    return siblings
