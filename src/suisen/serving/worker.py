"""One of several workers of a server: ``python -m suisen.serving.worker CHANNEL``, started by ``serving.workers``.

The worker is told its orders over the channel, and not on the command line, which shows every user of the machine what
stands in it, keys and passwords too.  It says ``loaded``, is told ``open``, opens the port and says ``open``.  Where it
cannot, it says why.  When the other end of that conversation is gone, so is the server, and the worker ends as well.
"""

import asyncio
import os
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from suisen.errors import SuisenError
from suisen.recommending.place import find
from suisen.serving.app import App
from suisen.serving.opening import loaded
from suisen.serving.server import Server
from suisen.serving.settings import Settings
from suisen.serving.siblings import Group
from suisen.serving.sockets import listen
from suisen.serving.telemetry import configure_logging


class Orders(msgspec.Struct, kw_only=True):
    """What a worker needs to know: the first line that it is told, JSON."""

    source: str
    host: str
    port: int
    settings: dict[str, Any]
    folder: str
    number: int
    workers: int
    since: int


class Worker:
    """Serves by its orders."""

    def __init__(self, orders: Orders, channel: socket.socket) -> None:
        """Raises InputError where the folder of the log cannot be written."""
        self._orders, self._channel = orders, channel
        place = find(Path(orders.source))
        settings = Settings(**orders.settings)
        group = Group(Path(orders.folder), orders.number, orders.workers, orders.since)
        self.server = Server(App(partial(loaded, place, held=True), settings, group=group, own=True), None)
        self.server.may_open = self._may_open
        self.server.on_ready = lambda url: self.say("open")
        self._told = asyncio.Event()
        self._patience_s = settings.grace_s + settings.drain_s
        threading.Thread(target=self._listen, name="suisen-supervisor", daemon=True).start()

    def say(self, line: str) -> None:
        """Tells the supervisor, if there still is one."""
        try:
            self._channel.sendall(f"{line}\n".encode())
        except OSError:
            self.server.close()

    async def _may_open(self) -> socket.socket:
        """Knows what siblings know, then waits for the word."""
        await asyncio.to_thread(self.server.app.service.catch_up)
        settings = self.server.app.service.settings
        if settings.admin_port is not None:
            self.server.admin_listening = listen(settings.admin_host, settings.admin_port, shared=True)
        self.say("loaded")
        await self._told.wait()
        return listen(self._orders.host, self._orders.port, shared=True)

    def _listen(self) -> None:
        """In a thread, so that the end of the supervisor is heard whatever else is going on."""
        while self._channel.recv(16):
            self.server.soon(self._told.set)
        self.server.close()
        time.sleep(self._patience_s)
        os._exit(1)


def _line(channel: socket.socket) -> bytes:
    """The first line; nothing comes behind it before it is answered."""
    told = b""
    while not told.endswith(b"\n") and (part := channel.recv(1 << 16)):
        told += part
    return told


def main() -> None:
    """Serves; exits with 2 where something is wrong that the caller can mend."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    configure_logging()
    orders = msgspec.json.decode(_line(channel), type=Orders)
    try:
        worker = Worker(orders, channel)
        worker.server.run()
        worker.server.raise_failure()
    except SuisenError as error:
        channel.sendall(msgspec.json.encode([type(error).__name__, str(error)]) + b"\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
