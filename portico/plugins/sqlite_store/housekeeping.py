"""The work that can wait: packing, retention, and giving freed space back.

It runs in worker threads, in steps of a few milliseconds that are each complete, so that a reader or writer waits for
one step at most. If it is interrupted, the next call continues.
"""

from __future__ import annotations

import logging
import math
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import anyio

from portico.core.errors import StoreFailed
from portico.plugins.sqlite_store import packing, removal
from portico.plugins.sqlite_store.blocks import pack
from portico.plugins.sqlite_store.history import read_rows
from portico.plugins.sqlite_store.lane import Lane
from portico.plugins.sqlite_store.writer import Writer, transaction

log = logging.getLogger("portico.sqlite_store")

T = TypeVar("T")

DAY_SECONDS = 86_400
MB = 1_000_000

SPARE_PAGES = 1024
"""Free pages (of 4 KiB) that stay in the file for the next writes."""

STEP_PAGES = 128


class Housekeeping:
    """The work on one database. ``reading`` is a lane of its own. ``now`` gives seconds since 1970."""

    def __init__(
        self,
        reading: Lane,
        writer: Writer,
        *,
        retention_days: float | None,
        retention_mb: float | None,
        now: Callable[[], float],
    ) -> None:
        self._reading = reading
        self._writer = writer
        self._retention_days = retention_days
        self._retention_mb = retention_mb
        self._now = now

    async def tidy(self) -> None:
        """Do all the work that is due. Raises `StoreFailed`."""
        with _past_damage("what deleted sessions have left cannot be removed"):
            await self.remove_deleted()
        await self._pack_all()
        await self._drop_old()
        await self._shrink()

    async def remove_deleted(self) -> None:
        """Remove the remaining data of deleted sessions."""
        while await self._change(removal.remove_some):
            pass

    async def _pack_all(self) -> None:
        session = 0
        while found := await self._reading.run(partial(packing.next_session, after=session)):
            session = found
            with _past_damage("the events of a session cannot be packed"):
                await self._pack(session)

    async def _pack(self, session: int) -> None:
        finished = await self._reading.run(partial(packing.finished, session=session))
        if finished is None:
            return
        end, ended_at = finished
        after = 0
        while after < end:
            events = await self._reading.run(partial(read_rows, session=session, after=after, last=end))
            if not events:
                break
            data = await anyio.to_thread.run_sync(pack, events)
            await self._change(
                partial(packing.replace_rows, session=session, events=events, data=data, ended_at=ended_at)
            )
            after = events[-1].seq
        await self._change(partial(packing.mark_packed, session=session, end=end))

    async def _drop_old(self) -> None:
        # Whole blocks go, so that the end of a session is left. Its last event always stays, so that readers who are
        # behind find an event to continue with.
        before, excess = -math.inf, -math.inf
        if self._retention_days is not None:
            before = self._now() - self._retention_days * DAY_SECONDS
        if self._retention_mb is not None:
            excess = await self._reading.run(removal.block_bytes) - self._retention_mb * MB
        if before == excess == -math.inf:
            return
        last: removal.OldBlock | None = None
        while blocks := await self._reading.run(partial(removal.oldest_blocks, after=last)):
            old = []
            for block in blocks:
                if not block.kept and (block.ended_at < before or excess > 0):
                    old.append(block)
                    excess -= block.size
            last = blocks[-1]
            if old:
                await self._change(partial(removal.remove_blocks, blocks=old))
            if last.ended_at >= before and excess <= 0:
                return

    async def _shrink(self) -> None:
        # Pages from the end of the file fill free ones, and the file gets shorter.
        (free,) = await self._reading.run(lambda connection: connection.execute("PRAGMA freelist_count").fetchone())
        for _ in range(SPARE_PAGES, free, STEP_PAGES):
            await self._writer.step(_vacuum)

    async def _change(self, work: Callable[[sqlite3.Connection], T]) -> T:
        def step(connection: sqlite3.Connection) -> T:
            with transaction(connection):
                return work(connection)

        return await self._writer.step(step)


def _vacuum(connection: sqlite3.Connection) -> None:
    # Not `execute`: this pragma gives rows without columns, and `execute` would stop after the first.
    connection.executescript(f"PRAGMA incremental_vacuum({STEP_PAGES})")


@contextmanager
def _past_damage(what: str) -> Iterator[None]:
    """Log damage and continue: one damaged page must not stop the rest of the work."""
    try:
        yield
    except StoreFailed as error:
        if error.code != "store_damaged":
            raise
        log.warning("%s: %s", what, error.detail)
