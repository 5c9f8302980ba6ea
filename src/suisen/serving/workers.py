"""Several workers behind one port: a supervisor that starts identical processes, and starts again those that die.

The supervisor answers no request and loads no model, so that it is small and has next to nothing to fail at.  Every
worker has a listening socket of its own on the same port (SO_REUSEPORT), and the kernel hands each new connection to
one of them.  A worker that dies takes its own connections with it and no others: the system closes its socket, and new
connections go to the rest.  It is started again, after a pause that grows, and opens its port when it has loaded the
bundle and knows what the others were sent meanwhile.

Signals go to the supervisor alone (the workers are process groups of their own), and it passes them on.
"""

import asyncio
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from suisen.errors import BundleError, InputError, SuisenError
from suisen.recommending.held import hold, private_folder
from suisen.recommending.place import find
from suisen.serving.counts import Count, Counts
from suisen.serving.event_log import FileLog
from suisen.serving.metrics import GAUGES, RESTARTS, key_of
from suisen.serving.settings import Settings, keyed
from suisen.serving.siblings import Group
from suisen.serving.sockets import check_reach, reserve, url_of
from suisen.serving.telemetry import configure_logging

logger = logging.getLogger("suisen.serving")
FAILURES, WITHIN_S = 5, 60.0
"""A worker that ends more often than this many times in so many seconds is given up, and the server with it."""
PAUSE_S = 0.1
"""Before the first restart; twice as long before each further one of ``WITHIN_S``."""
SLOW_S = 1.5
"""Seconds beyond what draining and running requests may take, after which a worker that should end is killed."""
KINDS = {kind.__name__: kind for kind in (InputError, BundleError)}


