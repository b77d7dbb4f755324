"""Pages of sessions, newest first."""

from __future__ import annotations

import binascii
import json
import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode

from portico.core.errors import InvalidRequest
from portico.core.store import LIST_BYTES, SessionRecord
from portico.plugins.sqlite_store.records import decode_record

Position = tuple[str, str]
"""The end of a page: creation time and id of its last session. A number would be wrong once sessions come or go."""


def read_page(
    connection: sqlite3.Connection, *, owner: str | None, state: str | None, limit: int, before: Position | None
) -> tuple[list[SessionRecord], Position | None]:
    """Return at most ``limit`` sessions after ``before``, and the position of the last one if more follow.

    A page ends early after `LIST_BYTES` of records.
    """
    wanted = {"owner = ?": owner, "state = ?": state}
    conditions = [condition for condition, value in wanted.items() if value is not None]
    values = [value for value in wanted.values() if value is not None]
    if before is not None:
        conditions.append("(created_at, session_id) < (?, ?)")
        values += before
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    rows = connection.execute(
        f"SELECT record, last_seq, created_at, session_id FROM sessions {where}"  # noqa: S608 - literals only
        " ORDER BY created_at DESC, session_id DESC LIMIT ?",
        (*values, limit + 1),
    )
    records: list[SessionRecord] = []
    size = 0
    end: Position | None = None
    for text, last_seq, *position in rows:
        size += len(text)
        if records and (len(records) == limit or size > LIST_BYTES):
            return records, end
        records.append(decode_record(text, last_seq))
        end = position[0], position[1]
    return records, None


def encode_cursor(position: Position) -> str:
    return urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> Position:
    """Decode a cursor. Raises `InvalidRequest` (``invalid_cursor``)."""
    try:
        match json.loads(urlsafe_b64decode(cursor.encode() + b"=" * (-len(cursor) % 4))):
            case [str(created_at), str(session_id)]:
                (created_at + session_id).encode()  # SQLite takes no half of a surrogate pair as text
                return created_at, session_id
    except (ValueError, RecursionError, binascii.Error):
        pass
    raise InvalidRequest("the cursor is none that this server has given", code="invalid_cursor")
