"""The app behind uvicorn, for ``--front asgi``: ``front.Front``'s two verbs, without uvicorn's signals and lifespan."""

import asyncio
import socket

import uvicorn

from suisen.serving.app import App
from suisen.serving.sockets import BACKLOG


class AsgiFront:
    """Answers the connections of a socket."""

    def __init__(self, app: App) -> None:
        settings = app.service.settings
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=round(settings.keep_alive_s),
            timeout_graceful_shutdown=max(1, round(settings.grace_s)),
        )
        self._server = uvicorn.Server(config)

    async def start(self, listening: socket.socket) -> None:
        """Takes connections from now on."""
        self._serving = asyncio.create_task(self._server._serve([listening]))  # ``serve`` would take our signals

    async def stop(self) -> None:
        """Closes the socket and returns when running requests are answered, or their time is up."""
        self._server.should_exit = True
        await self._serving
