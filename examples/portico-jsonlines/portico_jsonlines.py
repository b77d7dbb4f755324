"""Portico's sessions over a bare connection: one JSON object per line.

A client opens a session in its first line, then sends frames as on a WebSocket with the subprotocol ``portico.v1``:

    → {"type": "open", "token": "...", "session_id": "s", "create": {}, "after": 0}
    ← {"type": "ack", "session_id": "s"}
    → {"type": "query", "content": "hello", "turn_id": "t", "id": 1}
    ← {"type": "session", "session_id": "s", "seq": 1, ...}
    ← {"type": "ack", "id": 1, "turn_id": "t", "state": "running"}
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Annotated, Any

import anyio
from anyio.abc import SocketStream, TaskGroup, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from pydantic import BaseModel, ConfigDict, Field

from portico import Context, PorticoError, Sessions, Transport, TransportFailed, hookimpl
from portico.config.values import is_loopback
from portico.core.errors import MalformedRequest, TooLarge, Unauthenticated, Unavailable
from portico.core.events import encode_json
from portico.transports.framed import FramedConversation
from portico.transports.frames import parse_frame
from portico.transports.listen import listen_tcp, listen_unix
from portico.transports.models import Name, SessionBody
from portico.transports.parse import check
from portico.transports.streams import Streams
from portico.transports.wire import nack

OPEN_SECONDS = 10.0  # the time limit for a client's first line
STRANGER_BYTES = 64 * 1024  # the longest line of a client that has not authenticated yet
SLICE_BYTES = 64 * 1024  # a client has to take this much within the time limit, however long the line is
GONE = (OSError, anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError)  # the client is gone or too slow

log = logging.getLogger("portico.jsonlines")


class JsonLinesSettings(BaseModel):
    """The settings ``jsonlines_...``."""

    listen: str = Field("127.0.0.1:8788", pattern=r"^(unix:/.+|[^/]+:\d{1,5})$", description="HOST:PORT or unix:PATH")


class OpenLine(BaseModel):
    """The first line. Without ``after`` the client gets only the events from now on."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    token: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    session_id: Name
    create: dict[str, Any] | None = None
    after: Annotated[int, Field(ge=0, le=10**18)] | None = None


class Lines:
    """A connection, as a `portico.transports.peer.Peer`. Methods that wait raise one of `GONE` once the client has
    gone.
    """

    def __init__(self, stream: SocketStream, write_timeout: float) -> None:
        self.max_line = STRANGER_BYTES
        self._stream = stream
        self._write_timeout = write_timeout
        self._received = BufferedByteReceiveStream(stream)
        self._sending = anyio.Lock(fast_acquire=True)
        self._torn = False

    async def receive(self) -> str:
        try:
            return (await self._received.receive_until(b"\n", self.max_line)).decode()
        except anyio.DelimiterNotFound:
            raise TooLarge(f"a line is longer than {self.max_line} bytes") from None
        except UnicodeDecodeError:
            raise MalformedRequest("a line is not UTF-8") from None

    async def send(self, texts: Sequence[bytes]) -> None:
        data = b"".join([text + b"\n" for text in texts])
        async with self._sending:
            if self._torn:  # a cancelled task sent half a line; nothing may follow it
                raise anyio.BrokenResourceError
            self._torn = True
            for start in range(0, len(data), SLICE_BYTES):
                with anyio.fail_after(self._write_timeout):
                    await self._stream.send(data[start : start + SLICE_BYTES])
            self._torn = False

    async def end(self) -> None:
        """End the sending side, and drain the client for up to 1 s.

        A client that is cut off while it sends could lose our last line.
        """
        with anyio.move_on_after(1), suppress(RuntimeError):  # uvloop raises it if the client has already gone
            await self._stream.send_eof()
            while True:
                await self._stream.receive()


