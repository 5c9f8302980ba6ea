"""The process around the app: a socket, a loop, signals.  ``serve`` blocks; ``start_in_thread`` does not."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

from suisen.errors import SuisenError
from suisen.recommending.held import hold, private_folder
from suisen.recommending.place import find
from suisen.recommending.system import System
from suisen.serving.app import App
from suisen.serving.asgi import AsgiFront
from suisen.serving.front import Front
from suisen.serving.opening import loaded
from suisen.serving.settings import Settings, keyed
from suisen.serving.sockets import check_reach, listen, url_of
from suisen.serving.telemetry import configure_logging

SIGHUP = getattr(signal, "SIGHUP", 0)
"""Windows has none."""
logger = logging.getLogger("suisen.serving")
LEAST_S = 0.5
"""Least seconds for what is computed to end, once no request waits for it."""
LATE_S = 1.0
"""Seconds beyond ``drain_s`` and ``grace_s`` after which the process ends whatever its threads still do."""
TICK_S = 0.25
"""Seconds between two looks at what siblings wrote and at what is watched, where no request makes the server look."""


def serve(
    source: Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    settings: Settings | None = None,
    on_ready: Callable[[str], None] | None = None,
) -> None:
    """Serves a bundle (or the bundle of a run folder) until SIGTERM or SIGINT, then returns.

    ``on_ready`` is told the URL once the parity fixture has been replayed.  The event log is kept in ``events`` beside
    the bundle, unless ``settings`` name a folder.  Raises InputError (port in use, log not writable) before anything is
    loaded, and BundleError where the bundle is damaged or answers other than it did when it was saved.
    """
    place = find(source)
    settings = settings or Settings()
    if settings.log_dir is None:
        settings = replace(settings, log_dir=place.parent / "events")
    with private_folder(settings.private_dir) as folder:
        server = _bound(place, host, port, settings, folder)
        configure_logging()
        if on_ready is not None:
            server.on_ready = on_ready
        server.run()
    server.raise_failure()


class Running:
    """A server in a thread of this process: requests go to ``url``, ``stop()`` ends it."""

    def __init__(self, server: "Server", on_stop: Callable[[], object] = lambda: None) -> None:
        self.app, self._on_stop = server.app, on_stop
        self.url = server.url
        self.admin_url = "" if server.admin_listening is None else url_of(server.admin_listening)
        self._server = server
        self._thread = threading.Thread(target=server.run, name="suisen-server", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Lets running requests finish, closes the port and the logs, and returns when that is done, or its time is up:
        ``grace_s`` and a second.
        """
        self._server.close()
        self._thread.join(self.app.service.settings.grace_s + LATE_S)
        self._on_stop()


def start_in_thread(
    source: Path | System, *, host: str = "127.0.0.1", port: int = 0, settings: Settings | None = None
) -> Running:
    """Serves in a thread, on a free port by default; returns once it is ready.  Raises as ``serve`` does.

    Without ``settings.log_dir`` there is no event log.
    """
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(private_folder((settings or Settings()).private_dir))
        server = _bound(find(source) if isinstance(source, Path) else source, host, port, settings, folder)
        running = Running(server, stack.pop_all().close)
    server.opened.wait()
    if server.app.service.failure is not None:
        running.stop()
        server.raise_failure()
    return running


@contextmanager
def running(source: Path | System, settings: Settings | None = None) -> Iterator[Running]:
    """``start_in_thread`` on a free port, stopped at the end of the block."""
    server = start_in_thread(source, settings=settings)
    try:
        yield server
    finally:
        server.stop()


def _bound(source: Path | System, host: str, port: int, settings: Settings | None, folder: Path) -> "Server":
    """A server on its port that will load the source when it runs, or rather its verified copy in ``folder``."""
    chosen = settings or Settings()
    listening, admin = listen(host, port), None
    try:
        check_reach(listening, host, safe=keyed(chosen))
        if chosen.admin_port is not None:
            admin = listen(chosen.admin_host, chosen.admin_port)
        held = isinstance(source, Path)
        if isinstance(source, Path):
            source = hold(source, folder / "bundle", chosen.trusted_keys)
        server = Server(App(partial(loaded, source, held=held), settings, own=held), listening)
    except BaseException:
        listening.close()
        if admin is not None:
            admin.close()
        raise
    server.admin_listening = admin
    return server


