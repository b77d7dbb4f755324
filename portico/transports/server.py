"""The server of an ASGI app: it serves on sockets that the caller has opened, until cancelled."""

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
"""The time for handlers to end at a stop; then uvicorn cancels them."""
PING_SECONDS = 18.0
"""The time between a WebSocket's pings, and for the answer to one. A silent loss is noticed within twice that time."""
HANDSHAKE_SECONDS = 10.0
"""The time for a TLS handshake."""
SHUTDOWN_SECONDS = 3600.0
"""The time for a client to take the rest of the data sent before the close. `Watched` cuts it off sooner."""
PAUSE_SECONDS = 0.1
"""The pause before the next try to accept if no descriptors are free."""

log = logging.getLogger("portico.transports")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of connections: ``max_connections`` at once, ``max_frame`` bytes of a WebSocket's message; the others
    are in seconds."""

    write_timeout: float
    max_frame: int
    ping: float = PING_SECONDS
    max_connections: int = UNLIMITED


def limits(settings: Settings) -> Limits:
    """Return the limits that the operator has set; by default, as many connections as there are descriptors for."""
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
            # If cancelled, uvicorn would leave its connections open; `should_exit` ends it.
            with anyio.CancelScope(shield=True):
                await super().serve(sockets)
                # uvicorn does not wait for the tasks that it has cancelled.
                if tasks := self.server_state.tasks:
                    await asyncio.wait(tasks, timeout=HANDLER_SECONDS)
        finally:
            self.down.set()

    async def take(self, connection: socket.socket, dialler: Dialler | None, tls: ssl.SSLContext | None = None) -> None:
        """Serve a connection that was accepted elsewhere. Raises OSError if it has gone, or its handshake fails."""
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

        uvicorn itself would not count the handshakes under way, which may take a minute each.
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
                    connection.close()  # before the handshake a client can't be told why

    async def _shake_hands(self, connection: socket.socket, tls: ssl.SSLContext) -> None:
        try:
            await self.take(connection, None, tls)
        except OSError:  # includes SSLError, and a handshake that takes too long
            connection.close()
        finally:
            self._handshakes -= 1

    def cut(self) -> None:
        """Close all connections now, even those with data still to send."""
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
    """Serve ``app`` on listening ``sockets``, and close them at the end; call ``started(address)`` once it serves. With
    ``tls`` all connections through them are TLS, except on Unix sockets.

    ``connections`` are further ones, accepted elsewhere: connected stream sockets, each with its other end.

    Ends when cancelled: new connections are refused, streams end, running requests finish, and within
    `FINISH_SECONDS` all connections are gone.
    """
    crowd = Crowd(limits.max_connections)
    server = _Server(_config(app, limits, crowd), crowd)
    encrypted = [each for each in sockets if tls is not None and each.family != socket.AF_UNIX]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [each for each in sockets if each not in encrypted])
        tasks.start_soon(streams.watch)
        try:
            await server.up.wait()
            if tls is not None:
                for listener in encrypted:
                    tasks.start_soon(server.accept, listener, tls)
            task_status.started(address)
            if connections is not None:
                async for connection, dialler in connections:
                    try:
                        await server.take(connection, dialler)
                    except OSError:  # the client has gone already
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
        ws_per_message_deflate=False,  # a small message could inflate to a huge one, and each connection costs memory
        backlog=1024,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=HANDLER_SECONDS,
    )
