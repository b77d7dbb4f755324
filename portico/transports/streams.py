"""The streams that are open in one server, so that it can end them when it stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from anyio import CancelScope

from portico.core.events import Event
from portico.core.reader import Reader


class Streams:
    def __init__(self) -> None:
        self.stopped = False
        self._waiting: set[CancelScope] = set()

    async def read(self, reader: Reader) -> Sequence[Event]:
        """As `Reader.read`; also over once this server stops."""
        # Asked first: a read of what is there already never waits, and so could not be cancelled.
        if not self.stopped:
            with self.waiting():
                return await reader.read()
        return ()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """What is in here is left as soon as this server stops, as by a `CancelScope`."""
        with CancelScope() as scope:
            if self.stopped:
                scope.cancel()
            self._waiting.add(scope)
            try:
                yield
            finally:
                self._waiting.remove(scope)

    def stop(self) -> None:
        """Let every stream end, in order, as soon as it has sent what it holds."""
        self.stopped = True
        for scope in self._waiting:
            scope.cancel()
