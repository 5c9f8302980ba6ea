"""The stage before the computation where several servers share users: what one turn of the event loop asked for is
fetched in one round trip, and each job goes on to be computed when its visitors' events and rows are here.

A round trip at a time is under way; what comes meanwhile goes with the next.  A job never waits longer than two of them
may take: where the store is away, slow, or has more before it than it can bear, the job goes on at once with what is at
hand, and its answers say so (``Degraded``).  Events that the store could not take wait here, up to a bound, until it
can; the log remains the truth.  Cost, of processor: 0.4 ms a round trip and 10 µs a visitor of whom
there is nothing new; nothing where no store is named.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple
from weakref import WeakKeyDictionary

from suisen.serving.answering import Answering, Degraded, Job, Result
from suisen.serving.event_log import LoggedEvent
from suisen.serving.settings import Settings
from suisen.serving.stores.breaker import Breaker
from suisen.serving.stores.bridge import Bridge, Want, sent_of
from suisen.serving.stores.redis import RedisUsers
from suisen.serving.stores.users import Asked, Found, Sent, StoreError, UserStore, within
from suisen.serving.telemetry import Telemetry

logger = logging.getLogger("suisen.serving")
Done = Callable[[Result | Exception], None]
PROBE_S = 1.0
"""Most seconds of a probe that connects."""
MAX_WANTS = 4_096
"""Visitors that wait for round trips; a job beyond them goes on without."""
WANTS, LINES, ROWS = 512, 2_000, 256
"""Most visitors, events and rows of a round trip, where a job alone has not more."""
UNSENT = 10_000
"""Most events that wait for the store; the oldest go first, and are counted."""
AGAIN_S = 1.0
"""Seconds before events are sent again to a store that answers and takes no writes."""


class _Waiting(NamedTuple):
    bridge: Bridge
    wants: list[Want]
    done: Done
    go: Callable[[Done], None]


class _Sending(NamedTuple):
    events: list[Sent]
    taken: "asyncio.Future[list[bytes] | None]"


class SharedUsers:
    """Users whom several servers share.  Everything here runs in the event loop."""

    def __init__(self, store: UserStore, telemetry: Telemetry, *, timeout_s: float, ttl_s: float) -> None:
        self._store, self._timeout_s, self._ttl_s = store, timeout_s, ttl_s
        self._requests = partial(telemetry.store_requests.labels, "users")
        self._seconds = telemetry.store_seconds.labels("users")
        self._degraded = telemetry.degraded.labels("users")
        self._keys = partial(telemetry.store_keys.labels, "users")
        gauge = telemetry.breaker_open.labels("users")
        self._breaker = Breaker(lambda closed: gauge.set(not closed))
        telemetry.follow(telemetry.unsent.labels("users"), lambda: len(self._unsent))
        self._bridges: WeakKeyDictionary[Answering, Bridge] = WeakKeyDictionary()
        self._waiting: deque[_Waiting] = deque()
        self._wants = 0
        self._sending: deque[_Sending] = deque()
        self._unsent: dict[tuple[bytes, bytes], None] = {}  # the oldest first, each once
        self._rows: dict[bytes, bytes] = {}
        self._again = 0.0
        self._flight: asyncio.Task[None] | None = None
        self._probe: asyncio.Task[None] | None = None
        self._probed = asyncio.Event()

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Connects, or gives that up for now, within a second and a bit."""
        self._look_after()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._probed.wait(), 2 * PROBE_S)

    async def stop(self) -> None:
        """Sends what waits, if the store takes it, and closes the connections."""
        if self._flight is not None:
            await asyncio.wait({self._flight}, timeout=PROBE_S)
        if self._breaker.closed:
            self._again = 0.0
            with contextlib.suppress(StoreError):
                await self._flush()
        if self._unsent:
            logger.warning("%d events were not sent to the store of users; the log holds them", len(self._unsent))
        for task in (self._probe, self._flight):
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait({task})
        with contextlib.suppress(StoreError):
            await self._store.drop()

    # -- answers ----------------------------------------------------------------------------------------------------

    def before(self, answering: Answering, job: Job, done: Done, go: Callable[[Done], None]) -> None:
        """Lets ``go`` compute a job once its visitors are here.  Raises what ``go`` raises where nothing is asked."""
        bridge = self._bridge(answering)
        wants = bridge.wanted(job)
        if not wants:
            go(done)
        elif not self._breaker.closed or self._wants > MAX_WANTS:
            self._requests("refused").inc()
            go(partial(self._without, done))
        else:
            self._waiting.append(_Waiting(bridge, wants, done, go))
            self._wants += len(wants)
            self._depart()

    async def share(self, events: Sequence[LoggedEvent], times: Sequence[int]) -> tuple[list[bool], bool]:
        """Sends logged events, with the times at which they count, in microseconds.

        Returns which of them the store did not have, and whether it has them now; where it has not, they wait for it.
        """
        sent, places = sent_of(events, times)
        flags: list[bytes] | None = None
        if self._breaker.closed:
            taken: asyncio.Future[list[bytes] | None] = asyncio.get_running_loop().create_future()
            self._sending.append(_Sending(sent, taken))
            self._depart()
            flags = await taken
        else:
            self._keep(sent)
        new = [True] * len(events)
        for letters, its in zip(flags or [], places, strict=False):
            for letter, place in zip(letters, its, strict=False):
                new[place] = letter != ord("0")
        return new, flags is not None

    def forget(self, answering: Answering) -> None:
        """Lets go of a version that is not to answer any more."""
        self._bridges.pop(answering, None)

    def _without(self, done: Done, result: Result | Exception) -> None:
        """Marks the answers that were made from what is at hand."""
        if not isinstance(result, Exception):
            self._degraded.inc(len(result))
            result = Degraded(result)
        done(result)

    def _bridge(self, answering: Answering) -> Bridge:
        bridge = self._bridges.get(answering)
        if bridge is None:
            bridge = Bridge(answering, lambda outcome: self._keys(outcome).inc(), self._ttl_s)
            self._bridges[answering] = bridge
        return bridge

    # -- round trips ------------------------------------------------------------------------------------------------

    def _depart(self) -> None:
        """Sees to it that what waits is taken along, at the end of this turn or when the round trip is back."""
        if self._flight is None or self._flight.done():
            self._flight = asyncio.get_running_loop().create_task(self._fly())

    async def _fly(self) -> None:
        while self._waiting or self._sending or self._rows or self._overdue:
            jobs, sending = self._boarded()
            try:
                found = await self._round(jobs, sending)
            except Exception as error:  # a fault of ours must not keep a request for ever
                logger.error("the round trip to the store of users failed", exc_info=error)
                found = False
            for one in sending:
                if not one.taken.done():
                    self._keep(one.events)
                    one.taken.set_result(None)
            for job in jobs:
                if not found:
                    _gone_on(job, partial(self._without, job.done))

    @property
    def _overdue(self) -> bool:
        """Whether events wait that the store may take now."""
        return bool(self._unsent) and self._breaker.closed and time.monotonic() >= self._again

    def _boarded(self) -> tuple[list[_Waiting], list[_Sending]]:
        """What the next round trip takes along."""
        jobs: list[_Waiting] = []
        sending: list[_Sending] = []
        wants = lines = 0
        while self._waiting and (not jobs or wants + len(self._waiting[0].wants) <= WANTS):
            jobs.append(self._waiting.popleft())
            wants += len(jobs[-1].wants)
        self._wants -= wants
        while self._sending and (not sending or lines + len(self._sending[0].events) <= LINES):
            sending.append(self._sending.popleft())
            lines += sum(len(one.lines) for one in sending[-1].events)
        return jobs, sending

    async def _round(self, jobs: list[_Waiting], sending: list[_Sending]) -> bool:
        """One round trip; False where the store did not answer."""
        asked: dict[tuple[Bridge, Asked], list[Want]] = {}
        for bridge in dict.fromkeys(job.bridge for job in jobs):
            wants = [want for job in jobs if job.bridge is bridge for want in job.wants]
            asked.update(((bridge, one), its) for one, its in bridge.asked(wants).items())
        rows, self._rows = self._rows, {}
        sent = [one for part in sending for one in part.events]
        found = await self._exchanged(sent, [one for _, one in asked], rows)
        if found is None:
            return False
        start = 0
        for part in sending:
            end = start + len(part.events)
            if found.new is not None and not part.taken.done():
                part.taken.set_result(found.new[start:end])
            start = end
        missed = self._took(asked, found)
        for job in jobs:
            its = [want for want in dict.fromkeys(job.wants) if (job.bridge, want) in missed]
            missed.difference_update((job.bridge, want) for want in its)
            _gone_on(job, partial(self._computed, job, its) if its else job.done)
        return True

    def _took(self, asked: dict[tuple[Bridge, Asked], list[Want]], found: Found) -> set[tuple[Bridge, Want]]:
        """Takes values in; returns whose rows have to be computed."""
        missed: set[tuple[Bridge, Want]] = set()
        for ((bridge, one), wants), value in zip(asked.items(), found.values, strict=True):
            if one.key.startswith(b"suisen:events:"):
                self._keep(list(bridge.took_events(wants[0], value)))
            elif not bridge.took_row(wants[0], one.key, value):
                missed.add((bridge, wants[0]))
        return missed

    def _computed(self, job: _Waiting, wants: list[Want], result: Result | Exception) -> None:
        """Rows that a job computed go along with the next round trip."""
        job.done(result)
        for want in wants:
            made = job.bridge.computed(want) if len(self._rows) < ROWS else None
            if made is not None:
                self._rows[made[0]] = made[1]
        if self._rows and self._breaker.closed:
            self._depart()

    async def _exchanged(self, sent: list[Sent], asked: list[Asked], rows: dict[bytes, bytes]) -> Found | None:
        """One exchange, timed and counted, with some of what waits to be sent; None where it failed."""
        if not self._breaker.closed:
            return None
        again = self._unsent_now()
        began = time.perf_counter()
        work = asyncio.get_running_loop().create_task(self._store.exchange([*again, *sent], asked, rows))
        outcome, found = "error", None
        try:
            outcome = "ok" if await within(work, self._timeout_s) else "timeout"
            found = work.result() if outcome == "ok" else None
        except StoreError as error:
            outcome = "error"
            logger.debug("the store of users: %s", error)
        finally:
            work.cancel()
        self._requests(outcome).inc()
        self._seconds.observe(time.perf_counter() - began)
        if found is None or found.new is None:
            self._keep(again)
        if found is not None and found.new is None:
            self._again = time.monotonic() + AGAIN_S
            asyncio.get_running_loop().call_later(AGAIN_S, self._depart)
        if found is None:
            await self._failed(outcome)
            return None
        self._breaker.succeeded()
        return found._replace(new=None if found.new is None else found.new[len(again) :])

    async def _failed(self, outcome: str) -> None:
        was = self._breaker.closed
        self._breaker.failed()
        with contextlib.suppress(StoreError):
            await self._store.drop()
        if was and not self._breaker.closed:
            logger.warning("the store of users does not answer (%s); answers are made from what is at hand", outcome)
            self._look_after()

    # -- what the store could not take ------------------------------------------------------------------------------

    def _keep(self, events: Sequence[Sent]) -> None:
        """Events wait for the store."""
        self._unsent.update(((one.key, line), None) for one in events for line in one.lines)
        while len(self._unsent) > UNSENT:
            del self._unsent[next(iter(self._unsent))]
            self._requests("dropped").inc()

    def _unsent_now(self) -> list[Sent]:
        """Some of what waits, by visitor."""
        if time.monotonic() < self._again:
            return []
        lines: dict[bytes, list[bytes]] = {}
        for key, one in list(islice(self._unsent, LINES // 2)):
            del self._unsent[key, one]
            lines.setdefault(key, []).append(one)
        return [Sent(key, tuple(its)) for key, its in lines.items()]

    async def _flush(self) -> None:
        """Sends all that waits.  Raises StoreError where that fails."""
        while self._unsent:
            again = self._unsent_now()
            work = asyncio.get_running_loop().create_task(self._store.exchange(again, [], {}))
            try:
                taken = again and await within(work, PROBE_S) and work.result().new is not None
            except StoreError:
                taken = False
            if not taken:
                self._keep(again)
                raise StoreError("events are not taken")

    # -- probes -----------------------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        if self._probe is None or self._probe.done():
            self._probe = asyncio.get_running_loop().create_task(self._recover())

    async def _recover(self) -> None:
        """Probes until the store answers in time and has what waited for it; then requests ask it again."""
        began = time.monotonic()
        while not await self._reached():
            self._probed.set()
            await asyncio.sleep(self._breaker.pause())
        self._breaker.close()
        self._probed.set()
        logger.info("the store of users answers", extra={"fields": {"after_s": round(time.monotonic() - began, 3)}})

    async def _reached(self) -> bool:
        try:
            for seconds in (PROBE_S, self._timeout_s):  # the first may connect
                ping = asyncio.get_running_loop().create_task(self._store.ping())
                if not await within(ping, seconds):
                    raise StoreError("timeout")
                ping.result()
            self._again = 0.0
            with contextlib.suppress(StoreError):  # one that takes no writes is still read
                await self._flush()
        except StoreError:
            with contextlib.suppress(StoreError):
                await self._store.drop()
            return False
        return True


def shared_users(settings: Settings, telemetry: Telemetry) -> SharedUsers | None:
    """The users that the settings name, None for those of this server alone.  Raises InputError and MissingExtra."""
    if settings.users is None:
        return None
    store = RedisUsers(settings.users, settings.users_ttl_s)
    return SharedUsers(store, telemetry, timeout_s=settings.users_timeout_s, ttl_s=settings.users_ttl_s)


def _gone_on(job: _Waiting, done: Done) -> None:
    try:
        job.go(done)
    except Exception as error:  # too much waits already
        done(error)
