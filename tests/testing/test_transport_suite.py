"""The built-in transports do what every transport has to do."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anyio
import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from portico.plugins.context import Context
from portico.testing.transport import GARBAGE, Refused, TransportConformance
from portico.transports import _create_http, _create_websocket
from portico.transports.base import Transport
from tests.support.limits import HANG_SECONDS

HEAD = b"GET /claude/ws/s HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer alice-secret-0123456789\r\n"
HANDSHAKE = HEAD + (
    b"connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: portico.v1\r\n\r\n"
)
HTTP_GARBAGE = [
    b"POST /claude/sessions/s/turns HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n{",
    b"POST /claude/sessions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nfffffffff\r\n",
    b"GET /claude/sessions HTTP/1.1\r\nhost: evil.example\r\n\r\n",
    HEAD + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n",
    HEAD * 100,
]
WEBSOCKET_GARBAGE = [
    HANDSHAKE.replace(b"13", b"99"),
    HANDSHAKE + b"\x81\x05hello",  # not masked
    HANDSHAKE + b"\x81\x85\0\0\0\0hello",
    HANDSHAKE + b"\x82\x85\0\0\0\0hello",
    HANDSHAKE + b"\x81\xff\x7f\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
    HANDSHAKE + b"\x89\x80\0\0\0\0" * 5000,
    HANDSHAKE + b"\x81\x82\0\0\0\0\xff\xff",
    HANDSHAKE + b"\x88\x81\0\0\0\0x",
]


class HttpClient:
    """A client as browsers are: one connection for each call."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def create(self, session_id: str) -> None:
        await self._post("/claude/sessions", {"session_id": session_id})

    async def query(self, session_id: str, content: Any, turn_id: str) -> None:
        await self._post(f"/claude/sessions/{session_id}/turns", {"query": content, "turn_id": turn_id})

    async def interrupt(self, session_id: str) -> None:
        await self._post(f"/claude/sessions/{session_id}/interrupt", {})

    async def answer(self, session_id: str, request_id: str, behavior: str) -> None:
        await self._post(f"/claude/sessions/{session_id}/permissions/{request_id}", {"behavior": behavior})

    async def events(self, session_id: str, after: int) -> AsyncIterator[Mapping[str, Any]]:
        path = f"/claude/sessions/{session_id}/events"
        async with self._client.stream("GET", path, params={"after": after}) as answer:
            if answer.is_error:
                await answer.aread()
            _check(answer)
            rest = b""
            async for chunk in answer.aiter_raw():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: "):
                        yield json.loads(line.removeprefix(b"data: "))

    async def _post(self, path: str, body: Mapping[str, Any]) -> None:
        _check(await self._client.post(path, content=json.dumps(body), headers={"content-type": "application/json"}))


def _check(answer: httpx.Response) -> None:
    if answer.is_error:
        raise Refused(answer.json()["code"])


class WebSocketClient:
    """A connection for each call, and another one for the events."""

    def __init__(self, address: str, secret: str | None) -> None:
        self._address = address
        self._headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}

    async def create(self, session_id: str) -> None:
        raise NotImplementedError

    async def query(self, session_id: str, content: Any, turn_id: str) -> None:
        await self._ask(session_id, {"type": "query", "content": content, "turn_id": turn_id})

    async def interrupt(self, session_id: str) -> None:
        await self._ask(session_id, {"type": "interrupt"})

    async def answer(self, session_id: str, request_id: str, behavior: str) -> None:
        await self._ask(session_id, {"type": "permission", "request_id": request_id, "behavior": behavior})

    async def events(self, session_id: str, after: int) -> AsyncIterator[Mapping[str, Any]]:
        async with self._connected(session_id, f"?after={after}") as connection:
            if not self._headers:  # else the server waits for the credentials to come in a frame
                await connection.send('{"type": "interrupt"}')
            while (event := await self._receive(connection)) is not None:
                yield event

    async def _ask(self, session_id: str, frame: Mapping[str, Any]) -> None:
        async with self._connected(session_id) as connection:
            with suppress(ConnectionClosed):  # which says why when it is read from
                await connection.send(json.dumps({**frame, "id": 1}))
            while (answer := await self._receive(connection)) is not None:
                if answer["type"] == "nack":
                    raise Refused(answer["code"])
                if answer["type"] == "ack":
                    return
            raise Refused("no_answer")

    async def _receive(self, connection: ClientConnection) -> Mapping[str, Any] | None:
        """The next message; None at the end."""
        try:
            message: Mapping[str, Any] = json.loads(await connection.recv())
        except ConnectionClosed as end:
            if end.rcvd is not None and end.rcvd.code not in (1000, 1001):
                raise Refused(end.rcvd.reason.partition(":")[0]) from None
            return None
        return message

    @asynccontextmanager
    async def _connected(self, session_id: str, query: str = "") -> AsyncIterator[ClientConnection]:
        path = f"/claude/ws/{session_id}{query}"
        options: Any = {
            "additional_headers": self._headers,
            "subprotocols": [Subprotocol("portico.v1")],
            "compression": None,
            "max_size": None,
            "proxy": None,
        }
        connection = await connect(f"ws://{urlsplit(self._address).netloc}{path}", **options)
        try:
            yield connection
        finally:
            connection.transport.abort()
            with anyio.CancelScope(shield=True):
                await connection.wait_closed()


@asynccontextmanager
async def http_client(address: str, secret: str | None) -> AsyncIterator[HttpClient]:
    uds = address.removeprefix("unix:") if address.startswith("unix:") else None
    async with httpx.AsyncClient(
        base_url="http://localhost" if uds else address,
        headers={} if secret is None else {"authorization": f"Bearer {secret}"},
        transport=httpx.AsyncHTTPTransport(uds=uds, verify=False),
        timeout=HANG_SECONDS,
        trust_env=False,
    ) as client:
        yield HttpClient(client)


@asynccontextmanager
async def websocket_client(address: str, secret: str | None) -> AsyncIterator[WebSocketClient]:
    yield WebSocketClient(address, secret)


class TestHttp(TransportConformance):
    def create(self, context: Context) -> Transport:
        return _create_http(context)

    connect = staticmethod(http_client)

    def bad_input(self) -> list[bytes]:
        return [*GARBAGE, *HTTP_GARBAGE]


@pytest.mark.long
class TestHttpOverAUnixSocket(TestHttp):
    def settings(self, folder: Path, port: int) -> Mapping[str, Any]:
        return {"uds": folder / "socket"}


class TestWebSocket(TransportConformance):
    def create(self, context: Context) -> Transport:
        return _create_websocket(context)

    def cannot(self) -> Mapping[str, str]:
        return {"create": "a WebSocket is one of a session that there is already"}

    connect = staticmethod(websocket_client)

    def bad_input(self) -> list[bytes]:
        return [*GARBAGE, *HTTP_GARBAGE, *WEBSOCKET_GARBAGE]
