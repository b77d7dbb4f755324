"""Cuts off who takes nothing: what an HTTP connection and a WebSocket have in common."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import sys
import termios
from contextlib import suppress

NO_LINGER = struct.pack("ii", 1, 0)


class Watched(asyncio.Protocol):
    """A client that takes nothing for ``write_timeout`` seconds is cut off with a reset, whatever it was being sent.

    `close` would wait for it, as long as it likes.
    """

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    write_timeout: float
    _write_timer: asyncio.TimerHandle | None = None

    def start_watching(self) -> None:
        # Whatever the kernel doesn't take at once counts as paused, so that nothing waits in our memory unwatched.
        self.transport.set_write_buffer_limits(high=0)

    def stop_watching(self) -> None:
        self._watch(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.unsent())

    def resume_writing(self) -> None:
        self._watch(None)
        super().resume_writing()

    def _watch(self, size: int | None) -> None:
        """Cut the client off unless it takes some of the ``size`` bytes in time. None: it has taken all."""
        if self._write_timer is not None:
            self._write_timer.cancel()
        self._write_timer = None if size is None else self.loop.call_later(self.write_timeout, self._check, size)

    def _check(self, size: int) -> None:
        left = self.unsent()
        if left < size:  # slow, but alive; nothing is added while writing is paused
            self._watch(left)
        else:
            self.cut()

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
