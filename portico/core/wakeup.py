"""A signal for one task that waits, and a signal for many."""

from __future__ import annotations

import anyio


class Wakeup:
    """A signal for one task. It stays set until a wait; if set twice before that, it still wakes only once."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


class Broadcast:
    """A signal for all tasks that wait at this moment; a task that waits later does not get it."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def tell(self) -> None:
        told, self._event = self._event, anyio.Event()
        told.set()

    async def wait(self) -> None:
        await self._event.wait()
