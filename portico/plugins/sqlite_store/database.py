"""Opening the file, and migrating it to the format that this code knows."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Literal

from portico.core.errors import StoreFailed
from portico.plugins.sqlite_store.sqlite_failures import Damaged, store_failed

Sync = Literal["normal", "full"]

OPEN_SECONDS = 5.0
"""Seconds that the opening waits for another program's lock."""

_APPLICATION_ID = 0x506F7274
_HEADER_BYTES = 100
_LOG_FILE_BYTES = 16 * 1024**2  # the space that a large transaction added is given back
_CODES = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "store_read_only"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "store_full"),
}


def open_database(path: Path, *, sync: Sync, migrations: Mapping[int, Sequence[str]]) -> sqlite3.Connection:
    """Open a connection for writing to the file, which is created (mode 0600) if it does not exist.

    A large file takes no longer: nothing is scanned, and damage inside shows when it is read. The connection may be
    used by one thread after another. Raises `StoreFailed`, also ``store_too_new``. A file of a newer format, or of
    another program, stays exactly as it is.
    """
    try:
        if path.is_file():
            _look(path, migrations)
        _make_private(path)
    except OSError as error:
        code = _CODES.get(error.errno or 0, "store_failed")
        detail = f"{path} cannot be opened: {error.strerror}; check it, its folder and its disk"
        raise StoreFailed(detail, code=code) from error
    connection = None
    try:
        connection = _connect(path, "mode=rw")
        _check(connection, path, migrations)
        connection.execute(
            "PRAGMA auto_vacuum = INCREMENTAL"
        )  # only a new file takes it, and only before its first table
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer does it, off the event loop
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_FILE_BYTES}")
        connection.execute(f"PRAGMA synchronous = {sync}")
        _migrate(connection, path, migrations)
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise store_failed(error, path) from error
        raise
    connection.execute("PRAGMA busy_timeout = 0")
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a further connection, which reads while the first one writes. Raises `StoreFailed`."""
    try:
        connection = _connect(path, "mode=rw")
        connection.execute("PRAGMA query_only = ON")
        connection.execute("PRAGMA busy_timeout = 0")
    except sqlite3.Error as error:
        raise store_failed(error, path) from error
    return connection


def _make_private(path: Path) -> None:
    # Never open an existing file: closing any descriptor of it would drop SQLite's own locks (fcntl(2)).
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)


def _look(path: Path, migrations: Mapping[int, Sequence[str]]) -> None:
    """Check the file without writing to it. A connection that may write would move the log into it when it closes.

    If the file can't be checked this way, `open_database` finds the error and reports it.
    """
    beside = [path.with_name(path.name + suffix).exists() for suffix in ("-journal", "-wal", "-shm")]
    match beside:
        case [True, _, _]:
            return  # an interrupted transaction from before the log was switched on: the file is still empty
        case [_, False, _]:
            how = "mode=ro&immutable=1"  # all data is in the file; otherwise an empty log would be made
        case [_, _, True]:
            how = "mode=ro&readonly_shm=1"
        case _:
            how = "mode=ro"  # somebody copied the log without its index, which is made anew
    with suppress(sqlite3.Error), closing(_connect(path, how)) as connection:
        _check(connection, path, migrations)


def _connect(path: Path, how: str) -> sqlite3.Connection:
    """Connect; ``how`` is the query of a URI (https://www.sqlite.org/uri.html)."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?{how}",
        uri=True,
        timeout=OPEN_SECONDS,
        isolation_level=None,
        check_same_thread=False,
    )


def _check(connection: sqlite3.Connection, path: Path, migrations: Mapping[int, Sequence[str]]) -> int:
    """Return the format of the database. Raises `StoreFailed` if another program or a newer version wrote it."""
    if 0 < path.stat().st_size < _HEADER_BYTES:  # SQLite would take it for an empty one
        raise Damaged("the header is cut short")
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (things,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != _APPLICATION_ID and things:
        raise StoreFailed(f"{path} is a database of another program; move it away", code="store_damaged")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > max(migrations, default=0):
        detail = (
            f"{path} was written by a newer version (format {version}; this one knows {max(migrations, default=0)})"
        )
        raise StoreFailed(f"{detail}; install that version again", code="store_too_new")
    return int(version)


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Mapping[int, Sequence[str]]) -> None:
    """Take all missing steps, or none. The lock for writing is always taken; it also shows if writing is possible."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        missing = sorted(number for number in migrations if number > _check(connection, path, migrations))
        for number in missing:
            for statement in migrations[number]:
                connection.execute(statement)
        if missing:
            connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {missing[-1]}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
