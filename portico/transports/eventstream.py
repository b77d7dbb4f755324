"""The response that carries events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

from contextlib import AbstractContextManager

import anyio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from portico.core.errors import PorticoError
from portico.core.reader import Reader
from portico.transports import wire
from portico.transports.caller import caller_of
from portico.transports.connection import half_closed
from portico.transports.streams import Streams

PING_SECONDS = 15.0
FIRST_PROBE_SECONDS = 0.1


class EventStream(Response):
    """What ``reader`` reads, as it comes, and a comment now and then. ``held`` is left at its end.

    A client that takes nothing is cut off by its `Connection`, whatever the response is.
    """

    media_type = "text/event-stream"
    charset = "utf-8"

    def __init__(self, reader: Reader, streams: Streams, held: AbstractContextManager[object]) -> None:
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._reader = reader
        self._streams = streams
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if scope["method"] == "HEAD":  # nothing more is sent: an end that is not made now would never come
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        gone, failure = False, None
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                nonlocal gone
                while (await receive())["type"] != "http.disconnect":
                    pass
                gone = True
                tasks.cancel_scope.cancel()

            tasks.start_soon(listen)
            tasks.start_soon(_ping, half_closed(scope), send)
            try:
                await self._tell(scope, send)
            except PorticoError as error:
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not gone:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.body", "body": wire.RETRY, "more_body": True})
        with self._streams.following(self._reader, "sse", caller_of(scope)):
            while events := await self._reader.read():
                await send({"type": "http.response.body", "body": self._streams.frames(events), "more_body": True})


async def _ping(half_closed: anyio.Event | None, send: Send) -> None:
    # A client that has sent FIN may still be reading, or may be gone: both look alike until something is sent to it,
    # and what is sent next fails (RFC 9293, 3.10.7). So ask at once, and again, ever more slowly.
    pause = PING_SECONDS
    while True:
        with anyio.move_on_after(pause) as waiting:
            if half_closed is None or half_closed.is_set():
                await anyio.sleep(pause)
            else:
                await half_closed.wait()
        pause = min(pause * 2, PING_SECONDS) if waiting.cancelled_caught else FIRST_PROBE_SECONDS
        await send({"type": "http.response.body", "body": wire.HEARTBEAT, "more_body": True})
