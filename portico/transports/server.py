"""Serves an ASGI app on sockets that somebody else has opened, until cancelled."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

from portico.http1.embedded import embedded
from portico.transports.crowd import UNLIMITED, Crowd, fitting
from portico.transports.dialler import Dialler
from portico.transports.http_connection import HttpConnection
from portico.transports.leftovers import Leftovers
from portico.transports.streams import FINISH_SECONDS, Latest, Streams
from portico.transports.watch import Watched
from portico.transports.websocket_connection import WebSocketConnection, serialize

if TYPE_CHECKING:
    from portico.config.settings import Settings

HANDLER_SECONDS = 10
"""For handlers to notice; then uvicorn cancels them."""
PING_SECONDS = 18.0
"""Between a WebSocket's pings, and for the answer to one: who is gone without a word is noticed within twice that."""
HANDSHAKE_SECONDS = 10.0
"""For a TLS handshake."""
SHUTDOWN_SECONDS = 3600.0
"""For a client to take the rest of what it was sent before the close. `Watched` is not as patient."""
PAUSE_SECONDS = 0.1
"""Before the next try to accept, where there are no descriptors."""

log = logging.getLogger("portico.transports")


@dataclass(frozen=True, slots=True)
class Limits:
    """``max_connections`` at once; of each ``max_frame`` in bytes (of a WebSocket's message), the rest in seconds."""

    write_timeout: float
    max_frame: int
    ping: float = PING_SECONDS
    max_connections: int = UNLIMITED


def limits(settings: Settings) -> Limits:
    """Those that the operator has set; as many connections as there are descriptors for, where nothing is said."""
    fit = fitting(settings.max_processes or settings.max_sessions)
    asked = settings.max_connections or fit
    if asked > fit:
        log.warning("max_connections is %d, and there are descriptors for %d (ulimit -n)", asked, fit)
    return Limits(settings.write_timeout, settings.max_frame, max_connections=asked)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, crowd: Crowd) -> None:
        super().__init__(config)
        self._crowd = crowd
        self._handshakes = 0
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

    async def take(self, connection: socket.socket, dialler: Dialler | None, tls: ssl.SSLContext | None = None) -> None:
        """Serve a connection that somebody else has accepted. Raises OSError where it has gone, or fails to begin."""
        loop = asyncio.get_running_loop()

        def protocol() -> asyncio.Protocol:
            made: asyncio.Protocol = cast(Any, self.config.http_protocol_class)(
                config=self.config,
                server_state=self.server_state,
                app_state=self.lifespan.state,
                dialler=dialler,
                _loop=loop,
            )
            return made

        limits: Any = tls and {"ssl_handshake_timeout": HANDSHAKE_SECONDS, "ssl_shutdown_timeout": SHUTDOWN_SECONDS}
        await loop.connect_accepted_socket(protocol, connection, ssl=tls, **limits or {})

    async def accept(self, listener: socket.socket, tls: ssl.SSLContext) -> None:
        """Serve TLS on ``listener``, until cancelled.

        uvicorn's own way would leave handshakes under way uncounted, for a minute each.
        """
        loop = asyncio.get_running_loop()
        listener.setblocking(False)
        async with anyio.create_task_group() as handshakes:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        await anyio.sleep(PAUSE_SECONDS)
                    continue
                if self._crowd.has_room(self.server_state.connections, self._handshakes + 1):
                    self._handshakes += 1
                    handshakes.start_soon(self._shake_hands, connection, tls)
                else:
                    connection.close()  # who has not shaken hands can't be told why

    async def _shake_hands(self, connection: socket.socket, tls: ssl.SSLContext) -> None:
        try:
            await self.take(connection, None, tls)
        except OSError:  # which SSLError is, and what comes of a handshake that takes too long
            connection.close()
        finally:
            self._handshakes -= 1

    def cut(self) -> None:
        """Close all connections now, with or without what they have still to send."""
        for connection in list(self.server_state.connections):
            cast(Watched, connection).cut()


async def serve_app(
    app: ASGIApp,
    streams: Streams,
    sockets: Sequence[socket.socket],
    address: str,
    *,
    limits: Limits,
    tls: ssl.SSLContext | None = None,
    connections: AsyncIterable[tuple[socket.socket, Dialler]] | None = None,
    task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``app`` on listening ``sockets``, which it closes; ``started(address)`` once it does. With ``tls`` all that
    comes in through them is TLS.

    ``connections`` are further ones, which others accept: connected stream sockets, and who is at their other ends.

    Ends when cancelled: no new connections, streams end, running requests finish, and within `FINISH_SECONDS` all
    connections are gone.
    """
    crowd = Crowd(limits.max_connections)
    server = _Server(_config(app, limits, crowd), crowd)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [] if tls else list(sockets))
        tasks.start_soon(streams.watch)
        try:
            await server.up.wait()
            if tls is not None:
                for listener in sockets:
                    tasks.start_soon(server.accept, listener, tls)
            task_status.started(address)
            if connections is not None:
                async for connection, dialler in connections:
                    try:
                        await server.take(connection, dialler)
                    except OSError:  # it has gone already
                        connection.close()
            await server.down.wait()
            tasks.cancel_scope.cancel()
        finally:
            server.should_exit = True
            streams.stop()
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(FINISH_SECONDS):
                    await server.down.wait()
                server.cut()


def _config(app: ASGIApp, limits: Limits, crowd: Crowd) -> uvicorn.Config:
    shared: Any = {"write_timeout": limits.write_timeout, "leftovers": Leftovers()}
    http: Any = partial(HttpConnection, crowd=crowd, **shared)
    websocket: Any = partial(WebSocketConnection, serialize=Latest(serialize), **shared)
    return embedded(
        app,
        http=http,
        ws=websocket,
        ws_max_size=limits.max_frame,
        ws_ping_interval=limits.ping,
        ws_ping_timeout=limits.ping,
        ws_per_message_deflate=False,  # a small message may be a huge one, and it costs memory for each connection
        backlog=1024,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=HANDLER_SECONDS,
    )
