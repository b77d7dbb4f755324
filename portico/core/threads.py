"""Work that must be done, in a thread if one can be started."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Do ``work`` in a thread, or on the event loop if no thread can be started.

    Use it for work that must not fail for lack of a thread: an agent may have used up all the threads.
    """
    try:
        return await anyio.to_thread.run_sync(work)
    except RuntimeError:
        return work()
