"""A machine that has no thread left to give."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from unittest.mock import patch

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread


@asynccontextmanager
async def no_threads(tasks: anyio.abc.TaskGroup) -> AsyncIterator[None]:
    """In here none can be started, as in a container that is full of processes, and those that idled are busy."""
    release = threading.Event()
    limiter = anyio.CapacityLimiter(100)

    async def occupy() -> None:
        with suppress(RuntimeError):
            await anyio.to_thread.run_sync(release.wait, limiter=limiter)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with patch.object(threading.Thread, "start", refuse):
        for _ in range(100):
            tasks.start_soon(occupy)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        try:
            yield
        finally:
            release.set()
