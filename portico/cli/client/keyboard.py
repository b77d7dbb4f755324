"""Standard input and Ctrl-C, without ever blocking the event loop."""

from __future__ import annotations

import os
import signal
import stat
import termios
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

CHUNK = 65_536
MOST = 32 * 1024 * 1024
"""The largest line or text in bytes; the server takes no more."""

Presses = MemoryObjectReceiveStream[None]
"""A stream of Ctrl-C presses, one item for each."""


class Lines:
    """The lines of a file descriptor: a terminal, a pipe or a file. One reader at a time.

    A line that is longer than 32 MiB raises ValueError, as does text that is not UTF-8.
    """

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._buffer = bytearray()
        self._ended = False

    @property
    def interactive(self) -> bool:
        return os.isatty(self._fd)

    async def line(self) -> str | None:
        """Return the next line without its end; None when there is none."""
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if not await self._more():
                if not self._buffer:
                    return None
                end = len(self._buffer)
                break
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return _decoded(line).rstrip("\r")

    async def rest(self) -> str:
        """Return everything up to the end."""
        while await self._more():
            pass
        return _decoded(bytes(self._buffer))

    def forget(self) -> None:
        """Drop typed text that was not asked for."""
        self._buffer.clear()
        if self.interactive:
            termios.tcflush(self._fd, termios.TCIFLUSH)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Hide typed text inside the block: a terminal would mix it with the output."""
        with self._echo(False):
            yield

    @contextmanager
    def echoing(self) -> Iterator[None]:
        with self._echo(True):
            yield

    @contextmanager
    def _echo(self, on: bool) -> Iterator[None]:
        if not self.interactive:
            yield
            return
        before = termios.tcgetattr(self._fd)
        if bool(before[3] & termios.ECHO) == on:  # a background process would be stopped for setting it again
            yield
            return
        changed = [*before]
        changed[3] ^= termios.ECHO
        termios.tcsetattr(self._fd, termios.TCSANOW, changed)
        try:
            yield
        finally:
            with suppress(termios.error):  # the terminal may have hung up
                termios.tcsetattr(self._fd, termios.TCSANOW, before)

    async def _more(self) -> bool:
        if len(self._buffer) > MOST:
            raise ValueError(f"standard input: more than {MOST} bytes")
        if self._ended and not self.interactive:  # a terminal continues after a Ctrl-D
            return False
        if self._waits():
            await anyio.wait_readable(self._fd)
        try:
            data = os.read(self._fd, CHUNK)
        except OSError:  # closed, or a terminal that has hung up
            data = b""
        self._buffer += data
        self._ended = not data
        return bool(data)

    def _waits(self) -> bool:
        """Tell whether a read may have to wait and can be waited for; regular files and /dev/null never have to."""
        try:
            mode = os.fstat(self._fd).st_mode
        except OSError:
            return False
        return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(self._fd)


def _decoded(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError("standard input is not UTF-8 text") from None


@asynccontextmanager
async def ctrl_c() -> AsyncGenerator[Presses, None]:
    """Count Ctrl-C in the stream while the block runs: it ends nothing by itself."""
    send, receive = anyio.create_memory_object_stream[None](2)  # a third one would mean nothing new

    async def listen() -> None:
        with anyio.open_signal_receiver(signal.SIGINT) as signals:
            listening.set()
            async for _ in signals:
                try:
                    send.send_nowait(None)
                except anyio.WouldBlock:
                    continue

    listening = anyio.Event()
    with send, receive:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            await listening.wait()
            try:
                yield receive
            finally:
                tasks.cancel_scope.cancel()


def drain(presses: Presses) -> None:
    """Forget the presses up to now."""
    try:
        while True:
            presses.receive_nowait()
    except anyio.WouldBlock:
        return
