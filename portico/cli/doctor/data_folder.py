"""Check that the data folder can be written, but not by others, and that there is room."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from pathlib import Path

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.core.errors import Unavailable
from portico.server.data_format import check_format

NEEDED, GOOD = 50 * 1024**2, 1024**3
"""Bytes that must be free: for a start, and for a while."""

_ELSEWHERE = "choose another folder with PORTICO_DATA_DIR"


async def check(place: Place) -> Finding:
    return await anyio.to_thread.run_sync(_look, place.settings.data_dir)


def _look(data_dir: Path) -> Finding:
    there = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    if not there.is_dir():
        return failure(f"{there} is no folder", _ELSEWHERE)
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return failure(f"{there} can't be written: {error.strerror}", f"give it to this user, or {_ELSEWHERE}")
    try:
        check_format(data_dir)
    except OSError as error:
        return failure(f"{data_dir / 'format'} can't be read: {error.strerror}", "give it to this user")
    except Unavailable as error:
        problem, _, remedy = error.detail.partition("; ")
        return failure(problem, remedy)
    free = shutil.disk_usage(there).free
    room = f"{free // 1024**2} MiB are free"
    if free < NEEDED:
        return failure(f"{data_dir}: only {room}", f"make room, or {_ELSEWHERE}")
    if free < GOOD:
        return warning(f"{data_dir}: only {room}", f"make room, {_ELSEWHERE}, or set PORTICO_RETENTION_MB")
    if there != data_dir:
        return ok(f"{data_dir} will be made; {room}")
    status = data_dir.stat()
    if status.st_uid != os.geteuid():
        return failure(f"{data_dir} is another user's (uid {status.st_uid})", f"chown it, or {_ELSEWHERE}")
    if (mode := stat.S_IMODE(status.st_mode)) & 0o077:
        return warning(f"others may enter {data_dir} (mode {mode:04o}); the server closes it", f"chmod 700 {data_dir}")
    return ok(f"{data_dir} can be written; {room}")
