"""Serves an ASGI app on sockets that somebody else has opened, until cancelled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import anyio
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

from portico.transports.connection import Connection
from portico.transports.streams import Streams

FINISH_SECONDS = 3.0
"""For requests and streams to end by themselves at a stop; then connections are cut, whoever is at their other end."""
HANDLER_SECONDS = 10
"""For handlers to notice; then uvicorn cancels them."""


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = anyio.Event()
        self.down = anyio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to the program around us

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            # A cancelled uvicorn would leave its connections open; `should_exit` ends it.
            with anyio.CancelScope(shield=True):
                await super().serve(sockets)
                # What uvicorn has cancelled, it doesn't wait for.
                if tasks := self.server_state.tasks:
                    await asyncio.wait(tasks, timeout=HANDLER_SECONDS)
        finally:
            self.down.set()

    def cut(self) -> None:
        """Close all connections now, with or without what they have still to send."""
        for connection in list(self.server_state.connections):
            cast(Connection, connection).cut()


async def serve_app(
    app: ASGIApp,
    streams: Streams,
    sockets: Sequence[socket.socket],
    address: str,
    *,
    write_timeout: float,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` on listening ``sockets``, which it closes; ``started(address)`` once it does.

    Ends when cancelled: no new connections, streams end, running requests finish, and within `FINISH_SECONDS` all
    connections are gone.
    """
    server = _Server(_config(app, write_timeout))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, list(sockets))
        try:
            await server.up.wait()
            task_status.started(address)
            await server.down.wait()
        finally:
            server.should_exit = True
            streams.stop()
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(FINISH_SECONDS):
                    await server.down.wait()
                server.cut()


def _config(app: ASGIApp, write_timeout: float) -> uvicorn.Config:
    connection: Any = partial(Connection, write_timeout=write_timeout)
    return uvicorn.Config(
        app,
        http=connection,
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        server_header=False,
        # Said, because their defaults are read from the environment.
        proxy_headers=False,
        forwarded_allow_ips=[],
        workers=1,
        backlog=1024,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=HANDLER_SECONDS,
    )
