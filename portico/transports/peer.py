"""The client at the other end of a WebSocket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from portico.core.errors import MalformedRequest
from portico.core.events import encode_json
from portico.transports.websocket_connection import BATCH, trust


class Peer:
    """Of an accepted WebSocket. All that waits raises `WebSocketDisconnect` once it has gone."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._batches = BATCH in socket.scope.get("extensions", {})

    def trust(self) -> None:
        """It has shown its credentials, and may send messages of any allowed size."""
        trust(self._socket.scope)

    async def receive(self) -> str:
        """The next text message. Raises `MalformedRequest` for a binary one."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
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

    async def tell(self, answer: Mapping[str, Any]) -> None:
        await self.send([encode_json(answer)])
