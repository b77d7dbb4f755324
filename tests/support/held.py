"""A store whose calls a test can hold, so that what comes in between does so every time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio

from portico.core.store import EventStore


class Hold:
    """One call that waits. ``reached`` is set once it does."""

    def __init__(self, nth: int, late: bool) -> None:
        self.reached = anyio.Event()
        self.nth = nth
        self.late = late
        self._released = anyio.Event()

    def release(self) -> None:
        self._released.set()

    async def wait(self) -> None:
        self.reached.set()
        await self._released.wait()


class Holds:
    """The holds of one store. ``store`` is the store to hand to an engine."""

    def __init__(self, store: EventStore) -> None:
        self.store = cast(EventStore, _HeldStore(store, self))
        self._due: dict[str, list[Hold]] = {}

    def hold(self, method: str, *, nth: int = 1, late: bool = False) -> Hold:
        """Hold the ``nth`` call of ``method`` from now on: before it is done, or, ``late``, before its caller learns
        what it has done."""
        hold = Hold(nth, late)
        self._due.setdefault(method, []).append(hold)
        return hold

    def take(self, method: str) -> Hold | None:
        found = None
        for hold in list(self._due.get(method, ())):
            hold.nth -= 1
            if hold.nth == 0:
                self._due[method].remove(hold)
                found = hold
        return found


class _HeldStore:
    def __init__(self, store: EventStore, holds: Holds) -> None:
        self._store = store
        self._holds = holds

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            hold = self._holds.take(name)
            if hold is not None and not hold.late:
                await hold.wait()
            result = await getattr(self._store, name)(*args, **kwargs)
            if hold is not None and hold.late:
                await hold.wait()
            return result

        return call
