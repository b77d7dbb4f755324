"""The tables, format by format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MIGRATIONS: Mapping[int, Sequence[str]] = {
    1: (
        # ``id`` is never used twice (AUTOINCREMENT): a reader of a deleted session never gets another session's events.
        # ``last_seq`` is the end of the history; the other columns beside ``record`` are copies for the indexes.
        """CREATE TABLE sessions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            session_id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            state TEXT NOT NULL,
            created_at TEXT NOT NULL,
            last_seq INTEGER NOT NULL,
            record TEXT NOT NULL
        )""",
        "CREATE INDEX sessions_newest ON sessions (created_at, session_id)",
        "CREATE INDEX sessions_of_owner ON sessions (owner, created_at, session_id)",
        "CREATE INDEX sessions_in_state ON sessions (state, created_at, session_id)",
        "CREATE INDEX sessions_of_owner_in_state ON sessions (owner, state, created_at, session_id)",
        # Turns stay when retention deletes their events: an old turn_id must not run twice. ``ended_at`` is in seconds
        # since 1970.
        """CREATE TABLE turns (
            session INTEGER NOT NULL,
            turn_id TEXT NOT NULL,
            first_seq INTEGER NOT NULL,
            last_seq INTEGER,
            ended_at REAL,
            PRIMARY KEY (session, turn_id)
        ) WITHOUT ROWID""",
        "CREATE INDEX turns_unfinished ON turns (session, first_seq) WHERE last_seq IS NULL",
        # A session's history: its blocks, in order, and then the events that are not packed yet.
        """CREATE TABLE blocks (
            id INTEGER PRIMARY KEY,
            session INTEGER NOT NULL,
            first_seq INTEGER NOT NULL,
            last_seq INTEGER NOT NULL,
            ended_at REAL NOT NULL,
            size INTEGER NOT NULL,
            data BLOB NOT NULL
        )""",
        "CREATE UNIQUE INDEX blocks_in_order ON blocks (session, last_seq)",
        "CREATE INDEX blocks_by_age ON blocks (ended_at, id, size)",
        """CREATE TABLE events (
            session INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            type TEXT NOT NULL,
            turn_id TEXT,
            data BLOB NOT NULL,
            PRIMARY KEY (session, seq)
        ) WITHOUT ROWID""",
        # Sessions in which turns have ended since they were packed, by ``sessions.id``.
        "CREATE TABLE packable (session INTEGER PRIMARY KEY)",
        # Sessions whose events are still to be removed, by ``sessions.id``.
        "CREATE TABLE deleted (session INTEGER PRIMARY KEY)",
    ),
    2: (
        # Data that is too large for ``events``, where ``data`` is then empty. That table is one B-tree: a search for
        # one row reads all the rows next to it.
        """CREATE TABLE large_events (
            id INTEGER PRIMARY KEY,
            session INTEGER NOT NULL,
            seq INTEGER NOT NULL,
            data BLOB NOT NULL
        )""",
        "CREATE UNIQUE INDEX large_events_in_order ON large_events (session, seq)",
    ),
}
"""The migrations: the statements under N bring a database from format N - 1 to format N, its new ``user_version``.
Released statements never change, and have a data folder in tests/fixtures/data_folders."""
