"""The order in which the parts of an engine start and stop."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import anyio
from anyio.abc import TaskGroup, TaskStatus

from portico.core.drivers import Drivers
from portico.core.errors import StoreFailed
from portico.core.folders import Folders
from portico.core.observer import Observations
from portico.core.store import EventStore

TIDY_SECONDS = 300.0

OBSERVE_STOP_SECONDS = 5.0
"""The time that observers may take at the end for the events that they have not been told of yet."""

log = logging.getLogger("portico.engine")


async def run_parts(
    folders: Folders,
    store: EventStore,
    drivers: Drivers,
    observations: Observations,
    begin: Callable[[TaskGroup], Awaitable[None]],
    *,
    task_status: TaskStatus[None],
) -> None:
    """Own store, drivers and sessions until cancelled; then stop every agent first, and the rest after that.

    ``begin`` receives a task group, and starts the sessions in it.
    """
    async with anyio.create_task_group() as tasks:
        stopping = anyio.Event()
        await tasks.start(_tell_cancellation, stopping)
        with anyio.CancelScope() as scope:
            async with AsyncExitStack() as stack:
                try:
                    await folders.open()
                    stack.callback(folders.close)
                    await store.open()
                    stack.push_async_callback(store.close)
                    for driver in drivers:
                        await driver.open()
                        stack.push_async_callback(driver.close)
                finally:
                    scope.shield = True  # or everything would be cancelled at the same time
                async with anyio.create_task_group() as observing:
                    for observation in observations:
                        observing.start_soon(observation.run, name=f"observer {observation.name}")
                    async with anyio.create_task_group() as working:
                        await begin(working)
                        task_status.started()
                        await stopping.wait()
                        working.cancel_scope.cancel()
                    with anyio.move_on_after(OBSERVE_STOP_SECONDS):
                        for observation in observations:
                            await observation.caught_up()
                    observing.cancel_scope.cancel()
        tasks.cancel_scope.cancel()


async def _tell_cancellation(stopping: anyio.Event, *, task_status: TaskStatus[None]) -> None:
    try:
        task_status.started()
        await anyio.sleep_forever()
    finally:
        stopping.set()


async def keep_tidy(store: EventStore) -> None:
    """Let the store tidy up regularly, until cancelled."""
    while True:
        try:
            await store.tidy()
        except StoreFailed as failure:
            log.warning("the store could not be tidied: %s", failure.detail)
        except Exception:
            log.exception("the store could not be tidied")
        await anyio.sleep(TIDY_SECONDS)
