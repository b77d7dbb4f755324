"""The composition root, where a whole server would be too coarse."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import anyio
import pytest

from portico.app import _unless_stopped

pytestmark = pytest.mark.anyio


async def test_a_signal_that_comes_just_as_the_start_is_done_is_heard() -> None:
    stopped, done = anyio.Event(), anyio.Event()

    async def signals() -> AsyncIterator[signal.Signals]:
        await stopped.wait()
        yield signal.SIGTERM

    async def begin() -> bool:
        await done.wait()
        return True

    async def both() -> None:
        await anyio.wait_all_tasks_blocked()
        stopped.set()
        done.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(both)
        assert await _unless_stopped(signals(), begin) is None
