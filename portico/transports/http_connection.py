"""One HTTP connection: uvicorn's, with the limits that keep a slow, dead or hostile client from doing harm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, NoReturn, cast

import anyio
from starlette.types import Scope

from portico.core.errors import MalformedRequest, PorticoError, Unavailable
from portico.http1.measured import HEAD_BYTES, Measured
from portico.transports import wire
from portico.transports.crowd import Crowd
from portico.transports.dialler import Dialler, extension
from portico.transports.guarded import GUARDS
from portico.transports.leftovers import Leftovers
from portico.transports.watch import Watched, counting

HEAD_SECONDS = 30.0
"""The time for a request's head, and for a new connection to send one."""
HEAD_FIELDS = 256
SENT_AHEAD = 32
"""The most requests that wait for the answer to another. One read may bring thousands, of several KiB memory each."""
URL_BYTES = 32 * 1024
LEFTOVER_SECONDS = 5.0
"""The time for the rest of a body, if the request was answered before its body had been read."""

_HALF_CLOSED = "portico.half_closed"

# Anybody can send bytes that are not HTTP, as often as they like; the log must not fill up with that.
_log = logging.getLogger("portico.connection")
_log.setLevel(logging.ERROR)


def half_closed(scope: Scope) -> anyio.Event | None:
    """Return an event that is set once the client of this request sends no more; None on another server than ours."""
    return cast("anyio.Event | None", scope.get("extensions", {}).get(_HALF_CLOSED))


class HttpConnection(Watched, Measured):
    """A connection with what uvicorn lacks:

    - The limits of `Watched`.
    - A client that shuts its side down (FIN) after the request still gets the whole answer.
    - A time and a size limit on a request's head, a size limit on the bytes around a body, a limit on the number of
      connections, and a time limit on the rest of an answered request's body, which `Leftovers` reads.
    - Bytes that are not HTTP get a problem document, but never in the middle of another answer. So do requests that
      two servers might read differently (RFC 9112, 11.2).
    - The limits of `Measured`, which also drops trailers: the app would take them for headers.
    """

    def __init__(
        self,
        *args: Any,
        write_timeout: float,
        crowd: Crowd,
        leftovers: Leftovers,
        dialler: Dialler | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _log
        self.write_timeout = write_timeout
        self._crowd = crowd
        self._leftovers = leftovers
        self._dialler = dialler
        self._read_timer: asyncio.TimerHandle | None = None
        self._half_closed = anyio.Event()
        self._refusal: PorticoError | None = None

    # Time.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(counting(transport, self._dialler))
        self.start_watching()
        if not self._crowd.has_room(self.connections, 0):
            detail = "the limit on open connections is reached (max_connections)"
            self._refuse(Unavailable(detail, code="too_many_connections"))
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._allow(None)
        self._crowd.idle(self, False)
        self.stop_watching()
        super().connection_lost(exc)

    def _allow(self, seconds: float | None) -> None:
        """Give the client so many seconds to finish sending; None: nothing is due from it."""
        if self._read_timer is not None:
            self._read_timer.cancel()
        self._read_timer = None if seconds is None else self.loop.call_later(seconds, self.cut)

    def _expect_head(self) -> None:
        self._crowd.idle(self, True)
        self._allow(HEAD_SECONDS)

    # The client's side.

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._leaves_over():
            self._leftovers.slow(self.transport)

    def _leaves_over(self) -> bool:
        """Tell whether the request was answered before its body had arrived completely, and more of it is to come."""
        cycle = self.cycle
        return cycle is not None and cycle.response_complete and cycle.more_body and not self.transport.is_closing()

    def too_large(self) -> None:
        self._refuse(wire.HttpError(431, "head_too_large", f"the head is larger than {HEAD_BYTES} bytes"))

    def eof_received(self) -> bool:  # type: ignore[override]
        cycle = self.cycle
        if cycle is None or cycle.response_complete or cycle.more_body or self.encrypted:
            return False  # close: there is no answer due, or no way to send it (asyncio's TLS can't be half closed)
        cycle.keep_alive = False
        self._half_closed.set()
        return True

    def on_message_begin(self) -> None:
        if len(self.pipeline) >= SENT_AHEAD:
            self._give_up(MalformedRequest("too many requests are sent ahead"))  # only closes: other answers are due
        super().on_message_begin()
        self._allow(HEAD_SECONDS)
        self.scope["extensions"] = {_HALF_CLOSED: cast(Any, self._half_closed), **cast(Any, extension(self.dialler))}

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > URL_BYTES:
            self._give_up(wire.HttpError(414, "uri_too_long", f"the URL is longer than {URL_BYTES} bytes"))

    def on_head_field(self, name: bytes, value: bytes) -> None:
        super().on_head_field(name, value)
        if len(self.headers) > HEAD_FIELDS:
            self._give_up(wire.HttpError(431, "head_too_large", f"there are more than {HEAD_FIELDS} headers"))
        if name.lower() == b"transfer-encoding" and value.strip().lower() != b"chunked":
            self._give_up(wire.HttpError(501, "unsupported_transfer_coding", "the only transfer coding is chunked"))

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() != "1.1" and any(name == b"transfer-encoding" for name, _ in self.headers):
            self._give_up(MalformedRequest("HTTP/1.0 has no Transfer-Encoding"))
        self._allow(None)
        self._crowd.idle(self, False)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        if self._upgrades():
            return  # the bytes that follow are not HTTP
        self.cycle.more_body = False
        if self.cycle.response_complete:
            self._expect_head()
        else:
            self._allow(None)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        # With pipelining the newest cycle may be another one, still to be answered.
        if self.cycle.response_complete:
            if self.cycle.more_body:
                self._allow(LEFTOVER_SECONDS)
            else:
                self._expect_head()

    def _should_upgrade(self) -> bool:
        # Other upgrades than to WebSocket, and those behind a request still being answered, are answered as HTTP.
        idle = self.cycle is None or self.cycle.response_complete
        kind = self.parser.get_method(), self.parser.get_http_version()
        return idle and kind == (b"GET", "1.1") and super()._should_upgrade()

    def _upgrades(self) -> bool:
        return bool(self.parser.should_upgrade() and self._should_upgrade())

    def handle_websocket_upgrade(self) -> None:
        self._allow(None)
        self.stop_watching()
        super().handle_websocket_upgrade()

    def _give_up(self, error: PorticoError) -> NoReturn:
        """Stop the parser from one of its callbacks: only an exception can do it. Calls `send_400_response`."""
        self._refusal = error
        raise error

    def send_400_response(self, msg: str) -> None:
        self._refuse(self._refusal or MalformedRequest("this is not HTTP/1.1"))

    def _refuse(self, error: PorticoError) -> None:
        """Answer with ``error`` and close; if another answer is due first, only close."""
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            in_its_body = self.in_message and not self.in_head and not self.pipeline
            if cycle.response_started or not in_its_body:
                self.transport.close()
                return
            cycle.disconnected = True  # nothing may follow this answer
            cycle.message_event.set()
        status, headers, body = wire.problem(error)
        self.transport.write(answer(status, headers, body))
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        pass  # a client may offer an upgrade (h2c); declining it is nothing to log, and uvicorn's advice does not apply


def answer(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return the bytes of a whole response, after which the connection closes."""
    fields = {**GUARDS, **headers, "content-length": str(len(body)), "connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} {wire.phrase(status)}\r\n{head}\r\n".encode() + body
