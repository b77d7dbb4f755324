"""The part shared by HTTP connections and WebSockets: it cuts off clients that take nothing."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from portico.transports.dialler import Dialler

NO_LINGER = struct.pack("ii", 1, 0)
LEAVE_SECONDS = 1.0
"""The time for a client to answer the closing message of TLS; most never do."""
KERNEL_BYTES = 128 * 1024
"""Bytes that the kernel may buffer beyond those under way. By default it takes megabytes, even if nobody reads."""
_BYTES_ACKED = struct.Struct("=Q")  # tcpi_bytes_acked, at 120 in struct tcp_info (linux/tcp.h)


class CountingTransport:
    """A transport that counts the bytes written, with hooks before a write and after a close; else a plain proxy."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.given = 0
        self._ended = False
        self.dialler: Dialler | None = None
        self.before_write: Callable[[], None] | None = None
        self.after_close: Callable[[], None] | None = None

    def write(self, data: bytes) -> None:
        if self._ended or self._transport.is_closing():
            return  # closing, which the writer may not know yet; uvloop would raise RuntimeError
        if self.before_write is not None:
            self.before_write()
        self.given += len(data)
        self._transport.write(data)

    def write_eof(self) -> None:
        self._ended = True
        with suppress(OSError):  # the client has gone, and the event loop does not know it yet
            self._transport.write_eof()

    def close(self) -> None:
        if self._transport.is_closing():
            return  # a second close would make asyncio's TLS forget the connection
        self._transport.close()
        if self.after_close is not None:
            self.after_close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def counting(transport: asyncio.Transport, dialler: Dialler | None = None) -> asyncio.Transport:
    counted = CountingTransport(transport)
    counted.dialler = dialler
    return cast(asyncio.Transport, counted)


class Watched(asyncio.Protocol):
    """Cuts off a client, with a reset, that takes nothing for ``write_timeout`` seconds, whatever is sent to it.

    The cut may come after up to twice that time. `close` would wait for such a client without limit. ``transport`` is
    a `counting` one.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    write_timeout: float
    _write_timer: asyncio.TimerHandle | None = None
    _leave_timer: asyncio.TimerHandle | None = None

    @property
    def dialler(self) -> Dialler | None:
        return cast(CountingTransport, self.transport).dialler

    @property
    def encrypted(self) -> bool:
        return self.transport.get_extra_info("sslcontext") is not None

    def start_watching(self) -> None:
        # If the kernel doesn't take all data at once, writing is paused. On TLS the limit is one byte: with a limit of
        # 0 the loops' own TLS takes an empty buffer for a full one, and waits for ever.
        self.transport.set_write_buffer_limits(high=1 if self.encrypted else 0)
        cast(CountingTransport, self.transport).before_write = self._watch
        cast(CountingTransport, self.transport).after_close = self._leave if self.encrypted else None
        with suppress(OSError):  # it is not TCP, and limited anyway
            peer = self.transport.get_extra_info("socket")
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, KERNEL_BYTES)

    def stop_watching(self) -> None:
        transport = cast(CountingTransport, self.transport)
        transport.before_write = transport.after_close = None
        for timer in filter(None, (self._write_timer, self._leave_timer)):
            timer.cancel()
        self._write_timer = self._leave_timer = None

    def _watch(self) -> None:
        # Starts with the first byte: the kernel may go on taking ours for long, which says nothing about the client.
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout, self._check, self.taken())

    def _check(self, before: int) -> None:
        self._write_timer = None
        unsent = self.unsent()
        if self.taken() > before:  # slow, perhaps, but alive
            if unsent:
                self._watch()
        elif unsent:
            self.cut()

    def _leave(self) -> None:
        # A closed TLS transport sends all that it has, and then waits for the client to close its side.
        if self._leave_timer is None:
            self._leave_timer = self.loop.call_later(LEAVE_SECONDS, self._left)

    def _left(self) -> None:
        self._leave_timer = None
        if self.unsent():
            self._leave()
        else:
            self.transport.abort()

    def taken(self) -> int:
        """Return the number of bytes that the client's kernel has acknowledged."""
        if self.encrypted and sys.platform == "linux":
            # The loops don't report how much encrypted data lies between their TLS and the kernel.
            with suppress(OSError):
                peer = self.transport.get_extra_info("socket")
                (acked,) = _BYTES_ACKED.unpack_from(peer.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128), 120)
                return int(acked)
        return cast(CountingTransport, self.transport).given - self.unsent()

    def unsent(self) -> int:
        """Return the number of bytes not taken yet: in our buffer and in the kernel's (tcp(7), SIOCOUTQ)."""
        queued = b""
        with suppress(OSError):
            queued = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def cut(self) -> None:
        """Close now, and drop all unsent data."""
        # Without this option the kernel would keep its buffer (megabytes) for minutes, for a client that won't read.
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.transport.abort()
