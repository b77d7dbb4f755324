"""An `EventStore` in one SQLite file (https://www.sqlite.org/wal.html)."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel

from portico.core.errors import Conflict
from portico.core.events import Event
from portico.core.store import READ_BYTES, SessionRecord, TurnSpan
from portico.plugins.sqlite_store.database import Sync, open_database, open_for_reading
from portico.plugins.sqlite_store.history import MAX_SEQ, History, appending, read_large
from portico.plugins.sqlite_store.housekeeping import Housekeeping
from portico.plugins.sqlite_store.lane import Lane
from portico.plugins.sqlite_store.pages import decode_cursor, encode_cursor, read_page
from portico.plugins.sqlite_store.records import decode_record, encode_record
from portico.plugins.sqlite_store.removal import forget_session
from portico.plugins.sqlite_store.schema import MIGRATIONS
from portico.plugins.sqlite_store.writer import Writer


class SqliteStore:
    """A store that survives the end of the process; with ``sync`` ``full`` also a loss of power.

    Short work is done on the event loop, because a hop to a thread costs more than a commit; see `Lane`. Its times are
    bounded, unless the disk does not answer at all. ``now`` gives seconds since 1970, for retention.
    """

    _writing: Lane
    _reading: Lane
    _aside: Lane
    _writer: Writer
    _history: History
    _housekeeping: Housekeeping

    def __init__(
        self,
        path: Path,
        *,
        sync: Sync = "normal",
        retention_days: float | None = None,
        retention_mb: float | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._sync: Sync = sync
        self._retention_days = retention_days
        self._retention_mb = retention_mb
        self._now = now

    async def open(self) -> None:
        """Open the database. Raises `StoreFailed` as `open_database`."""
        with anyio.CancelScope(shield=True):
            connections = await anyio.to_thread.run_sync(self._connect)
        write, read, aside = connections
        self._writing = Lane(write, self._path, always_threaded=self._sync == "full")
        self._reading = Lane(read, self._path)
        self._aside = Lane(aside, self._path, always_threaded=True)
        self._writer = Writer(self._writing)
        self._history = History()
        self._housekeeping = Housekeeping(
            self._aside,
            self._writer,
            retention_days=self._retention_days,
            retention_mb=self._retention_mb,
            now=self._now,
        )

    def _connect(self) -> tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection]:
        with ExitStack() as stack:
            write = open_database(self._path, sync=self._sync, migrations=MIGRATIONS)
            stack.callback(write.close)
            read = open_for_reading(self._path)
            stack.callback(read.close)
            aside = open_for_reading(self._path)
            stack.pop_all()
        return write, read, aside

    async def close(self) -> None:
        # The writing connection closes last: that moves the write-ahead log into the database.
        with anyio.CancelScope(shield=True):
            for lane in (self._aside, self._reading, self._writing):
                await lane.close()

    async def create(self, record: SessionRecord) -> None:
        values = (record.session_id, record.owner, record.state, record.created_at, 0, encode_record(record))

        def job(connection: sqlite3.Connection) -> None:
            if _find(connection, record.session_id) is not None:
                raise Conflict(f"there is a session {record.session_id!r} already", code="session_exists")
            connection.execute(
                "INSERT INTO sessions (session_id, owner, state, created_at, last_seq, record)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )

        await self._writer.write(job, len(values[-1]))

    async def get(self, session_id: str) -> SessionRecord | None:
        def work(connection: sqlite3.Connection) -> SessionRecord | None:
            row = connection.execute(
                "SELECT record, last_seq FROM sessions WHERE session_id = ?", (session_id,)
            ).fetchone()
            return None if row is None else decode_record(*row)

        return await self._reading.run(work)

    async def list(
        self, *, owner: str | None, state: str | None, limit: int, cursor: str | None
    ) -> tuple[list[SessionRecord], str | None]:
        before = decode_cursor(cursor) if cursor is not None else None
        records, end = await self._reading.run(partial(read_page, owner=owner, state=state, limit=limit, before=before))
        return records, None if end is None else encode_cursor(end)

    async def append(
        self, session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None = None
    ) -> None:
        job = appending(session_id, expected_seq, events, record, self._now)
        await self._writer.write(job, sum(len(event.data) for event in events))

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        events: list[Event] = []
        size = 0
        session = await self._reading.run(partial(_find, session_id=session_id))
        while session is not None and len(events) < limit and (size < max_bytes or not events):
            if events:
                await anyio.lowlevel.checkpoint()  # a long read lets others run between its steps
            more = await self._read_next(session, after, limit - len(events))
            if not more or (events and more[0].seq != events[-1].seq + 1):
                break  # the events between have just been deleted: the next read starts after them, and shows the gap
            events += more
            size += sum(len(event.data) for event in more)
            after = more[-1].seq
        return events

    async def _read_next(self, session: int, after: int, limit: int) -> Sequence[Event]:
        """Return a few of the events after ``after``, at least one if there is any; a large one is read in a thread."""
        more = await self._reading.run(partial(self._history.read_small, session=session, after=after, limit=limit))
        if more is not None:
            return more
        work = partial(read_large, session=session, after=after, limit=limit)
        try:
            return await self._aside.run(work)  # so that small reads do not wait behind it
        except RuntimeError:  # no thread can be started
            return await self._reading.run(work)

    async def turn(self, session_id: str, turn_id: str) -> TurnSpan | None:
        def work(connection: sqlite3.Connection) -> TurnSpan | None:
            row = connection.execute(
                "SELECT turn_id, first_seq, turns.last_seq FROM turns JOIN sessions ON sessions.id = session"
                " WHERE session_id = ? AND turn_id = ?",
                (session_id, turn_id),
            ).fetchone()
            return None if row is None else TurnSpan(*row)

        return await self._reading.run(work)

    async def unfinished(self) -> Sequence[tuple[str, str]]:
        return await self._aside.run(
            lambda connection: connection.execute(
                "SELECT session_id, turn_id FROM turns JOIN sessions ON sessions.id = session"
                " WHERE turns.last_seq IS NULL ORDER BY session, first_seq"
            ).fetchall()
        )

    async def event(self, session_id: str, seq: int) -> Event | None:
        events = await self.read(session_id, seq - 1, 1) if 0 < seq <= MAX_SEQ else ()
        return events[0] if events and events[0].seq == seq else None

    async def tidy(self) -> None:
        """Pack the events of finished turns, delete what retention no longer keeps, and give space back."""
        await self._housekeeping.tidy()

    async def delete(self, session_id: str) -> None:
        await self._writer.write(partial(forget_session, session_id=session_id))
        await self._housekeeping.remove_deleted()


def _find(connection: sqlite3.Connection, session_id: str) -> int | None:
    row = connection.execute("SELECT id FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
    return None if row is None else int(row[0])
