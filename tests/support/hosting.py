"""Portico in another program's app, on uvicorn's own server: none of Portico's connections, and no transport."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import uvicorn
from starlette.types import ASGIApp

from portico.core.principal import Callers
from portico.plugins.token_auth.authenticator import TokenAuthenticator
from portico.testing.background import background
from portico.testing.engine import scripted_engine
from portico.transports.asgi import Api, create_app
from portico.transports.hosts import LOOPBACK
from portico.transports.streams import Streams
from tests.support.serving import TOKENS

Wrap = Callable[[ASGIApp], ASGIApp]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # they belong to the tests


@asynccontextmanager
async def hosting(
    folder: Path, wrap: Wrap, *, root_path: str = "", api: Mapping[str, Any] = MappingProxyType({})
) -> AsyncIterator[str]:
    """The address of a server of the app that ``wrap`` makes of Portico's; ``root_path`` is uvicorn's, ``api`` are
    fields of `Api`."""
    streams, stopped = Streams(), anyio.Event()
    callers = Callers([TokenAuthenticator(TOKENS.items())])
    async with scripted_engine(folder) as engine, background() as tasks:
        app = wrap(create_app(engine, callers, streams, Api("/claude", 1024 * 1024, LOOPBACK, (), **api)))
        server = _Server(
            uvicorn.Config(app, root_path=root_path, log_config=None, access_log=False, proxy_headers=False)
        )

        async def serve(listener: socket.socket) -> None:
            await server.serve([listener])
            stopped.set()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            tasks.start_soon(serve, listener)
            tasks.start_soon(streams.watch)
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                streams.stop()
                server.should_exit = True
                with anyio.CancelScope(shield=True), anyio.move_on_after(10):
                    await stopped.wait()