class Server:
    """One process that serves.  SIGTERM turns ready to 503, waits for balancers to see it, then closes and finishes."""

    def __init__(self, app: App, listening: socket.socket | None) -> None:
        """``listening``: open while the bundle is loaded, so that probes are answered; None: ``may_open`` brings it."""
        self.app = app
        self.listening = listening
        self.url = "" if listening is None else url_of(listening)
        self._started = False
        self.may_open: Callable[[], Awaitable[socket.socket]] | None = None
        """Asked for the socket when the bundle is loaded, where there is none before."""
        self.admin_listening: socket.socket | None = None
        """Where versions are changed; opened once the bundle is loaded."""
        self.on_ready: Callable[[str], None] = lambda url: None
        self._ended = threading.Event()
        self.opened = threading.Event()
        """Set when loading has ended, one way or the other."""
        self._admin, self._admin_started = Front(app.admin), False
        self._front = AsgiFront(app) if app.service.settings.front == "asgi" else Front(app)  # last: it is measured
        self._loop = _new_loop()
        self._leave, self._close = asyncio.Event(), asyncio.Event()
        self._signals = 0
        self._process = threading.current_thread() is threading.main_thread()
        """Whether the process is this server's own, so that signals reach it and it may end the process."""

    def run(self) -> None:
        """Serves until a signal, or ``close``, has ended it.  Signals are heard where this is the main thread."""
        self._process = threading.current_thread() is threading.main_thread()
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner, _heard(self._signalled):
            runner.run(self._live())
        self._ended.set()

    def close(self) -> None:
        """Ends the server as SIGINT does; from any thread."""
        self._signalled(signal.SIGINT)

    def raise_failure(self) -> None:
        """Raises what kept the bundle from being served, if anything did."""
        failure = self.app.service.failure
        if isinstance(failure, SuisenError):
            raise failure
        if failure is not None:
            raise RuntimeError("the bundle cannot be served") from failure

    def soon(self, call: Callable[..., object], *given: object) -> None:
        """Calls something in the server's loop; from any thread, and without effect once the loop has ended."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *given)

    def _signalled(self, sig: int) -> None:
        """In the handler of the signal, which runs whatever the event loop and other threads do."""
        if sig == SIGHUP:
            self.soon(self.app.service.journal.tend)
            return
        self._signals += 1
        if self._process and self._signals >= 3:
            os._exit(128 + sig)
        self.soon(self._end, sig)

    def _end(self, sig: int) -> None:
        """SIGTERM drains first; SIGINT, or a second signal, closes at once; a third ended the process."""
        self.app.drain()
        if self._process and not self._leave.is_set():
            threading.Thread(target=self._give_up, name="suisen-end", daemon=True).start()
        if sig != signal.SIGTERM or self._leave.is_set():
            self._close.set()
        self._leave.set()

    def _give_up(self) -> None:
        """Ends the process where a thread, of ours or of the interpreter, does not end in time."""
        settings = self.app.service.settings
        if not self._ended.wait(settings.drain_s + settings.grace_s + LATE_S):
            logger.error("the server did not end within grace_s = %g s and is ended", settings.grace_s)
            os._exit(1)

    async def _live(self) -> None:
        settings = self.app.service.settings
        await self.app.start()
        begun = asyncio.create_task(self._begin())
        await self._leave.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._close.wait(), settings.drain_s)
        self._close.set()
        begun.cancel()
        until = time.monotonic() + settings.grace_s
        if self._started:
            fronts = [self._front, *([self._admin] if self._admin_started else [])]
            await asyncio.gather(*(front.stop() for front in fronts))
        await self.app.stop(max(LEAST_S, until - time.monotonic()))

    async def _start(self, listening: socket.socket) -> None:
        self._started = True
        self.url = url_of(listening)
        await self._front.start(listening)

    async def _begin(self) -> None:
        """Loads, opens the port, and says so; a bundle that cannot be served ends the server."""
        service = self.app.service
        try:
            if self.listening is not None:
                await self._start(self.listening)
            await self.app.opened.wait()
            if service.failure is None and self.may_open is not None:
                await self._start(await self.may_open())
            if service.failure is None and self.admin_listening is not None:
                await self._admin.start(self.admin_listening)
                self._admin_started = True
        except Exception as error:
            service.failure = error
        if service.failure is not None:
            self._end(signal.SIGINT)
        elif service.state == "ready":
            if threading.current_thread() is threading.main_thread():  # a process of its own: what is loaded stays
                gc.collect()
                gc.freeze()
            self.on_ready(self.url)
        self.opened.set()
        while service.failure is None:
            await asyncio.sleep(TICK_S)
            self.app.look()


def _new_loop() -> asyncio.AbstractEventLoop:
    if sys.platform == "win32":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


@contextmanager
def _heard(told: Callable[[int], None]) -> Iterator[None]:
    """SIGTERM, SIGINT and SIGHUP are told, and as they were before at the end; nothing in a thread, which hears no
    signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [signal.SIGTERM, signal.SIGINT, *([SIGHUP] if SIGHUP else [])]
    before = {one: signal.signal(one, lambda sig, frame: told(sig)) for one in heard}
    if SIGHUP:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [SIGHUP])  # a supervisor holds it back while its workers start
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
