"""The time for which the event loop is kept from others."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel

_SAMPLE = [{"n": number} for number in range(10_000)]
_SAMPLE_SECONDS = 0.005
"""CPU seconds that `_sample_seconds` takes on the idle machine on which the limits in the tests were set."""


def _sample_seconds() -> float:
    began = time.thread_time()
    json.dumps(_SAMPLE)
    return time.thread_time() - began


@asynccontextmanager
async def longest_step() -> AsyncIterator[list[float]]:
    """Afterwards there is in it the most seconds of CPU that the loop's thread spent at one go.

    The clock is that thread's own, so that the work of other threads does not count. Where a machine is slower, or
    others use its caches, seconds count less: as many times as a piece of work of known length takes longer there.
    """
    longest = [0.0]
    slowness = max(1.0, _sample_seconds() / _SAMPLE_SECONDS)

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
        slowness = max(slowness, _sample_seconds() / _SAMPLE_SECONDS)
    finally:
        longest[0] /= slowness
        gc.enable()
