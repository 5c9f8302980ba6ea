"""HTTP/1.1 without ASGI between: a socket whose connections a ``Dispatch`` of the same event loop answers."""

import asyncio
import socket
import time

from suisen.serving.connection import Connection
from suisen.serving.crowd import LINGER_S, Crowd
from suisen.serving.sockets import LAST_S, most_connections, waiting


class Front(Crowd):
    """Answers the connections of a socket with an app that runs in the same event loop."""

    async def start(self, listening: socket.socket, backlog: int = 1024) -> None:
        """Takes connections from now on."""
        self._loop = asyncio.get_running_loop()
        settings = self.settings
        times = (settings.first_byte_s, settings.header_s, settings.body_s, settings.keep_alive_s)
        self._tick = min(1.0, LINGER_S / 2, *(each / 4 for each in times))
        self.most = most_connections(settings.max_connections)
        self._sweep()
        self._held = listening.dup()
        self._server = await self._loop.create_server(lambda: Connection(self), sock=listening, backlog=backlog)

    async def stop(self) -> None:
        """Closes the socket, then connections without a request; others once they are answered, within ``grace_s``.

        Requests that have arrived by then are answered, too.  A second call does nothing.
        """
        if self.closing:
            return
        self.closing = True
        self._server.close()
        await asyncio.sleep(0)  # the loop lets go of the socket; what we hold is the last of it
        last = waiting(self._held)
        self._held.close()  # at once: a connection that is made in between is reset
        for one in last:
            await self._loop.connect_accepted_socket(lambda: Connection(self), one)
        await asyncio.sleep(LAST_S)
        for connection in list(self.open):
            connection.leave()
        until = time.monotonic() + self.settings.grace_s
        while (self.open or any(each.unsent for each in self.parting)) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for connection in [*self.open, *self.parting]:
            connection.cut()
        self._sweeping.cancel()

    def _sweep(self) -> None:
        """Ends what takes too long.  One timer for all connections: one for each would cost more than a request may."""
        self.tell_time()
        now = time.monotonic()
        for connection in [*self.open, *self.parting]:
            connection.check_time(now)
        self._sweeping = self._loop.call_later(self._tick, self._sweep)
