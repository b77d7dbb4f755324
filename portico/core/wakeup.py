"""A level that one task waits for, and others raise."""

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
