"""One connection, used on the event loop while that is quick, and in a thread while it is not."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import anyio

from portico.plugins.sqlite_store.sqlite_failures import is_busy, store_failed

T = TypeVar("T")

SLOW_SECONDS = 0.02
"""Work that takes longer than this three times in a row shows that the disk is slow. Once may be a busy machine."""

SLOW_TIMES = 3

WARY_SECONDS = 10.0
"""Seconds that a thread is used after that. A hop to it costs more than a quick commit itself."""

BUSY_SECONDS = 2.0
"""Seconds that a thread waits for another program's lock; the event loop never waits for it."""


class Lane:
    """A queue of work on one connection, one at a time, in order. ``lock`` is for callers that prepare something first.

    Work that has begun is finished, even if its caller is cancelled.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        *,
        always_threaded: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lock = anyio.Lock(fast_acquire=True)
        self._connection = connection
        self._path = path
        self._always_threaded = always_threaded
        self._clock = clock
        self._slow_times = 0
        self._wary_until = clock()
        self._thread = anyio.CapacityLimiter(1)

    async def run(self, work: Callable[[sqlite3.Connection], T], *, threaded: bool = False) -> T:
        """Do ``work`` in its turn; ``threaded`` if it may be long. Raises `StoreFailed`, and what ``work`` raises."""
        async with self.lock:
            return await self.run_locked(work, threaded=threaded)

    async def run_locked(self, work: Callable[[sqlite3.Connection], T], *, threaded: bool = False) -> T:
        """Do as `run`, for a caller that has the lock. ``work`` is called again if it could not get the database's
        lock.
        """
        try:
            if not threaded and not self._always_threaded and self._clock() >= self._wary_until:
                try:
                    return self._timed(work)
                except sqlite3.OperationalError as error:
                    if not is_busy(error):
                        raise
            return await anyio.to_thread.run_sync(self._patiently, work, threaded, limiter=self._thread)
        except sqlite3.Error as error:
            raise store_failed(error, self._path) from error

    async def run_large(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do as `run_locked`, for long work that must be done: on the event loop if no thread can be started."""
        try:
            return await self.run_locked(work, threaded=True)
        except RuntimeError:
            return await self.run_locked(work)

    async def close(self) -> None:
        """Wait for the work under way, then close the connection."""
        async with self.lock:
            await anyio.to_thread.run_sync(self._connection.close, limiter=self._thread)

    def _timed(self, work: Callable[[sqlite3.Connection], T]) -> T:
        began = self._clock()
        try:
            return work(self._connection)
        finally:
            ended = self._clock()
            self._slow_times = self._slow_times + 1 if ended - began > SLOW_SECONDS else 0
            if self._slow_times >= SLOW_TIMES:
                self._wary_until = ended + WARY_SECONDS
                self._slow_times -= 1  # so that one slow time is enough after these seconds

    def _patiently(self, work: Callable[[sqlite3.Connection], T], long: bool) -> T:
        self._connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")
        try:
            return work(self._connection) if long else self._timed(work)
        finally:
            self._connection.execute("PRAGMA busy_timeout = 0")
