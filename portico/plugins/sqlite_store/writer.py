"""Writes: whatever is to be written in one turn of the event loop, for whichever session, is one transaction."""

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
"""Writes one thing inside the transaction. It refuses with a `PorticoError` before it has written anything."""

LOG_BYTES = 4 * 1024**2
"""About as much goes into the write-ahead log before it is moved into the database: some milliseconds' work."""

LARGE_BYTES = 256 * 1024
"""A transaction that writes more is made in a thread: the disk takes about a millisecond for as much."""

JOB_BYTES = 3 * 4096
STEP_BYTES = 1024**2
"""About what a job adds to the log beside its own data (it changes three pages or so), and a step of housekeeping."""


class _Pending:
    def __init__(self, job: Job, size: int) -> None:
        self.job = job
        self.size = size
        self.refusal: PorticoError | None = None


class _Group:
    """What goes into one transaction: the first one commits it, the others wait for ``over``."""

    def __init__(self) -> None:
        self.pending: list[_Pending] = []
        self.over = anyio.Event()
        self.error: Exception | None = StoreFailed("the writing was cut off")  # until it is known otherwise


class Writer:
    """Commits jobs in groups. What `write` returned for is in the database; what it raised for is not, unless the call
    was cancelled: then it is one or the other."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._logged = 0
        self._group: _Group | None = None

    async def write(self, job: Job, size: int = 0) -> None:
        """Do ``job``, which writes about ``size`` bytes. Raises what it refused with, or the whole transaction's
        `StoreFailed`."""
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
                    await anyio.lowlevel.checkpoint()  # lets all those join in that are ready to write as well
                    async with self._lane.lock:
                        self._group = None
                        await self._commit(group)
                        await self._checkpoint(sum(JOB_BYTES + pending.size for pending in group.pending))
            finally:  # asyncio's own Task.cancel() heeds no scope, and must not leave the others waiting for ever
                group.over.set()
                if self._group is group:
                    self._group = None
        if error := group.error or mine.refusal:
            raise error

    async def step(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do a step of something that can wait, in a thread; those who write wait for it. Raises `StoreFailed`."""
        async with self._lane.lock:
            result = await self._lane.run_locked(work, threaded=True)
            await self._checkpoint(STEP_BYTES)
        return result

    async def _commit(self, group: _Group) -> None:
        run = self._lane.run_large if sum(job.size for job in group.pending) > LARGE_BYTES else self._lane.run_locked
        try:
            await run(lambda connection: _commit(connection, group.pending))
            group.error = None
        except Exception as error:  # every one of the group has to hear of it
            group.error = error
        group.over.set()  # the others need not wait for the checkpoint

    async def _checkpoint(self, more: int) -> None:
        # It waits for the disk, so it has no place on the event loop, where SQLite itself would do it. The log is then
        # written from its beginning again; cutting it each time would cost three times as much.
        self._logged += more
        if self._logged < LOG_BYTES:
            return
        self._logged = 0
        try:
            await self._lane.run_locked(
                lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall(), threaded=True
            )
        except (StoreFailed, RuntimeError) as error:  # or no thread can be started; what was committed stays committed
            log.warning("the write-ahead log could not be moved into the database: %s", error)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing; the connection stays usable either way."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite has rolled back some failures itself
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
