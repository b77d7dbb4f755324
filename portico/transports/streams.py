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

FINISH_SECONDS = 3.0
"""For streams to end by themselves at a stop; then they are cut, whoever is at their other end."""
RECHECK_SECONDS = 5.0
"""Between two looks at whether who reads may still do so."""

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
    """``quota`` is that of the whole server; None: everybody may have as many as they like."""

    def __init__(self, quota: StreamQuota | None = None, metrics: Metrics | None = None) -> None:
        self._metrics = metrics or Metrics()
        self.stopped = False
        self.hold = (quota or StreamQuota()).hold
        self.frames = Latest(wire.frames)
        self.texts = Latest(_texts)
        self._following: dict[Reader, Caller | None] = {}
        self._admitted: dict[CancelScope, Caller] = {}
        self._waiting: set[CancelScope] = set()
        self._finishing: set[CancelScope] = set()

    @contextmanager
    def following(self, reader: Reader, kind: str = OTHER, caller: Caller | None = None) -> Iterator[None]:
        """In here ``reader`` is stopped as soon as this server stops, or ``caller`` would not be let in any more.

        ``kind`` of stream: sse or websocket.
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
        """What is in here is cancelled as soon as ``caller`` would not be let in any more.

        For whoever also listens to its client. The end of a reader would not be enough: a client that takes what it is
        sent slowly, or asks for another reader, would be heard until it lets the connection end.
        """
        with CancelScope() as scope:
            if caller is not None:
                self._admitted[scope] = caller
            try:
                yield
            finally:
                self._admitted.pop(scope, None)

    async def watch(self) -> None:
        """End what is done for callers whose credentials do not hold any more, until cancelled."""
        while True:
            await sleep(RECHECK_SECONDS)
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
