"""Everybody around a transport under test: a client that watches, a server, a store, an engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from inspect import iscoroutinefunction
from types import coroutine
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus

from portico.core.engine import Engine
from portico.core.events import Event
from portico.core.store import READ_BYTES
from portico.plugins.memory_store.store import MemoryStore
from portico.testing.following import Followed, bounded
from portico.testing.transport.transport_client import KNOWN, ROOT, TransportClient
from portico.transports.base import Transport


class Watch(Followed[Mapping[str, Any]]):
    """The events that a client has seen."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self._reading = anyio.CancelScope()

    async def run(self, client: AbstractAsyncContextManager[TransportClient], session_id: str, after: int) -> None:
        with self._until_over():
            async with client as connected:
                with self._reading:  # so that whatever ends the reading, the client is left in peace
                    async for event in connected.events(session_id, after):
                        self._add(event)

    def _waiting_for(self, what: str) -> str:
        return f"waiting for {what} (the client has seen {len(self.events)} events)"

    def _fail_without(self, what: str) -> NoReturn:
        raise self.failure or AssertionError(f"the events ended before {what}")

    async def seq(self, seq: int) -> None:
        await self.until(lambda event: event.get("seq") == seq, f"event {seq}")

    async def of_type(self, kind: str) -> Mapping[str, Any]:
        return await self.until(lambda event: event["type"] == kind, f"an event of the type {kind}")

    async def content(self, content: str) -> None:
        await self.until(lambda event: event.get("content") == content, f"the text {content!r}")

    async def end(self, what: str) -> None:
        with bounded(self._seconds, f"the end of the events after {what}"):
            await self.over.wait()
        if self.failure is not None:
            raise AssertionError(f"the events did not end in order after {what}: {self.failure!r}") from self.failure

    async def leave(self) -> None:
        self._reading.cancel()
        with bounded(self._seconds, "the client's leaving"):
            await self.over.wait()


@dataclass(slots=True)
class Server:
    """A transport that serves, at ``address``."""

    engine: Engine
    address: str
    scope: anyio.CancelScope
    stopped: anyio.Event
    seconds: float

    async def stop(self) -> None:
        self.scope.cancel()
        with bounded(self.seconds, "the end of serve() after its cancellation"):
            await self.stopped.wait()

    async def history(self, session_id: str = "s") -> list[Mapping[str, Any]]:
        """All events that are stored."""
        events: list[Mapping[str, Any]] = []
        more = True
        while more:
            page, more = await self.engine.history(KNOWN[ROOT], session_id, after=len(events), limit=1000)
            events += [json.loads(event.data) for event in page]
        return events

    async def rested(self, turn_id: str, session_id: str = "s") -> list[Mapping[str, Any]]:
        """All events that are stored once the turn is over and the session at rest."""
        with bounded(self.seconds, f"the end of the turn {turn_id}"):
            reader = await self.engine.reader(KNOWN[ROOT], session_id, turn_id=turn_id)
            while await reader.read():
                pass
            reader = await self.engine.reader(KNOWN[ROOT], session_id, after=reader.after)
            while (await self.engine.session(KNOWN[ROOT], session_id))["state"] != "idle":
                await reader.read()
        return await self.history(session_id)


class CopyingStore(MemoryStore):
    """As stores are that read from a disk: who holds back what was read needs memory for it."""

    async def read(self, session_id: str, after: int, limit: int, max_bytes: int = READ_BYTES) -> Sequence[Event]:
        events = await super().read(session_id, after, limit, max_bytes)
        return [replace(event, data=bytes(bytearray(event.data))) for event in events]


class HoldingEngine:
    """An engine of which one call returns only once ``released`` is set: the last of the next ``left`` ones."""

    left = 0

    def __init__(self, engine: Engine) -> None:
        self.reached = anyio.Event()
        self.released = anyio.Event()
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._engine, name)
        if not iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = await found(*args, **kwargs)
            self.left -= 1
            if self.left == 0:
                self.reached.set()
                await self.released.wait()
            return result

        return call


async def serve_until_cancelled(transport: Transport, engine: Engine, *, task_status: TaskStatus[str]) -> None:
    await transport.serve(engine, task_status=task_status)


class StartStatus:
    up = False

    def started(self, value: object = None) -> None:
        self.up = True


@coroutine
def cancelled_at(step: int, started: Coroutine[Any, Any, None], scope: anyio.CancelScope) -> Iterator[Any]:
    """Do what the coroutine does, and cancels ``scope`` as it waits for the ``step``-th time."""
    go_on: Callable[[Any], Any] = started.send
    given: Any = None
    while True:
        try:
            waited_for = go_on(given)
        except StopIteration:
            return
        step -= 1
        if step == 0:
            scope.cancel()
        try:
            go_on, given = started.send, (yield waited_for)
        except BaseException as thrown:
            go_on, given = started.throw, thrown
