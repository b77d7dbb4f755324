"""Work that has to be done, in a thread if there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread

T = TypeVar("T")


async def in_thread(work: Callable[[], T]) -> T:
    """Do ``work`` in a thread; on the event loop where none can be started.

    For what must not fail for want of one: it may be an agent that has taken all the threads that there may be.
    """
    try:
        return await anyio.to_thread.run_sync(work)
    except RuntimeError:
        return work()
