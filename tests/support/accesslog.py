"""The server's access log, to wait on: its line says that a request, and all that served it, is over."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import anyio


class AccessLines(logging.Handler):
    """The records so far, and a way to wait for more. Only on the loop that logs."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._changed = anyio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def wait(self, path: str, count: int = 1) -> logging.LogRecord:
        """The ``count``th record of ``path``."""
        while len(found := [record for record in self.records if record.__dict__["path"] == path]) < count:
            await self._changed.wait()
        return found[count - 1]


@contextmanager
def access_lines() -> Iterator[AccessLines]:
    log, lines = logging.getLogger("portico.access"), AccessLines()
    before = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(lines)
        log.setLevel(before)
