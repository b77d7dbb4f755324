"""A level that one task waits for and others raise, and news that many wait for."""

from __future__ import annotations

import anyio


class Wakeup:
    """Raising it twice before it is waited for wakes once; it is lowered by waking."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


class Broadcast:
    """News for everybody who waits at this moment; what was told before nobody hears."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def tell(self) -> None:
        told, self._event = self._event, anyio.Event()
        told.set()

    async def wait(self) -> None:
        await self._event.wait()
