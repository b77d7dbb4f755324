"""The standard error of Ziti's library, which is always read, so that the library never has to wait."""

from __future__ import annotations

import logging
import os
import time
from typing import IO

import anyio

LINES, SECONDS = 50, 10.0
"""The most lines of the debug log per period; a library that spins writes megabytes a second."""
TAIL_BYTES = 8192
CHUNK = 256 * 1024

log = logging.getLogger("portico.ziti.library")


class Output:
    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._tail = b""
        self._left, self._since = LINES, time.monotonic()
        os.set_blocking(pipe.fileno(), False)

    @property
    def last_line(self) -> str:
        """The last line that is not empty."""
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines()]
        return next((line[:500] for line in reversed(lines) if line), "")

    async def drain(self) -> None:
        """Read until the end, or until cancelled."""
        while True:
            if self._read():
                return
            await anyio.wait_readable(self._pipe)

    def close(self) -> None:
        """Read the rest. `drain` must have ended."""
        if not self._pipe.closed:
            self._read()
            self._pipe.close()

    def _read(self) -> bool:
        """Read the available bytes; return True at the end."""
        try:
            chunk = os.read(self._pipe.fileno(), CHUNK)
        except BlockingIOError:
            return False
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        if log.isEnabledFor(logging.DEBUG):
            self._log(chunk)
        return not chunk

    def _log(self, chunk: bytes) -> None:
        now = time.monotonic()
        if now - self._since > SECONDS:
            self._left, self._since = LINES, now
        for line in chunk.decode(errors="replace").splitlines()[: self._left]:
            self._left -= 1
            log.debug("%s", line)
