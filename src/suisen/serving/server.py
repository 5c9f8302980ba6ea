"""The process around the app: a socket, uvicorn, signals.  ``serve`` blocks; ``start_in_thread`` does not."""

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

import uvicorn

from suisen.errors import InputError, SuisenError
from suisen.recommending import bundle, parity
from suisen.recommending.system import System
from suisen.serving.app import App
from suisen.serving.settings import Settings
from suisen.serving.telemetry import configure_logging

BACKLOG = 1024
KEEP_ALIVE_S = 75
"""Longer than balancers keep idle connections, so that it is never us who closes one under a request."""


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
    place = bundle.find(source)
    settings = settings or Settings()
    if settings.log_dir is None:
        settings = replace(settings, log_dir=place.parent / "events")
    server = _bound(place, host, port, settings)
    configure_logging()
    if on_ready is not None:
        server.on_ready = on_ready
    server.run([server.listening])
    server.raise_failure()


class Running:
    """A server in a thread of this process: requests go to ``url``, ``stop()`` ends it."""

    def __init__(self, server: "Server") -> None:
        self.app = server.app
        self.url = server.url
        self._server = server
        self._thread = threading.Thread(
            target=server.run, args=([server.listening],), name="suisen-server", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Lets running requests finish, closes the port and the logs, and returns when that is done."""
        self._server.should_exit = True
        self._thread.join()


def start_in_thread(
    source: Path | System, *, host: str = "127.0.0.1", port: int = 0, settings: Settings | None = None
) -> Running:
    """Serves in a thread, on a free port by default; returns once it is ready.  Raises as ``serve`` does.

    Without ``settings.log_dir`` there is no event log.
    """
    server = _bound(bundle.find(source) if isinstance(source, Path) else source, host, port, settings)
    running = Running(server)
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


def _bound(source: Path | System, host: str, port: int, settings: Settings | None) -> "Server":
    """A server on its port that will load the source when it runs."""
    listening = listen(host, port)
    try:
        return Server(App(lambda: _loaded(source), settings), listening)
    except BaseException:
        listening.close()
        raise


def _loaded(source: Path | System) -> System:
    """The System, its parity fixture replayed where it comes from a bundle."""
    if isinstance(source, System):
        return source
    system = bundle.load(source)
    parity.check(system, bundle.fixture(source))
    return system


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.  Raises InputError where there can be none; port 0 takes a free one."""
    if not 0 <= port <= 65535:
        raise InputError(f"port = {port} must be from 0 to 65535; 0 takes a free one")
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise InputError(
            f"host = {host!r} is unknown ({error.strerror}); 127.0.0.1 serves this machine alone"
        ) from None
    try:
        both = family == socket.AF_INET6  # "::" takes IPv4 connections, too
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both)
    except OSError as error:
        raise _no_socket(error.errno or 0, host, port) from None


def _no_socket(reason: int, host: str, port: int) -> InputError:
    if reason == errno.EADDRINUSE:
        return InputError(f"port = {port} is in use on {host}; stop what listens there or give another (0: a free one)")
    if reason == errno.EACCES:
        return InputError(f"port = {port} is not allowed to this user; give one from 1024 on")
    return InputError(
        f"host = {host!r}, port = {port}: cannot listen ({os.strerror(reason)}); give an address of this machine"
    )


class Server(uvicorn.Server):
    """uvicorn with our signals: SIGTERM turns ready to 503, waits for balancers to see it, then closes and finishes."""

    def __init__(self, app: App, listening: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(app.service.settings.grace_s)),
        )
        super().__init__(config)
        self.app = app
        self.listening = listening
        self.url = _url(listening)
        self.opened = threading.Event()
        """Set when loading has ended, one way or the other."""
        self.on_ready: Callable[[str], None] = lambda url: None
        self._leave_at: float | None = None
        app.on_opened = self._opened

    def _opened(self) -> None:
        """A bundle that cannot be served ends the server."""
        if self.app.service.failure is not None:
            self.should_exit = True
        elif self.app.service.state == "ready":
            self.on_ready(self.url)
        self.opened.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains first; SIGINT, or a second signal, closes at once; a third waits for nobody."""
        if self.should_exit:
            self.force_exit = True
        elif sig == signal.SIGTERM and self._leave_at is None:
            self.app.drain()
            self._leave_at = time.monotonic() + self.app.service.settings.drain_s
        else:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to close."""
        if self._leave_at is not None and time.monotonic() >= self._leave_at:
            self.should_exit = True
        return await super().on_tick(counter)

    def raise_failure(self) -> None:
        """Raises what kept the bundle from being served, if anything did."""
        failure = self.app.service.failure
        if isinstance(failure, SuisenError):
            raise failure
        if failure is not None:
            raise RuntimeError("the bundle cannot be served") from failure


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
