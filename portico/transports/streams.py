"""The streams that are open in one server, so that it can end them when it stops."""

from __future__ import annotations

from collections.abc import Sequence

from anyio import CancelScope

from portico.core.events import Event
from portico.core.reader import Reader


class Streams:
    def __init__(self) -> None:
        self._waiting: set[CancelScope] = set()
        self._stopped = False

    async def read(self, reader: Reader) -> Sequence[Event]:
        """As `Reader.read`; also over once this server stops."""
        if self._stopped:
            return ()
        with CancelScope() as scope:
            self._waiting.add(scope)
            try:
                return await reader.read()
            finally:
                self._waiting.remove(scope)
        return ()

    def stop(self) -> None:
        """Let every stream end, in order, as soon as it has sent what it holds."""
        self._stopped = True
        for scope in self._waiting:
            scope.cancel()
