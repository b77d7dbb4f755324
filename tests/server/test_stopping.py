"""Signals, where a whole server would be too coarse."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator

import anyio
import pytest

from portico.server.stopping import StopSignals
from tests.support.limits import HANG_SECONDS

pytestmark = pytest.mark.anyio


async def test_a_signal_that_comes_just_as_the_start_is_done_is_heard() -> None:
    sent, done = anyio.Event(), anyio.Event()

    async def signals() -> AsyncIterator[signal.Signals]:
        await sent.wait()
        yield signal.SIGTERM
        await anyio.sleep_forever()

    async def both() -> None:
        await anyio.wait_all_tasks_blocked()
        sent.set()
        done.set()

    stop = StopSignals(signals())
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stop.listen)
        tasks.start_soon(both)
        heard = None
        with stop.start_scope, anyio.fail_after(HANG_SECONDS):
            await done.wait()
            stop.started()
            heard = await stop.asked(anyio.Event())
        assert heard == "SIGTERM" or stop.start_scope.cancelled_caught
        tasks.cancel_scope.cancel()


async def test_the_second_signal_hurries_and_so_does_the_first_once_no_transport_is_left() -> None:
    send, signals = anyio.create_memory_object_stream[signal.Signals](2)
    for before, reason in ((2, "SIGINT"), (1, "no transport is left")):
        stop, over = StopSignals(signals), anyio.Event()
        stop.started()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop.listen)
            if before == 1:
                over.set()
            else:
                await send.send(signal.SIGINT)
            assert await stop.asked(over) == reason
            await send.send(signal.SIGTERM)
            with anyio.fail_after(HANG_SECONDS):
                await stop.asked_again()
            tasks.cancel_scope.cancel()
    send.close()
    signals.close()