class JsonLinesTransport:
    """An implementation of `portico.Transport`. ``listen`` is ``HOST:PORT`` (port 0: a free one) or ``unix:PATH``."""

    name = "jsonlines"

    def __init__(self, context: Context, listen: str) -> None:
        self._callers, self._quota, self._listen = context.callers, context.stream_quota, listen
        self._max_line, self._write_timeout = context.settings.max_frame, context.settings.write_timeout

    async def serve(self, engine: Sessions, *, task_status: TaskStatus[str] = anyio.TASK_STATUS_IGNORED) -> None:
        streams = Streams(self._quota)
        with ExitStack() as stack:
            listeners, address = await self._open(stack)
            stack.callback(streams.stop)
            async with anyio.create_task_group() as connections:
                with stack:  # the listeners close before the wait for the connections
                    async with anyio.create_task_group() as accepting:
                        for listener in listeners:
                            accepting.start_soon(self._accept, listener, connections, engine, streams)
                        task_status.started(address)

    async def _open(self, stack: ExitStack) -> tuple[list[socket.socket], str]:
        """Return the listeners, which ``stack`` will close, and their address. Raises `TransportFailed`."""
        if self._listen.startswith("unix:"):
            path, address = Path(self._listen.removeprefix("unix:")), f"jsonlines+{self._listen}"
            sockets = [stack.enter_context(listen_unix(path))]
        else:
            host, _, port = self._listen.rpartition(":")
            sockets, url = await listen_tcp(host.strip("[]"), int(port))
            address = url.replace("http:", "jsonlines:")
        for listener in sockets:
            stack.enter_context(listener).setblocking(False)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # connections inherit it: a peer may vanish
        return sockets, address

    async def _accept(self, listener: socket.socket, tasks: TaskGroup, engine: Sessions, streams: Streams) -> None:
        while True:
            try:
                # anyio's own streams over Unix sockets fail on a client that leaves while data is sent to it.
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                tasks.start_soon(self._talk, await SocketStream.from_socket(connection), engine, streams)
            except ValueError:
                connection.close()  # it has gone already
            except OSError as error:  # such as too many open files
                log.warning("no connection can be accepted: %s", error)
                await anyio.sleep(1)

    async def _talk(self, stream: SocketStream, engine: Sessions, streams: Streams) -> None:
        # This outlives the cancellation of serve() by a moment, to finish what it is sending.
        with streams.finishing():
            async with stream:
                lines = Lines(stream, self._write_timeout)
                try:
                    await self._converse(lines, engine, streams)
                    await lines.end()
                except GONE:
                    pass
                except Exception:
                    log.exception("a fault in the server")

    async def _converse(self, lines: Lines, engine: Sessions, streams: Streams) -> None:
        try:
            frame = None
            with streams.waiting(), anyio.move_on_after(OPEN_SECONDS):
                frame = parse_frame(await lines.receive())
            if streams.stopped:
                raise Unavailable("the server is stopping", code="draining")
            if frame is None or frame.type != "open":
                raise Unauthenticated(f"the first line must be of the type open, and come within {OPEN_SECONDS:g} s")
            line = check(OpenLine, frame.members)
            principal = await self._callers.principal(line.token)
            lines.max_line = self._max_line
            if line.create is not None:
                body = check(SessionBody, {**line.create, "session_id": line.session_id})
                await engine.create(principal, body.request())
            principal = await engine.bind(principal, line.session_id)  # raises if there is no such session
            await lines.send([encode_json(frame.answer({"type": "ack", "session_id": line.session_id}))])
            talk = FramedConversation(lines, engine, streams, principal, line.session_id, callers=self._callers)
            await talk.run(line.after)
        except PorticoError as error:
            await lines.send([encode_json(nack(error))])


def _create(context: Context) -> Transport:
    settings, listen = context.settings, context.plugin_settings["jsonlines"].listen
    if "none" in settings.auth and not listen.startswith("unix:") and not is_loopback(listen.rpartition(":")[0]):
        raise TransportFailed(f"jsonlines_listen={listen}: with auth=none anybody who reaches it could use it")
    return JsonLinesTransport(context, listen)


@hookimpl
def portico_transports() -> Mapping[str, Callable[[Context], Transport]]:
    return {"jsonlines": _create}


@hookimpl
def portico_settings() -> Mapping[str, type[BaseModel]]:
    return {"jsonlines": JsonLinesSettings}
