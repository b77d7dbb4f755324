"""The streams that are open in one server, so that it can end them when it stops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from anyio import CancelScope, current_time

from portico.core.events import Event
from portico.core.reader import Reader

FINISH_SECONDS = 3.0
"""For streams to end by themselves at a stop; then they are cut, whoever is at their other end."""


class Streams:
    def __init__(self) -> None:
        self.stopped = False
        self._reading: set[Reader] = set()
        self._waiting: set[CancelScope] = set()
        self._finishing: set[CancelScope] = set()

    async def read(self, reader: Reader) -> Sequence[Event]:
        """As `Reader.read`; also over once this server stops."""
        if self.stopped:
            return ()
        self._reading.add(reader)  # no cancel scope: this is done for each event and each viewer
        try:
            return await reader.read()
        finally:
            self._reading.discard(reader)

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

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """What is in here outlives the cancellation of the server, and is cut `FINISH_SECONDS` after `stop`.

        For transports whose connections are tasks of their own: whoever cancels them is to call `stop`.
        """
        with CancelScope(shield=True) as scope:
            if self.stopped:
                scope.cancel()
            self._finishing.add(scope)
            try:
                yield
            finally:
                self._finishing.remove(scope)

    def stop(self) -> None:
        """Let every stream end, in order, as soon as it has sent what it holds."""
        self.stopped = True
        for scope in self._finishing:
            scope.deadline = current_time() + FINISH_SECONDS
        for reader in self._reading:
            reader.stop()
        for scope in self._waiting:
            scope.cancel()
