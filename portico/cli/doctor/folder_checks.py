"""Checks of the folders and files that the server writes."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

import anyio.to_thread

from portico.cli.doctor.finding import Finding, Place, failure, ok, warning
from portico.core.errors import Unavailable
from portico.core.roots import root_troubles
from portico.server.data_format import check_format

NEEDED, GOOD = 50 * 1024**2, 1024**3
"""Bytes that must be free: for a start, and for a while."""

_ELSEWHERE = "choose another folder with PORTICO_DATA_DIR"


async def check_data_folder(place: Place) -> Finding:
    """Check that the data folder has room, and can be written by this user and nobody else."""
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


async def check_workspaces(place: Place) -> Finding:
    """Check that workspaces can be made, and that the folders clients may name are of use, and closed to others."""
    settings = place.settings
    private = settings.sandbox in ("bubblewrap", "required")
    found = await anyio.to_thread.run_sync(
        lambda: list(root_troubles(settings.data_dir, settings.workspace_roots, private=private))
    )
    if not found:
        return ok(f"sessions work in {', '.join(map(str, settings.workspace_roots))}, which others may not enter")
    text = "; ".join(trouble.text for trouble in found)
    remedy = "; ".join(dict.fromkeys(trouble.remedy for trouble in found))
    return failure(text, remedy) if any(trouble.fatal for trouble in found) else warning(text, remedy)


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


async def check_lease(place: Place) -> Finding:
    """Check that no other server is on this data folder."""
    data_dir = place.settings.data_dir
    try:
        process = holder(data_dir)
    except OSError as error:
        return failure(f"{data_dir / 'lock'} can't be used: {error.strerror}", "give it to this user")
    if process is None:
        return ok("no server is on the data folder")
    fix = "to start a second one, give it a folder of its own with PORTICO_DATA_DIR"
    return warning(f"a server is on the data folder already: process {process}", fix)


async def check_audit_log(place: Place) -> Finding:
    """Check that the audit log can be written."""
    path = place.settings.audit_log
    if path is None:
        return ok("no audit log is kept (audit_log=off)")
    if path.parent == place.settings.data_dir:
        return ok(f"it is kept in {path}")  # the data folder has a check of its own
    target = path if path.exists() else path.parent
    if path.is_dir() or not os.access(target, os.W_OK):
        return failure(f"the audit log can't be written to {path}", f"make {path.parent}, writable for this user")
    return ok(f"it is kept in {path}")
