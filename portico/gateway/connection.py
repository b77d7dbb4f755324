"""One connection of an agent's: uvicorn's, with limits, as the agent may have turned against us."""

from __future__ import annotations

import asyncio

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from portico.gateway.door import MAX_CONNECTIONS, Door

HEAD_BYTES = 64 * 1024
"""llhttp, which parses, has no limit of its own; this one holds up to one read (256 KiB) more."""
OVERHEAD = 8
"""Bytes that may come with each byte of a body, beside those of a head: a chunk of one byte has five."""


class Connection(HttpToolsProtocol):
    """One of its ``door``. Requests find that in their state, and the connection's ``transport``."""

    def __init__(self, config: Config, state: ServerState, door: Door) -> None:
        super().__init__(config, state, {"door": door})
        self._door = door
        self._in_message = self._in_head = False
        self._chunk = self._message_bytes = self._body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}
        self._door.connections.add(self)
        full = len(self._door.connections) > MAX_CONNECTIONS
        if full or not self._door.lets_in(transport.get_extra_info("socket")):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.connections.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._chunk = len(data)
        super().data_received(data)
        if self._in_message:
            self._message_bytes += len(data)
            # Beside the head these are the sizes and extensions of chunks, and trailers.
            if self._message_bytes - self._body_bytes > HEAD_BYTES + OVERHEAD * self._body_bytes:
                self.transport.abort()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._message_bytes = -self._chunk  # what came in the same read may belong to the message before
        self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # trailers come by the same way, without end and when nobody looks at headers any more
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def _should_upgrade(self) -> bool:
        return False

    def send_400_response(self, msg: str) -> None:
        self.transport.abort()

    def _unsupported_upgrade_warning(self) -> None:
        pass
