"""SQLite's errors, in words that say what to do."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from portico.core.errors import StoreFailed


class Damaged(sqlite3.DatabaseError):
    """The error for data that this program did not write."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def store_failed(error: sqlite3.Error, path: Path) -> StoreFailed:
    """Make the `StoreFailed` for ``error``: ``store_full``, ``store_read_only``, ``store_damaged``, ``store_busy``, or
    else ``store_failed`` (result codes: https://www.sqlite.org/rescode.html)."""
    match _primary_code(error):
        case sqlite3.SQLITE_FULL:
            return StoreFailed(f"the disk of {path} is full; free some space", code="store_full")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
            return StoreFailed(f"{path} cannot be written; check it, its folder and its disk", code="store_read_only")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            detail = f"{path} is damaged, or no database; put a copy of it there, or move it away to begin anew"
            return StoreFailed(detail, code="store_damaged")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED | sqlite3.SQLITE_PROTOCOL:
            return StoreFailed(f"another program has locked {path}; end that one", code="store_busy")
    return StoreFailed(f"{path} failed: {error}")


def is_busy(error: sqlite3.Error) -> bool:
    """Tell whether the error only means that another program has to finish first."""
    return _primary_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _primary_code(error: sqlite3.Error) -> int:
    if str(error).startswith("Could not decode to UTF-8"):  # raised by Python's module, without a code
        return sqlite3.SQLITE_CORRUPT
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
