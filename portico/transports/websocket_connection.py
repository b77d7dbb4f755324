"""One WebSocket connection: uvicorn's, with the limits that keep a slow, dead or hostile client from doing harm."""

from __future__ import annotations

import asyncio
import codecs
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

from starlette.types import Scope
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State

from portico.core.errors import MalformedRequest, PorticoError
from portico.core.intake import Held
from portico.transports import wire
from portico.transports.dialler import extension
from portico.transports.fragments import PIECE_BYTES, Fragments
from portico.transports.http_connection import answer
from portico.transports.leftovers import Leftovers
from portico.transports.watch import Watched

CLOSE_SECONDS = 5.0
"""The time for a client to answer a close frame; then the connection is cut."""
STRANGER_BYTES = 64 * 1024
"""The largest message of a client that has not shown its credentials yet, or may only read."""
SLICE_BYTES = 4 * 1024
"""Bytes to parse before others get their turn: a thousand tiny frames, for which the parser needs some 10 ms."""

BATCH = "portico.texts"
"""An ASGI extension: ``websocket.send`` may have ``texts``, a list of UTF-8 bytes, each of which is a message."""
PIECES = "pieces"
"""After `trust`, a ``websocket.receive`` may have this key, with the UTF-8 of a long message, instead of ``text``."""
_TRUST, _PING = "portico.trust", "portico.ping"

# The libraries log paths with their query strings, and, at the debug level, every message.
_log = logging.getLogger("portico.websocket")
_log.setLevel(logging.WARNING)


def trust(scope: Scope, held: Held) -> None:
    """Let the client of this connection send messages of any allowed size, as far as ``held`` has room: a message
    counts until the next one is received. Does nothing on another server than ours."""
    lift: Callable[[Held], None] | None = scope.get("extensions", {}).get(_TRUST)
    if lift is not None:
        lift(held)


def ping_every(scope: Scope, seconds: float) -> None:
    """Ping the client of this connection every so many ``seconds``. Does nothing on another server than ours."""
    pinging: Callable[[float], None] | None = scope.get("extensions", {}).get(_PING)
    if pinging is not None:
        pinging(seconds)


