"""Cuts off who takes nothing: what an HTTP connection and a WebSocket have in common."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from contextlib import suppress
from typing import Any, cast

NO_LINGER = struct.pack("ii", 1, 0)


class CountingTransport:
    """A transport that counts what it is given; in all else it is the one it stands for."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.given = 0

    def write(self, data: bytes) -> None:
        self.given += len(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def counting(transport: asyncio.Transport) -> asyncio.Transport:
    return cast(asyncio.Transport, CountingTransport(transport))


class Watched(asyncio.Protocol):
    """A client that takes nothing for ``write_timeout`` seconds is cut off with a reset, whatever it was being sent.

    `close` would wait for it, as long as it likes. ``transport`` is a `counting` one.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    write_timeout: float
    _write_timer: asyncio.TimerHandle | None = None

    def start_watching(self) -> None:
        # Whatever the kernel doesn't take at once counts as paused, so that nothing waits in our memory unwatched.
        self.transport.set_write_buffer_limits(high=0)

    def stop_watching(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch()

    def _watch(self) -> None:
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout, self._check, self.taken())

    def _check(self, before: int) -> None:
        # That writing was resumed in between says nothing of the client: the kernel's buffer may just have grown.
        self._write_timer = None
        if self.taken() > before:  # slow, perhaps, but alive
            if self.unsent():
                self._watch()
        else:
            self.cut()

    def taken(self) -> int:
        """Bytes that the client has taken: its kernel has acknowledged them."""
        return cast(CountingTransport, self.transport).given - self.unsent()

    def unsent(self) -> int:
        """Bytes that the client has not taken: ours, and the kernel's (tcp(7), SIOCOUTQ).

        The kernel asks for more only when a third of its buffer is free, for which a slow client may need minutes.
        """
        queued = b""
        with suppress(OSError):
            queued = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return self.transport.get_write_buffer_size() + int.from_bytes(queued, sys.byteorder)

    def cut(self) -> None:
        """Close now, and drop what was not sent."""
        # Without lingering the kernel would keep its own buffer (megabytes) for minutes, for a client that won't read.
        with suppress(OSError):
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.transport.abort()
