"""A network that breaks: a proxy that cuts connections after so much of the server's."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream

SILENT = 0
"""In the place of a number of bytes: the connection is taken, and nothing ever comes."""

AWAY = -1
"""In the place of a number of bytes: the proxy answers by itself with 502, as if it did not get through."""

BAD_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 11\r\nConnection: close\r\n\r\nBad Gateway"
)

Cut = int | bytes | float | None
"""The end of a connection: after so many bytes of the server's, right behind these bytes, after so many seconds, or
never."""


class Proxy:
    """Each connection takes the next of ``cuts``; later ones stay. ``rewrite`` changes the first bytes of a client."""

    def __init__(self, target: str, cuts: list[Cut], rewrite: Callable[[bytes], bytes] = bytes) -> None:
        address = urlsplit(target)
        self._host, self._port = address.hostname or "", address.port or 0
        self._cuts = cuts
        self._rewrite = rewrite
        self.url = ""
        self.requests: list[str] = []
        """The request lines, in order; only the first of a connection."""
        self._down = False
        self._open: set[anyio.CancelScope] = set()

    def go_down(self) -> None:
        """Cut all connections, and take no new one until `come_back`."""
        self._down = True
        for scope in self._open:
            scope.cancel()

    def come_back(self) -> None:
        self._down = False

    async def handle(self, client: SocketStream) -> None:
        if self._down:
            await client.aclose()
            return
        with anyio.CancelScope() as scope:
            self._open.add(scope)
            try:
                await self._relay(client)
            finally:
                self._open.remove(scope)

    async def _relay(self, client: SocketStream) -> None:
        async with client:
            cut = self._cuts.pop(0) if self._cuts else None
            if cut == AWAY:
                await self._answer_itself(client)
                return
            try:
                async with (
                    await anyio.connect_tcp(self._host, self._port) as server,
                    anyio.create_task_group() as tasks,
                ):
                    tasks.start_soon(self._forward, client, server)
                    if cut == SILENT:
                        await anyio.sleep_forever()
                    await self._back(server, client, cut)
                    tasks.cancel_scope.cancel()
            except* (anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
                pass

    async def _answer_itself(self, client: SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream):
            self._note(await client.receive())
            await client.send(BAD_GATEWAY)
            async for _ in client:  # what it still sends: a close before that may take the answer along
                pass

    def _note(self, first: bytes) -> None:
        self.requests.append(first.split(b"\r\n", 1)[0].decode())

    async def _forward(self, client: SocketStream, server: SocketStream) -> None:
        first = await client.receive()
        self._note(first)
        await server.send(self._rewrite(first))
        async for data in client:
            await server.send(data)

    async def _back(self, server: SocketStream, client: SocketStream, cut: Cut) -> None:
        sent, behind = 0, b""
        with anyio.move_on_after(cut if isinstance(cut, float) else math.inf):
            async for data in server:
                end = None
                if isinstance(cut, bytes):
                    found = (behind + data).find(cut)
                    end = None if found < 0 else found + len(cut) - len(behind)
                    behind = (behind + data)[1 - len(cut) :]
                elif isinstance(cut, int) and sent + len(data) >= cut:
                    end = cut - sent
                await client.send(data[:end])
                if end is not None:
                    return
                sent += len(data)


@asynccontextmanager
async def proxy(target: str, cuts: Sequence[Cut], rewrite: Callable[[bytes], bytes] = bytes) -> AsyncIterator[Proxy]:
    running = Proxy(target, list(cuts), rewrite)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        running.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"  # noqa: S610
        tasks.start_soon(listener.serve, running.handle)
        yield running
        tasks.cancel_scope.cancel()
