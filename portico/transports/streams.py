"""The streams that are open in one server, so that it can end them when it stops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from anyio import CancelScope, current_time, sleep

from portico.core.events import Event
from portico.core.quota import StreamQuota
from portico.core.reader import Reader
from portico.metrics.metrics import OTHER, Metrics
from portico.transports import wire
from portico.transports.caller import Caller
from portico.transports.cutter import Cutter

FINISH_SECONDS = 3.0
"""The time for streams to end by themselves at a stop; then they are cut, whatever their clients do."""
RECHECK_SECONDS = 5.0
"""The time between two checks that the readers' callers are still let in."""

T = TypeVar("T")


class Latest(Generic[T]):
    """A function that remembers its last result: all who follow a session live pass it the same list."""

    def __init__(self, function: Callable[[Sequence[Any]], T]) -> None:
        self._function = function
        self._given: Sequence[Any] = ()
        self._result: T | None = None

    def __call__(self, given: Sequence[Any]) -> T:
        if given is not self._given or self._result is None:
            self._given, self._result = given, self._function(given)
        return self._result


class Streams:
    """The open streams of one server. ``quota`` is that of the whole server; None: without a limit."""

    def __init__(self, quota: StreamQuota | None = None, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self.chores: list[Callable[[], None]] = []
        """Functions that `watch` calls every few seconds."""
        self.stopped = False
        self.hold = (quota or StreamQuota()).hold
        self.frames = Latest(wire.frames)
        self.texts = Latest(_texts)
        self.cutter = Cutter()
        self._following: dict[Reader, Caller | None] = {}
        self._admitted: dict[CancelScope, Caller] = {}
        self._waiting: set[CancelScope] = set()
        self._finishing: set[CancelScope] = set()

    @contextmanager
    def following(self, reader: Reader, kind: str = OTHER, caller: Caller | None = None) -> Iterator[None]:
        """Within the context, stop ``reader`` as soon as this server stops, or ``caller`` would no longer be let in.

        ``kind`` of stream is sse or websocket.
        """
        if self.stopped:
            reader.stop()
        self._following[reader] = caller
        try:
            with self._metrics.stream(kind):
                yield
        finally:
            del self._following[reader]

    @contextmanager
    def admitted(self, caller: Caller | None) -> Iterator[None]:
        """Cancel the body as soon as ``caller`` would no longer be let in.

        This is for streams that also listen to their client. To stop the reader would not be enough: a client that
        reads slowly, or asks for another reader, would be heard until it lets the connection end.
        """
        with CancelScope() as scope:
            if caller is not None:
                self._admitted[scope] = caller
            try:
                yield
            finally:
                self._admitted.pop(scope, None)

    async def watch(self) -> None:
        """End the streams of callers whose credentials are no longer valid, and do the chores, until cancelled."""
        while True:
            await sleep(RECHECK_SECONDS)
            for chore in self.chores:
                chore()
            found: dict[str, bool] = {}
            for caller in [*self._following.values(), *self._admitted.values()]:
                if caller is None or caller.credential is None:
                    continue
                if caller.credential not in found:
                    found[caller.credential] = await caller.still()
                caller.over = caller.over or not found[caller.credential]
            for reader, caller in self._following.items():
                if caller is not None and caller.over:
                    reader.stop()
            for scope, caller in self._admitted.items():
                if caller.over:
                    scope.cancel()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Cancel the body as soon as this server stops, like a `CancelScope`."""
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
        """Shield the body from the cancellation of the server, and cancel it `FINISH_SECONDS` after `stop`.

        This is for transports whose connections are tasks of their own. Whoever cancels those must call `stop`.
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
        """Let every stream end in order, as soon as it has sent the events that it has."""
        self.stopped = True
        for scope in self._finishing:
            scope.deadline = current_time() + FINISH_SECONDS
        for reader in self._following:
            reader.stop()
        for scope in self._waiting:
            scope.cancel()


def _texts(events: Sequence[Event]) -> list[bytes]:
    return [event.data for event in events]
