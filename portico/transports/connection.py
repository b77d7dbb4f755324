"""One HTTP connection: uvicorn's, with the limits that keep a slow, dead or hostile client from doing harm."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import anyio
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from portico.core.errors import MalformedRequest, PorticoError
from portico.transports import wire
from portico.transports.dialler import Dialler, extension
from portico.transports.watch import Watched, counting

HEAD_SECONDS = 30.0
"""For a request's head, and for a new connection to send one."""
HEAD_BYTES = 64 * 1024
"""llhttp, which parses, has no limit of its own; this one holds up to one read (256 KiB) more."""
LEFTOVER_SECONDS = 5.0
"""For the rest of a body that was answered before it had been read."""

_HALF_CLOSED = "portico.half_closed"


def half_closed(scope: Scope) -> anyio.Event | None:
    """Set once the client of this request sends no more; None on another server than ours."""
    return cast("anyio.Event | None", scope.get("extensions", {}).get(_HALF_CLOSED))


class Connection(Watched, HttpToolsProtocol):
    """What uvicorn lacks:

    - What `Watched` says.
    - A client that shuts its side down (FIN) after the request still gets the whole answer.
    - A time and a size limit on a request's head; a time limit on what is left of an answered request's body.
    - Bytes that are no HTTP are answered with a problem document, and never into the middle of another answer.
    """

    def __init__(self, *args: Any, write_timeout: float, dialler: Dialler | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.write_timeout = write_timeout
        self._dialler = dialler
        self._read_timer: asyncio.TimerHandle | None = None
        self._half_closed = anyio.Event()
        self._in_head = False
        self._head_bytes = 0
        self._chunk = 0

    # Time.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(counting(transport, self._dialler))
        self.start_watching()
        self._allow(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._allow(None)
        self.stop_watching()
        super().connection_lost(exc)

    def _allow(self, seconds: float | None) -> None:
        """Give the client so long to finish what it is sending; None: it owes nothing."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._read_timer = None if seconds is None else self.loop.call_later(seconds, self.cut)

    # The client's side.

    def data_received(self, data: bytes) -> None:
        self._chunk = len(data)
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._refuse(wire.HttpError(431, "head_too_large", f"the head is larger than {HEAD_BYTES} bytes"))

    def eof_received(self) -> bool:  # type: ignore[override]
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body:
            return False  # nothing to answer: closes
        cycle.keep_alive = False
        self._half_closed.set()
        return True

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = -self._chunk  # what came in the same read may belong to the message before
        self._allow(HEAD_SECONDS)
        self.scope["extensions"] = {_HALF_CLOSED: cast(Any, self._half_closed), **cast(Any, extension(self.dialler))}

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._allow(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._upgrades():
            return  # what follows is no HTTP
        self.cycle.more_body = False
        self._allow(HEAD_SECONDS if self.cycle.response_complete else None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # With pipelining the newest cycle may be another one, still to be answered.
        if self.cycle.response_complete:
            self._allow(LEFTOVER_SECONDS if self.cycle.more_body else HEAD_SECONDS)

    def _should_upgrade(self) -> bool:
        # What is not to be a WebSocket, or stands behind a request that is still being answered, is answered as HTTP.
        idle = self.cycle is None or self.cycle.response_complete
        kind = self.parser.get_method(), self.parser.get_http_version()
        return idle and kind == (b"GET", "1.1") and super()._should_upgrade()

    def _upgrades(self) -> bool:
        return bool(self.parser.should_upgrade() and self._should_upgrade())

    def handle_websocket_upgrade(self) -> None:
        self._allow(None)
        self.stop_watching()
        super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        self._refuse(MalformedRequest("this is not HTTP/1.1"))

    def _refuse(self, error: PorticoError) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()
            return
        status, headers, body = wire.problem(error)
        self.transport.write(answer(status, headers, body))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        pass  # a client may offer an upgrade (h2c); not to take it is no event, and uvicorn's advice isn't ours


def answer(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """A whole response, after which the connection closes."""
    fields = {**headers, "content-length": str(len(body)), "connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {wire.phrase(status)}\r\n{head}\r\n".encode() + body
