"""How long the event loop is kept from others."""

from __future__ import annotations

import gc
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel


@asynccontextmanager
async def longest_step() -> AsyncIterator[list[float]]:
    """Afterwards there is in it the most seconds of CPU that the loop's thread spent at one go.

    The clock is that thread's own, so that neither a busy machine nor the work of other threads counts.
    """
    longest = [0.0]

    async def watch() -> None:
        before = time.thread_time()
        while True:
            await anyio.lowlevel.checkpoint()
            now = time.thread_time()
            longest[0], before = max(longest[0], now - before), now

    gc.collect()
    gc.disable()  # the heap of the tests is large
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.lowlevel.checkpoint()  # what is done without a pause is noticed too
            yield longest
            await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
    finally:
        gc.enable()
