"""The streams that are open in one server, so that it can end them when it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from anyio import CancelScope, current_time

from portico.core.events import Event
from portico.core.reader import Reader
from portico.metrics.metrics import OTHER, Metrics
from portico.transports import wire

FINISH_SECONDS = 3.0
"""For streams to end by themselves at a stop; then they are cut, whoever is at their other end."""


T = TypeVar("T")


class Latest(Generic[T]):
    """A function of the list that it was last given: whoever follows a session live is given the same one."""

    def __init__(self, function: Callable[[Sequence[Any]], T]) -> None:
        self._function = function
        self._given: Sequence[Any] = ()
        self._result: T | None = None

    def __call__(self, given: Sequence[Any]) -> T:
        if given is not self._given or self._result is None:
            self._given, self._result = given, self._function(given)
        return self._result


class Streams:
    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self.stopped = False
        self.frames = Latest(wire.frames)
        self.texts = Latest(_texts)
        self._following: set[Reader] = set()
        self._waiting: set[CancelScope] = set()
        self._finishing: set[CancelScope] = set()

    @contextmanager
    def following(self, reader: Reader, kind: str = OTHER) -> Iterator[None]:
        """In here ``reader`` is stopped as soon as this server stops. ``kind`` of stream: sse or websocket."""
        if self.stopped:
            reader.stop()
        self._following.add(reader)
        try:
            with self._metrics.stream(kind):
                yield
        finally:
            self._following.remove(reader)

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
        for reader in self._following:
            reader.stop()
        for scope in self._waiting:
            scope.cancel()


def _texts(events: Sequence[Event]) -> list[bytes]:
    return [event.data for event in events]
