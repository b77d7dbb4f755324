"""The transport does what every transport must do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteStream
from anyio.streams.buffered import BufferedByteReceiveStream
from portico_jsonlines import JsonLinesSettings, portico_transports

from portico import Context, Transport
from portico.testing.transport import ALICE, GARBAGE, Refused, TransportConformance

Connect = Callable[[], Awaitable[ByteStream]]

OPEN = json.dumps({"type": "open", "token": ALICE, "session_id": "s"}).encode() + b"\n"


class Client:
    """A client that opens a connection for each call."""

    def __init__(self, connect: Connect, secret: str | None) -> None:
        self._connect = connect
        self._token = {} if secret is None else {"token": secret}

    async def create(self, session_id: str) -> None:
        async with self._opened(session_id, create={}):
            pass

    async def query(self, session_id: str, content: Any, turn_id: str) -> None:
        await self._ask(session_id, {"type": "query", "content": content, "turn_id": turn_id})

    async def interrupt(self, session_id: str) -> None:
        await self._ask(session_id, {"type": "interrupt"})

    async def answer(self, session_id: str, request_id: str, behavior: str) -> None:
        await self._ask(session_id, {"type": "permission", "request_id": request_id, "behavior": behavior})

    async def events(self, session_id: str, after: int) -> AsyncIterator[Mapping[str, Any]]:
        async with self._opened(session_id, after=after) as (_, lines):
            while (line := await _line(lines)) is not None:
                yield line

    async def _ask(self, session_id: str, frame: Mapping[str, Any]) -> None:
        async with self._opened(session_id) as (stream, lines):
            await stream.send(json.dumps({**frame, "id": 1}).encode() + b"\n")
            while (line := await _line(lines)) is not None and line["type"] != "ack":
                pass

    @asynccontextmanager
    async def _opened(
        self, session_id: str, **members: Any
    ) -> AsyncIterator[tuple[ByteStream, BufferedByteReceiveStream]]:
        async with await self._connect() as stream:
            line = {"type": "open", "session_id": session_id, **self._token, **members}
            await stream.send(json.dumps(line).encode() + b"\n")
            lines = BufferedByteReceiveStream(stream)
            await _line(lines)
            yield stream, lines


async def _line(lines: BufferedByteReceiveStream) -> Mapping[str, Any] | None:
    """Return the next line, or None at the end."""
    try:
        line: Mapping[str, Any] = json.loads(await lines.receive_until(b"\n", 100_000_000))
    except anyio.IncompleteRead:
        return None
    if line["type"] == "nack":
        raise Refused(line["code"])
    return line


@asynccontextmanager
async def client(connect: Connect, secret: str | None) -> AsyncIterator[Client]:
    yield Client(connect, secret)


class TestTcp(TransportConformance):
    def connect(self, address: str, secret: str | None) -> AbstractAsyncContextManager[Client]:
        return client(partial(self.dial, address), secret)

    def create(self, context: Context) -> Transport:
        transport: Transport = portico_transports()["jsonlines"](context)
        return transport

    def plugin_settings(self, folder: Path, port: int) -> Mapping[str, Any]:
        return {"jsonlines": JsonLinesSettings(listen=f"127.0.0.1:{port}")}

    def bad_input(self) -> Sequence[bytes]:
        return [
            *GARBAGE,
            OPEN,
            OPEN * 2,
            OPEN.replace(b'"s"', b"5"),
            OPEN + b'{"type": "nonsense"}\n',
            OPEN + b'{"type": "query"}\n',
            OPEN + b'{"type": "query", "id": {}}\n',
            OPEN + b'{"type": "query", "content": "\\ud800\\n',
            OPEN + b'{"type": "resume", "after": -1, "id": 1}\n' * 1000,
            OPEN + b"\xff\n",
        ]


class TestUnixSocket(TestTcp):
    def plugin_settings(self, folder: Path, port: int) -> Mapping[str, Any]:
        return {"jsonlines": JsonLinesSettings(listen=f"unix:{folder / 'socket'}")}
