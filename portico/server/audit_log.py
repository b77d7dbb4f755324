"""The audit log: a file of JSON lines, one for each change that somebody made or was refused."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskStatus

from portico.config.settings import Settings
from portico.core.audit import OK, About
from portico.core.clock import rfc3339
from portico.core.errors import Unavailable
from portico.core.principal import Principal
from portico.core.source import Source
from portico.core.threads import in_thread
from portico.core.wakeup import Wakeup

MAX_BYTES = 64 * 1024 * 1024
"""The largest size of the file. Then it is renamed and replaces the one earlier file."""
MAX_WAITING = 10_000
"""Lines that may wait for a slow disk; more than these are lost, and counted."""
MAX_TEXT = 256
"""The longest text of a value, which may be anything that a client has sent."""

log = logging.getLogger("portico.audit")


class AuditLog:
    """An implementation of `portico.core.audit.Audit`: it takes lines at once on the event loop, and writes in a
    thread.

    Lines that can't be written are lost, and counted in the next line that can be. That does not stop the server:
    otherwise whoever fills the disk would stop the service.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._waiting: deque[bytes] = deque()
        self._wakeup = Wakeup()
        self._lost = 0
        self._failing = False
        self._growing = False
        self._file: int | None = None

    def check(self) -> None:
        """Open the file. Raises `Unavailable` if it can't be written at all. Blocks; only for the start."""
        try:
            self._file = _opened(self._path)
        except OSError as error:
            raise Unavailable(f"audit_log: {self._path} can't be written: {_reason(error)}") from None

    def note(
        self,
        action: str,
        outcome: str,
        principal: Principal | None = None,
        source: Source | None = None,
        **about: About,
    ) -> None:
        source = source or (principal.source if principal else None)
        line: dict[str, Any] = {
            "time": rfc3339(),
            "action": action,
            "outcome": outcome,
            "principal": principal.name if principal else None,
            **about,
            "from": _told(asdict(source)) if source else None,
        }
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(_line(_told(line)))
        else:
            self._lost += 1
        self._wakeup.set()

    def reopen(self, settings: Settings) -> None:
        """Log the reload. Nothing else is needed: if the file was removed, the next write makes it anew."""
        self.note("settings.reload", OK)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled, and then write the rest."""
        task_status.started()
        try:
            while True:
                await self._wakeup.wait()
                await self._write_all()
        finally:
            with anyio.CancelScope(shield=True):
                await self._write_all()
            if self._file is not None:
                os.close(self._file)

    async def _write_all(self) -> None:
        lines = list(self._waiting)
        if self._lost:
            lines.append(_line({"time": rfc3339(), "action": "audit.lost", "outcome": OK, "count": self._lost}))
        if not lines:
            return
        lost, count = self._lost, len(self._waiting)
        try:
            await in_thread(partial(self._write, b"".join(lines)))
        except OSError as error:
            if not self._failing:
                log.error("lines of the audit log are lost: %s: %s", self._path, _reason(error))
            self._failing = True
            self._lost += count
        else:
            if self._failing:
                log.warning("the audit log is written again; %d lines were lost", lost)
            self._failing = False
            self._lost -= lost
        for _ in range(count):
            self._waiting.popleft()

    def _write(self, lines: bytes) -> None:
        """Write all of ``lines``, or nothing. If the file was removed (logrotate), it is made anew."""
        file = self._current()
        before = os.fstat(file).st_size
        try:
            view = memoryview(lines)
            while view:
                view = view[os.write(file, view) :]
        except OSError:
            os.ftruncate(file, before)
            raise
        if before + len(lines) >= self._max_bytes:
            self._set_aside()

    def _set_aside(self) -> None:
        try:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        except OSError as error:  # in another user's folder, say; the lines are written all the same
            if not self._growing:
                log.error("the audit log grows on, as it can't be renamed: %s: %s", self._path, _reason(error))
            self._growing = True
        else:
            self._growing = False

    def _current(self) -> int:
        if self._file is not None:
            held = os.fstat(self._file)
            try:
                there = self._path.lstat()
            except FileNotFoundError:
                there = None
            if there is not None and (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino):
                return self._file
            os.close(self._file)
            self._file = None
        self._file = _opened(self._path)
        return self._file


def _opened(path: Path) -> int:
    # Open no symbolic link, and nothing that waits for a reader.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(path, flags, 0o600)
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no file")
        if status.st_size and os.pread(file, 1, status.st_size - 1) != b"\n":
            os.write(file, b"\n")  # a killed server left this line unfinished
    except BaseException:
        os.close(file)
        raise
    return file


def _line(members: Mapping[str, Any]) -> bytes:
    # ASCII, with everything else escaped: nothing that a client sends can end or begin a line.
    return json.dumps(members, separators=(",", ":")).encode() + b"\n"


def _told(members: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``members`` that are known, with long texts cut."""
    cut = {name: value[:MAX_TEXT] if isinstance(value, str) else value for name, value in members.items()}
    return {name: value for name, value in cut.items() if value is not None}


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
