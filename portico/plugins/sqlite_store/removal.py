"""Deletion of old blocks, and of everything that belongs to a deleted session. Every function is one short step."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

STEP_BLOCKS = 16

_REMOVE_SOME = (
    "DELETE FROM large_events WHERE id IN (SELECT id FROM large_events WHERE session = ?1 LIMIT 1)",
    "DELETE FROM events WHERE session = ?1 AND seq IN (SELECT seq FROM events WHERE session = ?1 LIMIT 1000)",
    "DELETE FROM blocks WHERE id IN (SELECT id FROM blocks WHERE session = ?1 LIMIT 16)",
    "DELETE FROM turns WHERE session = ?1 AND turn_id IN (SELECT turn_id FROM turns WHERE session = ?1 LIMIT 1000)",
    "DELETE FROM packable WHERE session = ?1",
    "DELETE FROM deleted WHERE session = ?1",
)


class OldBlock(NamedTuple):
    """A candidate for removal. ``kept`` is set on a block with its session's last event."""

    ended_at: float
    id: int
    size: int
    kept: bool


def forget_session(connection: sqlite3.Connection, session_id: str) -> None:
    """Delete the session itself; its events are left to `remove_some`."""
    connection.execute("INSERT INTO deleted SELECT id FROM sessions WHERE session_id = ?", (session_id,))
    connection.execute("DELETE FROM sessions WHERE session_id = ?", (session_id,))


def remove_some(connection: sqlite3.Connection) -> bool:
    """Remove some data of a deleted session; tell whether there was such a session."""
    found = connection.execute("SELECT session FROM deleted LIMIT 1").fetchone()
    if found is None:
        return False
    for statement in _REMOVE_SOME:
        if connection.execute(statement, found).rowcount:
            break
    return True


def block_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of all blocks, without the tables around them."""
    found: tuple[int] = connection.execute("SELECT coalesce(sum(size), 0) FROM blocks").fetchone()
    return found[0]


def oldest_blocks(connection: sqlite3.Connection, after: OldBlock | None) -> Sequence[OldBlock]:
    """Return the next few blocks after ``after``, oldest first."""
    position = (after.ended_at, after.id) if after else (float("-inf"), 0)
    rows = connection.execute(
        "SELECT ended_at, blocks.id, size, blocks.last_seq >= sessions.last_seq"
        " FROM blocks LEFT JOIN sessions ON sessions.id = blocks.session"
        " WHERE (ended_at, blocks.id) > (?, ?) ORDER BY ended_at, blocks.id LIMIT ?",
        (*position, STEP_BLOCKS),
    )
    return [OldBlock(*row) for row in rows]


def remove_blocks(connection: sqlite3.Connection, blocks: Sequence[OldBlock]) -> None:
    connection.executemany("DELETE FROM blocks WHERE id = ?", [(block.id,) for block in blocks])
