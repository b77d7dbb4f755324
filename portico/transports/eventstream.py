"""The response that carries events: sse-starlette's, with what has to be different here."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import anyio
from sse_starlette.sse import AppStatus, EventSourceResponse
from starlette.types import Receive, Scope, Send
from uvicorn import Server

from portico.transports import wire
from portico.transports.connection import half_closed

PING_SECONDS = 15
FIRST_PROBE_SECONDS = 0.1

# Importing sse_starlette replaces this method for the whole process. Nobody here needs it to, and other servers in the
# process (the demo's model, an embedder's own) are none of its business.
Server.handle_exit = AppStatus.original_handler  # type: ignore[method-assign,assignment]

# At the level debug it logs every chunk, and so what users and agents write.
logging.getLogger("sse_starlette.sse").setLevel(logging.INFO)


class EventStream(EventSourceResponse):
    """``content`` yields bytes that are frames already, as many as are ready.

    A client that takes nothing is cut off by its `Connection`, whatever the response is; so no ``send_timeout``, which
    would end this response and leave the connection waiting for its buffer.
    """

    def __init__(self, content: AsyncIterator[bytes]) -> None:
        super().__init__(content, sep="\n")
        self._content = content
        self._half_closed: anyio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._half_closed = half_closed(scope)
        await super().__call__(scope, receive, send)

    async def _stream_response(self, send: Send) -> None:
        # Theirs takes three more awaits and a cancel scope for each chunk, which is most of what a viewer costs.
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._content:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        async with self._send_lock:
            self.active = False
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _listen_for_exit_signal_with_grace(self) -> None:
        # sse-starlette polls for uvicorn's end in a task that nobody owns. Here `Streams.stop` ends the content.
        await anyio.sleep_forever()

    async def _ping(self, send: Send) -> None:
        # A client that has sent FIN may still be reading, or may be gone: both look alike until something is sent to
        # it, and what is sent next fails (RFC 9293, 3.10.7). So ask at once, and again, ever more slowly.
        pause: float = PING_SECONDS
        while self.active:
            with anyio.move_on_after(pause) as waiting:
                await self._wait_for_half_close(pause)
            pause = min(pause * 2, PING_SECONDS) if waiting.cancelled_caught else FIRST_PROBE_SECONDS
            async with self._send_lock:
                if self.active:
                    await send({"type": "http.response.body", "body": wire.HEARTBEAT, "more_body": True})

    async def _wait_for_half_close(self, pause: float) -> None:
        if self._half_closed is None or self._half_closed.is_set():
            await anyio.sleep(pause)
        else:
            await self._half_closed.wait()
