"""A server inside the test: a real engine behind the real transport, on a free port, with echoes for agents."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
from anyio.abc import ByteReceiveStream, SocketStream, TaskStatus
from anyio.streams.tls import TLSStream

from portico.core.engine import Engine
from portico.core.intake import Intake
from portico.core.principal import Authenticator, Callers, Principal
from portico.core.quota import StreamQuota
from portico.plugins.token_auth.authenticator import TokenAuthenticator
from portico.testing.background import background
from portico.testing.engine import scripted_engine
from portico.transports.asgi import Api
from portico.transports.base import Routes, Transport
from portico.transports.hosts import LOOPBACK
from portico.transports.http import HttpTransport
from portico.transports.server import Limits
from portico.transports.tls import Tls
from tests.support.limits import HANG_SECONDS, NEVER_SECONDS
from tests.support.mounted import MountedTransport

TOKENS = {"alice-secret": Principal("alice"), "bob-secret": Principal("bob"), "admin-secret": Principal("root", True)}


@dataclass(slots=True)
class Served:
    """`url` is the transport's address; `stop` ends the transport as `portico serve` would.

    `trust` is what a client needs on TLS.
    """

    url: str
    engine: Engine
    client: httpx.AsyncClient
    scope: anyio.CancelScope
    stopped: anyio.Event
    closing: AsyncExitStack
    trust: ssl.SSLContext | None = None

    async def stop(self) -> None:
        self.scope.cancel()
        await self.stopped.wait()

    async def connect(self, **options: Any) -> SocketStream:
        """A bare connection, closed at the end."""
        stream = await anyio.connect_tcp("127.0.0.1", urlsplit(self.url).port or 0, **options)
        return await self.closing.enter_async_context(stream)

    async def encrypted(self, **options: Any) -> TLSStream:
        """A connection on which hands are shaken; as with everybody's, its end comes without taking leave."""
        options = {"ssl_context": self.trust, "tls_standard_compatible": False, **options}
        stream = await anyio.connect_tcp("127.0.0.1", urlsplit(self.url).port or 0, tls_hostname="localhost", **options)
        return await self.closing.enter_async_context(stream)

    async def raw(self, request: bytes) -> SocketStream:
        """A bare connection on which ``request`` was sent."""
        stream = await self.connect()
        await stream.send(request)
        return stream

    async def session(self, session_id: str = "s", **body: Any) -> str:
        answer = await self.client.post("/claude/sessions", json={"session_id": session_id, **body})
        assert answer.status_code == 201, answer.text
        return session_id

    async def run(self, query: str, session_id: str = "s", turn_id: str = "t") -> None:
        """Do a whole turn."""
        body = {"query": query, "turn_id": turn_id}
        async with self.client.stream("POST", f"/claude/stream/{session_id}", json=body) as answer:
            assert answer.status_code == 200
            async for _ in answer.aiter_raw():
                pass


def get(path: str, *headers: str, method: str = "GET") -> bytes:
    """A request of Alice's as bytes."""
    lines = (f"{method} {path} HTTP/1.1", "host: localhost", "authorization: Bearer alice-secret", *headers)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    write_timeout: float = NEVER_SECONDS,
    max_body: int = 1024 * 1024,
    max_frame: int = 1024 * 1024,
    ping: float = NEVER_SECONDS,
    hosts: Collection[str] = LOOPBACK,
    origins: Collection[str] = (),
    rest: bool = True,
    uds: Path | None = None,
    max_connections: int = 1000,
    max_streams: int = 1000,
    proxies: Collection[str] = (),
    mounted: bool = False,
    routes: Mapping[str, Routes] | None = None,
    tls: Tls | None = None,
    trust: ssl.SSLContext | None = None,
    intake: Intake | None = None,
    heartbeat: float | None = None,
    authenticators: Sequence[Authenticator] | None = None,
    **policy: Any,
) -> AsyncIterator[Served]:
    callers = Callers(authenticators or [TokenAuthenticator(TOKENS.items())])
    given = {"proxies": proxies, "intake": intake or Intake(), "heartbeat": heartbeat}
    api = Api("/claude", max_body, hosts, origins, rest, routes or {}, **given)  # type: ignore[arg-type]
    limits, quota = Limits(write_timeout, max_frame, ping, max_connections), StreamQuota(max_streams)
    transport: Transport = HttpTransport(
        callers, host="127.0.0.1", port=0, uds=uds, api=api, limits=limits, tls=tls, quota=quota
    )
    if mounted:
        transport = MountedTransport(callers, "127.0.0.1", 0, api, limits, quota)
    stopped = anyio.Event()
    serving_scope = anyio.CancelScope()

    async def serve(engine: Engine, *, task_status: TaskStatus[str]) -> None:
        try:
            with serving_scope:
                await transport.serve(engine, task_status=task_status)
        finally:
            stopped.set()

    async with scripted_engine(folder, **policy) as engine, background() as tasks:
        url = await tasks.start(serve, engine)
        base, through = (url, None) if uds is None else ("http://localhost", httpx.AsyncHTTPTransport(uds=str(uds)))
        headers = {"authorization": "Bearer alice-secret"}
        limit = httpx.Limits(max_connections=None)
        async with (
            AsyncExitStack() as closing,
            httpx.AsyncClient(
                base_url=base,
                headers=headers,
                timeout=HANG_SECONDS,
                transport=through,
                limits=limit,
                trust_env=False,
                verify=trust or False,
            ) as client,
        ):
            served = Served(url, engine, client, serving_scope, stopped, closing, trust)
            try:
                yield served
            finally:
                with anyio.CancelScope(shield=True):
                    await served.stop()


async def read_all(stream: ByteReceiveStream) -> bytes:
    """Until the server closes."""
    raw = b""
    with anyio.fail_after(HANG_SECONDS):
        while True:
            try:
                raw += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return raw
