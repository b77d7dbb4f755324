"""Moving the events of finished turns from rows into blocks."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from portico.core.events import Event

_FINISHED = """
    SELECT max(last_seq), max(ended_at, coalesce(
        (SELECT ended_at FROM blocks WHERE session = ?1 ORDER BY last_seq DESC LIMIT 1), 0
    ))
    FROM (
        SELECT max(last_seq) AS last_seq, max(ended_at) AS ended_at FROM turns
        WHERE session = ?1
            AND last_seq >= (SELECT min(seq) FROM events WHERE session = ?1)
            AND last_seq < coalesce((SELECT min(first_seq) FROM turns WHERE session = ?1 AND last_seq IS NULL), 1 << 62)
    )
"""


def next_session(connection: sqlite3.Connection, after: int) -> int | None:
    """Return the number of the next session in which turns have ended since it was packed."""
    found: tuple[int | None] = connection.execute(
        "SELECT min(session) FROM packable WHERE session > ?", (after,)
    ).fetchone()
    return found[0]


def finished(connection: sqlite3.Connection, session: int) -> tuple[int, float] | None:
    """Return the event up to which rows can be packed, and the time when the last turn among them ended.

    That event is the last ``complete`` before the first turn that still runs. The time never runs backwards within a
    session, so that the oldest blocks of all are always the first ones of their sessions.
    """
    last_seq, ended_at = connection.execute(_FINISHED, (session,)).fetchone()
    return None if last_seq is None else (last_seq, ended_at)


def replace_rows(
    connection: sqlite3.Connection, session: int, events: Sequence[Event], data: bytes, ended_at: float
) -> None:
    """Replace the rows of ``events`` with the block ``data``. Do nothing if the rows have been deleted meanwhile."""
    first_seq, last_seq = events[0].seq, events[-1].seq
    removed = connection.execute(
        "DELETE FROM events WHERE session = ? AND seq BETWEEN ? AND ?", (session, first_seq, last_seq)
    ).rowcount
    connection.execute(
        "DELETE FROM large_events WHERE session = ? AND seq BETWEEN ? AND ?", (session, first_seq, last_seq)
    )
    if removed == len(events):
        connection.execute(
            "INSERT INTO blocks (session, first_seq, last_seq, ended_at, size, data) VALUES (?, ?, ?, ?, ?, ?)",
            (session, first_seq, last_seq, ended_at, len(data), data),
        )


def mark_packed(connection: sqlite3.Connection, session: int, end: int) -> None:
    """Mark the turns up to ``end`` as packed. If others have ended meanwhile, the session stays in the queue."""
    connection.execute(
        "DELETE FROM packable WHERE session = ?1"
        " AND NOT EXISTS (SELECT 1 FROM turns WHERE session = ?1 AND last_seq > ?2)",
        (session, end),
    )
