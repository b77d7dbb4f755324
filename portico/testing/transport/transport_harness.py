"""A transport under test."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import ByteStream, SocketAttribute, SocketStream, TaskStatus

from portico.config.settings import Settings
from portico.core.engine import Engine
from portico.core.principal import Callers
from portico.core.requests import NewSession
from portico.core.store import EventStore
from portico.plugins.context import Context
from portico.plugins.token_auth.authenticator import TokenAuthenticator
from portico.testing.background import background
from portico.testing.engine import scripted_engine
from portico.testing.following import bounded
from portico.testing.scripted import Ask, Gate, ScriptedDriver, Step, turn
from portico.testing.transport.stand_ins import Server, StartStatus, Watch, cancelled_at
from portico.testing.transport.transport_client import ALICE, FLOOD, GARBAGE, KNOWN, ROOT, Refused, TransportClient
from portico.transports.base import Transport


class TransportHarness:
    """The part that the author of a transport completes, and what its tests stand on."""

    pytestmark = pytest.mark.anyio

    seconds = 60.0
    """The longest time that anything may take, a stop included."""

    write_timeout = 0.5
    """The setting, in the test of a client that reads nothing."""

    memory_bytes = 8 * 1024 * 1024
    """The most memory, in bytes, that may be kept for one client that reads nothing."""

    def create(self, context: Context) -> Transport:
        """A new transport, made as its factory in the hook ``portico_transports`` makes it."""
        raise NotImplementedError

    def connect(self, address: str, secret: str | None) -> AbstractAsyncContextManager[TransportClient]:
        """Return a client that shows ``secret`` (None: no credentials). At its end it cuts its connections."""
        raise NotImplementedError

    def cannot(self) -> Mapping[str, str]:
        """The methods of `TransportClient` that the wire has no way for, and why: ``create``,
        ``interrupt``, ``answer``. What needs it is skipped for this reason. To query and to tell events is a must."""
        return {}

    def settings(self, folder: Path, port: int) -> Mapping[str, Any]:
        """Settings of Portico's. ``folder`` is there for the transport; ``port`` is free, or 0 for any."""
        return {"port": port}

    def plugin_settings(self, folder: Path, port: int) -> Mapping[str, Any]:
        """The settings that the plugin has brought with it, by prefix, as `Context.plugin_settings` has them."""
        return {}

    def bad_input(self) -> Sequence[bytes]:
        """Messages that no client should send. Each is sent over its own connection: whole, and cut in the middle."""
        return GARBAGE

    async def dial(self, address: str) -> ByteStream:
        """A bare connection. As it is here for ``SCHEME://HOST:PORT`` and for ``unix:PATH``, ``SCHEME+unix:PATH``."""
        scheme, _, rest = address.partition(":")
        if scheme.endswith("unix"):
            # `anyio.connect_unix` gives a stream that stumbles where data comes while a receive() is cancelled.
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.setblocking(False)
            try:
                await asyncio.get_running_loop().sock_connect(connection, rest)
                return await SocketStream.from_socket(connection)
            except BaseException:
                connection.close()
                raise
        parts = urlsplit(address)
        return await anyio.connect_tcp(parts.hostname or "", parts.port or 0)

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    # Behind the tests.

    def _context(self, folder: Path, port: int, **settings: Any) -> Context:
        settings = {"data_dir": folder, **settings, **self.settings(folder, port)}
        return Context(
            Settings(**settings),
            folder,
            plugin_settings=self.plugin_settings(folder, port),
            callers=Callers([TokenAuthenticator(KNOWN.items())]),
        )

    @asynccontextmanager
    async def _served(self, engine: Engine, folder: Path, port: int = 0, **settings: Any) -> AsyncIterator[Server]:
        transport = self.create(self._context(folder, port, **settings))
        scope, stopped = anyio.CancelScope(), anyio.Event()

        async def serve(*, task_status: TaskStatus[str]) -> None:
            try:
                with scope:
                    await transport.serve(engine, task_status=task_status)
                assert scope.cancel_called, "serve() has ended by itself"
            finally:
                stopped.set()

        async with background() as tasks:
            with bounded(self.seconds, "the start of the transport"):
                address = await tasks.start(serve)
            server = Server(engine, address, scope, stopped, self.seconds)
            yield server
            await server.stop()

    @asynccontextmanager
    async def _serving(
        self,
        folder: Path,
        *turns: Sequence[Step],
        store: EventStore | None = None,
        port: int = 0,
        write_timeout: float = 30.0,
        **limits: Any,
    ) -> AsyncIterator[Server]:
        """An engine with alice's session ``s``, and the transport before it. Agents do ``turns``, or are echoes."""
        driver = ScriptedDriver(turns) if turns else None
        async with (
            scripted_engine(folder / "engine", driver=driver, store=store, **limits) as engine,
            self._served(engine, folder, port, write_timeout=write_timeout) as server,
        ):
            await engine.create(KNOWN[ALICE], NewSession(session_id="s"))
            yield server

    @asynccontextmanager
    async def _flooded(self, folder: Path, **options: Any) -> AsyncIterator[Server]:
        """A session with more events than a connection holds, and an empty one, ``other``."""
        async with self._serving(folder, **options) as server:
            await server.engine.create(KNOWN[ALICE], NewSession(session_id="other"))
            await self._query(server, FLOOD)
            await server.rested("t")
            yield server

    @asynccontextmanager
    async def _asking(self, folder: Path, **limits: Any) -> AsyncIterator[Server]:
        """A session whose turn waits for a permission, ``r``."""
        async with self._serving(folder, turn(Ask("Write", request_id="r"), Gate()), turn(), **limits) as server:
            await self._query(server)
            reader = await server.engine.reader(KNOWN[ROOT], "s")
            with bounded(self.seconds, "a permission request"):
                while not await server.engine.pending(KNOWN[ROOT], "s"):
                    await reader.read()
            yield server

    def _client(self, server: Server, secret: str = ALICE) -> AbstractAsyncContextManager[TransportClient]:
        return self.connect(server.address, secret)

    @asynccontextmanager
    async def _watching(self, server: Server, session_id: str = "s", after: int = 0) -> AsyncIterator[Watch]:
        """A client that reads events beside the block, and is cut off at its end."""
        watch = Watch(self.seconds)
        async with background() as tasks:
            tasks.start_soon(watch.run, self._client(server), session_id, after)
            yield watch
            await watch.leave()

    @asynccontextmanager
    async def _stalled(self, server: Server) -> AsyncIterator[tuple[AsyncIterator[Mapping[str, Any]], list[int]]]:
        """A client that has read one event, and then reads no more; its events, and the numbers of those it has."""
        async with self._client(server) as client:
            events = client.events("s", 0)
            with bounded(self.seconds, "the first event"):
                first = await anext(events, None)
            assert first is not None, "the events ended before the first one"
            try:
                yield events, [first["seq"]]
            finally:
                if (aclose := getattr(events, "aclose", None)) is not None:
                    with suppress(Exception):
                        await aclose()

    async def _query(self, server: Server, content: Any = "go", turn_id: str = "t", session_id: str = "s") -> None:
        with bounded(self.seconds, "a query"):
            async with self._client(server) as client:
                await client.query(session_id, content, turn_id)

    async def _reached(self, gate: Gate) -> None:
        with bounded(self.seconds, "the turn"):
            await gate.reached.wait()

    async def _come_and_go(self, server: Server) -> None:
        """Clients of all kinds: one that watches, one that asks, one that is refused, one that says nothing."""
        async with self._watching(server, after=0) as watch:
            await watch.seq(1)
        await self._query(server, "hello")
        await self._refusal(server, "nobody's", self._operations("s")["events"])
        await self._refusal(server, ALICE, self._operations("unknown")["query"])
        await (await self.dial(server.address)).aclose()

    async def _misuse(self, server: Server, data: bytes, *, reset: bool) -> None:
        """Send that, and hang up, or have the connection reset as if the client's machine had lost it."""
        stream = await self.dial(server.address)
        async with stream:
            connection = stream.extra(SocketAttribute.raw_socket, None)  # noqa: S610 - it is no Django
            if reset and connection is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # What the server makes of it is its own affair, also that it hangs up in the middle.
            with suppress(anyio.BrokenResourceError, anyio.EndOfStream, OSError), anyio.move_on_after(0.2):
                await stream.send(data)
                await stream.receive()
                while not reset:
                    await stream.receive()

    def _operations(self, session_id: str, suffix: str = "") -> dict[str, Callable[[TransportClient], Awaitable[None]]]:
        """All that can be asked of a session."""

        async def events(client: TransportClient) -> None:
            async for _ in client.events(session_id, 0):
                return

        operations: dict[str, Callable[[TransportClient], Awaitable[None]]] = {
            "events": events,
            "query": lambda client: client.query(session_id, "hello", "mine"),
            "answer": lambda client: client.answer(session_id, "r", "allow"),
            "interrupt": lambda client: client.interrupt(session_id),
        }
        return {name + suffix: operation for name, operation in operations.items() if name not in self.cannot()}

    async def _refusal(
        self, server: Server, secret: str | None, operation: Callable[[TransportClient], Awaitable[None]]
    ) -> str | None:
        """With what code it is refused; None: it is not."""
        with bounded(self.seconds, "an answer"):
            try:
                async with self.connect(server.address, secret) as client:
                    await operation(client)
            except Refused as refusal:
                return refusal.code
        return None

    async def _cancel_start(self, engine: Engine, folder: Path, port: int, step: int) -> bool:
        """Cancel the start as it waits for the ``step``-th time; whether it was over by then."""
        transport, status = self.create(self._context(folder, port)), StartStatus()
        with anyio.CancelScope() as scope:
            await cancelled_at(step, transport.serve(engine, task_status=status), scope)
        return status.up

    def _needs(self, name: str) -> None:
        if (reason := self.cannot().get(name)) is not None:
            pytest.skip(reason)
