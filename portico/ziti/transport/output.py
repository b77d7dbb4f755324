"""What Ziti's library writes to standard error: taken off it, whatever it is, so that it never has to wait."""

from __future__ import annotations

import logging
import os
import time
from typing import IO

import anyio

LINES, SECONDS = 50, 10.0
"""Lines of the debug log in a time; a library that spins writes megabytes a second."""
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
        """The last one that says something."""
        lines = [line.strip() for line in self._tail.decode(errors="replace").splitlines()]
        return next((line[:500] for line in reversed(lines) if line), "")

    async def drain(self) -> None:
        """Until the end, or cancelled."""
        while True:
            if self._read():
                return
            await anyio.wait_readable(self._pipe)

    def close(self) -> None:
        """Take what is left. Nobody may be in `drain` any more."""
        if not self._pipe.closed:
            self._read()
            self._pipe.close()

    def _read(self) -> bool:
        """Take what is there; whether it was the end."""
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
