"""The response that carries events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

import anyio
from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from portico.core.reader import Reader
from portico.transports import wire
from portico.transports.caller import caller_of
from portico.transports.http_connection import half_closed
from portico.transports.streams import Streams

TURN_SECONDS, SESSION_SECONDS = 4, 15
"""The time between two heartbeats in the stream of a turn, and of a session, if nobody has set another. Many clients
give up if they hear nothing for 5 s (httpx) or 10 s (OkHttp) in the middle of an answer."""
FIRST_PROBE_SECONDS = 0.1


class EventStream(EventSourceResponse):
    """Sends the events of ``reader`` as they come, and a comment every ``heartbeat`` seconds. It exits ``held`` at its
    end.

    If a client takes nothing, its `HttpConnection` cuts it off, whatever the response is.
    """

    def __init__(
        self,
        reader: Reader,
        streams: Streams,
        held: AbstractContextManager[object],
        scope: Scope,
        heartbeat: float = SESSION_SECONDS,
        max_event: int | None = None,
    ) -> None:
        """``scope`` is the request's. Events with more bytes than ``max_event`` are cut."""
        super().__init__(self._chunks(), sep="\n")
        del self.headers["connection"]  # the server sets it, and HTTP/2 has none
        del self.headers["cache-control"]  # `Guarded` sets it
        self._heartbeat = heartbeat
        self._reader = reader
        self._streams = streams
        self._held = held
        self._max_event = max_event
        self._caller = caller_of(scope)
        self._half_closed = half_closed(scope)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held:
            await super().__call__(scope, receive, send)

    async def _chunks(self) -> AsyncIterator[bytes]:
        """Yield encoded events: in each chunk as many as are there."""
        yield wire.RETRY
        with self._streams.following(self._reader, "sse", self._caller):
            while events := await self._reader.read():
                fitting = events
                if self._max_event is not None:
                    fitting = await self._streams.cutter.fitting(events, self._max_event, self._reader.life)
                yield self._streams.frames(events) if fitting is events else wire.frames(fitting)

    async def _ping(self, send: Send) -> None:
        # A client that has sent FIN may still be reading, or may be gone. Both look alike until something is sent: if
        # it is gone, the next send fails (RFC 9293, 3.10.7). So probe at once, and then again, ever more slowly.
        pause = self._heartbeat
        while self.active:
            with anyio.move_on_after(pause) as waiting:
                if self._half_closed is None or self._half_closed.is_set():
                    await anyio.sleep_forever()
                else:
                    await self._half_closed.wait()
            pause = min(pause * 2, self._heartbeat) if waiting.cancelled_caught else FIRST_PROBE_SECONDS
            async with self._send_lock:
                if self.active:
                    await send({"type": "http.response.body", "body": wire.HEARTBEAT, "more_body": True})

    async def _listen_for_exit_signal_with_grace(self) -> None:
        """Wait for ever: `Streams` ends this stream when its server stops.

        The library would poll a flag of the whole process twice a second, in a task that nobody owns, and cut the
        stream before it has sent everything.
        """
        await anyio.sleep_forever()
