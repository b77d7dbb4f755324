"""News for the service manager that has started this process, as in sd_notify(3)."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from portico.config.supervision import Supervision

SEND_SECONDS = 5.0
"""The time for the manager to take a message."""

log = logging.getLogger("portico")


class ServiceManager:
    """The manager of this service. Nobody hears what is told where there is none."""

    def __init__(self, supervision: Supervision) -> None:
        self._address = supervision.notify
        self._watchdog = supervision.watchdog
        self._level = logging.WARNING

    async def ready(self, status: str) -> None:
        """Tell that the server can be reached. ``status`` is one line for people."""
        await self._tell("READY=1", f"STATUS={status}")

    async def stopping(self, status: str, seconds: float) -> None:
        """Tell that the server stops, which may take so many seconds."""
        await self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000:.0f}", f"STATUS={status}")

    @asynccontextmanager
    async def reloading(self, status: str) -> AsyncIterator[None]:
        """Tell that the settings are read again, until the end of the block; then tell ``status``."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        await self._tell("RELOADING=1", f"MONOTONIC_USEC={now}", "STATUS=reading the settings again")
        try:
            yield
        finally:
            await self.ready(status)

    async def keep_awake(self) -> None:
        """Give a sign of life as often as the manager wants one, until cancelled. A blocked event loop gives none."""
        while self._address is not None and self._watchdog is not None:
            await self._tell("WATCHDOG=1")
            await anyio.sleep(self._watchdog / 3)

    async def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        try:
            with anyio.fail_after(SEND_SECONDS):
                async with await anyio.create_connected_unix_datagram_socket(self._address) as manager:
                    await manager.send(text.encode())
        except (OSError, TimeoutError) as error:
            log.log(self._level, "the service manager can't be told %s: %s", lines[0], error or "it takes nothing")
            self._level = logging.DEBUG  # a sign of life every few seconds would fill the log