class WebSocketConnection(Watched, WebSocketsSansIOProtocol):
    """A connection with what uvicorn lacks:

    - The limits of `Watched`.
    - Many messages in one write (`BATCH`).
    - A close with 1001 at the end of serving, and a close frame that reaches even a client that is still sending.
    - A slow client may answer a ping late if the ping waits behind other data. A dead client is cut off, whatever there
      is to send to it.
    - A flood of tiny messages, fragments or pings takes hardly any memory, and a large message no more than the share
      of its client.
    - A bad handshake is answered with a problem document.
    """

    def __init__(
        self,
        *args: Any,
        write_timeout: float,
        serialize: Callable[[Sequence[bytes]], bytes],
        leftovers: Leftovers,
        **kwargs: Any,
    ) -> None:
        """``serialize`` makes frames from texts; many connections may send the same ones."""
        super().__init__(*args, **kwargs)
        self._serialize = serialize
        self._leftovers = leftovers
        self.write_timeout = write_timeout
        self.close_timeout = CLOSE_SECONDS
        self.logger = self.conn.logger = _log
        self.conn.debug = False
        self.conn.max_message_size = min(STRANGER_BYTES, self.config.ws_max_size)
        self._held: Held | None = None
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._fragments = Fragments(self._admit)
        self._handshake_left: int | None = None
        self._unread = bytearray()
        self._soon: asyncio.Handle | None = None
        self._pong = b""
        self._received = 0
        self._progress = (0, 0, 0)  # bytes received, bytes taken, bytes still to be taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.start_watching()
        if self.transport.get_write_buffer_size():
            self.pause_writing()  # answers to requests before the handshake

    def connection_lost(self, exc: Exception | None) -> None:
        self.stop_watching()
        if self._soon is not None:
            self._soon.cancel()
        self._let_go()
        super().connection_lost(exc)

    # The handshake.

    def handle_connect(self, event: Request) -> None:
        response = self.conn.accept(event)
        if response.status_code != 101:
            headers = {"upgrade": "websocket", "sec-websocket-version": "13"} if response.status_code == 426 else {}
            self._refuse(wire.HttpError(response.status_code, "bad_handshake", "this is no handshake", headers))
            return
        super().handle_connect(event)
        ours = {BATCH: {}, _TRUST: self._trust, _PING: self._ping_every, **extension(self.dialler)}
        self.scope["extensions"] |= cast(Any, ours)

    def _trust(self, held: Held) -> None:
        self.conn.max_message_size = self.config.ws_max_size
        self._held = held

    def _refuse(self, error: PorticoError) -> None:
        self.handshake_complete = self.close_sent = True
        self.transport.write(answer(*wire.problem(error)))
        self.transport.close()

    # What the client sends.

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._handshake_left is None:
            self._handshake_left = len(data)  # it comes in one piece, from the HTTP parser
        self._unread += data
        if self._soon is None:
            self._parse()

    async def receive(self) -> Any:
        self._let_go()
        message = await super().receive()
        if self._soon is None:
            self._parse()
        return message

    def _parse(self) -> None:
        """Parse a slice of the received bytes, unless a message still waits for the app.

        Data after a message waits as bytes, not as thousands of tiny messages; data after a slice stays in the kernel.
        """
        self._soon = None
        if self._unread and (self.close_sent or not self.read_paused):
            size = min(self._handshake_left or PIECE_BYTES, max(SLICE_BYTES, self._fragments.left))
            data = bytes(self._unread[:size])
            del self._unread[:size]
            if self._handshake_left:
                self._handshake_left -= len(data)
                super().data_received(data)
            else:
                for part in filter(None, self._fragments.feed(data)):
                    super().data_received(part)
            if self.conn.handshake_exc is not None and not self.close_sent:  # uvicorn would wait for the rest of it
                self._refuse(MalformedRequest("this is no handshake, or one with too many or too long headers"))
        if self.transport.is_closing():
            return
        if self._unread:
            self.transport.pause_reading()
            if self.close_sent or not self.read_paused:
                self._soon = self.loop.call_soon(self._parse)
        elif self.close_sent:
            self._leftovers.slow(self.transport)
        elif not self.read_paused:
            self.transport.resume_reading()

    def handle_text(self, event: Frame) -> None:
        self.curr_msg_data_type = "text"
        self._begin(event)

    def handle_bytes(self, event: Frame) -> None:
        self.curr_msg_data_type = "bytes"
        self._begin(event)

    def _begin(self, event: Frame) -> None:
        self.frames = []
        self._utf8.reset()
        self.handle_cont(event)

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return
        try:
            if self._held is not None:
                self._held.grow(len(event.data))
            if self.curr_msg_data_type == "text":
                self._utf8.decode(event.data, event.fin)
        except UnicodeDecodeError:
            self._fail(1007, "invalid UTF-8")
            return
        except PorticoError as refusal:
            self._fail(*wire.close_code(refusal))
            return
        # Fragments are joined into large pieces: a list of millions of empty ones would have no limit.
        if self.frames and len(self.frames[-1]) < PIECE_BYTES:
            self.frames[-1] += event.data
        else:
            self.frames.append(cast(bytes, event.data if event.fin else bytearray(event.data)))
        if event.fin:
            self.send_receive_event_to_app()

    def send_receive_event_to_app(self) -> None:
        if self._held is None or len(self.frames) == 1:
            super().send_receive_event_to_app()
            return
        pieces, self.frames = self.frames, []
        if self.curr_msg_data_type == "text":
            self.queue.put_nowait(cast(Any, {"type": "websocket.receive", PIECES: pieces}))
        else:  # a binary message is refused, whatever it contains
            self.queue.put_nowait({"type": "websocket.receive", "bytes": bytes(pieces[0])})
        self.read_paused = True
        self.transport.pause_reading()

    def _fail(self, code: int, reason: str) -> None:
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    def _admit(self, length: int) -> bool:
        """Tell whether the current message may have so many more bytes; if not, the parser refuses them."""
        if length > (self.conn.max_message_size or 0) - (self.conn.current_size or 0):
            return False
        if self._held is not None and not self.close_sent:
            try:
                self._held.expect(length)
            except PorticoError as refusal:
                self._fail(*wire.close_code(refusal))
                return False
        return True

    def _let_go(self) -> None:
        """Release the memory share of the last message: it is handled."""
        if self._held is not None:
            self._held.release()

    def handle_ping(self) -> None:
        pongs = self.conn.data_to_send()
        # A client that does not take our data gets an answer to its last ping only (RFC 6455, 5.5.3).
        if self.writable.is_set():
            self.transport.write(b"".join(pongs))
        elif pongs:
            self._pong = pongs[-1]

    def resume_writing(self) -> None:
        super().resume_writing()
        pong, self._pong = self._pong, b""
        if pong and not self.close_sent:
            self.transport.write(pong)

    # Life and death.

    def _ping_every(self, seconds: float) -> None:
        self.ping_interval = seconds
        if self.ping_timer is not None:  # else the answer to a ping is awaited, and the next one comes after it
            self.ping_timer.cancel()
            self.schedule_ping()

    def send_keepalive_ping(self) -> None:
        self._note_progress()
        super().send_keepalive_ping()

    def keepalive_timeout(self) -> None:
        """Cut the client off, unless it can't have answered yet (it is in the middle of a long message, or still takes
        data sent before the ping), or we can't have seen the answer, because a message of its waits for the app."""
        received, taken, behind = self._progress
        self._note_progress()
        if self.read_paused or self._progress[0] > received or (behind and self._progress[1] > taken):
            self.pong_timer = self.loop.call_later(self.ping_timeout or 0, self.keepalive_timeout)
        else:
            self.cut()

    def _note_progress(self) -> None:
        self._progress = (self._received, self.taken(), self.unsent())

    def handle_parser_exception(self) -> None:
        """End the connection after bytes that are not a WebSocket frame, or a message that is too large."""
        if not self.close_sent:
            sent = self.conn.close_sent
            code = sent.code if sent is not None else 1006
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})
            self.transport.write(b"".join(self.conn.data_to_send()))
            self._linger()

    def shutdown(self) -> None:
        if not self.handshake_complete:
            super().shutdown()
        elif not self.close_sent:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1001})
            if self.conn.state is State.OPEN:
                self.conn.send_close(1001)
                self.transport.write(b"".join(self.conn.data_to_send()))
            self._linger()

    def _linger(self) -> None:
        # If we closed at once, with unread data, the kernel would send a reset, and the client lose the close frame.
        self.stop_keepalive()
        self.close_sent = True
        self.frames = []
        self._let_go()
        self.read_paused = False
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.cut)
        if self.transport.can_write_eof():
            self.transport.write_eof()
        if self._soon is None:
            self._soon = self.loop.call_soon(self._parse)

    # What the server sends.

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        if self.handshake_complete and (self.disconnected or self.close_sent or self.conn.state is not State.OPEN):
            raise ClientDisconnected  # after a close by the server, uvicorn would take this for a fault of the app
        texts: Sequence[bytes] | None = message.get("texts")
        if texts is None:
            await super().send(message)
            if self.close_sent:  # also after a refused handshake, which uvicorn would take for a fault
                self.handshake_complete = True
            return
        self.transport.write(self._serialize(texts))


def serialize(texts: Sequence[bytes]) -> bytes:
    """Encode each of ``texts`` as a message (RFC 6455, 5.2)."""
    return b"".join([Frame(Opcode.TEXT, text).serialize(mask=False) for text in texts])
