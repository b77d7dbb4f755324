"""Our ends of a child's pipes.

These are not the loop's own: uvloop gives children socket pairs, and leaves a second copy open in the child. Everything
that the child starts would inherit it, could write to us in its name, and would keep us from seeing its end.
"""

from __future__ import annotations

import os
from typing import IO

import anyio
import anyio.lowlevel


class _Pipe:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._closed = False
        os.set_blocking(file.fileno(), False)

    async def close(self) -> None:
        """Close the pipe. May be called while another task waits, which then gets `anyio.ClosedResourceError`."""
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._file)
            # The waiting task has to release the descriptor before it can be reused.
            await anyio.lowlevel.cancel_shielded_checkpoint()
            self._file.close()

    def _number(self) -> int:
        if self._closed:
            raise anyio.ClosedResourceError
        return self._file.fileno()


class PipeReader(_Pipe):
    """The reading end, for one reading task at a time."""

    async def receive(self, max_bytes: int) -> bytes:
        """Return what has come, at least one byte; b"" at the end. May be cancelled. Raises
        `anyio.ClosedResourceError`.
        """
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                return os.read(self._number(), max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._file)


class PipeWriter(_Pipe):
    """The writing end, for one writing task at a time."""

    async def send(self, data: bytes) -> None:
        """Write all of it. If cancelled, a part may have been written. Raises OSError, `anyio.ClosedResourceError`."""
        await anyio.lowlevel.checkpoint()
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._number(), rest) :]
                if rest:
                    await anyio.lowlevel.checkpoint()  # the reader may be as fast as we are
            except BlockingIOError:
                await anyio.wait_writable(self._file)