def serve_workers(
    source: Path,
    workers: int,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serves a bundle from several processes until SIGTERM or SIGINT, then returns.

    ``on_ready`` is told the URL once all workers are ready.  Raises as ``serve`` does, and SuisenError where a worker
    does not come to be ready or ends again and again.
    """
    if sys.platform != "linux":  # elsewhere SO_REUSEPORT, if there is any, does not spread connections
        raise InputError(
            f"workers = {workers} needs Linux, and this is {sys.platform}; give 1, and a balancer for more"
        )
    place = find(source)
    settings = settings or Settings()
    log_dir = settings.log_dir or place.parent / "events"
    with (
        reserve(host, port) as held,
        private_folder(settings.private_dir) as folder,
        _admin(settings) as admin_port,
    ):
        check_reach(held, host, safe=keyed(settings))
        log = FileLog(log_dir / "events.jsonl")
        since = log.size()
        log.close()
        place = hold(place, folder / "bundle", settings.trusted_keys)
        chosen = {**dataclasses.asdict(settings), "log_dir": str(log_dir), "admin_port": admin_port}
        address = held.getsockname()[:2]
        orders = {"source": str(place), "host": address[0], "port": address[1], "settings": chosen, "since": since}
        supervisor = Supervisor({**orders, "workers": workers}, Group(folder, -1, workers, since), settings)
        supervisor.on_ready = lambda: on_ready(url_of(held)) if on_ready is not None else None
        configure_logging()
        asyncio.run(supervisor.run())


@contextmanager
def _held_back(sig: int) -> Iterator[None]:
    """A process that is started meanwhile gets the signal once it asks for it, and is not ended by it before."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [sig])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [sig])


@contextmanager
def _admin(settings: Settings) -> Iterator[int | None]:
    """The port on which versions are changed, held for the workers."""
    if settings.admin_port is None:
        yield None
        return
    with reserve(settings.admin_host, settings.admin_port) as held:
        yield held.getsockname()[1]


class Supervisor:
    """Keeps the workers of a server alive until a signal ends them."""

    def __init__(self, orders: dict[str, object], group: Group, settings: Settings) -> None:
        """``orders``: what all workers are told; their number and their socket are added."""
        self.on_ready: Callable[[], object] = lambda: None
        """Called once all workers are ready for the first time."""
        self._orders = {**orders, "folder": str(group.folder)}
        self._group, self._patience_s = group, settings.drain_s + settings.grace_s + SLOW_S
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._loaded: dict[int, asyncio.StreamWriter] = {}
        self._open: set[int] = set()
        self._begun = False
        self._signals: list[int] = []
        counts = Counts(group.restarts)
        keys = [key_of("counter", RESTARTS, number) for number in range(group.workers)]
        self._restarts = [Count(counts, key) for key in keys]

    async def run(self) -> None:
        """Returns when all workers have ended as they were told to.  Raises what made the server give up."""
        self._leaving = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(one, self._pass_on, one)
        loop.add_signal_handler(signal.SIGHUP, self._reopen)
        keepers = [asyncio.create_task(self._keep(number)) for number in range(self._group.workers)]
        try:
            await asyncio.gather(*keepers)
        except BaseException:
            self._pass_on(signal.SIGTERM if self._begun else signal.SIGKILL)
            await asyncio.gather(*keepers, return_exceptions=True)
            raise

    def _reopen(self) -> None:
        """Every worker looks for its log's files: somebody rotated them, or the terminal went away."""
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGHUP)

    def _pass_on(self, sig: int) -> None:
        """To every worker; from the third on, to die at once."""
        self._signals.append(sig)
        self._leaving.set()
        for process in self._processes.values():
            with suppress(ProcessLookupError):
                process.send_signal(sig if len(self._signals) < 3 else signal.SIGKILL)
        if len(self._signals) == 1:
            asyncio.get_running_loop().call_later(self._patience_s, self._kill)

    def _kill(self) -> None:
        for number, process in self._processes.items():
            logger.error("worker %d did not end in %g s and is killed", number, self._patience_s)
            process.kill()

    async def _keep(self, number: int) -> None:
        """A worker, again and again."""
        ends: deque[float] = deque()
        while not self._leaving.is_set():
            complaint = await self._once(number)
            if self._leaving.is_set():
                return
            if not self._begun:
                raise complaint
            ends.append(time.monotonic())
            while ends[0] < ends[-1] - WITHIN_S:
                ends.popleft()
            if len(ends) > FAILURES:
                again = f"worker {number} ended {len(ends)} times in {WITHIN_S:g} s"
                raise SuisenError(f"{again}, at last: {complaint}; the log of the server says more")
            self._restarts[number].inc()
            pause = PAUSE_S * 2 ** (len(ends) - 1)
            logger.error("%s; it is started again in %g s", complaint, pause)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), pause)

    async def _once(self, number: int) -> SuisenError:
        """A worker from its start to its end; returns why it ended."""
        ours, theirs = socket.socketpair()
        with theirs, _held_back(signal.SIGHUP):
            process = self._processes[number] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "suisen.serving.worker", str(theirs.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
                env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // self._group.workers)), **os.environ},
            )
        if self._leaving.is_set():  # told while it was being started
            process.kill()
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(json.dumps({**self._orders, "number": number}, default=str).encode() + b"\n")
        reason = ""
        try:
            async for line in reader:
                reason = self._heard(number, line, writer) or reason
        except ConnectionError:  # a killed worker had not read all that it was told
            pass
        code = await process.wait()
        writer.close()
        del self._processes[number]
        self._loaded.pop(number, None)
        Counts(self._group.counts(number)).zero(GAUGES)
        if reason:
            kind, text = json.loads(reason)
            return KINDS.get(kind, SuisenError)(text)
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        return SuisenError(f"worker {number} ended {how}")

    def _heard(self, number: int, line: bytes, writer: asyncio.StreamWriter) -> str:
        """Acts on what a worker says; returns its complaint, if it has one.

        The first ones open their ports together: while some still load, all connections would go to the others.
        """
        if line == b"loaded\n":
            self._loaded[number] = writer
            self._begun = self._begun or len(self._loaded) == self._group.workers
            if self._begun:
                for one in self._loaded.values():
                    one.write(b"open\n")
                self._loaded.clear()
        elif line == b"open\n":
            if len(self._open) < self._group.workers:
                self._open.add(number)
                if len(self._open) == self._group.workers:
                    self.on_ready()
        else:
            return line.decode()
        return ""
