"""The events of a session: adding them, and finding them again in blocks and rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from portico.core.errors import NotFound, SequenceConflict
from portico.core.events import Event
from portico.core.store import SessionRecord
from portico.plugins.sqlite_store.blocks import BLOCK_BYTES, BlockCache, unpack
from portico.plugins.sqlite_store.records import encode_record

MAX_SEQ = 2**63 - 1
"""The largest integer of SQLite."""


def appending(
    session_id: str, expected_seq: int, events: Sequence[Event], record: SessionRecord | None, now: Callable[[], float]
) -> Callable[[sqlite3.Connection], None]:
    """Make the job that adds ``events`` and stores ``record``. It refuses with `NotFound` or `SequenceConflict`."""
    last_seq = expected_seq + len(events)
    text = encode_record(record) if record is not None else None
    turns: dict[str, int] = {}
    completes: list[Event] = []
    for event in events:
        if event.turn_id is not None:
            turns.setdefault(event.turn_id, event.seq)
            if event.type == "complete":
                completes.append(event)

    def job(connection: sqlite3.Connection) -> None:
        found = connection.execute("SELECT id, last_seq FROM sessions WHERE session_id = ?", (session_id,)).fetchone()
        if found is None:
            raise NotFound(f"there is no session {session_id!r}", code="session_not_found")
        session, end = found
        if end != expected_seq:
            raise SequenceConflict(f"the history of {session_id!r} ends at {end}, not at {expected_seq}")
        if record is None:
            connection.execute("UPDATE sessions SET last_seq = ? WHERE id = ?", (last_seq, session))
        else:
            connection.execute(
                "UPDATE sessions SET last_seq = ?, owner = ?, state = ?, created_at = ?, record = ? WHERE id = ?",
                (last_seq, record.owner, record.state, record.created_at, text, session),
            )
        connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
            [(session, event.seq, event.type, event.turn_id, b"" if _large(event) else event.data) for event in events],
        )
        connection.executemany(
            "INSERT INTO large_events (session, seq, data) VALUES (?, ?, ?)",
            [(session, event.seq, event.data) for event in events if _large(event)],
        )
        connection.executemany(
            "INSERT OR IGNORE INTO turns (session, turn_id, first_seq) VALUES (?, ?, ?)",
            [(session, turn_id, first_seq) for turn_id, first_seq in turns.items()],
        )
        for event in completes:
            connection.execute(
                "UPDATE turns SET last_seq = ?, ended_at = ? WHERE session = ? AND turn_id = ?",
                (event.seq, now(), session, event.turn_id),
            )
            connection.execute("INSERT OR IGNORE INTO packable VALUES (?)", (session,))

    return job


class History:
    """A reader of events. ``session`` is a session's number in the database."""

    def __init__(self) -> None:
        self._cache = BlockCache()

    def read_small(
        self, connection: sqlite3.Connection, session: int, after: int, limit: int
    ) -> Sequence[Event] | None:
        """Return a few of the events after ``after``, at least one if there is any, in a few milliseconds.

        None means that the next event may be large; see `read_large`. Not for two threads at once.
        """
        with _at_once(connection):
            block = _block_behind(connection, session, after)
            if block is None:
                return _small_rows(connection, session, after, limit, MAX_SEQ)
            if block.alone:
                return None
            start = max(0, after + 1 - block.first_seq)
            events = self._cache.get(session, block.last_seq, lambda: block.load(connection))
            return events[start : start + limit]


def read_large(connection: sqlite3.Connection, session: int, after: int, limit: int) -> Sequence[Event]:
    """Read as `History.read_small`, whatever the next event's size."""
    with _at_once(connection):
        block = _block_behind(connection, session, after)
        if block is None:
            return read_rows(connection, session, after, limit=limit)
        start = max(0, after + 1 - block.first_seq)
        return block.load(connection)[start : start + limit]


def read_rows(
    connection: sqlite3.Connection, session: int, after: int, *, limit: int = -1, last: int = MAX_SEQ
) -> list[Event]:
    """Return events that are not packed: at most a block's size, and at least one if there is any."""
    events = _small_rows(connection, session, after, limit, last)
    if events is None:
        large = connection.execute(
            "SELECT seq, type, turn_id, coalesce("
            " (SELECT data FROM large_events WHERE session = events.session AND seq = events.seq), data"
            ") FROM events WHERE session = ? AND seq > ? ORDER BY seq LIMIT 1",
            (session, after),
        )
        events = [Event(*row) for row in large]
    return events


def _small_rows(connection: sqlite3.Connection, session: int, after: int, limit: int, last: int) -> list[Event] | None:
    """Read as `read_rows`, or return None if the next event is larger than a block."""
    rows = connection.execute(
        "SELECT seq, type, turn_id, data FROM events WHERE session = ? AND seq > ? AND seq <= ? ORDER BY seq LIMIT ?",
        (session, after, last, limit),
    )
    events: list[Event] = []
    size = 0
    for row in rows:
        event = Event(*row)
        if not event.data:
            return events or None
        size += len(event.data)
        if size > BLOCK_BYTES and events:
            break
        events.append(event)
    return events


def _large(event: Event) -> bool:
    return len(event.data) > BLOCK_BYTES


@dataclass(frozen=True, slots=True)
class _Block:
    id: int
    first_seq: int
    last_seq: int

    @property
    def alone(self) -> bool:
        """Tell whether it contains only one event, which may be of any size."""
        return self.first_seq == self.last_seq

    def load(self, connection: sqlite3.Connection) -> list[Event]:
        (data,) = connection.execute("SELECT data FROM blocks WHERE id = ?", (self.id,)).fetchone()
        return unpack(self.first_seq, data)


def _block_behind(connection: sqlite3.Connection, session: int, after: int) -> _Block | None:
    """Find the block that contains the next event."""
    row = connection.execute(
        "SELECT id, first_seq, last_seq FROM blocks WHERE session = ? AND last_seq > ? ORDER BY last_seq LIMIT 1",
        (session, after),
    ).fetchone()
    return None if row is None else _Block(*row)


@contextmanager
def _at_once(connection: sqlite3.Connection) -> Iterator[None]:
    """Read in one transaction: packing goes on meanwhile, and moves events from rows to blocks."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        connection.execute("COMMIT")
