"""The client at the other end of a connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from starlette.websockets import WebSocket, WebSocketDisconnect

from portico.core.errors import MalformedRequest
from portico.core.intake import Held
from portico.transports.websocket_connection import BATCH, PIECES, ping_every, trust

Pieces: TypeAlias = list[bytes]
"""The UTF-8 of a long message; the bytes of a character may be split between two pieces."""


class Peer(Protocol):
    """The part of a connection that a `Conversation` needs. Once the client has gone, both methods raise any error."""

    async def receive(self) -> str | Pieces:
        """Wait for the next message. Raises `MalformedRequest` for one that is not text."""

    async def send(self, texts: Sequence[bytes]) -> None:
        """Send each of ``texts``, which are UTF-8 without a line break, as a message, and wait until they are taken.

        Two tasks may call it at once. A client that takes nothing is cut off.
        """


class WebSocketPeer:
    """The peer of an accepted WebSocket. Its coroutines raise `WebSocketDisconnect` once the client has gone."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._batches = BATCH in socket.scope.get("extensions", {})

    def trust(self, held: Held) -> None:
        """Let the client send messages of any allowed size, as far as ``held`` has room for them."""
        trust(self._socket.scope, held)

    def ping_every(self, seconds: float) -> None:
        ping_every(self._socket.scope, seconds)

    async def receive(self) -> str | Pieces:
        """Wait for the next text message. Raises `MalformedRequest` for a binary one."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        if PIECES in message:
            pieces: Pieces = message[PIECES]
            return pieces
        text: str | None = message.get("text")
        if text is None:
            raise MalformedRequest("binary messages have no meaning here", code="binary_message")
        return text

    async def send(self, texts: Sequence[bytes]) -> None:
        """Send each of ``texts``, which are UTF-8, as a message."""
        if self._batches:
            await self._socket.send({"type": "websocket.send", "texts": texts})
        else:
            for text in texts:
                await self._socket.send({"type": "websocket.send", "text": text.decode()})
