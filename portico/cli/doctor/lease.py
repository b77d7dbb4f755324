"""Check for another server on this data folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning


def holder(data_dir: Path) -> str | None:
    """Return the process with the lease on the data folder, or None if there is none. Raises OSError."""
    try:
        lock = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(lock, 64, 0).decode(errors="replace").strip() or "unknown"
    finally:
        os.close(lock)
    return None


async def check(place: Place) -> Finding:
    data_dir = place.settings.data_dir
    try:
        process = holder(data_dir)
    except OSError as error:
        return failure(f"{data_dir / 'lock'} can't be used: {error.strerror}", "give it to this user")
    if process is None:
        return ok("no server is on the data folder")
    mend = "to start a second one, give it a folder of its own with PORTICO_DATA_DIR"
    return warning(f"a server is on the data folder already: process {process}", mend)
