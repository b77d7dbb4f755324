"""Slow reading of data that clients go on sending though it was refused: from one connection at a time."""

from __future__ import annotations

import asyncio
from collections import deque

PAUSE_SECONDS = 0.005
"""The pause between two reads, of some 256 KiB, over all connections. Without it a few clients that go on sending
refused data would keep the server busy throwing it away."""


class Leftovers:
    """The connections of one server on which more refused data is to come."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Transport] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def slow(self, transport: asyncio.Transport) -> None:
        """Pause reading until the turn of ``transport`` comes."""
        transport.pause_reading()
        self._waiting.append(transport)
        if self._timer is None:
            self._wait()

    def _wait(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._next)

    def _next(self) -> None:
        self._timer = None
        while self._waiting:
            transport = self._waiting.popleft()
            if not transport.is_closing():
                transport.resume_reading()
                self._wait()
                return
