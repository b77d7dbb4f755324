"""A WebSocket client, and one that says what no client should."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
from anyio.abc import SocketStream
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.typing import Subprotocol

from tests.support.limits import HANG_SECONDS

V1 = "portico.v1"

Message = dict[str, Any]


class Client:
    """One connection; every wait for a message ends within `HANG_SECONDS`."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, message: str | bytes | Message) -> None:
        await self.connection.send(json.dumps(message) if isinstance(message, dict) else message)

    async def receive(self) -> Message:
        with anyio.fail_after(HANG_SECONDS):
            message: Message = json.loads(await self.connection.recv())
        return message

    async def until(self, wanted: str, **fields: Any) -> list[Message]:
        """All messages up to the first of this type, with these values."""
        found = [await self.receive()]
        while found[-1]["type"] != wanted or not fields.items() <= found[-1].items():
            found.append(await self.receive())
        return found

    async def ask(self, message: Message) -> Message:
        """The answer to a frame; events that come before it are left out."""
        await self.send({"id": "q", **message})
        while (answer := await self.receive())["type"] not in ("ack", "nack"):
            pass
        assert answer.pop("id") == message.get("id", "q")
        return answer

    async def closed(self) -> tuple[int, str]:
        """The code and reason with which the server closes; what comes before it is left out."""
        with anyio.fail_after(HANG_SECONDS):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed as end:
                assert end.rcvd is not None, "there was no close frame"
                return end.rcvd.code, end.rcvd.reason


@asynccontextmanager
async def talking(
    url: str, path: str = "/claude/ws/s", *, token: str | None = "alice-secret", v1: bool = False, **options: Any
) -> AsyncIterator[Client]:
    """``url`` is the server's (``http:`` or ``ws:``); ``path`` lies below it."""
    headers = {**options.pop("headers", {}), **({} if token is None else {"Authorization": f"Bearer {token}"})}
    protocols = options.pop("subprotocols", [Subprotocol(V1)] if v1 else None)
    server = urlsplit(url)
    scheme = "wss" if server.scheme in ("https", "wss") else "ws"
    address = f"{scheme}://{server.netloc}{server.path}{path}"
    options = {"compression": None, "max_size": None, "proxy": None, "close_timeout": 2, **options}
    async with connect(address, additional_headers=headers, subprotocols=protocols, **options) as connection:
        assert connection.subprotocol == (V1 if v1 else None)
        yield Client(connection)


def handshake(path: str = "/claude/ws/s", *headers: str, token: str | None = "alice-secret") -> bytes:
    lines = [
        *(f"GET {path} HTTP/1.1", "host: localhost", "connection: Upgrade", "upgrade: websocket"),
        *("sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", "sec-websocket-version: 13"),
        *([] if token is None else [f"authorization: Bearer {token}"]),
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def open_raw(stream: SocketStream, path: str = "/claude/ws/s", *headers: str, **options: Any) -> None:
    """Shake hands over a bare connection."""
    await stream.send(handshake(path, *headers, **options))
    answer = b""
    with anyio.fail_after(HANG_SECONDS):
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive(1)
    assert answer.startswith(b"HTTP/1.1 101 "), answer


def frame(opcode: int, data: bytes = b"", *, fin: bool = True, mask: bool = True, rsv: int = 0) -> bytes:
    """A frame as a client sends it, whether or not it may."""
    head, size = bytes([fin << 7 | rsv << 4 | opcode]), len(data)
    if size < 126:
        head += struct.pack("!B", mask << 7 | size)
    elif size <= 0xFFFF:
        head += struct.pack("!BH", mask << 7 | 126, size)
    else:
        head += struct.pack("!BQ", mask << 7 | 127, size)
    return head + (bytes(4) if mask else b"") + data  # masked with zeros it is what it was


async def frames(stream: SocketStream) -> AsyncIterator[tuple[int, bytes]]:
    """Opcode and data of each frame, until the server closes."""
    raw = bytearray()

    def read_exact(size: int):  # type: ignore[no-untyped-def]
        while len(raw) < size:
            yield
        data = bytes(raw[:size])
        del raw[:size]
        return data

    parser = Frame.parse(read_exact, mask=False)
    while True:
        try:
            next(parser)
            try:
                with anyio.fail_after(HANG_SECONDS):
                    raw += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return
        except StopIteration as done:
            yield int(done.value.opcode), bytes(done.value.data)
            parser = Frame.parse(read_exact, mask=False)


async def close_code(stream: SocketStream) -> int | None:
    """The code in the server's close frame; None where it has cut the connection without one."""
    code = None
    async for opcode, data in frames(stream):
        if opcode == Opcode.CLOSE:
            (code,) = struct.unpack("!H", data[:2])
            await stream.aclose()
            break
    return code
