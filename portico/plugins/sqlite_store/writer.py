"""Writing: all writes from one pass of the event loop, for any sessions, form one transaction."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
import anyio.lowlevel

from portico.core.errors import PorticoError, StoreFailed
from portico.plugins.sqlite_store.lane import Lane

log = logging.getLogger("portico.sqlite_store")

T = TypeVar("T")

Job = Callable[[sqlite3.Connection], None]
"""A function that writes one thing inside the transaction. To refuse, it raises `PorticoError` before any write."""

LOG_BYTES = 4 * 1024**2
"""The approximate size of the write-ahead log when it is moved into the database: some milliseconds of work."""

LARGE_BYTES = 256 * 1024
"""A transaction that writes more runs in a thread: the disk takes about a millisecond for this much."""

JOB_BYTES = 3 * 4096
STEP_BYTES = 1024**2
"""The approximate size that a job adds to the log beside its own data (it changes about three pages), and a step of
housekeeping.
"""


class _Pending:
    def __init__(self, job: Job, size: int) -> None:
        self.job = job
        self.size = size
        self.refusal: PorticoError | None = None


class _Group:
    """The jobs of one transaction: the first caller commits them, the others wait for ``over``."""

    def __init__(self) -> None:
        self.pending: list[_Pending] = []
        self.over = anyio.Event()
        self.error: Exception | None = StoreFailed("the writing was cut off")  # until the result is known


class Writer:
    """A queue that commits jobs in groups. A job is in the database once `write` returns, and is not if `write` raises.
    If the call was cancelled, either may be true."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._logged = 0
        self._group: _Group | None = None

    async def write(self, job: Job, size: int = 0) -> None:
        """Do ``job``, which writes about ``size`` bytes. Raises the job's refusal, or the `StoreFailed` of the whole
        transaction."""
        mine = _Pending(job, size)
        if self._group is not None:
            group = self._group
            group.pending.append(mine)
            await group.over.wait()
        else:
            group = self._group = _Group()
            group.pending.append(mine)
            try:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()  # so that all others who are ready to write can join
                    async with self._lane.lock:
                        self._group = None
                        await self._commit(group)
                        await self._checkpoint(sum(JOB_BYTES + pending.size for pending in group.pending))
            finally:  # asyncio's own Task.cancel() ignores scopes, and must not leave the others waiting for ever
                group.over.set()
                if self._group is group:
                    self._group = None
        if error := group.error or mine.refusal:
            raise error

    async def step(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do a step of work that can wait, in a thread; writers wait for it. Raises `StoreFailed`."""
        async with self._lane.lock:
            result = await self._lane.run_locked(work, threaded=True)
            await self._checkpoint(STEP_BYTES)
        return result

    async def _commit(self, group: _Group) -> None:
        run = self._lane.run_large if sum(job.size for job in group.pending) > LARGE_BYTES else self._lane.run_locked
        try:
            await run(lambda connection: _commit(connection, group.pending))
            group.error = None
        except Exception as error:  # every member of the group must get the error
            group.error = error
        group.over.set()  # the others need not wait for the checkpoint

    async def _checkpoint(self, more: int) -> None:
        # It waits for the disk, so it must not run on the event loop, as SQLite's own checkpoint would. Afterwards the
        # log is written from its start again; cutting it each time would cost three times as much.
        self._logged += more
        if self._logged < LOG_BYTES:
            return
        self._logged = 0
        try:
            await self._lane.run_locked(
                lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall(), threaded=True
            )
        except (StoreFailed, RuntimeError) as error:  # or no thread can be started; committed data stays committed
            log.warning("the write-ahead log could not be moved into the database: %s", error)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Run the block as a transaction: all of it or nothing. The connection stays usable either way."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite itself rolls back after some failures
            connection.execute("ROLLBACK")
        raise


def _commit(connection: sqlite3.Connection, group: list[_Pending]) -> None:
    with transaction(connection):
        for pending in group:
            pending.refusal = None
            try:
                pending.job(connection)
            except PorticoError as refusal:
                pending.refusal = refusal
